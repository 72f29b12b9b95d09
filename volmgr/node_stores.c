/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stores of a node: opened, failed, opened again, closed.
 *
 *   open --fails--> [next turn] out of the node --> closed, which notes bad blocks --pause--> opened --> back in
 *                                                                     ^---- pause doubles ----'
 *
 * T1 A store that fails is taken out on the next turn of the loop, never inside its own callback; its
 *    sessions end, and coordinators ask for the replica again until it is back.
 * T2 It is opened through recovery by the node itself, after 1 s, then 2 s, 4 s .. 60 s; the pause starts over when
 *    the store was well for a minute. What does not pass by itself (a store that is lost, or of a newer
 *    format) is not tried again: the reason says what to do.
 * T3 One coroutine a store; whoever has it is_busy, and nothing else touches the store meanwhile. An I/O that
 *    never ends keeps the close waiting, for its memory is the kernel's, and so the store out.
 */
#include "volmgr/node_role.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"

#define STACK_BYTES  ((size_t)256 << 10)
#define PAUSE_MIN_NS 1000000000ull
#define PAUSE_MAX_NS 60000000000ull
#define WELL_NS      60000000000ull

/* ---- one store ---- */

static void store_fail_note(struct role_store *rs, const char *reason)
{
	rs->is_failed = true;
	rs->last.failed = true;
	snprintf(rs->reason, sizeof(rs->reason), "%s", reason);
}

static void store_failed(void *ctx, int status, const char *what);

static int store_open_one(struct co *co, struct role_store *rs, struct err *err)
{
	struct node_role *role = rs->role;
	struct store_config config;
	store_config_default(&config);
	config.failed = store_failed;
	config.ctx = rs;
	int rc = store_open(co, role->daemon->env, rs->path, &config, &rs->store, err);
	if (rc < 0) {
		rs->store = NULL;
		rs->is_final = rc == -EUCLEAN || rc == -EPROTO;
		store_fail_note(rs, err_text(err));
		return rc;
	}
	rs->is_failed = false;
	rs->reason[0] = '\0';
	rs->opened_ns = env_now_ns(role->daemon->env);
	store_info(rs->store, &rs->last);
	log_event(LOG_INFO, "node", "store_opened",
		  "path=%s replicas=%u incarnation=%lu bad_blocks=%u", LOG_Q(rs->path),
		  rs->last.replica_count, (unsigned long)rs->last.incarnation, rs->last.bad_blocks);
	return 0;
}

static void store_open_say(const struct role_store *rs)
{
	log_event(LOG_ERROR, "node", "store_open_failed", "path=%s final=%s error=%s",
		  LOG_Q(rs->path), rs->is_final ? "yes" : "no", LOG_Q(rs->reason));
}

static void store_serve(struct role_store *rs)
{
	struct err err = {0};
	if (rs->role->node == NULL || rs->store == NULL || rs->is_failed)
		return;
	if (node_add_store(rs->role->node, rs->store, &err) < 0)
		store_failed(rs, err.code, err_text(&err));
}

static void store_shut(struct co *co, struct role_store *rs)
{
	rs->is_closing = true;
	store_close(co, take(rs->store)); /* nobody looks at it from here on */
	rs->is_closing = false;
}

/* ---- failure and return ---- */

static void close_check(struct node_role *role);

static void reopen_later(struct role_store *rs);

static void reopen_job(struct co *co, void *arg)
{
	struct role_store *rs = arg;
	struct err err = {0};
	if (!rs->role->is_stopping && store_open_one(co, rs, &err) < 0)
		store_open_say(rs);
	else if (!rs->role->is_stopping)
		store_serve(rs);
	if (rs->role->is_stopping && rs->store != NULL)
		store_shut(co, rs);
	rs->is_busy = false;
	reopen_later(rs);
	close_check(rs->role);
}

static void reopen_fire(struct env_timer *timer)
{
	struct role_store *rs = CONTAINER_OF(timer, struct role_store, timer);
	rs->is_busy = true;
	co_start(rs->co, reopen_job, rs);
}

/* T2 */
static void reopen_later(struct role_store *rs)
{
	struct env *env = rs->role->daemon->env;
	if (rs->store != NULL || rs->is_final || rs->role->is_stopping)
		return;
	bool was_well = rs->opened_ns != 0 && env_now_ns(env) - rs->opened_ns > WELL_NS;
	rs->pause_ns =
		rs->pause_ns == 0 || was_well ? PAUSE_MIN_NS : MIN(rs->pause_ns * 2, PAUSE_MAX_NS);
	rs->opened_ns = 0;
	rs->timer.fire = reopen_fire;
	env_timer_after(env, &rs->timer, rs->pause_ns);
}

