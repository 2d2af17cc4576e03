/* SPDX-License-Identifier: BSD-3-Clause
 *
 * dirty.h: which slices may hold memory, and since when they are free; with the region's lock held, but for the slices
 * of a span that is the caller's.
 *
 * A byte per slice. 0: it reads as zeros. Else it is dirty: the stamp of the tick in which it was freed, or any, in use.
 */
#ifndef NA_DIRTY_H
#define NA_DIRTY_H

#include "types.h"

#pragma GCC visibility push(hidden)

extern uint8_t *na_dirty;
size_t na_dirty_count(uintptr_t start, uint32_t slices);
bool na_dirty_any(uintptr_t start, uint32_t slices);
void na_dirty_set(uintptr_t start, uint32_t slices, uint64_t tick);
void na_dirty_clear(uintptr_t start, uint32_t slices);
static inline bool na_dirty_at(size_t slice) { return na_dirty[slice] != 0; }

/* Stamps come again after 255 ticks: memory that nobody looked at for so long may wait for another delay. */
static inline uint8_t na_dirty_stamp(uint64_t tick) { return (uint8_t)(1 + tick % 255); }
/* Ticks since a stamp. */
static inline uint32_t na_dirty_age(uint8_t stamp, uint64_t tick) {
    return (255u + na_dirty_stamp(tick) - stamp) % 255;
}

#pragma GCC visibility pop

#endif
