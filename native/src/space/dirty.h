/* SPDX-License-Identifier: BSD-3-Clause
 *
 * dirty.h: which slices may hold memory; with the region's lock held.
 */
#ifndef NA_DIRTY_H
#define NA_DIRTY_H

#include "types.h"

#pragma GCC visibility push(hidden)

extern uint64_t *na_dirty;
size_t na_dirty_count(uintptr_t start, uint32_t slices);
void na_dirty_set(uintptr_t start, uint32_t slices);
void na_dirty_clear(uintptr_t start, uint32_t slices);
static inline bool na_dirty_at(size_t slice) { return (na_dirty[slice >> 6] >> (slice & 63)) & 1; }

#pragma GCC visibility pop

#endif
