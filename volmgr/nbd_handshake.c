/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fixed newstyle: greeting, client flags, options until one enters transmission.
 *
 * H1  One option at a time: the next one is looked at when the replies to this one are out. So
 *     `out` never overflows: LIST refills it, and every other option's replies fit (asserted
 *     by out_room before each).
 * H2  Every length of the client is compared with what is there before it is used; strings are
 *     at most NBD_STRING_MAX and hold no zero byte.
 * H3  A device opened by INFO is closed again at once; one opened by EXPORT_NAME or GO is
 *     conn->dev from then on.
 */
#include "volmgr/nbd_int.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"

/* Bytes of an option that are not looked at yet. */
struct cursor {
	const uint8_t *at;
	uint32_t left_bytes;
};

/* ---- replies ---- */

static void out_done(struct env_send *send, int status)
{
	struct nbd_conn *conn = CONTAINER_OF(send, struct nbd_conn, out_send);
	conn->out_active = false;
	conn->out_bytes = 0;
	if (conn->closing)
		return;
	if (status < 0 || conn->close_after_out)
		nbd_conn_kill(conn,
			      status < 0 ? "sending failed" : "the client ended the handshake");
	else
		nbd_conn_pump(conn);
}

static void out_flush(struct nbd_conn *conn)
{
	assert(conn->out_bytes > 0 && conn->out_bytes <= NBD_OUT_BYTES);
	conn->out_iov = (struct iovec){conn->out, conn->out_bytes};
	conn->out_send.iov = &conn->out_iov;
	conn->out_send.iov_count = 1;
	conn->out_send.done = out_done;
	conn->out_active = true;
	env_conn_send(conn->server->env, conn->env_conn, &conn->out_send);
}

static uint8_t *out_room(struct nbd_conn *conn, uint32_t bytes)
{
	assert(bytes <= NBD_OUT_BYTES - conn->out_bytes);
	uint8_t *p = conn->out + conn->out_bytes;
	conn->out_bytes += bytes;
	return p;
}

/* Appends a reply to the option at hand; its data is for the caller to fill in. */
static uint8_t *option_reply(struct nbd_conn *conn, uint32_t type, uint32_t data_bytes)
{
	uint8_t *p = out_room(conn, NBD_OPTION_REPLY_BYTES + data_bytes);
	be64_put(p, NBD_MAGIC_OPTION_REPLY);
	be32_put(p + 8, conn->option);
	be32_put(p + 12, type);
	be32_put(p + 16, data_bytes);
	return p + NBD_OPTION_REPLY_BYTES;
}

static void option_error(struct nbd_conn *conn, uint32_t type, const char *text)
{
	uint32_t bytes = (uint32_t)strlen(text);
	memcpy(option_reply(conn, type, bytes), text, bytes);
}

void nbd_greet(struct nbd_conn *conn)
{
	uint8_t *p = out_room(conn, NBD_GREETING_BYTES);
	be64_put(p, NBD_MAGIC_GREETING);
	be64_put(p + 8, NBD_MAGIC_OPTION);
	be16_put(p + 16, NBD_HANDSHAKE_FIXED | NBD_HANDSHAKE_NO_ZEROES);
	conn->phase = NBD_PHASE_FLAGS;
	out_flush(conn);
}

/* ---- reading options ---- */

static bool cursor_u32(struct cursor *cursor, uint32_t *ret)
{
	if (cursor->left_bytes < 4)
		return false;
	*ret = be32_at(cursor->at);
	cursor->at += 4;
	cursor->left_bytes -= 4;
	return true;
}

/* A length and that many bytes, without zero bytes among them. */
static bool cursor_string(struct cursor *cursor, const char **ret, uint32_t *ret_bytes)
{
	uint32_t bytes;
	if (!cursor_u32(cursor, &bytes) || bytes > cursor->left_bytes || bytes > NBD_STRING_MAX ||
	    memchr(cursor->at, 0, bytes) != NULL)
		return false;
	*ret = (const char *)cursor->at;
	*ret_bytes = bytes;
	cursor->at += bytes;
	cursor->left_bytes -= bytes;
	return true;
}

/* ---- exports ---- */

static int export_open(struct nbd_conn *conn, const char *name, uint32_t name_bytes,
		       struct blockdev **ret, struct blockdev_info *info)
{
	const struct nbd_exports *exports = &conn->listener->exports;
	char text[BLOCKDEV_NAME_MAX + 1];
	if (name_bytes > BLOCKDEV_NAME_MAX)
		return -ENOENT;
	memcpy(text, name, name_bytes);
	text[name_bytes] = 0;
	int rc = exports->open(exports->ctx, text, ret);
	if (rc < 0)
		return rc;
	blockdev_info_get(*ret, info);
	assert(info->block_min_bytes == 1);
	return 0;
}

