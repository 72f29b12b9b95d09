/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lifecycle over the in-memory metadata store: each path, each refusal, each failure of an
 * effect, and seeded chaos (two managers, lost and late answers, crashes) that must end clean.
 */
#include <errno.h>

#include "tests/unit/fake_env.h"
#include "tests/unit/test.h"
#include "volmgr/lifecycle.h"

#define SECOND_NS 1000000000ull

struct world;
struct manager;

/* An effect on its way to the nodes; it goes on when its manager dies. */
struct effect_run {
	struct env_timer timer;
	struct meta_range range;
	struct world *world;
	struct manager *manager; /* NULL: died */
	struct lifecycle_effect *effect;
	enum volume_intent kind;
	struct volume_record record;
	bool used;
};

/* Replicas and gateways: what effects act on. It outlives managers. */
struct world {
	struct fake_env fake;
	struct meta_mem *mem;
	struct meta *meta; /* the gateways' own, without faults */
	struct effect_run runs[64];
	bool replica_exists[3];
	int owner;         /* node that serves the volume, or -1 */
	uint64_t owner_id; /* the intent_id that it was attached for */
	bool is_deaf;      /* the owner does not hear of being abandoned */
	bool is_abandoned; /* the record has given the owner up: the next attach fences it */
	int fail_kind;     /* intent whose effect fails with fail_status */
	int fail_status;
	uint32_t effects[INTENTS];
	char trace[512];
};

struct manager {
	struct world *world;
	struct meta *meta;
	struct lifecycle *lifecycle;
	struct lifecycle_op op;
	struct lifecycle_resume resume;
	bool op_done, resume_done;
	int op_status;
};

static void world_init(struct world *w, uint64_t seed)
{
	memset(w, 0, sizeof(*w));
	w->owner = -1;
	fake_env_init(&w->fake, seed);
	w->mem = meta_mem_create(&w->fake.env, NULL);
	w->meta = meta_mem_open(w->mem, &w->fake.env);
}

static void world_free(struct world *w)
{
	meta_mem_abandon(w->meta);
	meta_mem_destroy(w->mem);
	fake_env_free(&w->fake);
}

static void run_end(struct effect_run *run, int status)
{
	run->used = false;
	if (run->manager)
		run->effect->done(run->effect, status, status ? "as told" : NULL);
}

/* A gateway takes the volume only as the record says (E2). */
static void attach_read(struct meta_range *range, int status)
{
	struct effect_run *run = CONTAINER_OF(range, struct effect_run, range);
	struct world *w = run->world;
	static struct volume_record now;
	CHECK_EQ(status, 0);
	int node = run->record.target_node[1] - '0';
	if (range->kv_count == 0 ||
	    volume_record_decode(range->kvs[0].value, range->kvs[0].value_bytes, &now, NULL) < 0 ||
	    !lifecycle_attach_allowed(&now, run->record.target_node, run->record.intent_id)) {
		run_end(run, -ESTALE);
		return;
	}
	CHECK(w->owner == -1 || w->owner == node || w->is_abandoned, "two owners");
	w->owner = node;
	w->is_abandoned = false;
	w->owner_id = run->record.intent_id;
	run_end(run, 0);
}

static void run_fire(struct env_timer *timer)
{
	struct effect_run *run = CONTAINER_OF(timer, struct effect_run, timer);
	struct world *w = run->world;
	int status = w->fail_kind == (int)run->kind ? w->fail_status : 0;
	w->effects[run->kind]++;
	for (int i = 0; status == 0 && i < 3; i++) {
		if (run->kind == INTENT_PROVISION)
			w->replica_exists[i] = true;
		if (run->kind == INTENT_CLEANUP)
			w->replica_exists[i] = false;
	}
	if (status == 0 && run->kind == INTENT_ATTACH) {
		run->range = (struct meta_range){.key = "/volumes/db1", .done = attach_read};
		meta_range(w->meta, &run->range);
		return;
	}
	/* A detach that comes late does not end a later attachment (E3). */
	bool is_earlier = w->owner_id < run->record.intent_id;
	if (status == 0 && run->kind == INTENT_DETACH && is_earlier)
		w->owner = -1;
	if (run->kind == INTENT_ABANDON && is_earlier && w->owner >= 0 && w->is_deaf)
		w->is_abandoned = true;
	else if (run->kind == INTENT_ABANDON && is_earlier)
		w->owner = -1;
	run_end(run, status);
}

