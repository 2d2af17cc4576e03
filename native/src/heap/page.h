/* SPDX-License-Identifier: BSD-3-Clause
 *
 * page.h: pages of one size class.
 */
#ifndef NA_PAGE_H
#define NA_PAGE_H

#include "heap/heap.h"
#include "heap/thread.h"
#include "types.h"

#pragma GCC visibility push(hidden)

na_span *na_page_new(na_heap *heap, unsigned class_index);  /* in no queue yet; NULL with errno */
void na_page_carve(na_span *page);                          /* links the next batch of blocks */
na_span *na_page_retired(na_heap *heap, unsigned class_index); /* is in no queue now; NULL: there is none */
static inline bool na_page_may_be_retired(const na_heap *heap, unsigned class_index) {
    return (heap->retired_classes >> class_index & 1) != 0;
}
_Static_assert(NA_CLASSES <= 64, "a bit for each");
void na_page_freed(na_span *page);                 /* its free blocks reached page->threshold */
void na_page_release(na_span *page);               /* no block in use: to the region */
void na_page_leave(na_span *page, uint64_t since); /* the same, but first into heap->gone; free since so many ms */
void na_pages_gone(na_heap *heap);                 /* those go to the region; takes the lock */
void na_pages_gone_free(na_heap *heap);            /* the same with the lock held */
void na_pages_retired_move(na_heap *from, na_heap *to);
void na_pages_retired_release(na_heap *heap);

/* By threads that do not own the page: those behind are no blocks. */
static inline uint32_t na_page_carved(const na_span *page) { return __atomic_load_n(&page->carved, __ATOMIC_RELAXED); }
static inline void na_page_carved_set(na_span *page, uint32_t carved) {
    __atomic_store_n(&page->carved, carved, __ATOMIC_RELAXED);
}
static inline uint32_t na_page_used(const na_span *page) { return page->carved - na_list_count(page->free); }

static inline void na_mark_free(na_block *block) { block->key = na_secret ^ (uintptr_t)block; }
static inline bool na_marked_free(const na_block *block) { return block->key == (na_secret ^ (uintptr_t)block); }

/* Into a page of one of the caller's own heaps. true: then call na_page_freed. */
static inline bool na_page_push(na_span *page, na_block *block) {
    na_mark_free(block);
    na_list list = na_list_push(&page->free, block);
    page->frees++;
    return NA_UNLIKELY(na_list_count(list) == page->threshold);
}

#pragma GCC visibility pop

#endif
