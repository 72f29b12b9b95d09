/* SPDX-License-Identifier: Apache-2.0 */
/* What a daemon says about its own process. */
#include <unistd.h>

#include "base/version.h"
#include "volmgr/arena.h"
#include "volmgr/daemon.h"
#include "volmgr/records.h"

Holdfast__V1__ProcessInfo *daemon_report(const struct daemon *daemon, const char *role,
					 struct arena *arena)
{
	char cpus[128];
	Holdfast__V1__ProcessInfo *out = ARENA_MESSAGE(arena, ProcessInfo, process_info);
	out->role = arena_copy(arena, role);
	out->name = arena_copy(arena, daemon->name);
	out->pid = getpid();
	out->state = arena_copy(arena, "running");
	out->admin_address = arena_copy(arena, daemon->admin_address);
	out->io_engine = arena_copy(arena, loop_engine_name(daemon->loop));
	out->version = arena_copy(arena, build_version());
	out->started_ms = daemon->started_ms;
	out->metrics_address = arena_copy(arena, daemon->metrics_address);
	out->cpus = arena_copy(arena, daemon_cpus(daemon, cpus, sizeof(cpus)));
	out->cpu_latency = arena_copy(arena, daemon_cpu_latency(daemon));
	return out;
}
