/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cpu.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define CPU_PATH_BYTES 512

/* ---- lists ---- */

void cpu_list_add(struct cpu_list *list, uint32_t cpu)
{
	if (cpu > CPU_NUMBER_MAX || cpu_list_has(list, cpu))
		return;
	list->bits[cpu / 64] |= 1ull << (cpu % 64);
	list->count++;
}

bool cpu_list_has(const struct cpu_list *list, uint32_t cpu)
{
	return cpu <= CPU_NUMBER_MAX && (list->bits[cpu / 64] >> (cpu % 64) & 1);
}

/* A number of at most four digits; *at moves behind it. */
static bool number_parse(const char **at, uint32_t *ret)
{
	char *end;
	if (**at < '0' || **at > '9')
		return false;
	unsigned long value = strtoul(*at, &end, 10);
	if (end - *at > 4 || value > CPU_NUMBER_MAX)
		return false;
	*at = end;
	*ret = (uint32_t)value;
	return true;
}

int cpu_list_parse(const char *text, struct cpu_list *ret, struct err *err)
{
	const char *at = text;
	struct cpu_list list = {0};
	for (;;) {
		uint32_t first, last;
		if (!number_parse(&at, &first))
			break;
		last = first;
		if (*at == '-') {
			at++;
			if (!number_parse(&at, &last) || last < first)
				break;
		}
		for (uint32_t cpu = first; cpu <= last; cpu++)
			cpu_list_add(&list, cpu);
		if (*at == '\0') {
			*ret = list;
			return 0;
		}
		if (*at++ != ',')
			break;
	}
	return err_set(err, -EINVAL,
		       "'%.60s' is no list of processors, such as 0 or 0-3,8; numbers go up to %d",
		       text, CPU_NUMBER_MAX);
}

const char *cpu_list_format(const struct cpu_list *list, char *buf, size_t buf_bytes)
{
	size_t used = 0;
	buf[0] = '\0';
	for (uint32_t cpu = 0; cpu <= CPU_NUMBER_MAX; cpu++) {
		if (!cpu_list_has(list, cpu))
			continue;
		uint32_t last = cpu;
		while (cpu_list_has(list, last + 1))
			last++;
		int n = last > cpu ? snprintf(buf + used, buf_bytes - used, "%s%u-%u",
					      used ? "," : "", cpu, last)
				   : snprintf(buf + used, buf_bytes - used, "%s%u", used ? "," : "",
					      cpu);
		if (n < 0 || (size_t)n >= buf_bytes - used) {
			buf[used] = '\0'; /* half a number would be another processor */
			break;
		}
		used += (size_t)n;
		cpu = last;
	}
	return buf;
}

int cpu_pin(const struct cpu_list *list, struct err *err)
{
	char text[128];
	cpu_set_t *set = CPU_ALLOC(CPU_NUMBER_MAX + 1);
	size_t bytes = CPU_ALLOC_SIZE(CPU_NUMBER_MAX + 1);
	if (set == NULL)
		return err_set(err, -ENOMEM, "out of memory");
	CPU_ZERO_S(bytes, set);
	for (uint32_t cpu = 0; cpu <= CPU_NUMBER_MAX; cpu++)
		if (cpu_list_has(list, cpu))
			CPU_SET_S(cpu, bytes, set);
	int rc = sched_setaffinity(0, bytes, set) < 0 ? -errno : 0;
	CPU_FREE(set);
	return rc < 0 ? err_set(err, rc, "run on processors %s: %s",
				cpu_list_format(list, text, sizeof(text)),
				rc == -EINVAL ? "none of them is there and allowed" : strerror(-rc))
		      : 0;
}

/* ---- what /sys and /proc say ---- */

/* The first line, without its end. */
static bool line_read(const char *path, char *buf, size_t buf_bytes)
{
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return false;
	bool got = fgets(buf, (int)buf_bytes, file) != NULL;
	fclose(file);
	if (got)
		buf[strcspn(buf, "\n")] = '\0';
	return got;
}

static bool exists(const char *path)
{
	return access(path, F_OK) == 0;
}

static uint32_t entries_count(const char *path)
{
	uint32_t count = 0;
	DIR *dir = opendir(path);
	if (dir == NULL)
		return 0;
	for (struct dirent *d; (d = readdir(dir)) != NULL;)
		count += d->d_name[0] != '.';
	closedir(dir);
	return count;
}

