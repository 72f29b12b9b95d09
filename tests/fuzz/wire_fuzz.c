/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replica protocol as a hostile peer speaks it: framed connections and the node behind them,
 * over an env in memory and a store that keeps nothing.
 *
 * The input is a script of steps of STEP_BYTES, some followed by a body. Frames get their numbers,
 * lengths and crcs here, so that mutations land behind the checksums; step RAW sends bytes as they
 * are. Whatever comes, the node must answer with well-formed frames, keep to the env's rules, and
 * end without a leak when it is told to.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "replication/node.h"
#include "replication/wire.h"
#include "tests/fuzz/fake_env.h"
#include "tests/fuzz/fake_store.h"
#include "tests/fuzz/fuzz.h"

#define STEP_BYTES         4u
#define STEPS_MAX          100
#define CONNS_MAX          4
#define TURNS_MAX          200 /* at the end, for what arrives in small pieces */
#define PAYLOAD_BLOCKS_MAX 4u

static const struct uuid cluster_uuid = {{1}}, volume_uuid = {{4}}, replica_uuid = {{5}},
			 store_uuid = {{3}};

struct play {
	struct fake_env fake;
	struct node *node;
	struct store *store;
	struct fake_conn *conns[CONNS_MAX];
	uint64_t frames[CONNS_MAX]; /* sent by the peer */
	uint32_t at;                /* the connection that steps speak on */
	const uint8_t *data;
	size_t left_bytes;
	bool is_down;
};

/* ---- what the node says ---- */

static void reply_check(struct fake_conn *conn, const struct env_send *send)
{
	const struct wire_header *header = send->iov[0].iov_base;
	FUZZ_CHECK(send->iov[0].iov_len == sizeof(*header));
	FUZZ_CHECK(wire_header_check(header) == 0);
	FUZZ_CHECK(le64_get(header->frame_no) == ++conn->sent_count);
	FUZZ_CHECK(strcmp(wire_type_name(le16_get(header->type)), "?") != 0);
	size_t body_bytes = send->iov_count > 1 ? send->iov[1].iov_len : 0, payload_bytes = 0;
	FUZZ_CHECK(le32_get(header->body_bytes) == body_bytes);
	FUZZ_CHECK(wire_body_check(header, body_bytes > 0 ? send->iov[1].iov_base : NULL) == 0);
	for (uint32_t i = 2; i < send->iov_count; i++) {
		payload_bytes += send->iov[i].iov_len;
		crc32c(send->iov[i].iov_base, send->iov[i].iov_len); /* it can be read */
	}
	FUZZ_CHECK(le32_get(header->payload_bytes) == payload_bytes);
}

/* ---- what the peer says ---- */

static const struct kind {
	uint16_t type;
	uint16_t body_bytes; /* what the type wants, without arrays */
	uint16_t target_at;  /* offset of a struct wire_target + 1; 0: none */
	uint16_t crcs_at;    /* offset of a crc per payload block + 1; 0: none */
} kinds[] = {
	{WIRE_PREPARE, sizeof(struct wire_prepare), 1, 0},
	{WIRE_APPEND, sizeof(struct wire_entry), 0, sizeof(struct wire_entry) + 1},
	{WIRE_STAGE, sizeof(struct wire_entry), 0, sizeof(struct wire_entry) + 1},
	{WIRE_COMMIT, sizeof(struct wire_commit), 0, 0},
	{WIRE_ADOPT, sizeof(struct wire_adopt), 0, 0},
	{WIRE_READ, sizeof(struct wire_read), 0, 0},
	{WIRE_EXTENTS, sizeof(struct wire_read), 0, 0},
	{WIRE_LOG_READ, sizeof(struct wire_log_read), 0, 0},
	{WIRE_LEASE, sizeof(struct wire_lease), 0, 0},
	{WIRE_CHANGES, sizeof(struct wire_changes), 0, 0},
	{WIRE_SHADOW, sizeof(struct wire_shadow), 0, 0},
	{WIRE_FILL, sizeof(struct wire_fill), 0, sizeof(struct wire_fill) + 1},
	{WIRE_REPAIR, sizeof(struct wire_repair), 0, 0},
	{WIRE_STATUS, sizeof(struct wire_target), 1, 0},
	{WIRE_CREATE, sizeof(struct wire_create), 1, 0},
	{WIRE_DELETE, sizeof(struct wire_target), 1, 0},
	{WIRE_LIST, sizeof(struct wire_list), 0, 0},
	{WIRE_CHECKPOINT, sizeof(struct wire_target), 1, 0},
	{WIRE_PING, 0, 0, 0},
	{WIRE_HELLO, sizeof(struct wire_hello), 0, 0},
	{999, 0, 0, 0},
};

enum { STEP_TURN = 64, STEP_TIME, STEP_MOOD, STEP_HOLD, STEP_END, STEP_CONN, STEP_USE, STEP_RAW };

