/* SPDX-License-Identifier: Apache-2.0 */
/* Keeping processors awake while the loop is busy (loop_awake.c), on both engines, with a file in the device's place. */
#include "tests/unit/base_loop.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/loop_int.h"

#define LATENCY_US     7
#define BUSY_PAUSE_NS  50000u   /* up to 20,000 wake-ups a second; 1,600 are busy */
#define QUIET_PAUSE_NS 3000000u /* at most two wake-ups each: 670 a second */

static void device_set(struct world *w, const char *path)
{
	loop_awake_set(w->loop, LATENCY_US);
	CHECK_STR(w->loop->awake.device, "/dev/cpu_dma_latency");
	w->loop->awake.device = path;
}

static const char *device_make(struct world *w)
{
	static char path[96];
	snprintf(path, sizeof(path), "%s/latency", w->dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	close(fd);
	device_set(w, path);
	return path;
}

/* How many of the process's descriptors are of that file. */
static int open_count(const char *path)
{
	int count = 0;
	DIR *dir = opendir("/proc/self/fd");
	CHECK(dir != NULL);
	for (struct dirent *d; (d = readdir(dir)) != NULL;) {
		char to[128];
		ssize_t n = readlinkat(dirfd(dir), d->d_name, to, sizeof(to) - 1);
		if (n < 0)
			continue;
		to[n] = '\0';
		count += strcmp(to, path) == 0;
	}
	closedir(dir);
	return count;
}

/* The loop sleeps that long and wakes. */
static void wake(struct world *w, uint64_t pause_ns)
{
	bool never = false;
	CHECK_EQ(loop_run_until(w->loop, &never, env_now_ns(w->env) + pause_ns), -ETIMEDOUT);
}

/* Wakes it until it is in that state. */
static void wake_until(struct world *w, uint64_t pause_ns, enum loop_awake_state state,
		       uint64_t limit_ns)
{
	uint64_t deadline_ns = env_now_ns(w->env) + limit_ns;
	while (loop_awake_state(w->loop) != state) {
		CHECK(env_now_ns(w->env) < deadline_ns, "state %d, want %d",
		      loop_awake_state(w->loop), state);
		wake(w, pause_ns);
	}
}

/* Wakes it until it is held, and stays so over three checks. A machine too busy itself to wake us often enough for so
 * long is waited for. */
static void stay_busy(struct world *w)
{
	uint64_t deadline_ns = env_now_ns(w->env) + 20 * SECOND_NS, now_ns, since_ns = 0;
	do {
		wake(w, BUSY_PAUSE_NS);
		now_ns = env_now_ns(w->env);
		CHECK(now_ns < deadline_ns);
		if (loop_awake_state(w->loop) != LOOP_AWAKE_HELD)
			since_ns = now_ns;
	} while (since_ns == 0 || now_ns - since_ns < 170000000);
}

struct tick {
	struct env_timer timer;
	struct world *w;
	int again;
	bool done;
};
static void tick_fire(struct env_timer *timer)
{
	struct tick *t = CONTAINER_OF(timer, struct tick, timer);
	t->done = t->again-- == 0;
	if (!t->done)
		env_timer_set(t->w->env, timer, 1);
}

LOOP_TEST(awake, a_loop_that_was_not_asked_never_holds_it)
{
	for (int i = 0; i < 500; i++) {
		wake(w, BUSY_PAUSE_NS);
		CHECK_EQ(loop_awake_state(w->loop), LOOP_AWAKE_OFF);
	}
}

LOOP_TEST(awake, a_quiet_loop_does_not_hold_it)
{
	const char *path = device_make(w);
	for (int i = 0; i < 100; i++) {
		wake(w, QUIET_PAUSE_NS);
		CHECK_EQ(loop_awake_state(w->loop), LOOP_AWAKE_READY);
	}
	CHECK_EQ(open_count(path), 0);
	CHECK(!env_timer_armed(&w->loop->awake.timer)); /* A1 */
	struct stat st;
	CHECK_EQ(stat(path, &st), 0);
	CHECK_EQ(st.st_size, 0);
}

LOOP_TEST(awake, a_loop_that_does_not_sleep_has_no_use_for_it)
{
	device_make(w);
	struct tick tick = {.timer.fire = tick_fire, .w = w, .again = 1000};
	env_timer_set(w->env, &tick.timer, 1);
	world_wait(w, &tick.done);
	CHECK_EQ(loop_awake_state(w->loop), LOOP_AWAKE_READY);
}

LOOP_TEST(awake, a_busy_loop_holds_it_with_the_value_in_it)
{
	const char *path = device_make(w);
	wake_until(w, BUSY_PAUSE_NS, LOOP_AWAKE_HELD, 20 * SECOND_NS);
	CHECK_EQ(open_count(path), 1);
	int32_t latency_us[2] = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK_EQ(read(fd, latency_us, sizeof(latency_us)), 4);
	close(fd);
	CHECK_EQ(latency_us[0], LATENCY_US);
	CHECK_EQ(loop_awake_state(w->loop), LOOP_AWAKE_HELD);
}

LOOP_TEST(awake, it_is_held_for_as_long_as_the_loop_is_busy)
{
	device_make(w);
	stay_busy(w);
}

LOOP_TEST(awake, it_is_given_back_soon_after_a_burst_and_taken_again_at_the_next)
{
	const char *path = device_make(w);
	for (int i = 0; i < 2; i++) {
		stay_busy(w);
		CHECK(env_timer_armed(&w->loop->awake.timer));
		/* Nothing but its own timer wakes the loop. */
		wake_until(w, 200000000, LOOP_AWAKE_READY, 4 * SECOND_NS);
		CHECK_EQ(open_count(path), 0);
		CHECK(!env_timer_armed(&w->loop->awake.timer)); /* A1 */
	}
}

LOOP_TEST(awake, a_loop_that_ends_gives_it_back)
{
	const char *path = device_make(w);
	wake_until(w, BUSY_PAUSE_NS, LOOP_AWAKE_HELD, 20 * SECOND_NS);
	CHECK_EQ(open_count(path), 1);
	loop_destroy(w->loop);
	w->loop = NULL;
	CHECK_EQ(open_count(path), 0);
}

/* ---- A3: what is refused ---- */

static int warnings;
static char warning[512];

static void warning_sink(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	CHECK_EQ(level, LOG_WARN);
	snprintf(warning, sizeof(warning), "%s", line);
	warnings++;
}

static void refused(struct world *w, const char *path, const char *error)
{
	char want[160];
	warnings = 0;
	log_sink_set(warning_sink, NULL);
	device_set(w, path);
	wake_until(w, BUSY_PAUSE_NS, LOOP_AWAKE_OFF, 20 * SECOND_NS);
	for (int i = 0; i < 500; i++)
		wake(w, BUSY_PAUSE_NS);
	log_sink_set(NULL, NULL);
	CHECK_EQ(warnings, 1);
	snprintf(want, sizeof(want), "warn loop cpu_latency_refused device=%s error=%s", path,
		 error);
	CHECK(strstr(warning, want) != NULL, "%s", warning);
	CHECK_EQ(loop_awake_state(w->loop), LOOP_AWAKE_OFF);
	CHECK_EQ(open_count(path), 0);
	struct tick tick = {.timer.fire = tick_fire};
	env_timer_after(w->env, &tick.timer, 1000000);
	world_wait(w, &tick.done);
}

LOOP_TEST(awake, a_device_that_is_not_there_is_tried_once)
{
	char path[96];
	snprintf(path, sizeof(path), "%s/none", w->dir);
	refused(w, path, "ENOENT");
}

LOOP_TEST(awake, a_device_that_refuses_the_value_is_tried_once_and_closed)
{
	refused(w, "/dev/full", "ENOSPC");
}
