/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every back end of the metadata interface must do: one body, included by one test per back
 * end, which defines META_SUBJECT and
 *   struct meta *backend_open(struct env *env);   the same store at each call within a test
 *   void backend_free(void);                      after the last close
 */
#ifndef HF_TESTS_UNIT_META_CONFORM_H
#define HF_TESTS_UNIT_META_CONFORM_H

#include <errno.h>

#include "tests/unit/fake_env.h"
#include "tests/unit/test.h"
#include "volmgr/meta.h"

#define SECOND_NS 1000000000ull

static struct meta *backend_open(struct env *env);
static void backend_free(void);

struct fixture {
	struct fake_env fake;
	struct meta *meta;
};

/* ---- calls that wait ---- */

struct wait_close {
	struct meta_close close;
	bool is_done;
};
static void wait_close_done(struct meta_close *close)
{
	CONTAINER_OF(close, struct wait_close, close)->is_done = true;
}
static void fixture_close(struct fixture *f)
{
	struct wait_close w = {.close.done = wait_close_done};
	meta_close(f->meta, &w.close);
	CHECK(!w.is_done, "close completed inside the call");
	CHECK(fake_env_run(&f->fake, &w.is_done, SECOND_NS));
}
static void setup(struct fixture *f)
{
	fake_env_init(&f->fake, 1);
	f->meta = backend_open(&f->fake.env);
}
static void teardown(struct fixture *f)
{
	fixture_close(f);
	backend_free();
	fake_env_free(&f->fake);
}
static void reopen(struct fixture *f)
{
	fixture_close(f);
	f->meta = backend_open(&f->fake.env);
}

#define COPIES_MAX 64
struct copy {
	char key[META_KEY_MAX + 1];
	char value[128];
	struct meta_kv kv;
};
struct wait_range {
	struct meta_range op;
	bool is_done;
	int status;
	uint32_t count;
	struct copy copies[COPIES_MAX];
};
static void copy_kv(struct copy *copy, const struct meta_kv *kv)
{
	copy->kv = *kv;
	copy->key[0] = copy->value[0] = 0;
	if (kv->key == NULL)
		return;
	snprintf(copy->key, sizeof(copy->key), "%s", kv->key);
	snprintf(copy->value, sizeof(copy->value), "%.*s", (int)kv->value_bytes,
		 (const char *)kv->value);
}
static void wait_range_done(struct meta_range *op, int status)
{
	struct wait_range *w = CONTAINER_OF(op, struct wait_range, op);
	w->is_done = true;
	w->status = status;
	w->count = op->kv_count;
	for (uint32_t i = 0; i < op->kv_count && i < COPIES_MAX; i++)
		copy_kv(&w->copies[i], &op->kvs[i]);
}
static int run_range(struct fixture *f, struct wait_range *w)
{
	w->op.done = wait_range_done;
	w->is_done = false;
	meta_range(f->meta, &w->op);
	CHECK(!w->is_done, "range completed inside the call");
	CHECK(fake_env_run(&f->fake, &w->is_done, 10 * SECOND_NS));
	return w->status;
}