#define FRAME_ODD_SIZE   1u /* the body's length is in the last byte of the step, times 8 */
#define FRAME_ODD_TARGET 2u /* its uuids are the input's */
#define FRAME_ODD_CRCS   4u /* so are its crcs of payload */
#define FRAME_NO_REPLY   8u
#define FRAME_MORE       16u /* no turn after it */
#define FRAME_BAD        32u /* a byte of the header is wrong */

struct frame {
	struct wire_header header;
	uint8_t rest[WIRE_BODY_BYTES_MAX + PAYLOAD_BLOCKS_MAX * BLOCK_BYTES];
};

static void input_take(struct play *play, void *to, size_t count)
{
	size_t have = MIN(count, play->left_bytes);
	memcpy(to, play->data, have);
	memset((uint8_t *)to + have, 0, count - have);
	play->data += have;
	play->left_bytes -= have;
}

static void frame_send(struct play *play, struct frame *frame, uint32_t body_bytes,
		       uint32_t payload_bytes)
{
	struct fake_conn *conn = play->conns[play->at];
	frame->header.body_bytes = le32_make(body_bytes);
	frame->header.payload_bytes = le32_make(payload_bytes);
	frame->header.frame_no = le64_make(++play->frames[play->at]);
	wire_header_seal(&frame->header, frame->rest);
	fake_conn_feed(conn, frame, sizeof(frame->header) + body_bytes + payload_bytes);
}

static void body_fix(const struct kind *kind, struct frame *frame, uint32_t blocks, uint8_t flags)
{
	uint8_t *body = frame->rest;
	if (kind->target_at != 0 && !(flags & FRAME_ODD_TARGET)) {
		struct wire_target *target = (struct wire_target *)(void *)body;
		target->volume_uuid = volume_uuid;
		target->replica_uuid = replica_uuid;
		target->store_uuid = store_uuid;
		target->shard = le32_make(0);
	}
	if (flags & FRAME_ODD_CRCS)
		return;
	static const uint8_t zeros[BLOCK_BYTES];
	le32 crc = le32_make(crc32c(zeros, sizeof(zeros)));
	if (kind->type == WIRE_REPAIR) {
		struct wire_repair *repair = (struct wire_repair *)(void *)body;
		repair->crc32c = repair->expected_crc32c = crc;
	}
	for (uint32_t i = 0; kind->crcs_at != 0 && i < blocks; i++)
		memcpy(body + kind->crcs_at - 1 + i * 4, &crc, sizeof(crc));
	if (kind->type == WIRE_APPEND || kind->type == WIRE_STAGE) {
		struct wire_entry *entry = (struct wire_entry *)(void *)body;
		entry->crc_count = le32_make(blocks);
		entry->op = blocks > 0 ? 1 : 2;
		entry->length_blocks = blocks > 0 ? le64_make(blocks) : entry->length_blocks;
	} else if (kind->type == WIRE_FILL) {
		struct wire_fill *fill = (struct wire_fill *)(void *)body;
		fill->length_blocks = fill->data_blocks = le32_make(blocks);
		memset(body + sizeof(*fill) + (size_t)blocks * 4, 1, blocks);
	}
}

static void step_frame(struct play *play, const uint8_t step[STEP_BYTES])
{
	static struct frame frame;
	const struct kind *kind = &kinds[step[0] % ARRAY_LEN(kinds)];
	uint8_t flags = step[1];
	uint32_t blocks = step[3] % (PAYLOAD_BLOCKS_MAX + 1), body_bytes = kind->body_bytes;
	if (kind->type == WIRE_FILL)
		body_bytes += blocks * 5;
	else if (kind->crcs_at != 0)
		body_bytes += blocks * 4;
	body_bytes = ALIGN_UP(body_bytes, 8u);
	if (flags & FRAME_ODD_SIZE)
		body_bytes = (step[3] / 8u) * 8u;
	memset(&frame, 0, sizeof(frame.header) + BLOCK_BYTES);
	input_take(play, frame.rest, MIN(body_bytes, kind->body_bytes));
	if (!(flags & FRAME_ODD_SIZE))
		body_fix(kind, &frame, blocks, flags);
	memset(frame.rest + body_bytes, 0, (size_t)blocks * BLOCK_BYTES);
	frame.header.type = le16_make(kind->type);
	frame.header.session = le32_make(step[2] & 0x3f);
	frame.header.status = le16_make(step[2] >> 6);
	frame.header.request_id = le64_make(flags & FRAME_NO_REPLY ? 0 : play->left_bytes + 1);
	if (flags & FRAME_BAD)
		play->frames[play->at] += step[2];
	frame_send(play, &frame, body_bytes, blocks * BLOCK_BYTES);
}

