/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of the production loop: one body, run against both engines, with a loop and a
 * temporary directory of its own.
 */
#ifndef HF_TESTS_UNIT_BASE_LOOP_H
#define HF_TESTS_UNIT_BASE_LOOP_H

#include <errno.h>
#include <unistd.h>

#include "base/loop.h"
#include "tests/unit/test.h"

#define SECOND_NS 1000000000ull

struct world {
	struct loop *loop;
	struct env *env;
	char dir[64];
};

static inline void world_open(struct world *w, enum loop_engine engine)
{
	struct err err = {0};
	memset(w, 0, sizeof(*w));
	snprintf(w->dir, sizeof(w->dir), "/tmp/holdfast-test-XXXXXX");
	CHECK(mkdtemp(w->dir) != NULL);
	CHECK(loop_create(engine, &w->loop, &err) == 0, "%s", err_text(&err));
	w->env = loop_env(w->loop);
}
static inline void world_close(struct world *w)
{
	char command[128];
	loop_destroy(w->loop);
	snprintf(command, sizeof(command), "rm -rf '%s'", w->dir);
	CHECK_EQ(system(command), 0);
}
/* Runs the loop until *flag; 20 s are the limit. */
static inline void world_wait(struct world *w, const bool *flag)
{
	CHECK_EQ(loop_run_until(w->loop, flag, env_now_ns(w->env) + 20 * SECOND_NS), 0);
}

#define LOOP_TEST(subject, behaviour)                              \
	static void body_##subject##_##behaviour(struct world *w); \
	TEST(subject, behaviour##_uring)                           \
	{                                                          \
		struct world w;                                    \
		world_open(&w, LOOP_ENGINE_URING);                 \
		body_##subject##_##behaviour(&w);                  \
		world_close(&w);                                   \
	}                                                          \
	TEST(subject, behaviour##_aio)                             \
	{                                                          \
		struct world w;                                    \
		world_open(&w, LOOP_ENGINE_AIO);                   \
		body_##subject##_##behaviour(&w);                  \
		world_close(&w);                                   \
	}                                                          \
	static void body_##subject##_##behaviour(struct world *w)

struct closing {
	struct env_close close;
	bool done;
};
static inline void closing_done(struct env_close *close)
{
	CONTAINER_OF(close, struct closing, close)->done = true;
}
static inline void world_close_conn(struct world *w, struct env_conn *conn)
{
	struct closing c = {.close.done = closing_done};
	env_conn_close(w->env, conn, &c.close);
	world_wait(w, &c.done);
}
static inline void world_close_disk(struct world *w, struct env_disk *disk)
{
	struct closing c = {.close.done = closing_done};
	env_disk_close(w->env, disk, &c.close);
	world_wait(w, &c.done);
}

#endif
