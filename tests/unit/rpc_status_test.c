/* SPDX-License-Identifier: Apache-2.0 */
/* Codes and messages without a network. */
#include <errno.h>

#include "base/rpc/rpc.h"
#include "tests/unit/rpc_echo.pb-c.h"
#include "tests/unit/test.h"

TEST(rpc_status, every_code_survives_the_way_to_errno_and_back)
{
	for (int code = RPC_OK; code <= RPC_UNAUTHENTICATED; code++) {
		CHECK_EQ(rpc_code_of_errno(rpc_errno_of_code(code)), code);
		CHECK(code == RPC_OK || rpc_errno_of_code(code) < 0);
	}
}

TEST(rpc_status, known_errnos_map_as_documented)
{
	CHECK_EQ(rpc_code_of_errno(-EINVAL), RPC_INVALID_ARGUMENT);
	CHECK_EQ(rpc_code_of_errno(ENOENT), RPC_NOT_FOUND);
	CHECK_EQ(rpc_code_of_errno(-EBUSY), RPC_FAILED_PRECONDITION);
	CHECK_EQ(rpc_code_of_errno(-ESTALE), RPC_ABORTED);
	CHECK_EQ(rpc_code_of_errno(-ENOMEM), RPC_RESOURCE_EXHAUSTED);
	CHECK_EQ(rpc_code_of_errno(-ECONNREFUSED), RPC_UNAVAILABLE);
	CHECK_EQ(rpc_code_of_errno(-ENOTSUP), RPC_UNIMPLEMENTED);
}

TEST(rpc_status, what_is_not_in_the_table_is_an_error)
{
	CHECK_EQ(rpc_code_of_errno(-9999), RPC_INTERNAL);
	CHECK_EQ(rpc_errno_of_code(99), -EREMOTEIO);
	CHECK_EQ(rpc_errno_of_code(-1), -EREMOTEIO);
	CHECK_STR(rpc_code_name(99), "UNKNOWN");
	CHECK_STR(rpc_code_name(RPC_DATA_LOSS), "DATA_LOSS");
}

static int check_text(const char *text)
{
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.text = (char *)text;
	return rpc_message_check(&in.base, NULL);
}

TEST(rpc_message, valid_utf8_is_accepted)
{
	static const char *const good[] = {"",
					   "plain",
					   "\xc2\x80",
					   "\xdf\xbf",
					   "\xe0\xa0\x80",
					   "\xed\x9f\xbf",
					   "\xee\x80\x80",
					   "\xef\xbf\xbf",
					   "\xf0\x90\x80\x80",
					   "\xf4\x8f\xbf\xbf",
					   "gr\xc3\xbc\xc3\x9f"};
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		CHECK_EQ(check_text(good[i]), 0);
}

TEST(rpc_message, invalid_utf8_is_refused)
{
	static const char *const bad[] = {"\x80",
					  "\xc0\x80",
					  "\xc1\xbf",
					  "\xc2",
					  "\xe0\x9f\xbf",
					  "\xe2\x82",
					  "\xed\xa0\x80",
					  "\xf0\x8f\xbf\xbf",
					  "\xf4\x90\x80\x80",
					  "\xf5\x80\x80\x80",
					  "a\xff",
					  "\xe2\x28\xa1"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		CHECK_EQ(check_text(bad[i]), -EINVAL);
}

TEST(rpc_message, a_bad_string_is_named_by_its_path)
{
	struct err err = {0};
	Rpctest__Part good = RPCTEST__PART__INIT, bad = RPCTEST__PART__INIT;
	bad.name = (char *)"\xff";
	Rpctest__Part *parts[] = {&good, &bad};
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.n_parts = 2;
	in.parts = parts;
	CHECK_EQ(rpc_message_check(&in.base, &err), -EINVAL);
	CHECK_STR(err.text, "field 'parts[1].name' of SayRequest is not valid UTF-8");
}

TEST(rpc_message, only_the_chosen_member_of_a_oneof_is_looked_at)
{
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.choice_case = RPCTEST__SAY_REQUEST__CHOICE_NUMBER;
	in.number = 1; /* as a pointer it would crash */
	CHECK_EQ(rpc_message_check(&in.base, NULL), 0);
	in.choice_case = RPCTEST__SAY_REQUEST__CHOICE_WORD;
	in.word = (char *)"\xff";
	CHECK_EQ(rpc_message_check(&in.base, NULL), -EINVAL);
}
