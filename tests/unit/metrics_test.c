/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics: the text form, removal, threads; the HTTP server, with good and bad requests. */
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/metrics.h"

static const struct metric_desc writes = {"writes_total", "Writes.\nSecond \\ line.",
					  METRIC_COUNTER, false};
static const struct metric_desc depth = {"depth", "Queue depth.", METRIC_GAUGE, false};
static const struct metric_desc latency = {"write_seconds", "Latency.", METRIC_HISTOGRAM, true};

static char *page(struct metrics *metrics)
{
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);
	metrics_print(metrics, out);
	fclose(out);
	return text;
}

TEST(metrics, page_has_help_type_and_escaped_labels)
{
	struct metrics *metrics = metrics_create();
	struct metric a = {0}, b = {0}, g = {0};
	struct metric_label label_a[] = {{"vol", "d\"b\\1\n"}, {"node", "n1"}};
	struct metric_label label_b[] = {{"vol", "db2"}};
	CHECK_EQ(metric_add(metrics, &a, &writes, label_a, 2), 0);
	CHECK_EQ(metric_add(metrics, &g, &depth, NULL, 0), 0);
	CHECK_EQ(metric_add(metrics, &b, &writes, label_b, 1), 0);
	metric_inc(&a, 3);
	metric_set(&g, -4);
	char *text = page(metrics);
	CHECK_STR(text, "# HELP depth Queue depth.\n# TYPE depth gauge\ndepth -4\n"
			"# HELP writes_total Writes.\\nSecond \\\\ line.\n"
			"# TYPE writes_total counter\n"
			"writes_total{vol=\"d\\\"b\\\\1\\n\",node=\"n1\"} 3\n"
			"writes_total{vol=\"db2\"} 0\n");
	free(text);
	struct metric twin = {0};
	CHECK_EQ(metric_add(metrics, &twin, &writes, label_b, 1), -EEXIST);
	metric_remove(&twin);
	metric_remove(&a);
	metric_remove(&b);
	metric_remove(&b);
	text = page(metrics);
	CHECK(strstr(text, "writes_total") == NULL);
	free(text);
	metric_remove(&g);
	metrics_destroy(metrics);
}

TEST(metrics, histogram_buckets_are_cumulative_with_exact_bounds)
{
	struct metrics *metrics = metrics_create();
	struct metric_histogram h = {0};
	CHECK_EQ(metric_histogram_add(metrics, &h, &latency, NULL, 0), 0);
	static const uint64_t values_ns[] = {0,    1000, 1001, 2000,
					     2001, 4000, 4001, UINT64_C(1) << 60};
	for (size_t i = 0; i < ARRAY_LEN(values_ns); i++)
		metric_observe(&h, values_ns[i]);
	char *text = page(metrics);
	CHECK(strstr(text, "write_seconds_bucket{le=\"1e-06\"} 2\n") != NULL, "%s", text);
	CHECK(strstr(text, "write_seconds_bucket{le=\"2e-06\"} 4\n") != NULL);
	CHECK(strstr(text, "write_seconds_bucket{le=\"4e-06\"} 6\n") != NULL);
	CHECK(strstr(text, "write_seconds_bucket{le=\"8e-06\"} 7\n") != NULL);
	CHECK(strstr(text, "write_seconds_bucket{le=\"33.554432\"} 7\n") != NULL);
	CHECK(strstr(text, "write_seconds_bucket{le=\"+Inf\"} 8\n") != NULL);
	CHECK(strstr(text, "write_seconds_sum 1152921504.606860979\n") != NULL, "%s", text);
	CHECK(strstr(text, "write_seconds_count 8\n") != NULL);
	free(text);
	metric_remove(&h.metric);
	metrics_destroy(metrics);
}

/* ---- over HTTP ---- */

struct site {
	struct metrics *metrics;
	struct metrics_server *server;
	struct metric counter;
	_Atomic bool healthy;
};

static bool site_healthy(void *ctx)
{
	return ((struct site *)ctx)->healthy;
}

static void site_open(struct site *site, const char *address)
{
	struct err err = {0};
	memset(site, 0, sizeof(*site));
	site->healthy = true;
	site->metrics = metrics_create();
	CHECK_EQ(metric_add(site->metrics, &site->counter, &writes, NULL, 0), 0);
	struct metrics_server_options options = {address, site->metrics, site_healthy, site};
	CHECK(metrics_server_start(&options, &site->server, &err) == 0, "%s", err_text(&err));
}
static void site_close(struct site *site)
{
	metrics_server_stop(site->server);
	metric_remove(&site->counter);
	metrics_destroy(site->metrics);
}

static int site_connect(struct site *site)
{
	const char *address = metrics_server_address(site->server);
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	bool is_unix = strncmp(address, "unix:", 5) == 0;
	int fd = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
	struct timeval limit = {.tv_sec = 20};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (is_unix)
		memcpy(un.sun_path, address + 5, strnlen(address + 5, sizeof(un.sun_path) - 1));
	else
		in4.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
	CHECK_EQ(connect(fd, is_unix ? (struct sockaddr *)&un : (struct sockaddr *)&in4,
			 is_unix ? sizeof(un) : sizeof(in4)),
		 0);
	return fd;
}

