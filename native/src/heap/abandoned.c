/* SPDX-License-Identifier: BSD-3-Clause
 *
 * abandoned.c: owns the heaps whose threads ended: which thread adopts them, and when their free memory goes back.
 *
 * A thread that ends leaves its heap as it is, caches and pages: its successor, most likely another short thread, finds
 * all it needs and makes nothing anew. If no thread has adopted it after the purge delay, or memory is short, the heap gives
 * back what is free. Then it is collected (it has live blocks) or empty.
 *
 * Invariants. A heap without a thread is in exactly one of a region's lists, but for those that are in hand, as what is
 * free in them goes back. The abandoned ones are ordered by the end of their threads. An empty heap has no pages. A page
 * that gets into its pending list late is sent on by the thread that queued it, see remote.c.
 *
 * Threads: the lists under the region's lock. A page with used blocks may be freed to by any thread right now, which only
 * touches its remote word and this heap's pending list: both stay valid without an owner.
 */
#include "heap/heap.h"
#include "space/space.h"

#include <errno.h>

static void push(_Atomic(na_heap *) *list, na_heap *heap) {
    heap->next = *list;
    *list = heap;
}

static na_heap *pop(_Atomic(na_heap *) *list) {
    na_heap *heap = *list;
    if (heap != NULL) *list = heap->next;
    return heap;
}

static void abandon(na_heap *heap) {
    na_region *region = heap->region;
    na_heap *before = region->abandoned;
    atomic_store_explicit(&heap->thread, NULL, memory_order_relaxed);
    atomic_store_explicit(&heap->abandoned_at, os_now_ms(), memory_order_relaxed);
    heap->newer = NULL;
    heap->next = before;
    if (before != NULL) before->newer = heap;
    else region->abandoned_oldest = heap;
    region->abandoned = heap;
    region->abandoned_count++;
    heap->rested = (uint64_t)(heap->retired_slices + heap->spans.total) << NA_SLICE_SHIFT;
    region->rested += heap->rested;
}

static void abandoned_remove(na_heap *heap) {
    na_region *region = heap->region;
    if (heap->newer != NULL) heap->newer->next = heap->next;
    else region->abandoned = heap->next;
    if (heap->next != NULL) heap->next->newer = heap->newer;
    else region->abandoned_oldest = heap->newer;
    region->abandoned_count--;
    region->rested -= heap->rested;
}

/* A heap has given back what was free. */
static void collected(na_heap *heap) {
    na_region *region = heap->region;
    atomic_store_explicit(&heap->thread, NULL, memory_order_relaxed);
    heap->in_hand = 0;
    push(heap->pages != 0 ? &region->collected : &region->empty, heap);
    if (heap->pages != 0) region->abandoned_count++;
}

/* ---- the end ------------------------------------------------------------------------------------------- */

void na_heap_abandon(na_heap *heap) {
    na_region *region = heap->region;
    bool keep = !na_secure && na_opt.purge_delay_ms != 0; /* secure mode looks at every block that is given back */
    if (!keep) na_heap_release(heap, os_now_ms());
    pthread_mutex_lock(&region->lock);
    if (keep) abandon(heap);
    else collected(heap);
    pthread_mutex_unlock(&region->lock);
}

void na_heap_orphan(na_heap *heap) {
    na_caches_recount(heap);
    heap->in_hand = 0;
    /* Caught in the middle of a change: its queues can't be trusted, so its pages stay as they are and only
     * their blocks in use remain valid. */
    if (heap->busy) {
        atomic_store_explicit(&heap->thread, NULL, memory_order_relaxed);
    } else {
        na_pages_gone_free(heap);
        abandon(heap);
    }
}

/* ---- adoption ------------------------------------------------------------------------------------------ */

na_heap *na_heap_adopt(na_region *region) {
    na_heap *heap = region->abandoned; /* the newest is most likely in the core's cache */
    if (heap != NULL) {
        abandoned_remove(heap);
    } else if ((heap = pop(&region->collected)) != NULL) {
        region->abandoned_count--;
    } else {
        heap = pop(&region->empty);
    }
    return heap;
}

static void move_pages(na_queue *from, na_heap *to) {
    for (na_span *page; (page = from->first) != NULL;) {
        na_queue_remove(from, page);
        atomic_store(&page->heap, to);
        if (page->full) {
            na_queue_append(&to->full, page);
        } else {
            page->threshold = page->carved; /* it may have been alone in its class */
            na_heap_join(to, page);
        }
    }
}

