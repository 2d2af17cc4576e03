/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cache.h: freed large blocks for a thread's next ones.
 */
#ifndef NA_CACHE_H
#define NA_CACHE_H

#include "types.h"

#pragma GCC visibility push(hidden)

na_span *na_span_cache_take(na_heap *heap,
                      uint32_t slices);         /* dirty, counted as a large block; NULL: none fits; owner only */
bool na_span_cache_put(na_heap *heap, na_span *span); /* takes it off the count; false: not done; owner only */
void na_span_cache_recount(na_heap *heap);            /* child of fork: its thread may have been between two stores */
/* Those that all heaps keep since before a time in ms go back; takes the lock. false: there were none. */
bool na_span_cache_release(na_region *region, uint64_t before);

typedef struct na_span_cache_counts {
    uint64_t taken, taken_bytes, freed, freed_bytes; /* large blocks, ever; the region's own counts lack them */
    uint64_t bytes;                                  /* kept now */
} na_span_cache_counts;
na_span_cache_counts na_span_cache_count(const na_region *region); /* with the lock held */

#pragma GCC visibility pop

#endif
