/* SPDX-License-Identifier: Apache-2.0 */
/* Unary calls: answers, errors, bad input, deadlines, cancellation, load. */
#include <signal.h>
#include <sys/wait.h>

#include "tests/unit/rpc_fixture.h"

#define DEFAULTS ((struct rpc_server_config){0})

TEST(rpc_call, a_request_is_answered)
{
	struct fixture f;
	char text[128] = "";
	fixture_start(&f, DEFAULTS);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.text = (char *)"gr\xc3\xbc\xc3\x9f dich";
	CHECK_EQ(fixture_say(&f, &in, 5000, text, NULL), 0);
	CHECK_STR(text, in.text);
	CHECK_STR(f.method, "/rpctest.Echo/Say");
	CHECK(strncmp(f.peer, "unix:", 5) == 0, "peer is %s", f.peer);
	CHECK(strncmp(f.agent, "holdfast/", 9) == 0, "user-agent is %s", f.agent);
	uint64_t left_ns = atomic_load(&f.left_ns);
	CHECK(left_ns > 0 && left_ns <= 5100000000ull);
	fixture_end(&f);
}

TEST(rpc_call, works_over_loopback_tcp)
{
	struct fixture f;
	const char *addresses[] = {"tcp:127.0.0.1:0"};
	fixture_dir(&f);
	fixture_serve(&f, (struct rpc_server_config){.addresses = addresses, .address_count = 1});
	snprintf(f.address, sizeof(f.address), "%s", rpc_server_address(f.server, 0));
	fixture_connect(&f);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), 0);
	fixture_end(&f);
}

TEST(rpc_call, every_status_arrives_as_its_errno_with_the_servers_text)
{
	struct fixture f;
	fixture_start(&f, DEFAULTS);
	for (uint32_t code = 1; code <= RPC_UNAUTHENTICATED; code++) {
		struct err err = {0};
		Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
		in.fail_code = code;
		in.text = (char *)"volume 'x' is not there";
		CHECK_EQ(fixture_say(&f, &in, 5000, NULL, &err), rpc_errno_of_code((int)code));
		CHECK_EQ(err.code, rpc_errno_of_code((int)code));
		if (code != RPC_DEADLINE_EXCEEDED)
			CHECK(strstr(err.text, in.text) != NULL, "text is '%s'", err.text);
		if (code == RPC_UNAVAILABLE)
			CHECK(strstr(err.text, f.address) != NULL, "text is '%s'", err.text);
	}
	fixture_end(&f);
}

TEST(rpc_call, a_long_error_text_is_clipped)
{
	struct fixture f;
	struct err err = {0};
	char text[4001];
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	fixture_start(&f, DEFAULTS);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.fail_code = RPC_NOT_FOUND;
	in.text = text;
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, &err), -ENOENT);
	CHECK_EQ(strlen(err.text), RPC_TEXT_BYTES_MAX - 1);
	fixture_end(&f);
}

TEST(rpc_call, unknown_method_and_service_are_unimplemented)
{
	struct fixture f;
	struct err err = {0};
	char text[512];
	fixture_start(&f, DEFAULTS);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	ProtobufCMessage *out = NULL;
	struct rpc_request request = {&rpctest__echo__descriptor, "Absent", &in.base, 5000};
	CHECK_EQ(rpc_client_call(f.client, &request, &out, &err), -ENOSYS);
	CHECK(strstr(err.text, "/rpctest.Echo/Absent") != NULL, "text is '%s'", err.text);
	CHECK_EQ(raw_call(f.address, "/rpctest.Echo/Nothing", "", 0, text), RPC_UNIMPLEMENTED);
	CHECK_EQ(raw_call(f.address, "/other.Service/Say", "", 0, text), RPC_UNIMPLEMENTED);
	CHECK_EQ(raw_call(f.address, "/nonsense", "", 0, text), RPC_UNIMPLEMENTED);
	fixture_end(&f);
}

