/* SPDX-License-Identifier: Apache-2.0 */
/* The in-memory metadata store: the common behaviour, and the faults that it can inject. */
#define META_SUBJECT meta_mem
#include "tests/unit/meta_conform.h"

static struct meta_mem *backend_mem;

static struct meta *backend_open(struct env *env)
{
	if (backend_mem == NULL)
		backend_mem = meta_mem_create(env, NULL);
	CHECK(backend_mem != NULL);
	return meta_mem_open(backend_mem, env);
}

static void backend_free(void)
{
	meta_mem_destroy(backend_mem);
	backend_mem = NULL;
}

/* Puts once under a fault; returns the status. */
static int put_status(struct fixture *f, const char *key)
{
	struct meta_do op = meta_do_put(key, "x", 1, 0);
	return status_of(f, &op, 1);
}

TEST(meta_mem_faults, unavailable_is_not_applied)
{
	struct fixture f;
	struct copy c;
	setup(&f);
	meta_mem_faults_set(f.meta, &(struct meta_mem_faults){.is_unavailable = true});
	CHECK_EQ(put_status(&f, "/a"), -EAGAIN);
	meta_mem_faults_set(f.meta, &(struct meta_mem_faults){0});
	CHECK(!get(&f, "/a", &c));
	teardown(&f);
}

TEST(meta_mem_faults, unknown_outcomes_are_applied_lost_or_late)
{
	struct fixture f;
	struct copy c;
	setup(&f);
	meta_mem_faults_set(f.meta, &(struct meta_mem_faults){.unknown_applied_ppm = 1000000});
	CHECK_EQ(put_status(&f, "/applied"), -ETIMEDOUT);
	meta_mem_faults_set(f.meta, &(struct meta_mem_faults){.unknown_lost_ppm = 1000000});
	CHECK_EQ(put_status(&f, "/lost"), -ETIMEDOUT);
	meta_mem_faults_set(f.meta, &(struct meta_mem_faults){.unknown_late_ppm = 1000000,
							      .late_max_ns = SECOND_NS});
	CHECK_EQ(put_status(&f, "/late"), -ETIMEDOUT);
	meta_mem_faults_set(f.meta, &(struct meta_mem_faults){0});
	CHECK(get(&f, "/applied", &c));
	CHECK(!get(&f, "/lost", &c));
	CHECK(!get(&f, "/late", &c));
	fake_env_run(&f.fake, NULL, 2 * SECOND_NS);
	CHECK(get(&f, "/late", &c));
	CHECK_STR(c.value, "x");
	teardown(&f);
}

TEST(meta_mem_faults, delay_is_within_its_bounds_both_ways)
{
	struct fixture f;
	setup(&f);
	meta_mem_faults_set(f.meta, &(struct meta_mem_faults){.delay_min_ns = 1000000,
							      .delay_max_ns = 5000000});
	for (int i = 0; i < 20; i++) {
		uint64_t start_ns = f.fake.now_ns;
		CHECK_EQ(put_status(&f, "/a"), 0);
		uint64_t took_ns = f.fake.now_ns - start_ns;
		CHECK(took_ns >= 2000000 && took_ns <= 10000000);
	}
	teardown(&f);
}

TEST(meta_mem_faults, abandoned_client_gets_no_callback_and_others_go_on)
{
	struct fixture f;
	struct copy c;
	setup(&f);
	struct meta *other = backend_open(&f.fake.env);
	struct meta_do op = meta_do_put("/a", "x", 1, 0);
	struct wait_txn w = {.op = {.success = &op, .success_count = 1, .done = wait_txn_done}};
	meta_txn(other, &w.op);
	meta_mem_abandon(other);
	settle(&f);
	CHECK(!w.is_done);
	CHECK(!get(&f, "/a", &c));
	CHECK_EQ(put_status(&f, "/a"), 0);
	teardown(&f);
}

TEST(meta_mem_faults, history_is_bounded_and_watches_are_told)
{
	struct fixture f;
	static struct seen s;
	fake_env_init(&f.fake, 1);
	backend_mem = meta_mem_create(&f.fake.env,
				      &(struct meta_mem_config){.history_revisions_max = 10});
	f.meta = backend_open(&f.fake.env);
	int64_t last = 0;
	for (int i = 0; i < 50; i++)
		last = put(&f, "/v/a", "x", 0);
	seen_start(&f, &s, "/v/", last - 9);
	settle(&f);
	CHECK_EQ(s.count, 10);
	meta_watch_stop(&s.watch);
	seen_start(&f, &s, "/v/", last - 10);
	settle(&f);
	CHECK_EQ(s.end_status, -ESTALE);
	CHECK_EQ(s.watch.compact_revision, last - 9);
	teardown(&f);
}
