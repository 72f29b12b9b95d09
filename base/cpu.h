/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which processor a thread runs on.
 *
 * A loop that waits for a disk does best on the processor that takes the disk's interrupts: a completion then wakes it
 * without a signal to another processor, and the kernel does not pile it on the one whose thread last sent it
 * something. For a disk with a queue per processor this makes no difference and nothing is pinned.
 *
 * Any thread; start-up only (they read files).
 */
#ifndef HF_BASE_CPU_H
#define HF_BASE_CPU_H

#include <stdint.h>

#include "base/err.h"

#define CPU_NUMBER_MAX 1023

struct cpu_list {
	uint64_t bits[(CPU_NUMBER_MAX + 1) / 64];
	uint32_t count;
};

/* "0", "0-3,8": 0, or -EINVAL with a sentence. */
int cpu_list_parse(const char *text, struct cpu_list *ret, struct err *err);
/* Adds one. */
void cpu_list_add(struct cpu_list *list, uint32_t cpu);
bool cpu_list_has(const struct cpu_list *list, uint32_t cpu);
/* The short form. Returns buf; what does not fit is left out, whole entries of it. */
const char *cpu_list_format(const struct cpu_list *list, char *buf, size_t buf_bytes);

/* The calling thread runs on these from here on; threads that it makes later, too. 0 or -errno with a sentence. */
int cpu_pin(const struct cpu_list *list, struct err *err);

/*
 * The processor that takes all interrupts of the disk that holds `path` (a file or a block device): *ret_cpu, and 0.
 * -ENOENT when there is no such single one: several queues, a device of devices, a kernel that does not say.
 * `root` is put before /sys and /proc ("" outside tests).
 */
int cpu_of_disk(const char *root, const char *path, uint32_t *ret_cpu);

/* How long a wake-up may take so that the idle loop does not go deeper than its first state, in us: 0 where a halt
 * leaves a virtual machine and the kernel polls instead when asked to, 2 elsewhere. */
uint32_t cpu_awake_latency_us(const char *root);

#endif