struct wait_txn {
	struct meta_txn op;
	bool is_done;
	int status;
	uint32_t count;
	struct copy copies[8];
};
static void wait_txn_done(struct meta_txn *op, int status)
{
	struct wait_txn *w = CONTAINER_OF(op, struct wait_txn, op);
	w->is_done = true;
	w->status = status;
	w->count = op->result_count;
	for (uint32_t i = 0; i < op->result_count && i < ARRAY_LEN(w->copies); i++)
		copy_kv(&w->copies[i], &op->results[i]);
}
static int run_txn(struct fixture *f, struct wait_txn *w)
{
	w->op.done = wait_txn_done;
	w->is_done = false;
	meta_txn(f->meta, &w->op);
	CHECK(!w->is_done, "txn completed inside the call");
	CHECK(fake_env_run(&f->fake, &w->is_done, 10 * SECOND_NS));
	return w->status;
}
/* Puts without a condition; returns the revision. */
static int64_t put(struct fixture *f, const char *key, const char *value, uint64_t lease_id)
{
	struct meta_do op = meta_do_put(key, value, strlen(value), lease_id);
	struct wait_txn w = {.op = {.success = &op, .success_count = 1}};
	CHECK_EQ(run_txn(f, &w), 0);
	CHECK(w.op.succeeded);
	return w.op.revision;
}
static int64_t drop(struct fixture *f, const char *key)
{
	struct meta_do op = meta_do_delete(key);
	struct wait_txn w = {.op = {.success = &op, .success_count = 1}};
	CHECK_EQ(run_txn(f, &w), 0);
	return w.op.revision;
}
/* Reads one key into *ret; false when it does not exist. */
static bool get(struct fixture *f, const char *key, struct copy *ret)
{
	static struct wait_range w;
	w = (struct wait_range){.op.key = key};
	CHECK_EQ(run_range(f, &w), 0);
	if (w.count)
		*ret = w.copies[0];
	return w.count == 1;
}

struct wait_lease {
	struct meta_lease op;
	bool is_done;
	int status;
};
static void wait_lease_done(struct meta_lease *op, int status)
{
	struct wait_lease *w = CONTAINER_OF(op, struct wait_lease, op);
	w->is_done = true;
	w->status = status;
}
static int run_lease(struct fixture *f, struct wait_lease *w,
		     void (*call)(struct meta *, struct meta_lease *))
{
	w->op.done = wait_lease_done;
	w->is_done = false;
	call(f->meta, &w->op);
	CHECK(!w->is_done, "lease call completed inside the call");
	CHECK(fake_env_run(&f->fake, &w->is_done, 10 * SECOND_NS));
	return w->status;
}

struct wait_compact {
	struct meta_compact op;
	bool is_done;
	int status;
};
static void wait_compact_done(struct meta_compact *op, int status)
{
	struct wait_compact *w = CONTAINER_OF(op, struct wait_compact, op);
	w->is_done = true;
	w->status = status;
}
static int run_compact(struct fixture *f, int64_t revision)
{
	struct wait_compact w = {.op = {.revision = revision, .done = wait_compact_done}};
	meta_compact(f->meta, &w.op);
	CHECK(fake_env_run(&f->fake, &w.is_done, SECOND_NS));
	return w.status;
}

struct seen {
	struct meta_watch watch;
	uint32_t count;
	struct {
		int64_t revision;
		bool is_delete;
		char key[64];
		char value[64];
	} events[256];
	int end_status;
	bool stop_self;
	bool has_ended;
};
static void seen_changed(struct meta_watch *watch, int64_t revision,
			 const struct meta_event *events, uint32_t event_count)
{
	struct seen *s = CONTAINER_OF(watch, struct seen, watch);
	for (uint32_t i = 0; i < event_count && s->count < ARRAY_LEN(s->events); i++) {
		CHECK_EQ(events[i].kv.mod_revision, revision);
		s->events[s->count].revision = revision;
		s->events[s->count].is_delete = events[i].is_delete;
		snprintf(s->events[s->count].key, 64, "%s", events[i].kv.key);
		snprintf(s->events[s->count].value, 64, "%.*s", (int)events[i].kv.value_bytes,
			 (const char *)events[i].kv.value);
		s->count++;
	}
	if (s->stop_self)
		meta_watch_stop(watch);
}
static void seen_ended(struct meta_watch *watch, int status)
{
	struct seen *s = CONTAINER_OF(watch, struct seen, watch);
	s->end_status = status;
	s->has_ended = true;
}
static void seen_start(struct fixture *f, struct seen *s, const char *prefix, int64_t from)
{
	*s = (struct seen){.watch = {.key = prefix,
				     .is_prefix = true,
				     .from_revision = from,
				     .changed = seen_changed,
				     .ended = seen_ended}};
	meta_watch_start(f->meta, &s->watch);
	CHECK(s->count == 0 && !s->has_ended, "watch called back inside the call");
}
static void settle(struct fixture *f)
{
	fake_env_run(&f->fake, NULL, 1000000);
}

