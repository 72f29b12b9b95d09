/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients asked of a volume and were told, and whether one disk could have answered so.
 *
 *  H1 Each block is a register of its own and starts as zeros. A request of many blocks is so many
 *     operations with the same times: what a client may rely on is atomic per block only.
 *  H2 A is before B when A returned at a lower time than B was invoked at; otherwise they may be in
 *     either order. Times are of any clock or counter that all clients share.
 *  H3 A written block has an id that no other write to it has. Zeros (id 0) are written many times.
 *  H4 "refused": no effect. "unknown" (no answer, or an error that leaves it open): took effect at a
 *     moment after its invoke, or never. A read that failed says nothing.
 *  H5 Sessions count upwards; bound(S) is the first open of a session above S. Nothing of S has its
 *     effect later, answers included, and what is invoked later cannot succeed. Who does not know the
 *     session of an operation gives the latest it can be. Without opens this is plain linearizability.
 *
 * history_check, the clients' view. A cluster is a write and the reads of its id, f its least return,
 * s its greatest invoke. If f < s it has the block from f to s (a zone), and that is enough; else one
 * instant in [s, f] is enough. Zones do not overlap (Gibbons and Korach). An unknown write that nobody
 * read can be taken out of any order, so it is. What begins or ends inside a zone is cut at its edge;
 * what is all inside is a fault. Left are instants with windows: N, a cluster or zone; Z, zeros
 * written; R, zeros read: after a Z or the start, with no N between. A sweep does each at the last
 * moment: an N at the end of its window, or, for nothing, while another id is there or just before
 * a Z; a Z at the end of its window, or, of those that may, the one that ends first when the window
 * of an R ends and zeros are not there; an R as soon as there are zeros. By exchange: in any order that
 * works, the first step that differs can be put off to where the sweep does it: what it did for Ns and
 * Rs the later step does too, and an unused Z can still do all that it could. So there is no false
 * alarm and no fault missed. O(n log n).
 *
 * history_check_log, the log's view, for a simulator that knows the place (seq) each write had and
 * what each open kept. The log is the order and a request one entry: all of it or nothing, over any
 * open. An entry is in it when every later open kept it. Reads, in order of return, each take the
 * lowest place that has their value and is not below what had ended before they began; a lower place
 * never hinders a later read. So this is exact too, and over all blocks at once. O(n log n).
 */
#ifndef HF_TESTS_HISTORY_HISTORY_H
#define HF_TESTS_HISTORY_HISTORY_H

#include <stdio.h>

#include "base/err.h"

#define HISTORY_NEVER      UINT64_MAX /* did not return */
#define HISTORY_NO_OP      UINT32_MAX
#define HISTORY_LENGTH_MAX 65536u /* blocks with ids in one operation */

enum history_kind { HISTORY_READ, HISTORY_WRITE, HISTORY_ZERO };
enum history_status { HISTORY_OK, HISTORY_UNKNOWN, HISTORY_REFUSED };

struct history_op {
	enum history_kind kind;
	enum history_status status; /* UNKNOWN until something else is known */
	uint32_t client;
	uint64_t request; /* the same for all pieces of one request; a read of many ids has many */
	uint64_t session;
	uint64_t block, length_blocks;
	uint64_t id; /* of the first block, the next has the next; 0: all of it zeros */
	uint64_t invoke_time, return_time;
	uint64_t seq; /* place in the log, 0: it got none. For history_check_log */
};

/* At `time` the session was open. */
struct history_open {
	uint64_t session, time;
	uint64_t kept_seq; /* length of the log it settled on. For history_check_log */
};

/* Zeroed: empty. Add with the functions; an operation may be filled in later, by its index. */
struct history {
	struct history_op *ops;
	struct history_open *opens;
	uint32_t op_count, op_room, open_count, open_room;
};

/* Index of the copy; runs out of memory = abort. */
uint32_t history_op_add(struct history *history, const struct history_op *op);
void history_open_add(struct history *history, const struct history_open *open);
void history_clear(struct history *history);

enum history_rule {
	HISTORY_MALFORMED,    /* the history cannot be judged */
	HISTORY_TWICE,        /* two writes of one id to a block, or two requests of one seq */
	HISTORY_FOREIGN,      /* a read of what nobody wrote there */
	HISTORY_FUTURE,       /* a read that ended before the write of its id began */
	HISTORY_REFUSED_SEEN, /* a read of a write that had no effect */
	HISTORY_FENCED,       /* a session acted after a later one had opened */
	HISTORY_STALE, /* an id seen where another, or zeros written, must have replaced it */
	HISTORY_ZEROS, /* zeros read where an id must be */
	HISTORY_LOST,  /* an open kept less than was acknowledged or opened with before */
	HISTORY_ORDER, /* the log's order against that in time */
};

#define HISTORY_FAULT_OPS 4

struct history_fault {
	enum history_rule rule;
	uint64_t block; /* HISTORY_NEVER: it is about opens */
	uint32_t op_count;
	uint32_t ops[HISTORY_FAULT_OPS]; /* which operations contradict each other */
	char text[1536]; /* a sentence, then each operation on its own line, in the file form */
};

/* 0, or -EUCLEAN and one fault, or -ENOMEM. Neither changes the history. */
int history_check(const struct history *history, struct history_fault *ret);
int history_check_log(const struct history *history, struct history_fault *ret);

/*
 * The mirror: what each block that ever had an id holds when the whole log is applied, by block. For a
 * history that history_check_log accepts. The caller frees *ret. 0 or -ENOMEM.
 */
struct history_cell {
	uint64_t block, id;
};
int history_mirror(const struct history *history, struct history_cell **ret, size_t *count);

const char *history_rule_name(enum history_rule rule);

/*
 * The file form: one line each, `#` begins a comment; client, request, session and seq are 0 when left out:
 *	open session=4 at=900 kept=17
 *	write block=8+2 id=100 time=10..20 ok client=1 request=3 session=2 seq=17
 *	read block=8 id=100 time=25..30 ok client=2
 *	zero block=0+64 time=40..- unknown
 */
#define HISTORY_LINE_BYTES 256
void history_op_format(const struct history_op *op, char line[HISTORY_LINE_BYTES]);
/* Adds to *history; -EINVAL and the number of the line in err. text need not end in a zero. */
int history_parse(struct history *history, const char *text, size_t bytes, struct err *err);
void history_print(const struct history *history, FILE *out);

/*
 * For a second opinion, which knows no bounds: may accept what we refuse, never the other way. Times become
 * order. All blocks, as Porcupine's key-value tests are written; or one, a register for Knossos.
 */
void history_print_kv(const struct history *history, FILE *out);
void history_print_register(const struct history *history, uint64_t block, FILE *out);

#endif
