/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checksums over isa-l.
 *
 * R1 isa-l's crc32_iscsi() neither inverts its seed nor its result, so both are inverted here;
 *    that makes crc32c_more() continue a finished crc.
 * R2 its length is an int and its pointer is not const (it does not write): long inputs go in
 *    pieces.
 */
#include "base/crc32c.h"

#include <isa-l/crc.h>
#include <isa-l/crc64.h>

#define PIECE_BYTES ((size_t)1 << 30)

uint32_t crc32c_more(uint32_t crc, const void *bytes, size_t length_bytes)
{
	unsigned char *p = (unsigned char *)(uintptr_t)bytes;
	uint32_t state = ~crc;
	while (length_bytes > 0) {
		size_t n = MIN(length_bytes, PIECE_BYTES);
		state = crc32_iscsi(p, (int)n, state);
		p += n;
		length_bytes -= n;
	}
	return ~state;
}

uint32_t crc32c(const void *bytes, size_t length_bytes)
{
	return crc32c_more(0, bytes, length_bytes);
}

uint64_t hash64_more(uint64_t seed, const void *bytes, size_t length_bytes)
{
	if (length_bytes == 0)
		return seed;
	return crc64_ecma_refl(seed, bytes, length_bytes);
}