static void export_error(struct nbd_conn *conn, int rc)
{
	if (rc == -EACCES || rc == -EPERM)
		option_error(conn, NBD_REP_ERR_POLICY, "this export is not for this client");
	else if (rc == -ESHUTDOWN)
		option_error(conn, NBD_REP_ERR_SHUTDOWN, "this export is going away");
	else if (rc == -ENOENT)
		option_error(conn, NBD_REP_ERR_UNKNOWN, "there is no export of this name");
	else
		option_error(conn, NBD_REP_ERR_UNKNOWN, "this export cannot be opened now");
}

static void enter_transmission(struct nbd_conn *conn, struct blockdev *dev,
			       const struct blockdev_info *info, const char *name,
			       uint32_t name_bytes)
{
	conn->dev = dev;
	conn->info = *info;
	conn->phase = NBD_PHASE_REQUEST;
	conn->transmitting = true;
	if (conn->meta && (strlen(conn->meta_export) != name_bytes ||
			   memcmp(conn->meta_export, name, name_bytes) != 0))
		conn->meta = false; /* chosen for another export */
	env_timer_cancel(conn->server->env, &conn->timer);
	log_event(LOG_INFO, "nbd", "client_connected", "peer=%s export=%s structured=%d",
		  LOG_Q(conn->peer.text), LOG_Q(info->name), conn->structured);
}

static void option_export_name(struct nbd_conn *conn, struct cursor cursor)
{
	struct blockdev_info info;
	struct blockdev *dev;
	if (memchr(cursor.at, 0, cursor.left_bytes) != NULL ||
	    export_open(conn, (const char *)cursor.at, cursor.left_bytes, &dev, &info) < 0) {
		/* This option has no error reply. */
		nbd_conn_kill(conn, "the client asked for an export that there is not");
		return;
	}
	uint32_t pad_bytes = conn->no_zeroes ? 0 : 124;
	uint8_t *p = out_room(conn, 10 + pad_bytes);
	be64_put(p, info.size_bytes);
	be16_put(p + 8, nbd_transmission_flags(&info, conn->structured));
	memset(p + 10, 0, pad_bytes);
	enter_transmission(conn, dev, &info, (const char *)cursor.at, cursor.left_bytes);
}

static void info_text(struct nbd_conn *conn, uint16_t type, const char *text)
{
	uint32_t bytes = (uint32_t)strlen(text);
	uint8_t *p = option_reply(conn, NBD_REP_INFO, 2 + bytes);
	be16_put(p, type);
	memcpy(p + 2, text, bytes);
}

static void info_replies(struct nbd_conn *conn, const struct blockdev_info *info, uint32_t wanted)
{
	uint8_t *p = option_reply(conn, NBD_REP_INFO, 12);
	be16_put(p, NBD_INFO_EXPORT);
	be64_put(p + 2, info->size_bytes);
	be16_put(p + 10, nbd_transmission_flags(info, conn->structured));
	if (wanted & 1u << NBD_INFO_NAME)
		info_text(conn, NBD_INFO_NAME, info->name);
	if ((wanted & 1u << NBD_INFO_DESCRIPTION) && info->description[0])
		info_text(conn, NBD_INFO_DESCRIPTION, info->description);
	if (wanted & 1u << NBD_INFO_BLOCK_SIZE) {
		p = option_reply(conn, NBD_REP_INFO, 14);
		be16_put(p, NBD_INFO_BLOCK_SIZE);
		be32_put(p + 2, info->block_min_bytes);
		be32_put(p + 6, info->block_preferred_bytes);
		be32_put(p + 10,
			 MIN(info->payload_max_bytes, conn->server->config.request_max_bytes));
	}
}

