/* SPDX-License-Identifier: Apache-2.0 */
/* What check.c, check_tables.c, check_runs.c and check_payload.c share. */
#ifndef HF_STORE_CHECK_IMPL_H
#define HF_STORE_CHECK_IMPL_H

#include "store/batch_io.h"
#include "store/offline.h"
#include "store/store.h"

#define CHECK_LINE_BYTES     320u
#define CHECK_PAYLOAD_BLOCKS 256u /* read at once */

struct check_payload {
	uint64_t place;
	uint64_t block; /* of the volume */
	uint32_t crc32c;
	int status;
};

/* What the tail table adds to a volume, to be compared with its entry. */
struct check_volume {
	struct volume_entry entry;
	char name[64]; /* "volume <uuid> shard 0" */
	uint64_t last_seq, last_hash;
	uint64_t shadow_seq, shadow_hash;
	uint64_t staged_epoch, staged_seq, staged_hash; /* staged_seq 0: none yet */
	bool log_broken;                                /* said once */
	bool staged_broken;
	bool shadow_broken;
};

struct check {
	struct co *co;
	struct offline *offline;
	const struct root *root;
	bool deep;
	void (*report)(void *ctx, const char *line);
	void *ctx;
	uint64_t findings;
	const char *who; /* what is being walked: in front of findings */
	/* bit i: block data_start + i */
	uint64_t *referenced; /* what the space table says */
	uint64_t *seen;       /* what was reached */
	size_t bitmap_bytes;
	bool space_known;     /* every space table block was readable */
	bool walk_incomplete; /* something that was unreadable may refer to more */
	struct check_volume *volumes;
	uint32_t volume_count, volume_max;
	struct check_volume *by_slot[STORE_REPLICAS_MAX];
	/* deep */
	struct batch_io *reads;
	char *payload_memory;
	struct check_payload payloads[CHECK_PAYLOAD_BLOCKS];
	uint32_t payload_count;
};

/* One finding: a line. */
void check_find(struct check *check, const char *format, ...) PRINTF_LIKE(2, 3);
static inline bool check_place_valid(const struct check *check, uint64_t place)
{
	return place >= check->offline->data_start && place < check->offline->size_blocks;
}
static inline bool check_bit(const uint64_t *bits, uint64_t i)
{
	return bits[i / 64] >> (i % 64) & 1;
}
/* One block that is referred to; what names its kind. A finding when it is outside the data area or
 * was referred to before: then false. */
bool check_ref(struct check *check, uint64_t place, const char *what);

/* ---- check_tables.c ---- */

/* A chain of table blocks, the last one (that the root names) first. */
struct check_chain {
	char *blocks;
	uint32_t count, max;
	bool is_whole; /* all of it was readable */
};
/* 0 or -ENOMEM. The caller frees chain->blocks. */
int check_chain_load(struct check *check, struct block_ptr at, enum table_kind kind,
		     const char *what, struct check_chain *chain);
const struct table_block *check_chain_block(const struct check_chain *chain, uint32_t i);
/* Every table of the root: volumes, tail, runs, space. 0 or -ENOMEM. */
int check_tables(struct check *check);
/* Each volume's map. 0 or -ENOMEM. */
int check_maps(struct check *check);
/* One record of the tail or the ring: the payload it refers to. batch NULL: the tail. */
void check_record_payload(struct check *check, const struct log_record *record,
			  const struct offline_batch *batch);

/* ---- check_runs.c ---- */

/* The run table; the volumes are known. 0 or -ENOMEM. */
int check_runs(struct check *check);

/* ---- check_payload.c ---- */

int check_payload_init(struct check *check);
void check_payload_free(struct check *check);
/* Deep only, else nothing: reads and compares, soon. */
void check_payload_add(struct check *check, uint64_t place, uint64_t block, uint32_t crc32c);
/* Now: before `who` changes. */
void check_payload_flush(struct check *check);

#endif