TEST(rpc_call, client_refuses_a_method_or_message_that_does_not_fit)
{
	struct fixture f;
	fixture_start(&f, DEFAULTS);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	Rpctest__CountRequest other = RPCTEST__COUNT_REQUEST__INIT;
	ProtobufCMessage *out = NULL;
	struct rpc_request none = {&rpctest__echo__descriptor, "Nothing", &in.base, 5000};
	CHECK_EQ(rpc_client_call(f.client, &none, &out, NULL), -EINVAL);
	struct rpc_request wrong = {&rpctest__echo__descriptor, "Say", &other.base, 5000};
	CHECK_EQ(rpc_client_call(f.client, &wrong, &out, NULL), -EINVAL);
	struct rpc_request forever = {&rpctest__echo__descriptor, "Say", &in.base, 0};
	CHECK_EQ(rpc_client_call(f.client, &forever, &out, NULL), -EINVAL);
	in.text = (char *)"\xff";
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), -EINVAL);
	CHECK_EQ(atomic_load(&f.begun), 0);
	fixture_end(&f);
}

TEST(rpc_call, garbage_is_an_invalid_argument)
{
	struct fixture f;
	char text[512];
	fixture_start(&f, DEFAULTS);
	CHECK_EQ(raw_call(f.address, "/rpctest.Echo/Say", "\x0a\x7f\x01", 3, text),
		 RPC_INVALID_ARGUMENT);
	CHECK(strstr(text, "SayRequest") != NULL, "text is '%s'", text);
	CHECK_EQ(raw_call(f.address, "/rpctest.Echo/Say", NULL, 0, text), RPC_INVALID_ARGUMENT);
	CHECK_EQ(atomic_load(&f.begun), 0);
	fixture_end(&f);
}

TEST(rpc_call, a_string_that_is_not_utf8_is_refused_by_name)
{
	struct fixture f;
	char text[512];
	fixture_start(&f, DEFAULTS);
	/* parts[0].name = 0xff */
	CHECK_EQ(raw_call(f.address, "/rpctest.Echo/Say", "\x12\x03\x0a\x01\xff", 5, text),
		 RPC_INVALID_ARGUMENT);
	CHECK(strstr(text, "parts[0].name") != NULL, "text is '%s'", text);
	CHECK_EQ(atomic_load(&f.begun), 0);
	fixture_end(&f);
}

TEST(rpc_call, a_reply_that_is_not_utf8_becomes_internal)
{
	struct fixture f;
	struct err err = {0};
	fixture_start(&f, DEFAULTS);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.bad_reply = true;
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, &err), -EPROTO);
	CHECK(strstr(err.text, "'text'") != NULL, "text is '%s'", err.text);
	fixture_end(&f);
}

TEST(rpc_call, a_request_over_the_limit_is_resource_exhausted)
{
	struct fixture f;
	char text[512];
	static char payload[70000];
	fixture_start(&f, (struct rpc_server_config){.message_bytes_max = 65536});
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.payload.data = (uint8_t *)payload;
	in.payload.len = sizeof(payload);
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), -ENOSPC);
	in.payload.len = 60000;
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), 0);
	/* 60000 bytes that unpack to 30000 parts of 48 bytes or so each. */
	for (size_t i = 0; i < 60000; i += 2)
		payload[i] = 0x12, payload[i + 1] = 0;
	CHECK_EQ(raw_call(f.address, "/rpctest.Echo/Say", payload, 60000, text),
		 RPC_RESOURCE_EXHAUSTED);
	fixture_end(&f);
}

TEST(rpc_call, client_refuses_to_send_over_its_limit)
{
	struct fixture f;
	struct err err = {0};
	fixture_start(&f, DEFAULTS);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.payload.len = RPC_MESSAGE_BYTES_DEFAULT + 1;
	in.payload.data = calloc(1, in.payload.len);
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, &err), -EMSGSIZE);
	CHECK(strstr(err.text, "4194304") != NULL, "text is '%s'", err.text);
	free(in.payload.data);
	fixture_end(&f);
}

TEST(rpc_call, the_deadline_ends_the_call_and_the_handler_sees_it)
{
	struct fixture f;
	struct err err = {0};
	fixture_start(&f, DEFAULTS);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.hold = true;
	uint64_t began_ms = fixture_now_ms();
	CHECK_EQ(fixture_say(&f, &in, 100, NULL, &err), -ETIMEDOUT);
	CHECK(fixture_now_ms() - began_ms < 5000);
	CHECK(strstr(err.text, "100 ms") && strstr(err.text, f.address), "text is '%s'", err.text);
	WAIT_FOR(atomic_load(&f.cancels) == 1);
	WAIT_FOR(rpc_server_calls(f.server) == 0);
	fixture_end(&f);
}

