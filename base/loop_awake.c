/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeping processors awake while a loop is busy.
 *
 * A request sleeps and wakes several times on its way, and each wake-up of a processor that idles deeply costs more
 * than our code does: tens of microseconds in a virtual machine (the halt leaves the guest), C-states elsewhere.
 * PM QoS lets a process say how long a wake-up may take, for as long as it keeps /dev/cpu_dma_latency open.
 *
 * A1 Held only while the loop wakes more often than AWAKE_WAKES per AWAKE_SPELL_NS; two AWAKE_CHECK_NS after the last
 *    busy spell it has been given back. An idle loop has no timer for it.
 * A2 The kernel's idle loop does the waiting: it takes no time from any thread that could run.
 * A3 What is refused (no device, no right) is tried once; the loop works as before.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop_int.h"

#define AWAKE_WAKES    32u         /* the clock is read once in so many wake-ups */
#define AWAKE_SPELL_NS 20000000ull /* so many within this: busy, 1,600 a second */
#define AWAKE_CHECK_NS 50000000ull /* less than two spells' worth in this: not busy any more */

static void awake_release(struct loop_awake *a)
{
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
}

static void awake_check(struct env_timer *timer)
{
	struct loop *loop = CONTAINER_OF(timer, struct loop, awake.timer);
	struct loop_awake *a = &loop->awake;
	if (a->wakes - a->wakes_checked < 2 * AWAKE_WAKES) {
		awake_release(a);
		return;
	}
	a->wakes_checked = a->wakes;
	env_timer_after(&loop->env, timer, AWAKE_CHECK_NS);
}

static int awake_take(struct loop_awake *a)
{
	int fd = open(a->device, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int32_t latency_us = (int32_t)a->latency_us;
	errno = 0;
	if (write(fd, &latency_us, sizeof(latency_us)) != (ssize_t)sizeof(latency_us)) {
		int rc = errno != 0 ? -errno : -EIO;
		close(fd);
		return rc;
	}
	a->fd = fd;
	return 0;
}

void loop_awake_count(struct loop *loop)
{
	struct loop_awake *a = &loop->awake;
	if (++a->wakes % AWAKE_WAKES != 0 || a->fd >= 0)
		return;
	uint64_t now_ns = env_now_ns(&loop->env);
	bool busy = now_ns - a->spell_ns < AWAKE_SPELL_NS;
	a->spell_ns = now_ns;
	if (!busy)
		return;
	int rc = awake_take(a);
	if (rc < 0) { /* A3 */
		a->is_on = false;
		log_event(LOG_WARN, "loop", "cpu_latency_refused", "device=%s error=%s", a->device,
			  err_name(rc));
		return;
	}
	a->wakes_checked = a->wakes;
	env_timer_after(&loop->env, &a->timer, AWAKE_CHECK_NS);
}

void loop_awake_set(struct loop *loop, uint32_t latency_us)
{
	loop->awake.is_on = true;
	loop->awake.device = LOOP_AWAKE_DEVICE;
	loop->awake.latency_us = latency_us;
	loop->awake.timer.fire = awake_check;
}

enum loop_awake_state loop_awake_state(const struct loop *loop)
{
	if (loop->awake.fd >= 0)
		return LOOP_AWAKE_HELD;
	return loop->awake.is_on ? LOOP_AWAKE_READY : LOOP_AWAKE_OFF;
}

void loop_awake_free(struct loop *loop)
{
	if (loop->awake.timer.fire)
		env_timer_cancel(&loop->env, &loop->awake.timer);
	awake_release(&loop->awake);
}
