/* SPDX-License-Identifier: Apache-2.0 */
/* Records round-trip, and refuse everything that they would not have written. */
#include <errno.h>

#include "tests/unit/test.h"
#include "volmgr/records.h"

static struct volume_record volume_sample(void)
{
	struct volume_record r = {.name = "db1",
				  .uuid = {{1}},
				  .family_uuid = {{2}},
				  .size_bytes = 1ull << 30,
				  .state = VOLUME_BOUND,
				  .epoch = 7,
				  .opened_epoch = 6,
				  .coordinator_node = "n1",
				  .coordinator_boot_id = 99,
				  .rf = 3,
				  .quorum = 2,
				  .voter_count = 2,
				  .learner_count = 1,
				  .param_count = 1,
				  .intent = INTENT_ATTACH,
				  .intent_id = 3,
				  .target_node = "n2",
				  .delete_wanted = true,
				  .created_ms = 1700000000000};
	for (uint8_t i = 0; i < 3; i++) {
		struct record_member *m = i < 2 ? &r.voters[i] : &r.learners[0];
		*m = (struct record_member){.replica_uuid = {{i, 9}}, .store_uuid = {{i, 8}}};
		snprintf(m->node, sizeof(m->node), "n%d", i);
		snprintf(m->domain, sizeof(m->domain), "z/r/h%d", i);
	}
	strcpy(r.params[0].key, "type");
	strcpy(r.params[0].value, "nvme \"quoted\"");
	volume_condition_set(&r, "Degraded", "replica on n3 is away", 5);
	return r;
}

TEST(records, volume_round_trips_byte_for_byte)
{
	static struct volume_record a, b;
	struct err err = {0};
	char *text = NULL, *again = NULL;
	a = volume_sample();
	CHECK_EQ(volume_record_encode(&a, &text, &err), 0);
	CHECK_EQ(volume_record_decode(text, strlen(text), &b, &err), 0);
	CHECK_EQ(volume_record_encode(&b, &again, &err), 0);
	CHECK_STR(again, text);
	CHECK(uuid_equal(&a.voters[1].replica_uuid, &b.voters[1].replica_uuid));
	CHECK_STR(b.learners[0].node, "n2");
	CHECK_EQ(b.intent, INTENT_ATTACH);
	CHECK_EQ(b.conditions[0].since_ms, 5);
	free(text);
	free(again);
}

TEST(records, node_export_and_event_round_trip)
{
	static struct node_record n, m;
	struct export_record x = {.volume = "db1", .address = "unix:/run/x", .read_only = true}, y;
	struct event_record e = {1, 2, EVENT_WARN, "NodeLost", "node/n1", "lease ran out"}, g;
	char *text = NULL;
	n = (struct node_record){
		.name = "n1", .uuid = {{1}}, .zone = "a", .cordoned = true, .store_count = 1};
	strcpy(n.address, "tcp:127.0.0.1:7");
	n.stores[0] = (struct record_store){
		.uuid = {{3}}, .capacity_bytes = 100, .label_count = 1, .state = STORE_DRAINING};
	strcpy(n.stores[0].labels[0].key, "type");
	strcpy(n.stores[0].labels[0].value, "nvme-ssd");
	CHECK_EQ(node_record_encode(&n, &text, NULL), 0);
	CHECK_EQ(node_record_decode(text, strlen(text), &m, NULL), 0);
	CHECK(memcmp(&n, &m, sizeof(n)) == 0);
	free(text);
	CHECK_EQ(export_record_encode(&x, &text, NULL), 0);
	CHECK_EQ(export_record_decode(text, strlen(text), &y, NULL), 0);
	CHECK_STR(y.address, x.address);
	CHECK(y.read_only);
	free(text);
	CHECK_EQ(event_record_encode(&e, &text, NULL), 0);
	CHECK_EQ(event_record_decode(text, strlen(text), &g, NULL), 0);
	CHECK_STR(g.cause, e.cause);
	free(text);
}

/* Replaces the first occurrence of `from` in an encoded sample and decodes that. */
static int decode_with(const char *from, const char *to, struct err *err)
{
	static struct volume_record r, out;
	static char changed[16384];
	char *text = NULL;
	r = volume_sample();
	CHECK_EQ(volume_record_encode(&r, &text, err), 0);
	char *at = strstr(text, from);
	CHECK(at != NULL, "'%s' is not in %s", from, text);
	snprintf(changed, sizeof(changed), "%.*s%s%s", (int)(at - text), text, to,
		 at + strlen(from));
	free(text);
	return volume_record_decode(changed, strlen(changed), &out, err);
}

