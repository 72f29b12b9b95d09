/* SPDX-License-Identifier: Apache-2.0 */
/* Private to replication/sync*.c: what the coroutine of a member works with. */
#ifndef HF_REPLICATION_SYNC_IMPL_H
#define HF_REPLICATION_SYNC_IMPL_H

#include "replication/coordinator_impl.h"

#define SYNC_REPLY_BYTES    4096u
#define SYNC_RUN_BLOCKS_MAX 32u
#define SYNC_CALLS          64u /* entries on their way at once in a feed; other steps: SYNC_BATCH */
#define SYNC_STALL_NS       15000000000ull /* a wait in which nothing moved for so long is given up */

struct call {
	struct peer_request request;
	struct member *owner; /* whose coroutine waits */
	bool busy;
	int status;
	uint64_t body[SYNC_REPLY_BYTES / 8]; /* what is asked, then what was answered */
	uint32_t body_bytes;
	void *payload; /* bufpool: sent or received */
	uint32_t payload_bytes;
	uint32_t payload_room;
};

struct sync_job {
	struct call calls[SYNC_CALLS];
	/* Y3: what a wait saw last, and since when */
	uint64_t moved_position, moved_ns;
	/* of a shadow: whom chunks are read from, in which life of it */
	struct member *source;
	uint32_t source_life;
	uint64_t size_blocks; /* of the volume at the cut, or more */
	uint64_t cut;         /* T: the stream begins behind it */
	uint64_t since;       /* chunks with a version above it are copied */
	bool all;             /* Y6; since is 0 */
	uint32_t copy_tries;  /* since a chunk was copied */
	struct {
		uint32_t first, count;
	} runs[STORE_CHUNK_BLOCKS / 2 + STORE_CHUNK_BLOCKS / SYNC_RUN_BLOCKS_MAX + 1];
};

/* sync.c */
bool sync_gone(const struct member *m);
/* Until something happens; a second at most, so that no wake is relied on alone. */
void sync_wait(struct member *m);
/* Before a wait; then before each turn of it: 0, or why it is over (Y3). position: what should
 * grow. */
void sync_moved(struct member *m);
int sync_still(struct member *m, uint64_t position);
void call_payload_drop(struct call *call);
void call_start(struct call *call, struct member *to, enum wire_type type, uint32_t body_bytes);
/* Waits for the first count calls; the first error among them. */
int calls_wait(struct member *m, uint32_t count);
/* Whom to read from now; NULL: nobody. */
struct member *source_for(struct member *m);
/* Entries up to `to`, from the window or from a source's log, into the member's log or its shadow.
 * 0: they are acknowledged. -ENODATA: nobody has them as log any more. */
int feed(struct member *m, uint64_t to, bool shadow);
int adopt_send(struct member *m, const struct wire_adopt *adopt);
void adopted(struct member *m, uint64_t last_seq, uint64_t commit_seq);

/* sync_shadow.c */
int sync_shadow(struct member *m);

#endif
