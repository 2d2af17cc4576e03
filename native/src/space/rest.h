/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rest.h: the memory of free spans by age, and how it goes back; with the region's lock held but for na_rest_purge.
 */
#ifndef NA_REST_H
#define NA_REST_H

#include "types.h"

#pragma GCC visibility push(hidden)

void na_rest_open(na_region *region); /* empty lists; no lock is needed yet */
uint64_t na_rest_tick_ms(void);       /* milliseconds of a tick */
/* Moves the region's clock on; gives the tick of a time that is past, or now. */
uint64_t na_rest_tick(na_region *region, uint64_t ms);
void na_rest_add(na_region *region, na_span *span); /* of a free span: into the list of its age, if it is dirty */
void na_rest_remove(na_span *span);
bool na_rest_any(const na_region *region); /* does a part have memory that waits for its age? */
bool na_rest_due(const na_region *region); /* and some that is due? */

/* Less than this, and as much as is in use, may rest: programs take again what they have just freed. */
#define NA_REST_LEAST ((uint64_t)24 << 20)
/* A pass of reclaim.c is wanted. */
static inline void na_rest_wake(na_region *region) {
    if (!atomic_load_explicit(&region->restless, memory_order_relaxed))
        atomic_store_explicit(&region->restless, true, memory_order_relaxed);
}

/* Bytes that rest beyond that, but no more than the peak grew. Cached mixed spans count as used, and rest. */
static inline uint64_t na_rest_excess(const na_region *region) {
    uint64_t used = atomic_load_explicit(&region->used_bytes, memory_order_relaxed);
    uint64_t may = used - region->mixed_cache_bytes + NA_REST_LEAST, rests = region->dirty_bytes + region->mixed_cache_bytes;
    uint64_t excess = rests > may ? rests - may : 0;
    return excess < region->unproven ? excess : region->unproven;
}

/* Spans that were taken out of the region to be purged. */
typedef struct na_rest_batch {
    int age;  /* ticks for which slices must have rested: NA_AGES, those that are due; 0: any, the oldest spans first */
    bool all; /* every dirty slice; else in the large part whole huge pages only */
    na_span *first;
    uint64_t tick;
    uint64_t bytes; /* to be purged, about */
} na_rest_batch;

/* Takes out what has about so many bytes of memory to give back. Nobody else can have such a span meanwhile, and a child
 * of fork finds it. */
void na_rest_take(na_region *region, unsigned part, uint64_t bytes, na_rest_batch *batch);
void na_rest_purge(na_rest_batch *batch);                           /* the system calls; no lock may be held */
uint64_t na_rest_put_back(na_region *region, na_rest_batch *batch); /* gives bytes that went */
/* The same for a span that another module purges: a child of fork finds it between these two. */
void na_rest_begin(na_region *region, na_span *span);
void na_rest_end(na_region *region, na_span *span);
void na_rest_fork_child(na_region *region); /* who was purging is gone */

#pragma GCC visibility pop

#endif
