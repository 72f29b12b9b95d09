/* SPDX-License-Identifier: Apache-2.0 */
/* Histories by hand: what must be refused, and for what reason; what must be accepted. */
#ifndef HF_TESTS_HISTORY_HISTORY_HAND_H
#define HF_TESTS_HISTORY_HISTORY_HAND_H

#include "tests/history/history.h"

struct hand {
	const char *name, *text;
	/* of a broken one; operations are counted from 0, opens are none */
	enum history_rule rule;
	uint64_t block; /* HISTORY_NEVER: it is about opens */
	const char *ops, *says;
};

static const struct hand broken[] = {
	{"a read is behind two writes",
	 "write block=7 id=100 time=0..10 ok\n"
	 "write block=7 id=200 time=20..30 ok\n"
	 "read block=7 id=100 time=40..50 ok\n",
	 HISTORY_STALE, 7, "0 1 2",
	 "id 100 was there by 10 and still from 40, and all of id 200 falls between"},
	{"an acknowledged write is gone",
	 "write block=7 id=100 time=0..10 ok\n"
	 "read block=7 id=0 time=20..30 ok\n",
	 HISTORY_ZEROS, 7, "0 1", "zeros were read, but id 100 was there before"},
	{"a value out of thin air", "read block=7 id=5 time=0..10 ok\n", HISTORY_FOREIGN, 7, "0",
	 "nobody wrote it there"},
	{"a block of another address",
	 "write block=8 id=100 time=0..10 ok\n"
	 "read block=9 id=100 time=20..30 ok\n",
	 HISTORY_FOREIGN, 9, "1", "nobody wrote it there"},
	{"a read knows the future",
	 "read block=7 id=100 time=0..5 ok\n"
	 "write block=7 id=100 time=10..20 ok\n",
	 HISTORY_FUTURE, 7, "1 0", "read by 5, but its write was invoked at 10"},
	{"a refused write is there",
	 "write block=7 id=100 time=0..5 refused\n"
	 "read block=7 id=100 time=10..20 ok\n",
	 HISTORY_REFUSED_SEEN, 7, "0 1", "its write was refused"},
	{"new, then old, while the write is under way",
	 "write block=7 id=100 time=0..10 ok\n"
	 "write block=7 id=200 time=20..60 ok\n"
	 "read block=7 id=200 time=30..35 ok\n"
	 "read block=7 id=100 time=40..45 ok\n",
	 HISTORY_STALE, 7, "0 2 3", "all of id 200 falls between"},
	{"two readers see two writes in two orders",
	 "write block=7 id=100 time=0..90 ok client=1\n"
	 "write block=7 id=200 time=0..90 ok client=2\n"
	 "read block=7 id=100 time=10..20 ok client=3\n"
	 "read block=7 id=200 time=30..40 ok client=3\n"
	 "read block=7 id=200 time=11..21 ok client=4\n"
	 "read block=7 id=100 time=31..41 ok client=4\n",
	 HISTORY_STALE, 7, "2 3 4 5",
	 "id 100 was there by 20 and still from 31, id 200 by 21 and still from 30"},
	{"discarded data returns",
	 "write block=7 id=100 time=0..10 ok\n"
	 "zero block=7 time=20..30 ok\n"
	 "read block=7 id=100 time=40..50 ok\n",
	 HISTORY_STALE, 7, "0 1 2", "zeros written falls between"},
	{"discarded data returns after a discard of everything",
	 "write block=700 id=100 time=0..10 ok\n"
	 "zero block=0+1000000000 time=20..30 ok\n"
	 "read block=700 id=100 time=40..50 ok\n",
	 HISTORY_STALE, 700, "0 1 2", "zeros written falls between"},
	{"data is gone for a moment",
	 "write block=7 id=100 time=0..10 ok\n"
	 "read block=7 id=0 time=20..30 ok\n"
	 "read block=7 id=100 time=40..50 ok\n",
	 HISTORY_ZEROS, 7, "0 1 2", "zeros read falls between"},
	{"zeros could be written, but data is there afterwards",
	 "zero block=7 time=0..100 ok\n"
	 "write block=7 id=100 time=10..20 ok\n"
	 "read block=7 id=0 time=30..40 ok\n"
	 "read block=7 id=100 time=50..60 ok\n",
	 HISTORY_ZEROS, 7, "1 2 3", "zeros read falls between"},
	{"one discard cannot happen twice",
	 "zero block=7 time=5..- unknown\n"
	 "write block=7 id=100 time=0..10 ok\n"
	 "read block=7 id=0 time=20..30 ok\n"
	 "write block=7 id=200 time=40..50 ok\n"
	 "read block=7 id=0 time=60..70 ok\n",
	 HISTORY_ZEROS, 7, "3 4 0", "id 200 was there before"},
	{"a discard that is over cannot come between",
	 "zero block=7 time=0..15 ok\n"
	 "write block=7 id=100 time=20..30 ok\n"
	 "read block=7 id=0 time=40..50 ok\n",
	 HISTORY_ZEROS, 7, "1 2 0", "no zeros can have been written between"},
	{"a lost write turns up after the next open",
	 "write block=7 id=100 time=0..10 ok session=1\n"
	 "write block=7 id=200 time=20..- unknown session=1\n"
	 "open session=2 at=50\n"
	 "read block=7 id=100 time=60..70 ok session=2\n"
	 "read block=7 id=200 time=80..90 ok session=2\n",
	 HISTORY_STALE, 7, "0 3 1 2", "id 200 by 50 and still from 80"},
	{"a lost discard happens after the next open",
	 "write block=7 id=100 time=0..10 ok session=1\n"
	 "zero block=7 time=20..- unknown session=1\n"
	 "open session=2 at=50\n"
	 "read block=7 id=100 time=60..70 ok session=2\n"
	 "read block=7 id=0 time=80..90 ok session=2\n",
	 HISTORY_ZEROS, 7, "0 3", "id 100 was there before"},
	{"a write that failed appears after another has been read twice",
	 "write block=7 id=100 time=0..10 ok\n"
	 "write block=7 id=200 time=20..25 unknown\n"
	 "read block=7 id=200 time=30..40 ok\n"
	 "read block=7 id=100 time=50..60 ok\n",
	 HISTORY_STALE, 7, "0 2 3", "all of id 200 falls between"},
	{"an old session acknowledges a write",
	 "open session=2 at=50\n"
	 "write block=7 id=100 time=60..70 ok session=1\n",
	 HISTORY_FENCED, 7, "0", "a later session was open at 50"},
	{"an old session answers a read",
	 "open session=3 at=50\n"
	 "read block=7 id=0 time=51..70 ok session=2\n",
	 HISTORY_FENCED, 7, "0", "session 2 answered what was invoked at 51"},
	{"an old session's write takes effect",
	 "open session=2 at=50\n"
	 "write block=7 id=100 time=60..- unknown session=1\n"
	 "read block=7 id=100 time=70..80 ok session=2\n",
	 HISTORY_FENCED, 7, "0 1", "its write was invoked at 60"},
	{"a late answer: the write was over at the open",
	 "write block=7 id=100 time=0..200 ok session=1\n"
	 "open session=2 at=50\n"
	 "write block=7 id=200 time=60..70 ok session=2\n"
	 "read block=7 id=100 time=80..90 ok session=2\n",
	 HISTORY_STALE, 7, "0 1 2", "id 100 was there by 50 and still from 80"},
	{"one block of a request is old",
	 "write block=0+4 id=100 time=0..10 ok\n"
	 "write block=0+4 id=200 time=20..30 ok\n"
	 "read block=0+2 id=200 time=40..50 ok request=9\n"
	 "read block=2 id=102 time=40..50 ok request=9\n"
	 "read block=3 id=203 time=40..50 ok request=9\n",
	 HISTORY_STALE, 2, "0 1 3", "all of id 202 falls between"},
	{"one block of a request is zeros",
	 "write block=0+4 id=100 time=0..10 ok\n"
	 "read block=0+3 id=100 time=40..50 ok request=9\n"
	 "read block=3 id=0 time=40..50 ok request=9\n",
	 HISTORY_ZEROS, 3, "0 2", "id 103 was there before"},
	{"blocks of a request in the wrong order",
	 "write block=0+2 id=100 time=0..10 ok\n"
	 "read block=0 id=101 time=20..30 ok\n",
	 HISTORY_FOREIGN, 0, "1", "id 101 was read"},
	{"an id is used twice",
	 "write block=7 id=100 time=0..10 ok\n"
	 "write block=7 id=100 time=20..30 ok\n",
	 HISTORY_TWICE, 7, "0 1", "id 100 was written twice"},
	{"the edge of a discard: one block too many",
	 "write block=8+2 id=100 time=0..10 ok\n"
	 "zero block=0+9 time=20..30 ok\n"
	 "read block=8+2 id=0 time=40..50 ok\n",
	 HISTORY_ZEROS, 9, "0 2", "id 101 was there before"},
};