static void effect_start(void *ctx, struct lifecycle_effect *effect)
{
	struct manager *m = ctx;
	struct world *w = m->world;
	for (size_t i = 0; i < ARRAY_LEN(w->runs); i++) {
		struct effect_run *run = &w->runs[i];
		if (run->used)
			continue;
		memset(run, 0, sizeof(*run));
		run->timer.fire = run_fire;
		run->world = w;
		run->manager = m;
		run->effect = effect;
		run->kind = effect->kind;
		run->record = *effect->record;
		run->used = true;
		env_timer_after(&w->fake.env, &run->timer,
				1000 + fake_env_random(&w->fake.env) % 20000000);
		return;
	}
	CHECK(false, "too many effects");
}

static void state_changed(void *ctx, const struct volume_record *record, enum volume_state from,
			  enum volume_state to)
{
	struct world *w = ((struct manager *)ctx)->world;
	size_t at = strlen(w->trace);
	(void)record;
	(void)from;
	snprintf(w->trace + at, sizeof(w->trace) - at, "%s ",
		 to == VOLUME_STATES ? "gone" : volume_state_name(to));
}

static const struct lifecycle_ops test_ops = {.start = effect_start, .changed = state_changed};

static void manager_start(struct manager *m, struct world *w)
{
	memset(m, 0, sizeof(*m));
	m->world = w;
	m->meta = meta_mem_open(w->mem, &w->fake.env);
	m->lifecycle = lifecycle_create(&w->fake.env, m->meta, &test_ops, m);
}

/* The process dies: nothing calls back, nothing is told. */
static void manager_kill(struct manager *m)
{
	for (size_t i = 0; i < ARRAY_LEN(m->world->runs); i++)
		if (m->world->runs[i].manager == m)
			m->world->runs[i].manager = NULL;
	env_timer_cancel(&m->world->fake.env, &m->op.retry);
	for (int i = 0; i < LIFECYCLE_RESUME_WIDTH; i++)
		env_timer_cancel(&m->world->fake.env, &m->resume.ops[i].retry);
	meta_mem_abandon(m->meta);
	free(m->op.text);
	for (int i = 0; i < LIFECYCLE_RESUME_WIDTH; i++)
		free(m->resume.ops[i].text);
	lifecycle_destroy(m->lifecycle);
}

static void op_done(struct lifecycle_op *op, int status)
{
	struct manager *m = op->user;
	m->op_done = true;
	m->op_status = status;
}

static void begin(struct manager *m, enum lifecycle_goal goal, const char *node)
{
	m->op = (struct lifecycle_op){.goal = goal, .name = "db1", .done = op_done, .user = m};
	if (node)
		snprintf(m->op.target_node, NAME_BYTES, "%s", node);
	if (goal == LIFECYCLE_CREATE) {
		struct volume_record *r = &m->op.record;
		*r = (struct volume_record){.name = "db1",
					    .uuid = {{7}},
					    .size_bytes = 1 << 30,
					    .rf = 3,
					    .quorum = 2,
					    .voter_count = 3};
		for (uint8_t i = 0; i < 3; i++) {
			r->voters[i].replica_uuid = (struct uuid){{i, 1}};
			snprintf(r->voters[i].node, NAME_BYTES, "s%d", i);
		}
	}
	m->op_done = false;
	lifecycle_submit(m->lifecycle, &m->op);
}

static int run(struct manager *m, enum lifecycle_goal goal, const char *node)
{
	begin(m, goal, node);
	CHECK(!m->op_done, "completed inside the call");
	CHECK(fake_env_run(&m->world->fake, &m->op_done, 100 * SECOND_NS));
	return m->op_status;
}

static void resume_done(struct lifecycle_resume *resume, int status)
{
	struct manager *m = CONTAINER_OF(resume, struct manager, resume);
	(void)status; /* the next resume tries again */
	m->resume_done = true;
}

static void resume(struct manager *m)
{
	memset(&m->resume, 0, sizeof(m->resume));
	m->resume.done = resume_done;
	m->resume_done = false;
	lifecycle_resume(m->lifecycle, &m->resume);
	CHECK(fake_env_run(&m->world->fake, &m->resume_done, 300 * SECOND_NS));
}

static int replicas(const struct world *w)
{
	return w->replica_exists[0] + w->replica_exists[1] + w->replica_exists[2];
}

TEST(lifecycle, table_is_the_designs)
{
	static const char *const rows[VOLUME_STATES] = {".x....x.", "..x...x.", "...x...x",
							"..x.x.x.", ".....x..", "..x...xx",
							".......x", "........"};
	struct err err = {0};
	for (int from = 0; from < VOLUME_STATES; from++)
		for (int to = 0; to < VOLUME_STATES; to++)
			CHECK_EQ(lifecycle_legal(from, to), rows[from][to] == 'x');
	CHECK_EQ(lifecycle_check("db1", VOLUME_BOUND, VOLUME_DELETED, &err), -EBUSY);
	CHECK(strstr(err.text, "db1") && strstr(err.text, "bound") && strstr(err.text, "deleted"));
}

