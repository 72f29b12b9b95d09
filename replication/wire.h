/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replica protocol's bytes. docs/protocol.md explains who says what when.
 *
 * A connection carries frames: header, body, payload. The header's crc covers the header, the body's
 * crc the body; payload blocks are covered by the per-block crc32c in the body, which the
 * coordinator made and which stay with the data to the disk and back (end to end).
 * frame_no counts the frames of a direction from 1: a lost, repeated or reordered frame ends
 * the connection. Every length is checked against WIRE_*_MAX before it is used. Bodies are a
 * multiple of 8 bytes (zero-padded), payloads of 4096, so that everything stays aligned.
 */
#ifndef HF_REPLICATION_WIRE_H
#define HF_REPLICATION_WIRE_H

#include "base/types.h"

#define WIRE_MAGIC             0x31524648u /* "HFR1" */
#define WIRE_VERSION           1u
#define WIRE_BODY_BYTES_MAX    16384u
#define WIRE_PAYLOAD_BYTES_MAX (1024u * 1024u)

enum wire_type {
	WIRE_HELLO = 1, /* first frame of both sides: struct wire_hello */
	WIRE_PING = 2,  /* any time; answered by WIRE_PONG with the same request_id */
	WIRE_PONG = 3,
	WIRE_ERROR = 4, /* the sender closes after this: body is a sentence */

	/* sessions: client connections (append path) and bulk connections (resync) */
	WIRE_PREPARE = 16,   /* struct wire_prepare -> WIRE_PROMISE */
	WIRE_PROMISE = 17,   /* struct wire_promise; status ESTALE: refused, promised tells */
	WIRE_APPEND = 18,    /* struct wire_entry + crcs + payload; no reply but WIRE_ACK */
	WIRE_ACK = 19,       /* struct wire_ack, cumulative, unsolicited */
	WIRE_COMMIT = 20,    /* struct wire_commit: K moved and no append carries it */
	WIRE_STAGE = 21,     /* like APPEND, into the staged tail; replied to with WIRE_DONE */
	WIRE_ADOPT = 22,     /* struct wire_adopt -> WIRE_DONE */
	WIRE_READ = 23,      /* struct wire_read -> WIRE_DATA */
	WIRE_DATA = 24,      /* struct wire_data + crcs + states, payload */
	WIRE_LOG_READ = 25,  /* struct wire_log_read -> WIRE_LOG_ENTRY */
	WIRE_LOG_ENTRY = 26, /* struct wire_entry + crcs, payload */
	WIRE_LEASE = 27,     /* struct wire_lease -> WIRE_DONE; renews, term 0 releases */
	WIRE_CHANGES = 28,   /* struct wire_changes -> WIRE_CHUNK (status ENODATA: no more) */
	WIRE_CHUNK = 29,  /* struct wire_chunk + crcs + states; ENODATA: struct wire_chunk alone */
	WIRE_SHADOW = 30, /* struct wire_shadow: begin or drop -> WIRE_DONE */
	WIRE_FILL = 31, /* struct wire_fill + crcs + states, payload of DATA blocks -> WIRE_DONE */
	WIRE_REPAIR = 32,      /* struct wire_repair, payload of one block -> WIRE_DONE */
	WIRE_EXTENTS = 33,     /* struct wire_read (length may be large) -> WIRE_EXTENT_LIST */
	WIRE_EXTENT_LIST = 34, /* struct wire_extent[] */
	WIRE_STATUS = 35,      /* struct wire_target -> WIRE_PROMISE: positions, no promise asked */
	WIRE_DONE = 36,        /* a reply without content but status */

	/* control connections (manager) */
	WIRE_CREATE = 64, /* struct wire_create -> WIRE_DONE */
	WIRE_DELETE = 65, /* struct wire_target -> WIRE_DONE */
	WIRE_LIST = 66,   /* struct wire_list -> WIRE_LISTED */
	WIRE_LISTED =
		67, /* struct wire_listed, struct wire_store_info[], struct wire_replica_info[] */
	WIRE_CHECKPOINT = 68, /* struct wire_target, store_uuid only -> WIRE_DONE */
};

