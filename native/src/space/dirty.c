/* SPDX-License-Identifier: BSD-3-Clause
 *
 * dirty.c: one byte per slice: whether it may hold bytes other than zero, and when it was freed. Kept apart from the
 * spans, so that cutting and coalescing forget nothing: a calloc clears exactly the slices that need it, a purge returns
 * exactly those that have memory and have rested long enough.
 *
 * Threads: bytes of free slices are guarded by the region's lock; those of a span in use, or taken out to be purged,
 * belong to the span's owner.
 */
#include "space/space.h"

#include <string.h>

size_t na_dirty_count(uintptr_t start, uint32_t slices) {
    const uint8_t *at = &na_dirty[na_slice_index(start)];
    size_t count = 0;
    for (uint32_t i = 0; i < slices; i++) count += at[i] != 0;
    return count;
}

bool na_dirty_any(uintptr_t start, uint32_t slices) {
    const uint8_t *at = &na_dirty[na_slice_index(start)];
    uint32_t i = 0;
    for (uint64_t eight; i + sizeof eight <= slices; i += sizeof eight) {
        memcpy(&eight, at + i, sizeof eight);
        if (eight != 0) return true;
    }
    for (; i < slices; i++)
        if (at[i] != 0) return true;
    return false;
}

void na_dirty_set(uintptr_t start, uint32_t slices, uint64_t tick) {
    memset(&na_dirty[na_slice_index(start)], na_dirty_stamp(tick), slices);
}

void na_dirty_clear(uintptr_t start, uint32_t slices) { memset(&na_dirty[na_slice_index(start)], 0, slices); }
