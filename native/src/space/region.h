/* SPDX-License-Identifier: BSD-3-Clause
 *
 * region.h: the reservation, its regions, and descriptors.
 */
#ifndef NA_REGION_H
#define NA_REGION_H

#include "os/topology.h"
#include "types.h"

#pragma GCC visibility push(hidden)

extern uintptr_t na_base;     /* first byte of the reservation */
extern uintptr_t na_reserved; /* its bytes, 0 before na_init */
extern unsigned na_shift;     /* log2 bytes of a region */
extern size_t na_size_max;    /* bytes: no block is longer. Hence its slices fit 32 bits */
extern na_span **na_map;      /* slice -> descriptor */
extern bool na_secure;        /* NUMALLOC_SECURE: sealed lists, random order, see heap/secure.c; set before reserving */
extern _Atomic(uint64_t) *na_live; /* secure: see live.h; NULL without */
extern na_region *na_regions;
extern int na_region_count; /* a region for each node and use, and the mixed one */

int na_regions_reserve(void);                           /* 0 or errno */
int na_region_open(na_region *region);                  /* sets the policy; idempotent, takes the lock */
int na_region_prepare(na_region *region, size_t bytes); /* commits address space ahead of use */
int na_region_restore(na_region *region, uintptr_t start, size_t bytes); /* policy and advice again, after
                                                                           * the mapping was replaced */
/* Gives all reserved address space that is not open back to the system: it counts against RLIMIT_AS. What is opened from
 * then on is mapped when it is. Takes all locks of regions. false: that was done before. */
bool na_regions_let_go(void);
/* Below: with the region's lock held. */
int na_region_commit(na_region *region, uintptr_t start, uintptr_t end); /* opens reserved space */
int na_part_open(na_part *part, uintptr_t upto);

static inline na_region *na_region_node(int node_index, enum na_use use) {
    return &na_regions[node_index + (int)use * na_topo.node_count];
}
/* Of local memory. */
static inline enum na_use na_use_local(bool strict) {
    return strict ? NA_STRICT : na_topo.policy != NULL ? NA_INHERITED : NA_ONNODE;
}
/* Where its pages may be. */
static inline na_nodeset na_region_nodes(const na_region *region) {
    return region->node >= 0 ? nodeset_single(region->node) : na_topo.allowed;
}
static inline na_region *na_region_mixed(void) { return &na_regions[na_region_count - 1]; }
static inline size_t na_slice_index(uintptr_t address) { return (address - na_base) >> NA_SLICE_SHIFT; }

/* Descriptor of the span an address lies in; NULL for foreign and free addresses (but the first and last
 * slices of a free span have their descriptor). */
static inline na_span *na_span_at(const void *address) {
    uintptr_t offset = (uintptr_t)address - na_base;
    return NA_LIKELY(offset < na_reserved) ? na_map[offset >> NA_SLICE_SHIFT] : NULL;
}

/* Counts a large block: 1 it became one, -1 it was freed, 0 it did not become one after all. With the lock held. */
void na_large_account(na_region *region, const na_span *span, int sign);

#pragma GCC visibility pop

#endif