/* ---- keys, revisions ---- */

TEST(META_SUBJECT, put_and_get_with_revisions_and_versions)
{
	struct fixture f;
	struct copy c;
	setup(&f);
	CHECK(!get(&f, "/a", &c));
	int64_t first = put(&f, "/a", "one", 0);
	CHECK_EQ(first, 2);
	int64_t second = put(&f, "/a", "two", 0);
	CHECK_EQ(second, first + 1);
	CHECK(get(&f, "/a", &c));
	CHECK_STR(c.value, "two");
	CHECK_EQ(c.kv.create_revision, first);
	CHECK_EQ(c.kv.mod_revision, second);
	CHECK_EQ(c.kv.version, 2);
	drop(&f, "/a");
	int64_t third = put(&f, "/a", "", 0);
	CHECK(get(&f, "/a", &c));
	CHECK_EQ(c.kv.version, 1);
	CHECK_EQ(c.kv.create_revision, third);
	CHECK_EQ(c.kv.value_bytes, 0);
	teardown(&f);
}

TEST(META_SUBJECT, deleting_nothing_is_no_revision)
{
	struct fixture f;
	setup(&f);
	int64_t first = put(&f, "/a", "one", 0);
	CHECK_EQ(drop(&f, "/b"), first);
	teardown(&f);
}

TEST(META_SUBJECT, range_pages_through_a_prefix_in_order)
{
	struct fixture f;
	static struct wait_range w;
	char key[32];
	setup(&f);
	for (int i = 24; i >= 0; i--) {
		snprintf(key, sizeof(key), "/v/%02d", i);
		put(&f, key, key, 0);
	}
	put(&f, "/u", "before", 0);
	put(&f, "/v", "not below", 0);
	put(&f, "/w", "after", 0);
	w = (struct wait_range){.op = {.key = "/v/", .is_prefix = true, .limit = 10}};
	int total = 0, pages = 0;
	do {
		CHECK_EQ(run_range(&f, &w), 0);
		for (uint32_t i = 0; i < w.count; i++, total++) {
			snprintf(key, sizeof(key), "/v/%02d", total);
			CHECK_STR(w.copies[i].key, key);
		}
		pages++;
	} while (w.op.more);
	CHECK_EQ(total, 25);
	CHECK_EQ(pages, 3);
	w = (struct wait_range){.op = {.key = "/v/", .is_prefix = true}};
	strcpy(w.op.continue_key, "/other");
	CHECK_EQ(run_range(&f, &w), -EINVAL);
	teardown(&f);
}

TEST(META_SUBJECT, exact_key_is_not_a_prefix)
{
	struct fixture f;
	struct copy c;
	setup(&f);
	put(&f, "/volumes/db10", "x", 0);
	CHECK(!get(&f, "/volumes/db1", &c));
	teardown(&f);
}

TEST(META_SUBJECT, large_values_end_a_page_early)
{
	struct fixture f;
	static struct wait_range w;
	char key[32];
	setup(&f);
	char *big = calloc(1, META_VALUE_MAX);
	for (int i = 0; i < 6; i++) {
		snprintf(key, sizeof(key), "/big/%d", i);
		struct meta_do op = meta_do_put(key, big, META_VALUE_MAX, 0);
		struct wait_txn t = {.op = {.success = &op, .success_count = 1}};
		CHECK_EQ(run_txn(&f, &t), 0);
	}
	free(big);
	w = (struct wait_range){.op = {.key = "/big/", .is_prefix = true}};
	CHECK_EQ(run_range(&f, &w), 0);
	CHECK(w.op.more && w.count >= 3 && w.count < 6, "%u", w.count);
	uint32_t first = w.count;
	CHECK_EQ(run_range(&f, &w), 0);
	CHECK(!w.op.more);
	CHECK_EQ(first + w.count, 6);
	teardown(&f);
}

/* ---- transactions ---- */

