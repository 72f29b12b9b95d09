/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records as JSON, driven by tables: one row per field says its name, type, place and bounds; one
 * encoder and one decoder walk the rows. What a row cannot say (a quorum that fits the factor)
 * is checked by a function per record, on both ways.
 *
 * R1  decode(encode(r)) == r for every record that passes its check.
 * R2  Decoding writes into a zeroed copy and hands it over only when everything held.
 * R3  Numbers are at most 2^63-1, which JSON readers of this project keep exactly.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "volmgr/records.h"

enum field_type { F_TEXT, F_NAME, F_UUID, F_U64, F_U32, F_BOOL, F_ENUM, F_ARRAY };

struct table;
struct field {
	const char *name;
	enum field_type type;
	size_t offset;
	size_t bytes; /* of a text with its zero; of an array's element */
	uint64_t min; /* of numbers; of a text's length (names: 0 allows "") */
	uint64_t max; /* of numbers; of an array's length; of an enumeration: exclusive */
	const char *(*name_of)(int value);
	size_t count_offset;
	const struct table *element;
};
struct table {
	const struct field *fields;
	size_t count;
};

#define TABLE(f)                \
	{                       \
		f, ARRAY_LEN(f) \
	}
#define TEXT(r, m, label, minimum)                                              \
	{                                                                       \
		.name = label, .type = F_TEXT, .offset = offsetof(struct r, m), \
		.bytes = sizeof(((struct r *)0)->m), .min = minimum             \
	}
#define NAME(r, m, label, minimum)                                              \
	{                                                                       \
		.name = label, .type = F_NAME, .offset = offsetof(struct r, m), \
		.bytes = sizeof(((struct r *)0)->m), .min = minimum             \
	}
#define UUID(r, m, label)                                                      \
	{                                                                      \
		.name = label, .type = F_UUID, .offset = offsetof(struct r, m) \
	}
#define U64(r, m, label, low, high)                                                        \
	{                                                                                  \
		.name = label, .type = F_U64, .offset = offsetof(struct r, m), .min = low, \
		.max = high                                                                \
	}
#define U32(r, m, label, low, high)                                                        \
	{                                                                                  \
		.name = label, .type = F_U32, .offset = offsetof(struct r, m), .min = low, \
		.max = high                                                                \
	}
#define BOOL(r, m, label)                                                      \
	{                                                                      \
		.name = label, .type = F_BOOL, .offset = offsetof(struct r, m) \
	}
#define ENUM(r, m, label, function, end)                                        \
	{                                                                       \
		.name = label, .type = F_ENUM, .offset = offsetof(struct r, m), \
		.name_of = function, .max = end                                 \
	}
#define ARRAY(r, m, label, n, table)                                                          \
	{                                                                                     \
		.name = label, .type = F_ARRAY, .offset = offsetof(struct r, m),              \
		.bytes = sizeof(((struct r *)0)->m[0]), .max = ARRAY_LEN(((struct r *)0)->m), \
		.count_offset = offsetof(struct r, n), .element = table                       \
	}

/* ---- names of enumerations ---- */

static const char *volume_state_name_of(int value)
{
	static const char *const names[VOLUME_STATES] = {"pending", "provisioning", "available",
							 "binding", "bound",        "releasing",
							 "failed",  "deleted"};
	return value >= 0 && value < VOLUME_STATES ? names[value] : "?";
}

static const char *intent_name_of(int value)
{
	static const char *const names[INTENTS] = {"none",   "provision", "attach",
						   "detach", "cleanup",   "abandon"};
	return value >= 0 && value < INTENTS ? names[value] : "?";
}

static const char *store_state_name_of(int value)
{
	static const char *const names[] = {"ok", "failed", "draining"};
	return value >= 0 && value < (int)ARRAY_LEN(names) ? names[value] : "?";
}

static const char *event_level_name_of(int value)
{
	static const char *const names[] = {"info", "warn", "error"};
	return value >= 0 && value < (int)ARRAY_LEN(names) ? names[value] : "?";
}

const char *volume_state_name(enum volume_state state)
{
	return volume_state_name_of((int)state);
}

const char *store_state_name(enum store_state state)
{
	return store_state_name_of((int)state);
}

const char *store_label(const struct record_store *store, const char *key)
{
	for (uint32_t i = 0; i < store->label_count; i++)
		if (strcmp(store->labels[i].key, key) == 0)
			return store->labels[i].value;
	return "";
}

