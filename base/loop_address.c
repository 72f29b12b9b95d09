/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of listeners and peers as text: "unix:/path", "tcp:1.2.3.4:5", "tcp:[::1]:5". */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "base/loop_int.h"

static int parse_unix(const char *text, const char *path, struct net_address *ret, struct err *err)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	size_t length = strlen(path);
	if (length == 0)
		return err_set(err, -EINVAL, "address '%s' has no path", text);
	if (length >= sizeof(un.sun_path))
		return err_set(err, -EINVAL,
			       "address '%s': its path has %zu bytes, the limit is %zu", text,
			       length, sizeof(un.sun_path) - 1);
	memcpy(un.sun_path, path, length + 1);
	memset(&ret->storage, 0, sizeof(ret->storage));
	memcpy(&ret->storage, &un, sizeof(un));
	ret->bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
	ret->is_unix = true;
	ret->path = path;
	return 0;
}

static int parse_port(const char *text, uint16_t *ret)
{
	uint32_t port = 0;
	size_t length = strlen(text);
	if (length == 0 || length > 5)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		port = port * 10 + (uint32_t)(*text - '0');
	}
	if (port > 65535)
		return -EINVAL;
	*ret = (uint16_t)port;
	return 0;
}

static int parse_tcp(const char *text, const char *rest, struct net_address *ret, struct err *err)
{
	char host[INET6_ADDRSTRLEN + 1];
	uint16_t port;
	const char *colon = strrchr(rest, ':');
	bool bracket = rest[0] == '[';
	const char *start = rest + bracket;
	const char *end = bracket ? strchr(rest, ']') : colon;
	if (!colon || !end || (bracket && end + 1 != colon) ||
	    (size_t)(end - start) >= sizeof(host))
		return err_set(err, -EINVAL,
			       "address '%s' is not of the form tcp:HOST:PORT or tcp:[HOST]:PORT",
			       text);
	memcpy(host, start, (size_t)(end - start));
	host[end - start] = 0;
	if (parse_port(colon + 1, &port) < 0)
		return err_set(err, -EINVAL, "address '%s': port '%s' is not a number up to 65535",
			       text, colon + 1);
	struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	memset(&ret->storage, 0, sizeof(ret->storage));
	if (!bracket && inet_pton(AF_INET, host, &in4.sin_addr) == 1) {
		memcpy(&ret->storage, &in4, sizeof(in4));
		ret->bytes = sizeof(in4);
	} else if (bracket && inet_pton(AF_INET6, host, &in6.sin6_addr) == 1) {
		memcpy(&ret->storage, &in6, sizeof(in6));
		ret->bytes = sizeof(in6);
	} else {
		return err_set(err, -EINVAL, "address '%s': host '%s' is not a numeric address",
			       text, host);
	}
	ret->is_unix = false;
	ret->path = NULL;
	return 0;
}

int net_address_parse(const char *text, struct net_address *ret, struct err *err)
{
	struct net_address address;
	int rc;
	if (strncmp(text, "unix:", 5) == 0)
		rc = parse_unix(text, text + 5, &address, err);
	else if (strncmp(text, "tcp:", 4) == 0)
		rc = parse_tcp(text, text + 4, &address, err);
	else
		rc = err_set(err, -EINVAL, "address '%s' starts with neither 'unix:' nor 'tcp:'",
			     text);
	if (rc == 0)
		*ret = address;
	return rc;
}

void net_address_format(const struct sockaddr_storage *storage, char *buf, size_t buf_bytes)
{
	char host[INET6_ADDRSTRLEN] = "?";
	if (storage->ss_family == AF_INET) {
		struct sockaddr_in in4;
		memcpy(&in4, storage, sizeof(in4));
		inet_ntop(AF_INET, &in4.sin_addr, host, sizeof(host));
		snprintf(buf, buf_bytes, "tcp:%s:%u", host, ntohs(in4.sin_port));
	} else if (storage->ss_family == AF_INET6) {
		struct sockaddr_in6 in6;
		memcpy(&in6, storage, sizeof(in6));
		inet_ntop(AF_INET6, &in6.sin6_addr, host, sizeof(host));
		snprintf(buf, buf_bytes, "tcp:[%s]:%u", host, ntohs(in6.sin6_port));
	} else {
		snprintf(buf, buf_bytes, "unix:");
	}
}
