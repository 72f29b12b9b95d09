/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by the files of the simulator; nobody else includes it. */
#ifndef HF_TESTS_SIM_SIM_PRIV_H
#define HF_TESTS_SIM_SIM_PRIV_H

#include "tests/sim/sim.h"
#include "tests/sim/sim_disk.h"
#include "tests/sim/sim_net.h"

enum sim_event_kind {
	SIM_EV_CALL,
	SIM_EV_NOTE,
	SIM_EV_TIMER,
	SIM_EV_DISK_DO,
	SIM_EV_DISK_DONE,
	SIM_EV_DISK_CLOSED,
	SIM_EV_CONNECT,
	SIM_EV_CONNECTED,
	SIM_EV_ACCEPTED,
	SIM_EV_UNIT,
	SIM_EV_RECV,
	SIM_EV_SENT,
	SIM_EV_CONN_CLOSED,
	SIM_EV_UNCLOG,
	SIM_EV_KILL,
	SIM_EV_RESTART,
	SIM_EV_PAUSE,
	SIM_EV_RESUME,
	SIM_EV_WRITE,
	SIM_EV_SEND,
};

/* Embedded in the simulator's own objects, never in a process's memory. */
struct sim_event {
	uint64_t time_ns;
	uint64_t tie;
	uint64_t order;
	void (*run)(struct sim_event *event);
	struct sim_process *process; /* whose callback it is; NULL: the world's */
	uint64_t id;
	enum sim_event_kind kind;
	uint32_t heap_index; /* 0: not queued */
	struct list link;    /* on process->parked */
};

struct sim_heap {
	struct sim_event **at; /* 1-based */
	uint32_t count;
	uint32_t capacity;
};

struct sim_buf {
	struct list link;
	size_t bytes;
	void *memory;
};

struct sim_process {
	struct env env; /* first */
	struct sim *sim;
	unsigned id;
	char name[32];
	bool is_alive;
	bool is_silent; /* down as a machine, not only as a process */
	bool is_paused;
	uint32_t lives;
	struct sim_rng rng;
	/* local = local_base + (world - world_base) * (1 + drift) */
	uint64_t world_base_ns;
	uint64_t local_base_ns;
	int32_t drift_ppm;
	int64_t wall_offset_ms;
	struct env_timer **timers; /* heap, 1-based */
	uint32_t timer_count;
	uint32_t timer_capacity;
	uint64_t timer_order;
	struct sim_event timer_event;
	struct list parked; /* sim_event.link */
	struct list disks;  /* env_disk.process_link */
	struct list conns;  /* env_conn.process_link */
	struct list listeners;
	struct list connects;
	struct list bufs;
	size_t buf_bytes;
	uint64_t swizzle_ns; /* how long its links stay clogged */
};

struct sim {
	uint64_t seed;
	uint64_t now_ns;
	uint64_t hash;
	uint64_t step_count;
	uint64_t order;
	uint64_t next_id;
	struct sim_heap heap;
	struct sim_rng rng; /* tie-breaks */
	struct sim_rng rng_net;
	struct sim_rng rng_test;
	FILE *trace;
	struct list calls;
	struct list disks;
	struct list pairs;
	struct list listeners;
	struct sim_link *links; /* SIM_PROCESSES_MAX squared, from * MAX + to; NULL before use */
	struct sim_link_profile link_default;
	struct sim_process *process[SIM_PROCESSES_MAX];
	unsigned process_count;
	uint16_t next_port;
	uint64_t mark[SIM_MARKS];
};

void sim_event_queue(struct sim *sim, struct sim_event *event, uint64_t time_ns);
/* Safe when it is neither queued nor parked. */
void sim_event_remove(struct sim *sim, struct sim_event *event);
bool sim_event_pending(const struct sim_event *event);
void sim_trace(struct sim *sim, enum sim_event_kind kind, const struct sim_process *process,
	       uint64_t id, uint64_t value);
uint64_t sim_hash_bytes(uint64_t hash, const void *bytes, size_t length_bytes);
/* calloc that asserts: the simulator does not simulate its own lack of memory. */
void *sim_alloc(size_t bytes);

extern const struct env_ops sim_env_ops;

/* sim_disk.c */
int sim_env_disk_open(struct env *env, const char *path, uint32_t flags, uint64_t create_bytes,
		      struct env_disk **ret, struct err *err);
void sim_env_disk_info(struct env_disk *disk, struct env_disk_info *ret);
void sim_env_disk_submit(struct env_disk *disk, struct env_io *io);
void sim_env_disk_close(struct env_disk *disk, struct env_close *close);
void sim_disks_process_killed(struct sim_process *process, enum sim_kill how);
/* The machine of an already dead process loses power. */
void sim_disks_power_cut(struct sim_process *process);
/* Frees dead handles before a new life. */
void sim_disks_process_swept(struct sim_process *process);
void sim_disks_destroy(struct sim *sim);

/* sim_net.c, sim_stream.c */
int sim_env_listen(struct env *env, const char *address, const struct env_listener_cb *cb,
		   struct env_listener **ret, struct err *err);
void sim_env_listener_close(struct env_listener *listener);
void sim_env_connect(struct env *env, const char *address, struct env_connect *connect);
void sim_env_connect_cancel(struct env *env, struct env_connect *connect);
void sim_env_conn_recv(struct env_conn *conn, struct env_recv *recv);
void sim_env_conn_send(struct env_conn *conn, struct env_send *send);
void sim_env_conn_close(struct env_conn *conn, struct env_close *close);
void sim_net_process_killed(struct sim_process *process, enum sim_kill how);
void sim_net_process_swept(struct sim_process *process);
void sim_net_destroy(struct sim *sim);

/* sim_image.c: blocks are shared by reference */
struct sim_block {
	uint32_t refs;
	uint8_t bytes[BLOCK_BYTES];
};
struct sim_block *sim_block_create(const void *bytes);
static inline struct sim_block *sim_block_get(struct sim_block *block)
{
	if (block)
		block->refs++;
	return block;
}
void sim_block_put(struct sim_block *block);
/* NULL is a block of zeros; no reference is taken. */
struct sim_block *sim_image_block(const struct sim_image *image, uint64_t block_index);
/* Takes a reference of its own. */
void sim_image_block_set(struct sim_image *image, uint64_t block_index, struct sim_block *block);
/* A new block: the sectors whose bit is set come from `fresh`, the others from `old`. */
struct sim_block *sim_block_tear(const struct sim_block *old, const struct sim_block *fresh,
				 uint8_t sector_mask);

/* sim_record.c: called by the disk for a running record */
struct sim_record *sim_record_create(struct sim_image *base);
uint32_t sim_record_write(struct sim_record *record, uint64_t block_index,
			  struct sim_block *const *blocks, uint32_t count, bool is_dsync);
uint32_t sim_record_flush(struct sim_record *record);
void sim_record_complete(struct sim_record *record, uint32_t io_index, int status);

#endif
