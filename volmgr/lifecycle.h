/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lifecycle of a volume: its states, which may follow which, and who may act when.
 *
 *   pending -> provisioning, failed          binding   -> bound, available, failed
 *   provisioning -> available, failed        bound     -> releasing
 *   available -> binding, deleted            releasing -> available, deleted, failed
 *   failed -> deleted                        deleted   -> (the record is removed)
 *
 * A transition is one compare-and-swap of the volume's record. A side effect (provision replicas,
 * attach, detach, clean up) is recorded in the record as an intent by that same compare-and-swap,
 * performed, and ended by another. Whoever finds an intent may finish it: the process that began
 * it, another manager, or this one after a crash (lifecycle_resume). So effects must be idempotent,
 * and several managers may run the same one at once.
 *
 * What effects owe (the model in tests/model/lifecycle_model.c proves that this is enough):
 * E1  provision: the replicas named by voters[] exist. It may be performed late, even after the
 *     volume is gone: whoever collects reports of nodes deletes replicas that no record names
 *     (a record names a replica before it is created, and never again after its removal).
 * E2  attach: the gateway takes the volume by a compare-and-swap of the record itself, and only
 *     while lifecycle_attach_allowed() holds. A late attach then does nothing.
 * E3  detach: when done, no gateway serves the volume, and none that was told to attach for an
 *     earlier intent_id will. A detach that comes late leaves an attachment alone whose intent_id
 *     is higher than its own.
 * E4  cleanup: when done, none of the replicas named by the record exists.
 * E5  abandon: a detach of a gateway that may never answer: it is told when it can be reached, and
 *     the effect succeeds either way. It may go on writing until the volume is attached again,
 * whose epoch fences it at the replicas, or deleted, which takes them; what was acknowledged by
 * then is kept. So an attach with a higher intent_id always takes a new epoch, also on that
 * gateway.
 *
 * Runs in the env world on the thread of its env; never on a data path.
 */
#ifndef HF_VOLMGR_LIFECYCLE_H
#define HF_VOLMGR_LIFECYCLE_H

#include "volmgr/meta.h"
#include "volmgr/records.h"

/* The table. */
bool lifecycle_legal(enum volume_state from, enum volume_state to);
/* 0, or -EBUSY naming volume and both states. */
int lifecycle_check(const char *name, enum volume_state from, enum volume_state to,
		    struct err *err);
/* Whether the gateway on `node` may take the volume for the attach intent `intent_id` (E2); to be
 * followed by a compare-and-swap on the same revision of the record. */
bool lifecycle_attach_allowed(const struct volume_record *record, const char *node,
			      uint64_t intent_id);

struct lifecycle;

/* A side effect that fails with this will never succeed: provisioning leads to failed. Every other
 * error is transient: a condition is recorded and the effect is tried again at resume. */
#define LIFECYCLE_NEVER (-ENOTRECOVERABLE)

struct lifecycle_effect {
	enum volume_intent kind;
	const struct volume_record *record; /* as read with the intent; valid until done */
	/* Call once, later, never inside start(). reason: a sentence for people, may be NULL. */
	void (*done)(struct lifecycle_effect *effect, int status, const char *reason);
	void *user; /* the performer's */
};

struct lifecycle_ops {
	/* Performs effect->kind; required. */
	void (*start)(void *ctx, struct lifecycle_effect *effect);
	/* A volume went from one state to another, or (to == VOLUME_STATES) is gone: for the event
	 * journal. Optional. */
	void (*changed)(void *ctx, const struct volume_record *record, enum volume_state from,
			enum volume_state to);
};

enum lifecycle_goal {
	LIFECYCLE_CREATE,  /* op->record is the draft, with voters placed; ends available */
	LIFECYCLE_BIND,    /* available -> bound to op->target_node */
	LIFECYCLE_RELEASE, /* bound -> available, or deleted with then_delete */
	LIFECYCLE_ABANDON, /* binding, bound, releasing -> available (or gone, when that was wanted)
			    */
	LIFECYCLE_DELETE,  /* pending, provisioning, available, failed -> gone */
	LIFECYCLE_RESUME,  /* finish whatever intent the record holds */
};

/* Zero before use; the lifecycle's until done. About 30 KiB: not for a stack. */
struct lifecycle_op {
	/* in */
	enum lifecycle_goal goal;
	char name[NAME_BYTES];        /* but for CREATE */
	char target_node[NAME_BYTES]; /* BIND */
	bool then_delete;             /* RELEASE */
	/* in for CREATE; out: the record as last read or written */
	struct volume_record record;
	/*
	 * 0, or: -EBUSY illegal in its state; -EEXIST; -ENOENT; -EINVAL; -ETIMEDOUT, -EAGAIN the
	 * store did not answer in time; or what the effect failed with (then a condition says so
	 * and, but for a failed attach, the intent waits for resume). err has a sentence.
	 */
	void (*done)(struct lifecycle_op *op, int status);
	struct err err;
	void *user;
	/* the lifecycle's */
	struct lifecycle *lifecycle;
	struct meta_txn read;
	struct meta_do reads[2];
	struct meta_txn txn;
	struct meta_compare compares[2];
	struct meta_do changes[2];
	struct lifecycle_effect effect;
	struct env_timer retry;
	struct volume_record draft;
	struct volume_record next;
	char key[RECORD_KEY_BYTES];
	char *text;
	int64_t mod_revision; /* 0: there is no record */
	int64_t created_revision;
	uint64_t token;
	uint64_t deadline_ns;
	bool entered;
	bool removing;
	enum volume_intent ended_kind; /* the effect that was performed ... */
	uint64_t ended_id;             /* ... for this intent_id ... */
	int ended_status;              /* ... with this outcome */
	int failure;
	char reason[SENTENCE_BYTES];
};

/* NULL when memory is out. meta, ops and ctx outlive it. */
struct lifecycle *lifecycle_create(struct env *env, struct meta *meta,
				   const struct lifecycle_ops *ops, void *ctx);
/* No operation may be pending, except in a process that is torn down whole. NULL is fine. */
void lifecycle_destroy(struct lifecycle *lifecycle);
void lifecycle_submit(struct lifecycle *lifecycle, struct lifecycle_op *op);

#define LIFECYCLE_RESUME_WIDTH 4

/* Finishes the intents of all volumes. Zero before use. About 120 KiB. */
struct lifecycle_resume {
	void (*done)(struct lifecycle_resume *resume, int status);
	uint32_t finished_count; /* out: volumes that had an intent, and have none now */
	uint32_t failed_count;   /* out: those whose intent waits for the next resume */
	/* the lifecycle's */
	struct lifecycle *lifecycle;
	struct meta_range range;
	struct lifecycle_op ops[LIFECYCLE_RESUME_WIDTH];
	uint32_t running_count;
};
/* At start-up and every few seconds; one at a time. done: 0 or what reading the volumes failed
 * with. */
void lifecycle_resume(struct lifecycle *lifecycle, struct lifecycle_resume *resume);

#endif
