/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lifecycle as a loop: read the record, decide one step from it alone, take the step, again.
 *
 * F1  Every change of a record is a compare-and-swap on the revision that it was computed from.
 * F2  A side effect starts only after a read that showed its intent in the record.
 * F3  An intent leaves the record only by the change that follows its effect's success, or by a
 *     transition to failed of a volume that holds no data; then cleanup comes before removal.
 * F4  Nothing is remembered between steps that the record does not say, but for two hints: that
 *     this request was entered (checked against request_token), and that this process has
 *     performed the effect of an intent_id. Losing both at a crash costs a repetition, no more.
 * F5  An unknown outcome is resolved by reading: either the record moved on, or the same
 *     compare-and-swap is tried again, and at most one of the two can apply (same revision).
 * F6  "There is no record" is no revision: a creation that is applied late could bring back a
 *     volume that was created by its repetition and deleted since. So each creation also swaps
 *     CREATED_KEY, and its repetition makes it void.
 * F7  An intent_id is never used twice for a name, even when the volume is deleted and created
 *     again: ids begin at the store's revision, which rises by one at least with each intent. So
 *     what is late from an earlier life is known by its id.
 *
 * Should a request whose outcome is unknown be applied, finished, and undone by others before it
 * is read again, it is entered a second time: a request may happen twice, but never half.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "volmgr/lifecycle.h"

#define GIVE_UP_NS   (30ull * 1000000000)
#define RETRY_MIN_NS 10000000ull
#define CREATED_KEY  "/volumes-created"

struct lifecycle {
	struct env *env;
	struct meta *meta;
	const struct lifecycle_ops *ops;
	void *ctx;
};

#define TO(state) (1u << VOLUME_##state)
static const uint32_t lifecycle_table[VOLUME_STATES] = {
	[VOLUME_PENDING] = TO(PROVISIONING) | TO(FAILED),
	[VOLUME_PROVISIONING] = TO(AVAILABLE) | TO(FAILED),
	[VOLUME_AVAILABLE] = TO(BINDING) | TO(DELETED),
	[VOLUME_BINDING] = TO(BOUND) | TO(AVAILABLE) | TO(FAILED),
	[VOLUME_BOUND] = TO(RELEASING),
	[VOLUME_RELEASING] = TO(AVAILABLE) | TO(DELETED) | TO(FAILED),
	[VOLUME_FAILED] = TO(DELETED),
	[VOLUME_DELETED] = 0,
};

bool lifecycle_legal(enum volume_state from, enum volume_state to)
{
	return from < VOLUME_STATES && to < VOLUME_STATES && (lifecycle_table[from] >> to & 1);
}

int lifecycle_check(const char *name, enum volume_state from, enum volume_state to, struct err *err)
{
	if (lifecycle_legal(from, to))
		return 0;
	return err_set(err, -EBUSY, "volume '%s' is %s: it cannot become %s", name,
		       volume_state_name(from), volume_state_name(to));
}

bool lifecycle_attach_allowed(const struct volume_record *record, const char *node,
			      uint64_t intent_id)
{
	bool wanted = record->state == VOLUME_BOUND ||
		      (record->state == VOLUME_BINDING && record->intent == INTENT_ATTACH);
	return wanted && record->intent_id == intent_id && strcmp(record->target_node, node) == 0;
}

static void op_read(struct lifecycle_op *op);
static void op_decide(struct lifecycle_op *op);
static void op_drive(struct lifecycle_op *op);

static void op_end(struct lifecycle_op *op, int status)
{
	env_timer_cancel(op->lifecycle->env, &op->retry);
	free(op->text);
	op->text = NULL;
	if (status < 0 && op->err.code == 0)
		err_set(&op->err, status, "volume '%s': %s", op->name, strerror(-status));
	op->done(op, status);
}

static void retry_fire(struct env_timer *timer)
{
	op_read(CONTAINER_OF(timer, struct lifecycle_op, retry));
}

/* Reads again after a while, so that two managers do not dance in step; or gives up. */
static void op_retry(struct lifecycle_op *op, int status)
{
	struct env *env = op->lifecycle->env;
	if (env_now_ns(env) >= op->deadline_ns) {
		err_set(&op->err, status, "volume '%s': the metadata store did not answer: %s",
			op->name, strerror(-status));
		op_end(op, status);
		return;
	}
	env_timer_after(env, &op->retry, RETRY_MIN_NS + env_random(env) % (4 * RETRY_MIN_NS));
}