/* Wire status: never an errno number on the wire. wire_status_from/to in wire.c is the one table. */
enum wire_status {
	WIRE_OK = 0,
	WIRE_EINVAL = 1,
	WIRE_ENOENT = 2,
	WIRE_ESTALE = 3,
	WIRE_EILSEQ = 4,
	WIRE_ENOSPC = 5,
	WIRE_EIO = 6,
	WIRE_EBADMSG = 7,
	WIRE_ENODATA = 8,
	WIRE_EBUSY = 9,
	WIRE_EEXIST = 10,
	WIRE_ENOTSUP = 11,
	WIRE_ECANCELED = 12,
	WIRE_ETIMEDOUT = 13,
	WIRE_EPERM = 14,
	WIRE_ESHUTDOWN = 15,
};

struct wire_header {
	le32 magic;
	le32 header_crc32c; /* of this header with this field zero */
	le16 type;
	le16 status; /* replies: enum wire_status; APPEND: WIRE_APPEND_SHADOW or 0 */
	le32 body_bytes;
	le32 payload_bytes;
	le32 body_crc32c;
	le64 frame_no;   /* 1, 2, ... per direction */
	le64 request_id; /* chosen by the asker, echoed in the reply; 0: no reply is due */
	le32 session;    /* chosen by the coordinator in PREPARE; 0: none */
	le32 reserved0;
	le64 reserved1;
};
static_assert(sizeof(struct wire_header) == 56, "wire_header is wire format");

#define WIRE_APPEND_SHADOW 1u /* the entry goes into the shadow's log */

enum wire_kind { WIRE_KIND_CLIENT = 1, WIRE_KIND_BULK = 2, WIRE_KIND_CONTROL = 3 };

struct wire_hello {
	le32 version_min, version_max; /* both sides take the highest common one */
	le32 kind;
	le32 credit_frames; /* the peer may have this many frames unanswered here */
	le64 credit_bytes;  /* ... and this much payload */
	struct uuid cluster_uuid;
	struct uuid sender_uuid; /* node, or process of a gateway or manager */
	le64 boot_id;            /* random per start of the process */
	uint8_t name[64];        /* zero-terminated, for logs */
};
static_assert(sizeof(struct wire_hello) == 128, "wire_hello is wire format");

struct wire_target {
	struct uuid volume_uuid;
	struct uuid replica_uuid;
	struct uuid store_uuid; /* may be zero: found by the volume */
	le32 shard;
	le32 reserved;
};
static_assert(sizeof(struct wire_target) == 56, "wire_target is wire format");

struct wire_prepare {
	struct wire_target target;
	le64 epoch;
	le32 session; /* new number on this connection */
	le32 reserved;
};

struct wire_promise {
	le64 promised, log_epoch;
	le64 last_seq, last_hash;
	le64 commit_seq, commit_hash;
	le64 floor_seq;
	le64 suspect_after, suspect_until; /* equal: not suspect */
	le64 size_blocks;
	le64 free_blocks;
	le64 used_blocks;
	le64 shadow_last_seq; /* 0: no shadow */
	le64 lease_wait_ns;   /* refused with EBUSY: an older lease runs this long still */
	le64 checkpoint_seq;  /* durable in its map: its K is never below it again */
	le64 settled_seq;     /* zeros up to here may be missing in its CHANGES */
};
static_assert(sizeof(struct wire_promise) == 128, "wire_promise is wire format");

struct wire_entry {
	le64 epoch, seq, prev_hash, commit_seq, time_ms;
	le64 address_blocks, length_blocks;
	le32 crc_count;
	uint8_t op, flags;
	uint8_t reserved[2];
	/* le32 crc32c[crc_count] */
};
static_assert(sizeof(struct wire_entry) == 64, "wire_entry is wire format");

