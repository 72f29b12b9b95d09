/* SPDX-License-Identifier: Apache-2.0 */
/* Which processors a daemon runs on, and how soundly they may sleep (--cpus, --cpu-latency). */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "volmgr/daemon.h"

#define CPU_LATENCY_US_MAX 10000

/* "auto", "off" or a number. *ret_us is UINT32_MAX for off. */
static int latency_parse(const char *text, uint32_t *ret_us, struct err *err)
{
	uint64_t us;
	if (strcmp(text, "auto") == 0)
		*ret_us = cpu_awake_latency_us("");
	else if (strcmp(text, "off") == 0)
		*ret_us = UINT32_MAX;
	else if (config_parse_number(CONFIG_UINT, text, &us) == 0 && us <= CPU_LATENCY_US_MAX)
		*ret_us = (uint32_t)us;
	else
		return err_set(err, -EINVAL,
			       "cpu-latency '%.40s': must be auto, off, or 0 to %d microseconds",
			       text, CPU_LATENCY_US_MAX);
	return 0;
}

static int cpus_parse(const char *text, struct cpu_list *list, bool *is_auto, struct err *err)
{
	*list = (struct cpu_list){0};
	*is_auto = strcmp(text, "auto") == 0;
	if (*is_auto || strcmp(text, "any") == 0)
		return 0;
	int rc = cpu_list_parse(text, list, err);
	return rc < 0 ? err_wrap(err, rc, "cpus") : 0;
}

static int options_parse(const struct daemon_options *options, struct cpu_list *cpus, bool *is_auto,
			 uint32_t *latency_us, struct err *err)
{
	int rc = cpus_parse(options->cpus, cpus, is_auto, err);
	return rc == 0 ? latency_parse(options->cpu_latency, latency_us, err) : rc;
}

int daemon_cpu_check(const struct daemon_options *options, struct err *err)
{
	struct cpu_list list;
	bool is_auto;
	uint32_t latency_us;
	return options_parse(options, &list, &is_auto, &latency_us, err);
}

int daemon_cpu_open(struct daemon *daemon, const struct daemon_options *options, struct err *err)
{
	uint32_t latency_us;
	int rc = options_parse(options, &daemon->cpus, &daemon->cpus_auto, &latency_us, err);
	if (rc == 0 && latency_us != UINT32_MAX)
		loop_awake_set(daemon->loop, latency_us);
	/* All threads: they are made later and inherit it. */
	if (rc == 0 && daemon->cpus.count > 0)
		rc = cpu_pin(&daemon->cpus, err);
	return rc;
}

void daemon_near_disk(struct daemon *daemon, const char *path)
{
	uint32_t cpu;
	if (!daemon->cpus_auto)
		return;
	if (cpu_of_disk("", path, &cpu) == 0) {
		cpu_list_add(&daemon->cpus, cpu);
		return;
	}
	daemon->cpus_auto = false; /* one that may be served anywhere: so is the whole loop */
	daemon->cpus = (struct cpu_list){0};
}

void daemon_cpu_settle(struct daemon *daemon)
{
	struct err err = {0};
	char text[128];
	if (!daemon->cpus_auto || daemon->cpus.count == 0)
		return;
	/* The loop's thread alone: those of the admin service stay where they like. */
	if (cpu_pin(&daemon->cpus, &err) < 0) {
		log_event(LOG_WARN, "daemon", "cpus_refused", "error=%s", LOG_Q(err_text(&err)));
		daemon->cpus = (struct cpu_list){0};
		return;
	}
	log_event(LOG_INFO, "daemon", "cpus", "name=%s cpus=%s reason=disk_interrupts",
		  daemon->name, cpu_list_format(&daemon->cpus, text, sizeof(text)));
}

const char *daemon_cpus(const struct daemon *daemon, char *buf, size_t buf_bytes)
{
	if (daemon->cpus.count == 0)
		snprintf(buf, buf_bytes, "any");
	else
		cpu_list_format(&daemon->cpus, buf, buf_bytes);
	return buf;
}

const char *daemon_cpu_latency(const struct daemon *daemon)
{
	static const char *const names[] = {"off", "ready", "held"};
	return names[loop_awake_state(daemon->loop)];
}