static bool is_worth_retrying(int status)
{
	return status == -EAGAIN || status == -ETIMEDOUT;
}

/* ---- reading ---- */

static void read_done(struct meta_txn *read, int status)
{
	struct lifecycle_op *op = CONTAINER_OF(read, struct lifecycle_op, read);
	if (is_worth_retrying(status)) {
		op_retry(op, status);
		return;
	}
	if (status < 0) {
		op_end(op, status);
		return;
	}
	const struct meta_kv *kv = &read->results[0];
	op->mod_revision = kv->key ? kv->mod_revision : 0;
	op->created_revision = read->results[1].key ? read->results[1].mod_revision : 0;
	if (kv->key)
		status = volume_record_decode(kv->value, kv->value_bytes, &op->record, &op->err);
	if (status < 0)
		op_end(op, status);
	else
		op_decide(op);
}

static void op_read(struct lifecycle_op *op)
{
	op->reads[0] = meta_do_get(op->key);
	op->reads[1] = meta_do_get(CREATED_KEY);
	op->read = (struct meta_txn){.success = op->reads, .success_count = 2, .done = read_done};
	meta_txn(op->lifecycle->meta, &op->read);
}

/* ---- writing ---- */

static void op_changed(struct lifecycle_op *op, enum volume_state from, enum volume_state to)
{
	const struct lifecycle *lc = op->lifecycle;
	if (from != to && lc->ops->changed)
		lc->ops->changed(lc->ctx, &op->record, from, to);
}

static void txn_done(struct meta_txn *txn, int status)
{
	struct lifecycle_op *op = CONTAINER_OF(txn, struct lifecycle_op, txn);
	if (is_worth_retrying(status)) {
		op_retry(op, status); /* F5 */
		return;
	}
	if (status < 0) {
		op_end(op, status);
		return;
	}
	if (!txn->succeeded) {
		op_retry(op, -EAGAIN); /* someone else was first */
		return;
	}
	enum volume_state from = op->mod_revision ? op->record.state : VOLUME_STATES;
	bool removed = op->removing;
	op->mod_revision = removed ? 0 : txn->revision;
	if (!removed)
		op->record = op->next;
	if (op->record.request_token == op->token)
		op->entered = true;
	op_changed(op, from, removed ? VOLUME_STATES : op->record.state);
	op_decide(op);
}

/* Swaps the record for op->next, or removes it (F1). */
static void op_swap(struct lifecycle_op *op, bool removing)
{
	op->removing = removing;
	free(op->text);
	op->text = NULL;
	if (removing) {
		op->changes[0] = meta_do_delete(op->key);
	} else {
		if (op->mod_revision && op->next.state != op->record.state)
			assert(lifecycle_legal(op->record.state, op->next.state));
		int rc = volume_record_encode(&op->next, &op->text, &op->err);
		if (rc < 0) {
			op_end(op, rc);
			return;
		}
		op->changes[0] = meta_do_put(op->key, op->text, strlen(op->text), 0);
	}
	op->compares[0] = meta_if_unchanged(op->key, op->mod_revision);
	op->compares[1] = meta_if_unchanged(CREATED_KEY, op->created_revision);
	op->changes[1] = meta_do_put(CREATED_KEY, "", 0, 0);
	uint32_t count = op->mod_revision ? 1 : 2; /* F6 */
	op->txn = (struct meta_txn){.compares = op->compares,
				    .compare_count = count,
				    .success = op->changes,
				    .success_count = count,
				    .done = txn_done};
	meta_txn(op->lifecycle->meta, &op->txn);
}

/* Starts op->next as a copy that goes to `state` with an intent. */
static void next_make(struct lifecycle_op *op, enum volume_state state, enum volume_intent intent)
{
	op->next = op->record;
	op->next.state = state;
	op->next.intent = intent;
	if (intent != INTENT_NONE)
		op->next.intent_id++;
}

/* ---- side effects ---- */

