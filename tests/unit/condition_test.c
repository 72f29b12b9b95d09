/* SPDX-License-Identifier: Apache-2.0 */
/* What people are told of an attached volume, from what its coordinator says. */
#include "volmgr/condition.h"

#include "tests/unit/test.h"

/* A letter per voter, then after '+' per learner: L live, S syncing, P preparing, D down, X lost,
 * R rot in its log. */
static struct coordinator_info info_of(const char *members, bool open)
{
	struct coordinator_info info = {.open = open};
	bool voter = true;
	uint32_t voters = 0, live = 0;

	for (; *members != '\0'; members++) {
		struct coordinator_replica_info *r = &info.replicas[info.replica_count];
		if (*members == '+') {
			voter = false;
			continue;
		}
		info.replica_count++;
		r->member.voter = voter;
		r->suspect = *members == 'R';
		r->state = *members == 'L'   ? REPLICA_LIVE
			   : *members == 'P' ? REPLICA_PREPARING
			   : *members == 'D' ? REPLICA_DOWN
			   : *members == 'X' ? REPLICA_LOST
					     : REPLICA_SYNCING;
		voters += voter;
		live += voter && r->state == REPLICA_LIVE;
	}
	info.quorum_size = voters / 2 + 1;
	info.quorum = live >= info.quorum_size;
	return info;
}

/* All conditions in one text, with a ';' between. */
static void must_say(const struct coordinator_info *info, uint32_t rf, const char *want)
{
	struct condition conditions[CONDITIONS_MAX];
	uint32_t count = condition_list(info, rf, conditions);
	char got[1024] = "";

	CHECK(count <= CONDITIONS_MAX);
	for (uint32_t i = 0; i < count; i++) {
		size_t at = strlen(got);
		snprintf(got + at, sizeof(got) - at, "%s%s", i > 0 ? ";" : "", conditions[i].text);
	}
	CHECK(strcmp(got, want) == 0, "'%s', not '%s'", got, want);
}

static void open_says(const char *members, uint32_t rf, const char *want)
{
	const struct coordinator_info info = info_of(members, true);
	must_say(&info, rf, want);
}

static void closed_says(const char *members, const char *want)
{
	const struct coordinator_info info = info_of(members, false);
	must_say(&info, 3, want);
}

TEST(condition, nothing_is_said_when_all_is_well)
{
	open_says("LLL", 3, "");
	open_says("L", 1, "");
	open_says("LLL+S", 3, "");
	open_says("LLL+D", 3, "");
	closed_says("", ""); /* not taken yet */
	closed_says("PPP", "");
}

TEST(condition, degraded_unless_rf_voters_are_in_sync)
{
	open_says("LLD", 3, "Degraded: 1 of 3 replicas are away");
	open_says("LLX", 3, "Degraded: 1 of 3 replicas are away");
	open_says("LLP", 3, "Degraded: 1 of 3 replicas are not in sync");
	open_says("LLS", 3,
		  "Degraded: 1 of 3 replicas are not in sync;Resyncing: 1 of 3 replicas catch up");
	open_says("LLLSD", 5,
		  "Degraded: 2 of 5 replicas are not in sync, 1 of them away;"
		  "Resyncing: 1 of 5 replicas catch up");
	open_says("LL", 3, "Degraded: 1 of 3 replicas are not in sync"); /* one was removed */
	open_says("LL+L", 3, "Degraded: 1 of 3 replicas are not in sync");
	closed_says("PPD", "Degraded: 1 of 3 replicas are away");
}

TEST(condition, quorum_is_of_voters)
{
	open_says("LDD", 3, "NoQuorum: writes wait: 1 of 3 replicas are in sync, 2 are needed");
	open_says("LDD+LL", 3, "NoQuorum: writes wait: 1 of 3 replicas are in sync, 2 are needed");
	open_says("LSS", 3,
		  "NoQuorum: writes wait: 1 of 3 replicas are in sync, 2 are needed;"
		  "Resyncing: 2 of 3 replicas catch up");
	open_says("LLD+DD", 3, "Degraded: 1 of 3 replicas are away");
	closed_says("SDD",
		    "NoQuorum: it cannot be opened and requests wait: 2 of 3 replicas are away;"
		    "Resyncing: 1 of 3 replicas catch up");
	closed_says("SDD+LL",
		    "NoQuorum: it cannot be opened and requests wait: 2 of 3 replicas are away;"
		    "Resyncing: 1 of 3 replicas catch up");
}

TEST(condition, what_fails_is_not_said_to_wait)
{
	struct coordinator_info info = info_of("LDD", true);
	info.no_quorum_timeout_ns = 2000000000ull;
	must_say(&info, 3,
		 "NoQuorum: writes fail after 2 s: 1 of 3 replicas are in sync, 2 are needed");
	info.no_quorum_timeout_ns = 500000000ull;
	must_say(&info, 3,
		 "NoQuorum: writes fail after 500 ms: 1 of 3 replicas are in sync, 2 are needed");
	info.open = false;
	must_say(
		&info, 3,
		"NoQuorum: it cannot be opened and requests fail after 500 ms: 2 of 3 replicas are "
		"away");
}

TEST(condition, rot_that_keeps_it_closed_is_named)
{
	closed_says("RRS", "Closed: rot in the logs of 2 of 3 replicas; 'replica list' says what "
			   "to do;Resyncing: 1 of 3 replicas catch up");
	closed_says("RSS", "Resyncing: 2 of 3 replicas catch up");
	closed_says("RSS+RR", "Resyncing: 2 of 3 replicas catch up");
	closed_says("RSD", "NoQuorum: it cannot be opened and requests wait: 1 of 3 replicas are "
			   "away, 1 have rot in their logs;Resyncing: 1 of 3 replicas catch up");
}

TEST(condition, reads_that_are_held_are_said)
{
	struct coordinator_info info = info_of("LLL", true);
	info.reads_held = 7;
	must_say(&info, 3, "ReadsHeld: 7 reads wait for leases of replicas");
	info = info_of("LDD", true);
	info.reads_held = 1;
	must_say(&info, 3,
		 "NoQuorum: writes wait: 1 of 3 replicas are in sync, 2 are needed;"
		 "ReadsHeld: 1 read waits for leases of replicas");
}

TEST(condition, a_replica_has_one_word)
{
	struct coordinator_info info = info_of("LLSPDXR", true);
	static const char *const words[] = {"primary", "secondary", "syncing", "syncing",
					    "offline", "lost",      "suspect"};
	info.replicas[0].primary = true;
	for (uint32_t i = 0; i < ARRAY_LEN(words); i++)
		CHECK(strcmp(condition_replica_state(&info.replicas[i]), words[i]) == 0);
}
