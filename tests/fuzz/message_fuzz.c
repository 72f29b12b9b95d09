/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of the admin services: bytes that a client sends. The first byte chooses the type. What
 * is accepted is clean, packs again, and is freed without a trace.
 */
#include <errno.h>
#include <grpc/byte_buffer.h>
#include <grpc/slice.h>

#include "base/rpc/rpc_core.h"
#include "tests/fuzz/fuzz.h"
#include "volmgr/holdfast.pb-c.h"

#define MESSAGE_BYTES_MAX ((size_t)64 << 10)

static const ProtobufCServiceDescriptor *const services[] = {
	&holdfast__v1__manager__descriptor,
	&holdfast__v1__gateway__descriptor,
	&holdfast__v1__node__descriptor,
	&holdfast__v1__meta__descriptor,
};

static const ProtobufCMessageDescriptor *type_choose(const uint8_t choice[2])
{
	const ProtobufCServiceDescriptor *service = services[choice[0] % ARRAY_LEN(services)];
	const ProtobufCMethodDescriptor *method =
		&service->methods[(choice[1] & 0x7f) % service->n_methods];
	return choice[1] & 0x80 ? method->output : method->input;
}

static void check_packs(const ProtobufCMessage *message)
{
	grpc_byte_buffer *buffer = NULL;
	struct err err = {0};
	FUZZ_CHECK(rpc_message_check(message, &err) == 0);
	int rc = rpc_message_pack(message, MESSAGE_BYTES_MAX, &buffer, &err);
	FUZZ_CHECK(rc == 0 || rc == -EMSGSIZE);
	if (rc == 0)
		grpc_byte_buffer_destroy(buffer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes < 2)
		return 0;
	grpc_slice slice = grpc_slice_from_copied_buffer((const char *)data + 2, bytes - 2);
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
	ProtobufCMessage *message = NULL;
	struct err err = {0};
	int rc = rpc_message_unpack(type_choose(data), buffer, MESSAGE_BYTES_MAX, &message, &err);
	if (rc < 0)
		FUZZ_CHECK(err.text[0] != '\0');
	else
		check_packs(message);
	rpc_message_free(message);
	grpc_byte_buffer_destroy(buffer);
	grpc_slice_unref(slice);

	/* Texts of strangers end up in errors, clipped. */
	char text[40];
	rpc_text_copy((const char *)data + 2, bytes - 2, text, sizeof(text));
	return 0;
}
