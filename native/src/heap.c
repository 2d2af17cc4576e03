/* SPDX-License-Identifier: BSD-3-Clause
 *
 * heap.c: owns the queues of a heap: which page serves which class, where the next one comes from, what
 * becomes of the pages when the thread ends.
 *
 * Invariants. A page of the heap is in queue[class] or, when it had no free block as last looked at, in `full`.
 * What is cached counts as used in its page. A heap's region never changes, so its memory stays on its node whatever
 * thread owns it.
 *
 * Threads: the owner only, except `pending` (anyone) and the region's lists of heaps (region lock). Queues are
 * changed between na_heap_enter and na_heap_leave only, see fork.c.
 */
#include "fast.h"
#include "secure.h"

#include <string.h>

na_heap na_empty_heap = {.tag_of_pages = UINT32_MAX};

/* ---- the cache ----------------------------------------------------------------------------------------- */

void na_cache_fill(na_cache *cache, na_span *page) {
    bool fresh = page->free == 0;
    if (fresh) na_page_carve(page);
    cache->list = page->free;
    page->free = 0;
    cache->virgin = fresh && page->zeroed ? cache->frees : UINT64_MAX;
}

/* A free block of some heap's cache goes home. */
static void send_home(na_heap *heap, na_block *block) {
    na_span *page = na_span_at(block);
    if (atomic_load_explicit(&page->heap, memory_order_relaxed) == heap) na_page_push(page, block);
    else na_remote_free(page, block);
}

static void send_list_home(na_heap *heap, na_list list) {
    while (list != 0) send_home(heap, na_list_pop(&list));
}

/* Takes all blocks out of a cache. */
static na_list cache_detach(na_heap *heap, unsigned class_index) {
    na_cache *cache = &heap->cache[class_index];
    na_list list = cache->list;
    heap->returned[class_index] += na_list_count(list);
    cache->virgin = UINT64_MAX;
    cache->list = 0;
    return list;
}

static void caches_empty(na_heap *heap) {
    for (unsigned c = 0; c < NA_CLASSES; c++) send_list_home(heap, cache_detach(heap, c));
    if (na_self.thread != NULL) na_remote_flush(na_self.thread);
}

/* ---- birth and adoption ------------------------------------------------------------------------------ */

static na_heap *heap_make(na_region *region) {
    pthread_mutex_lock(&region->lock);
    na_heap *heap = region->abandoned;
    if (heap != NULL) {
        region->abandoned = heap->next;
        region->abandoned_count--;
    } else if ((heap = region->spare) != NULL) {
        region->spare = heap->next;
    } else if ((heap = na_region_meta(region, sizeof *heap + na_secure_heap_bytes())) != NULL) {
        if (na_secure) na_secure_equip(heap, heap + 1);
        heap->region = region;
        heap->tag_of_pages = (na_span){.region = (uint16_t)region->index, .kind = NA_PAGE}.tag;
        for (unsigned c = 0; c < NA_CLASSES; c++) {
            uint32_t limit = NA_CACHE_BYTES / (uint32_t)class_to_size(c);
            if (limit > NA_CACHE_BLOCKS) limit = NA_CACHE_BLOCKS;
            heap->cache[c].limit = limit > NA_CACHE_LEAST ? limit : NA_CACHE_LEAST;
            heap->cache[c].virgin = UINT64_MAX;
        }
        heap->all_next = region->all;
        region->all = heap;
    }
    pthread_mutex_unlock(&region->lock);
    if (heap != NULL) {
        heap->next = NULL;
        atomic_store_explicit(&heap->thread, na_self.thread, memory_order_relaxed);
    }
    return heap;
}