const char *event_level_name(enum event_level level)
{
	return event_level_name_of((int)level);
}

/* ---- the tables ---- */

static const struct field member_fields[] = {
	UUID(record_member, replica_uuid, "replica_uuid"),
	UUID(record_member, store_uuid, "store_uuid"),
	NAME(record_member, node, "node", 1),
	TEXT(record_member, domain, "domain", 0),
};
static const struct table member_table = TABLE(member_fields);

static const struct field param_fields[] = {
	TEXT(record_param, key, "key", 1),
	TEXT(record_param, value, "value", 0),
};
static const struct table param_table = TABLE(param_fields);

static const struct field condition_fields[] = {
	TEXT(record_condition, type, "type", 1),
	TEXT(record_condition, reason, "reason", 0),
	U64(record_condition, since_ms, "since_ms", 0, INT64_MAX),
};
static const struct table condition_table = TABLE(condition_fields);

static const struct field volume_fields[] = {
	NAME(volume_record, name, "name", 1),
	UUID(volume_record, uuid, "uuid"),
	UUID(volume_record, family_uuid, "family_uuid"),
	U64(volume_record, size_bytes, "size_bytes", VOLUME_SIZE_MIN, VOLUME_SIZE_MAX),
	ENUM(volume_record, state, "state", volume_state_name_of, VOLUME_STATES),
	U64(volume_record, epoch, "epoch", 0, INT64_MAX),
	U64(volume_record, opened_epoch, "opened_epoch", 0, INT64_MAX),
	NAME(volume_record, coordinator_node, "coordinator_node", 0),
	U64(volume_record, coordinator_boot_id, "coordinator_boot_id", 0, INT64_MAX),
	U32(volume_record, rf, "rf", 1, VOLUME_RF_MAX),
	U32(volume_record, quorum, "quorum", 1, VOLUME_RF_MAX),
	ARRAY(volume_record, voters, "voters", voter_count, &member_table),
	ARRAY(volume_record, learners, "learners", learner_count, &member_table),
	ARRAY(volume_record, params, "params", param_count, &param_table),
	ENUM(volume_record, intent, "intent", intent_name_of, INTENTS),
	U64(volume_record, intent_id, "intent_id", 0, INT64_MAX),
	U64(volume_record, request_token, "request_token", 0, INT64_MAX),
	NAME(volume_record, target_node, "target_node", 0),
	BOOL(volume_record, delete_wanted, "delete_wanted"),
	ARRAY(volume_record, conditions, "conditions", condition_count, &condition_table),
	U64(volume_record, created_ms, "created_ms", 0, INT64_MAX),
};
static const struct table volume_table = TABLE(volume_fields);

static const struct field label_fields[] = {
	TEXT(record_label, key, "key", 1),
	TEXT(record_label, value, "value", 0),
};
static const struct table label_table = TABLE(label_fields);

static const struct field store_fields[] = {
	UUID(record_store, uuid, "uuid"),
	U64(record_store, capacity_bytes, "capacity_bytes", 0, INT64_MAX),
	U64(record_store, used_bytes, "used_bytes", 0, INT64_MAX),
	ARRAY(record_store, labels, "labels", label_count, &label_table),
	ENUM(record_store, state, "state", store_state_name_of, STORE_DRAINING + 1),
};
static const struct table store_table = TABLE(store_fields);

static const struct field node_fields[] = {
	NAME(node_record, name, "name", 1),
	UUID(node_record, uuid, "uuid"),
	TEXT(node_record, address, "address", 1),
	TEXT(node_record, admin_address, "admin_address", 0),
	TEXT(node_record, zone, "zone", 0),
	TEXT(node_record, rack, "rack", 0),
	TEXT(node_record, host, "host", 0),
	BOOL(node_record, online, "online"),
	BOOL(node_record, cordoned, "cordoned"),
	ARRAY(node_record, stores, "stores", store_count, &store_table),
	U64(node_record, last_seen_ms, "last_seen_ms", 0, INT64_MAX),
};
static const struct table node_table = TABLE(node_fields);

static const struct field export_fields[] = {
	NAME(export_record, volume, "volume", 1),
	NAME(export_record, gateway, "gateway", 0),
	TEXT(export_record, address, "address", 0),
	BOOL(export_record, read_only, "read_only"),
};
static const struct table export_table = TABLE(export_fields);