/* The directory of the whole disk under /sys/devices. */
static bool disk_dir(const char *root, const char *path, char dir[CPU_PATH_BYTES])
{
	char link[CPU_PATH_BYTES], real[PATH_MAX], part[CPU_PATH_BYTES];
	struct stat st;
	if (stat(path, &st) < 0)
		return false;
	dev_t dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
	snprintf(link, sizeof(link), "%.200s/sys/dev/block/%u:%u", root, major(dev), minor(dev));
	if (realpath(link, real) == NULL || strlen(real) > 490)
		return false;
	snprintf(part, sizeof(part), "%.490s/partition", real);
	if (exists(part))
		*strrchr(real, '/') = '\0';
	snprintf(dir, CPU_PATH_BYTES, "%.490s", real);
	return true;
}

/* How often the interrupt came, on all processors together. */
static uint64_t irq_count(const char *root, const char *irq)
{
	char path[CPU_PATH_BYTES], line[8192];
	uint64_t sum = 0;
	snprintf(path, sizeof(path), "%.200s/proc/interrupts", root);
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return 0;
	while (fgets(line, sizeof(line), file) != NULL) {
		char *at = line + strspn(line, " "), *end;
		size_t length = strlen(irq);
		if (strncmp(at, irq, length) != 0 || at[length] != ':')
			continue;
		at += length + 1;
		for (;;) {
			unsigned long long n = strtoull(at, &end, 10);
			if (end == at)
				break;
			sum += n;
			at = end;
		}
		break;
	}
	fclose(file);
	return sum;
}

/* Of the interrupts of the controller, the one that comes most: the others are for its configuration. */
static bool irq_of_controller(const char *root, const char *msi_irqs, char irq[32])
{
	uint64_t most = 0;
	DIR *dir = opendir(msi_irqs);
	if (dir == NULL)
		return false;
	for (struct dirent *d; (d = readdir(dir)) != NULL;) {
		if (d->d_name[0] < '0' || d->d_name[0] > '9' || strlen(d->d_name) > 20)
			continue;
		uint64_t count = irq_count(root, d->d_name);
		if (count <= most)
			continue;
		most = count;
		snprintf(irq, 32, "%.20s", d->d_name);
	}
	closedir(dir);
	return most > 0;
}

int cpu_of_disk(const char *root, const char *path, uint32_t *ret_cpu)
{
	char dir[CPU_PATH_BYTES], at[CPU_PATH_BYTES + 32], irq[32], line[128];
	if (!disk_dir(root, path, dir))
		return -ENOENT;
	snprintf(at, sizeof(at), "%s/mq", dir);
	if (entries_count(at) != 1)
		return -ENOENT;
	/* The nearest device above the disk that has interrupts is its controller. With a line of the old kind
	 * (`irq`) it has none that we know, and those above are a bridge's. */
	for (;;) {
		char *slash = strrchr(dir, '/');
		if (slash == NULL || slash == dir)
			return -ENOENT;
		*slash = '\0';
		snprintf(at, sizeof(at), "%s/msi_irqs", dir);
		if (exists(at))
			break;
		snprintf(at, sizeof(at), "%s/irq", dir);
		if (exists(at))
			return -ENOENT;
	}
	if (!irq_of_controller(root, at, irq))
		return -ENOENT;
	snprintf(at, sizeof(at), "%.200s/proc/irq/%s/effective_affinity_list", root, irq);
	struct cpu_list list;
	struct err err = {0};
	if (!line_read(at, line, sizeof(line)) || cpu_list_parse(line, &list, &err) < 0 ||
	    list.count != 1)
		return -ENOENT;
	for (*ret_cpu = 0; !cpu_list_has(&list, *ret_cpu);)
		++*ret_cpu;
	return 0;
}

uint32_t cpu_awake_latency_us(const char *root)
{
	char path[CPU_PATH_BYTES], line[64];
	snprintf(path, sizeof(path), "%.200s/sys/devices/system/cpu/cpuidle/current_driver", root);
	return line_read(path, line, sizeof(line)) && strcmp(line, "haltpoll") == 0 ? 0 : 2;
}
