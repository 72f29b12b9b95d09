/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device under a store.
 *
 * V1 `active` is in order of submission, so in order of age: the watch looks from its front and stops at the
 *    first that is young. The timer runs only while there is I/O.
 * V2 An I/O leaves `active` before its owner hears of it: the owner may submit it again.
 * V3 The store has failed before the owner of a failed write hears of it: no place of such a write is given to
 *    anybody else (bad.c tries it with zeros).
 */
#include "store/device.h"

#include <errno.h>

#define WATCH_PERIOD_NS (500ull * 1000 * 1000)

void device_init(struct device *device, struct env *env, struct env_disk *disk)
{
	*device = (struct device){.env = env, .disk = disk};
	list_init(&device->active);
}

static void device_timer_fire(struct env_timer *timer)
{
	struct device *device = CONTAINER_OF(timer, struct device, timer);
	uint64_t now_ns = env_now_ns(device->env);
	if (list_empty(&device->active))
		return;
	list_for_each (link, &device->active) {
		struct device_io *dio = CONTAINER_OF(link, struct device_io, link);
		if (now_ns - dio->since_ns < device->watch.slow_ns)
			break;
		device->slow_count += !dio->slow;
		dio->slow = true;
	}
	env_timer_after(device->env, timer, WATCH_PERIOD_NS);
	struct device_io *oldest = CONTAINER_OF(device->active.next, struct device_io, link);
	if (now_ns - oldest->since_ns >= device->watch.fail_ns)
		device->watch.late(device->watch.ctx);
}

void device_watch(struct device *device, const struct device_watch *watch)
{
	device->watch = *watch;
	device->timer.fire = device_timer_fire;
}

void device_watch_stop(struct device *device)
{
	device->watch.late = NULL;
	if (device->env)
		env_timer_cancel(device->env, &device->timer);
}

bool device_medium_error(int status)
{
	return status == -EIO || status == -ENODATA || status == -EREMOTEIO;
}

static void device_note(struct device *device, const struct env_io *io)
{
	size_t bytes = 0;
	if (device->failed_count == DEVICE_FAILED_MAX)
		return;
	for (uint32_t i = 0; i < io->iov_count; i++)
		bytes += io->iov[i].iov_len;
	device->failed[device->failed_count++] = (struct device_range){
		io->offset_bytes / BLOCK_BYTES, (uint32_t)(bytes / BLOCK_BYTES)};
}

static void device_end(struct device *device, struct device_io *dio, int status)
{
	list_remove(&dio->link); /* V2 */
	if (status == 0 || dio->io.op == ENV_IO_READ || dio->expendable)
		return;
	if (dio->io.op == ENV_IO_WRITE && device_medium_error(status))
		device_note(device, &dio->io);
	if (device->watch.broken) /* V3 */
		device->watch.broken(device->watch.ctx, dio->io.op, status);
}

static void device_begin(struct device *device, struct device_io *dio)
{
	dio->device = device;
	dio->since_ns = env_now_ns(device->env);
	dio->slow = false;
	list_push_back(&device->active, &dio->link);
	if (device->watch.late && !env_timer_armed(&device->timer))
		env_timer_after(device->env, &device->timer, WATCH_PERIOD_NS);
}

static void device_io_done(struct env_io *io, int status)
{
	struct device_io *dio = CONTAINER_OF(io, struct device_io, io);
	device_end(dio->device, dio, status);
	dio->done(dio, status);
}

void device_submit(struct device *device, struct device_io *dio)
{
	dio->io.done = device_io_done;
	device_begin(device, dio);
	env_disk_submit(device->env, device->disk, &dio->io);
}

int device_io_co(struct co *co, struct device *device, struct device_io *dio)
{
	device_begin(device, dio);
	int status = co_disk_io(co, device->disk, &dio->io);
	device_end(device, dio, status);
	return status;
}
