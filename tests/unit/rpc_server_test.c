/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses, bounds, stopping. */
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/unit/rpc_fixture.h"

#define DEFAULTS ((struct rpc_server_config){0})

static int server_try(const char *address, struct err *err)
{
	struct rpc_server *server = NULL;
	struct rpc_server_config config = {.addresses = &address, .address_count = 1};
	int rc = rpc_server_create(&config, &server, err);
	rpc_server_destroy(server);
	return rc;
}

TEST(rpc_server, unix_socket_is_for_the_owner_alone_and_goes_with_the_server)
{
	struct fixture f;
	struct stat st;
	fixture_start(&f, DEFAULTS);
	CHECK_EQ(stat(f.address + 5, &st), 0);
	CHECK_EQ(st.st_mode & 07777, 0600);
	rpc_server_destroy(take(f.server));
	CHECK(stat(f.address + 5, &st) < 0 && errno == ENOENT);
	fixture_end(&f);
}

TEST(rpc_server, a_served_unix_socket_is_in_use)
{
	struct fixture f;
	struct err err = {0};
	fixture_start(&f, DEFAULTS);
	CHECK_EQ(server_try(f.address, &err), -EADDRINUSE);
	CHECK(strstr(err.text, f.address) != NULL, "text is '%s'", err.text);
	/* and the one that serves is not disturbed */
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), 0);
	fixture_end(&f);
}

TEST(rpc_server, a_stale_unix_socket_is_replaced)
{
	struct fixture f;
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	fixture_dir(&f);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s/s.sock", f.dir);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK_EQ(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	close(fd);
	fixture_serve(&f, DEFAULTS);
	fixture_connect(&f);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), 0);
	fixture_end(&f);
}

TEST(rpc_server, a_file_that_is_no_socket_is_kept)
{
	struct fixture f;
	struct stat st;
	fixture_dir(&f);
	FILE *file = fopen(f.address + 5, "w");
	CHECK(file != NULL);
	fclose(file);
	CHECK_EQ(server_try(f.address, NULL), -EEXIST);
	CHECK_EQ(stat(f.address + 5, &st), 0);
	fixture_end(&f);
}

TEST(rpc_server, a_tcp_port_is_never_shared)
{
	struct fixture f;
	struct err err = {0};
	const char *addresses[] = {"tcp:127.0.0.1:0"};
	fixture_dir(&f);
	fixture_serve(&f, (struct rpc_server_config){.addresses = addresses, .address_count = 1});
	CHECK_EQ(server_try(rpc_server_address(f.server, 0), &err), -EADDRINUSE);
	CHECK(strstr(err.text, rpc_server_address(f.server, 0)), "text is '%s'", err.text);
	fixture_end(&f);
}

TEST(rpc_server, bad_addresses_are_refused_with_a_sentence)
{
	static const char *const bad[] = {
		"",
		"unix:",
		"tcp:1.2.3.4:5",
		"tcp:127.0.0.1",
		"http://x",
		"tcp:127.0.0.1:70000",
		"tcp:localhost:1",
		"tcp:127.0.0.1:-1",
		"tcp:[::2]:1",
		("unix:/a-path-that-is-longer-than-a-socket-address-can-hold-because-it-goes-on-"
		 "and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on-and-on")};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err err = {0};
		CHECK(server_try(bad[i], &err) == -EINVAL, "'%s' was accepted", bad[i]);
		CHECK(err.text[0] != '\0');
	}
	CHECK_EQ(server_try("unix:/nonexistent-directory/x.sock", NULL), -ENOENT);
}

TEST(rpc_server, registering_a_method_that_is_not_in_the_service_fails)
{
	struct fixture f;
	struct err err = {0};
	static const struct rpc_method wrong[] = {{"Sayy", echo_say, 0}, {NULL, NULL, 0}};
	fixture_dir(&f);
	const char *addresses[] = {f.address};
	struct rpc_server_config config = {.addresses = addresses, .address_count = 1};
	CHECK_EQ(rpc_server_create(&config, &f.server, NULL), 0);
	CHECK_EQ(rpc_server_register(f.server, &rpctest__echo__descriptor, wrong, &f, &err),
		 -EINVAL);
	CHECK(strstr(err.text, "Sayy") != NULL);
	CHECK_EQ(rpc_server_register(f.server, &rpctest__echo__descriptor, echo_methods, &f, NULL),
		 0);
	CHECK_EQ(rpc_server_register(f.server, &rpctest__echo__descriptor, echo_methods, &f, NULL),
		 -EEXIST);
	fixture_end(&f);
}

struct caller {
	struct fixture *f;
	bool hold;
	atomic_int result; /* 1 until known */
};