TEST(lifecycle, whole_life_of_a_volume)
{
	static struct world w;
	static struct manager m;
	world_init(&w, 1);
	manager_start(&m, &w);
	CHECK_EQ(run(&m, LIFECYCLE_CREATE, NULL), 0);
	CHECK_EQ(replicas(&w), 3);
	CHECK_EQ(run(&m, LIFECYCLE_CREATE, NULL), 0); /* the same draft again */
	CHECK_EQ(run(&m, LIFECYCLE_BIND, "g1"), 0);
	CHECK_EQ(w.owner, 1);
	CHECK(lifecycle_attach_allowed(&m.op.record, "g1", m.op.record.intent_id));
	CHECK(!lifecycle_attach_allowed(&m.op.record, "g0", m.op.record.intent_id));
	CHECK(!lifecycle_attach_allowed(&m.op.record, "g1", m.op.record.intent_id - 1));
	CHECK_EQ(run(&m, LIFECYCLE_DELETE, NULL), -EBUSY);
	CHECK(strstr(m.op.err.text, "bound") && strstr(m.op.err.text, "deleted"));
	CHECK_EQ(run(&m, LIFECYCLE_BIND, "g0"), -EBUSY);
	CHECK_EQ(run(&m, LIFECYCLE_RELEASE, NULL), 0);
	CHECK_EQ(w.owner, -1);
	CHECK_EQ(run(&m, LIFECYCLE_DELETE, NULL), 0);
	CHECK_EQ(replicas(&w), 0);
	CHECK_EQ(run(&m, LIFECYCLE_DELETE, NULL), -ENOENT);
	CHECK_STR(w.trace, "pending provisioning available binding bound releasing available "
			   "deleted gone ");
	manager_kill(&m);
	world_free(&w);
}

TEST(lifecycle, release_can_lead_to_deleted)
{
	static struct world w;
	static struct manager m;
	world_init(&w, 1);
	manager_start(&m, &w);
	CHECK_EQ(run(&m, LIFECYCLE_CREATE, NULL), 0);
	CHECK_EQ(run(&m, LIFECYCLE_BIND, "g0"), 0);
	begin(&m, LIFECYCLE_RELEASE, NULL);
	m.op.then_delete = true;
	CHECK(fake_env_run(&w.fake, &m.op_done, 10 * SECOND_NS));
	CHECK_EQ(m.op_status, 0);
	CHECK_EQ(replicas(&w), 0);
	CHECK(strstr(w.trace, "releasing deleted gone"));
	manager_kill(&m);
	world_free(&w);
}

TEST(lifecycle, other_volume_of_the_same_name_is_refused)
{
	static struct world w;
	static struct manager m;
	world_init(&w, 1);
	manager_start(&m, &w);
	CHECK_EQ(run(&m, LIFECYCLE_CREATE, NULL), 0);
	begin(&m, LIFECYCLE_CREATE, NULL);
	m.op.draft.uuid.bytes[0] = 8;
	CHECK(fake_env_run(&w.fake, &m.op_done, 10 * SECOND_NS));
	CHECK_EQ(m.op_status, -EEXIST);
	manager_kill(&m);
	world_free(&w);
}

TEST(lifecycle, failed_attach_returns_to_available_with_a_condition)
{
	static struct world w;
	static struct manager m;
	world_init(&w, 1);
	manager_start(&m, &w);
	CHECK_EQ(run(&m, LIFECYCLE_CREATE, NULL), 0);
	w.fail_kind = INTENT_ATTACH;
	w.fail_status = -EHOSTDOWN;
	CHECK_EQ(run(&m, LIFECYCLE_BIND, "g0"), -EHOSTDOWN);
	CHECK(strstr(m.op.err.text, "as told"), "%s", m.op.err.text);
	CHECK_EQ(m.op.record.state, VOLUME_AVAILABLE);
	CHECK_STR(m.op.record.conditions[0].type, "AttachFailed");
	CHECK_EQ(w.effects[INTENT_DETACH], 1);
	w.fail_kind = 0;
	CHECK_EQ(run(&m, LIFECYCLE_BIND, "g1"), 0);
	CHECK_EQ(m.op.record.condition_count, 0);
	manager_kill(&m);
	world_free(&w);
}