static const struct hand odd[] = {
	{.name = "nothing at all", .text = ""},
	{.name = "new data is read before its write returns",
	 .text = "write block=7 id=100 time=0..100 ok\n"
		 "read block=7 id=0 time=5..10 ok\n"
		 "read block=7 id=100 time=20..30 ok\n"},
	{.name = "a read under way with the write returns the old after another began",
	 .text = "write block=7 id=100 time=0..10 ok\n"
		 "write block=7 id=200 time=20..60 ok\n"
		 "read block=7 id=200 time=30..45 ok\n"
		 "read block=7 id=100 time=40..50 ok\n"},
	{.name = "a write without an answer happens much later",
	 .text = "write block=7 id=100 time=0..- unknown\n"
		 "read block=7 id=0 time=1000..1010 ok\n"
		 "read block=7 id=100 time=1000000..1000010 ok\n"},
	{.name = "a write without an answer never happens",
	 .text = "write block=7 id=100 time=0..- unknown session=1\n"
		 "open session=2 at=20\n"
		 "read block=7 id=0 time=1000..1010 ok session=2\n"},
	{.name = "a lost write is decided by the open, and seen long after it",
	 .text = "write block=7 id=100 time=0..10 ok session=1\n"
		 "write block=7 id=200 time=20..25 unknown session=1\n"
		 "read block=7 id=100 time=30..40 ok session=1\n"
		 "open session=2 at=50\n"
		 "read block=7 id=200 time=5000..5010 ok session=2\n"},
	{.name = "half of a lost request happened: atomic per block only",
	 .text = "write block=7+2 id=100 time=0..- unknown\n"
		 "read block=7 id=100 time=1000..1010 ok\n"
		 "read block=8 id=0 time=1000..1010 ok\n"
		 "read block=8 id=0 time=1020..1030 ok\n"},
	{.name = "what meets at one moment may be in either order",
	 .text = "write block=7 id=100 time=0..10 ok\n"
		 "write block=7 id=200 time=10..20 ok\n"
		 "read block=7 id=100 time=30..40 ok\n"},
	{.name = "everything at one moment",
	 .text = "read block=7 id=200 time=5..5 ok\n"
		 "write block=7 id=100 time=5..5 ok\n"
		 "read block=7 id=0 time=5..5 ok\n"
		 "zero block=7 time=5..5 ok\n"
		 "write block=7 id=200 time=5..5 ok\n"
		 "read block=7 id=100 time=5..5 ok\n"
		 "read block=7 id=0 time=5..5 ok\n"},
	{.name = "a zone may end where the next begins, with another id between",
	 .text = "write block=7 id=100 time=0..1 ok\n"
		 "read block=7 id=100 time=10..12 ok\n"
		 "write block=7 id=200 time=2..10 ok\n"
		 "read block=7 id=200 time=20..30 ok\n"
		 "write block=7 id=300 time=10..10 ok\n"},
	{.name = "a discard at its last moment covers a write that is under way",
	 .text = "write block=7 id=100 time=0..10 ok\n"
		 "zero block=7 time=5..5 ok\n"
		 "read block=7 id=0 time=12..12 ok\n"},
	{.name = "a discard that may be left out is kept for when it is needed",
	 .text = "zero block=7 time=0..- unknown\n"
		 "write block=7 id=100 time=0..10 ok\n"
		 "zero block=7 time=5..40 ok\n"
		 "read block=7 id=0 time=20..30 ok\n"
		 "write block=7 id=200 time=50..60 ok\n"
		 "read block=7 id=0 time=70..80 ok\n"},
	{.name = "a lost discard is left out between reads of one id",
	 .text = "write block=7 id=100 time=0..10 ok\n"
		 "zero block=7 time=20..25 unknown session=1\n"
		 "open session=2 at=30\n"
		 "read block=7 id=100 time=40..50 ok session=2\n"},
	{.name = "an acknowledgement later than the next session's writes",
	 .text = "write block=7 id=100 time=0..100 ok session=1\n"
		 "open session=2 at=50\n"
		 "write block=7 id=200 time=60..70 ok session=2\n"
		 "read block=7 id=200 time=110..120 ok session=2\n"},
	{.name = "an old session's read returns late, with what was there at the open",
	 .text = "write block=7 id=100 time=0..10 ok session=1\n"
		 "read block=7 id=100 time=40..200 ok session=1\n"
		 "open session=2 at=50\n"
		 "write block=7 id=200 time=60..70 ok session=2\n"},
	{.name = "opens that are heard of in the wrong order",
	 .text = "open session=3 at=50\n"
		 "open session=2 at=90\n"
		 "write block=7 id=100 time=0..- unknown session=1\n"
		 "read block=7 id=100 time=60..70 ok session=3\n"},
	{.name = "failed reads and refused writes say nothing",
	 .text = "write block=7 id=100 time=0..10 ok\n"
		 "read block=7 id=999 time=20..30 unknown\n"
		 "write block=7 id=200 time=20..30 refused\n"
		 "zero block=7 time=20..30 refused\n"
		 "read block=7 id=100 time=40..50 ok\n"},
	{.name = "zeros of a block that nobody ever wrote",
	 .text = "zero block=0+1000000000 time=0..10 ok\n"
		 "read block=5+100000000 id=0 time=20..30 ok\n"},
};

