/* SPDX-License-Identifier: Apache-2.0 */
/* The handshake, option by option, by a client that speaks it byte by byte. */
#include "tests/unit/nbd_client.h"

NBD_TEST(nbd_handshake, export_name_gives_size_flags_and_124_zeroes)
{
	uint8_t reply[134], zeroes[124] = {0};
	struct client c;
	client_hello(&c, f, NBD_HANDSHAKE_FIXED);
	client_option(&c, NBD_OPT_EXPORT_NAME, "vol", 3);
	CHECK(client_recv(&c, reply, sizeof(reply)));
	CHECK(be64_at(reply) == VOL_BYTES);
	CHECK(be16_at(reply + 8) & NBD_FLAG_HAS_FLAGS);
	CHECK(!(be16_at(reply + 8) & (NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_DF)));
	CHECK(memcmp(reply + 10, zeroes, 124) == 0);
	CHECK_EQ(client_run(&c, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	client_close(&c);
}

NBD_TEST(nbd_handshake, export_name_without_zeroes_is_ten_bytes_also_for_clients_without_fixed)
{
	uint8_t reply[10];
	struct client c;
	client_hello(&c, f, NBD_HANDSHAKE_NO_ZEROES);
	client_option(&c, NBD_OPT_EXPORT_NAME, "ro", 2);
	CHECK(client_recv(&c, reply, sizeof(reply)));
	CHECK(be16_at(reply + 8) & NBD_FLAG_READ_ONLY);
	CHECK_EQ(client_run(&c, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	client_close(&c);
}

NBD_TEST(nbd_handshake, export_name_of_no_export_closes)
{
	struct client c;
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_option(&c, NBD_OPT_EXPORT_NAME, "nope", 4);
	client_expect_close(&c);
	client_close(&c);
}

NBD_TEST(nbd_handshake, options_other_than_export_name_need_fixed_newstyle)
{
	struct client c;
	client_hello(&c, f, 0);
	client_option(&c, NBD_OPT_LIST, NULL, 0);
	client_expect_close(&c);
	client_close(&c);
}

NBD_TEST(nbd_handshake, info_tells_what_was_asked_and_leaves_the_handshake_open)
{
	uint8_t data[4096];
	uint32_t bytes;
	struct client c;
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_option(&c, NBD_OPT_INFO, data, info_data(data, "vol", 3));
	CHECK_EQ(client_reply(&c, NBD_OPT_INFO, data, &bytes), NBD_REP_INFO);
	CHECK_EQ(be16_at(data), NBD_INFO_EXPORT);
	CHECK_EQ(client_reply(&c, NBD_OPT_INFO, data, &bytes), NBD_REP_INFO);
	CHECK(bytes == 5 && memcmp(data, "\0\1vol", 5) == 0);
	CHECK_EQ(client_reply(&c, NBD_OPT_INFO, data, &bytes), NBD_REP_INFO);
	CHECK(bytes == 8 && memcmp(data, "\0\2a test", 8) == 0);
	CHECK_EQ(client_reply(&c, NBD_OPT_INFO, data, &bytes), NBD_REP_INFO);
	CHECK_EQ(bytes, 14);
	CHECK_EQ(be32_at(data + 2), 1);
	CHECK_EQ(be32_at(data + 6), 4096);
	CHECK_EQ(be32_at(data + 10), 32 << 20);
	CHECK_EQ(client_reply(&c, NBD_OPT_INFO, NULL, NULL), NBD_REP_ACK);
	CHECK_EQ(f->opened, 0);
	uint64_t size_bytes;
	CHECK(client_go(&c, "vol", &size_bytes) & NBD_FLAG_CAN_MULTI_CONN);
	CHECK(size_bytes == VOL_BYTES);
	client_close(&c);
}

NBD_TEST(nbd_handshake, flags_follow_the_export_and_structured_replies)
{
	struct client c;
	client_hello(&c, f, FIXED_NO_ZEROES);
	uint16_t flags = client_go(&c, "", NULL);
	CHECK_EQ(flags, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
				NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
				NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE |
				NBD_FLAG_SEND_FAST_ZERO);
	client_close(&c);
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_structured(&c);
	flags = client_go(&c, "ro", NULL);
	CHECK_EQ(flags, NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY | NBD_FLAG_SEND_FLUSH |
				NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_DF | NBD_FLAG_CAN_MULTI_CONN |
				NBD_FLAG_SEND_CACHE);
	client_close(&c);
}

NBD_TEST(nbd_handshake, an_export_that_there_is_not_is_unknown_and_a_forbidden_one_is_policy)
{
	uint8_t data[4096];
	struct client c;
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_option(&c, NBD_OPT_GO, data, info_data(data, "nope", 0));
	CHECK_EQ(client_reply(&c, NBD_OPT_GO, NULL, NULL), NBD_REP_ERR_UNKNOWN);
	client_option(&c, NBD_OPT_GO, data, info_data(data, "secret", 0));
	CHECK_EQ(client_reply(&c, NBD_OPT_GO, NULL, NULL), NBD_REP_ERR_POLICY);
	char longest[301] = {0};
	memset(longest, 'v', 300);
	client_option(&c, NBD_OPT_INFO, data, info_data(data, longest, 0));
	CHECK_EQ(client_reply(&c, NBD_OPT_INFO, NULL, NULL), NBD_REP_ERR_UNKNOWN);
	client_go(&c, "vol", NULL);
	client_close(&c);
}

static void expect_list(struct fixture *f, uint32_t names)
{
	uint8_t data[4096];
	uint32_t bytes, seen = 0;
	struct client c;
	f->names = names;
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_option(&c, NBD_OPT_LIST, NULL, 0);
	while (client_reply(&c, NBD_OPT_LIST, data, &bytes) == NBD_REP_SERVER) {
		CHECK_EQ(be32_at(data), bytes - 4);
		if (seen == 0)
			CHECK(memcmp(data + 4, "vol", 3) == 0);
		seen++;
	}
	CHECK_EQ(seen, names);
	client_go(&c, "vol", NULL);
	client_close(&c);
}

NBD_TEST(nbd_handshake, list_names_all_exports_however_many)
{
	expect_list(f, 0);
	expect_list(f, 2);
	expect_list(f, 1000);
}

NBD_TEST(nbd_handshake, unknown_options_and_starttls_are_unsupported_and_their_data_is_skipped)
{
	struct client c;
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_option(&c, 77, "some data", 9);
	CHECK_EQ(client_reply(&c, 77, NULL, NULL), NBD_REP_ERR_UNSUP);
	client_option(&c, NBD_OPT_STARTTLS, NULL, 0);
	CHECK_EQ(client_reply(&c, NBD_OPT_STARTTLS, NULL, NULL), NBD_REP_ERR_UNSUP);
	client_go(&c, "vol", NULL);
	client_close(&c);
}

NBD_TEST(nbd_handshake, an_option_that_is_too_long_is_skipped_and_refused)
{
	struct client c;
	uint8_t *data = calloc(1, 1 << 20);
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_option(&c, NBD_OPT_INFO, data, 1 << 20);
	CHECK_EQ(client_reply(&c, NBD_OPT_INFO, NULL, NULL), NBD_REP_ERR_TOO_BIG);
	client_go(&c, "vol", NULL);
	client_close(&c);
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_option(&c, NBD_OPT_EXPORT_NAME, data, 1 << 20);
	client_expect_close(&c);
	client_close(&c);
	free(data);
}

NBD_TEST(nbd_handshake, options_whose_lengths_do_not_add_up_are_invalid)
{
	static const struct {
		uint32_t option, bytes;
		const char *data;
	} cases[] = {
		{NBD_OPT_GO, 0, ""},
		{NBD_OPT_GO, 4, "\377\377\377\377"},
		{NBD_OPT_GO, 7, "\0\0\0\3vol"},
		{NBD_OPT_GO, 9, "\0\0\0\3vol\0\1"},
		{NBD_OPT_INFO, 11, "\0\0\0\3vol\0\0\0\1"},
		{NBD_OPT_GO, 9, "\0\0\0\3v\0l\0\0"},
		{NBD_OPT_LIST, 1, "x"},
		{NBD_OPT_STRUCTURED_REPLY, 1, "x"},
		{NBD_OPT_SET_META_CONTEXT, 3, "\0\0\0"},
		{NBD_OPT_SET_META_CONTEXT, 8, "\0\0\0\0\0\0\0\1"},
		{NBD_OPT_SET_META_CONTEXT, 9, "\0\0\0\0\0\0\0\0x"},
		{NBD_OPT_LIST_META_CONTEXT, 12, "\0\0\0\0\0\0\0\1\377\0\0\0"},
	};
	struct client c;
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_structured(&c);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		client_option(&c, cases[i].option, cases[i].data, cases[i].bytes);
		CHECK(client_reply(&c, cases[i].option, NULL, NULL) == NBD_REP_ERR_INVALID,
		      "case %zu", i);
	}
	client_go(&c, "vol", NULL);
	client_close(&c);
}

NBD_TEST(nbd_handshake, abort_is_acknowledged_and_closes)
{
	struct client c;
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_option(&c, NBD_OPT_ABORT, NULL, 0);
	CHECK_EQ(client_reply(&c, NBD_OPT_ABORT, NULL, NULL), NBD_REP_ACK);
	client_expect_close(&c);
	client_close(&c);
}

NBD_TEST(nbd_handshake, metadata_contexts_need_structured_replies)
{
	uint8_t data[256];
	struct client c;
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_option(&c, NBD_OPT_LIST_META_CONTEXT, data, meta_data(data, "vol", NULL));
	CHECK_EQ(client_reply(&c, NBD_OPT_LIST_META_CONTEXT, NULL, NULL), NBD_REP_ERR_INVALID);
	client_option(&c, NBD_OPT_SET_META_CONTEXT, data,
		      meta_data(data, "vol", "base:allocation"));
	CHECK_EQ(client_reply(&c, NBD_OPT_SET_META_CONTEXT, NULL, NULL), NBD_REP_ERR_INVALID);
	client_close(&c);
}

static bool meta_answers(struct client *c, uint32_t option, const char *name, const char *query)
{
	uint8_t data[4096];
	uint32_t bytes;
	client_option(c, option, data, meta_data(data, name, query));
	uint32_t type = client_reply(c, option, data, &bytes);
	if (type == NBD_REP_ACK)
		return false;
	CHECK_EQ(type, NBD_REP_META_CONTEXT);
	CHECK(bytes == 19 && memcmp(data + 4, "base:allocation", 15) == 0);
	CHECK_EQ(client_reply(c, option, NULL, NULL), NBD_REP_ACK);
	return true;
}

NBD_TEST(nbd_handshake, the_allocation_context_is_listed_by_wildcard_and_set_by_name)
{
	uint8_t data[64];
	struct client c;
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_structured(&c);
	CHECK(meta_answers(&c, NBD_OPT_LIST_META_CONTEXT, "vol", NULL));
	CHECK(meta_answers(&c, NBD_OPT_LIST_META_CONTEXT, "vol", "base:"));
	CHECK(!meta_answers(&c, NBD_OPT_LIST_META_CONTEXT, "vol", "qemu:"));
	CHECK(!meta_answers(&c, NBD_OPT_SET_META_CONTEXT, "vol", NULL));
	CHECK(!meta_answers(&c, NBD_OPT_SET_META_CONTEXT, "vol", "base:"));
	CHECK(meta_answers(&c, NBD_OPT_SET_META_CONTEXT, "vol", "base:allocation"));
	client_option(&c, NBD_OPT_SET_META_CONTEXT, data,
		      meta_data(data, "nope", "base:allocation"));
	CHECK_EQ(client_reply(&c, NBD_OPT_SET_META_CONTEXT, NULL, NULL), NBD_REP_ERR_UNKNOWN);
	client_go(&c, "vol", NULL); /* the failed choice undid the one before */
	CHECK_EQ(client_run_error(&c, (struct cmd){NBD_CMD_BLOCK_STATUS, 0, 0, 4096, NULL}),
		 NBD_EINVAL);
	client_close(&c);
}

NBD_TEST(nbd_handshake, a_context_chosen_for_another_export_does_not_count)
{
	struct client c;
	client_hello(&c, f, FIXED_NO_ZEROES);
	client_structured(&c);
	CHECK(meta_answers(&c, NBD_OPT_SET_META_CONTEXT, "ro", "base:allocation"));
	client_go(&c, "vol", NULL);
	CHECK_EQ(client_run_error(&c, (struct cmd){NBD_CMD_BLOCK_STATUS, 0, 0, 4096, NULL}),
		 NBD_EINVAL);
	client_close(&c);
}

NBD_TEST(nbd_handshake, garbage_closes_that_client_alone)
{
	struct client good, bad;
	uint8_t garbage[64];
	memset(garbage, 0xa5, sizeof(garbage));
	client_begin(&good, f, "vol", false);
	client_hello(&bad, f, 0xfffffff0u); /* unknown client flags */
	client_expect_close(&bad);
	client_close(&bad);
	client_hello(&bad, f, FIXED_NO_ZEROES);
	client_send(&bad, garbage, sizeof(garbage));
	client_expect_close(&bad);
	client_close(&bad);
	CHECK_EQ(client_run(&good, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	client_close(&good);
}

TEST(nbd_handshake, half_a_message_and_then_silence_is_closed_in_time_and_idle_transmission_is_not)
{
	struct fixture f;
	struct nbd_config config;
	struct client idle, silent;
	nbd_config_default(&config);
	config.handshake_timeout_ns = SECOND_NS / 5;
	fixture_start(&f, &config);
	client_begin(&idle, &f, "vol", false);
	client_hello(&silent, &f, FIXED_NO_ZEROES);
	client_send(&silent, "IHAVE", 5);
	client_expect_close(&silent);
	CHECK_EQ(client_run(&idle, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	client_close(&silent);
	client_close(&idle);
	fixture_end(&f);
}

TEST(nbd_handshake, clients_over_the_limit_are_closed_and_room_comes_back)
{
	struct fixture f;
	struct nbd_config config;
	struct client first, second;
	nbd_config_default(&config);
	config.connections_max = 1;
	fixture_start(&f, &config);
	client_begin(&first, &f, "vol", false);
	client_open(&second, &f);
	client_expect_close(&second);
	client_close(&second);
	client_close(&first);
	WAIT_FOR(&f, f.opened == 0);
	client_begin(&second, &f, "vol", false);
	client_close(&second);
	fixture_end(&f);
}

TEST(nbd_handshake, a_config_that_cannot_work_is_refused_with_a_sentence)
{
	struct world w;
	struct nbd_server *server = NULL;
	struct nbd_config config;
	struct err err = {0};
	world_open(&w, LOOP_ENGINE_AUTO);
	nbd_config_default(&config);
	config.payload_bytes = config.request_max_bytes;
	CHECK_EQ(nbd_server_create(w.env, &config, &server, &err), -EINVAL);
	CHECK(strstr(err.text, "payload_bytes") != NULL);
	nbd_config_default(&config);
	config.requests_max = 0;
	CHECK_EQ(nbd_server_create(w.env, &config, &server, &err), -EINVAL);
	CHECK(server == NULL);
	world_close(&w);
}

/* ---- a whole session, cut in two at every byte ---- */

static size_t session_put(uint8_t *p)
{
	uint8_t *start = p;
	static const uint8_t payload[100] = {1, 2, 3};
	const struct cmd write = {NBD_CMD_WRITE, 0, 1000, sizeof(payload), NULL};
	const struct cmd read = {NBD_CMD_READ, 0, 990, 150, NULL};
	const struct cmd disc = {NBD_CMD_DISC, 0, 0, 0, NULL};
	be32_put(p, FIXED_NO_ZEROES);
	p += 4;
	be64_put(p, NBD_MAGIC_OPTION);
	be32_put(p + 8, NBD_OPT_GO);
	uint32_t bytes = info_data(p + NBD_OPTION_BYTES, "vol", 3);
	be32_put(p + 12, bytes);
	p += NBD_OPTION_BYTES + bytes;
	p += cmd_put(p, &write, 1);
	memcpy(p, payload, sizeof(payload));
	p += sizeof(payload);
	p += cmd_put(p, &read, 2);
	p += cmd_put(p, &disc, 3);
	return (size_t)(p - start);
}

/* All that the server answers until it closes. */
static size_t session_run(struct fixture *f, const uint8_t *bytes, size_t count, size_t cut,
			  uint8_t *out)
{
	struct client c;
	size_t at = 0;
	client_open(&c, f);
	CHECK(client_recv(&c, out, NBD_GREETING_BYTES));
	client_send(&c, bytes, cut);
	bool turn = false;
	(void)loop_run_until(f->w.loop, &turn,
			     env_now_ns(f->w.env) + 100000); /* let it be seen alone */
	client_send(&c, bytes + cut, count - cut);
	while (client_recv(&c, out + at, 1))
		at++;
	client_close(&c);
	return at;
}

NBD_TEST(nbd_handshake, a_session_cut_at_any_byte_gets_the_same_answers)
{
	uint8_t bytes[512], want[1024], got[1024];
	size_t count = session_put(bytes);
	size_t want_bytes = session_run(f, bytes, count, 0, want);
	want_bytes =
		session_run(f, bytes, count, 0, want); /* now the write changes nothing any more */
	CHECK(want_bytes > 150);
	for (size_t cut = 1; cut < count; cut++) {
		CHECK_EQ(session_run(f, bytes, count, cut, got), want_bytes);
		/* The two replies may come in either order of the requests. */
		CHECK(memcmp(got, want, 100) == 0, "cut at %zu", cut);
	}
}
