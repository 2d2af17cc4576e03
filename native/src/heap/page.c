/* SPDX-License-Identifier: BSD-3-Clause
 *
 * page.c: owns the blocks of a page: makes a page of a span, links its blocks in batches, gives it back.
 *
 * Invariants. A block is free (in page->free, in a heap's cache, in the remote list, or in some thread's remote slot),
 * in use, or not carved yet. used = given out - freed as the owner has seen it: remote frees count once collected, so a
 * page with used == 0 has no remote free under way and may go. A free block's key marks it; no mark outlives its
 * page.
 *
 * Threads: the owner only.
 */
#include "heap/heap.h"
#include "space/space.h"

#include <errno.h>

enum {
    NA_CARVE_BYTES = 4096 /* about one base page per batch, so that carving touches no more than it must */
};

/* The memory's next user may find the marks, and copy them to where they were when that is a block again. All blocks
 * are free here: one without its mark was written to. */
static void unmark(na_span *page) {
    if (NA_UNLIKELY(na_secure)) {
        na_secure_unlink_all(page);
        return;
    }
    const na_block *damaged = NULL;
    for (uint32_t i = 0; i < page->carved; i++) {
        na_block *block = (na_block *)(page->start + (uintptr_t)i * page->block_size);
        if (NA_UNLIKELY(!na_marked_free(block))) damaged = block;
        block->key = 0;
    }
    if (NA_UNLIKELY(damaged != NULL) && !na_cut_short) na_list_damaged(page, damaged, 0, "a page that is given back");
}

/* ---- retired pages -------------------------------------------------------------------------------------------- */

/* Programs free all blocks of many pages and soon want them again. A page that waits in its heap needs no lock and no
 * carving anew, serves another class when that wants a page, and its memory would not be returned earlier, either. */

static void retire(na_heap *heap, na_span *page) {
    page->retired = 1;
    page->newer = NULL;
    page->older = heap->retired_last;
    if (page->older != NULL) page->older->newer = page;
    else heap->retired_first = page;
    heap->retired_last = page;
    heap->retired_slices += page->slices;
    heap->retired_classes |= UINT64_C(1) << page->class_index;
}

static void retired_remove(na_heap *heap, na_span *page) {
    page->retired = 0;
    if (page->older != NULL) page->older->newer = page->newer;
    else heap->retired_first = page->newer;
    if (page->newer != NULL) page->newer->older = page->older;
    else heap->retired_last = page->older;
    heap->retired_slices -= page->slices;
}

na_span *na_page_retired(na_heap *heap, unsigned class_index) {
    if (!na_page_may_be_retired(heap, class_index)) return NULL;
    na_span *page = heap->retired_last; /* the newest is most likely in the core's cache */
    while (page != NULL && page->class_index != class_index) page = page->older;
    if (page != NULL) retired_remove(heap, page);
    else heap->retired_classes &= ~(UINT64_C(1) << class_index);
    return page;
}

/* An empty page is a page no more. */
static void leave_heap(na_heap *heap, na_span *page) {
    if (page->retired) retired_remove(heap, page);
    else na_queue_remove(&heap->queue[page->class_index], page);
    unmark(page);
    heap->pages--;
    heap->gone_frees += page->frees;
    if (heap->strict_pages[page->class_index] != 0) heap->strict_pages[page->class_index]--;
}

void na_pages_retired_move(na_heap *from, na_heap *to) {
    for (na_span *page; (page = from->retired_first) != NULL;) {
        retired_remove(from, page);
        atomic_store(&page->heap, to);
        retire(to, page);
    }
}

static void retired_trim(na_heap *heap, uint64_t now) {
    for (na_span *page; (page = heap->retired_first) != NULL;) {
        if (heap->retired_slices <= NA_RETIRED_SLICES && !na_is_due(page->freed_at, now)) break;
        na_page_release(page);
    }
}

/* Of another class. */
static na_span *retired_take(na_heap *heap, uint32_t slices) {
    na_span *page = heap->retired_first;
    while (page != NULL && page->slices != slices) page = page->newer;
    if (page != NULL) leave_heap(heap, page);
    return page;
}

/* ---- birth and end ------------------------------------------------------------------------------------------ */

static na_span *span_for_page(na_region *region, uint32_t slices, bool *clean) {
    na_span *page = na_span_alloc(region, slices, 1, NA_PAGE, false, clean);
    if (page == NULL || !region->strict) return page;
    na_nodeset home = nodeset_single(region->node);
    int error = na_populate(page->start, na_span_bytes(page), &home, NA_IN_SET);
    if (error == 0) return page;
    na_span_free(region, page, os_now_ms());
    errno = error;
    return NULL;
}

/* Length of a page. What is not carved has no memory, so that a page of a class that is little used costs little. But
 * strict memory is there from the start, so a class has a short page first; each further one is longer, as they take
 * time to populate. */
