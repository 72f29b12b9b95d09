/* SPDX-License-Identifier: Apache-2.0 */
/* The loop itself on both engines: timers, posting, signals, idling; and the choice of engine. */
#include "tests/unit/base_loop.h"

#include <pthread.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/log.h"

/* ---- timers ---- */

struct tick {
	struct env_timer timer;
	struct world *w;
	int *order;
	int position;
	uint64_t fired_ns;
	int again;
	bool done;
};

static void tick_fire(struct env_timer *timer)
{
	struct tick *t = CONTAINER_OF(timer, struct tick, timer);
	CHECK(!env_timer_armed(timer));
	t->fired_ns = env_now_ns(t->w->env);
	CHECK(t->fired_ns >= timer->deadline_ns);
	if (t->order)
		t->position = (*t->order)++;
	if (t->again > 0) {
		t->again--;
		env_timer_set(t->w->env, timer, 1);
		return;
	}
	t->done = true;
}

LOOP_TEST(timer, fire_by_deadline_then_arming_order)
{
	static const int delay_ms[] = {5, 1, 3, 1, 0, 5};
	static const int want[] = {4, 1, 3, 2, 0, 5};
	struct tick ticks[6];
	int order = 0;
	uint64_t start_ns = env_now_ns(w->env);
	for (int i = 0; i < 6; i++) {
		ticks[i] = (struct tick){.w = w, .order = &order, .timer.fire = tick_fire};
		env_timer_set(w->env, &ticks[i].timer, start_ns + (uint64_t)delay_ms[i] * 1000000u);
		CHECK(env_timer_armed(&ticks[i].timer));
	}
	world_wait(w, &ticks[5].done);
	for (int i = 0; i < 6; i++)
		CHECK_EQ(ticks[i].position, want[i]);
}

LOOP_TEST(timer, cancelled_never_fires_and_rearmed_fires_once)
{
	struct tick cancelled = {.w = w, .timer.fire = tick_fire};
	struct tick moved = {.w = w, .timer.fire = tick_fire};
	int order = 0;
	moved.order = &order;
	env_timer_after(w->env, &cancelled.timer, 1000000);
	env_timer_after(w->env, &moved.timer, 1000000);
	env_timer_after(w->env, &moved.timer, 4000000);
	env_timer_cancel(w->env, &cancelled.timer);
	env_timer_cancel(w->env, &cancelled.timer);
	world_wait(w, &moved.done);
	CHECK_EQ(order, 1);
	CHECK(!cancelled.done);
}

LOOP_TEST(timer, in_the_past_fires_on_the_next_turn_each_time)
{
	struct tick t = {.w = w, .timer.fire = tick_fire, .again = 1000};
	env_timer_set(w->env, &t.timer, 1);
	CHECK(!t.done);
	world_wait(w, &t.done);
}

LOOP_TEST(loop, run_until_gives_up_at_its_deadline)
{
	bool never = false;
	uint64_t start_ns = env_now_ns(w->env);
	CHECK_EQ(loop_run_until(w->loop, &never, start_ns + 3000000), -ETIMEDOUT);
	CHECK(env_now_ns(w->env) >= start_ns + 3000000);
}