static const struct hand broken_log[] = {
	{"an open drops an acknowledged write",
	 "write block=7 id=100 time=0..10 ok session=1 seq=5\n"
	 "open session=2 at=50 kept=4\n",
	 HISTORY_LOST, 7, "0", "acknowledged as seq 5, but session 2 opened with 4 entries"},
	{"an open keeps less than the one before",
	 "open session=2 at=50 kept=9\n"
	 "open session=3 at=60 kept=8\n",
	 HISTORY_LOST, HISTORY_NEVER, "",
	 "session 3 opened with 8 entries, session 2 before it with 9"},
	{"an acknowledged write has no place", "write block=7 id=100 time=0..10 ok session=1\n",
	 HISTORY_LOST, 7, "0", "no place in the log"},
	{"two requests have one place",
	 "write block=7 id=100 time=0..10 ok request=1 seq=5\n"
	 "write block=9 id=200 time=0..10 ok request=2 seq=5\n",
	 HISTORY_TWICE, 9, "0 1", "seq 5 was given to two requests"},
	{"a session numbers below what it opened with",
	 "open session=2 at=50 kept=9\n"
	 "write block=7 id=100 time=60..70 ok session=2 seq=9\n",
	 HISTORY_ORDER, 7, "0", "seq 9 was given by session 2, which had opened with 9 entries"},
	{"half of an entry after an open",
	 "write block=8+2 id=100 time=0..- unknown session=1 seq=1\n"
	 "open session=2 at=50 kept=1\n"
	 "read block=8 id=100 time=60..70 ok session=2\n"
	 "read block=9 id=0 time=60..70 ok session=2\n",
	 HISTORY_ZEROS, 9, "0 2", "id 101 is there from seq 1"},
	{"half of an entry before any open",
	 "write block=8+2 id=100 time=0..10 ok request=1 seq=1\n"
	 "write block=8+2 id=200 time=20..- unknown request=2 seq=2\n"
	 "read block=8 id=200 time=60..70 ok\n"
	 "read block=9 id=101 time=80..90 ok\n",
	 HISTORY_STALE, 9, "0 1 2 3", "id 101 (seq 1) was read, replaced at seq 2"},
	{"a dropped write is read",
	 "write block=7 id=100 time=0..- unknown session=1 seq=5\n"
	 "open session=2 at=50 kept=4\n"
	 "read block=7 id=100 time=60..70 ok session=2\n",
	 HISTORY_FOREIGN, 7, "0 1", "session 2 opened with 4 entries, without its write"},
	{"a dropped write was read before it was dropped",
	 "write block=7 id=100 time=0..- unknown session=1 seq=5\n"
	 "read block=7 id=100 time=10..20 ok session=1\n"
	 "open session=2 at=50 kept=4\n",
	 HISTORY_FOREIGN, 7, "0 1", "without its write"},
	{"a dropped discard is read",
	 "write block=7 id=100 time=0..10 ok session=1 seq=1 request=1\n"
	 "zero block=7 time=20..- unknown session=1 seq=2 request=2\n"
	 "open session=2 at=50 kept=1\n"
	 "read block=7 id=0 time=60..70 ok session=2\n",
	 HISTORY_ZEROS, 7, "0 2", "id 100 is there from seq 1"},
	{"a write that got no place is read",
	 "write block=7 id=100 time=0..- unknown session=1\n"
	 "read block=7 id=100 time=10..20 ok session=1\n",
	 HISTORY_FOREIGN, 7, "0 1", "its write got no place in the log"},
	{"a refused write is read",
	 "write block=7 id=100 time=0..10 refused\n"
	 "read block=7 id=100 time=20..30 ok\n",
	 HISTORY_REFUSED_SEEN, 7, "0 1", "its write was refused"},
	{"nobody wrote it", "read block=7 id=100 time=20..30 ok\n", HISTORY_FOREIGN, 7, "0",
	 "nobody wrote it there"},
	{"the log is not in the order of time",
	 "write block=7 id=100 time=0..10 ok seq=5 request=1\n"
	 "write block=9 id=200 time=20..30 ok seq=4 request=2\n",
	 HISTORY_ORDER, 9, "0 1", "seq 4 was invoked after all up to seq 5 was there"},
	{"a read stands on a later entry than one that began after it",
	 "write block=7 id=100 time=0..90 ok seq=2 request=1\n"
	 "read block=7 id=100 time=10..20 ok\n"
	 "write block=9 id=200 time=30..40 ok seq=1 request=2\n",
	 HISTORY_FUTURE, 7, "0 2 1",
	 "there from seq 2, but seq 1 was invoked after the read had ended"},
	{"a read knows the future",
	 "read block=7 id=100 time=0..5 ok\n"
	 "write block=7 id=100 time=10..20 ok seq=1\n",
	 HISTORY_FUTURE, 7, "1 0", "seq 1 was invoked after the read had ended"},
	{"the old is read after the acknowledgement",
	 "write block=7 id=100 time=0..10 ok seq=1 request=1\n"
	 "write block=7 id=200 time=20..30 ok seq=2 request=2\n"
	 "read block=7 id=100 time=40..50 ok\n",
	 HISTORY_STALE, 7, "0 1 2", "id 100 (seq 1) was read, replaced at seq 2"},
	{"zeros of a discard that a later entry covered",
	 "zero block=7 time=0..30 ok seq=1 request=1\n"
	 "write block=7 id=100 time=0..10 ok seq=2 request=2\n"
	 "read block=7 id=0 time=20..25 ok\n",
	 HISTORY_ZEROS, 7, "1 2", "id 100 is there from seq 2"},
	{"another block shows a later entry",
	 "write block=8 id=100 time=0..90 ok seq=1 request=1\n"
	 "write block=9 id=200 time=0..90 ok seq=2 request=2\n"
	 "read block=9 id=200 time=10..20 ok\n"
	 "read block=8 id=0 time=30..40 ok\n",
	 HISTORY_ZEROS, 8, "0 2 3", "all up to seq 2 was there before the read began"},
	{"an old session's entry is kept by an open before it",
	 "open session=2 at=50 kept=3\n"
	 "write block=7 id=100 time=60..- unknown session=1 seq=3\n",
	 HISTORY_FENCED, 7, "0", "an open before that had all up to seq 3"},
	{"an id is used twice",
	 "write block=7 id=100 time=0..10 ok seq=1 request=1\n"
	 "write block=7 id=100 time=20..30 ok seq=2 request=2\n",
	 HISTORY_TWICE, 7, "0 1", "id 100 was written twice"},
};

