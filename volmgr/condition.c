/* SPDX-License-Identifier: Apache-2.0 */
#include "volmgr/condition.h"

#include <stdarg.h>
#include <stdio.h>

#define SECOND_NS UINT64_C(1000000000)
#define MS_NS     UINT64_C(1000000)

struct said {
	struct condition *conditions;
	uint32_t count;
};

/* Of voters. */
struct counts {
	uint32_t voters, in_sync, syncing, away, suspect;
	uint32_t rotten_there; /* suspect and not away */
};

const char *condition_replica_state(const struct coordinator_replica_info *replica)
{
	switch (replica->state) {
	case REPLICA_LIVE:
		return replica->primary ? "primary" : "secondary";
	case REPLICA_SYNCING:
	case REPLICA_PREPARING:
		return replica->suspect ? "suspect" : "syncing";
	case REPLICA_LOST:
		return "lost";
	case REPLICA_DOWN:
		break;
	}
	return "offline";
}

static struct counts counts_of(const struct coordinator_info *info)
{
	struct counts n = {0};

	for (uint32_t i = 0; i < info->replica_count; i++) {
		const struct coordinator_replica_info *r = &info->replicas[i];
		if (!r->member.voter)
			continue;
		n.voters++;
		n.suspect += r->suspect;
		n.in_sync += r->state == REPLICA_LIVE;
		n.syncing += r->state == REPLICA_SYNCING && !r->suspect;
		bool is_away = r->state == REPLICA_DOWN || r->state == REPLICA_LOST;
		n.away += is_away;
		n.rotten_there += r->suspect && !is_away;
	}
	return n;
}

PRINTF_LIKE(2, 3) static void say(struct said *list, const char *format, ...)
{
	struct condition *condition = &list->conditions[list->count++];
	va_list args;

	va_start(args, format);
	vsnprintf(condition->text, sizeof(condition->text), format, args);
	va_end(args);
}

/* What becomes of the requests that cannot be done: "wait", or "fail after 2 s". */
static void fate_text(const struct coordinator_info *info, char ret[48])
{
	uint64_t timeout_ns = info->no_quorum_timeout_ns;

	if (timeout_ns == 0)
		snprintf(ret, 48, "wait");
	else if (timeout_ns % SECOND_NS == 0)
		snprintf(ret, 48, "fail after %lu s", timeout_ns / SECOND_NS);
	else
		snprintf(ret, 48, "fail after %lu ms", timeout_ns / MS_NS);
}

static void say_degraded(struct said *list, const struct counts *n, uint32_t wanted)
{
	uint32_t missing = wanted - n->in_sync;

	if (n->away == missing)
		say(list, "Degraded: %u of %u replicas are away", missing, wanted);
	else if (n->away > 0)
		say(list, "Degraded: %u of %u replicas are not in sync, %u of them away", missing,
		    wanted, n->away);
	else
		say(list, "Degraded: %u of %u replicas are not in sync", missing, wanted);
}

static void say_open(struct said *list, const struct coordinator_info *info, const struct counts *n,
		     uint32_t rf)
{
	uint32_t wanted = MAX(rf, n->voters);
	char fate[48];

	fate_text(info, fate);
	if (!info->quorum)
		say(list, "NoQuorum: writes %s: %u of %u replicas are in sync, %u are needed", fate,
		    n->in_sync, n->voters, info->quorum_size);
	else if (n->in_sync < wanted)
		say_degraded(list, n, wanted);
}

static void say_not_open(struct said *list, const struct coordinator_info *info,
			 const struct counts *n)
{
	char fate[48], rot[48] = "";

	if (n->voters == 0)
		return; /* not taken yet: it knows of none */
	fate_text(info, fate);
	if (n->rotten_there > 0)
		snprintf(rot, sizeof(rot), ", %u have rot in their logs", n->rotten_there);
	/* Rot votes no absence: it helps to open no more than who is away. */
	if (n->suspect > 0 && n->voters - n->suspect < info->quorum_size)
		say(list,
		    "Closed: rot in the logs of %u of %u replicas; 'replica list' says what to do",
		    n->suspect, n->voters);
	else if (n->voters - n->away - n->rotten_there < info->quorum_size)
		say(list,
		    "NoQuorum: it cannot be opened and requests %s: %u of %u replicas are away%s",
		    fate, n->away, n->voters, rot);
	else if (n->away > 0)
		say(list, "Degraded: %u of %u replicas are away", n->away, n->voters);
}

uint32_t condition_list(const struct coordinator_info *info, uint32_t rf,
			struct condition ret[CONDITIONS_MAX])
{
	const struct counts n = counts_of(info);
	struct said list = {ret, 0};

	if (info->open)
		say_open(&list, info, &n, rf);
	else
		say_not_open(&list, info, &n);
	if (n.syncing > 0)
		say(&list, "Resyncing: %u of %u replicas catch up", n.syncing, n.voters);
	if (info->reads_held > 0)
		say(&list, "ReadsHeld: %u read%s for leases of replicas", info->reads_held,
		    info->reads_held == 1 ? " waits" : "s wait");
	return list.count;
}
