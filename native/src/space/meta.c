/* SPDX-License-Identifier: BSD-3-Clause
 *
 * meta.c: owns the metadata of a region, in a range of its own at the region's start, on the region's node.
 *
 *   metadata: | descriptors -> |            | <- heaps, records of threads, placements |
 *
 * Invariants. Both ends are opened in steps and only grow; nothing is given back, so that a stale pointer to a descriptor
 * or a heap may be followed.
 *
 * Threads: the region's lock is held.
 */
#include "space/space.h"

#include <errno.h>
#include <string.h>

enum { STEP = 64 << 10 /* bytes that are opened at a time */ };

int na_descriptors_open(na_region *region, size_t spans) {
    uintptr_t upto = na_round_up(region->base + spans * sizeof(na_span), STEP);
    if (upto <= region->descriptors_end) return 0;
    if (upto > region->meta_opened) return ENOMEM;
    int error = na_region_commit(region, region->descriptors_end, upto);
    if (error == 0) region->descriptors_end = upto;
    return error;
}

na_span *na_descriptor_at(const na_region *region, uint32_t index) { return (na_span *)region->base + index; }

na_span *na_descriptor_new(na_region *region) {
    na_span *span = region->span_unused;
    if (span != NULL) {
        region->span_unused = span->next;
    } else {
        if (na_descriptors_open(region, region->span_count + 1) != 0) return NULL;
        span = na_descriptor_at(region, region->span_count++);
    }
    memset(span, 0, sizeof *span);
    span->region = (uint16_t)region->index;
    return span;
}

void na_descriptor_delete(na_region *region, na_span *span) {
    atomic_store_explicit(&span->heap, NULL, memory_order_relaxed);
    span->kind = NA_FREE;
    span->slices = 0; /* statistics skip it */
    span->next = region->span_unused;
    region->span_unused = span;
}

/* Opens the upper end down to `start`. */
static int meta_open(na_region *region, uintptr_t start) {
    if (start >= region->meta_opened) return 0;
    start &= ~((uintptr_t)STEP - 1);
    if (start < region->descriptors_end) return ENOMEM;
    int error = na_region_commit(region, start, region->meta_opened);
    if (error == 0) region->meta_opened = start;
    return error;
}

int na_meta_ahead(na_region *region) { return meta_open(region, region->meta_next - STEP); }

void *na_meta_alloc(na_region *region, size_t bytes) {
    uintptr_t start = region->meta_next - na_round_up(bytes, 64);
    if (meta_open(region, start) != 0) return NULL;
    region->meta_next = start;
    return (void *)start;
}
