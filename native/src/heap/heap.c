/* SPDX-License-Identifier: BSD-3-Clause
 *
 * heap.c: owns the queues of a heap: which page serves which class, where the next one comes from. What becomes of it
 * when its thread ends is in abandoned.c.
 *
 * Invariants. A page of the heap is in queue[class] or, when it had no free block as last looked at, in `full`.
 * What is cached counts as used in its page. A heap's region never changes, so its memory stays on its node whatever
 * thread owns it.
 *
 * Threads: the owner only, except `pending` (anyone) and the region's lists of heaps (region lock). Queues are
 * changed between na_heap_enter and na_heap_leave only, see fork.c.
 */
#include "heap/heap.h"
#include "space/space.h"

#include <errno.h>
#include <string.h>

na_heap na_empty_heap; /* never written; as no span is an NA_NO_SPAN, none is a page of it */

/* ---- the cache ----------------------------------------------------------------------------------------- */

void na_cache_fill(na_cache *cache, na_span *page) {
    bool fresh = page->free == 0;
    if (fresh) na_page_carve(page);
    na_cache_set(cache, page->free);
    page->free = 0;
    cache->zeroed = fresh && page->zeroed ? cache->frees : UINT64_MAX;
}

/* A free block of some heap's cache goes home. */
static void send_home(na_heap *heap, na_block *block) {
    na_span *page = na_span_at(block);
    if (atomic_load_explicit(&page->heap, memory_order_relaxed) != heap) na_remote_free(page, block);
    else if (na_page_push(page, block)) na_page_freed(page);
}

static void send_list_home(na_heap *heap, na_list list) {
    while (list != 0) send_home(heap, na_list_pop(&list));
}

na_list na_cache_detach(na_heap *heap, unsigned class_index) {
    na_cache *cache = &heap->cache[class_index];
    na_list list = na_cache_list(cache);
    heap->returned[class_index] += na_list_count(list);
    cache->zeroed = UINT64_MAX;
    na_cache_set(cache, 0);
    return list;
}

void na_cache_add(na_heap *heap, unsigned class_index, na_list list, bool home) {
    na_cache *cache = &heap->cache[class_index];
    if (home || cache->top != NULL) {
        send_list_home(heap, list);
        return;
    }
    cache->zeroed = UINT64_MAX;
    cache->frees += na_list_count(list);
    atomic_signal_fence(memory_order_release); /* as in na_free_fast */
    na_cache_set(cache, list);
}

void na_caches_recount(na_heap *heap) {
    for (unsigned c = 0; c < NA_CLASSES; c++) {
        na_cache *cache = &heap->cache[c];
        if (cache->top == NULL) cache->count = 0;
        else if (na_span_at(cache->top) != NULL) cache->count = na_list_count(cache->top->below) + 1;
    }
}

static void caches_empty(na_heap *heap) {
    for (unsigned c = 0; c < NA_CLASSES; c++) send_list_home(heap, na_cache_detach(heap, c));
    if (na_self.thread != NULL) na_remote_flush(na_self.thread);
}

/* ---- birth and adoption ------------------------------------------------------------------------------ */