static const char *condition_of(enum volume_intent intent)
{
	switch (intent) {
	case INTENT_PROVISION:
		return "ProvisionFailed";
	case INTENT_ATTACH:
		return "AttachFailed";
	case INTENT_DETACH:
	case INTENT_ABANDON:
		return "DetachFailed";
	case INTENT_CLEANUP:
		return "CleanupFailed";
	case INTENT_NONE:
	case INTENTS:
		break;
	}
	return "";
}

static void effect_done(struct lifecycle_effect *effect, int status, const char *reason)
{
	struct lifecycle_op *op = CONTAINER_OF(effect, struct lifecycle_op, effect);
	op->ended_kind = effect->kind;
	op->ended_id = op->record.intent_id;
	op->ended_status = status;
	snprintf(op->reason, sizeof(op->reason), "%s",
		 reason       ? reason
		 : status < 0 ? strerror(-status)
			      : "");
	op->deadline_ns = env_now_ns(op->lifecycle->env) + GIVE_UP_NS;
	op_read(op); /* the effect itself may have changed the record */
}

static void op_effect(struct lifecycle_op *op)
{
	op->effect.kind = op->record.intent;
	op->effect.record = &op->record;
	op->effect.done = effect_done;
	op->lifecycle->ops->start(op->lifecycle->ctx, &op->effect);
}

/* What follows an effect that succeeded. */
static void op_effect_succeeded(struct lifecycle_op *op)
{
	const struct volume_record *r = &op->record;
	const char *condition = condition_of(r->intent);
	switch (r->intent) {
	case INTENT_PROVISION:
		next_make(op, VOLUME_AVAILABLE, INTENT_NONE);
		break;
	case INTENT_ATTACH:
		next_make(op, VOLUME_BOUND, INTENT_NONE);
		break;
	case INTENT_DETACH:
	case INTENT_ABANDON:
		if (r->delete_wanted && r->state == VOLUME_RELEASING)
			next_make(op, VOLUME_DELETED, INTENT_CLEANUP);
		else
			next_make(op, VOLUME_AVAILABLE, INTENT_NONE);
		op->next.target_node[0] = 0;
		break;
	case INTENT_CLEANUP:
		op_swap(op, true);
		return;
	case INTENT_NONE:
	case INTENTS:
		assert(!"no intent");
	}
	volume_condition_clear(&op->next, condition);
	op_swap(op, false);
}

/* What follows one that failed: the previous stable state, or the same one, with a condition. */
static void op_effect_failed(struct lifecycle_op *op)
{
	enum volume_intent kind = op->record.intent;
	op->failure = op->ended_status;
	err_set(&op->err, op->failure, "volume '%s': %s: %s", op->name, condition_of(kind),
		op->reason);
	if (kind == INTENT_PROVISION && op->failure == LIFECYCLE_NEVER)
		next_make(op, VOLUME_FAILED, INTENT_NONE);
	else if (kind == INTENT_ATTACH)
		next_make(op, VOLUME_BINDING, INTENT_DETACH); /* then back to available */
	else
		op->next = op->record;
	volume_condition_set(&op->next, condition_of(kind), op->reason,
			     env_wall_ms(op->lifecycle->env));
	op_swap(op, false);
}

static bool condition_is_set(const struct volume_record *r, const char *type, const char *reason)
{
	for (uint32_t i = 0; i < r->condition_count; i++)
		if (strcmp(r->conditions[i].type, type) == 0 &&
		    strcmp(r->conditions[i].reason, reason) == 0)
			return true;
	return false;
}

/* ---- deciding ---- */

static void op_finish(struct lifecycle_op *op)
{
	enum volume_state want = op->goal == LIFECYCLE_BIND ? VOLUME_BOUND : VOLUME_AVAILABLE;
	bool gone_is_fine = op->goal == LIFECYCLE_DELETE || op->goal == LIFECYCLE_RESUME ||
			    op->goal == LIFECYCLE_ABANDON ||
			    (op->goal == LIFECYCLE_RELEASE && op->then_delete);
	if (op->failure < 0) {
		op_end(op, op->failure);
	} else if (op->mod_revision == 0) {
		op_end(op, gone_is_fine ? 0 : -ENOENT);
	} else if (op->goal == LIFECYCLE_RESUME || op->record.state == want) {
		op_end(op, 0);
	} else {
		err_set(&op->err, -EBUSY, "volume '%s' became %s meanwhile", op->name,
			volume_state_name(op->record.state));
		op_end(op, -EBUSY);
	}
}

