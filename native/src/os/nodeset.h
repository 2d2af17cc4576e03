/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nodeset.h: sets of node ids. Fixed at the kernel's own limit of 1024 ids (128 bytes), so that a set can
 * live on the stack and in static storage of an allocator that has nothing to allocate from yet.
 */
#ifndef NA_NODESET_H
#define NA_NODESET_H

#include <stdbool.h>

#include "os/os.h"

static inline bool nodeset_has(const na_nodeset *set, int node) {
    return node >= 0 && node < NUMALLOC_MAX_NODES && ((set->word[node >> 6] >> (node & 63)) & 1u) != 0;
}

static inline void nodeset_add(na_nodeset *set, int node) { set->word[node >> 6] |= (uint64_t)1 << (node & 63); }

/* Bits that are set. The compiler's own would be a call where the CPU's instruction can't be taken for granted. */
static inline unsigned na_popcount(uint64_t bits) {
    bits -= (bits >> 1) & UINT64_C(0x5555555555555555);
    bits = (bits & UINT64_C(0x3333333333333333)) + ((bits >> 2) & UINT64_C(0x3333333333333333));
    bits = (bits + (bits >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (unsigned)((bits * UINT64_C(0x0101010101010101)) >> 56);
}

static inline int nodeset_count(const na_nodeset *set) {
    unsigned count = 0;
    for (int w = 0; w < NUMALLOC_MAX_NODES / 64; w++) count += na_popcount(set->word[w]);
    return (int)count;
}

/* Smallest member >= from, or -1. */
static inline int nodeset_next(const na_nodeset *set, int from) {
    for (int node = from; node < NUMALLOC_MAX_NODES;) {
        uint64_t rest = set->word[node >> 6] >> (node & 63);
        if (rest != 0) return node + __builtin_ctzll(rest);
        node = (node | 63) + 1;
    }
    return -1;
}

static inline na_nodeset nodeset_single(int node) {
    na_nodeset set = {{0}};
    nodeset_add(&set, node);
    return set;
}

/* Every member of `part` is in `whole`. */
static inline bool nodeset_within(const na_nodeset *part, const na_nodeset *whole) {
    for (int w = 0; w < NUMALLOC_MAX_NODES / 64; w++)
        if ((part->word[w] & ~whole->word[w]) != 0) return false;
    return true;
}

static inline bool nodeset_equal(const na_nodeset *a, const na_nodeset *b) {
    return nodeset_within(a, b) && nodeset_within(b, a);
}

#endif
