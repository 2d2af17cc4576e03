/* SPDX-License-Identifier: BSD-3-Clause
 *
 * heap.h: the caches and queues of a heap.
 */
#ifndef NA_HEAP_H
#define NA_HEAP_H

#include "types.h"

#pragma GCC visibility push(hidden)

na_heap *na_heap_of(na_region *region);                   /* the caller's heap in a region; NULL with errno */
void *na_heap_alloc(na_heap *heap, unsigned class_index); /* slow path; NULL with errno */
void na_heap_collect(na_heap *heap);                      /* takes in remote frees; owner only */
/* Gives empty pages back, free since so many ms, but for idle ones, which know; owner only. */
void na_heap_release(na_heap *heap, uint64_t since);
/* A cached block, or NULL. Its address in one register: Intel's cores (Golden Cove) hand on what was just stored without
 * delay, but only to a load without an index. */
static inline void *na_cache_pop(na_cache *cache) {
    __asm__("" : "+r"(cache));
    na_block *block = cache->top;
    if (NA_UNLIKELY(block == NULL)) return NULL;
    na_cache_set(cache, block->below);
    block->key = 0;
    return block;
}

void na_cache_fill(na_cache *cache, na_span *page);           /* an empty one, with the page's free or next blocks */
void na_heap_join(na_heap *heap, na_span *page);              /* a page with free blocks comes into its queue */
na_list na_cache_detach(na_heap *heap, unsigned class_index); /* all blocks of a cache */
void na_cache_add(na_heap *heap, unsigned class_index, na_list list, bool home); /* home: to their pages */
void na_caches_recount(na_heap *heap); /* child of fork: its thread may have been between two stores */

/* The queues of a heap are inconsistent between these two; a child of fork looks. */
static inline void na_heap_enter(na_heap *heap) {
    heap->busy++;
    atomic_signal_fence(memory_order_seq_cst);
}
static inline void na_heap_leave(na_heap *heap) {
    atomic_signal_fence(memory_order_seq_cst);
    heap->busy--;
}

#pragma GCC visibility pop

#endif
