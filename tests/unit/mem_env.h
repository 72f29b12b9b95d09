/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk in memory and timers, for unit tests of the store: operations complete in random order
 * when the test pumps. Blocks can be made unreadable. One disk per env.
 */
#ifndef HF_TESTS_UNIT_MEM_ENV_H
#define HF_TESTS_UNIT_MEM_ENV_H

#include <errno.h>
#include <sys/mman.h>

#include "base/co.h"
#include "base/env.h"
#include "store/device.h"

#define MEM_QUEUE_MAX 4096u

struct mem_env {
	struct env env; /* first */
	struct device device;
	uint8_t *bytes;
	uint64_t size_bytes;
	uint64_t now_ns;
	uint64_t rng;
	struct env_io *queue[MEM_QUEUE_MAX];
	uint32_t queued;
	struct env_timer *timers[64];
	uint32_t timer_count;
	uint64_t bad_block; /* reads of it fail; 0: none */
	uint64_t reads, writes, written_blocks;
};

static uint64_t mem_random(struct env *env)
{
	struct mem_env *mem = (struct mem_env *)env;
	uint64_t x = mem->rng += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static uint64_t mem_now(struct env *env)
{
	return ((struct mem_env *)env)->now_ns;
}

static void mem_timer_cancel(struct env *env, struct env_timer *timer)
{
	struct mem_env *mem = (struct mem_env *)env;
	for (uint32_t i = 0; i < mem->timer_count; i++) {
		if (mem->timers[i] == timer)
			mem->timers[i--] = mem->timers[--mem->timer_count];
	}
	timer->heap_index = 0;
}

static void mem_timer_set(struct env *env, struct env_timer *timer, uint64_t deadline_ns)
{
	struct mem_env *mem = (struct mem_env *)env;
	mem_timer_cancel(env, timer);
	timer->deadline_ns = deadline_ns;
	timer->heap_index = 1;
	assert(mem->timer_count < ARRAY_LEN(mem->timers));
	mem->timers[mem->timer_count++] = timer;
}

static void mem_submit(struct env_disk *disk, struct env_io *io)
{
	struct mem_env *mem = (struct mem_env *)disk;
	assert(mem->queued < MEM_QUEUE_MAX);
	mem->queue[mem->queued++] = io;
}

static const struct env_ops mem_ops = {
	.name = "memory",
	.now_ns = mem_now,
	.random = mem_random,
	.timer_set = mem_timer_set,
	.timer_cancel = mem_timer_cancel,
	.disk_submit = mem_submit,
};

static struct mem_env *mem_env_create(uint64_t size_bytes, uint64_t seed)
{
	struct mem_env *mem = calloc(1, sizeof(*mem));
	mem->env.ops = &mem_ops;
	mem->size_bytes = size_bytes;
	mem->bytes = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert(mem->bytes != MAP_FAILED);
	mem->rng = seed;
	device_init(&mem->device, &mem->env, (struct env_disk *)mem);
	return mem;
}

static void mem_env_destroy(struct mem_env *mem)
{
	munmap(mem->bytes, mem->size_bytes);
	free(mem);
}

static int mem_perform(struct mem_env *mem, const struct env_io *io)
{
	uint64_t at = io->offset_bytes;
	for (uint32_t i = 0; i < io->iov_count; i++) {
		size_t n = io->iov[i].iov_len;
		if (at + n > mem->size_bytes)
			return -EIO;
		if (io->op == ENV_IO_WRITE) {
			memcpy(mem->bytes + at, io->iov[i].iov_base, n);
			mem->written_blocks += n / BLOCK_BYTES;
		} else {
			uint64_t bad = mem->bad_block * BLOCK_BYTES;
			if (bad && bad >= at && bad < at + n)
				return -EIO;
			memcpy(io->iov[i].iov_base, mem->bytes + at, n);
		}
		at += n;
	}
	mem->reads += io->op == ENV_IO_READ;
	mem->writes += io->op == ENV_IO_WRITE;
	return 0;
}

/* One event; false when there is none. */
static inline bool mem_step(struct mem_env *mem)
{
	mem->now_ns += 1000;
	uint32_t choices = mem->queued + (mem->timer_count ? 1 : 0);
	if (choices == 0)
		return false;
	uint32_t pick = (uint32_t)(mem_random(&mem->env) % choices);
	if (pick < mem->queued) {
		struct env_io *io = mem->queue[pick];
		mem->queue[pick] = mem->queue[--mem->queued];
		io->done(io, mem_perform(mem, io));
		return true;
	}
	uint32_t first = 0;
	for (uint32_t i = 1; i < mem->timer_count; i++) {
		if (mem->timers[i]->deadline_ns < mem->timers[first]->deadline_ns)
			first = i;
	}
	struct env_timer *timer = mem->timers[first];
	if (timer->deadline_ns > mem->now_ns && mem->queued > 0)
		return true;
	mem->now_ns = MAX(mem->now_ns, timer->deadline_ns);
	mem_timer_cancel(&mem->env, timer);
	timer->fire(timer);
	return true;
}

/* Runs fn in a coroutine to its end. */
static inline void mem_run(struct mem_env *mem, void (*fn)(struct co *co, void *arg), void *arg)
{
	struct co *co = co_create(&mem->env, 256 << 10);
	co_start(co, fn, arg);
	while (co_running(co))
		assert(mem_step(mem));
	co_destroy(co);
}

#endif
