/* SPDX-License-Identifier: Apache-2.0 */
/* crc32c (Castagnoli, reflected, initial and final xor ~0) over isa-l; "123456789" -> 0xe3069283. */
#ifndef HF_BASE_CRC32C_H
#define HF_BASE_CRC32C_H

#include "base/types.h"

/* crc of bytes; any length, NULL allowed when length is 0. Any thread. */
uint32_t crc32c(const void *bytes, size_t length_bytes);
/* Continues: crc32c_more(crc32c(a), b) == crc32c(a followed by b). */
uint32_t crc32c_more(uint32_t crc, const void *bytes, size_t length_bytes);
/* The crc of a 4096-byte block of zeros. */
#define CRC32C_ZERO_BLOCK 0x98f94189u
/* 64-bit check used for log hashes (crc64, ECMA-182 reflected); seed is the previous hash. */
uint64_t hash64_more(uint64_t seed, const void *bytes, size_t length_bytes);

#endif