uint64_t node_store_retry_ns(const struct role_store *rs)
{
	return env_timer_armed(&rs->timer) && rs->store == NULL ? rs->timer.deadline_ns : 0;
}

static void take_out_job(struct co *co, void *arg)
{
	struct role_store *rs = arg;
	store_shut(co, rs);
	rs->is_busy = false;
	reopen_later(rs);
	close_check(rs->role);
}

/* T1 */
static void take_out_fire(struct env_timer *timer)
{
	struct role_store *rs = CONTAINER_OF(timer, struct role_store, timer);
	if (rs->role->node != NULL)
		node_remove_store(rs->role->node, rs->store);
	log_event(LOG_ERROR, "node", "store_taken_out", "path=%s reason=%s", LOG_Q(rs->path),
		  LOG_Q(rs->reason));
	rs->is_busy = true;
	co_start(rs->co, take_out_job, rs);
}

static void store_failed(void *ctx, int status, const char *what)
{
	struct role_store *rs = ctx;
	char reason[300];
	snprintf(reason, sizeof(reason), "%.280s: %s", what, err_name(status));
	store_fail_note(rs, reason);
	if (rs->is_busy || rs->role->is_stopping)
		return; /* it is being closed already */
	rs->timer.fire = take_out_fire;
	env_timer_set(rs->role->daemon->env, &rs->timer, 0);
}

/* ---- all of them ---- */

static void open_job(struct co *co, void *arg)
{
	struct role_store *rs = arg;
	struct node_role *role = rs->role;
	struct err err = {0};
	struct daemon_wait wait = {0};
	int rc;
	do
		rc = store_open_one(co, rs, &err);
	while (daemon_wait_predecessor(&wait, rc, &err));
	if (rc < 0)
		store_open_say(rs);
	if (rc < 0 && role->open_err.code == 0)
		role->open_err = err;
	rs->is_busy = false;
	for (uint32_t i = 0; i < role->store_count; i++)
		if (role->stores[i].is_busy)
			return;
	role->is_opened = true;
}

static int stores_take_paths(struct node_role *role, struct err *err)
{
	const struct config_strings *paths = &role->options->stores;
	role->store_count = paths->count;
	for (uint32_t i = 0; i < paths->count; i++) {
		struct role_store *rs = &role->stores[i];
		rs->role = role;
		int rc = store_option_parse(paths->items[i], rs->path, rs->type, err);
		if (rc < 0)
			return rc;
		rs->co = co_create(role->daemon->env, STACK_BYTES);
		if (rs->co == NULL)
			return err_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

int node_stores_open(struct node_role *role, struct err *err)
{
	uint32_t open = 0;
	int rc = stores_take_paths(role, err);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < role->store_count; i++)
		role->stores[i].is_busy = true;
	for (uint32_t i = 0; i < role->store_count; i++)
		co_start(role->stores[i].co, open_job, &role->stores[i]);
	loop_run_until(role->daemon->loop, &role->is_opened, 0);
	for (uint32_t i = 0; i < role->store_count; i++)
		open += role->stores[i].store != NULL;
	if (open == 0) {
		if (err != NULL)
			*err = role->open_err;
		return role->open_err.code;
	}
	for (uint32_t i = 0; i < role->store_count; i++)
		reopen_later(&role->stores[i]);
	return 0;
}

void node_stores_serve(struct node_role *role)
{
	for (uint32_t i = 0; i < role->store_count; i++)
		store_serve(&role->stores[i]);
}

static void close_check(struct node_role *role)
{
	void (*closed)(struct node_role * role) = role->closed;
	if (closed == NULL)
		return;
	for (uint32_t i = 0; i < role->store_count; i++) {
		struct role_store *rs = &role->stores[i];
		if (rs->is_busy)
			return;
		if (rs->store != NULL) {
			rs->is_busy = true;
			co_start(rs->co, take_out_job, rs);
			return; /* one after the other; comes here again */
		}
	}
	role->closed = NULL;
	closed(role);
}

void node_stores_close(struct node_role *role, void (*closed)(struct node_role *role))
{
	for (uint32_t i = 0; i < role->store_count; i++)
		env_timer_cancel(role->daemon->env, &role->stores[i].timer);
	role->closed = closed;
	close_check(role);
}

void node_stores_free(struct node_role *role)
{
	for (uint32_t i = 0; i < role->store_count; i++)
		co_destroy(role->stores[i].co);
}