static bool holds(struct fixture *f, struct meta_compare compare)
{
	struct wait_txn w = {.op = {.compares = &compare, .compare_count = 1}};
	CHECK_EQ(run_txn(f, &w), 0);
	return w.op.succeeded;
}

TEST(META_SUBJECT, compares_of_every_target_and_relation)
{
	struct fixture f;
	setup(&f);
	int64_t first = put(&f, "/a", "m", 0);
	int64_t second = put(&f, "/a", "mm", 0);
	const struct {
		enum meta_target target;
		int64_t number;
	} numbers[] = {
		{META_VERSION, 2}, {META_CREATE_REVISION, first}, {META_MOD_REVISION, second}};
	for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
		for (int delta = -1; delta <= 1; delta++) {
			struct meta_compare c = {.key = "/a",
						 .target = numbers[i].target,
						 .number = numbers[i].number + delta};
			c.relation = META_EQUAL;
			CHECK_EQ(holds(&f, c), delta == 0);
			c.relation = META_NOT_EQUAL;
			CHECK_EQ(holds(&f, c), delta != 0);
			c.relation = META_GREATER;
			CHECK_EQ(holds(&f, c), delta < 0);
			c.relation = META_LESS;
			CHECK_EQ(holds(&f, c), delta > 0);
		}
	}
	struct meta_compare v = {
		.key = "/a", .target = META_VALUE, .value = "mm", .value_bytes = 2};
	CHECK(holds(&f, v));
	v.value_bytes = 1;
	CHECK(!holds(&f, v));
	v.relation = META_GREATER;
	CHECK(holds(&f, v));
	v.key = "/none";
	v.relation = META_NOT_EQUAL;
	CHECK(!holds(&f, v), "a value compare of a key that does not exist fails");
	CHECK(holds(&f, meta_if_absent("/none")));
	CHECK(!holds(&f, meta_if_absent("/a")));
	CHECK(holds(&f, meta_if_exists("/a")));
	CHECK(holds(&f, meta_if_unchanged("/none", 0)));
	teardown(&f);
}

TEST(META_SUBJECT, failed_compare_does_the_other_branch_and_reads)
{
	struct fixture f;
	struct copy c;
	setup(&f);
	int64_t now = put(&f, "/a", "old", 0);
	struct meta_compare compare = meta_if_unchanged("/a", now - 1);
	struct meta_do success = meta_do_put("/a", "new", 3, 0);
	struct meta_do failure[] = {meta_do_get("/a"), meta_do_get("/none")};
	struct wait_txn w = {.op = {.compares = &compare,
				    .compare_count = 1,
				    .success = &success,
				    .success_count = 1,
				    .failure = failure,
				    .failure_count = 2}};
	CHECK_EQ(run_txn(&f, &w), 0);
	CHECK(!w.op.succeeded);
	CHECK_EQ(w.op.revision, now);
	CHECK_EQ(w.count, 2);
	CHECK_STR(w.copies[0].value, "old");
	CHECK(w.copies[1].kv.key == NULL);
	CHECK(get(&f, "/a", &c));
	CHECK_STR(c.value, "old");
	teardown(&f);
}

TEST(META_SUBJECT, transaction_is_one_revision_and_reads_its_own_writes)
{
	struct fixture f;
	struct copy c;
	setup(&f);
	put(&f, "/d/1", "x", 0);
	put(&f, "/d/2", "x", 0);
	struct meta_do ops[] = {
		meta_do_put("/a", "1", 1, 0),
		meta_do_put("/b", "2", 1, 0),
		{.action = META_DELETE_PREFIX, .key = "/d/"},
		meta_do_get("/a"),
		meta_do_get("/d/1"),
	};
	struct wait_txn w = {.op = {.success = ops, .success_count = ARRAY_LEN(ops)}};
	CHECK_EQ(run_txn(&f, &w), 0);
	CHECK_EQ(w.op.revision, 4);
	CHECK_EQ(w.op.deleted_count, 2);
	CHECK_EQ(w.count, 5);
	CHECK_STR(w.copies[3].value, "1");
	CHECK(w.copies[4].kv.key == NULL);
	CHECK(get(&f, "/b", &c));
	CHECK_EQ(c.kv.mod_revision, 4);
	teardown(&f);
}

