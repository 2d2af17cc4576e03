/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fast.h: the few instructions that most calls take, inline, so that numalloc() and the preload library's malloc()
 * are each one function without a further jump.
 *
 * Invariants. Both end in a heap of the calling thread and touch nothing another thread writes, but for the
 * descriptor's first cache line, which is read. All that is unusual (no free block, several nodes and the thread has
 * moved, another's page, a large block, a foreign pointer, a mistake) is left to the slow paths in api.c.
 *
 * Threads: any; no lock, no atomic operation.
 */
#ifndef NA_FAST_H
#define NA_FAST_H

#include "internal.h"

void *na_alloc_slow(size_t size);                              /* NULL with errno */
void na_free_slow(na_span *span, void *ptr, const char *call); /* span: na_span_at(ptr) */

/* May na_self.heap be of another node than the caller runs on, as it has changed CPU? One load. Without rseq always:
 * what lies at offset 0 is no CPU number. */
static inline bool na_moved(void) { return NA_UNLIKELY(na_many_nodes) && OS_RSEQ_CPU != na_self.cpu; }

/* A block from the page's own list, or NULL. */
static inline void *na_page_pop(na_span *page) {
    if (NA_UNLIKELY(page->free == 0)) return NULL;
    na_block *block = na_list_pop(&page->free);
    block->key = 0;
    return block;
}

/* Into a page of one of the caller's own heaps. */
static inline void na_page_push(na_span *page, na_block *block) {
    na_mark_free(block);
    na_list list = na_list_push(&page->free, block);
    page->frees++;
    if (NA_UNLIKELY(na_list_count(list) == page->attention)) na_page_freed(page);
}

static inline void *na_alloc_fast(size_t size) {
    if (NA_LIKELY(size <= NA_DIRECT_MAX) && !na_moved()) {
        void *block = na_page_pop(na_self.heap->direct[direct_index(size)]);
        if (NA_LIKELY(block != NULL)) return block;
    }
    return na_alloc_slow(size);
}

/* true: done. */
static inline bool na_free_fast(na_span *span, void *ptr) {
    if (NA_LIKELY(span != NULL && atomic_load_explicit(&span->heap, memory_order_relaxed) == na_self.heap &&
                  !na_marked_free(ptr))) {
        na_page_push(span, ptr);
        return true;
    }
    return false;
}

#endif
