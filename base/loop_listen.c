/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listeners of the production loop.
 *
 * R1 A unix socket is created 0600 (its mode is set before bind(), so there is no moment when it
 *    is wider) and unlinked at close only if the path still names the socket we made.
 * R2 A path is replaced only when it is a socket that refuses connections: nobody listens there.
 * R3 Out of descriptors or memory, accepting pauses for 100 ms instead of spinning.
 * R4 A listener that is closed while its accept is with the kernel lives until that comes back,
 *    or until the loop is destroyed.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop_int.h"

#define BACKLOG         128
#define ACCEPT_PAUSE_NS 100000000u

struct env_listener {
	struct loop *loop;
	struct net_file file;
	struct net_op op;
	struct env_listener_cb cb;
	struct list link; /* loop->listeners */
	struct env_timer pause;
	bool is_unix;
	bool closing;
	struct listen_path path;
	char address[ADDRESS_TEXT_BYTES];
};

/* ---- binding ---- */

/* True when path is a socket that refuses connections. */
static bool socket_is_stale(const struct net_address *address)
{
	struct stat st;
	if (lstat(address->path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	bool stale = connect(fd, (const struct sockaddr *)&address->storage, address->bytes) < 0 &&
		     errno == ECONNREFUSED;
	close(fd);
	return stale;
}

static int listener_bind(int fd, const struct net_address *address)
{
	int one = 1;
	const struct sockaddr *name = (const struct sockaddr *)&address->storage;
	if (!address->is_unix)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)); /* bind tells */
	else if (fchmod(fd, 0600) < 0)                                             /* R1 */
		return -errno;
	if (bind(fd, name, address->bytes) == 0)
		return 0;
	int rc = -errno;
	if (rc != -EADDRINUSE || !address->is_unix || !socket_is_stale(address))
		return rc; /* not what the look at the socket left in errno */
	if (unlink(address->path) < 0 && errno != ENOENT)
		return -errno;
	return bind(fd, name, address->bytes) < 0 ? -errno : 0;
}

int net_listen_socket(const struct net_address *address)
{
	int fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int rc = listener_bind(fd, address);
	if (rc == 0 && listen(fd, BACKLOG) < 0) {
		rc = -errno;
		if (address->is_unix)
			(void)unlink(address->path); /* just bound by us */
	}
	if (rc < 0) {
		close(fd);
		return rc;
	}
	return fd;
}

void net_listen_name(int fd, const struct net_address *address, const char *text,
		     char buf[ADDRESS_TEXT_BYTES])
{
	struct sockaddr_storage bound;
	socklen_t bound_bytes = sizeof(bound);
	snprintf(buf, ADDRESS_TEXT_BYTES, "%s", text);
	if (!address->is_unix && getsockname(fd, (struct sockaddr *)&bound, &bound_bytes) == 0)
		net_address_format(&bound, buf, ADDRESS_TEXT_BYTES);
}

void listen_path_note(struct listen_path *path, const struct net_address *address)
{
	struct stat st;
	*path = (struct listen_path){0};
	if (!address->is_unix || lstat(address->path, &st) < 0)
		return;
	*path = (struct listen_path){.is_unix = true, .dev = st.st_dev, .ino = st.st_ino};
}

void listen_path_unlink(const struct listen_path *path, const char *address_text)
{
	struct stat st;
	const char *name = address_text + strlen("unix:");
	if (path->is_unix && lstat(name, &st) == 0 && st.st_dev == path->dev &&
	    st.st_ino == path->ino)
		(void)unlink(name); /* a stale one is replaced by the next who listens */
}

/* ---- accepting ---- */

static void peer_of(int fd, bool is_unix, struct env_peer *ret)
{
	struct ucred cred;
	socklen_t cred_bytes = sizeof(cred);
	struct sockaddr_storage storage = {0};
	socklen_t storage_bytes = sizeof(storage);
	*ret = (struct env_peer){.pid = -1, .uid = -1};
	if (!is_unix) {
		if (getpeername(fd, (struct sockaddr *)&storage, &storage_bytes) == 0)
			net_address_format(&storage, ret->text, sizeof(ret->text));
		else
			snprintf(ret->text, sizeof(ret->text), "tcp:gone");
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_bytes) == 0) {
		ret->pid = cred.pid;
		ret->uid = cred.uid;
	}
	snprintf(ret->text, sizeof(ret->text), "unix:pid=%lld,uid=%lld", (long long)ret->pid,
		 (long long)ret->uid);
}