na_heap *na_heap_of(na_region *region) {
    na_thread *thread = na_thread_get();
    if (thread == NULL) return NULL;
    na_heap *heap = thread->heaps[region->index];
    if (NA_LIKELY(heap != NULL)) return heap;
    int error = na_region_open(region);
    if (error != 0) {
        errno = error;
        return NULL;
    }
    heap = heap_make(region);
    if (heap == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    thread->heaps[region->index] = heap;
    return heap;
}

/* ---- remote frees -------------------------------------------------------------------------------------- */

static void page_take_remote(na_heap *heap, na_span *page) {
    if (NA_UNLIKELY(na_secure)) {
        na_secure_take_remote(heap, page);
        return;
    }
    uint32_t count;
    na_list list = page->free; /* in a register: the loop would go through memory each time */
    for (na_block *block = na_remote_take(page, &count), *next; block != NULL; block = next) {
        next = block->next;
        na_list_push(&list, block);
    }
    page->free = list;
    page->frees += count;
    heap->remote_frees += count;
    if (count != 0 && (page->full || na_page_used(page) == 0)) na_page_freed(page);
}

/* Empties the pending list of a heap; pages that moved on meanwhile are sent after. `mine`: the heap whose
 * pages may be changed, NULL: none. */
static void pending_empty(na_heap *heap, na_heap *mine) {
    if (atomic_load_explicit(&heap->pending, memory_order_relaxed) == NULL) return;
    na_span *page = atomic_exchange_explicit(&heap->pending, NULL, memory_order_acquire);
    while (page != NULL) {
        na_span *next = page->pending_next;
        na_heap *owner = atomic_load_explicit(&page->heap, memory_order_acquire);
        if (owner == mine) page_take_remote(mine, page);
        else na_remote_route(owner, page);
        page = next;
    }
}

void na_heap_collect(na_heap *heap) { pending_empty(heap, heap); }

/* ---- pages from heaps that have no thread ---------------------------------------------------------------- */

/* Behind the other pages of its class. A page that was alone may be given back from now on. */
void na_heap_join(na_heap *heap, na_span *page) {
    na_queue *queue = &heap->queue[page->class_index];
    if (queue->first != NULL && queue->first == queue->last) queue->first->attention = queue->first->carved;
    na_queue_append(queue, page);
}

static void move_pages(na_queue *from, na_heap *to) {
    for (na_span *page; (page = from->first) != NULL;) {
        na_queue_remove(from, page);
        atomic_store_explicit(&page->heap, to, memory_order_release);
        if (page->full) na_queue_append(&to->full, page);
        else na_heap_join(to, page);
    }
}

/* Takes over one abandoned heap of the region. What is left of it is a spare heap; late remote frees that
 * still went to its pending list are sent on here and by later calls. */
static bool take_over(na_heap *heap) {
    na_region *region = heap->region;
    if (atomic_load_explicit(&region->abandoned, memory_order_relaxed) == NULL &&
        atomic_load_explicit(&region->spare, memory_order_relaxed) == NULL)
        return false;
    pthread_mutex_lock(&region->lock);
    na_heap *other = region->abandoned;
    na_list cached[NA_CLASSES];
    if (other != NULL) {
        region->abandoned = other->next;
        region->abandoned_count--;
    }
    for (na_heap *spare = region->spare; spare != NULL; spare = spare->next) pending_empty(spare, NULL);
    if (other != NULL) {
        for (unsigned c = 0; c < NA_CLASSES; c++) {
            move_pages(&other->queue[c], heap);
            cached[c] = cache_detach(other, c);
        }
        move_pages(&other->full, heap);
        for (unsigned c = 0; c < NA_CLASSES; c++) /* a child of fork finds such */
            for (na_span *page; (page = na_page_idle(other, c)) != NULL;) {
                atomic_store_explicit(&page->heap, heap, memory_order_release);
                na_heap_join(heap, page);
            }
        heap->pages += other->pages;
        other->pages = 0;
        other->next = region->spare;
        region->spare = other;
        pending_empty(other, NULL);
    }
    pthread_mutex_unlock(&region->lock);
    if (other != NULL)
        for (unsigned c = 0; c < NA_CLASSES; c++) send_list_home(heap, cached[c]);
    na_heap_collect(heap);
    return other != NULL;
}

/* ---- allocation ---------------------------------------------------------------------------------------------- */

/* First page of the class with a free block, else one with blocks that were never used, whose memory may not be there
 * yet; full ones leave the queue. */
static na_span *queue_search(na_heap *heap, unsigned class_index) {
    na_queue *queue = &heap->queue[class_index];
    na_span *fresh = NULL;
    for (na_span *page = queue->first, *next; page != NULL; page = next) {
        next = page->next;
        if (page->free != 0) return page;
        if (page->carved < page->capacity) {
            if (fresh == NULL) fresh = page;
            continue;
        }
        na_queue_remove(queue, page);
        page->full = 1;
        page->attention = 1; /* the next free brings it back */
        na_queue_push(&heap->full, page);
    }
    return fresh;
}

/* A page of the class with a free block; NULL with errno. */
static na_span *page_with_room(na_heap *heap, unsigned class_index) {
    na_span *page = queue_search(heap, class_index);
    if (page == NULL) {
        na_remote_flush(na_self.thread); /* before more memory is used, let others have theirs back */
        if (take_over(heap)) page = queue_search(heap, class_index);
    }
    if (page == NULL &&
        ((page = na_page_idle(heap, class_index)) != NULL || (page = na_page_new(heap, class_index)) != NULL))
        na_heap_join(heap, page);
    return page;
}

void *na_heap_alloc(na_heap *heap, unsigned class_index) {
    na_cache *cache = &heap->cache[class_index];
    if (cache->list != 0) return na_cache_pop(cache);
    na_heap_enter(heap);
    na_heap_collect(heap);
    void *block = NULL;
    for (na_span *page; block == NULL && (page = page_with_room(heap, class_index)) != NULL;) {
        if (NA_UNLIKELY(na_secure)) {
            block = na_secure_take(page); /* NULL: its list was damaged, another page has to do */
        } else {
            na_cache_fill(cache, page);
            block = na_cache_pop(cache);
        }
    }
    na_heap_leave(heap);
    return block;
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

void na_heap_shed(na_heap *heap) {
    if (NA_UNLIKELY(na_secure)) na_secure_shed(heap);
    caches_empty(heap);
    na_heap_collect(heap);
    na_heap_enter(heap);
    while (heap->idle_first != NULL) na_page_release(heap->idle_first);
    for (unsigned c = 0; c < NA_CLASSES; c++) {
        for (na_span *page = heap->queue[c].first, *next; page != NULL; page = next) {
            next = page->next;
            if (na_page_used(page) != 0) continue;
            na_page_release(page);
        }
    }
    na_heap_leave(heap);
}

/* A page with used blocks may be freed to by any thread right now, which only touches its remote word and
 * this heap's pending list: both stay valid without an owner. */
static void heap_disown(na_heap *heap) {
    na_region *region = heap->region;
    atomic_store_explicit(&heap->thread, NULL, memory_order_relaxed);
    if (heap->pages != 0) {
        heap->next = region->abandoned;
        region->abandoned = heap;
        region->abandoned_count++;
    } else {
        heap->next = region->spare;
        region->spare = heap;
    }
}

void na_heap_retire(na_heap *heap) {
    na_heap_shed(heap);
    na_region *region = heap->region;
    pthread_mutex_lock(&region->lock);
    heap_disown(heap);
    pthread_mutex_unlock(&region->lock);
}

void na_heaps_reclaim(na_region *region) {
    pthread_mutex_lock(&region->lock);
    na_heap *list = region->abandoned;
    region->abandoned = NULL;
    region->abandoned_count = 0;
    for (na_heap *spare = region->spare; spare != NULL; spare = spare->next) pending_empty(spare, NULL);
    pthread_mutex_unlock(&region->lock);
    while (list != NULL) {
        na_heap *heap = list;
        list = heap->next;
        atomic_store_explicit(&heap->thread, na_self.thread, memory_order_relaxed);
        na_heap_retire(heap);
    }
}

void na_heap_orphan(na_heap *heap) {
    /* Caught in the middle of a change: its queues can't be trusted, so its pages stay as they are and only
     * their blocks in use remain valid. */
    if (heap->busy) atomic_store_explicit(&heap->thread, NULL, memory_order_relaxed);
    else heap_disown(heap);
}
