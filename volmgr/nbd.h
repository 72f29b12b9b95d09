/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NBD server: block devices for clients over unix and TCP sockets.
 *
 * One server is one pool of payload memory and any number of listeners; a listener finds exports
 * by name through its owner's table. Fixed newstyle handshake; structured replies; FUA, flush,
 * trim, write-zeroes, cache, block status (base:allocation). No TLS yet: STARTTLS is refused.
 * Everything is on the thread of the env. A client can hurt no other: each one's requests are
 * bounded, and one that holds memory others wait for without moving on is closed.
 */
#ifndef HF_VOLMGR_NBD_H
#define HF_VOLMGR_NBD_H

#include "base/env.h"
#include "volmgr/blockdev.h"

struct nbd_server;
struct nbd_listener;

struct nbd_config {
	uint32_t connections_max;   /* more are closed at once; default 64 */
	uint32_t requests_max;      /* in flight per connection; default 128 */
	uint64_t payload_bytes;     /* memory for data in flight, all connections; default 64 MiB */
	uint32_t request_max_bytes; /* longest READ or WRITE; default 32 MiB; payload_bytes holds
				       two */
	uint64_t handshake_timeout_ns; /* default 10 s */
	uint64_t stall_timeout_ns;     /* default 30 s: see above; applies only while others wait */
	uint64_t drain_timeout_ns;     /* nbd_server_stop: replies get this long; default 5 s */
};
void nbd_config_default(struct nbd_config *config);

/* The owner's exports; all required. The devices must have block_min_bytes 1. */
struct nbd_exports {
	/*
	 * 0 and *ret, held until close(); -ENOENT when there is none of that name ("" is the
	 * default export), -EACCES when it is not for this client, -ESHUTDOWN when going away.
	 */
	int (*open)(void *ctx, const char *name, struct blockdev **ret);
	void (*close)(void *ctx, struct blockdev *dev);
	/* The index-th name for a client that lists; false: no more. */
	bool (*name)(void *ctx, uint32_t index, char name[BLOCKDEV_NAME_MAX + 1]);
	void *ctx;
};

/* config may be NULL. 0 and *ret, or -EINVAL or -ENOMEM with a sentence. */
int nbd_server_create(struct env *env, const struct nbd_config *config, struct nbd_server **ret,
		      struct err *err);
/* exports is copied; address as in env_listen. 0 and *ret (the server's), or -errno. */
int nbd_server_listen(struct nbd_server *server, const char *address,
		      const struct nbd_exports *exports, struct nbd_listener **ret,
		      struct err *err);
/* For loop_listener_address(). */
struct env_listener *nbd_listener_env(struct nbd_listener *listener);
/* Stops accepting; its connections live on, and so must the exports' ctx until they are gone. */
void nbd_listener_close(struct nbd_listener *listener);

/*
 * Closes every connection to dev at once, as when its export is deleted. done comes later, when
 * no connection uses dev any more (its requests at the device have ended). The owner makes
 * open() refuse the name first.
 */
struct nbd_disconnect {
	void (*done)(struct nbd_disconnect *disconnect);
	struct blockdev *dev;
	struct list link;
};
void nbd_server_disconnect(struct nbd_server *server, struct blockdev *dev,
			   struct nbd_disconnect *disconnect);

/*
 * Closes listeners; connections finish the requests they have (drain_timeout_ns) and close.
 * done comes later, when the last is gone; requests at a device are waited for without limit.
 */
struct nbd_stop {
	void (*done)(struct nbd_stop *stop);
};
void nbd_server_stop(struct nbd_server *server, struct nbd_stop *stop);
/* After stop's done, or when nothing ever connected. NULL is fine. */
void nbd_server_destroy(struct nbd_server *server);

/* To be called every few seconds: gives payload memory back that was not used since the last call.
 */
void nbd_server_idle(struct nbd_server *server);

struct nbd_stats {
	uint64_t connections; /* now */
	uint64_t connections_total;
	uint64_t requests[BLOCKDEV_OPS]; /* by enum blockdev_op */
	uint64_t read_bytes;
	uint64_t written_bytes;
	uint64_t errors; /* error replies */
	uint64_t payload_used_bytes;
};
void nbd_server_stats(const struct nbd_server *server, struct nbd_stats *ret);
/* Connections that use dev now. */
uint32_t nbd_server_clients(const struct nbd_server *server, const struct blockdev *dev);

#endif