/* INFO and GO */
static void option_info(struct nbd_conn *conn, struct cursor cursor)
{
	struct blockdev_info info;
	struct blockdev *dev;
	const char *name;
	uint32_t name_bytes, wanted = 0;
	if (!cursor_string(&cursor, &name, &name_bytes) || cursor.left_bytes < 2 ||
	    cursor.left_bytes != 2u + 2u * be16_at(cursor.at)) {
		option_error(conn, NBD_REP_ERR_INVALID, "lengths in this option do not add up");
		return;
	}
	for (uint32_t at = 2; at < cursor.left_bytes; at += 2) {
		uint16_t type = be16_at(cursor.at + at);
		wanted |= type < 32 ? 1u << type : 0;
	}
	int rc = export_open(conn, name, name_bytes, &dev, &info);
	if (rc < 0) {
		export_error(conn, rc);
		return;
	}
	info_replies(conn, &info, wanted);
	option_reply(conn, NBD_REP_ACK, 0);
	if (conn->option == NBD_OPT_GO)
		enter_transmission(conn, dev, &info, name, name_bytes);
	else
		conn->listener->exports.close(conn->listener->exports.ctx, dev);
}

static void option_list(struct nbd_conn *conn, struct cursor cursor)
{
	if (cursor.left_bytes > 0) {
		option_error(conn, NBD_REP_ERR_INVALID, "this option has no data");
		return;
	}
	conn->list_index = 0;
	conn->phase = NBD_PHASE_LIST;
}

enum nbd_step nbd_step_list(struct nbd_conn *conn)
{
	const struct nbd_exports *exports = &conn->listener->exports;
	char name[BLOCKDEV_NAME_MAX + 1];
	while (NBD_OUT_BYTES - conn->out_bytes >= 2 * NBD_OPTION_REPLY_BYTES + 4 + sizeof(name)) {
		if (!exports->name(exports->ctx, conn->list_index, name)) {
			option_reply(conn, NBD_REP_ACK, 0);
			conn->phase = NBD_PHASE_OPTION;
			break;
		}
		conn->list_index++;
		uint32_t bytes = (uint32_t)strnlen(name, BLOCKDEV_NAME_MAX);
		uint8_t *p = option_reply(conn, NBD_REP_SERVER, 4 + bytes);
		be32_put(p, bytes);
		memcpy(p + 4, name, bytes);
	}
	out_flush(conn);
	return NBD_STEP_WAIT;
}

/* ---- metadata contexts ---- */

static bool query_matches(bool listing, const char *query, uint32_t bytes)
{
	if (bytes == strlen(NBD_CONTEXT_ALLOCATION) &&
	    memcmp(query, NBD_CONTEXT_ALLOCATION, bytes) == 0)
		return true;
	return listing && bytes == 5 && memcmp(query, "base:", 5) == 0;
}

/* Export name and queries; false when lengths do not add up. *match: base:allocation is meant. */
static bool meta_parse(struct cursor *cursor, bool listing, const char **name, uint32_t *name_bytes,
		       bool *match)
{
	const char *query;
	uint32_t count, bytes;
	if (!cursor_string(cursor, name, name_bytes) || !cursor_u32(cursor, &count))
		return false;
	*match = listing && count == 0;
	for (uint32_t i = 0; i < count; i++) {
		if (!cursor_string(cursor, &query, &bytes))
			return false;
		*match = *match || query_matches(listing, query, bytes);
	}
	return cursor->left_bytes == 0;
}

static void option_meta(struct nbd_conn *conn, struct cursor cursor)
{
	bool listing = conn->option == NBD_OPT_LIST_META_CONTEXT, match;
	struct blockdev_info info;
	struct blockdev *dev;
	const char *name;
	uint32_t name_bytes;
	if (!listing)
		conn->meta = false; /* whatever comes of it, earlier choices are gone */
	if (!conn->structured) {
		option_error(conn, NBD_REP_ERR_INVALID, "structured replies come first");
		return;
	}
	if (!meta_parse(&cursor, listing, &name, &name_bytes, &match)) {
		option_error(conn, NBD_REP_ERR_INVALID, "lengths in this option do not add up");
		return;
	}
	int rc = export_open(conn, name, name_bytes, &dev, &info);
	if (rc < 0) {
		export_error(conn, rc);
		return;
	}
	conn->listener->exports.close(conn->listener->exports.ctx, dev);
	if (match) {
		uint32_t bytes = (uint32_t)strlen(NBD_CONTEXT_ALLOCATION);
		uint8_t *p = option_reply(conn, NBD_REP_META_CONTEXT, 4 + bytes);
		be32_put(p, listing ? 0 : NBD_CONTEXT_ALLOCATION_ID);
		memcpy(p + 4, NBD_CONTEXT_ALLOCATION, bytes);
	}
	if (match && !listing) {
		conn->meta = true;
		memcpy(conn->meta_export, name, name_bytes);
		conn->meta_export[name_bytes] = 0;
	}
	option_reply(conn, NBD_REP_ACK, 0);
}

