/* SPDX-License-Identifier: Apache-2.0 */
/*
 * First fit over a bitmap. Most takes are of one or two pages near first_word, and full words are
 * stepped over whole, so a take is a few instructions; the worst case scans 256 words per 64 MiB.
 * First fit keeps the upper end of the memory free for long runs, and untouched.
 */
#include "volmgr/nbd_pages.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

int nbd_pages_init(struct nbd_pages *pages, uint64_t bytes)
{
	*pages = (struct nbd_pages){0};
	pages->page_count = (uint32_t)(ALIGN_UP(bytes, 64ull * BLOCK_BYTES) / BLOCK_BYTES);
	pages->used = calloc(pages->page_count / 64, sizeof(*pages->used));
	void *memory = mmap(NULL, (size_t)pages->page_count * BLOCK_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	pages->memory = memory == MAP_FAILED ? NULL : memory;
	return pages->used && pages->memory ? 0 : -ENOMEM;
}

void nbd_pages_fini(struct nbd_pages *pages)
{
	if (pages->memory)
		(void)munmap(pages->memory, (size_t)pages->page_count * BLOCK_BYTES);
	free(pages->used);
	*pages = (struct nbd_pages){0};
}

static bool page_used(const struct nbd_pages *pages, uint32_t page)
{
	return pages->used[page / 64] >> (page % 64) & 1;
}

uint8_t *nbd_pages_take(struct nbd_pages *pages, uint32_t count)
{
	assert(count > 0);
	uint32_t words = pages->page_count / 64, page, run = 0;
	while (pages->first_word < words && pages->used[pages->first_word] == UINT64_MAX)
		pages->first_word++;
	for (page = pages->first_word * 64; page < pages->page_count && run < count;) {
		uint64_t word = pages->used[page / 64];
		if (page % 64 == 0 && word == UINT64_MAX) {
			run = 0;
			page += 64;
		} else if (page % 64 == 0 && word == 0 && count - run >= 64) {
			run += 64;
			page += 64;
		} else {
			run = page_used(pages, page) ? 0 : run + 1;
			page++;
		}
	}
	if (run < count)
		return NULL;
	page -= count;
	for (uint32_t i = page; i < page + count; i++)
		pages->used[i / 64] |= 1ull << (i % 64);
	pages->used_count += count;
	pages->is_busy = pages->is_resident = true;
	return pages->memory + (size_t)page * BLOCK_BYTES;
}

void nbd_pages_trim(struct nbd_pages *pages)
{
	if (!pages->is_busy && pages->is_resident && pages->used_count == 0) {
		(void)madvise(pages->memory, (size_t)pages->page_count * BLOCK_BYTES,
			      MADV_DONTNEED); /* best effort */
		pages->is_resident = false;
	}
	pages->is_busy = false;
}

void nbd_pages_give(struct nbd_pages *pages, uint8_t *memory, uint32_t count)
{
	uint32_t page = (uint32_t)((size_t)(memory - pages->memory) / BLOCK_BYTES);
	assert(page + count <= pages->page_count && pages->used_count >= count);
	for (uint32_t i = page; i < page + count; i++) {
		assert(page_used(pages, i));
		pages->used[i / 64] &= ~(1ull << (i % 64));
	}
	pages->used_count -= count;
	pages->first_word = MIN(pages->first_word, page / 64);
}