struct wire_ack {
	le64 epoch;
	le64 last_seq; /* stable prefix */
	le64 free_blocks;
	le32 shadow; /* the position is the shadow's */
	le32 status; /* WIRE_OK, or why the stream stopped: the session is over. ESTALE: a newer epoch was
			* promised; ENOENT: there is no such session; else an entry was refused */
	le64 checkpoint_seq; /* as in wire_promise */
};
static_assert(sizeof(struct wire_ack) == 40, "wire_ack is wire format");

struct wire_commit {
	le64 epoch, commit_seq;
	le64 settled_seq; /* the smallest checkpoint_seq of all voters */
};
static_assert(sizeof(struct wire_commit) == 24, "wire_commit is wire format");

struct wire_adopt {
	le64 epoch, base_seq, last_seq, last_hash, commit_seq;
	le32 shadow;
	le32 reserved;
};

#define WIRE_READ_MAP_ONLY  1u /* crcs and states from the map; no payload */
#define WIRE_READ_VERIFY    2u /* payload is read and checked, but not sent */
#define WIRE_READ_COMMITTED 4u /* what the replica knows to be committed, not the newest */
struct wire_read {
	le64 epoch;
	le64 address_blocks;
	le64 length_blocks; /* READ: 1..256; EXTENTS: any */
	le32 flags;
	le32 reserved;
};

struct wire_data {
	le64 address_blocks;
	le32 length_blocks;
	le32 data_blocks; /* payload: the DATA blocks in order, zero and bad ones left out */
			  /* le32 crc32c[length]; uint8_t state[length] (STORE_BLOCK_*) */
};

struct wire_log_read {
	le64 epoch, seq;
};

struct wire_lease {
	le64 boot_id;
	le64 term_ns; /* 0: release */
};

struct wire_changes {
	le64 epoch, since_seq, chunk_cursor;
};
struct wire_chunk {
	le64 chunk, commit_seq;
	/* le32 crc32c[256]; uint8_t state[256]; with status ENODATA none, and commit_seq alone counts */
};

struct wire_shadow {
	le64 epoch, first_seq, prev_hash;
	le64 settled_seq; /* of what it is filled from */
	le64 size_blocks; /* of the volume before first_seq */
	le32 drop;
	le32 reserved;
};
static_assert(sizeof(struct wire_shadow) == 48, "wire_shadow is wire format");
struct wire_fill {
	le64 epoch, at_seq, address_blocks;
	le32 length_blocks;
	le32 data_blocks;
	/* le32 crc32c[length]; uint8_t state[length] */
};
struct wire_repair {
	le64 epoch, address_blocks;
	le32 expected_crc32c; /* what the replica's map says */
	le32 crc32c;          /* of the payload; must equal expected */
};

struct wire_extent {
	le64 length_blocks;
	le32 data;
	le32 reserved;
};

struct wire_create {
	struct wire_target target;
	le64 size_blocks;
};

struct wire_list {
	le32 first_replica; /* LIST pages */
	le32 reserved;
};
struct wire_store_info {
	struct uuid store_uuid;
	le64 capacity_blocks, used_blocks, reserved_blocks;
	le64 root_generation, incarnation;
	le32 failed;
	le32 replica_count;
	le64 counters[12]; /* as in struct store_info, in order */
};
struct wire_replica_info {
	struct wire_target target;
	struct wire_promise position;
};
struct wire_listed {
	le32 store_count, replica_count; /* then the arrays */
	le32 replica_total, first_replica;
};

/* Fills magic and crcs; body may be NULL when body_bytes is 0. The other fields are set already. */
void wire_header_seal(struct wire_header *header, const void *body);
/* 0, or -EPROTO (magic, reserved not zero), -EBADMSG (crc), -EMSGSIZE (a length). */
int wire_header_check(const struct wire_header *header);
/* 0 or -EBADMSG; body has header's body_bytes. */
int wire_body_check(const struct wire_header *header, const void *body);

enum wire_status wire_status_from(int negative_errno);
int wire_status_to(uint16_t status); /* 0 or -errno; unknown: -EPROTO */
/* "APPEND" and so on, for logs; "?" when unknown. */
const char *wire_type_name(uint16_t type);

#endif