static na_heap *heap_make(na_region *region) {
    pthread_mutex_lock(&region->lock);
    na_heap *heap = na_heap_adopt(region);
    if (heap == NULL &&
        (heap = na_meta_alloc(region, sizeof *heap + (na_secure ? na_secure_heap_bytes() : 0))) != NULL) {
        if (na_secure) na_secure_equip(heap, heap + 1);
        heap->region = region;
        heap->tag_of_pages = (na_span){.region = (uint16_t)region->index, .kind = NA_PAGE}.tag;
        for (unsigned c = 0; c < NA_CLASSES; c++) {
            uint32_t limit = NA_CACHE_BYTES / (uint32_t)class_to_size(c);
            if (limit > NA_CACHE_BLOCKS) limit = NA_CACHE_BLOCKS;
            heap->cache[c].limit = limit > NA_CACHE_LEAST ? limit : NA_CACHE_LEAST;
            heap->cache[c].zeroed = UINT64_MAX;
        }
        heap->all_next = region->all;
        region->all = heap;
        heap->spans.next = region->caches;
        region->caches = &heap->spans;
    }
    if (heap != NULL) { /* with the lock held: a child of fork finds it by its owner */
        heap->next = NULL;
        atomic_store_explicit(&heap->thread, na_self.thread, memory_order_relaxed);
    }
    pthread_mutex_unlock(&region->lock);
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

/* A page's chain of remote frees on its way to the page's list. */
typedef struct chain {
    na_span *page;
    na_block *block; /* the next of them */
    na_list list;
    uint32_t count;
} chain;

/* It is written to soon: straight into this core's cache, instead of a copy first. */
static inline void fetch_to_write(const na_block *block) {
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" ::"m"(*block));
#else
    __builtin_prefetch(block, 1);
#endif
}

static bool chain_begin(chain *c, na_span *page) {
    *c = (chain){.page = page, .list = page->free};
    c->block = na_remote_take(page, &c->count);
    if (c->block != NULL) fetch_to_write(c->block);
    return c->block != NULL;
}

static void chain_end(na_heap *heap, const chain *c) {
    na_span *page = c->page;
    page->free = c->list;
    page->frees += c->count;
    heap->remote_frees += c->count;
    if (page->full || na_page_used(page) == 0) na_page_freed(page);
}

/* Each block is in the cache of the core that freed it, and only the block has the address of the next. Following one chain
 * after the other would wait for each block; so several chains are followed in turns. */
static void chains_take(na_heap *heap, chain *chains, unsigned count) {
    while (count != 0) {
        for (unsigned i = 0; i < count; i++) {
            chain *c = &chains[i];
            na_block *block = c->block;
            c->block = block->next;
            if (c->block != NULL) fetch_to_write(c->block);
            na_list_push(&c->list, block);
            if (c->block != NULL) continue;
            chain_end(heap, c);
            *c = chains[--count];
        }
    }
}

void na_heap_collect(na_heap *heap) {
    if (atomic_load_explicit(&heap->pending, memory_order_relaxed) == NULL) return;
    enum { AT_ONCE = 16 };
    chain chains[AT_ONCE];
    unsigned count = 0;
    na_span *page = atomic_exchange_explicit(&heap->pending, NULL, memory_order_acquire);
    while (page != NULL) {
        na_span *next = page->pending_next;
        na_heap *owner = atomic_load_explicit(&page->heap, memory_order_acquire);
        if (owner != heap) {
            next = na_remote_route(owner, page, next);
        } else if (NA_UNLIKELY(na_secure)) {
            na_secure_take_remote(heap, page);
        } else if (chain_begin(&chains[count], page) && ++count == AT_ONCE) {
            chains_take(heap, chains, count);
            count = 0;
        }
        page = next;
    }
    chains_take(heap, chains, count);
}

/* Behind the other pages of its class. A page that was alone may be given back from now on. */
void na_heap_join(na_heap *heap, na_span *page) {
    na_queue *queue = &heap->queue[page->class_index];
    if (queue->first != NULL && queue->first == queue->last) queue->first->threshold = queue->first->carved;
    na_queue_append(queue, page);
}

/* ---- allocation ---------------------------------------------------------------------------------------------- */

/* First page of the class with a free block, else one with blocks that were never used, whose memory may not be there
 * yet; full ones leave the queue. */
static na_span *queue_search(na_heap *heap, unsigned class_index) {
    na_queue *queue = &heap->queue[class_index];
    na_span *fresh = NULL;
    enum { PASSED_MAX = 16 }; /* a thread that adopted a thousand heaps has as many such pages */
    int passed = 0;
    for (na_span *page = queue->first, *next; page != NULL; page = next) {
        next = page->next;
        if (page->free != 0) return page;
        if (page->carved < page->capacity) {
            if (fresh == NULL) fresh = page;
            if (++passed == PASSED_MAX) return fresh;
            continue;
        }
        na_queue_remove(queue, page);
        page->full = 1;
        page->threshold = 1; /* the next free brings it back */
        na_queue_push(&heap->full, page);
    }
    return fresh;
}

/* One of the heap's own. Blocks that were in use before come first, those of retired pages too: their memory is there. */
static na_span *page_at_hand(na_heap *heap, unsigned class_index) {
    na_span *fresh = queue_search(heap, class_index);
    if (fresh != NULL && fresh->free != 0) return fresh;
    na_span *page = na_page_retired(heap, class_index);
    if (page == NULL) return fresh;
    na_heap_join(heap, page);
    return page;
}

/* A page of the class with a free block; NULL with errno. */
static na_span *page_with_room(na_heap *heap, unsigned class_index) {
    na_span *page = page_at_hand(heap, class_index);
    if (page != NULL) return page;
    na_remote_flush(na_self.thread); /* before more memory is used, return blocks of other heaps */
    if (na_heap_adopt_pages(heap, class_index) && (page = page_at_hand(heap, class_index)) != NULL) return page;
    page = na_page_new(heap, class_index);
    if (page != NULL) na_heap_join(heap, page);
    return page;
}

/* Next-class fallback: a block that will be written in whole, its memory first, as classes have their peaks at different
 * times. NULL: none of the next classes has one that was in use before. */
static void *of_next_class(na_heap *heap, unsigned class_index) {
    enum { NEXT = 3 }; /* classes: less than twice as long, or realloc would shorten it */
    for (unsigned c = class_index; c <= class_index + NEXT && c < NA_SIZES; c++) {
        na_cache *cache = &heap->cache[c];
        na_span *page = cache->top == NULL ? page_at_hand(heap, c) : NULL;
        if (page != NULL && page->free != 0) na_cache_fill(cache, page);
        if (cache->top != NULL) return na_cache_pop(cache);
    }
    return NULL;
}

void *na_heap_alloc(na_heap *heap, unsigned class_index, bool whole) {
    na_cache *cache = &heap->cache[class_index];
    if (cache->top != NULL) return na_cache_pop(cache);
    na_heap_enter(heap);
    na_heap_collect(heap);
    bool next = whole && class_to_size(class_index) > NA_SMALL_BLOCK_MAX && !na_secure;
    void *block = next ? of_next_class(heap, class_index) : NULL;
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

void na_heap_release(na_heap *heap, uint64_t since) {
    if (NA_UNLIKELY(na_secure)) na_secure_release(heap);
    caches_empty(heap);
    na_heap_collect(heap);
    na_pages_retired_release(heap);
    na_heap_enter(heap);
    for (unsigned c = 0; c < NA_CLASSES; c++) {
        for (na_span *page = heap->queue[c].first, *next; page != NULL; page = next) {
            next = page->next;
            if (na_page_used(page) == 0) na_page_leave(page, since);
        }
    }
    na_heap_leave(heap);
    na_pages_gone(heap);
}