/* Everything that the server says until it closes; static. */
static const char *ask(struct site *site, const char *request, size_t bytes)
{
	static char answer[65536];
	int fd = site_connect(site);
	(void)send(fd, request, bytes, MSG_NOSIGNAL);
	shutdown(fd, SHUT_WR);
	size_t got = 0;
	ssize_t n;
	while (got < sizeof(answer) - 1 &&
	       (n = recv(fd, answer + got, sizeof(answer) - 1 - got, 0)) > 0)
		got += (size_t)n;
	answer[got] = 0;
	close(fd);
	return answer;
}
static const char *get(struct site *site, const char *method, const char *path)
{
	char request[256];
	int n = snprintf(request, sizeof(request),
			 "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, path);
	return ask(site, request, (size_t)n);
}

TEST(metrics_server, answers_on_tcp_and_unix)
{
	char dir[] = "/tmp/holdfast-test-XXXXXX", address[128];
	struct stat st;
	CHECK(mkdtemp(dir) != NULL);
	snprintf(address, sizeof(address), "unix:%s/socket", dir);
	for (int i = 0; i < 2; i++) {
		struct site site;
		site_open(&site, i ? address : "tcp:127.0.0.1:0");
		metric_inc(&site.counter, 41);
		const char *answer = get(&site, "GET", "/metrics");
		CHECK(strncmp(answer, "HTTP/1.1 200", 12) == 0, "%s", answer);
		CHECK(strstr(answer, "Content-Type: text/plain; version=0.0.4") != NULL);
		CHECK(strstr(answer, "\nwrites_total 41\n") != NULL);
		CHECK(strstr(get(&site, "HEAD", "/metrics"), "writes_total") == NULL);
		CHECK(strncmp(get(&site, "GET", "/healthz"), "HTTP/1.1 200", 12) == 0);
		site.healthy = false;
		CHECK(strncmp(get(&site, "GET", "/healthz"), "HTTP/1.1 503", 12) == 0);
		CHECK(strncmp(get(&site, "GET", "/"), "HTTP/1.1 404", 12) == 0);
		CHECK(strncmp(get(&site, "POST", "/metrics"), "HTTP/1.1 405", 12) == 0);
		CHECK(!i || (stat(address + 5, &st) == 0 && (st.st_mode & 0777) == 0600));
		site_close(&site);
	}
	CHECK(access(address + 5, F_OK) < 0);
	rmdir(dir);
}

TEST(metrics_server, survives_garbage)
{
	static char big[100000];
	struct site site;
	site_open(&site, "tcp:127.0.0.1:0");
	memset(big, 'A', sizeof(big));
	(void)ask(&site, big, sizeof(big));
	memcpy(big, "GET /metrics HTTP/1.1\r\nX: ", 26);
	(void)ask(&site, big, sizeof(big));
	(void)ask(&site, "\0\0\0\0\r\n\r\n", 8);
	(void)ask(&site, "GET", 3);
	(void)ask(&site, "", 0);
	static const char body[] = "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n";
	(void)ask(&site, body, sizeof(body) - 1);
	uint32_t seed = 7;
	for (int round = 0; round < 50; round++) {
		for (int i = 0; i < 200; i++)
			big[i] = (char)((seed = seed * 1664525 + 1013904223) >> 24);
		(void)ask(&site, big, 200);
	}
	CHECK(strstr(get(&site, "GET", "/metrics"), "\nwrites_total 0\n") != NULL);
	site_close(&site);
}

static int descriptor_count(void)
{
	int count = 0;
	DIR *dir = opendir("/proc/self/fd");
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* Fails when idle connections are not bounded: they would use up the process's descriptors. */
TEST(metrics_server, too_many_connections_are_turned_away)
{
	struct site site;
	int fds[40];
	site_open(&site, "tcp:127.0.0.1:0");
	int before = descriptor_count();
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		fds[i] = site_connect(&site);
	int most = 0;
	for (int i = 0; i < 2000 && most < 16; i++) {
		most = descriptor_count() - before - (int)ARRAY_LEN(fds);
		usleep(1000);
	}
	CHECK_EQ(most, 16);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		close(fds[i]);
	CHECK(strstr(get(&site, "GET", "/metrics"), "\nwrites_total 0\n") != NULL);
	site_close(&site);
}

TEST(metrics_server, refuses_addresses_that_others_can_reach)
{
	struct metrics *metrics = metrics_create();
	struct metrics_server *server = NULL;
	struct err err = {0};
	struct metrics_server_options options = {"tcp:0.0.0.0:0", metrics, NULL, NULL};
	CHECK_EQ(metrics_server_start(&options, &server, &err), -EINVAL);
	CHECK(strstr(err_text(&err), "neither a unix socket nor a loopback address") != NULL);
	options.address = "tcp:[::]:0";
	CHECK_EQ(metrics_server_start(&options, &server, &err), -EINVAL);
	options.address = "nonsense";
	CHECK_EQ(metrics_server_start(&options, &server, &err), -EINVAL);
	CHECK(server == NULL);
	metrics_server_stop(NULL);
	metrics_destroy(metrics);
}

static void *count_main(void *arg)
{
	struct site *site = arg;
	for (int i = 0; i < 300; i++) {
		struct metric own = {0};
		struct metric_label label = {"n", i % 2 ? "a" : "b"};
		metric_inc(&site->counter, 1);
		CHECK_EQ(metric_add(site->metrics, &own, &depth, &label, 1), 0);
		metric_set(&own, i);
		metric_remove(&own);
	}
	return NULL;
}

TEST(metrics_server, reads_while_metrics_come_and_go)
{
	struct site site;
	pthread_t thread;
	site_open(&site, "tcp:127.0.0.1:0");
	CHECK_EQ(pthread_create(&thread, NULL, count_main, &site), 0);
	for (int i = 0; i < 20; i++)
		CHECK(strstr(get(&site, "GET", "/metrics"), "writes_total") != NULL);
	pthread_join(thread, NULL);
	CHECK(strstr(get(&site, "GET", "/metrics"), "\nwrites_total 300\n") != NULL);
	site_close(&site);
}
