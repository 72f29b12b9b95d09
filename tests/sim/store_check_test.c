/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store check and store dump: a clean store is clean; one flipped byte in each kind of block is found and
 * named; blocks whose crc fits and that say something false are found too.
 */
#include "tests/sim/store_rig.h"

#include "store/format.h"
#include "store/meta_block.h"

#define REPORT_BYTES 8192

/* A store that has everything: two volumes, a map, a run table, a tail, a ring with batches after the root. */
struct bed {
	struct rig *rig;
	struct sim_image *image;
	uint64_t trailer; /* place behind the ring */
	unsigned slot;    /* of the newest root */
	struct root root;
	struct volume_entry volume; /* the first one in its table */
	struct index_entry leaf;    /* of its first page */
	uint64_t payload_place;     /* of the first block of that page */
	/* of the last check */
	bool deep;
	int status;
	uint64_t findings;
	char report[REPORT_BYTES];
};

static void bed_get(struct bed *bed, uint64_t place, void *ret, size_t bytes)
{
	sim_image_read(bed->image, place * BLOCK_BYTES, ret, bytes);
}

/* Writes a block anew with a crc that fits; the crc. */
static uint32_t bed_put(struct bed *bed, uint64_t place, void *block)
{
	struct block_header *h = block;
	h->crc32c = le32_make(meta_block_crc(block));
	sim_image_write(bed->image, place * BLOCK_BYTES, block, BLOCK_BYTES);
	return le32_get(h->crc32c);
}

static void bed_look(struct bed *bed)
{
	struct root roots[2];
	struct {
		struct table_block t;
		struct volume_entry first;
	} volumes;
	struct {
		struct index_block b;
		struct index_entry first;
	} index;
	struct page_plain page;
	for (unsigned i = 0; i < 2; i++)
		bed_get(bed, PLACE_ROOT_0 + i, &roots[i], sizeof(roots[i]));
	bed->slot = le64_get(roots[1].generation) > le64_get(roots[0].generation);
	bed->root = roots[bed->slot];
	bed_get(bed, le64_get(bed->root.volumes.place), &volumes, sizeof(volumes));
	bed->volume = volumes.first;
	CHECK_EQ(le32_get(bed->volume.index_levels), 1);
	bed_get(bed, le64_get(bed->volume.index_root.place), &index, sizeof(index));
	bed->leaf = index.first;
	bed_get(bed, le64_get(bed->leaf.place), &page, sizeof(page));
	CHECK_EQ(le16_get(page.flags[0]), PAGE_ENTRY_DATA);
	bed->payload_place = le32_get(page.place_low[0]);
}

static struct bed *bed_open(void)
{
	struct bed *bed = calloc(1, sizeof(*bed));
	struct rig *rig = rig_start(9); /* fold_entries 32: volume 1 has fewer, volume 0 a zero */
	bed->rig = rig;
	bed->trailer = PLACE_RING + rig->params.ring_bytes / BLOCK_BYTES;
	for (unsigned i = 0; i < 40; i++)
		CHECK_EQ(rig_write(rig, i % 2, LOG_WRITE, i % 20, 1 + i % 3), 0);
	CHECK_EQ(rig_write(rig, 0, LOG_ZERO, 30, 10), 0);
	for (unsigned v = 0; v < 2; v++)
		store_commit(rig->volumes[v].replica, rig->volumes[v].acked_seq);
	rig->no_commit = true;
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 40, 2), 0);
	CHECK_EQ(rig_checkpoint(rig), 0);
	for (unsigned i = 0; i < 6; i++)
		CHECK_EQ(rig_write(rig, 1, LOG_WRITE, i, 2), 0);
	CHECK_EQ(rig_write(rig, 1, LOG_WRITE, 8, 40), 0); /* redirected */
	sim_run_for(rig->sim, SIM_S);
	rig_crash(rig, SIM_KILL_PROCESS);
	bed->image = sim_image_clone(sim_disk_current(rig->disk));
	bed_look(bed);
	return bed;
}

static void bed_close(struct bed *bed)
{
	sim_image_free(bed->image);
	rig_destroy(bed->rig);
	free(bed);
}

