/* SPDX-License-Identifier: Apache-2.0 */
/* The text form of uuids: 8-4-4-4-12 lower-case hexadecimal digits; upper case is accepted. */
#include "base/types.h"

#include <errno.h>

static bool uuid_dash_before(size_t byte_index)
{
	return byte_index == 4 || byte_index == 6 || byte_index == 8 || byte_index == 10;
}

void uuid_format(const struct uuid *uuid, char text[UUID_TEXT_BYTES])
{
	static const char digits[] = "0123456789abcdef";
	for (size_t i = 0; i < sizeof(uuid->bytes); i++) {
		if (uuid_dash_before(i))
			*text++ = '-';
		*text++ = digits[uuid->bytes[i] >> 4];
		*text++ = digits[uuid->bytes[i] & 15];
	}
	*text = 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int uuid_parse(const char *text, struct uuid *ret)
{
	struct uuid uuid;
	if (strnlen(text, UUID_TEXT_BYTES) != UUID_TEXT_BYTES - 1)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(uuid.bytes); i++) {
		if (uuid_dash_before(i) && *text++ != '-')
			return -EINVAL;
		int high = hex_digit(text[0]);
		int low = hex_digit(text[1]);
		if (high < 0 || low < 0)
			return -EINVAL;
		uuid.bytes[i] = (uint8_t)(high << 4 | low);
		text += 2;
	}
	*ret = uuid;
	return 0;
}