TEST(lifecycle, transient_failures_wait_for_resume)
{
	static const enum volume_intent kinds[] = {INTENT_PROVISION, INTENT_DETACH, INTENT_CLEANUP};
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		static struct world w;
		static struct manager m;
		world_init(&w, 1);
		manager_start(&m, &w);
		w.fail_kind = kinds[i];
		w.fail_status = -EHOSTDOWN;
		int status = run(&m, LIFECYCLE_CREATE, NULL);
		if (status == 0)
			status = run(&m, LIFECYCLE_BIND, "g0");
		if (status == 0)
			status = run(&m, LIFECYCLE_RELEASE, NULL);
		if (status == 0)
			status = run(&m, LIFECYCLE_DELETE, NULL);
		CHECK_EQ(status, -EHOSTDOWN);
		CHECK_EQ(m.op.record.condition_count, 1);
		resume(&m);
		CHECK_EQ(m.resume.failed_count, 1);
		w.fail_kind = 0;
		resume(&m);
		CHECK_EQ(m.resume.finished_count, 1);
		CHECK_EQ(m.resume.failed_count, 0);
		CHECK_EQ(w.owner, -1);
		CHECK_EQ(replicas(&w), kinds[i] == INTENT_CLEANUP ? 0 : 3);
		manager_kill(&m);
		world_free(&w);
	}
}

/* A gateway that never answers: the volume is stuck without force, and free with it. */
TEST(lifecycle, a_silent_gateway_can_be_abandoned)
{
	static struct world w;
	static struct manager m;
	world_init(&w, 1);
	manager_start(&m, &w);
	CHECK_EQ(run(&m, LIFECYCLE_CREATE, NULL), 0);
	CHECK_EQ(run(&m, LIFECYCLE_BIND, "g0"), 0);
	uint64_t bound_id = m.op.record.intent_id;
	w.fail_kind = INTENT_DETACH;
	w.fail_status = -EHOSTDOWN;
	w.is_deaf = true;
	CHECK_EQ(run(&m, LIFECYCLE_RELEASE, NULL), -EHOSTDOWN);
	CHECK_EQ(m.op.record.state, VOLUME_RELEASING);
	CHECK_EQ(run(&m, LIFECYCLE_DELETE, NULL), -EBUSY);
	CHECK_EQ(run(&m, LIFECYCLE_ABANDON, NULL), 0);
	CHECK_EQ(m.op.record.state, VOLUME_AVAILABLE);
	CHECK_EQ(m.op.record.condition_count, 0);
	CHECK_STR(m.op.record.target_node, "");
	CHECK_EQ(run(&m, LIFECYCLE_ABANDON, NULL), 0); /* again */
	CHECK_EQ(w.effects[INTENT_ABANDON], 1);
	CHECK(!lifecycle_attach_allowed(&m.op.record, "g0", bound_id));
	CHECK_EQ(run(&m, LIFECYCLE_BIND, "g1"), 0);
	CHECK_EQ(w.owner, 1);
	CHECK(m.op.record.intent_id > bound_id);
	CHECK_EQ(run(&m, LIFECYCLE_ABANDON, NULL), 0); /* from bound, in one step */
	CHECK_EQ(run(&m, LIFECYCLE_DELETE, NULL), 0);
	CHECK_EQ(run(&m, LIFECYCLE_ABANDON, NULL), -ENOENT);
	CHECK_EQ(replicas(&w), 0);
	manager_kill(&m);
	world_free(&w);
}

/* An attach fails because the gateway died, and so does the detach that follows. */
TEST(lifecycle, a_binding_that_hangs_can_be_abandoned)
{
	static struct world w;
	static struct manager a, b;
	world_init(&w, 3);
	manager_start(&a, &w);
	manager_start(&b, &w);
	CHECK_EQ(run(&a, LIFECYCLE_CREATE, NULL), 0);
	CHECK_EQ(run(&a, LIFECYCLE_ABANDON, NULL), 0); /* available: nothing to do */
	CHECK_EQ(w.effects[INTENT_ABANDON], 0);
	begin(&a, LIFECYCLE_BIND, "g0");
	while (w.effects[INTENT_ATTACH] == 0)
		fake_env_run(&w.fake, NULL, 1000000);
	manager_kill(&a); /* the intent waits */
	CHECK_EQ(run(&b, LIFECYCLE_ABANDON, NULL), 0);
	CHECK_EQ(b.op.record.state, VOLUME_AVAILABLE);
	CHECK_EQ(w.owner, -1);
	manager_kill(&b);
	world_free(&w);
}