static void bed_line(void *ctx, const char *line)
{
	struct bed *bed = ctx;
	size_t used = strlen(bed->report);
	snprintf(bed->report + used, sizeof(bed->report) - used, "%s\n", line);
}

static struct bed *job_bed; /* the job's argument is the rig */

static void check_job(struct co *co, void *arg)
{
	struct rig *rig = arg;
	struct bed *bed = job_bed;
	bed->status = store_check(co, rig->env, RIG_PATH, bed->deep, bed_line, bed, &bed->findings,
				  &rig->err);
	rig->is_done = true;
}

static void dump_job(struct co *co, void *arg)
{
	struct rig *rig = arg;
	job_bed->status = store_dump(co, rig->env, RIG_PATH, bed_line, job_bed, &rig->err);
	rig->is_done = true;
}

static void bed_run(struct bed *bed, void (*job)(struct co *co, void *arg))
{
	bed->report[0] = '\0';
	bed->findings = 0;
	job_bed = bed;
	sim_disk_image_set(bed->rig->disk, bed->image);
	rig_run(bed->rig, job);
}

static void bed_check(struct bed *bed, bool deep)
{
	bed->deep = deep;
	bed_run(bed, check_job);
}

/* The byte is found by a check, and the report has both words; the bed is whole again after. */
static void rot_is_named(struct bed *bed, uint64_t place, size_t offset, const char *what)
{
	char place_text[32];
	snprintf(place_text, sizeof(place_text), "place %llu", (unsigned long long)place);
	sim_image_flip(bed->image, place * BLOCK_BYTES + offset, 3);
	bed_check(bed, true);
	CHECK(bed->status == -EUCLEAN && bed->findings > 0, "place %llu byte %zu: status %d",
	      (unsigned long long)place, offset, bed->status);
	CHECK(strstr(bed->report, what) != NULL, "no '%s' in: %s", what, bed->report);
	CHECK(strstr(bed->report, place_text) != NULL, "no '%s' in: %s", place_text, bed->report);
	sim_image_flip(bed->image, place * BLOCK_BYTES + offset, 3);
}

TEST(store_check, a_clean_store_is_clean)
{
	struct bed *bed = bed_open();
	bed_check(bed, false);
	CHECK(bed->status == 0, "%s", bed->report);
	bed_check(bed, true);
	CHECK(bed->status == 0, "%s", bed->report);
	CHECK_EQ(bed->findings, 0);
	bed_close(bed);
}

TEST(store_check, a_store_just_formatted_is_clean)
{
	struct bed *bed = calloc(1, sizeof(*bed));
	bed->rig = rig_create(3);
	CHECK_EQ(rig_format(bed->rig), 0);
	bed->image = sim_image_clone(sim_disk_current(bed->rig->disk));
	bed_check(bed, true);
	CHECK(bed->status == 0, "%s", bed->report);
	bed_close(bed);
}

TEST(store_check, a_closed_store_is_clean_and_check_changes_nothing)
{
	struct bed *bed = bed_open();
	CHECK_EQ(rig_open(bed->rig), 0);
	rig_close(bed->rig);
	sim_image_free(bed->image);
	bed->image = sim_image_clone(sim_disk_current(bed->rig->disk));
	bed_check(bed, true);
	CHECK(bed->status == 0, "%s", bed->report);
	CHECK(sim_image_equal(bed->image, sim_disk_current(bed->rig->disk)));
	bed_close(bed);
}

TEST(store_check, a_flipped_byte_in_each_fixed_block_is_named)
{
	struct bed *bed = bed_open();
	rot_is_named(bed, PLACE_SUPER_0, 40, "superblock copy 0");
	rot_is_named(bed, bed->trailer + 2, 40, "superblock copy 1");
	for (unsigned slot = 0; slot < 2; slot++) {
		rot_is_named(bed, PLACE_ROOT_0 + slot, 50, "copy 0");
		rot_is_named(bed, bed->trailer + slot, 50, "copy 1");
	}
	bed_close(bed);
}