static const struct field event_fields[] = {
	U64(event_record, seq, "seq", 1, INT64_MAX),
	U64(event_record, time_ms, "time_ms", 0, INT64_MAX),
	ENUM(event_record, level, "level", event_level_name_of, EVENT_ERROR + 1),
	TEXT(event_record, kind, "type", 1),
	TEXT(event_record, object, "object", 1),
	TEXT(event_record, cause, "cause", 0),
};
static const struct table event_table = TABLE(event_fields);

/* ---- one value ---- */

static uint64_t number_get(const struct field *f, const char *at)
{
	uint64_t number;
	uint32_t small;
	if (f->type == F_U64) {
		memcpy(&number, at, sizeof(number));
		return number;
	}
	memcpy(&small, at, sizeof(small)); /* F_U32, F_ENUM */
	return small;
}

static int text_check(const struct field *f, const char *text, size_t bytes, struct err *err)
{
	if (bytes >= f->bytes || bytes < f->min)
		return err_set(err, -EBADMSG, "field '%s' has %zu bytes, allowed are %llu to %zu",
			       f->name, bytes, (unsigned long long)f->min, f->bytes - 1);
	for (size_t i = 0; i < bytes; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return err_set(err, -EBADMSG, "field '%s' holds a control character",
				       f->name);
	if (f->type == F_NAME && bytes > 0 && name_check(f->name, text, err) < 0)
		return err ? (err->code = -EBADMSG) : -EBADMSG;
	return 0;
}

static int number_check(const struct field *f, uint64_t number, struct err *err)
{
	if (number < f->min || number > f->max)
		return err_set(err, -EBADMSG, "field '%s' is %llu, allowed are %llu to %llu",
			       f->name, (unsigned long long)number, (unsigned long long)f->min,
			       (unsigned long long)f->max);
	return 0;
}

static json_t *table_encode(const struct table *table, const char *record, struct err *err);
static int table_decode(const struct table *table, json_t *object, size_t skip, char *record,
			struct err *err);

static json_t *array_encode(const struct field *f, const char *record, struct err *err)
{
	uint32_t count;
	memcpy(&count, record + f->count_offset, sizeof(count));
	if (count > f->max) {
		err_set(err, -EINVAL, "field '%s' has %u elements, at most %llu fit", f->name,
			count, (unsigned long long)f->max);
		return NULL;
	}
	json_t *array = json_array();
	for (uint32_t i = 0; array && i < count; i++) {
		json_t *element = table_encode(f->element, record + f->offset + i * f->bytes, err);
		if (element == NULL || json_array_append_new(array, element) < 0) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

static json_t *text_encode(const struct field *f, const char *at, struct err *err)
{
	size_t bytes = strnlen(at, f->bytes);
	return text_check(f, at, bytes, err) < 0 ? NULL : json_stringn(at, bytes);
}

static json_t *field_encode(const struct field *f, const char *record, struct err *err)
{
	const char *at = record + f->offset;
	char uuid[UUID_TEXT_BYTES];
	switch (f->type) {
	case F_TEXT:
	case F_NAME:
		return text_encode(f, at, err);
	case F_UUID:
		uuid_format((const struct uuid *)(const void *)at, uuid);
		return json_string(uuid);
	case F_U64:
	case F_U32:
		if (number_check(f, number_get(f, at), err) < 0)
			return NULL;
		return json_integer((json_int_t)number_get(f, at));
	case F_BOOL:
		return json_boolean(*(const bool *)(const void *)at);
	case F_ENUM:
		if (number_get(f, at) >= f->max) {
			err_set(err, -EINVAL, "field '%s' has no value %llu", f->name,
				(unsigned long long)number_get(f, at));
			return NULL;
		}
		return json_string(f->name_of((int)number_get(f, at)));
	case F_ARRAY:
		return array_encode(f, record, err);
	}
	return NULL;
}

static json_t *table_encode(const struct table *table, const char *record, struct err *err)
{
	json_t *object = json_object();
	for (size_t i = 0; object && i < table->count; i++) {
		json_t *value = field_encode(&table->fields[i], record, err);
		if (value == NULL ||
		    json_object_set_new(object, table->fields[i].name, value) < 0) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}

static int type_wrong(const struct field *f, const char *want, struct err *err)
{
	return err_set(err, -EBADMSG, "field '%s' is not %s", f->name, want);
}

static int array_decode(const struct field *f, json_t *value, char *record, struct err *err)
{
	if (!json_is_array(value))
		return type_wrong(f, "an array", err);
	if (json_array_size(value) > f->max)
		return err_set(err, -EBADMSG, "field '%s' has %zu elements, at most %llu fit",
			       f->name, json_array_size(value), (unsigned long long)f->max);
	uint32_t count = (uint32_t)json_array_size(value);
	for (uint32_t i = 0; i < count; i++) {
		char *at = record + f->offset + i * f->bytes;
		int rc = table_decode(f->element, json_array_get(value, i), 0, at, err);
		if (rc < 0)
			return err_wrap(err, rc, "%s[%u]", f->name, i);
	}
	memcpy(record + f->count_offset, &count, sizeof(count));
	return 0;
}

static int text_decode(const struct field *f, json_t *value, char *at, struct err *err)
{
	if (!json_is_string(value))
		return type_wrong(f, "a text", err);
	int rc = text_check(f, json_string_value(value), json_string_length(value), err);
	if (rc == 0)
		memcpy(at, json_string_value(value), json_string_length(value) + 1);
	return rc;
}

static int number_decode(const struct field *f, json_t *value, char *at, struct err *err)
{
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return type_wrong(f, "a whole number", err);
	uint64_t number = (uint64_t)json_integer_value(value);
	int rc = number_check(f, number, err);
	uint32_t small = (uint32_t)number;
	if (rc == 0 && f->type == F_U64)
		memcpy(at, &number, sizeof(number));
	else if (rc == 0)
		memcpy(at, &small, sizeof(small));
	return rc;
}

static int enum_decode(const struct field *f, json_t *value, char *at, struct err *err)
{
	const char *text = json_string_value(value);
	if (text == NULL)
		return type_wrong(f, "a text", err);
	for (uint32_t i = 0; i < f->max; i++) {
		if (strcmp(f->name_of((int)i), text) == 0) {
			memcpy(at, &i, sizeof(i));
			return 0;
		}
	}
	return err_set(err, -EBADMSG, "field '%s' has the unknown value '%.40s'", f->name, text);
}

static int field_decode(const struct field *f, json_t *value, char *record, struct err *err)
{
	char *at = record + f->offset;
	switch (f->type) {
	case F_TEXT:
	case F_NAME:
		return text_decode(f, value, at, err);
	case F_UUID:
		if (!json_is_string(value) ||
		    uuid_parse(json_string_value(value), (struct uuid *)(void *)at) < 0)
			return type_wrong(f, "a uuid", err);
		return 0;
	case F_U64:
	case F_U32:
		return number_decode(f, value, at, err);
	case F_BOOL:
		if (!json_is_boolean(value))
			return type_wrong(f, "true or false", err);
		*(bool *)(void *)at = json_is_true(value);
		return 0;
	case F_ENUM:
		return enum_decode(f, value, at, err);
	case F_ARRAY:
		return array_decode(f, value, record, err);
	}
	return -EBADMSG;
}

/* `skip` counts fields of the object that the caller has dealt with. */
static int table_decode(const struct table *table, json_t *object, size_t skip, char *record,
			struct err *err)
{
	if (!json_is_object(object))
		return err_set(err, -EBADMSG, "it is not an object");
	for (size_t i = 0; i < table->count; i++) {
		const struct field *f = &table->fields[i];
		json_t *value = json_object_get(object, f->name);
		if (value == NULL)
			return err_set(err, -EBADMSG, "field '%s' is missing", f->name);
		int rc = field_decode(f, value, record, err);
		if (rc < 0)
			return rc;
	}
	if (json_object_size(object) != table->count + skip)
		return err_set(err, -EBADMSG, "it has %zu fields, expected are %zu",
			       json_object_size(object), table->count + skip);
	return 0;
}

/* ---- one record ---- */

static int record_encode(const struct table *table, const char *kind, const void *record,
			 char **ret_text, struct err *err)
{
	struct err why = {0};
	json_t *body = table_encode(table, record, &why);
	if (body == NULL)
		return why.code ? err_set(err, -EINVAL, "%s record: %s", kind, why.text)
				: err_set(err, -ENOMEM, "%s record: no memory", kind);
	char *text = NULL;
	json_t *head = json_pack("{s:i, s:s}", "version", RECORD_VERSION, "kind", kind);
	if (head && json_object_update(head, body) == 0)
		text = json_dumps(head, JSON_COMPACT);
	json_decref(head);
	json_decref(body);
	if (text == NULL)
		return err_set(err, -ENOMEM, "%s record: no memory", kind);
	*ret_text = text;
	return 0;
}

static int head_check(json_t *root, const char *kind, struct err *err)
{
	json_t *version = json_object_get(root, "version");
	const char *have = json_string_value(json_object_get(root, "kind"));
	if (!json_is_integer(version) || json_integer_value(version) < 1)
		return err_set(err, -EBADMSG, "field 'version' is missing or no number");
	if (json_integer_value(version) > RECORD_VERSION)
		return err_set(err, -ENOTSUP, "is version %lld, this program knows up to %d",
			       (long long)json_integer_value(version), RECORD_VERSION);
	if (have == NULL || strcmp(have, kind) != 0)
		return err_set(err, -EBADMSG, "field 'kind' is '%.40s'", have ? have : "");
	return 0;
}

static void json_freep(json_t **json)
{
	json_decref(*json);
}

static int record_parse(const struct table *table, const char *kind, json_t *root, void *record,
			struct err *err)
{
	int rc = head_check(root, kind, err);
	if (rc == 0)
		rc = table_decode(table, root, 2, record, err);
	return rc < 0 ? err_wrap(err, rc, "%s record", kind) : 0;
}

static int json_read(const char *kind, const void *text, size_t bytes, json_t **ret,
		     struct err *err)
{
	json_error_t error;
	*ret = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
	if (*ret == NULL)
		return err_set(err, -EBADMSG, "%s record: is not JSON: %s at byte %d", kind,
			       error.text, error.position);
	return 0;
}

static int volume_check(const struct volume_record *r, struct err *err)
{
	if (r->size_bytes % BLOCK_BYTES)
		return err_set(err, -EBADMSG,
			       "volume record: field 'size_bytes' is %llu, no multiple of %u",
			       (unsigned long long)r->size_bytes, BLOCK_BYTES);
	if (r->quorum != r->rf / 2 + 1)
		return err_set(err, -EBADMSG, "volume record: quorum %u does not fit rf %u",
			       r->quorum, r->rf);
	if (r->voter_count > r->rf)
		return err_set(err, -EBADMSG, "volume record: %u voters are more than rf %u",
			       r->voter_count, r->rf);
	if (r->opened_epoch > r->epoch)
		return err_set(err, -EBADMSG,
			       "volume record: opened_epoch %llu is above epoch %llu",
			       (unsigned long long)r->opened_epoch, (unsigned long long)r->epoch);
	for (uint32_t i = 0; i < r->voter_count; i++)
		for (uint32_t k = 0; k < i; k++)
			if (uuid_equal(&r->voters[i].replica_uuid, &r->voters[k].replica_uuid))
				return err_set(err, -EBADMSG,
					       "volume record: voters %u and %u are the same", k,
					       i);
	return 0;
}

int volume_record_encode(const struct volume_record *record, char **ret_text, struct err *err)
{
	int rc = volume_check(record, err);
	if (rc < 0)
		return err ? (err->code = -EINVAL) : -EINVAL;
	return record_encode(&volume_table, "volume", record, ret_text, err);
}

int volume_record_decode(const void *text, size_t bytes, struct volume_record *ret, struct err *err)
{
	struct volume_record record = {0};
	CLEANUP(json_freep) json_t *root = NULL;
	int rc = json_read("volume", text, bytes, &root, err);
	if (rc == 0)
		rc = record_parse(&volume_table, "volume", root, &record, err);
	if (rc == 0)
		rc = volume_check(&record, err);
	if (rc == 0)
		*ret = record;
	return rc;
}

int node_record_encode(const struct node_record *record, char **ret_text, struct err *err)
{
	return record_encode(&node_table, "node", record, ret_text, err);
}

int node_record_decode(const void *text, size_t bytes, struct node_record *ret, struct err *err)
{
	struct node_record record = {0};
	CLEANUP(json_freep) json_t *root = NULL;
	int rc = json_read("node", text, bytes, &root, err);
	if (rc == 0)
		rc = record_parse(&node_table, "node", root, &record, err);
	if (rc == 0)
		*ret = record;
	return rc;
}

int export_record_encode(const struct export_record *record, char **ret_text, struct err *err)
{
	return record_encode(&export_table, "export", record, ret_text, err);
}

int export_record_decode(const void *text, size_t bytes, struct export_record *ret, struct err *err)
{
	struct export_record record = {0};
	CLEANUP(json_freep) json_t *root = NULL;
	int rc = json_read("export", text, bytes, &root, err);
	if (rc == 0)
		rc = record_parse(&export_table, "export", root, &record, err);
	if (rc == 0)
		*ret = record;
	return rc;
}

int event_record_encode(const struct event_record *record, char **ret_text, struct err *err)
{
	return record_encode(&event_table, "event", record, ret_text, err);
}

int event_record_decode(const void *text, size_t bytes, struct event_record *ret, struct err *err)
{
	struct event_record record = {0};
	CLEANUP(json_freep) json_t *root = NULL;
	int rc = json_read("event", text, bytes, &root, err);
	if (rc == 0)
		rc = record_parse(&event_table, "event", root, &record, err);
	if (rc == 0)
		*ret = record;
	return rc;
}

/* ---- keys, conditions, names ---- */

void volume_key(const char *name, char key[RECORD_KEY_BYTES])
{
	snprintf(key, RECORD_KEY_BYTES, VOLUMES_PREFIX "%.63s", name);
}

void node_key(const char *name, char key[RECORD_KEY_BYTES])
{
	snprintf(key, RECORD_KEY_BYTES, NODES_PREFIX "%.63s", name);
}

void export_key(const char *volume, char key[RECORD_KEY_BYTES])
{
	snprintf(key, RECORD_KEY_BYTES, EXPORTS_PREFIX "%.63s", volume);
}

void event_key(uint64_t seq, char key[RECORD_KEY_BYTES])
{
	snprintf(key, RECORD_KEY_BYTES, EVENTS_PREFIX "%020llu", (unsigned long long)seq);
}

bool volume_condition_clear(struct volume_record *record, const char *type)
{
	for (uint32_t i = 0; i < record->condition_count; i++) {
		if (strcmp(record->conditions[i].type, type) != 0)
			continue;
		record->condition_count--;
		memmove(&record->conditions[i], &record->conditions[i + 1],
			(record->condition_count - i) * sizeof(record->conditions[0]));
		memset(&record->conditions[record->condition_count], 0,
		       sizeof(record->conditions[0]));
		return true;
	}
	return false;
}

void volume_condition_set(struct volume_record *record, const char *type, const char *reason,
			  uint64_t now_ms)
{
	uint64_t since_ms = now_ms;
	for (uint32_t i = 0; i < record->condition_count; i++)
		if (strcmp(record->conditions[i].type, type) == 0)
			since_ms = record->conditions[i].since_ms;
	volume_condition_clear(record, type);
	if (record->condition_count == VOLUME_CONDITIONS_MAX)
		volume_condition_clear(record, record->conditions[0].type);
	struct record_condition *c = &record->conditions[record->condition_count++];
	snprintf(c->type, sizeof(c->type), "%s", type);
	snprintf(c->reason, sizeof(c->reason), "%s", reason);
	for (char *p = c->reason; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
	c->since_ms = since_ms;
}

static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

int name_check(const char *what, const char *name, struct err *err)
{
	size_t bytes = strnlen(name, NAME_BYTES);
	if (bytes == 0)
		return err_set(err, -EINVAL, "%s is empty", what);
	if (bytes >= NAME_BYTES)
		return err_set(err, -EINVAL, "%s '%.70s' is longer than 63 characters", what, name);
	bool ok = is_alnum(name[0]) && is_alnum(name[bytes - 1]);
	for (size_t i = 0; i < bytes; i++)
		ok = ok && (is_alnum(name[i]) || name[i] == '-');
	if (ok)
		return 0;
	return err_set(
		err, -EINVAL,
		"%s '%s' is no RFC 1123 label: a-z, 0-9 and '-', beginning and ending with a "
		"letter or digit",
		what, name);
}

int volume_size_check(uint64_t size_bytes, struct err *err)
{
	if (size_bytes < VOLUME_SIZE_MIN || size_bytes > VOLUME_SIZE_MAX)
		return err_set(err, -EINVAL,
			       "size %llu bytes is not between %llu (1 MiB) and %llu "
			       "(64 TiB)",
			       (unsigned long long)size_bytes, (unsigned long long)VOLUME_SIZE_MIN,
			       (unsigned long long)VOLUME_SIZE_MAX);
	if (size_bytes % BLOCK_BYTES)
		return err_set(err, -EINVAL, "size %llu bytes is no multiple of %u",
			       (unsigned long long)size_bytes, BLOCK_BYTES);
	return 0;
}
