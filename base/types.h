/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every file stands on: fixed-endian integers, uuids, ownership helpers.
 *
 * Bytes on a wire or a disk are little-endian. le16/le32/le64 are one-member structs, so a
 * forgotten conversion does not compile.
 */
#ifndef HF_BASE_TYPES_H
#define HF_BASE_TYPES_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#define BLOCK_BYTES 4096u /* the unit of the map and of checksums */
#define BLOCK_SHIFT 12

typedef struct le16 {
	uint16_t raw;
} le16;
typedef struct le32 {
	uint32_t raw;
} le32;
typedef struct le64 {
	uint64_t raw;
} le64;

static inline uint16_t le16_get(le16 v)
{
	return v.raw;
}
static inline uint32_t le32_get(le32 v)
{
	return v.raw;
}
static inline uint64_t le64_get(le64 v)
{
	return v.raw;
}
static inline le16 le16_make(uint16_t v)
{
	return (le16){v};
}
static inline le32 le32_make(uint32_t v)
{
	return (le32){v};
}
static inline le64 le64_make(uint64_t v)
{
	return (le64){v};
}
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "only little-endian hosts are supported");

struct uuid {
	uint8_t bytes[16];
};
#define UUID_TEXT_BYTES 37 /* with the terminating zero */

static inline bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}
static inline bool uuid_is_zero(const struct uuid *a)
{
	static const struct uuid zero;
	return uuid_equal(a, &zero);
}
/* Writes the 36-character form and a zero. */
void uuid_format(const struct uuid *uuid, char text[UUID_TEXT_BYTES]);
/* 0, or -EINVAL when text is not the 36-character form. */
int uuid_parse(const char *text, struct uuid *ret);

#define ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define MIN(a, b)                       ((a) < (b) ? (a) : (b))
#define MAX(a, b)                       ((a) > (b) ? (a) : (b))
#define DIV_UP(a, b)                    (((a) + (b)-1) / (b))
#define ALIGN_UP(a, b)                  (DIV_UP(a, b) * (b))

/* CLEANUP(fn) T *p: fn(&p) runs when p leaves scope. take(p) hands p over and clears it. */
#define CLEANUP(fn) __attribute__((cleanup(fn)))
#define take(p)                                \
	({                                     \
		__typeof__(p) take_tmp_ = (p); \
		(p) = NULL;                    \
		take_tmp_;                     \
	})

#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

#endif