TEST(META_SUBJECT, failing_transaction_changes_nothing)
{
	struct fixture f;
	struct copy c;
	setup(&f);
	int64_t before = put(&f, "/z", "z", 0);
	struct meta_do ops[] = {meta_do_put("/a", "1", 1, 0), meta_do_put("/b", "2", 1, 4711)};
	struct wait_txn w = {.op = {.success = ops, .success_count = 2}};
	CHECK_EQ(run_txn(&f, &w), -ENOENT);
	CHECK(!get(&f, "/a", &c));
	CHECK_EQ(put(&f, "/z", "zz", 0), before + 1);
	teardown(&f);
}

static int status_of(struct fixture *f, const struct meta_do *ops, uint32_t count)
{
	struct wait_txn w = {.op = {.success = ops, .success_count = count}};
	return run_txn(f, &w);
}

TEST(META_SUBJECT, malformed_requests_are_refused)
{
	struct fixture f;
	setup(&f);
	char longer[META_KEY_MAX + 2];
	memset(longer, 'k', sizeof(longer) - 1);
	longer[0] = '/';
	longer[META_KEY_MAX + 1] = 0;
	struct meta_do too_long = meta_do_put(longer, "", 0, 0);
	CHECK_EQ(status_of(&f, &too_long, 1), -EINVAL);
	longer[META_KEY_MAX] = 0;
	CHECK_EQ(status_of(&f, &too_long, 1), 0);
	struct meta_do no_slash = meta_do_put("a", "", 0, 0);
	CHECK_EQ(status_of(&f, &no_slash, 1), -EINVAL);
	struct meta_do too_big = meta_do_put("/a", "", META_VALUE_MAX + 1u, 0);
	CHECK_EQ(status_of(&f, &too_big, 1), -EINVAL);
	struct meta_do twice[] = {meta_do_put("/a", "", 0, 0), meta_do_delete("/a")};
	CHECK_EQ(status_of(&f, twice, 2), -EINVAL);
	struct meta_do overlap[] = {meta_do_put("/a/b", "", 0, 0),
				    {.action = META_DELETE_PREFIX, .key = "/a"}};
	CHECK_EQ(status_of(&f, overlap, 2), -EINVAL);
	static struct meta_do many[META_TXN_OPS_MAX + 1];
	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		many[i] = meta_do_get("/a");
	CHECK_EQ(status_of(&f, many, ARRAY_LEN(many)), -EINVAL);
	struct wait_lease w = {.op.ttl_ms = META_LEASE_TTL_MIN_MS - 1};
	CHECK_EQ(run_lease(&f, &w, meta_lease_grant), -EINVAL);
	teardown(&f);
}

TEST(META_SUBJECT, of_two_racing_compare_and_swaps_one_wins)
{
	struct fixture f;
	setup(&f);
	int64_t now = put(&f, "/a", "old", 0);
	struct meta_compare compare = meta_if_unchanged("/a", now);
	struct meta_do ops[2] = {meta_do_put("/a", "x", 1, 0), meta_do_put("/a", "y", 1, 0)};
	struct wait_txn w[2];
	for (int i = 0; i < 2; i++) {
		w[i] = (struct wait_txn){.op = {.compares = &compare,
						.compare_count = 1,
						.success = &ops[i],
						.success_count = 1,
						.done = wait_txn_done}};
		meta_txn(f.meta, &w[i].op);
	}
	CHECK(fake_env_run(&f.fake, &w[1].is_done, SECOND_NS));
	CHECK(w[0].is_done);
	CHECK_EQ(w[0].op.succeeded + w[1].op.succeeded, 1);
	teardown(&f);
}

/* ---- leases ---- */

