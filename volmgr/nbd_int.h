/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the NBD server.
 *
 *     nbd_server.c     server, listeners, payload memory and who waits for it, stop
 *     nbd_conn.c       one connection: receiving, stepping through phases, closing
 *     nbd_handshake.c  phases up to transmission
 *     nbd_io.c         requests: check, memory, payload, device
 *     nbd_reply.c      replies
 */
#ifndef HF_VOLMGR_NBD_INT_H
#define HF_VOLMGR_NBD_INT_H

#include "volmgr/nbd.h"
#include "volmgr/nbd_pages.h"
#include "volmgr/nbd_wire.h"

#define NBD_RECV_BYTES     65536u /* receive buffer: many small requests per receive */
#define NBD_DIRECT_BYTES   16384u /* a rest of payload this long is received in place */
#define NBD_OUT_BYTES      16384u /* replies to one option */
#define NBD_OPTION_MAX     32768u /* longest option we look at */
#define NBD_CHUNKS_MAX     8u     /* per reply to READ */
#define NBD_STATUS_PAGES   4u
#define NBD_EXTENTS_MAX    (NBD_STATUS_PAGES * BLOCK_BYTES / (sizeof(struct blockdev_extent) + 8))
#define NBD_ERROR_TEXT_MAX 128u
#define NBD_HEAD_BYTES     (NBD_CHUNKS_MAX * (NBD_CHUNK_BYTES + 12))
static_assert(NBD_HEAD_BYTES >= NBD_CHUNK_BYTES + 6 + NBD_ERROR_TEXT_MAX, "an error chunk fits");
static_assert(2 * NBD_CHUNKS_MAX <= ENV_IO_IOV_MAX, "a reply is one send");

/* A request of a client, from its header to the end of its reply. */
struct nbd_req {
	struct nbd_conn *conn;
	struct list link; /* free_reqs */
	uint64_t cookie;
	uint64_t offset_bytes;
	uint32_t length_bytes;
	uint16_t command;
	uint16_t flags;
	enum nbd_errno error; /* found when checking; replied after the payload was skipped */
	const char *error_text;
	uint8_t *pages; /* page_count pages, or NULL */
	uint32_t page_count;
	uint8_t *data; /* in pages, where B1 wants it */
	struct blockdev_req io;
	struct env_send send;
	struct iovec iov[2 * NBD_CHUNKS_MAX];
	uint8_t head[NBD_HEAD_BYTES];
};

enum nbd_phase {
	NBD_PHASE_FLAGS,  /* client flags */
	NBD_PHASE_OPTION, /* header of an option */
	NBD_PHASE_OPTION_DATA,
	NBD_PHASE_OPTION_SKIP, /* data of an option that is too long */
	NBD_PHASE_LIST,        /* more names to send */
	NBD_PHASE_REQUEST,     /* header of a request */
	NBD_PHASE_PAGES,       /* waits for memory for conn->req */
	NBD_PHASE_PAYLOAD,
	NBD_PHASE_PAYLOAD_SKIP,
	NBD_PHASE_DRAIN, /* takes nothing more; closes when all is answered */
};
#define NBD_PHASES 10

enum nbd_step {
	NBD_STEP_AGAIN, /* did something */
	NBD_STEP_MORE,  /* needs more bytes */
	NBD_STEP_WAIT,  /* something else will pump the connection */
};

struct nbd_conn {
	struct nbd_server *server;
	struct nbd_listener *listener;
	struct list link; /* server->conns */
	struct env_conn *env_conn;
	struct env_close close;
	struct env_timer timer; /* handshake, then drain */
	struct env_peer peer;
	enum nbd_phase phase;
	bool closing; /* env_conn_close was called */
	bool closed;  /* and has ended */
	bool fixed;   /* the client knows fixed newstyle */
	bool no_zeroes;
	bool structured;
	bool transmitting;
	const char *drain_reason;                /* for the log, when the phase is DRAIN */
	char meta_export[BLOCKDEV_NAME_MAX + 1]; /* base:allocation was chosen for this name */
	bool meta;