/* Works on whatever intent the record holds (F2). */
static void op_drive(struct lifecycle_op *op)
{
	struct volume_record *r = &op->record;
	if (op->mod_revision == 0) {
		op_finish(op);
	} else if (r->intent == INTENT_NONE && r->state == VOLUME_PENDING && r->voter_count) {
		next_make(op, VOLUME_PROVISIONING, INTENT_PROVISION);
		op_swap(op, false);
	} else if (r->intent == INTENT_NONE) {
		op_finish(op);
	} else if (op->ended_kind != r->intent || op->ended_id != r->intent_id) {
		op_effect(op);
	} else if (op->ended_status == 0) {
		op_effect_succeeded(op);
	} else if (condition_is_set(r, condition_of(r->intent), op->reason)) {
		op_end(op, op->ended_status); /* the failure is on record; resume tries again */
	} else {
		op_effect_failed(op);
	}
}

/* The request enters: from `state` it goes to `to` with an intent. */
static void op_enter(struct lifecycle_op *op, enum volume_state to, enum volume_intent intent)
{
	int rc = lifecycle_check(op->name, op->record.state, to, &op->err);
	if (rc == 0 && op->record.intent != INTENT_NONE) /* releasing, before the detach (F3) */
		rc = err_set(&op->err, -EBUSY,
			     "volume '%s' is %s and not done with it: it cannot become %s yet",
			     op->name, volume_state_name(op->record.state), volume_state_name(to));
	if (rc < 0) {
		op_end(op, rc);
		return;
	}
	next_make(op, to, intent);
	op->next.request_token = op->token;
	if (op->goal == LIFECYCLE_BIND)
		memcpy(op->next.target_node, op->target_node, NAME_BYTES);
	if (op->goal == LIFECYCLE_RELEASE)
		op->next.delete_wanted = op->then_delete;
	op_swap(op, false);
}

static void op_decide_create(struct lifecycle_op *op)
{
	if (op->mod_revision == 0) {
		op->next = op->draft;
		op->next.request_token = op->token;
		op->next.intent_id = (uint64_t)op->read.revision; /* F7 */
		op_swap(op, false);
	} else if (uuid_equal(&op->record.uuid, &op->draft.uuid)) {
		op->entered = true; /* this draft, perhaps by an earlier request */
		op_drive(op);
	} else {
		err_set(&op->err, -EEXIST, "volume '%s' exists", op->name);
		op_end(op, -EEXIST);
	}
}

static void op_decide_delete(struct lifecycle_op *op)
{
	enum volume_state state = op->record.state;
	if (state == VOLUME_DELETED) {
		op->entered = true;
		op_drive(op);
	} else if (state == VOLUME_PENDING || state == VOLUME_PROVISIONING) {
		next_make(op, VOLUME_FAILED, INTENT_NONE); /* it holds no data yet */
		op_swap(op, false);
	} else {
		op_enter(op, VOLUME_DELETED, INTENT_CLEANUP);
	}
}

/* The intent of a bind or release that waits for the gateway gives way to this one. */
static void op_decide_abandon(struct lifecycle_op *op)
{
	const struct volume_record *r = &op->record;
	if (r->intent == INTENT_ABANDON || r->state == VOLUME_AVAILABLE) {
		op->entered = true; /* by an earlier request, or there is nothing to abandon */
		op_drive(op);
	} else if (r->state == VOLUME_BINDING || r->state == VOLUME_RELEASING) {
		next_make(op, r->state, INTENT_ABANDON);
		op->next.request_token = op->token;
		op_swap(op, false);
	} else {
		op_enter(op, VOLUME_RELEASING, INTENT_ABANDON);
	}
}