TEST(records, newer_version_is_refused_by_name)
{
	struct err err = {0};
	CHECK_EQ(decode_with("\"version\":1", "\"version\":2", &err), -ENOTSUP);
	CHECK(strstr(err_text(&err), "version 2"), "%s", err_text(&err));
}

TEST(records, malformed_fields_are_refused_by_name)
{
	static const struct {
		const char *from, *to, *named;
	} cases[] = {
		{"\"kind\":\"volume\"", "\"kind\":\"node\"", "kind"},
		{"\"epoch\":7", "\"epoch\":-1", "epoch"},
		{"\"epoch\":7", "\"epoch\":5", "opened_epoch"},
		{"\"epoch\":7", "\"epoch\":\"7\"", "epoch"},
		{"\"epoch\":7", "\"epoch\":99999999999999999999", "JSON"},
		{"\"epoch\":7,", "", "epoch"},
		{"\"epoch\":7", "\"epoch\":7,\"extra\":1", "fields"},
		{"\"epoch\":7", "\"epoch\":7,\"epoch\":8", "JSON"},
		{"\"quorum\":2", "\"quorum\":1", "quorum"},
		{"\"rf\":3", "\"rf\":6", "rf"},
		{"\"bound\"", "\"flying\"", "flying"},
		{"\"name\":\"db1\"", "\"name\":\"DB1\"", "name"},
		{"\"name\":\"db1\"", "\"name\":\"a\\u0000b\"", "JSON"},
		{"1073741824", "1073741825", "size_bytes"},
		{"1073741824", "4096", "size_bytes"},
		{"01000000-", "0100000-", "uuid"},
		{"replica on", "replica\\u0007on", "reason"},
		{"\"voters\":[", "\"voters\":[5,", "voters"},
		{"{", "", "JSON"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = {0};
		CHECK_EQ(decode_with(cases[i].from, cases[i].to, &err), -EBADMSG);
		CHECK(strstr(err_text(&err), cases[i].named), "%s: %s", cases[i].to,
		      err_text(&err));
	}
}

TEST(records, truncation_at_every_byte_is_refused)
{
	static struct volume_record r, out;
	char *text = NULL;
	r = volume_sample();
	CHECK_EQ(volume_record_encode(&r, &text, NULL), 0);
	for (size_t n = 0; n < strlen(text); n++)
		CHECK_EQ(volume_record_decode(text, n, &out, NULL), -EBADMSG);
	free(text);
}

TEST(records, encoding_refuses_what_decoding_would)
{
	static struct volume_record r;
	struct err err = {0};
	char *text = NULL;
	r = volume_sample();
	r.voters[1].replica_uuid = r.voters[0].replica_uuid;
	CHECK_EQ(volume_record_encode(&r, &text, &err), -EINVAL);
	r = volume_sample();
	r.voter_count = 4;
	CHECK_EQ(volume_record_encode(&r, &text, &err), -EINVAL);
	r = volume_sample();
	memset(r.name, 'a', sizeof(r.name));
	CHECK_EQ(volume_record_encode(&r, &text, &err), -EINVAL);
	CHECK(text == NULL);
}

TEST(records, names_are_rfc_1123_labels)
{
	static const char *const good[] = {
		"a", "0", "db-1", "a--b",
		"a23456789012345678901234567890123456789012345678901234567890123"};
	static const char *const bad[] = {
		"",
		"-a",
		"a-",
		"A",
		"a_b",
		"a.b",
		"\xc3\xa4",
		"a b",
		"a234567890123456789012345678901234567890123456789012345678901234"};
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		CHECK_EQ(name_check("volume name", good[i], NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		CHECK_EQ(name_check("volume name", bad[i], NULL), -EINVAL);
}

TEST(records, sizes_have_bounds_and_alignment)
{
	CHECK_EQ(volume_size_check(0, NULL), -EINVAL);
	CHECK_EQ(volume_size_check(VOLUME_SIZE_MIN - 4096, NULL), -EINVAL);
	CHECK_EQ(volume_size_check(VOLUME_SIZE_MIN, NULL), 0);
	CHECK_EQ(volume_size_check(VOLUME_SIZE_MIN + 1, NULL), -EINVAL);
	CHECK_EQ(volume_size_check(VOLUME_SIZE_MAX, NULL), 0);
	CHECK_EQ(volume_size_check(VOLUME_SIZE_MAX + 4096, NULL), -EINVAL);
	CHECK_EQ(volume_size_check(UINT64_MAX, NULL), -EINVAL);
}

TEST(records, condition_keeps_its_time_and_makes_room)
{
	static struct volume_record r;
	char type[16];
	volume_condition_set(&r, "A", "one", 1);
	volume_condition_set(&r, "A", "two\n", 2);
	CHECK_EQ(r.condition_count, 1);
	CHECK_EQ(r.conditions[0].since_ms, 1);
	CHECK_STR(r.conditions[0].reason, "two ");
	for (int i = 0; i < VOLUME_CONDITIONS_MAX; i++) {
		snprintf(type, sizeof(type), "B%d", i);
		volume_condition_set(&r, type, "", 3);
	}
	CHECK_EQ(r.condition_count, VOLUME_CONDITIONS_MAX);
	CHECK(!volume_condition_clear(&r, "A"));
	CHECK(volume_condition_clear(&r, "B3"));
	CHECK_EQ(r.condition_count, VOLUME_CONDITIONS_MAX - 1);
}

static int parse_one(const char *key, const char *value, struct class_settings *s, struct err *err)
{
	struct record_param p = {0};
	snprintf(p.key, sizeof(p.key), "%s", key);
	snprintf(p.value, sizeof(p.value), "%s", value);
	return class_params_parse(&p, 1, s, err);
}

TEST(class_params, defaults_and_values)
{
	struct class_settings s;
	CHECK_EQ(class_params_parse(NULL, 0, &s, NULL), 0);
	CHECK_EQ(s.rf, 3);
	CHECK(!s.fail_on_no_quorum);
	CHECK_EQ(parse_one("replicationFactor", "1", &s, NULL), 0);
	CHECK_EQ(s.rf, 1);
	CHECK_EQ(parse_one("readLease", "on", &s, NULL), 0);
	struct record_param fail[] = {{"onNoQuorum", "fail"}, {"noQuorumTimeout", "5m"}};
	CHECK_EQ(class_params_parse(fail, 2, &s, NULL), 0);
	CHECK_EQ(s.no_quorum_timeout_ms, 300000);
	CHECK_EQ(class_params_parse(fail + 1, 1, &s, NULL), -EINVAL);
	struct record_param twice[] = {{"type", "a"}, {"type", "b"}};
	CHECK_EQ(class_params_parse(twice, 2, &s, NULL), -EINVAL);
}

TEST(class_params, bad_ones_are_refused_with_key_value_and_what_is_allowed)
{
	static const struct {
		const char *key, *value, *says;
	} cases[] = {
		{"replicationFactor", "0", "1 to 5"},
		{"replicationFactor", "33", "1 to 5"},
		{"replicationfactor", "3", "unknown"},
		{"replicationMode", "asynchronous", "not supported by this version"},
		{"consistencyLevel", "eventual", "not supported by this version"},
		{"encryption", "aes-256-gcm", "not supported by this version"},
		{"deduplication", "true", "not supported by this version"},
		{"compression", "lz4", "not supported by this version"},
		{"snapshotSchedule", "0 */6 * * *", "not supported by this version"},
		{"qosClass", "guaranteed", "not supported by this version"},
		{"minIOPS", "10000", "not supported by this version"},
		{"iops", "50000", "not supported by this version"},
		{"throughput", "1000Mi", "not supported by this version"},
		{"checksumAlgorithm", "md5", "crc32c"},
		{"readLease", "off", "not supported by this version"},
		{"noQuorumTimeout", "60", "500ms"},
		{"type", "a b", "letters"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct class_settings s;
		struct err err = {0};
		CHECK_EQ(parse_one(cases[i].key, cases[i].value, &s, &err), -EINVAL);
		CHECK(strstr(err_text(&err), cases[i].key) &&
			      strstr(err_text(&err), cases[i].value) &&
			      strstr(err_text(&err), cases[i].says),
		      "%s", err_text(&err));
	}
	struct class_settings s;
	CHECK_EQ(parse_one("compression", "none", &s, NULL), 0);
	CHECK_EQ(parse_one("checksumAlgorithm", "crc32c", &s, NULL), 0);
}