TEST(META_SUBJECT, lease_that_runs_out_deletes_its_keys)
{
	struct fixture f;
	struct copy c;
	static struct seen s;
	setup(&f);
	struct wait_lease w = {.op.ttl_ms = 5000};
	CHECK_EQ(run_lease(&f, &w, meta_lease_grant), 0);
	CHECK(w.op.lease_id != 0);
	put(&f, "/nodes/a", "up", w.op.lease_id);
	put(&f, "/nodes/b", "up", w.op.lease_id);
	put(&f, "/nodes/c", "up", 0);
	CHECK(get(&f, "/nodes/a", &c));
	CHECK_EQ(c.kv.lease_id, w.op.lease_id);
	seen_start(&f, &s, "/nodes/", 0);
	for (int i = 0; i < 3; i++) {
		fake_env_run(&f.fake, NULL, 4 * SECOND_NS);
		CHECK_EQ(run_lease(&f, &w, meta_lease_keepalive), 0);
		CHECK_EQ(w.op.ttl_ms, 5000);
	}
	CHECK_EQ(s.count, 0);
	fake_env_run(&f.fake, NULL, 6 * SECOND_NS);
	CHECK(!get(&f, "/nodes/a", &c));
	CHECK(get(&f, "/nodes/c", &c));
	CHECK_EQ(s.count, 2);
	CHECK(s.events[0].is_delete && s.events[1].is_delete);
	CHECK_EQ(s.events[0].revision, s.events[1].revision);
	CHECK_EQ(run_lease(&f, &w, meta_lease_keepalive), -ENOENT);
	meta_watch_stop(&s.watch);
	teardown(&f);
}

TEST(META_SUBJECT, revoke_deletes_keys_and_detached_keys_stay)
{
	struct fixture f;
	struct copy c;
	setup(&f);
	struct wait_lease w = {.op.ttl_ms = 5000};
	CHECK_EQ(run_lease(&f, &w, meta_lease_grant), 0);
	put(&f, "/a", "x", w.op.lease_id);
	put(&f, "/b", "x", w.op.lease_id);
	put(&f, "/b", "y", 0);
	CHECK_EQ(run_lease(&f, &w, meta_lease_revoke), 0);
	CHECK(!get(&f, "/a", &c));
	CHECK(get(&f, "/b", &c));
	CHECK_EQ(run_lease(&f, &w, meta_lease_revoke), -ENOENT);
	teardown(&f);
}

TEST(META_SUBJECT, chosen_lease_id_is_taken_once)
{
	struct fixture f;
	setup(&f);
	struct wait_lease w = {.op = {.lease_id = 77, .ttl_ms = 5000}};
	CHECK_EQ(run_lease(&f, &w, meta_lease_grant), 0);
	CHECK_EQ(w.op.lease_id, 77);
	CHECK_EQ(run_lease(&f, &w, meta_lease_grant), -EINVAL);
	teardown(&f);
}

/* ---- watches ---- */

TEST(META_SUBJECT, watch_sees_every_change_of_its_prefix_in_order)
{
	struct fixture f;
	static struct seen s;
	setup(&f);
	put(&f, "/v/before", "x", 0);
	seen_start(&f, &s, "/v/", 0);
	int64_t first = put(&f, "/v/a", "1", 0);
	put(&f, "/other", "x", 0);
	struct meta_do ops[] = {meta_do_put("/v/a", "2", 1, 0), meta_do_put("/v/b", "3", 1, 0)};
	CHECK_EQ(status_of(&f, ops, 2), 0);
	drop(&f, "/v/a");
	settle(&f);
	CHECK_EQ(s.count, 4);
	CHECK_EQ(s.events[0].revision, first);
	CHECK_STR(s.events[0].value, "1");
	CHECK_STR(s.events[2].key, "/v/b");
	CHECK_EQ(s.events[1].revision, s.events[2].revision);
	CHECK(s.events[3].is_delete);
	meta_watch_stop(&s.watch);
	put(&f, "/v/a", "5", 0);
	settle(&f);
	CHECK_EQ(s.count, 4);
	teardown(&f);
}