static void op_decide(struct lifecycle_op *op)
{
	if (op->mod_revision && op->record.request_token == op->token)
		op->entered = true;
	if (op->entered || op->goal == LIFECYCLE_RESUME) {
		op_drive(op);
	} else if (op->goal == LIFECYCLE_CREATE) {
		op_decide_create(op);
	} else if (op->mod_revision == 0) {
		err_set(&op->err, -ENOENT, "volume '%s' does not exist", op->name);
		op_end(op, -ENOENT);
	} else if (op->goal == LIFECYCLE_BIND) {
		op_enter(op, VOLUME_BINDING, INTENT_ATTACH);
	} else if (op->goal == LIFECYCLE_RELEASE) {
		op_enter(op, VOLUME_RELEASING, INTENT_DETACH);
	} else if (op->goal == LIFECYCLE_ABANDON) {
		op_decide_abandon(op);
	} else {
		op_decide_delete(op);
	}
}

/* ---- calls ---- */

struct lifecycle *lifecycle_create(struct env *env, struct meta *meta,
				   const struct lifecycle_ops *ops, void *ctx)
{
	struct lifecycle *lc = calloc(1, sizeof(*lc));
	if (lc)
		*lc = (struct lifecycle){env, meta, ops, ctx};
	return lc;
}

void lifecycle_destroy(struct lifecycle *lifecycle)
{
	free(lifecycle);
}

void lifecycle_submit(struct lifecycle *lc, struct lifecycle_op *op)
{
	op->lifecycle = lc;
	op->entered = false;
	op->failure = 0;
	op->err = (struct err){0};
	op->ended_kind = INTENT_NONE;
	op->retry = (struct env_timer){.fire = retry_fire};
	op->token = (env_random(lc->env) & INT64_MAX) | 1;
	op->deadline_ns = env_now_ns(lc->env) + GIVE_UP_NS;
	if (op->goal == LIFECYCLE_CREATE) {
		op->draft = op->record;
		op->draft.state = VOLUME_PENDING;
		op->draft.intent = INTENT_NONE;
		memcpy(op->name, op->draft.name, NAME_BYTES);
	}
	volume_key(op->name, op->key);
	op_read(op);
}

/* ---- resume ---- */

static void resume_page_done(struct meta_range *range, int status);

static void resume_next(struct lifecycle_resume *resume)
{
	if (resume->running_count)
		return;
	if (resume->range.more)
		meta_range(resume->lifecycle->meta, &resume->range);
	else
		resume->done(resume, 0);
}

static void resume_op_done(struct lifecycle_op *op, int status)
{
	struct lifecycle_resume *resume = op->user;
	resume->running_count--;
	if (status == 0)
		resume->finished_count++;
	else
		resume->failed_count++;
	resume_next(resume);
}

static bool is_unfinished(const struct volume_record *r)
{
	return r->intent != INTENT_NONE || (r->state == VOLUME_PENDING && r->voter_count);
}

static void resume_page_done(struct meta_range *range, int status)
{
	struct lifecycle_resume *resume = CONTAINER_OF(range, struct lifecycle_resume, range);
	if (status < 0) {
		resume->done(resume, status);
		return;
	}
	for (uint32_t i = 0; i < range->kv_count; i++) {
		struct lifecycle_op *op = &resume->ops[resume->running_count];
		*op = (struct lifecycle_op){
			.goal = LIFECYCLE_RESUME, .done = resume_op_done, .user = resume};
		const struct meta_kv *kv = &range->kvs[i];
		if (volume_record_decode(kv->value, kv->value_bytes, &op->record, NULL) < 0)
			resume->failed_count++; /* one bad record does not stop the others */
		else if (is_unfinished(&op->record))
			resume->running_count++;
	}
	for (uint32_t i = 0; i < resume->running_count; i++)
		memcpy(resume->ops[i].name, resume->ops[i].record.name, NAME_BYTES);
	/* submitting calls nothing back, so running_count is steady here */
	for (uint32_t i = 0; i < resume->running_count; i++)
		lifecycle_submit(resume->lifecycle, &resume->ops[i]);
	resume_next(resume);
}

void lifecycle_resume(struct lifecycle *lifecycle, struct lifecycle_resume *resume)
{
	resume->lifecycle = lifecycle;
	resume->finished_count = resume->failed_count = resume->running_count = 0;
	resume->range = (struct meta_range){.key = VOLUMES_PREFIX,
					    .is_prefix = true,
					    .limit = LIFECYCLE_RESUME_WIDTH,
					    .done = resume_page_done};
	meta_range(lifecycle->meta, &resume->range);
}
