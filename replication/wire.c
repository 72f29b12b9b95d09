/* SPDX-License-Identifier: Apache-2.0 */
/* Sealing and checking of frame headers, and the one table between wire status and errno. */
#include "replication/wire.h"

#include <errno.h>

#include "base/crc32c.h"

static uint32_t header_crc(const struct wire_header *header)
{
	struct wire_header copy = *header;
	copy.header_crc32c = le32_make(0);
	return crc32c(&copy, sizeof(copy));
}

void wire_header_seal(struct wire_header *header, const void *body)
{
	header->magic = le32_make(WIRE_MAGIC);
	header->body_crc32c = le32_make(crc32c(body, le32_get(header->body_bytes)));
	header->reserved0 = le32_make(0);
	header->reserved1 = le64_make(0);
	header->header_crc32c = le32_make(header_crc(header));
}

int wire_header_check(const struct wire_header *header)
{
	if (le32_get(header->magic) != WIRE_MAGIC)
		return -EPROTO;
	if (le32_get(header->header_crc32c) != header_crc(header))
		return -EBADMSG;
	if (le32_get(header->reserved0) != 0 || le64_get(header->reserved1) != 0)
		return -EPROTO;
	if (le32_get(header->body_bytes) > WIRE_BODY_BYTES_MAX ||
	    le32_get(header->body_bytes) % 8 != 0)
		return -EMSGSIZE;
	if (le32_get(header->payload_bytes) > WIRE_PAYLOAD_BYTES_MAX ||
	    le32_get(header->payload_bytes) % BLOCK_BYTES != 0)
		return -EMSGSIZE;
	return 0;
}

int wire_body_check(const struct wire_header *header, const void *body)
{
	uint32_t want = le32_get(header->body_crc32c);
	return crc32c(body, le32_get(header->body_bytes)) == want ? 0 : -EBADMSG;
}

static const struct {
	uint16_t status;
	int code;
} status_table[] = {
	{WIRE_OK, 0},
	{WIRE_EINVAL, -EINVAL},
	{WIRE_ENOENT, -ENOENT},
	{WIRE_ESTALE, -ESTALE},
	{WIRE_EILSEQ, -EILSEQ},
	{WIRE_ENOSPC, -ENOSPC},
	{WIRE_EIO, -EIO},
	{WIRE_EBADMSG, -EBADMSG},
	{WIRE_ENODATA, -ENODATA},
	{WIRE_EBUSY, -EBUSY},
	{WIRE_EEXIST, -EEXIST},
	{WIRE_ENOTSUP, -ENOTSUP},
	{WIRE_ECANCELED, -ECANCELED},
	{WIRE_ETIMEDOUT, -ETIMEDOUT},
	{WIRE_EPERM, -EPERM},
	{WIRE_ESHUTDOWN, -ESHUTDOWN},
};

enum wire_status wire_status_from(int negative_errno)
{
	for (size_t i = 0; i < ARRAY_LEN(status_table); i++)
		if (status_table[i].code == negative_errno)
			return status_table[i].status;
	return WIRE_EIO; /* an error that has no name on the wire is still an error */
}

int wire_status_to(uint16_t status)
{
	for (size_t i = 0; i < ARRAY_LEN(status_table); i++)
		if (status_table[i].status == status)
			return status_table[i].code;
	return -EPROTO;
}

const char *wire_type_name(uint16_t type)
{
	static const char *const names[] = {
		[WIRE_HELLO] = "HELLO",
		[WIRE_PING] = "PING",
		[WIRE_PONG] = "PONG",
		[WIRE_ERROR] = "ERROR",
		[WIRE_PREPARE] = "PREPARE",
		[WIRE_PROMISE] = "PROMISE",
		[WIRE_APPEND] = "APPEND",
		[WIRE_ACK] = "ACK",
		[WIRE_COMMIT] = "COMMIT",
		[WIRE_STAGE] = "STAGE",
		[WIRE_ADOPT] = "ADOPT",
		[WIRE_READ] = "READ",
		[WIRE_DATA] = "DATA",
		[WIRE_LOG_READ] = "LOG_READ",
		[WIRE_LOG_ENTRY] = "LOG_ENTRY",
		[WIRE_LEASE] = "LEASE",
		[WIRE_CHANGES] = "CHANGES",
		[WIRE_CHUNK] = "CHUNK",
		[WIRE_SHADOW] = "SHADOW",
		[WIRE_FILL] = "FILL",
		[WIRE_REPAIR] = "REPAIR",
		[WIRE_EXTENTS] = "EXTENTS",
		[WIRE_EXTENT_LIST] = "EXTENT_LIST",
		[WIRE_STATUS] = "STATUS",
		[WIRE_DONE] = "DONE",
		[WIRE_CREATE] = "CREATE",
		[WIRE_DELETE] = "DELETE",
		[WIRE_LIST] = "LIST",
		[WIRE_LISTED] = "LISTED",
		[WIRE_CHECKPOINT] = "CHECKPOINT",
	};
	if (type < ARRAY_LEN(names) && names[type] != NULL)
		return names[type];
	return "?";
}