static void *caller_main(void *arg)
{
	struct caller *caller = arg;
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.hold = caller->hold;
	atomic_store(&caller->result, fixture_say(caller->f, &in, 20000, NULL, NULL));
	return NULL;
}

TEST(rpc_server, a_full_queue_refuses_and_inline_methods_get_through)
{
	struct fixture f;
	struct caller callers[4];
	pthread_t threads[4];
	size_t refused = 0;
	fixture_start(&f, (struct rpc_server_config){.worker_count = 1, .queue_max = 2});
	atomic_store(&f.gate_closed, true);
	for (size_t i = 0; i < 4; i++) {
		callers[i].f = &f;
		callers[i].hold = false;
		atomic_init(&callers[i].result, 1);
		pthread_create(&threads[i], NULL, caller_main, &callers[i]);
		if (i == 0)
			WAIT_FOR(atomic_load(&f.begun) == 1);
	}
	/* One runs, two wait, one is refused: its thread ends while the gate is still closed. */
	WAIT_FOR(({
		refused = 0;
		for (size_t i = 0; i < 4; i++)
			refused += atomic_load(&callers[i].result) == -ENOSPC;
		refused == 1;
	}));
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	ProtobufCMessage *out = NULL;
	struct rpc_request probe = {&rpctest__echo__descriptor, "Probe", &in.base, 5000};
	CHECK_EQ(rpc_client_call(f.client, &probe, &out, NULL), 0);
	rpc_message_free(out);
	atomic_store(&f.gate_closed, false);
	size_t ok = 0;
	for (size_t i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		ok += atomic_load(&callers[i].result) == 0;
	}
	CHECK_EQ(ok, 3);
	fixture_end(&f);
}

TEST(rpc_server, calls_over_calls_max_are_refused)
{
	struct fixture f;
	struct caller held = {.f = &f, .hold = true};
	pthread_t thread;
	fixture_start(&f, (struct rpc_server_config){.calls_max = 1});
	pthread_create(&thread, NULL, caller_main, &held);
	WAIT_FOR(atomic_load(&f.begun) == 1);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), -ENOSPC);
	fixture_release(&f);
	pthread_join(thread, NULL);
	CHECK_EQ(atomic_load(&held.result), 0);
	fixture_end(&f);
}

struct stopping {
	struct rpc_server *server;
	uint32_t drain_ms;
	atomic_bool done;
};

static void *stop_main(void *arg)
{
	struct stopping *stopping = arg;
	rpc_server_stop(stopping->server, stopping->drain_ms);
	atomic_store(&stopping->done, true);
	return NULL;
}

TEST(rpc_server, stop_lets_calls_finish_and_accepts_no_more)
{
	struct fixture f;
	struct caller held = {.f = &f, .hold = true};
	pthread_t caller, stopper;
	fixture_start(&f, DEFAULTS);
	pthread_create(&caller, NULL, caller_main, &held);
	WAIT_FOR(atomic_load(&f.begun) == 1);
	struct stopping stopping = {.server = f.server, .drain_ms = 20000};
	pthread_create(&stopper, NULL, stop_main, &stopping);
	/* New calls are refused once the stop is under way. */
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	WAIT_FOR(fixture_say(&f, &in, 1000, NULL, NULL) == -ENOTCONN);
	CHECK(!atomic_load(&stopping.done));
	fixture_release(&f);
	pthread_join(stopper, NULL);
	pthread_join(caller, NULL);
	CHECK_EQ(atomic_load(&held.result), 0);
	fixture_end(&f);
}

TEST(rpc_server, stop_cancels_what_outlasts_the_drain)
{
	struct fixture f;
	struct caller held = {.f = &f, .hold = true};
	pthread_t caller;
	fixture_start(&f, DEFAULTS);
	pthread_create(&caller, NULL, caller_main, &held);
	WAIT_FOR(atomic_load(&f.begun) == 1);
	uint64_t began_ms = fixture_now_ms();
	rpc_server_stop(f.server, 100);
	CHECK(fixture_now_ms() - began_ms < 10000);
	CHECK_EQ(atomic_load(&f.cancels), 1);
	pthread_join(caller, NULL);
	int result = atomic_load(&held.result);
	CHECK(result == -ENOTCONN || result == -ECANCELED, "result is %d", result);
	fixture_end(&f);
}

TEST(rpc_server, an_idle_connection_does_not_delay_the_stop)
{
	struct fixture f;
	fixture_start(&f, DEFAULTS);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), 0);
	uint64_t began_ms = fixture_now_ms();
	rpc_server_stop(f.server, 20000);
	CHECK(fixture_now_ms() - began_ms < 5000);
	fixture_end(&f);
}
