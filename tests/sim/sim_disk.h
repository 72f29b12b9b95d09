/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simulated disks with a volatile write cache, their faults, and crash images.
 *
 * A write is visible to reads when it completes. It is durable when it carried DSYNC, or when a
 * FLUSH completes that was submitted after it completed. What is not durable at a power cut
 * (cached or in flight) reaches the medium block by block or not at all, in any combination; in
 * the non-atomic profile also in parts of a block (512-byte sectors).
 */
#ifndef HF_TESTS_SIM_SIM_DISK_H
#define HF_TESTS_SIM_SIM_DISK_H

#include "tests/sim/sim.h"

struct sim_disk;

/* ---- images: sparse blocks, cloned by reference ---- */

struct sim_image;

struct sim_image *sim_image_create(uint64_t size_bytes);
/* Cheap: blocks are shared until one side writes. */
struct sim_image *sim_image_clone(struct sim_image *image);
void sim_image_free(struct sim_image *image);
uint64_t sim_image_size_bytes(const struct sim_image *image);
/* Any offset and length inside the image (asserted). */
void sim_image_read(const struct sim_image *image, uint64_t offset_bytes, void *buf,
		    size_t length_bytes);
void sim_image_write(struct sim_image *image, uint64_t offset_bytes, const void *buf,
		     size_t length_bytes);
/* Inverts one bit (0..7) of the byte: rot. */
void sim_image_flip(struct sim_image *image, uint64_t offset_bytes, unsigned bit);
bool sim_image_equal(const struct sim_image *a, const struct sim_image *b);
/* Depends on contents alone. */
uint64_t sim_image_digest(const struct sim_image *image);

/* ---- disks ---- */

/* Rates are millionths per operation (per block for flips). Zero means never. */
struct sim_disk_profile {
	uint64_t latency_min_ns;
	uint64_t latency_max_ns; /* uniform between the two, then times slow_factor */
	uint32_t slow_factor;    /* 0 counts as 1 */
	bool is_block_device;
	bool tears_sectors; /* a power cut may tear inside 4096 bytes */
	uint32_t read_eio_ppm;
	uint32_t write_eio_ppm; /* what reached the disk is then any subset of its blocks */
	uint32_t flush_eio_ppm; /* what became durable is then unknown */
	uint32_t read_flip_ppm; /* one bit of what is returned; the medium is whole */
	uint32_t write_flip_ppm;
	uint32_t lost_write_ppm; /* acknowledged, never done */
	uint32_t misdirected_write_ppm;
	uint32_t stale_read_ppm;  /* the block's previous contents */
	uint32_t lying_flush_ppm; /* FLUSH or DSYNC acknowledged, nothing made durable */
};
/* 20..120 us, a file, no faults. */
extern const struct sim_disk_profile sim_disk_profile_default;

/* A disk at `path` (at most 127 bytes). size is rounded down to 4096. profile NULL: default. */
struct sim_disk *sim_disk_create(struct sim *sim, const char *path, uint64_t size_bytes,
				 const struct sim_disk_profile *profile);
/* By path; NULL when there is none (env_disk_open with CREATE makes them too). */
struct sim_disk *sim_disk_find(struct sim *sim, const char *path);
struct sim_disk_profile *sim_disk_profile(struct sim_disk *disk);
uint64_t sim_disk_size_bytes(const struct sim_disk *disk);
/* True while a process holds it open. */
bool sim_disk_is_open(const struct sim_disk *disk);
/* What reads see / what a power cut that loses everything leaves: the disk's own, not a clone. */
struct sim_image *sim_disk_current(struct sim_disk *disk);
struct sim_image *sim_disk_durable(struct sim_disk *disk);
/* Operations submitted whose effect is not there yet. */
size_t sim_disk_in_flight(const struct sim_disk *disk);
/* Operations of this kind that were ever submitted. */
uint64_t sim_disk_submitted(const struct sim_disk *disk, enum env_io_op op);
/* Completed blocks that are not durable. */
size_t sim_disk_cached_blocks(const struct sim_disk *disk);

/* Replaces contents (a clone is taken), cache emptied: restore, roll back, crash images. No
 * operation may be in flight. */
void sim_disk_image_set(struct sim_disk *disk, struct sim_image *image);
/* Exchanges the contents of two disks of one size. No operation may be in flight. */
void sim_disk_swap(struct sim_disk *a, struct sim_disk *b);
/* Rot on the medium and in the cache. */
void sim_disk_flip(struct sim_disk *disk, uint64_t offset_bytes, unsigned bit);
/* The disk alone loses power now: draws the surviving blocks; its handles stay open. Operations
 * in flight complete with -EIO. */
void sim_disk_power_cut(struct sim_disk *disk);
/* Completions wait while stalled. */
void sim_disk_stall(struct sim_disk *disk, bool is_stalled);
/* Gone: every operation -ENODEV, open -ENOENT. */
void sim_disk_vanish(struct sim_disk *disk, bool is_gone);

struct sim_disk_fault {
	enum env_io_op op;
	uint64_t skip_count;   /* leave that many matching operations alone */
	uint64_t count;        /* then fail that many; UINT64_MAX: from then on */
	uint64_t offset_bytes; /* matches operations that touch this range; */
	uint64_t length_bytes; /* 0: any place (FLUSH has none) */
	int status;            /* -EIO and the like */
};
/* At most 16 at a time; used up ones make room. */
void sim_disk_fail(struct sim_disk *disk, const struct sim_disk_fault *fault);
void sim_disk_fail_none(struct sim_disk *disk);

/* ---- recording, and every crash that the recorded run could have had ---- */

struct sim_record;

/* Starts recording from the current contents, which count as durable. Replaces a running one. No
 * operation may be in flight. */
struct sim_record *sim_disk_record(struct sim_disk *disk);
/* Stops; the record stays valid until freed. The disk must outlive a running record. */
void sim_disk_record_stop(struct sim_disk *disk);
void sim_record_free(struct sim_record *record);
/* Number of entries (submissions, completions, marks) so far: a crash point. */
uint32_t sim_record_position(const struct sim_record *record);
/*
 * Says that from here on more is promised (an acknowledgement was given). A crash state at point
 * p stands for any crash between entry p and the next: promises made at a position <= p hold.
 */
void sim_record_mark(struct sim_record *record);

struct sim_crash_options {
	uint32_t exhaustive_bits; /* up to 2^bits subsets at a point; 0 means 10 */
	uint32_t samples;         /* beyond: none, all, all but one, one, and this many draws */
	uint32_t torn_blocks_max; /* torn variants per write of a subset; 0: none */
	bool tears_sectors;       /* also tear inside one block */
	uint64_t seed;
};

struct sim_crash_state {
	uint32_t point;          /* crash after this many entries */
	struct sim_image *image; /* the caller's to free */
	char text[160];          /* how it was made, for a failure message */
};

struct sim_crash_iter;

/*
 * Walks the crash states of a record. States that an earlier point produced already, with the
 * same promises, are left out: after a submission only subsets with the new write are given;
 * after a mark or a durable completion all are.
 */
struct sim_crash_iter *sim_crash_iter_create(const struct sim_record *record,
					     const struct sim_crash_options *options);
/* False at the end. */
bool sim_crash_iter_next(struct sim_crash_iter *iter, struct sim_crash_state *ret);
void sim_crash_iter_free(struct sim_crash_iter *iter);

#endif