static bool turn(struct play *play)
{
	bool any = fake_env_turn(&play->fake);
	return fake_store_turn(play->store) || any;
}

static void step_conn(struct play *play, const uint8_t step[STEP_BYTES])
{
	play->at = step[1] % CONNS_MAX;
	play->frames[play->at] = 0;
	struct fake_conn *old = play->conns[play->at];
	if (old != NULL)
		old->ended = true;
	struct fake_conn *conn = fake_env_accept(&play->fake);
	play->conns[play->at] = conn;
	if (conn == NULL)
		return;
	conn->sent = reply_check;
	conn->recv_step_bytes = step[3];
	static struct frame frame;
	memset(&frame, 0, sizeof(frame.header) + sizeof(struct wire_hello));
	struct wire_hello *hello = (struct wire_hello *)(void *)frame.rest;
	hello->version_min = hello->version_max = le32_make(WIRE_VERSION);
	hello->kind = le32_make(step[2]);
	hello->cluster_uuid = cluster_uuid;
	hello->boot_id = le64_make(step[1]);
	memcpy(hello->name, "peer", 5);
	frame.header.type = le16_make(WIRE_HELLO);
	if (step[2] != 0xff) /* else the peer says nothing by itself */
		frame_send(play, &frame, sizeof(*hello), 0);
}

static void step_mood(struct play *play, const uint8_t step[STEP_BYTES])
{
	static const int statuses[] = {0,       -EIO,     -ESTALE,  -ENOSPC,
				       -EILSEQ, -EBADMSG, -ENODATA, -EBUSY};
	*fake_store_mood(play->store) = (struct fake_store_mood){
		.status = statuses[step[1] % ARRAY_LEN(statuses)],
		.hold = step[2] & 1,
	};
}

static void node_is_down(void *ctx)
{
	((struct play *)ctx)->is_down = true;
}

static void step_raw(struct play *play, const uint8_t step[STEP_BYTES])
{
	uint8_t bytes[256];
	size_t count = MIN((size_t)step[1], play->left_bytes);
	input_take(play, bytes, count);
	fake_conn_feed(play->conns[play->at], bytes, count);
}

static void step_do(struct play *play, const uint8_t step[STEP_BYTES])
{
	struct fake_conn *conn = play->conns[play->at];
	if (step[0] == STEP_CONN)
		step_conn(play, step);
	else if (step[0] == STEP_TIME)
		play->fake.now_ns += (uint64_t)step[1] << 25; /* up to 8.5 s */
	else if (step[0] == STEP_MOOD)
		step_mood(play, step);
	else if (step[0] == STEP_USE)
		play->at = step[1] % CONNS_MAX;
	else if (conn == NULL)
		return;
	else if (step[0] == STEP_HOLD)
		conn->hold_sends = step[1] & 1;
	else if (step[0] == STEP_END) {
		conn->ended = true;
		conn->end_status = step[1] & 1 ? -ECONNRESET : 0;
	} else if (step[0] == STEP_RAW)
		step_raw(play, step);
	else if (step[0] < STEP_TURN)
		step_frame(play, step);
	if (step[0] < STEP_TURN && step[1] & FRAME_MORE)
		return;
	turn(play);
	turn(play);
}

static void play_end(struct play *play)
{
	*fake_store_mood(play->store) = (struct fake_store_mood){0};
	node_shutdown(play->node, node_is_down, play);
	for (int i = 0; i < 100 && !play->is_down; i++) {
		play->fake.now_ns += 50000000; /* leases that are out have to run out */
		turn(play);
	}
	FUZZ_CHECK(play->is_down);
	node_destroy(play->node);
	fake_store_destroy(play->store);
	fake_env_free(&play->fake);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct play play;
	play = (struct play){.data = data, .left_bytes = bytes};
	fake_env_init(&play.fake, 1);
	play.store = fake_store_create(&volume_uuid, &replica_uuid);
	struct node_config config;
	struct err err = {0};
	node_config_default(&config);
	config.cluster_uuid = cluster_uuid;
	config.listen = "fuzz";
	config.credit_frames = 16;
	config.credit_bytes = 64 << 10;
	config.connections_max = CONNS_MAX - 1;
	config.payload_bytes_max = 4 << 20;
	FUZZ_CHECK(node_create(&play.fake.env, &config, &play.node, &err) == 0);
	FUZZ_CHECK(node_add_store(play.node, play.store, &err) == 0);
	for (int i = 0; i < STEPS_MAX && play.left_bytes >= STEP_BYTES; i++) {
		uint8_t step[STEP_BYTES];
		input_take(&play, step, sizeof(step));
		step_do(&play, step);
	}
	for (int i = 0; i < TURNS_MAX && turn(&play); i++)
		;
	play_end(&play);
	return 0;
}

static void line_drop(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_sink_set(line_drop, NULL);
	return 0;
}
