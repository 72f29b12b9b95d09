/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State of the store's model (store_model.c says what it models) and the parts its files share.
 */
#ifndef HF_TESTS_MODEL_STORE_STATE_H
#define HF_TESTS_MODEL_STORE_STATE_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

enum { VOLS = 2, SLOTS = 4, PLACES = 6, FLIGHT_MAX = 3, TAIL_MAX = 2, SEQ_MAX = 7 };
enum { GARBAGE = 0, ROTTEN = 0xfe }; /* contents that are no value; values are 1..15 */
enum { MARK_WORST = 3 };             /* after recovery: assume any promise, any lease */
enum kind { NONE, INLINE, REDIRECT, MARK, SEAL, KINDS };
enum mode { RUN, DOWN, REWRITE, ROOT, LOST };
enum why { BY_ACK, BY_READ, BY_VOTE };

typedef uint8_t u8;

struct config {
	u8 kinds; /* bit per enum kind that may be submitted */
	u8 writes_max, marks_max, crashes_max, rots_max, checkpoints_max, places;
	bool kill_too; /* kills besides power losses */
	bool rot_unwitnessed;
	/* rules left out */
	bool ack_per_volume, payload_unchecked, rot_votes_absence, incarnation_before_root;
	bool older_root_votes, vote_before_flush, reuse_before_both, look_up_before_stable;
	bool mark_before_witness, root_copy_unrepaired, hole_keeps_marks;
};

struct desc {
	u8 kind, no, inc, gen, durable_prefix, vol, seq, val, place;
	u8 rotten;
};

/* One version of a volume's block: value in the high half, place in the low one. Places above
 * PLACES are payload blocks of the ring. */
typedef u8 entry;

struct vol_image {
	u8 seq;        /* checkpointed: commit point K */
	entry base;    /* the version at K */
	u8 tail_count; /* records in (K, L] */
	entry tail[TAIL_MAX];
	u8 mark;
	u8 suspect;
};

struct image {
	u8 gen, inc, next, rotten;
	struct vol_image vol[VOLS];
};

struct state {
	u8 mode, writes, marks, crashes, rots, checkpoints;
	/* the disk: contents, and writes submitted over them that are not durable yet */
	struct desc ring[SLOTS], ring_pending[SLOTS];
	u8 pay[SLOTS], pay_pending[SLOTS];
	u8 place[PLACES + 1], place_pending[PLACES + 1]; /* [0] is unused */
	struct image root[2][2];                         /* [gen & 1][copy] */
	u8 root_pending;                                 /* copies of `writing` in flight */
	struct image writing;
	/* memory of the running store; zero when down */
	struct image cur; /* cur.next: next batch_no to submit */
	u8 stable, done;  /* done: bit i = batch stable + 1 + i is durable */
	u8 free_below;    /* batches below are folded: their slots are free */
	u8 pins_root, pins_old, pins_new;
	u8 mark_no[VOLS];
	/* what the checker knows */
	u8 log[VOLS][SEQ_MAX];
	u8 exposed[VOLS], why[VOLS], answered[VOLS], witnessed;
	u8 violated;
};
static_assert(PLACES + SLOTS < 16, "a place fits in half an entry");

enum { V_NONE, V_ACK, V_READ, V_VOTE, V_PREFIX, V_PROMISE, V_PAYLOAD, V_SUSPECT, V_LOST };
static inline entry entry_make(u8 val, u8 place)
{
	return (entry)(val << 4 | place);
}
static inline u8 entry_val(entry e)
{
	return e >> 4;
}
static inline u8 entry_place(entry e)
{
	return e & 15;
}
static inline int slot_of(u8 no)
{
	return no % SLOTS;
}
static inline u8 place_bit(u8 place)
{
	return place && place <= PLACES ? (u8)(1u << (place - 1)) : 0;
}

/* What a read of the disk returns, cache included. */
static inline const struct desc *desc_read(const struct state *s, u8 no)
{
	int slot = slot_of(no);
	return s->ring_pending[slot].kind ? &s->ring_pending[slot] : &s->ring[slot];
}
static inline u8 payload_read(const struct state *s, u8 place)
{
	if (place > PLACES) {
		int slot = place - PLACES - 1;
		return s->pay_pending[slot] ? s->pay_pending[slot] : s->pay[slot];
	}
	return s->place_pending[place] ? s->place_pending[place] : s->place[place];
}

static inline u8 vol_last(const struct vol_image *v)
{
	return (u8)(v->seq + v->tail_count);
}

/* The i-th version a volume holds: 0 = at the commit point, then the tail. */
entry *store_vol_entry(struct vol_image *v, int i);
void store_vol_append(struct vol_image *v, entry e);
/* Commits all: the last tail entry becomes the base. */
void store_vol_fold(struct vol_image *v);

/* Sets of places are bit masks (place_bit). A free place, or 0. */
u8 store_image_places(const struct image *image);
u8 store_places_used(const struct state *s);
u8 store_place_free(const struct config *c, u8 used);

/* The seq of the volume's newest submitted record. */
u8 store_last_submitted(const struct state *s, int v);
/* Acknowledges, shows and answers all that the rules allow: the worst case for what must be kept.
 */
void store_answer(const struct config *c, struct state *s);

/* Records the first violation. */
void store_violate(struct state *s, u8 violation);
/* The payloads of all held records are there, or rot has been at them. */
void store_check_payloads(struct state *s, struct image *image);
/* Votes are answered from this image: it is compared with all that was promised before. */
void store_check_vote(struct state *s, struct image *image);

/* Reads the disk and submits the copies of what recovery keeps; false = no free place for one. */
bool store_recover(const struct config *c, struct state *t);

#endif
