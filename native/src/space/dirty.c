/* SPDX-License-Identifier: BSD-3-Clause
 *
 * dirty.c: one bit per slice: set when it may hold bytes other than zero. Kept apart from the spans, so that
 * coalescing forgets nothing: a calloc clears exactly the slices that need it, a purge returns exactly those
 * that have memory.
 *
 * Threads: a region's bits are guarded by its lock. Regions never share a word: a region is 1024 slices or more.
 */
#include "os/nodeset.h"
#include "space/dirty.h"
#include "space/region.h"

/* Calls nothing, returns the mask of the bits of word `w` that lie in [first, last). */
static uint64_t word_mask(size_t w, size_t first, size_t last) {
    uint64_t mask = ~UINT64_C(0);
    if (w == first >> 6) mask &= ~UINT64_C(0) << (first & 63);
    if (w == (last - 1) >> 6) mask &= ~UINT64_C(0) >> (63 - ((last - 1) & 63));
    return mask;
}

size_t na_dirty_count(uintptr_t start, uint32_t slices) {
    size_t first = na_slice_index(start), last = first + slices, count = 0;
    for (size_t w = first >> 6; w <= (last - 1) >> 6; w++)
        count += na_popcount(na_dirty[w] & word_mask(w, first, last));
    return count;
}

void na_dirty_set(uintptr_t start, uint32_t slices) {
    size_t first = na_slice_index(start), last = first + slices;
    for (size_t w = first >> 6; w <= (last - 1) >> 6; w++) na_dirty[w] |= word_mask(w, first, last);
}

void na_dirty_clear(uintptr_t start, uint32_t slices) {
    size_t first = na_slice_index(start), last = first + slices;
    for (size_t w = first >> 6; w <= (last - 1) >> 6; w++) na_dirty[w] &= ~word_mask(w, first, last);
}