TEST(rpc_call, no_server_fails_at_once_and_names_the_address)
{
	struct fixture f;
	struct err err = {0};
	fixture_dir(&f);
	fixture_connect(&f);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	for (int i = 0; i < 3; i++) {
		uint64_t began_ms = fixture_now_ms();
		CHECK_EQ(fixture_say(&f, &in, 30000, NULL, &err), -ENOTCONN);
		CHECK(fixture_now_ms() - began_ms < 5000);
		CHECK(strstr(err.text, f.address) != NULL, "text is '%s'", err.text);
	}
	/* As soon as the server is there it is reached: no back-off. */
	fixture_serve(&f, DEFAULTS);
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), 0);
	fixture_end(&f);
}

TEST(rpc_call, a_restarted_server_is_found_again)
{
	struct fixture f;
	fixture_start(&f, DEFAULTS);
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	for (int i = 0; i < 5; i++) {
		CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), 0);
		rpc_server_destroy(f.server);
		fixture_serve(&f, DEFAULTS);
	}
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), 0);
	fixture_end(&f);
}

TEST(rpc_call, a_server_that_dies_fails_the_call)
{
	struct fixture f;
	int ready[2];
	char byte;
	fixture_dir(&f);
	CHECK_EQ(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) { /* dies by signal when the parent has seen the call begin */
		fixture_serve(&f, DEFAULTS);
		(void)!write(ready[1], "s", 1);
		while (atomic_load(&f.begun) == 0)
			usleep(1000);
		kill(getpid(), SIGKILL);
	}
	CHECK_EQ(read(ready[0], &byte, 1), 1);
	fixture_connect(&f);
	struct err err = {0};
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.hold = true;
	CHECK_EQ(fixture_say(&f, &in, 30000, NULL, &err), -ENOTCONN);
	CHECK(strstr(err.text, f.address) != NULL, "text is '%s'", err.text);
	CHECK_EQ(waitpid(pid, NULL, 0), pid);
	/* Its socket file is still there; a new server replaces it. */
	fixture_serve(&f, DEFAULTS);
	in.hold = false;
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), 0);
	close(ready[0]);
	close(ready[1]);
	fixture_end(&f);
}

struct caller {
	struct fixture *f;
	int ok;
};

static void *caller_main(void *arg)
{
	struct caller *caller = arg;
	for (int i = 0; i < 50; i++) {
		char want[32], text[128] = "";
		snprintf(want, sizeof(want), "%p %d", arg, i);
		Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
		in.text = want;
		if (fixture_say(caller->f, &in, 20000, text, NULL) == 0 && strcmp(text, want) == 0)
			caller->ok++;
	}
	return NULL;
}

TEST(rpc_call, many_threads_share_a_client)
{
	struct fixture f;
	struct caller callers[16];
	pthread_t threads[16];
	fixture_start(&f, DEFAULTS);
	for (size_t i = 0; i < 16; i++) {
		callers[i] = (struct caller){&f, 0};
		pthread_create(&threads[i], NULL, caller_main, &callers[i]);
	}
	for (size_t i = 0; i < 16; i++) {
		pthread_join(threads[i], NULL);
		CHECK_EQ(callers[i].ok, 50);
	}
	fixture_end(&f);
}

static void *hold_main(void *arg)
{
	struct caller *caller = arg;
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.hold = true;
	caller->ok = fixture_say(caller->f, &in, 20000, NULL, NULL);
	return NULL;
}

TEST(rpc_call, hundreds_of_calls_wait_for_a_later_answer)
{
	enum { COUNT = 300 };
	struct fixture f;
	static struct caller callers[COUNT];
	static pthread_t threads[COUNT];
	fixture_start(&f, (struct rpc_server_config){.worker_count = 2, .queue_max = COUNT});
	for (size_t i = 0; i < COUNT; i++) {
		callers[i] = (struct caller){&f, -1};
		pthread_create(&threads[i], NULL, hold_main, &callers[i]);
	}
	WAIT_FOR(atomic_load(&f.begun) == COUNT);
	/* Two workers, three hundred unanswered calls: another one still gets through. */
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	CHECK_EQ(fixture_say(&f, &in, 5000, NULL, NULL), 0);
	fixture_release(&f);
	for (size_t i = 0; i < COUNT; i++) {
		pthread_join(threads[i], NULL);
		CHECK_EQ(callers[i].ok, 0);
	}
	fixture_end(&f);
}