TEST(store_check, a_flipped_byte_in_each_table_is_named)
{
	struct bed *bed = bed_open();
	struct {
		struct table_block t;
		struct block_ptr first;
	} dir;
	bed_get(bed, le64_get(bed->root.space.place), &dir, sizeof(dir));
	rot_is_named(bed, le64_get(bed->root.volumes.place), 60, "volume table");
	rot_is_named(bed, le64_get(bed->root.tail.place), 60, "tail table");
	rot_is_named(bed, le64_get(bed->root.runs.place), 60, "run table");
	rot_is_named(bed, le64_get(bed->root.space.place), 60, "space directory");
	rot_is_named(bed, le64_get(dir.first.place), 60, "space table");
	bed_close(bed);
}

TEST(store_check, a_flipped_byte_in_map_and_payload_names_the_volume)
{
	struct bed *bed = bed_open();
	char uuid[UUID_TEXT_BYTES];
	uuid_format(&bed->volume.volume_uuid, uuid);
	rot_is_named(bed, le64_get(bed->volume.index_root.place), 100, "index block");
	CHECK(strstr(bed->report, uuid) != NULL, "%s", bed->report);
	rot_is_named(bed, le64_get(bed->leaf.place), 2000, "page is damaged");
	CHECK(strstr(bed->report, uuid) != NULL, "%s", bed->report);
	rot_is_named(bed, bed->payload_place, 4000, "block 0: its payload");
	CHECK(strstr(bed->report, uuid) != NULL, "%s", bed->report);
	bed_close(bed);
}

TEST(store_check, rotten_payload_is_found_only_by_a_deep_check)
{
	struct bed *bed = bed_open();
	sim_image_flip(bed->image, bed->payload_place * BLOCK_BYTES, 0);
	bed_check(bed, false);
	CHECK(bed->status == 0, "%s", bed->report);
	bed_check(bed, true);
	CHECK_EQ(bed->status, -EUCLEAN);
	CHECK_EQ(bed->findings, 1);
	bed_close(bed);
}

TEST(store_check, a_rotten_descriptor_is_a_missing_batch_and_its_payload_is_checked)
{
	struct bed *bed = bed_open();
	struct desc_block desc;
	uint64_t ring_blocks = bed->rig->params.ring_bytes / BLOCK_BYTES;
	uint64_t place = PLACE_RING + le64_get(bed->root.ring_position) % ring_blocks;
	bed_get(bed, place, &desc, sizeof(desc));
	CHECK_EQ(le32_get(desc.h.magic), MAGIC_DESC);
	CHECK(le32_get(desc.batch_blocks) > le16_get(desc.desc_count));
	sim_image_flip(bed->image, place * BLOCK_BYTES + 200, 1);
	bed_check(bed, false);
	CHECK_EQ(bed->status, -EUCLEAN);
	CHECK(strstr(bed->report, "are missing") != NULL, "%s", bed->report);
	sim_image_flip(bed->image, place * BLOCK_BYTES + 200, 1);
	rot_is_named(bed, place + le16_get(desc.desc_count), 9, "ring: batch");
	bed_close(bed);
}

TEST(store_check, both_copies_of_a_root_bad_is_a_lost_store)
{
	struct bed *bed = bed_open();
	sim_image_flip(bed->image, (PLACE_ROOT_0 + bed->slot) * BLOCK_BYTES + 99, 1);
	sim_image_flip(bed->image, (bed->trailer + bed->slot) * BLOCK_BYTES + 99, 1);
	bed_check(bed, false);
	CHECK_EQ(bed->status, -EUCLEAN);
	CHECK(strstr(bed->report, "the store is lost") != NULL, "%s", bed->report);
	bed_close(bed);
}