/* All pages; the caches stay. */
static void move_all(na_heap *other, na_heap *heap) {
    for (unsigned c = 0; c < NA_CLASSES; c++) {
        move_pages(&other->queue[c], heap);
        unsigned strict = (unsigned)heap->strict_pages[c] + other->strict_pages[c];
        heap->strict_pages[c] = strict < UINT8_MAX ? (uint8_t)strict : UINT8_MAX;
        other->strict_pages[c] = 0;
    }
    move_pages(&other->full, heap);
    na_pages_retired_move(other, heap);
    heap->pages += other->pages;
    other->pages = 0;
}

/* The caches of a heap whose pages were taken over; what is left of it is empty. Remote frees that were queued there before
 * their pages moved are sent on; later ones by the threads that queue them. */
static void take_caches(na_heap *other, na_heap *heap, unsigned wanted) {
    for (unsigned c = 0; c < NA_CLASSES; c++) na_cache_add(heap, c, na_cache_detach(other, c), c == wanted);
    pthread_mutex_lock(&heap->region->lock);
    collected(other);
    pthread_mutex_unlock(&heap->region->lock);
    na_remote_send(atomic_exchange(&other->pending, NULL));
}

bool na_heap_adopt_pages(na_heap *heap, unsigned wanted) {
    na_region *region = heap->region;
    if (atomic_load_explicit(&region->collected, memory_order_relaxed) == NULL &&
        atomic_load_explicit(&region->abandoned, memory_order_relaxed) == NULL)
        return false;
    pthread_mutex_lock(&region->lock);
    na_heap *other = pop(&region->collected);
    if (other != NULL) region->abandoned_count--;
    else if ((other = region->abandoned_oldest) != NULL) abandoned_remove(other);
    if (other != NULL) {
        move_all(other, heap);
        other->in_hand = 1; /* a child of fork finds its caches */
    }
    pthread_mutex_unlock(&region->lock);
    if (other != NULL) take_caches(other, heap, wanted);
    na_heap_collect(heap);
    return other != NULL;
}

/* ---- giving back ----------------------------------------------------------------------------------------- */

static void collect(na_heap *heap, uint64_t since) {
    atomic_store_explicit(&heap->thread, na_self.thread, memory_order_relaxed);
    na_heap_release(heap, since);
    pthread_mutex_lock(&heap->region->lock);
    collected(heap);
    pthread_mutex_unlock(&heap->region->lock);
}

/* The oldest abandoned heap, if its thread ended before; one at a time, so that others may adopt the rest meanwhile. */
static na_heap *take_abandoned(na_region *region, uint64_t before) {
    pthread_mutex_lock(&region->lock);
    na_heap *heap = region->abandoned_oldest;
    if (heap != NULL && atomic_load_explicit(&heap->abandoned_at, memory_order_relaxed) < before) {
        abandoned_remove(heap);
        heap->in_hand = 1;
    } else {
        heap = NULL;
    }
    pthread_mutex_unlock(&region->lock);
    return heap;
}

void na_abandoned_release(na_region *region, uint64_t before) {
    if (na_abandoned_oldest(region) >= before) return;
    for (na_heap *heap; (heap = take_abandoned(region, before)) != NULL;)
        collect(heap, atomic_load_explicit(&heap->abandoned_at, memory_order_relaxed));
}

uint64_t na_abandoned_oldest(const na_region *region) {
    const na_heap *oldest = atomic_load_explicit(&region->abandoned_oldest, memory_order_relaxed);
    return oldest != NULL ? atomic_load_explicit(&oldest->abandoned_at, memory_order_relaxed) : NA_NO_TIME;
}

void na_abandoned_reclaim(na_region *region) {
    na_abandoned_release(region, UINT64_MAX);
    pthread_mutex_lock(&region->lock);
    na_heap *list = region->collected;
    region->collected = NULL;
    for (na_heap *heap = list; heap != NULL; heap = heap->next) {
        region->abandoned_count--;
        heap->in_hand = 1;
    }
    pthread_mutex_unlock(&region->lock);
    while (list != NULL) {
        na_heap *heap = list;
        list = heap->next;
        collect(heap, os_now_ms());
    }
}