TEST(lifecycle, provisioning_that_can_never_work_fails_and_can_be_deleted)
{
	static struct world w;
	static struct manager m;
	world_init(&w, 1);
	manager_start(&m, &w);
	w.fail_kind = INTENT_PROVISION;
	w.fail_status = LIFECYCLE_NEVER;
	CHECK_EQ(run(&m, LIFECYCLE_CREATE, NULL), LIFECYCLE_NEVER);
	CHECK_EQ(m.op.record.state, VOLUME_FAILED);
	CHECK_EQ(run(&m, LIFECYCLE_BIND, "g0"), -EBUSY);
	CHECK_EQ(run(&m, LIFECYCLE_DELETE, NULL), 0);
	manager_kill(&m);
	world_free(&w);
}

/* A manager dies after every possible number of loop turns; another finishes. */
TEST(lifecycle, crash_at_any_turn_is_finished_by_another_manager)
{
	for (int turns = 0; turns < 24; turns++) {
		static struct world w;
		static struct manager a, b;
		world_init(&w, 5);
		manager_start(&a, &w);
		manager_start(&b, &w);
		begin(&a, LIFECYCLE_CREATE, NULL);
		for (int i = 0; i < turns && !a.op_done; i++) {
			bool never = false;
			if (!fake_env_turn(&w.fake))
				fake_env_run(&w.fake, &never, 1000000);
		}
		manager_kill(&a);
		resume(&b);
		fake_env_run(&w.fake, NULL, SECOND_NS); /* the effect that a began arrives */
		int status = run(&b, LIFECYCLE_DELETE, NULL);
		CHECK(status == 0 || status == -ENOENT);
		CHECK_EQ(replicas(&w), 0);
		manager_kill(&b);
		world_free(&w);
	}
}

/* Two managers, a bad store, crashes; then calm: the volume can be deleted and nothing is left. */
static void chaos(uint64_t seed)
{
	static struct world w;
	static struct manager m[2];
	static const struct meta_mem_faults bad = {.delay_max_ns = 5000000,
						   .unavailable_ppm = 50000,
						   .unknown_lost_ppm = 50000,
						   .unknown_applied_ppm = 50000,
						   .unknown_late_ppm = 50000,
						   .late_max_ns = 200000000};
	static const char *const nodes[] = {"g0", "g1"};
	world_init(&w, seed);
	for (int i = 0; i < 2; i++) {
		manager_start(&m[i], &w);
		m[i].op_done = true;
		meta_mem_faults_set(m[i].meta, &bad);
	}
	for (int step = 0; step < 60; step++) {
		struct manager *x = &m[fake_env_random(&w.fake.env) % 2];
		uint64_t draw = fake_env_random(&w.fake.env) % 24;
		if (draw == 0) {
			manager_kill(x);
			manager_start(x, &w);
			x->op_done = true;
			meta_mem_faults_set(x->meta, &bad);
		} else if (x->op_done) {
			enum lifecycle_goal goal = draw % (LIFECYCLE_RESUME + 1);
			w.is_deaf = draw > 12;
			begin(x, goal, goal == LIFECYCLE_BIND ? nodes[draw / 6 % 2] : NULL);
		}
		fake_env_run(&w.fake, NULL, fake_env_random(&w.fake.env) % 60000000);
	}
	for (int i = 0; i < 2; i++) {
		fake_env_run(&w.fake, &m[i].op_done, 200 * SECOND_NS);
		CHECK(m[i].op_done);
		meta_mem_faults_set(m[i].meta, &(struct meta_mem_faults){0});
	}
	fake_env_run(&w.fake, NULL, SECOND_NS); /* late ones land */
	resume(&m[0]);
	if (w.owner >= 0 && !w.is_abandoned)
		CHECK_EQ(run(&m[0], LIFECYCLE_RELEASE, NULL), 0);
	int status = run(&m[0], LIFECYCLE_DELETE, NULL);
	CHECK(status == 0 || status == -ENOENT, "seed %llu: %d %s", (unsigned long long)seed,
	      status, m[0].op.err.text);
	CHECK(w.owner == -1 || w.is_abandoned);
	/* What a late provision made is named by no record: the sweep of E1 takes it. */
	CHECK_EQ(run(&m[0], LIFECYCLE_DELETE, NULL), -ENOENT);
	for (int i = 0; i < 2; i++)
		manager_kill(&m[i]);
	world_free(&w);
}

TEST(lifecycle, chaos_ends_clean)
{
	for (uint64_t seed = 1; seed <= 200; seed++)
		chaos(seed);
}