static const struct hand odd_log[] = {
	{.name = "a dropped entry's place is given again",
	 .text = "write block=7 id=100 time=0..10 unknown session=1 seq=5 request=1\n"
		 "open session=2 at=50 kept=4\n"
		 "write block=7 id=200 time=60..70 ok session=2 seq=5 request=2\n"
		 "read block=7 id=200 time=80..90 ok session=2\n"},
	{.name = "a request in pieces has one place",
	 .text = "write block=7 id=100 time=0..10 ok seq=1 request=1\n"
		 "write block=9 id=500 time=0..10 ok seq=1 request=1\n"
		 "read block=7 id=100 time=20..30 ok\n"
		 "read block=9 id=500 time=20..30 ok\n"},
	{.name = "a read of many blocks falls into a write",
	 .text = "write block=8+2 id=100 time=0..50 ok seq=1\n"
		 "read block=8 id=100 time=10..30 ok request=7\n"
		 "read block=9 id=0 time=10..30 ok request=7\n"},
	{.name = "the log's order is not that of invocation",
	 .text = "write block=7 id=100 time=0..50 ok seq=2 request=1\n"
		 "write block=7 id=200 time=10..40 ok seq=1 request=2\n"
		 "read block=7 id=100 time=60..70 ok\n"},
	{.name = "an entry without an answer is the last, and nobody saw it",
	 .text = "write block=7 id=100 time=0..10 ok session=1 seq=1 request=1\n"
		 "write block=7 id=200 time=20..- unknown session=1 seq=2 request=2\n"
		 "read block=7 id=100 time=1000..1010 ok session=1\n"},
	{.name = "zeros from a discard under way",
	 .text = "write block=7 id=100 time=0..10 ok seq=1 request=1\n"
		 "zero block=0+64 time=20..60 ok seq=2 request=2\n"
		 "read block=7 id=100 time=30..40 ok\n"
		 "read block=7 id=0 time=35..45 ok\n"},
	{.name = "entries that are nobody's writes leave gaps",
	 .text = "open session=1 at=0 kept=17\n"
		 "write block=7 id=100 time=10..20 ok session=1 seq=25\n"
		 "open session=2 at=50 kept=40\n"
		 "read block=7 id=100 time=60..70 ok session=2\n"},
};

#endif