LOOP_TEST(loop, sleeps_when_idle)
{
	bool never = false;
	struct rusage before, after;
	CHECK_EQ(loop_run_until(w->loop, &never, env_now_ns(w->env) + 1000000), -ETIMEDOUT);
	getrusage(RUSAGE_THREAD, &before);
	CHECK_EQ(loop_run_until(w->loop, &never, env_now_ns(w->env) + 200000000), -ETIMEDOUT);
	getrusage(RUSAGE_THREAD, &after);
	long used_us = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000 +
		       after.ru_utime.tv_usec - before.ru_utime.tv_usec +
		       (after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000 +
		       after.ru_stime.tv_usec - before.ru_stime.tv_usec;
	CHECK(used_us < 10000, "%ld us of CPU time", used_us);
	CHECK(after.ru_nvcsw - before.ru_nvcsw < 10, "woke %ld times",
	      after.ru_nvcsw - before.ru_nvcsw);
}

LOOP_TEST(random, words_and_uuids_differ)
{
	uint64_t seen[100];
	for (int i = 0; i < 100; i++) {
		seen[i] = env_random(w->env);
		for (int j = 0; j < i; j++)
			CHECK(seen[j] != seen[i]);
	}
	struct uuid a, b;
	env_random_uuid(w->env, &a);
	env_random_uuid(w->env, &b);
	CHECK(!uuid_equal(&a, &b));
	CHECK_EQ(a.bytes[6] >> 4, 4);
	CHECK_EQ(a.bytes[8] >> 6, 2);
	uint64_t wall_ms = env_wall_ms(w->env);
	CHECK(wall_ms / 1000 - (uint64_t)time(NULL) + 2 < 4);
}

/* ---- posting ---- */

#define POSTERS 4
#define POSTS   2000

struct post {
	struct loop_msg msg;
	struct poster *poster;
	int number;
};
struct poster {
	struct loop *loop;
	struct post posts[POSTS];
	int next;
	int *left;
	bool *done;
	pthread_t thread;
};

static void post_run(struct loop_msg *msg)
{
	struct post *post = CONTAINER_OF(msg, struct post, msg);
	CHECK_EQ(post->number, post->poster->next);
	post->poster->next++;
	if (--*post->poster->left == 0)
		*post->poster->done = true;
}

static void *poster_main(void *arg)
{
	struct poster *p = arg;
	for (int i = 0; i < POSTS; i++) {
		p->posts[i] = (struct post){.msg.run = post_run, .poster = p, .number = i};
		loop_post(p->loop, &p->posts[i].msg);
	}
	return NULL;
}

LOOP_TEST(post, from_threads_keeps_each_threads_order)
{
	struct poster *posters = calloc(POSTERS, sizeof(*posters));
	int left = POSTERS * POSTS;
	bool done = false;
	for (int i = 0; i < POSTERS; i++) {
		posters[i].loop = w->loop;
		posters[i].left = &left;
		posters[i].done = &done;
		CHECK_EQ(pthread_create(&posters[i].thread, NULL, poster_main, &posters[i]), 0);
	}
	world_wait(w, &done);
	for (int i = 0; i < POSTERS; i++)
		pthread_join(posters[i].thread, NULL);
	free(posters);
}

struct stop {
	struct loop_msg msg;
	struct loop *loop;
};
static void stop_run(struct loop_msg *msg)
{
	loop_stop(CONTAINER_OF(msg, struct stop, msg)->loop);
}
static void *run_main(void *arg)
{
	loop_run(arg);
	return NULL;
}

/* Fails when the ring is bound to the thread that created it, or a sleeping loop misses a post. */
LOOP_TEST(post, wakes_and_stops_a_loop_on_another_thread)
{
	struct stop stop = {.msg.run = stop_run, .loop = w->loop};
	pthread_t thread;
	CHECK_EQ(pthread_create(&thread, NULL, run_main, w->loop), 0);
	usleep(2000); /* most likely asleep now; either way the message must arrive */
	loop_post(w->loop, &stop.msg);
	pthread_join(thread, NULL);
}

struct arming {
	struct loop_msg msg;
	struct tick tick;
	uint64_t until_ns;
};
static void arming_run(struct loop_msg *msg)
{
	struct arming *a = CONTAINER_OF(msg, struct arming, msg);
	a->until_ns = env_now_ns(a->tick.w->env) + 2000000;
	env_timer_set(a->tick.w->env, &a->tick.timer, a->until_ns);
}
static void *arming_main(void *arg)
{
	struct arming *a = arg;
	usleep(2000); /* most likely the loop sleeps for the later timer now */
	loop_post(a->tick.w->loop, &a->msg);
	return NULL;
}

/* Fails when an alarm that is set already is not moved to a deadline before it. */
LOOP_TEST(timer, before_the_one_that_the_loop_sleeps_for_is_in_time)
{
	struct tick later = {.w = w, .timer.fire = tick_fire};
	struct arming a = {.msg.run = arming_run, .tick = {.w = w, .timer.fire = tick_fire}};
	pthread_t thread;
	env_timer_after(w->env, &later.timer, 15 * SECOND_NS);
	CHECK_EQ(pthread_create(&thread, NULL, arming_main, &a), 0);
	world_wait(w, &a.tick.done);
	pthread_join(thread, NULL);
	CHECK(a.tick.fired_ns < a.until_ns + 5 * SECOND_NS, "late by %lu ns",
	      (unsigned long)(a.tick.fired_ns - a.until_ns));
	CHECK(!later.done);
	env_timer_cancel(w->env, &later.timer);
}

/* ---- signals ---- */

struct signals {
	int last;
	bool done;
};
static void signal_seen(void *ctx, int signo)
{
	struct signals *s = ctx;
	s->last = signo;
	s->done = true;
}

LOOP_TEST(signals, arrive_as_callbacks)
{
	struct signals s = {0};
	CHECK_EQ(loop_signals(w->loop, signal_seen, &s, NULL), 0);
	static const int signals[] = {SIGTERM, SIGINT, SIGTERM};
	for (int i = 0; i < 3; i++) {
		s.done = false;
		kill(getpid(), signals[i]);
		world_wait(w, &s.done);
		CHECK_EQ(s.last, signals[i]);
	}
}

/* ---- the choice of engine ---- */

TEST(engine, names_parse)
{
	enum loop_engine engine = LOOP_ENGINE_AUTO;
	struct err err = {0};
	CHECK_EQ(loop_engine_parse("libaio", &engine, &err), 0);
	CHECK_EQ(engine, LOOP_ENGINE_AIO);
	CHECK_EQ(loop_engine_parse("io_uring", &engine, &err), 0);
	CHECK_EQ(engine, LOOP_ENGINE_URING);
	CHECK_EQ(loop_engine_parse("auto", &engine, &err), 0);
	CHECK_EQ(engine, LOOP_ENGINE_AUTO);
	CHECK_EQ(loop_engine_parse("posix", &engine, &err), -EINVAL);
	CHECK_STR(err_text(&err), "engine 'posix' is not one of auto, io_uring, libaio");
}

TEST(engine, auto_prefers_io_uring)
{
	struct loop *loop;
	CHECK_EQ(loop_create(LOOP_ENGINE_AUTO, &loop, NULL), 0);
	CHECK_STR(loop_engine_name(loop), "io_uring");
	CHECK_STR(loop_env(loop)->ops->name, "io_uring");
	loop_destroy(loop);
	loop_destroy(NULL);
}

static char refusal[1024];
static void refusal_sink(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	CHECK_EQ(level, LOG_WARN);
	snprintf(refusal, sizeof(refusal), "%s", line);
}

/* In a child: a filter cannot be taken back. */
static int refused_child(int code)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	struct loop *loop;
	struct err err = {0};
	bool never = false;
	if (!filter ||
	    seccomp_rule_add(filter, SCMP_ACT_ERRNO((uint32_t)code), SCMP_SYS(io_uring_setup), 0) ||
	    seccomp_load(filter))
		return 10;
	if (loop_create(LOOP_ENGINE_URING, &loop, &err) != -code ||
	    !strstr(err_text(&err), "io_uring is refused"))
		return 11;
	log_sink_set(refusal_sink, NULL);
	if (loop_create(LOOP_ENGINE_AUTO, &loop, &err) != 0)
		return 12;
	if (strcmp(loop_engine_name(loop), "libaio") != 0)
		return 13;
	if (!strstr(refusal, "loop io_uring_refused engine=libaio reason='io_uring is refused: "))
		return 14;
	if (loop_run_until(loop, &never, env_now_ns(loop_env(loop)) + 1000000) != -ETIMEDOUT)
		return 15;
	loop_destroy(loop);
	return 0;
}

static void refused_test(int code)
{
	fflush(NULL);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		_exit(refused_child(code));
	int status = -1;
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK(WIFEXITED(status));
	CHECK_EQ(WEXITSTATUS(status), 0);
}

TEST(engine, auto_falls_back_when_io_uring_is_forbidden)
{
	refused_test(EPERM);
}

TEST(engine, auto_falls_back_when_io_uring_is_unknown)
{
	refused_test(ENOSYS);
}
