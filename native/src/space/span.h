/* SPDX-License-Identifier: BSD-3-Clause
 *
 * span.h: spans of slices.
 */
#ifndef NA_SPAN_H
#define NA_SPAN_H

#include "os/options.h"
#include "types.h"

#pragma GCC visibility push(hidden)

/* A span of `slices`, aligned to `align` slices (a power of two), marked dirty and not yet a page or block.
 * *clean: all of it reads as zeros. Takes the lock. NULL with errno. `was_dirty`, if not NULL, gets a bit per
 * slice for the first NA_TRACKED_SLICES of them. */
enum { NA_TRACKED_SLICES = 4096 };
na_span *na_span_alloc(na_region *region, uint32_t slices, uint32_t align, enum na_span_kind kind, bool *clean,
                       uint64_t *was_dirty);
/* Of a large block that realloc makes or moves: with a reserve behind it, where one can be had. Takes the lock. */
na_span *na_span_alloc_growing(na_region *region, uint32_t slices, uint32_t align, bool *clean);
void na_span_forgo(na_region *region, const na_span *span);             /* its reserve, if any; with the lock held */
void na_span_free(na_region *region, na_span *span);                    /* takes the lock */
bool na_span_extend(na_region *region, na_span *span, uint32_t slices); /* in place, to `slices`; takes the lock */
void na_span_trim(na_region *region, na_span *span, uint32_t slices);   /* takes the lock */
size_t na_span_purge_all(na_region *region);                            /* with the lock held; gives bytes */
void na_span_purge_due(na_region *region);                              /* with the lock held */
void na_span_free_locked(na_region *region, na_span *span);

/* Is the memory of what became free then to go back now? */
static inline bool na_is_due(uint64_t freed_at, uint64_t now) {
    return na_opt.purge_delay_ms != NA_PURGE_NEVER && now - freed_at >= (uint64_t)na_opt.purge_delay_ms;
}

#pragma GCC visibility pop

#endif
