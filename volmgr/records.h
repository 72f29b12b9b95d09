/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the metadata store holds: records of volumes, nodes, exports and events, as JSON.
 *
 * Each value is one JSON object {"version":1,"kind":"volume",...}. Encoding is canonical (a fixed
 * order of fields, no blanks). Decoding trusts nothing: every length, range and enumeration is
 * checked, a missing or unknown field is refused, and a newer version is refused by name.
 * The revision of a record is the key's mod_revision; it is not part of the value.
 *
 * Pure functions; any thread. Errors: -EBADMSG malformed, -ENOTSUP newer version, -EINVAL a value
 * that a caller may not store, -ENOMEM.
 */
#ifndef HF_VOLMGR_RECORDS_H
#define HF_VOLMGR_RECORDS_H

#include "base/err.h"
#include "base/types.h"

#define RECORD_VERSION 1

#define NAME_BYTES     64  /* an RFC 1123 label, at most 63, and a zero */
#define ADDRESS_BYTES  128 /* an env address: "unix:/path", "tcp:127.0.0.1:4711" */
#define LABEL_BYTES    64  /* a label's value; a failure domain */
#define SENTENCE_BYTES 256

#define VOLUME_SIZE_MIN       ((uint64_t)1 << 20)  /* 1 MiB: one chunk of the map */
#define VOLUME_SIZE_MAX       ((uint64_t)64 << 40) /* 64 TiB */
#define VOLUME_RF_MAX         5
#define VOLUME_VOTERS_MAX     5
#define VOLUME_LEARNERS_MAX   3
#define VOLUME_PARAMS_MAX     32
#define VOLUME_CONDITIONS_MAX 8
#define NODE_STORES_MAX       16
#define STORE_LABELS_MAX      8

#define VOLUMES_PREFIX "/volumes/"
#define NODES_PREFIX   "/nodes/"
#define ALIVE_PREFIX   "/alive/" /* not below /nodes/, whose listing holds records only */
#define EXPORTS_PREFIX "/exports/"
#define EVENTS_PREFIX  "/events/"
#define EVENTS_MAX     10000 /* kept in the journal; older ones are deleted */

/* The lifecycle (design section 8); the table of transitions is in lifecycle.h. */
enum volume_state {
	VOLUME_PENDING,
	VOLUME_PROVISIONING,
	VOLUME_AVAILABLE,
	VOLUME_BINDING,
	VOLUME_BOUND,
	VOLUME_RELEASING,
	VOLUME_FAILED,
	VOLUME_DELETED,
	VOLUME_STATES,
};
const char *volume_state_name(enum volume_state state);

/* A side effect that was recorded before it was begun, and must be finished or repeated. */
enum volume_intent {
	INTENT_NONE,
	INTENT_PROVISION,
	INTENT_ATTACH,
	INTENT_DETACH,
	INTENT_CLEANUP,
	INTENT_ABANDON, /* a detach that does not need the gateway's answer */
	INTENTS,
};

struct record_member {
	struct uuid replica_uuid;
	struct uuid store_uuid;
	char node[NAME_BYTES];
	char domain[LABEL_BYTES * 3]; /* "zone/rack/host", as placed */
};

struct record_param {
	char key[32];
	char value[LABEL_BYTES];
};

struct record_condition {
	char type[32]; /* "Degraded", "NoQuorum", "ProvisionFailed", ... */
	char reason[SENTENCE_BYTES];
	uint64_t since_ms;
};

struct volume_record {
	char name[NAME_BYTES];
	struct uuid uuid;
	struct uuid family_uuid; /* of the volume, its snapshots and clones */
	uint64_t size_bytes;
	enum volume_state state;
	uint64_t epoch;
	uint64_t opened_epoch;             /* <= epoch */
	char coordinator_node[NAME_BYTES]; /* "" when none */
	uint64_t coordinator_boot_id;
	uint32_t rf;
	uint32_t quorum; /* rf / 2 + 1 */
	struct record_member voters[VOLUME_VOTERS_MAX];
	uint32_t voter_count; /* <= rf */
	struct record_member learners[VOLUME_LEARNERS_MAX];
	uint32_t learner_count;
	struct record_param params[VOLUME_PARAMS_MAX];
	uint32_t param_count;
	enum volume_intent intent;
	uint64_t intent_id;     /* rises with each intent, never repeats for a name: what comes late
				 * from an earlier intent is known by it */
	uint64_t request_token; /* of the request that entered the state: finds out after an
				 * unknown outcome whether it was applied */
	char target_node[NAME_BYTES]; /* whom an attach intent is for; kept while bound */
	bool delete_wanted;           /* releasing leads to deleted rather than available */
	struct record_condition conditions[VOLUME_CONDITIONS_MAX];
	uint32_t condition_count;
	uint64_t created_ms;
};

enum store_state { STORE_OK, STORE_FAILED, STORE_DRAINING };
const char *store_state_name(enum store_state state);

