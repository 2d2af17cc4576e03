/* SPDX-License-Identifier: BSD-3-Clause
 *
 * large.h: blocks of whole slices, the span cache, interleaved and blocked memory.
 */
#ifndef NA_LARGE_H
#define NA_LARGE_H

#include "types.h"

#pragma GCC visibility push(hidden)

/* ---- large.c: blocks of whole slices ---- */

/* NULL with errno. Flags: NUMALLOC_ZERO and NUMALLOC_POPULATE; NA_GROWING: for realloc, which may want more room soon. */
#define NA_GROWING (1u << 31)
void *na_large_alloc(na_region *region, size_t size, size_t align, unsigned flags);
void na_large_free(na_region *region, na_span *span, uint64_t now); /* ms */
void *na_large_realloc(na_span *span, size_t size);    /* in place or moved within its region; NULL with errno */
bool na_large_stays(const na_span *span, size_t size); /* realloc to that size would change nothing */
size_t na_large_align(size_t bytes, size_t align);     /* where a block of that size starts, in bytes */

/* ---- cache.c: freed large blocks for the next of their kind ---- */

/* By the cache's owner, a thread or the holder of the mixed region's lock. A dirty one, counted as a large block; NULL: none
 * fits. */
na_span *na_span_cache_take(na_span_cache *cache, uint32_t slices);
na_span *na_span_cache_take_placed(na_span_cache *cache, uint32_t slices, const na_placement *placement, size_t align);
/* Takes it off the count; false: not done. */
bool na_span_cache_put(na_region *region, na_span_cache *cache, na_span *span, uint64_t now);
void na_span_cache_recount(na_span_cache *cache); /* child of fork: its thread may have been between two stores */
/* What all caches of a region have since before a time in ms goes back, about so many bytes of it; takes the lock. */
void na_span_cache_release(na_region *region, uint64_t before, uint64_t bytes);

typedef struct na_span_cache_counts {
    uint64_t taken, taken_bytes, freed, freed_bytes; /* large blocks, ever; the region's own counts lack them */
    uint64_t bytes;                                  /* in span caches now */
} na_span_cache_counts;
na_span_cache_counts na_span_cache_count(const na_region *region); /* with the lock held */

/* ---- mixed.c: interleaved and blocked memory ---- */

void *na_mixed_alloc(const na_placement *placement, size_t size, size_t align, unsigned flags);
void na_mixed_free(na_span *span, uint64_t now); /* ms */
/* For cache.c. */
bool na_mixed_serves(const na_span *span, const na_placement *placement, size_t align);
void na_mixed_release(na_span *span,
                      uint64_t rested_since); /* with the lock held before and after, but not meanwhile */

#pragma GCC visibility pop

#endif
