/* SPDX-License-Identifier: BSD-3-Clause
 *
 * live.h: which blocks are given out, under NUMALLOC_SECURE: a bit per 16 bytes, set at the first byte of each live block.
 * The map lies away from the blocks and is opened with them by region.c.
 *
 * Threads: any; bits are atomic.
 */
#ifndef NA_LIVE_H
#define NA_LIVE_H

#include "space/region.h"
#include "types.h"

static inline uint64_t na_live_bit(const void *block, size_t *word) {
    size_t granule = ((uintptr_t)block - na_base) / NA_GRANULE;
    *word = granule >> 6;
    return (uintptr_t)block % NA_GRANULE == 0 ? UINT64_C(1) << (granule & 63) : 0;
}

/* Of addresses in the reservation. */
static inline bool na_live_at(const void *block) {
    size_t word;
    uint64_t bit = na_live_bit(block, &word);
    return (atomic_load_explicit(&na_live[word], memory_order_relaxed) & bit) != 0;
}
/* false: it was live. */
static inline bool na_live_begin(const void *block) {
    size_t word;
    uint64_t bit = na_live_bit(block, &word);
    return (atomic_fetch_or_explicit(&na_live[word], bit, memory_order_relaxed) & bit) == 0;
}
/* Of any address. true for one caller alone, who owns the block from now on; false: it was not live. */
static inline bool na_live_claim(const void *block) {
    if ((uintptr_t)block - na_base >= na_reserved || !na_live_at(block)) return false; /* the map may be closed there */
    size_t word;
    uint64_t bit = na_live_bit(block, &word);
    return (atomic_fetch_and_explicit(&na_live[word], ~bit, memory_order_relaxed) & bit) != 0;
}

#endif