struct record_label {
	char key[32];
	char value[LABEL_BYTES];
};

struct record_store {
	struct uuid uuid;
	uint64_t capacity_bytes;
	uint64_t used_bytes;
	struct record_label labels[STORE_LABELS_MAX]; /* "type" is what the class key selects by */
	uint32_t label_count;
	enum store_state state;
};

/* The value of a store's label; "" when it does not have it. */
const char *store_label(const struct record_store *store, const char *key);

/* Online or not is the presence of /alive/NAME, a key under the node's lease. */
struct node_record {
	char name[NAME_BYTES];
	struct uuid uuid;
	char address[ADDRESS_BYTES];       /* of the replica protocol */
	char admin_address[ADDRESS_BYTES]; /* may be empty */
	char zone[LABEL_BYTES];            /* "" when not labelled */
	char rack[LABEL_BYTES];
	char host[LABEL_BYTES];
	bool online; /* as last seen by the manager */
	bool cordoned;
	struct record_store stores[NODE_STORES_MAX];
	uint32_t store_count;
	uint64_t last_seen_ms;
};

struct export_record {
	char volume[NAME_BYTES];
	char gateway[NAME_BYTES];
	char address[ADDRESS_BYTES]; /* "" is the gateway's own socket */
	bool read_only;
};

enum event_level { EVENT_INFO, EVENT_WARN, EVENT_ERROR };
const char *event_level_name(enum event_level level);

struct event_record {
	uint64_t seq;
	uint64_t time_ms;
	enum event_level level;
	char kind[48];   /* a stable CamelCase word */
	char object[96]; /* "volume/db1" */
	char cause[SENTENCE_BYTES];
};

/*
 * Encode: *ret_text is malloc'ed, zero-terminated JSON; the record is checked first.
 * Decode: text need not be terminated. *ret is written only on success.
 */
int volume_record_encode(const struct volume_record *record, char **ret_text, struct err *err);
int volume_record_decode(const void *text, size_t bytes, struct volume_record *ret,
			 struct err *err);
int node_record_encode(const struct node_record *record, char **ret_text, struct err *err);
int node_record_decode(const void *text, size_t bytes, struct node_record *ret, struct err *err);
int export_record_encode(const struct export_record *record, char **ret_text, struct err *err);
int export_record_decode(const void *text, size_t bytes, struct export_record *ret,
			 struct err *err);
int event_record_encode(const struct event_record *record, char **ret_text, struct err *err);
int event_record_decode(const void *text, size_t bytes, struct event_record *ret, struct err *err);

/* "/volumes/NAME" and so on; key has room for RECORD_KEY_BYTES. */
#define RECORD_KEY_BYTES 96
void volume_key(const char *name, char key[RECORD_KEY_BYTES]);
void node_key(const char *name, char key[RECORD_KEY_BYTES]);
void export_key(const char *volume, char key[RECORD_KEY_BYTES]);
/* Zero-padded, so that keys sort by number. */
void event_key(uint64_t seq, char key[RECORD_KEY_BYTES]);

/* Sets or replaces the condition of that type; the oldest gives way when there is no room. */
void volume_condition_set(struct volume_record *record, const char *type, const char *reason,
			  uint64_t now_ms);
/* True when there was one. */
bool volume_condition_clear(struct volume_record *record, const char *type);

/* An RFC 1123 label: 1..63 of a-z, 0-9 and '-', no '-' at either end. 0 or -EINVAL; `what` is
 * for the sentence ("volume name"). */
int name_check(const char *what, const char *name, struct err *err);
/* Whether it can be the value of a label: 1..63 of letters, digits, '-', '_' and '.'. */
bool label_is_valid(const char *value);
/* A multiple of 4096 between VOLUME_SIZE_MIN and VOLUME_SIZE_MAX. 0 or -EINVAL. */
int volume_size_check(uint64_t size_bytes, struct err *err);

/* ---- class parameters ---- */

struct class_settings {
	uint32_t rf;                   /* replicationFactor, default 3 */
	char type[LABEL_BYTES];        /* stores must carry this label "type"; "" is any */
	bool fail_on_no_quorum;        /* onNoQuorum: hold (default) | fail */
	uint64_t no_quorum_timeout_ms; /* noQuorumTimeout, default 60s with fail; 0 with hold */
};

/*
 * Checks all parameters of a StorageClass and fills *ret, with defaults for what is absent.
 * -EINVAL names the key, the value and what is allowed; a key whose feature this version does not
 * have is refused as such unless its value turns the feature off.
 */
int class_params_parse(const struct record_param *params, uint32_t param_count,
		       struct class_settings *ret, struct err *err);
/* "60s", "500ms", "5m", "1h" in milliseconds. 0 or -EINVAL. */
int duration_parse(const char *text, uint64_t *ret_ms);

#endif
