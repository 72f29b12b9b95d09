/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Explicit-state model of the volume lifecycle (volmgr/lifecycle.c): two managers and one name.
 *
 * Modelled. The record of one volume name, changed by compare-and-swap; two managers that run the
 * loop of lifecycle.c (read, decide from what was read, swap or perform the intent's effect, again)
 * for any request at any time; crashes of managers; swaps whose outcome is unknown: applied, lost,
 * or applied at any later time, also after their manager's death. An effect is a message that is
 * delivered at any later time, whether its manager still waits, gave up, or died; two managers may
 * send the same effect. Gateways take the volume by checking the record (rule E2 of lifecycle.h), a
 * detach ends attachments of lower ids (E3). A gateway may be abandoned (E5): it goes on as if
 * nothing had happened until it hears that it has nothing, another attach takes a new epoch, or the
 * replicas are gone. Replicas are one bit per life of the name; replicas that no record names are
 * swept (E1). Requests, crashes, unknown outcomes and time-outs are bounded.
 *
 * Left out. Conditions, the metadata store itself (conformance tests), gateways that die (to the
 * lifecycle they are gateways that do not answer), how an epoch fences (epoch_model.c).
 *
 * Invariants.
 *  one_owner       at most one gateway can write the volume
 *  owner_named     a serving gateway is the record's target, in binding, bound or releasing, or was
 *                  abandoned
 *  bound_served    while the record says bound, its target serves, under the last epoch
 *  provisioned     from available to releasing, the volume's replicas exist
 *  no_leak         a replica that no record names comes from a provision that arrived late
 *  no_return       a late creation does nothing once its repetition was applied
 *  deletable       from every state, once messages have arrived and with one manager alive, the
 *                  volume can be deleted, and then no record, replica or owner is left
 */
#include "tests/model/explore.h"

#include <stdint.h>
#include <string.h>

typedef uint8_t u8;

enum { MANAGERS = 2, GATEWAYS = 2, MESSAGES = 3, NOBODY = 0xff };
enum volume { PENDING, PROVISIONING, AVAILABLE, BINDING, BOUND, RELEASING, FAILED, DELETED };
enum intent { NONE, PROVISION, ATTACH, DETACH, CLEANUP, ABANDON };
enum goal { CREATE, BIND, RELEASE, RELEASE_DELETE, DELETE, ABANDON_GOAL, RESUME };
enum pc { IDLE, READ, ACT, WAIT };

struct config {
	u8 requests_max, crashes_max, unknown_max, timeouts_max, lives_max;
	/* rules left out */
	bool effect_first, blind_write, cleanup_skipped, never_swept, attach_unchecked;
	bool detach_any, ids_restart, delete_drops_detach, absence_only, no_detach_after_attach;
	bool not_fenced, attach_keeps_epoch, abandon_forgets;
	bool starts_available; /* spares the first requests */
	bool no_abandon;
};

struct record {
	u8 exists, state, intent, id, target, life, token, wants_delete;
};

struct manager {
	u8 pc, goal, node, token;
	u8 fresh;   /* nothing changed since `copy` was read: the swap would succeed */
	u8 entered; /* hint: the request is in */
	u8 ended_kind, ended_id, ended_failed;
	struct record copy;
};

struct late {
	u8 is_set, fresh, is_creation;
	struct record next;
};

struct message {
	u8 kind, id, life, target, from; /* kind NONE: free */
};

struct state {
	struct record record;
	struct manager managers[MANAGERS];
	struct late late[MANAGERS];
	struct message messages[MESSAGES];
	u8 owner[GATEWAYS]; /* the intent id it serves for; 0: does not */
	u8 abandoned;       /* bit per gateway: it serves, and the record has given it up */
	u8 replicas;        /* bit per life */
	u8 id_max, life_max;
	u8 requests, crashes, unknown, timeouts;
	/* for invariants only */
	u8 arrived_late;   /* bit per life: a provision arrived when it was no longer wanted */
	u8 created_tokens; /* bit per request: its creation was applied */
	u8 returned;
};

/* ---- the record ---- */

static void record_set(struct state *s, const struct record *next)
{
	s->record = *next;
	if (next->id > s->id_max)
		s->id_max = next->id;
	for (int m = 0; m < MANAGERS; m++)
		s->managers[m].fresh = s->late[m].fresh = 0;
}

static void created(struct state *s, const struct record *next)
{
	s->created_tokens |= (u8)(1u << next->token);
	if (next->life > s->life_max)
		s->life_max = next->life;
}

/* What follows from what was read: a swap to *next, an effect, or the end. */
enum step { END, SWAP, EFFECT, EFFECT_EARLY };

static struct record with_intent(const struct record *r, u8 state, u8 intent)
{
	struct record next = *r;
	next.state = state;
	next.intent = intent;
	if (intent != NONE)
		next.id++;
	return next;
}

static enum step effect_over(const struct config *c, const struct manager *m, struct record *next)
{
	const struct record *r = &m->copy;
	if (m->ended_failed && r->intent != ATTACH)
		return END; /* a resume will repeat it */
	if (m->ended_failed && !c->no_detach_after_attach) {
		*next = with_intent(r, BINDING, DETACH);
		return SWAP;
	}
	u8 detached = r->wants_delete && r->state == RELEASING;
	switch (r->intent) {
	case PROVISION:
		*next = with_intent(r, AVAILABLE, NONE);
		break;
	case ATTACH:
		*next = with_intent(r, m->ended_failed ? AVAILABLE : BOUND, NONE);
		break;
	case DETACH:
	case ABANDON:
		*next = detached ? with_intent(r, DELETED, CLEANUP)
				 : with_intent(r, AVAILABLE, NONE);
		next->target = 0;
		break;
	default:
		memset(next, 0, sizeof(*next));
	}
	return SWAP;
}

static enum step drive(const struct config *c, const struct manager *m, struct record *next)
{
	const struct record *r = &m->copy;
	if (!r->exists)
		return END;
	if (r->intent == NONE) {
		if (r->state != PENDING)
			return END;
		*next = with_intent(r, PROVISIONING, PROVISION);
		return SWAP;
	}
	if (c->cleanup_skipped && r->intent == CLEANUP && m->goal == RESUME) {
		memset(next, 0, sizeof(*next));
		return SWAP;
	}
	if (m->ended_kind != r->intent || m->ended_id != r->id)
		return EFFECT;
	return effect_over(c, m, next);
}

static enum step enter(const struct config *c, const struct manager *m, struct record *next)
{
	const struct record *r = &m->copy;
	if (m->goal == BIND && r->state == AVAILABLE) {
		*next = with_intent(r, BINDING, ATTACH);
		next->target = m->node;
	} else if ((m->goal == RELEASE || m->goal == RELEASE_DELETE) && r->state == BOUND) {
		*next = with_intent(r, RELEASING, DETACH);
		next->wants_delete = m->goal == RELEASE_DELETE;
	} else if (m->goal == ABANDON_GOAL && c->abandon_forgets && r->state == BINDING) {
		*next = with_intent(r, AVAILABLE, NONE);
		next->target = 0;
	} else if (m->goal == ABANDON_GOAL && r->state >= BINDING && r->state <= RELEASING &&
		   r->intent != ABANDON) {
		*next = with_intent(r, r->state == BOUND ? RELEASING : r->state, ABANDON);
	} else if (m->goal == DELETE && (r->state == PENDING || r->state == PROVISIONING)) {
		*next = with_intent(r, FAILED, NONE);
		return SWAP; /* not yet entered */
	} else if (m->goal == DELETE && (r->state == AVAILABLE || r->state == FAILED ||
					 (r->state == RELEASING && c->delete_drops_detach))) {
		*next = with_intent(r, DELETED, CLEANUP);
	} else {
		return END; /* refused */
	}
	next->token = m->token;
	return SWAP;
}

static enum step decide(const struct config *c, const struct state *s, struct manager *m,
			struct record *next)
{
	const struct record *r = &m->copy;
	*next = *r;
	if (r->exists && (r->token == m->token || (m->goal == DELETE && r->state == DELETED)))
		m->entered = 1;
	if (m->entered || m->goal == RESUME || (m->goal == CREATE && r->exists))
		return drive(c, m, next);
	if (m->goal != CREATE)
		return r->exists ? enter(c, m, next) : END;
	if (s->life_max == c->lives_max)
		return END; /* the bound */
	memset(next, 0, sizeof(*next));
	next->exists = 1;
	next->life = (u8)(s->life_max + 1);
	next->id = c->ids_restart ? 0 : s->id_max;
	next->token = m->token;
	return c->effect_first && m->ended_kind != PROVISION ? EFFECT_EARLY : SWAP;
}

/* ---- effects ---- */

static bool message_send(struct state *s, int m, const struct record *r, u8 kind)
{
	for (int i = 0; i < MESSAGES; i++) {
		if (s->messages[i].kind != NONE)
			continue;
		s->messages[i] = (struct message){kind, r->id, r->life, r->target, (u8)m};
		s->managers[m].pc = WAIT;
		return true;
	}
	return false; /* the bound */
}

static bool attach_allowed(const struct config *c, const struct record *r,
			   const struct message *msg)
{
	if (c->attach_unchecked)
		return true;
	bool wanted = r->state == BOUND || (r->state == BINDING && r->intent == ATTACH);
	return r->exists && wanted && r->id == msg->id && r->target == msg->target;
}

static void owner_end(struct state *s, int g)
{
	s->owner[g] = 0;
	s->abandoned &= (u8) ~(1u << g);
}

/* The gateway takes a new epoch; once it serves, the replicas refuse every other. */
static void owner_attach(const struct config *c, struct state *s, const struct message *msg)
{
	if (s->owner[msg->target] && c->attach_keeps_epoch) {
		s->owner[msg->target] = msg->id;
		return;
	}
	for (int g = 0; g < GATEWAYS; g++)
		if (s->abandoned >> g & 1 && (g == msg->target || !c->not_fenced))
			owner_end(s, g);
	s->owner[msg->target] = msg->id;
}

/* Performs the effect; false: it failed. */
static bool message_perform(const struct config *c, struct state *s, const struct message *msg)
{
	const struct record *r = &s->record;
	u8 life = (u8)(1u << msg->life);
	bool is_current = r->exists && r->life == msg->life && r->state <= PROVISIONING;
	switch (msg->kind) {
	case PROVISION:
		if (!is_current && msg->life <= s->life_max)
			s->arrived_late |= life;
		s->replicas |= life;
		return true;
	case ATTACH:
		if (!attach_allowed(c, r, msg))
			return false;
		owner_attach(c, s, msg);
		return true;
	case DETACH:
		for (int g = 0; g < GATEWAYS; g++)
			if (s->owner[g] < msg->id || c->detach_any)
				owner_end(s, g);
		return true;
	case ABANDON: /* unheard; a gateway that hears is a detach */
		for (int g = 0; g < GATEWAYS; g++)
			if (s->owner[g] && s->owner[g] < msg->id)
				s->abandoned |= (u8)(1u << g);
		return true;
	default:
		s->replicas &= (u8)~life;
		for (int g = 0; g < GATEWAYS; g++)
			if (s->abandoned >> g & 1)
				owner_end(s, g); /* its replicas are gone */
		return true;
	}
}

static void message_deliver(const struct config *c, struct state *s, int i)
{
	struct message msg = s->messages[i];
	bool ok = message_perform(c, s, &msg);
	memset(&s->messages[i], 0, sizeof(s->messages[i]));
	if (msg.from == NOBODY)
		return;
	struct manager *m = &s->managers[msg.from];
	m->ended_kind = msg.kind;
	m->ended_id = msg.id;
	m->ended_failed = !ok;
	m->pc = READ;
}

static void messages_forget(struct state *s, int m)
{
	for (int i = 0; i < MESSAGES; i++)
		if (s->messages[i].kind != NONE && s->messages[i].from == m)
			s->messages[i].from = NOBODY;
}

/* ---- steps of a manager ---- */

static void manager_idle(struct manager *m)
{
	memset(m, 0, sizeof(*m));
}

static void manager_read(struct state *s, int m)
{
	s->managers[m].copy = s->record;
	s->managers[m].fresh = 1;
	s->managers[m].pc = ACT;
}

static void swap_known(const struct config *c, struct state *s, int m, const struct record *next)
{
	struct manager *x = &s->managers[m];
	if (!x->fresh && !c->blind_write) {
		x->pc = READ;
		return;
	}
	bool is_creation = next->exists && !x->copy.exists;
	record_set(s, next);
	if (is_creation)
		created(s, next);
	x->copy = *next;
	x->fresh = 1;
}

static void expand_swap(const struct config *c, const struct state *s, int m,
			const struct record *next, struct explore *x)
{
	struct state t = *s;
	swap_known(c, &t, m, next);
	explore_emit(x, &t, "manager %d swaps to state %d intent %d", m, next->state, next->intent);
	if (!s->managers[m].fresh || s->unknown == c->unknown_max)
		return;
	t.unknown++;
	t.managers[m].pc = READ;
	explore_emit(x, &t, "manager %d swaps to state %d, is not told", m, next->state);
	t = *s;
	t.unknown++;
	t.managers[m].pc = READ;
	explore_emit(x, &t, "manager %d's swap is lost, it is not told", m);
	if (s->late[m].is_set)
		return;
	t.late[m] = (struct late){1, 1, next->exists && !s->managers[m].copy.exists, *next};
	explore_emit(x, &t, "manager %d's swap is late, it is not told", m);
}

static void expand_act(const struct config *c, const struct state *s, int m, struct explore *x)
{
	struct state t = *s;
	struct record next;
	enum step step = decide(c, s, &t.managers[m], &next);
	if (step == SWAP) {
		expand_swap(c, &t, m, &next, x);
	} else if (step == END) {
		manager_idle(&t.managers[m]);
		explore_emit(x, &t, "manager %d ends its request", m);
	} else {
		const struct record *r = step == EFFECT ? &t.managers[m].copy : &next;
		u8 kind = step == EFFECT ? r->intent : PROVISION;
		if (message_send(&t, m, r, kind))
			explore_emit(x, &t, "manager %d sends effect %d of intent %d", m, kind,
				     r->id);
	}
}

static void expand_request(const struct config *c, const struct state *s, int m, struct explore *x)
{
	struct state t = *s;
	if (s->record.intent != NONE || (s->record.exists && s->record.state == PENDING)) {
		t.managers[m] = (struct manager){.pc = READ, .goal = RESUME, .token = 0x7f};
		explore_emit(x, &t, "manager %d resumes", m);
	}
	if (s->requests == c->requests_max)
		return;
	for (u8 goal = CREATE; goal < RESUME; goal++) {
		if (goal == ABANDON_GOAL && c->no_abandon)
			continue;
		for (u8 node = 0; node < (goal == BIND ? GATEWAYS : 1); node++) {
			t = *s;
			t.requests++;
			t.managers[m] = (struct manager){
				.pc = READ, .goal = goal, .node = node, .token = t.requests};
			explore_emit(x, &t, "manager %d is asked for %d", m, goal);
		}
	}
}

static void expand_manager(const struct config *c, const struct state *s, int m, struct explore *x)
{
	const struct manager *manager = &s->managers[m];
	struct state t = *s;
	if (manager->pc == IDLE)
		expand_request(c, s, m, x);
	if (manager->pc == READ) {
		manager_read(&t, m);
		explore_emit(x, &t, "manager %d reads", m);
	}
	if (manager->pc == ACT)
		expand_act(c, s, m, x);
	if (manager->pc == WAIT && s->timeouts < c->timeouts_max) {
		for (int i = 0; i < MESSAGES; i++) {
			if (s->messages[i].kind == NONE || s->messages[i].from != m)
				continue;
			t.timeouts++;
			t.managers[m].pc = READ;
			t.managers[m].ended_kind = s->messages[i].kind;
			t.managers[m].ended_id = s->messages[i].id;
			t.managers[m].ended_failed = 1;
			t.messages[i].from = NOBODY;
			explore_emit(x, &t, "manager %d stops waiting", m);
		}
	}
	if (manager->pc != IDLE && s->crashes < c->crashes_max) {
		t = *s;
		t.crashes++;
		manager_idle(&t.managers[m]);
		messages_forget(&t, m);
		explore_emit(x, &t, "manager %d dies", m);
	}
}

static void late_arrive(const struct config *c, struct state *s, int m)
{
	struct late late = s->late[m];
	bool holds = late.fresh || c->blind_write;
	memset(&s->late[m], 0, sizeof(s->late[m]));
	if (c->absence_only && late.is_creation)
		holds = !s->record.exists;
	if (!holds)
		return;
	if (late.is_creation && s->created_tokens >> late.next.token & 1)
		s->returned = 1;
	record_set(s, &late.next);
	if (late.is_creation)
		created(s, &late.next);
}

static void sweep(struct state *s)
{
	s->replicas &= s->record.exists ? (u8)(1u << s->record.life) : 0;
}

static void model_expand(const void *config, const void *state, struct explore *x)
{
	const struct config *c = config;
	const struct state *s = state;
	struct state t;
	for (int m = 0; m < MANAGERS; m++)
		expand_manager(c, s, m, x);
	for (int i = 0; i < MESSAGES; i++) {
		if (s->messages[i].kind == NONE)
			continue;
		t = *s;
		message_deliver(c, &t, i);
		explore_emit(x, &t, "effect %d of intent %d arrives", s->messages[i].kind,
			     s->messages[i].id);
	}
	for (int g = 0; g < GATEWAYS; g++) {
		if (!(s->abandoned >> g & 1))
			continue;
		t = *s;
		owner_end(&t, g);
		explore_emit(x, &t, "gateway %d hears that it has no volume", g);
	}
	for (int m = 0; m < MANAGERS; m++) {
		if (!s->late[m].is_set)
			continue;
		t = *s;
		late_arrive(c, &t, m);
		explore_emit(x, &t, "the late swap of manager %d arrives", m);
	}
}

/* ---- invariants ---- */

/* One manager performs a request to its end, without faults; effects arrive at once. */
static void calm_request(const struct config *c, struct state *s, u8 goal)
{
	struct record next;
	s->managers[0] = (struct manager){.pc = READ, .goal = goal, .token = (u8)(0x70 + goal)};
	for (int step = 0; step < 40 && s->managers[0].pc != IDLE; step++) {
		if (s->managers[0].pc == READ)
			manager_read(s, 0);
		enum step todo = decide(c, s, &s->managers[0], &next);
		if (todo == END)
			manager_idle(&s->managers[0]);
		else if (todo == SWAP)
			swap_known(c, s, 0, &next);
		else if (message_send(s, 0, &s->managers[0].copy, s->managers[0].copy.intent))
			for (int i = 0; i < MESSAGES; i++)
				if (s->messages[i].kind != NONE)
					message_deliver(c, s, i);
	}
}

static bool calm_ends_clean(const struct config *c, const struct state *state)
{
	struct state s = *state;
	for (int m = 0; m < MANAGERS; m++) {
		manager_idle(&s.managers[m]);
		messages_forget(&s, m);
		if (s.late[m].is_set)
			late_arrive(c, &s, m);
	}
	for (int i = 0; i < MESSAGES; i++)
		if (s.messages[i].kind != NONE)
			message_deliver(c, &s, i);
	calm_request(c, &s, RESUME);
	calm_request(c, &s, RELEASE);
	calm_request(c, &s, DELETE);
	if (!c->never_swept)
		sweep(&s);
	return !s.record.exists && s.replicas == 0 && s.owner[0] == 0 && s.owner[1] == 0;
}

static const char *model_check(const void *config, const void *state)
{
	const struct state *s = state;
	const struct record *r = &s->record;
	u8 named = r->exists ? (u8)(1u << r->life) : 0;
	if (s->owner[0] && s->owner[1])
		return "one_owner";
	for (u8 g = 0; g < GATEWAYS; g++)
		if (s->owner[g] && !(s->abandoned >> g & 1) &&
		    !(r->exists && r->target == g && r->state >= BINDING && r->state <= RELEASING))
			return "owner_named";
	if (r->exists && r->state == BOUND &&
	    (s->owner[r->target] != r->id || s->abandoned >> r->target & 1))
		return "bound_served";
	if (r->exists && r->state >= AVAILABLE && r->state <= RELEASING && !(s->replicas & named))
		return "provisioned";
	if (s->replicas & ~named & ~s->arrived_late)
		return "no_leak";
	if (s->returned)
		return "no_return";
	if (!calm_ends_clean(config, s))
		return "deletable";
	return NULL;
}

static void model_init(const void *config, void *state)
{
	const struct config *c = config;
	struct state *s = state;
	if (!c->starts_available)
		return; /* nothing exists */
	s->record = (struct record){.exists = 1, .state = AVAILABLE, .id = 1, .life = 1};
	s->id_max = s->life_max = 1;
	s->replicas = 1u << 1;
}

/* Managers are alike; what a manager read is dead unless it is about to act on it. */
static void model_canon(const void *config, void *state)
{
	struct state *s = state;
	(void)config;
	for (int m = 0; m < MANAGERS; m++) {
		if (s->managers[m].pc == ACT)
			continue;
		memset(&s->managers[m].copy, 0, sizeof(s->managers[m].copy));
		s->managers[m].fresh = 0;
	}
	for (int i = 1; i < MESSAGES; i++) /* in any order: a set */
		for (int k = i; k > 0; k--) {
			struct message *a = &s->messages[k - 1], *b = &s->messages[k], swap = *a;
			if (memcmp(a, b, sizeof(*a)) >= 0)
				break;
			*a = *b;
			*b = swap;
		}
	for (int m = 0; m < MANAGERS; m++) {
		if (s->late[m].is_set && !s->late[m].fresh && !s->late[m].is_creation)
			memset(&s->late[m], 0, sizeof(s->late[m])); /* void */
	}
	struct manager *a = &s->managers[0], *b = &s->managers[1], swap = *a;
	if (memcmp(a, b, sizeof(*a)) >= 0)
		return;
	struct late late = s->late[0];
	*a = *b;
	*b = swap;
	s->late[0] = s->late[1];
	s->late[1] = late;
	for (int i = 0; i < MESSAGES; i++)
		if (s->messages[i].kind != NONE && s->messages[i].from != NOBODY)
			s->messages[i].from ^= 1;
}

static const struct explore_model model = {
	.canon = model_canon,
	.state_bytes = sizeof(struct state),
	.init = model_init,
	.expand = model_expand,
	.check = model_check,
};

#define QUICK                                                                      \
	.no_abandon = true, .requests_max = 3, .crashes_max = 1, .unknown_max = 1, \
	.timeouts_max = 1, .lives_max = 1
static const struct config healthy = {QUICK};
static const struct config healthy_full = {.no_abandon = true,
					   .requests_max = 4,
					   .crashes_max = 1,
					   .unknown_max = 1,
					   .timeouts_max = 1,
					   .lives_max = 2};
static const struct config effect_first = {QUICK, .effect_first = true};
static const struct config blind_write = {QUICK, .blind_write = true};
static const struct config cleanup_skipped = {QUICK, .cleanup_skipped = true};
static const struct config never_swept = {QUICK, .never_swept = true};
static const struct config attach_unchecked = {QUICK, .attach_unchecked = true};
static const struct config no_detach = {QUICK, .no_detach_after_attach = true};
static const struct config drops_detach = {
	.requests_max = 4, .crashes_max = 1, .lives_max = 1, .delete_drops_detach = true};
static const struct config detach_any = {
	.requests_max = 4, .crashes_max = 1, .lives_max = 1, .detach_any = true};
static const struct config absence_only = {
	.requests_max = 2, .unknown_max = 1, .lives_max = 2, .absence_only = true};

/* bind, abandon, bind again */
#define ABANDONING .starts_available = true, .requests_max = 3, .crashes_max = 1, .lives_max = 1
static const struct config abandoning = {ABANDONING};
static const struct config abandoning_full = {ABANDONING, .unknown_max = 1, .timeouts_max = 1};
static const struct config not_fenced = {ABANDONING, .not_fenced = true};
static const struct config attach_keeps_epoch = {ABANDONING, .attach_keeps_epoch = true};
static const struct config abandon_forgets = {ABANDONING, .abandon_forgets = true};

static const struct explore_case cases[] = {
	{"healthy", false, &model, &healthy, &healthy_full},
	{"abandoning", false, &model, &abandoning, &abandoning_full},
	{"effect_before_intent", true, &model, &effect_first, NULL},
	{"write_without_compare", true, &model, &blind_write, NULL},
	{"cleanup_not_repeated", true, &model, &cleanup_skipped, NULL},
	{"orphans_not_swept", true, &model, &never_swept, NULL},
	{"attach_without_looking", true, &model, &attach_unchecked, NULL},
	{"failed_attach_not_detached", true, &model, &no_detach, NULL},
	{"delete_drops_detach", true, &model, &drops_detach, NULL},
	{"late_detach_ends_all", true, &model, &detach_any, NULL},
	{"creation_by_absence_only", true, &model, &absence_only, NULL},
	{"abandoned_not_fenced", true, &model, &not_fenced, NULL},
	{"attach_keeps_the_epoch", true, &model, &attach_keeps_epoch, NULL},
	{"abandon_without_intent", true, &model, &abandon_forgets, NULL},
};

int main(int argc, char **argv)
{
	return explore_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
