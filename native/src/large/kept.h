/* SPDX-License-Identifier: BSD-3-Clause
 *
 * kept.h: freed large blocks for a thread's next ones.
 */
#ifndef NA_KEPT_H
#define NA_KEPT_H

#include "types.h"

#pragma GCC visibility push(hidden)

na_span *na_kept_take(na_heap *heap,
                      uint32_t slices);         /* dirty, counted as a large block; NULL: none fits; owner only */
bool na_kept_put(na_heap *heap, na_span *span); /* takes it off the count; false: not done; owner only */
void na_kept_recount(na_heap *heap);            /* child of fork: its thread may have been between two stores */
/* Those that all heaps keep since before a time in ms go back; takes the lock. false: there were none. */
bool na_kept_release(na_region *region, uint64_t before);

typedef struct na_kept_counts {
    uint64_t taken, taken_bytes, freed, freed_bytes; /* large blocks, ever; the region's own counts lack them */
    uint64_t bytes;                                  /* kept now */
} na_kept_counts;
na_kept_counts na_kept_count(const na_region *region); /* with the lock held */

#pragma GCC visibility pop

#endif