/* Changes one bit of the space table, with every crc up to both copies of the root made to fit. */
static void space_bit_flip(struct bed *bed, uint64_t place)
{
	uint64_t data_start = bed->trailer + RING_TRAILER_BLOCKS, bit = place - data_start;
	uint64_t segment = bit / SEGMENT_BLOCKS;
	CHECK(segment < SEGMENTS_PER_TABLE_BLOCK);
	_Alignas(8) char dir[BLOCK_BYTES], table[BLOCK_BYTES], root[BLOCK_BYTES];
	bed_get(bed, le64_get(bed->root.space.place), dir, BLOCK_BYTES);
	struct block_ptr *first = (struct block_ptr *)(dir + sizeof(struct table_block));
	bed_get(bed, le64_get(first->place), table, BLOCK_BYTES);
	struct segment_entry *entry =
		(struct segment_entry *)(table + sizeof(struct table_block)) + segment;
	uint8_t *byte = &entry->bitmap[bit % SEGMENT_BLOCKS / 8], mask = (uint8_t)(1u << bit % 8);
	*byte ^= mask;
	bool is_set = *byte & mask;
	entry->live = le16_make((uint16_t)(le16_get(entry->live) + (is_set ? 1 : -1)));
	first->crc32c = le32_make(bed_put(bed, le64_get(first->place), table));
	uint32_t crc = bed_put(bed, le64_get(bed->root.space.place), dir);
	bed_get(bed, PLACE_ROOT_0 + bed->slot, root, BLOCK_BYTES);
	struct root *r = (struct root *)root;
	r->space.crc32c = le32_make(crc);
	r->live_blocks = le64_make(le64_get(r->live_blocks) + (is_set ? 1 : -1ull));
	bed_put(bed, PLACE_ROOT_0 + bed->slot, root);
	bed_put(bed, bed->trailer + bed->slot, root);
}

TEST(store_check, a_block_in_use_that_is_marked_free_is_found)
{
	struct bed *bed = bed_open();
	space_bit_flip(bed, bed->payload_place);
	bed_check(bed, false);
	CHECK_EQ(bed->findings, 1);
	CHECK(strstr(bed->report, "in use, but marked free") != NULL, "%s", bed->report);
	bed_close(bed);
}

TEST(store_check, a_block_marked_in_use_that_nothing_refers_to_is_found)
{
	struct bed *bed = bed_open();
	space_bit_flip(bed, bed->trailer + RING_TRAILER_BLOCKS + 900);
	bed_check(bed, false);
	CHECK_EQ(bed->findings, 1);
	CHECK(strstr(bed->report, "nothing refers to them") != NULL, "%s", bed->report);
	bed_close(bed);
}

/* Lets block 1 of the first volume refer to the place of block 0, crcs made to fit. */
TEST(store_check, a_place_that_two_blocks_refer_to_is_found)
{
	struct bed *bed = bed_open();
	_Alignas(8) char page[BLOCK_BYTES], index[BLOCK_BYTES], volumes[BLOCK_BYTES],
		root[BLOCK_BYTES];
	bed_get(bed, le64_get(bed->leaf.place), page, BLOCK_BYTES);
	struct page_plain *p = (struct page_plain *)page;
	CHECK_EQ(le16_get(p->flags[1]), PAGE_ENTRY_DATA);
	p->place_low[1] = p->place_low[0];
	bed_get(bed, le64_get(bed->volume.index_root.place), index, BLOCK_BYTES);
	struct index_entry *leaf = (struct index_entry *)(index + sizeof(struct index_block));
	leaf->crc32c = le32_make(bed_put(bed, le64_get(bed->leaf.place), page));
	bed_get(bed, le64_get(bed->root.volumes.place), volumes, BLOCK_BYTES);
	struct volume_entry *v = (struct volume_entry *)(volumes + sizeof(struct table_block));
	v->index_root.crc32c =
		le32_make(bed_put(bed, le64_get(bed->volume.index_root.place), index));
	bed_get(bed, PLACE_ROOT_0 + bed->slot, root, BLOCK_BYTES);
	struct root *r = (struct root *)root;
	r->volumes.crc32c = le32_make(bed_put(bed, le64_get(bed->root.volumes.place), volumes));
	bed_put(bed, PLACE_ROOT_0 + bed->slot, root);
	bed_put(bed, bed->trailer + bed->slot, root);
	bed_check(bed, false);
	CHECK_EQ(bed->status, -EUCLEAN);
	CHECK(strstr(bed->report, "map: block 1: place") &&
		      strstr(bed->report, "referred to twice"),
	      "%s", bed->report);
	bed_close(bed);
}