TEST(META_SUBJECT, watch_resumes_from_a_revision)
{
	struct fixture f;
	static struct seen s;
	setup(&f);
	char value[16];
	int64_t revision = 0;
	for (int i = 0; i < 100; i++) {
		snprintf(value, sizeof(value), "%d", i);
		int64_t r = put(&f, "/v/a", value, 0);
		if (i == 40)
			revision = r;
	}
	seen_start(&f, &s, "/v/a", revision);
	settle(&f);
	CHECK_EQ(s.count, 60);
	CHECK_STR(s.events[0].value, "40");
	CHECK_STR(s.events[59].value, "99");
	meta_watch_stop(&s.watch);
	reopen(&f);
	seen_start(&f, &s, "/v/a", revision);
	settle(&f);
	CHECK_EQ(s.count, 60);
	meta_watch_stop(&s.watch);
	teardown(&f);
}

TEST(META_SUBJECT, watch_may_stop_itself_and_close_ends_it)
{
	struct fixture f;
	static struct seen s, t;
	setup(&f);
	seen_start(&f, &s, "/v/", 0);
	s.stop_self = true;
	seen_start(&f, &t, "/v/", 0);
	put(&f, "/v/a", "1", 0);
	put(&f, "/v/a", "2", 0);
	settle(&f);
	CHECK_EQ(s.count, 1);
	CHECK_EQ(t.count, 2);
	fixture_close(&f);
	CHECK(!s.has_ended);
	CHECK(t.has_ended);
	CHECK_EQ(t.end_status, -ECANCELED);
	meta_watch_stop(&t.watch);
	f.meta = backend_open(&f.fake.env);
	teardown(&f);
}

TEST(META_SUBJECT, watch_of_compacted_history_is_told_what_is_left)
{
	struct fixture f;
	static struct seen s;
	setup(&f);
	int64_t last = 0;
	for (int i = 0; i < 20; i++)
		last = put(&f, "/v/a", "x", 0);
	CHECK_EQ(run_compact(&f, last + 1), -EINVAL);
	CHECK_EQ(run_compact(&f, last - 5), 0);
	seen_start(&f, &s, "/v/", last - 6);
	settle(&f);
	CHECK(s.has_ended);
	CHECK_EQ(s.end_status, -ESTALE);
	CHECK_EQ(s.watch.compact_revision, last - 5);
	seen_start(&f, &s, "/v/", s.watch.compact_revision);
	settle(&f);
	CHECK_EQ(s.count, 6);
	meta_watch_stop(&s.watch);
	teardown(&f);
}

/* ---- life ---- */

TEST(META_SUBJECT, everything_is_there_after_reopen)
{
	struct fixture f;
	struct copy c;
	setup(&f);
	put(&f, "/a", "1", 0);
	struct wait_lease w = {.op.ttl_ms = 5000};
	CHECK_EQ(run_lease(&f, &w, meta_lease_grant), 0);
	int64_t last = put(&f, "/leased", "x", w.op.lease_id);
	reopen(&f);
	CHECK(get(&f, "/a", &c));
	CHECK_STR(c.value, "1");
	CHECK_EQ(run_lease(&f, &w, meta_lease_keepalive), 0);
	CHECK_EQ(put(&f, "/a", "2", 0), last + 1);
	CHECK(get(&f, "/leased", &c));
	fake_env_run(&f.fake, NULL, 6 * SECOND_NS);
	CHECK(!get(&f, "/leased", &c), "a lease is persistent, and still ends after a reopen");
	teardown(&f);
}

TEST(META_SUBJECT, close_completes_what_is_pending)
{
	struct fixture f;
	setup(&f);
	struct meta_do op = meta_do_put("/a", "x", 1, 0);
	struct wait_txn w = {.op = {.success = &op, .success_count = 1, .done = wait_txn_done}};
	meta_txn(f.meta, &w.op);
	fixture_close(&f);
	CHECK(w.is_done);
	CHECK_EQ(w.status, -ECANCELED);
	f.meta = backend_open(&f.fake.env);
	teardown(&f);
}

#endif
