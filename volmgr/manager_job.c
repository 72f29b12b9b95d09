/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Admin operations on a volume, one at a time each.
 *
 * A job is a chain of steps, each of which ends in a callback that starts the next. It carries the
 * call that waits for it, and answers it exactly once, last.
 *
 * B1  At most one job per volume name, at most MANAGER_JOBS_MAX in all: what comes meanwhile is
 *     refused, not queued.
 * B2  A job goes on when its caller went away: half-done work is worse than unheard success.
 * B3  What a job leaves unfinished is in the volume's record as an intent; the check below takes
 *     it up again, less often each time it fails.
 * B4  A volume that is bound for nobody (no export, no job) is released: the manager that attached
 *     it for the duration of something ended in the middle.
 */
#include "volmgr/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

#define RESUME_FIRST_NS 500000000ull
#define RESUME_MAX_NS   10000000000ull
#define RESUME_WIDTH    4

static struct manager_job *job_find(struct manager *m, const char *name)
{
	list_for_each (n, &m->jobs) {
		struct manager_job *job = CONTAINER_OF(n, struct manager_job, link);
		if (strcmp(job->name, name) == 0)
			return job;
	}
	return NULL;
}

bool job_runs(struct manager *m, const char *name)
{
	return job_find(m, name) != NULL;
}

static struct manager_job *job_new(struct manager *m, const char *what, const char *name)
{
	struct manager_job *job = calloc(1, sizeof(*job));
	if (job == NULL)
		return NULL;
	job->manager = m;
	job->what = what;
	snprintf(job->name, sizeof(job->name), "%s", name);
	list_push_back(&m->jobs, &job->link);
	m->job_count++;
	return job;
}

struct manager_job *job_start(struct manager *m, struct rpc_call *call, const char *what,
			      const char *name)
{
	struct err err = {0};
	if (name_check("volume name", name, &err) < 0) {
		call_fail(call, &err);
		return NULL;
	}
	const struct manager_job *other = job_find(m, name);
	if (other != NULL) {
		rpc_call_fail(call, RPC_ABORTED, "volume '%s' is busy: %s is under way", name,
			      other->what);
		return NULL;
	}
	struct manager_job *job = m->job_count < MANAGER_JOBS_MAX ? job_new(m, what, name) : NULL;
	if (job == NULL) {
		rpc_call_fail(call, RPC_RESOURCE_EXHAUSTED,
			      "%u operations are under way, at most %d", m->job_count,
			      MANAGER_JOBS_MAX);
		return NULL;
	}
	job->call = call;
	return job;
}

void job_free(struct manager_job *job)
{
	list_remove(&job->link);
	job->manager->job_count--;
	free(job->text);
	free(job);
}

void job_reply(struct manager_job *job, const ProtobufCMessage *message)
{
	if (job->call == NULL) {
		job_free(job);
		return;
	}
	if (job->err.code < 0)
		call_fail(job->call, &job->err);
	else
		(void)rpc_call_reply(job->call, message); /* a failure was answered as INTERNAL */
	job_free(job);
}

void job_reply_volume(struct manager_job *job)
{
	struct arena arena = {0};
	Holdfast__V1__VolumeInfo *info = NULL;
	struct manager_volume *volume = manager_volume_find(job->manager, job->name);
	if (job->err.code == 0 && volume == NULL)
		err_set(&job->err, -ENOENT, "volume '%s' is gone", job->name);
	if (job->err.code == 0)
		info = status_volume(job->manager, volume, &arena);
	job_reply(job, info != NULL ? &info->base : NULL);
	arena_free(&arena);
}

void job_op_seen(struct manager_job *job)
{
	struct lifecycle_op *op = &job->op;
	if (op->mod_revision != 0)
		manager_volume_put(job->manager, &op->record, op->mod_revision);
	else if (op->removing)
		manager_volume_gone(job->manager, job->name, op->txn.revision);
}

void job_lifecycle(struct manager_job *job, enum lifecycle_goal goal,
		   void (*done)(struct lifecycle_op *op, int status))
{
	struct lifecycle_op *op = &job->op;
	if (goal != LIFECYCLE_CREATE)
		*op = (struct lifecycle_op){0};
	memcpy(op->name, job->name, sizeof(op->name));
	memcpy(op->target_node, job->gateway, sizeof(op->target_node));
	op->goal = goal;
	op->done = done;
	op->user = job;
	lifecycle_submit(job->manager->lifecycle, op);
}

/* ---- unfinished business ---- */

static void resume_done(struct lifecycle_op *op, int status)
{
	struct manager_job *job = op->user;
	struct manager *m = job->manager;
	job_op_seen(job);
	struct manager_volume *volume = manager_volume_find(m, job->name);
	if (volume != NULL && status < 0) {
		uint64_t wait_ns = RESUME_FIRST_NS << MIN(volume->resume_failures, 10u);
		volume->resume_failures++;
		volume->resume_after_ns = env_now_ns(m->env) + MIN(wait_ns, RESUME_MAX_NS);
	}
	if (status < 0)
		log_event(LOG_INFO, "manager", "still_unfinished", "vol=%s what=%s error=%s",
			  job->name, job->what, LOG_Q(err_text(&op->err)));
	job_free(job);
}

static bool is_unfinished(const struct manager_volume *volume)
{
	const struct volume_record *record = &volume->record;
	return record->intent != INTENT_NONE || record->state == VOLUME_PENDING;
}

static bool is_bound_for_nobody(const struct manager_volume *volume)
{
	return volume->record.state == VOLUME_BOUND && !volume->has_export;
}

void manager_jobs_check(struct manager *m)
{
	uint64_t now_ns = env_now_ns(m->env);
	uint32_t started = 0;
	list_for_each (n, &m->volumes) {
		struct manager_volume *volume = CONTAINER_OF(n, struct manager_volume, link);
		bool unfinished = is_unfinished(volume);
		if ((!unfinished && !is_bound_for_nobody(volume)) ||
		    now_ns < volume->resume_after_ns || job_runs(m, volume->record.name))
			continue;
		if (started == RESUME_WIDTH || m->job_count >= MANAGER_JOBS_MAX / 2)
			return;
		struct manager_job *job =
			job_new(m, unfinished ? "resume" : "release", volume->record.name);
		if (job == NULL)
			return;
		started++;
		volume->resume_after_ns = now_ns + RESUME_FIRST_NS;
		job_lifecycle(job, unfinished ? LIFECYCLE_RESUME : LIFECYCLE_RELEASE, resume_done);
	}
}