/* Changes the newest root's run table, crcs made to fit; checks; *what must be said. */
static void runs_say(struct bed *bed, void (*change)(struct bed *bed, struct run_entry *entries),
		     const char *what)
{
	_Alignas(8) char runs[BLOCK_BYTES], root[BLOCK_BYTES];
	struct sim_image *whole = sim_image_clone(bed->image);
	bed_get(bed, le64_get(bed->root.runs.place), runs, BLOCK_BYTES);
	bed_get(bed, PLACE_ROOT_0 + bed->slot, root, BLOCK_BYTES);
	struct root *r = (struct root *)root;
	change(bed, (struct run_entry *)(runs + sizeof(struct table_block)));
	r->runs.crc32c = le32_make(bed_put(bed, le64_get(bed->root.runs.place), runs));
	bed_put(bed, PLACE_ROOT_0 + bed->slot, root);
	bed_put(bed, bed->trailer + bed->slot, root);
	bed_check(bed, true);
	CHECK_EQ(bed->status, -EUCLEAN);
	CHECK(strstr(bed->report, what), "no '%s' in: %s", what, bed->report);
	sim_image_free(bed->image);
	bed->image = whole;
}

static void runs_share_place(struct bed *bed, struct run_entry *entries)
{
	(void)bed;
	entries[1].place = entries[0].place;
}

static void runs_take_payload(struct bed *bed, struct run_entry *entries)
{
	entries[0].place = le64_make(bed->payload_place);
}

static void runs_other_crc(struct bed *bed, struct run_entry *entries)
{
	(void)bed;
	entries[0].crc32c = le32_make(le32_get(entries[0].crc32c) ^ 1);
}

static void runs_from_the_future(struct bed *bed, struct run_entry *entries)
{
	(void)bed;
	entries[2].seq = le64_make(1u << 30);
}

static void runs_no_entry(struct bed *bed, struct run_entry *entries)
{
	(void)bed;
	entries[2].place = le64_make(1);
}

static void runs_of_nobody(struct bed *bed, struct run_entry *entries)
{
	(void)bed;
	entries[1].node = le32_make(77);
}

TEST(store_check, a_run_table_that_says_something_false_is_found)
{
	struct bed *bed = bed_open();
	runs_say(bed, runs_share_place, "run table: a block: place");
	runs_say(bed, runs_share_place, "referred to twice");
	runs_say(bed, runs_take_payload, "referred to twice");
	runs_say(bed, runs_other_crc, ": its payload");
	runs_say(bed, runs_from_the_future, "the map holds");
	runs_say(bed, runs_no_entry, "is no entry");
	runs_say(bed, runs_of_nobody, "19 of them count; the root says 20 and 20");
	bed_check(bed, true);
	CHECK(bed->status == 0, "%s", bed->report);
	bed_close(bed);
}

TEST(store_check, what_is_no_store_is_refused)
{
	struct bed *bed = calloc(1, sizeof(*bed));
	bed->rig = rig_create(3);
	bed->image = sim_image_create(STORE_SIZE_MIN_BYTES);
	bed_check(bed, false);
	CHECK_EQ(bed->status, -ENODEV);
	bed_run(bed, dump_job);
	CHECK_EQ(bed->status, -ENODEV);
	bed_close(bed);
}

TEST(store_dump, every_part_has_its_line_and_a_bad_copy_says_so)
{
	static const char *const parts[] = {"superblock copy=0 place=0 state=good",
					    "superblock copy=1",
					    "root slot=0 copy=0",
					    "root slot=1 copy=1",
					    "state=newest",
					    "volume slot=0 ",
					    "volume slot=1 ",
					    "record from=tail op=WRITE slot=0",
					    "run node=",
					    "run_live=20",
					    "batch no=",
					    "record from=ring op=WRITE slot=1"};
	struct bed *bed = bed_open();
	bed_run(bed, dump_job);
	CHECK_EQ(bed->status, 0);
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		CHECK(strstr(bed->report, parts[i]) != NULL, "no '%s' in: %s", parts[i],
		      bed->report);
	sim_image_flip(bed->image, 40, 0);
	bed_run(bed, dump_job);
	CHECK_EQ(bed->status, 0);
	CHECK(strstr(bed->report, "superblock copy=0 place=0 state=bad") != NULL);
	CHECK(strstr(bed->report, "volume slot=1 ") != NULL);
	bed_close(bed);
}
