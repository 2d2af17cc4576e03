/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nodeset.h: sets of node ids. Fixed at the kernel's own limit of 1024 ids (128 bytes), so that a set can
 * live on the stack and in static storage of an allocator that has nothing to allocate from yet.
 */
#ifndef NA_NODESET_H
#define NA_NODESET_H

#include <stdbool.h>

#include "os.h"

static inline bool nodeset_has(const na_nodeset *set, int node) {
    return node >= 0 && node < NUMALLOC_MAX_NODES && ((set->word[node >> 6] >> (node & 63)) & 1u) != 0;
}

static inline void nodeset_add(na_nodeset *set, int node) { set->word[node >> 6] |= (uint64_t)1 << (node & 63); }

static inline int nodeset_count(const na_nodeset *set) {
    int count = 0;
    for (int w = 0; w < NUMALLOC_MAX_NODES / 64; w++) count += __builtin_popcountll(set->word[w]);
    return count;
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