static uint32_t slices_for(const na_heap *heap, unsigned class_index) {
    size_t block_size = class_to_size(class_index);
    if (block_size <= NA_SMALL_BLOCK_MAX) return NA_SMALL_PAGE_SLICES;
    if (!heap->region->strict || heap->strict_pages[class_index] > 3) return NA_MEDIUM_PAGE_SLICES;
    size_t blocks = (size_t)NA_STRICT_BLOCKS << heap->strict_pages[class_index];
    size_t slices = (blocks * block_size + NA_SLICE - 1) >> NA_SLICE_SHIFT;
    return slices < NA_MEDIUM_PAGE_SLICES ? (uint32_t)slices : NA_MEDIUM_PAGE_SLICES;
}

na_span *na_page_new(na_heap *heap, unsigned class_index) {
    size_t block_size = class_to_size(class_index);
    uint32_t slices = slices_for(heap, class_index);
    bool clean = false;
    na_span *page = retired_take(heap, slices);
    if (page == NULL && (page = span_for_page(heap->region, slices, &clean)) == NULL) return NULL;
    page->free = 0;
    page->frees = 0;
    page->threshold = 0;
    na_page_carved_set(page, 0);
    page->block_size = (uint32_t)block_size;
    page->capacity = (uint32_t)(na_span_bytes(page) / block_size);
    page->class_index = (uint8_t)class_index;
    page->full = 0;
    page->retired = 0;
    page->zeroed = clean;
    heap->changed = 1;
    page->pending_next = NULL;
    atomic_store_explicit(&page->remote, 0, memory_order_relaxed);
    atomic_store_explicit(&page->heap, heap, memory_order_release);
    heap->pages++;
    if (heap->region->strict && heap->strict_pages[class_index] < UINT8_MAX) heap->strict_pages[class_index]++;
    return page;
}

void na_page_leave(na_span *page, uint64_t since) {
    na_heap *heap = atomic_load_explicit(&page->heap, memory_order_relaxed);
    if (!page->retired) page->freed_at = since;
    leave_heap(heap, page);
    page->next = heap->gone;
    heap->gone = page;
}

void na_pages_gone_free(na_heap *heap) {
    for (na_span *page; (page = heap->gone) != NULL;) {
        heap->gone = page->next;
        na_span_free_locked(heap->region, page, page->freed_at, false);
    }
}

void na_pages_gone(na_heap *heap) {
    if (heap->gone == NULL) return;
    pthread_mutex_lock(&heap->region->lock); /* one for all */
    na_pages_gone_free(heap);
    pthread_mutex_unlock(&heap->region->lock);
}

void na_pages_retired_release(na_heap *heap) {
    na_heap_enter(heap);
    while (heap->retired_first != NULL) na_page_leave(heap->retired_first, 0);
    na_heap_leave(heap);
    na_pages_gone(heap);
}

void na_page_release(na_span *page) {
    na_heap *heap = atomic_load_explicit(&page->heap, memory_order_relaxed);
    leave_heap(heap, page);
    heap->changed = 1;
    na_span_free(heap->region, page, page->freed_at);
}

void na_page_carve(na_span *page) {
    if (NA_UNLIKELY(na_secure)) {
        na_secure_carve(page);
        return;
    }
    uint32_t size = page->block_size;
    uint32_t batch = size >= NA_CARVE_BYTES ? 1 : NA_CARVE_BYTES / size;
    uint32_t left = page->capacity - page->carved;
    if (batch > left) batch = left;
    uintptr_t first = page->start + (uintptr_t)page->carved * size;
    na_list list = page->free;           /* in a register: the loop would go through memory each time */
    for (uint32_t i = batch; i-- > 0;) { /* in ascending order when popped */
        na_block *block = (na_block *)(first + (uintptr_t)i * size);
        na_mark_free(block);
        na_list_push(&list, block);
    }
    page->free = list;
    na_page_carved_set(page, page->carved + batch);
    page->threshold = page->carved;
}

void na_page_freed(na_span *page) {
    na_heap *heap = atomic_load_explicit(&page->heap, memory_order_relaxed);
    na_queue *queue = &heap->queue[page->class_index];
    na_heap_enter(heap);
    if (page->full) {
        na_queue_remove(&heap->full, page);
        page->full = 0;
        page->threshold = page->carved;
        /* Behind the others: a page that has just one free block is a poor one to allocate from. */
        na_heap_join(heap, page);
    }
    /* The last page of its class stays, and isn't looked at again until it has company: programs that allocate and
     * free one block would make and return a page each time. */
    if (na_page_used(page) == 0 && queue->first == queue->last) {
        page->threshold = 0;
    } else if (na_page_used(page) == 0) {
        na_queue_remove(queue, page);
        page->freed_at = os_now_ms();
        retire(heap, page);
        retired_trim(heap, page->freed_at);
    }
    na_heap_leave(heap);
}