	struct blockdev *dev;      /* from open() to close() of the exports */
	struct blockdev_info info; /* as of the handshake */

	struct env_recv recv;
	bool recv_active;
	bool recv_direct; /* into the payload of req */
	uint8_t *buf;     /* NBD_RECV_BYTES; bytes [pos, end) are not looked at yet */
	uint32_t pos;
	uint32_t end;

	uint32_t option;
	uint32_t option_bytes;
	uint32_t list_index;
	uint64_t skip_bytes; /* of an option or of a payload */
	uint8_t *out;        /* NBD_OUT_BYTES */
	uint32_t out_bytes;
	struct env_send out_send;
	struct iovec out_iov;
	bool out_active;
	bool close_after_out;

	struct nbd_req *req; /* the one being received */
	uint32_t payload_done_bytes;
	struct list page_wait; /* server->page_waiters */
	struct list free_reqs;
	uint32_t inflight; /* requests not in free_reqs */
	uint32_t sending;
	uint32_t held_pages;
	uint64_t progress_ns; /* last time the socket moved */
	struct nbd_req reqs[];
};

struct nbd_listener {
	struct nbd_server *server;
	struct list link;
	struct env_listener *env_listener; /* NULL after close */
	struct nbd_exports exports;
	uint32_t conns;
};

struct nbd_server {
	struct env *env;
	struct nbd_config config;
	struct nbd_pages pages;
	struct list listeners;
	struct list conns;
	uint32_t conn_count;
	uint32_t refused; /* connections over the limit that are being closed */
	struct list page_waiters;
	struct env_timer stall_timer;
	struct env_timer check_timer; /* looks whether disconnects and stop are done */
	struct list disconnects;
	struct nbd_stop *stop;
	bool stopping;
	struct nbd_stats stats;
};

/* nbd_server.c */
/* Pages for conn->req now (true), or conn is queued and pumped when it has them. */
bool nbd_pages_get(struct nbd_conn *conn);
void nbd_pages_put(struct nbd_req *req);
void nbd_pages_grant(struct nbd_server *server);
void nbd_conn_gone(struct nbd_conn *conn);

/* nbd_conn.c */
void nbd_conn_create(struct nbd_listener *listener, struct env_conn *env_conn,
		     const struct env_peer *peer);
/* Takes steps until it must wait. */
void nbd_conn_pump(struct nbd_conn *conn);
/* Closes at once. reason is for the log. */
void nbd_conn_kill(struct nbd_conn *conn, const char *reason);
/* Takes no more requests, answers those it has, closes. */
void nbd_conn_drain(struct nbd_conn *conn, const char *reason);
void nbd_req_free(struct nbd_req *req);
/* Bytes received and not looked at. */
static inline uint32_t nbd_conn_have(const struct nbd_conn *conn)
{
	return conn->end - conn->pos;
}

/* nbd_handshake.c */
void nbd_greet(struct nbd_conn *conn);
enum nbd_step nbd_step_flags(struct nbd_conn *conn);
enum nbd_step nbd_step_option(struct nbd_conn *conn);
enum nbd_step nbd_step_option_data(struct nbd_conn *conn);
enum nbd_step nbd_step_option_skip(struct nbd_conn *conn);
enum nbd_step nbd_step_list(struct nbd_conn *conn);

/* nbd_io.c */
enum nbd_step nbd_step_request(struct nbd_conn *conn);
enum nbd_step nbd_step_pages(struct nbd_conn *conn);
enum nbd_step nbd_step_payload(struct nbd_conn *conn);
enum nbd_step nbd_step_payload_skip(struct nbd_conn *conn);
/* The flags that go to the client for info. */
uint16_t nbd_transmission_flags(const struct blockdev_info *info, bool structured);

/* nbd_reply.c: each takes the request over and frees it when the reply is out. */
void nbd_reply_done(struct nbd_req *req);
void nbd_reply_error(struct nbd_req *req, enum nbd_errno error, const char *text);
void nbd_reply_read(struct nbd_req *req);
void nbd_reply_status(struct nbd_req *req);

#endif
