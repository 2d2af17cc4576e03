/* SPDX-License-Identifier: BSD-3-Clause
 *
 * span.h: spans of slices.
 */
#ifndef NA_SPAN_H
#define NA_SPAN_H

#include "os/options.h"
#include "types.h"

#pragma GCC visibility push(hidden)

/* A span of `slices`, aligned to `align` slices (a power of two), not yet a page or block. *clean: all of it reads as
 * zeros; else na_dirty tells which slices do not. Takes the lock. NULL with errno. */
na_span *na_span_alloc(na_region *region, uint32_t slices, uint32_t align, enum na_span_kind kind, bool *clean);
/* Of a large block that realloc makes or moves: with a reserve behind it, where one can be had. Takes the lock. */
na_span *na_span_alloc_growing(na_region *region, uint32_t slices, uint32_t align, bool *clean);
void na_span_release_reserve(na_region *region, const na_span *span); /* its reserve, if any; with the lock held */
/* `rested_since`: ms since when nobody uses its memory. */
void na_span_free(na_region *region, na_span *span, uint64_t rested_since); /* takes the lock */
void na_span_free_locked(na_region *region, na_span *span, uint64_t rested_since);
void na_span_free_zero_locked(na_region *region, na_span *span);        /* its memory is gone */
bool na_span_extend(na_region *region, na_span *span, uint32_t slices); /* in place, to `slices`; takes the lock */
void na_span_trim(na_region *region, na_span *span, uint32_t slices);   /* takes the lock */
/* For rest.c, with the lock held. A piece of a free span, or all of a reserve, leaves the bins; and comes back. */
void na_span_take_out(na_region *region, na_span *span, uintptr_t start, uint32_t slices);
void na_span_put_back(na_region *region, na_span *span);

/* Is the memory of what became free then to go back now? */
static inline bool na_is_due(uint64_t freed_at, uint64_t now) {
    return na_opt.purge_delay_ms != NA_PURGE_NEVER && now - freed_at >= (uint64_t)na_opt.purge_delay_ms;
}

/* Bytes of a node that count against NUMALLOC_NODE_LIMIT: of all its regions, and its share of mixed memory. */
uint64_t na_node_held(int node_index);

#pragma GCC visibility pop

#endif
