/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs of the store that want a coroutine on a loop: one of each for the time of the job. */
#include "cli/local.h"

#include <errno.h>

#define STACK_BYTES ((size_t)256 << 10)

struct job {
	struct env *env;
	cli_job_fn *fn;
	void *arg;
	struct err *err;
	int status;
	bool is_over;
};

static void job_run(struct co *co, void *arg)
{
	struct job *job = arg;

	job->status = job->fn(co, job->env, job->arg, job->err);
	job->is_over = true;
}

int cli_job(cli_job_fn *fn, void *arg, struct err *err)
{
	struct job job = {.fn = fn, .arg = arg, .err = err};
	struct loop *loop = NULL;
	struct co *co;
	int rc = loop_create(LOOP_ENGINE_AUTO, &loop, err);

	if (rc < 0)
		return rc;
	job.env = loop_env(loop);
	co = co_create(job.env, STACK_BYTES);
	if (co) {
		co_start(co, job_run, &job);
		loop_run_until(loop, &job.is_over, 0);
	}
	rc = co ? job.status : err_set(err, -ENOMEM, "out of memory");
	co_destroy(co);
	loop_destroy(loop);
	return rc;
}