static void listener_free(struct env_listener *listener)
{
	struct loop *loop = listener->loop;
	timer_heap_cancel(&loop->timers, &listener->pause);
	list_remove(&listener->link);
	loop->engine_ops->file_remove(loop, &listener->file);
	close(listener->file.fd);
	free(listener);
}

static void listener_resume(struct env_timer *timer)
{
	struct env_listener *listener = CONTAINER_OF(timer, struct env_listener, pause);
	net_op_submit(listener->loop, &listener->op);
}

static bool accept_must_pause(int code)
{
	return code == -EMFILE || code == -ENFILE || code == -ENOMEM || code == -ENOBUFS;
}

static void listener_accepted(struct net_op *op, int result)
{
	struct env_listener *listener = CONTAINER_OF(op, struct env_listener, op);
	struct loop *loop = listener->loop;
	struct env_conn *conn = NULL;
	struct env_peer peer;
	if (listener->closing) {
		if (result >= 0)
			close(result);
		listener_free(listener);
		return;
	}
	if (result >= 0) {
		peer_of(result, listener->is_unix, &peer);
		result = conn_create(loop, result, listener->is_unix, &conn);
	}
	if (accept_must_pause(result)) {
		log_event(LOG_WARN, "loop", "accept_paused", "address=%s error=%s pause_ms=100",
			  LOG_Q(listener->address), err_name(result));
		env_timer_after(&loop->env, &listener->pause, ACCEPT_PAUSE_NS);
		return;
	}
	net_op_submit(loop, op);
	if (conn)
		listener->cb.accepted(listener->cb.ctx, conn, &peer);
}

/* ---- life ---- */

int net_listen(struct env *env, const char *address_text, const struct env_listener_cb *cb,
	       struct env_listener **ret, struct err *err)
{
	struct loop *loop = loop_of(env);
	struct net_address address;
	int rc = net_address_parse(address_text, &address, err);
	if (rc < 0)
		return rc;
	struct env_listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return err_set(err, -ENOMEM, "listen on '%s': out of memory", address_text);
	int fd = net_listen_socket(&address);
	if (fd < 0) {
		free(listener);
		if (fd == -EADDRINUSE)
			return err_set(err, fd, "listen on '%s': another process uses it",
				       address_text);
		return err_set(err, fd, "listen on '%s': %s", address_text, strerror(-fd));
	}
	listener->loop = loop;
	listener->file.fd = fd;
	listener->is_unix = address.is_unix;
	listener->cb = *cb;
	listener->pause.fire = listener_resume;
	listener->op = (struct net_op){
		.kind = NET_ACCEPT, .file = &listener->file, .done = listener_accepted};
	net_listen_name(fd, &address, address_text, listener->address);
	listen_path_note(&listener->path, &address);
	rc = loop->engine_ops->file_add(loop, &listener->file);
	if (rc < 0) {
		close(fd);
		free(listener);
		return err_set(err, rc, "listen on '%s': %s", address_text, strerror(-rc));
	}
	list_push_back(&loop->listeners, &listener->link);
	net_op_submit(loop, &listener->op);
	*ret = listener;
	return 0;
}

void net_listener_close(struct env_listener *listener)
{
	assert(!listener->closing);
	listener->closing = true;
	listen_path_unlink(&listener->path, listener->address);
	if (!listener->op.active) {
		listener_free(listener);
		return;
	}
	(void)shutdown(listener->file.fd, SHUT_RDWR); /* refuse from now on, not from next turn */
	net_op_cancel(listener->loop, &listener->op);
}

void listeners_free(struct loop *loop)
{
	list_for_each_safe (pos, &loop->listeners) {
		struct env_listener *listener = CONTAINER_OF(pos, struct env_listener, link);
		assert(listener->closing);
		list_remove(&listener->op.link);
		listener_free(listener);
	}
}

const char *loop_listener_address(const struct env_listener *listener)
{
	return listener->address;
}