static void option_structured(struct nbd_conn *conn, struct cursor cursor)
{
	if (cursor.left_bytes > 0) {
		option_error(conn, NBD_REP_ERR_INVALID, "this option has no data");
		return;
	}
	conn->structured = true;
	option_reply(conn, NBD_REP_ACK, 0);
}

static void option_abort(struct nbd_conn *conn, struct cursor cursor)
{
	(void)cursor; /* data is allowed and means nothing */
	conn->close_after_out = true;
	option_reply(conn, NBD_REP_ACK, 0);
}

/* ---- steps ---- */

enum nbd_step nbd_step_flags(struct nbd_conn *conn)
{
	if (nbd_conn_have(conn) < 4)
		return NBD_STEP_MORE;
	uint32_t flags = be32_at(conn->buf + conn->pos);
	conn->pos += 4;
	if (flags & ~(NBD_HANDSHAKE_FIXED | NBD_HANDSHAKE_NO_ZEROES)) {
		nbd_conn_kill(conn, "unknown client flags");
		return NBD_STEP_WAIT;
	}
	conn->fixed = flags & NBD_HANDSHAKE_FIXED;
	conn->no_zeroes = flags & NBD_HANDSHAKE_NO_ZEROES;
	conn->phase = NBD_PHASE_OPTION;
	return NBD_STEP_AGAIN;
}

enum nbd_step nbd_step_option(struct nbd_conn *conn)
{
	if (nbd_conn_have(conn) < NBD_OPTION_BYTES)
		return NBD_STEP_MORE;
	const uint8_t *p = conn->buf + conn->pos;
	conn->option = be32_at(p + 8);
	conn->option_bytes = be32_at(p + 12);
	conn->pos += NBD_OPTION_BYTES;
	if (be64_at(p) != NBD_MAGIC_OPTION) {
		nbd_conn_kill(conn, "no option where one should be");
		return NBD_STEP_WAIT;
	}
	if (!conn->fixed && conn->option != NBD_OPT_EXPORT_NAME) {
		nbd_conn_kill(conn, "an option that needs fixed newstyle");
		return NBD_STEP_WAIT;
	}
	conn->skip_bytes = conn->option_bytes;
	conn->phase = conn->option_bytes <= NBD_OPTION_MAX ? NBD_PHASE_OPTION_DATA
							   : NBD_PHASE_OPTION_SKIP;
	return NBD_STEP_AGAIN;
}

enum nbd_step nbd_step_option_skip(struct nbd_conn *conn)
{
	uint32_t now = (uint32_t)MIN(conn->skip_bytes, (uint64_t)nbd_conn_have(conn));
	conn->pos += now;
	conn->skip_bytes -= now;
	if (conn->skip_bytes > 0)
		return NBD_STEP_MORE;
	if (conn->option == NBD_OPT_EXPORT_NAME) {
		nbd_conn_kill(conn, "the name of the export is too long");
		return NBD_STEP_WAIT;
	}
	conn->phase = NBD_PHASE_OPTION;
	option_error(conn, NBD_REP_ERR_TOO_BIG, "this option is longer than the server takes");
	out_flush(conn);
	return NBD_STEP_WAIT;
}

static void option_dispatch(struct nbd_conn *conn, struct cursor cursor)
{
	switch (conn->option) {
	case NBD_OPT_EXPORT_NAME:
		option_export_name(conn, cursor);
		return;
	case NBD_OPT_ABORT:
		option_abort(conn, cursor);
		return;
	case NBD_OPT_LIST:
		option_list(conn, cursor);
		return;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		option_info(conn, cursor);
		return;
	case NBD_OPT_STRUCTURED_REPLY:
		option_structured(conn, cursor);
		return;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		option_meta(conn, cursor);
		return;
	case NBD_OPT_STARTTLS:
		option_error(conn, NBD_REP_ERR_UNSUP, "this server has no TLS");
		return;
	default:
		option_error(conn, NBD_REP_ERR_UNSUP, "this server does not know this option");
		return;
	}
}

enum nbd_step nbd_step_option_data(struct nbd_conn *conn)
{
	if (nbd_conn_have(conn) < conn->option_bytes)
		return NBD_STEP_MORE;
	struct cursor cursor = {conn->buf + conn->pos, conn->option_bytes};
	conn->pos += conn->option_bytes;
	conn->phase = NBD_PHASE_OPTION;
	option_dispatch(conn, cursor);
	if (conn->closing || conn->out_bytes == 0)
		return NBD_STEP_AGAIN;
	out_flush(conn);
	return NBD_STEP_WAIT;
}
