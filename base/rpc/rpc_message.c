/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages in and out: protobuf-c with the checks that it leaves to its caller.
 *
 * M1  Nothing with a string that is not UTF-8 enters or leaves: other implementations fail the
 *     whole call on such a message, with a text that helps nobody.
 * M2  A packed message is at most bytes_max long, both ways. Unpacked it may take
 *     MESSAGE_EXPANSION_MAX times as much: two wire bytes can make one empty sub-message of
 *     hundreds, so the wire limit alone does not bound memory.
 * M3  Unpacked messages live on the plain heap, so that freeing needs no allocator.
 *
 * protobuf-c cuts a string at an embedded zero byte; that cannot be seen here any more. It also
 * has no recursion limit: schemas must not be recursive.
 */
#include <errno.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/rpc/rpc_core.h"

#define MESSAGE_EXPANSION_MAX 8u
#define MESSAGE_PATH_BYTES    256

/* Length of the UTF-8 character at p (1..4), or 0 when there is none; p[0..n) is readable. */
static size_t utf8_char(const uint8_t *p, size_t n)
{
	static const struct {
		uint8_t first_low, first_high, second_low, second_high, length_bytes;
	} forms[] = {
		{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
		{0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3},
		{0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
		{0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
	};
	if (p[0] < 0x80)
		return 1;
	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		if (p[0] < forms[i].first_low || p[0] > forms[i].first_high)
			continue;
		size_t length_bytes = forms[i].length_bytes;
		if (n < length_bytes || p[1] < forms[i].second_low || p[1] > forms[i].second_high)
			return 0;
		for (size_t k = 2; k < length_bytes; k++) {
			if ((p[k] & 0xc0) != 0x80)
				return 0;
		}
		return length_bytes;
	}
	return 0;
}

static bool text_is_utf8(const char *text)
{
	size_t left = strlen(text);
	const uint8_t *p = (const uint8_t *)text;
	while (left > 0) {
		size_t step = utf8_char(p, left);
		if (step == 0)
			return false;
		p += step;
		left -= step;
	}
	return true;
}

void rpc_text_copy(const char *text, size_t text_bytes, char *ret, size_t ret_bytes)
{
	const uint8_t *p = (const uint8_t *)text;
	size_t out = 0;
	while (text_bytes > 0 && *p != 0) {
		size_t step = utf8_char(p, text_bytes);
		if (out + MAX(step, 1u) >= ret_bytes)
			break;
		if (step == 0) {
			ret[out++] = '?';
			step = 1;
		} else {
			memcpy(ret + out, p, step);
			out += step;
		}
		p += step;
		text_bytes -= step;
	}
	ret[out] = '\0';
}

static bool message_is_clean(const ProtobufCMessage *message, char *path);

/* One value of a string or message field; on false the field's path is in `path`. */
static bool value_is_clean(const ProtobufCFieldDescriptor *field, const void *value, char *path)
{
	if (!value)
		return true;
	if (field->type == PROTOBUF_C_TYPE_STRING) {
		path[0] = '\0';
		return text_is_utf8(value);
	}
	return message_is_clean(value, path);
}

static void path_prepend(char *path, const char *name, ssize_t index)
{
	char below[MESSAGE_PATH_BYTES], at[24] = "";
	snprintf(below, sizeof(below), "%s", path);
	if (index >= 0)
		snprintf(at, sizeof(at), "[%zd]", index);
	/* A path too long for the buffer is cut at its end; the sentence stays true. */
	(void)!snprintf(path, MESSAGE_PATH_BYTES, "%.60s%s%s%.150s", name, at, below[0] ? "." : "",
			below);
}

static bool field_is_clean(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
			   char *path)
{
	const char *base = (const char *)message;
	const void *slot = base + field->offset;
	if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF &&
	    *(const uint32_t *)(base + field->quantifier_offset) != field->id)
		return true;
	if (field->label != PROTOBUF_C_LABEL_REPEATED) {
		if (value_is_clean(field, *(const void *const *)slot, path))
			return true;
		path_prepend(path, field->name, -1);
		return false;
	}
	size_t count = *(const size_t *)(base + field->quantifier_offset);
	const void *const *values = *(const void *const *const *)slot;
	for (size_t i = 0; i < count; i++) {
		if (value_is_clean(field, values[i], path))
			continue;
		path_prepend(path, field->name, (ssize_t)i);
		return false;
	}
	return true;
}

static bool message_is_clean(const ProtobufCMessage *message, char *path)
{
	const ProtobufCMessageDescriptor *type = message->descriptor;
	for (unsigned i = 0; i < type->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &type->fields[i];
		if (field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if (!field_is_clean(message, field, path))
			return false;
	}
	return true;
}

int rpc_message_check(const ProtobufCMessage *message, struct err *err)
{
	char path[MESSAGE_PATH_BYTES] = "";
	if (message_is_clean(message, path))
		return 0;
	return err_set(err, -EINVAL, "field '%s' of %s is not valid UTF-8", path,
		       message->descriptor->short_name);
}

void rpc_message_free(ProtobufCMessage *message)
{
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
}

int rpc_message_pack(const ProtobufCMessage *message, size_t bytes_max, grpc_byte_buffer **ret,
		     struct err *err)
{
	int rc = rpc_message_check(message, err);
	if (rc < 0)
		return rc;
	size_t length_bytes = protobuf_c_message_get_packed_size(message);
	if (length_bytes > bytes_max)
		return err_set(err, -EMSGSIZE, "%s of %zu bytes is over the limit of %zu bytes",
			       message->descriptor->short_name, length_bytes, bytes_max);
	grpc_slice slice = grpc_slice_malloc(length_bytes);
	size_t packed_bytes = protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
	assert(packed_bytes == length_bytes);
	*ret = grpc_raw_byte_buffer_create(&slice, 1);
	grpc_slice_unref(slice);
	return 0;
}

/* Heap with a budget; what is freed is not given back to the budget. */
struct budget {
	size_t left_bytes;
	bool exceeded;
};

static void *budget_alloc(void *ctx, size_t bytes)
{
	struct budget *budget = ctx;
	if (bytes > budget->left_bytes) {
		budget->exceeded = true;
		return NULL;
	}
	budget->left_bytes -= bytes;
	return malloc(bytes);
}

static void budget_free(void *ctx, void *memory)
{
	(void)ctx;
	free(memory);
}

int rpc_message_unpack(const ProtobufCMessageDescriptor *type, grpc_byte_buffer *buffer,
		       size_t bytes_max, ProtobufCMessage **ret, struct err *err)
{
	struct budget budget = {bytes_max * MESSAGE_EXPANSION_MAX + 65536, false};
	ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
	grpc_byte_buffer_reader reader;
	if (!grpc_byte_buffer_reader_init(&reader, buffer))
		return err_set(err, -EPROTO, "the bytes of %s cannot be read", type->short_name);
	grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
	grpc_byte_buffer_reader_destroy(&reader);
	ProtobufCMessage *message = protobuf_c_message_unpack(
		type, &allocator, GRPC_SLICE_LENGTH(slice), GRPC_SLICE_START_PTR(slice));
	grpc_slice_unref(slice);
	if (!message && budget.exceeded)
		return err_set(err, -EMSGSIZE, "%s needs more than %zu bytes when unpacked",
			       type->short_name, bytes_max * MESSAGE_EXPANSION_MAX + 65536);
	if (!message)
		return err_set(err, -EPROTO, "the bytes are not a message of type %s",
			       type->short_name);
	int rc = rpc_message_check(message, err);
	if (rc < 0) {
		rpc_message_free(message);
		return rc;
	}
	*ret = message;
	return 0;
}
