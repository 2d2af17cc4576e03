/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fast.h: the few instructions that most calls take, inline, so that numalloc() and the preload library's malloc()
 * are each one function without a further jump.
 *
 * Invariants. Both end in the cache of a heap of the calling thread and touch nothing another thread writes, but for
 * the descriptor's first cache line, which is read. When that cache is full, a block goes to its page, or on its way to
 * the thread that owns it. All that is unusual (no cached block, several nodes and the thread has moved, another node's
 * page, a large block, a foreign pointer, a mistake) is left to the slow paths in api.c.
 *
 * Threads: any; no lock, and no atomic operation but one for each batch on its way to another thread.
 */
#ifndef NA_FAST_H
#define NA_FAST_H

#include "heap/heap.h"

void na_freed_slow(na_span *page); /* in api.c: na_page_push says so */

/* May na_self.heap be of another node than the caller runs on, as it has changed CPU? One load. Without rseq always:
 * what lies at offset 0 is no CPU number. */
static inline bool na_moved(void) { return NA_UNLIKELY(na_many_nodes) && OS_RSEQ_CPU != na_self.cpu; }

/* A cached block, or NULL. */
static inline void *na_alloc_fast(size_t size) {
    if (NA_LIKELY(size <= NA_TABLE_MAX) && !na_moved()) {
        return na_cache_pop(&na_self.heap->cache[small_to_class(size)]);
    } else if (size - 1 < NA_BLOCK_MAX && !na_moved()) {
        return na_cache_pop(&na_self.heap->cache[size_to_class(size)]);
    }
    return NULL;
}

/* A cached block, or NULL. `align`: a power of two. A class that is a multiple of it is aligned, see sizeclass.h. */
static inline void *na_aligned_fast(size_t align, size_t size) {
    size_t padded = na_round_up(size, align);
    if (NA_UNLIKELY(align > NA_SLICE || padded - 1 >= NA_BLOCK_MAX || na_moved())) return NULL;
    return na_cache_pop(&na_self.heap->cache[aligned_to_class(align, padded)]);
}

/* true: done. Whose page it is does not matter as long as it is of the same region: the block stays on its node. */
static inline bool na_free_fast(na_span *span, void *ptr) {
    if (NA_UNLIKELY(span == NULL)) return false;
    na_heap *heap = na_self.heap;
    uint32_t tag = span->tag;
    if (NA_UNLIKELY(!na_tag_is_page(tag, heap->tag_of_pages) || na_marked_free(ptr))) return false;
    na_cache *cache = &heap->cache[na_tag_class(tag)];
    __asm__("" : "+r"(cache)); /* see na_cache_pop */
    na_block *block = ptr;
    if (NA_LIKELY(cache->count < cache->limit)) {
        na_mark_free(block);
        block->below = na_cache_list(cache);
        cache->frees++;
        cache->count++;
        atomic_signal_fence(memory_order_release); /* a child of fork may see what lies between */
        cache->top = block;
        return true;
    }
    if (NA_LIKELY(atomic_load_explicit(&span->heap, memory_order_relaxed) == heap)) {
        if (na_page_push(span, block)) na_freed_slow(span);
    } else {
        na_mark_free(block);
        na_remote_free(span, block);
    }
    return true;
}

#endif
