/* SPDX-License-Identifier: BSD-3-Clause
 *
 * verify.c: numalloc_verify, the check of all invariants.
 *
 * Threads: wants the other threads out of the allocator.
 */
#include "api/api.h"
#include "heap/hooks.h"
#include "space/space.h"

#include <errno.h>

/* Reports and counts a broken invariant. */
static int broken(const char *what, const na_region *region, const na_span *span) {
    os_message("numalloc: invariant broken: %s (region %d, span %p, start %p, %u slices, kind %u)\n", what,
               region->index, (const void *)span, span != NULL ? (void *)span->start : NULL,
               span != NULL ? span->slices : 0, span != NULL ? span->kind : 0u);
    return 1;
}

/* What follows a block in its list; false: that is damaged. */
static bool below(const na_block *block, na_list *link) {
    if (na_secure) return !na_live_at(block) && na_unseal(block, link);
    *link = block->below;
    return na_marked_free(block);
}

/* Does the list below the first block have one less? */
static bool count_follows(na_list list, na_list below) {
    return na_list_count(below) + 1 == na_list_count(list) && (na_list_count(below) == 0) == (below == 0);
}

static int check_blocks(const na_region *region, const na_span *page) {
    int bad = 0;
    uint32_t linked = 0;
    for (na_list list = page->free, next = 0; list != 0 && bad == 0; list = next) {
        const na_block *block = na_list_first(list);
        size_t offset = (uintptr_t)block - page->start;
        if (offset % page->block_size != 0 || offset / page->block_size >= page->carved)
            bad += broken("a free block lies outside its page's blocks", region, page);
        else if (!below(block, &next)) bad += broken("a free block lost its mark (written after free?)", region, page);
        else if (!count_follows(list, next)) bad += broken("the free list's count is wrong", region, page);
        linked++;
    }
    /* Blocks in remote lists and slots count as used until the owner takes them in. */
    if (bad == 0 && linked + na_page_used(page) != page->carved)
        bad += broken("free + used blocks are not the carved ones", region, page);
    if (page->carved > page->capacity) bad += broken("more blocks carved than fit", region, page);
    if (na_remote_count(page) > na_page_used(page)) bad += broken("more remote frees than used blocks", region, page);
    return bad;
}

static int check_page(const na_region *region, const na_span *page) {
    const na_heap *heap = atomic_load_explicit(&page->heap, memory_order_relaxed);
    if (heap == NULL && na_cut_short) return 0; /* its thread had the span, and was about to make it a page */
    if (heap == NULL || heap->region != region)
        return broken("a page belongs to a heap of another region", region, page);
    if (page->block_size != class_to_size(page->class_index))
        return broken("block size is not the class's", region, page);
    return heap->busy ? 0 : check_blocks(region, page); /* busy: a child of fork, which leaves it alone */
}

/* What spans sum up to. */
typedef struct sums {
    uint64_t used, dirty; /* bytes */
    uint64_t reserved;    /* slices */
    uint32_t cached;
} sums;

static int check_reserves(const na_region *region, uint64_t slices) {
    const na_span *before = NULL;
    uint64_t listed = 0;
    for (const na_span *span = region->reserves.first; span != NULL; before = span, span = span->next) {
        if (span->kind != NA_RESERVE || span->prev != before || listed > slices)
            return broken("the list of reserves is wrong", region, span);
        listed += span->slices;
    }
    if (region->reserves.last != before) return broken("the last reserve is another", region, before);
    bool agrees = listed == slices && region->reserved == slices;
    return agrees ? 0 : broken("a reserve is in no list, or miscounted", region, NULL);
}

/* Spans tile the part; the map and the bins agree with them. */
static int check_part(const na_region *region, int which, sums *sum) {
    const na_part *part = &region->part[which];
    int bad = 0;
    uint32_t free_spans = 0;
    const na_span *before = NULL;
    if (part->top > part->opened) bad += broken("spans beyond the opened space", region, NULL);
    for (uintptr_t at = part->start; at < part->top && bad == 0;) {
        const na_span *span = na_map[na_slice_index(at)];
        if (span == NULL || span->start != at || span->slices == 0)
            return bad + broken("a gap between spans", region, span);
        uintptr_t end = na_span_end(span);
        if (span->part != which) bad += broken("a span of the other part", region, span);
        if (span->kind == NA_FREE || span->kind == NA_RESERVE || span->kind == NA_PURGING) {
            free_spans += span->kind == NA_FREE;
            if (span->kind == NA_RESERVE) sum->reserved += span->slices;
            sum->dirty += (uint64_t)span->dirty_slices << NA_SLICE_SHIFT;
            if (span->kind != NA_PURGING && na_dirty_count(span->start, span->slices) != span->dirty_slices)
                bad += broken("a span's count of dirty slices is wrong", region, span);
            if (span->kind == NA_FREE && before != NULL && before->kind == NA_FREE)
                bad += broken("free neighbours not joined", region, span);
            if (span->kind == NA_RESERVE && (before == NULL || before->kind != NA_LARGE || !before->grown))
                bad += broken("a reserve is not behind a block that grows", region, span);
            if (na_map[na_slice_index(end - 1)] != span)
                bad += broken("a free span's end is not in the map", region, span);
            for (uintptr_t in = at + NA_SLICE; in + NA_SLICE < end; in += NA_SLICE)
                if (na_map[na_slice_index(in)] != NULL) bad += broken("stale map entry in a free span", region, span);
        } else {
            sum->used += end - at;
            for (uintptr_t in = at; in < end; in += NA_SLICE)
                if (na_map[na_slice_index(in)] != span) bad += broken("a slice is not in the map", region, span);
            if (span->kind == NA_PAGE) bad += check_page(region, span);
            sum->cached += span->kind == NA_CACHED;
        }
        before = span;
        at = end;
    }
    uint32_t in_bins = 0;
    for (int b = 0; b < NA_SPAN_BINS; b++) {
        bool marked = (part->bin_used[b >> 6] >> (b & 63)) & 1;
        if (marked != (part->bin[b] != NULL)) bad += broken("the bitmap of bins is wrong", region, part->bin[b]);
        for (const na_span *span = part->bin[b]; span != NULL; span = span->next) {
            in_bins++;
            if (span->kind != NA_FREE) bad += broken("a span in use is in a bin", region, span);
        }
    }
    if (bad == 0 && in_bins != free_spans) bad += broken("free spans and bins differ", region, NULL);
    return bad;
}

static int check_queue(const na_heap *heap, const na_queue *queue, int class_index, uint32_t *pages) {
    int bad = 0;
    const na_span *before = NULL;
    for (const na_span *page = queue->first; page != NULL; before = page, page = page->next) {
        ++*pages;
        if (page->retired) bad += broken("a retired page is in a queue", heap->region, page);
        if (page->prev != before) bad += broken("queue links differ", heap->region, page);
        if (atomic_load_explicit(&page->heap, memory_order_relaxed) != heap)
            bad += broken("page of another heap", heap->region, page);
        if (page->full != (class_index < 0)) bad += broken("page in the wrong queue", heap->region, page);
        if (class_index >= 0 && page->class_index != class_index)
            bad += broken("page of another class", heap->region, page);
    }
    if (queue->last != before) bad += broken("queue end differs", heap->region, before);
    return bad;
}

static int check_cache(const na_heap *heap, unsigned class_index) {
    for (na_list list = na_cache_list(&heap->cache[class_index]), next = 0; list != 0; list = next) {
        const na_block *block = na_list_first(list);
        const na_span *page = na_span_at(block);
        if (page == NULL || !na_tag_is_page(page->tag, heap->tag_of_pages) || page->class_index != class_index)
            return broken("a cached block is of no page of its class and region", heap->region, page);
        size_t offset = (uintptr_t)block - page->start;
        if (offset % page->block_size != 0 || offset / page->block_size >= page->carved)
            return broken("a cached address is not the start of a block (freed by a pointer into it?)", heap->region,
                          page);
        if (!below(block, &next))
            return broken("a cached block lost its mark (written after free?)", heap->region, page);
        if (!count_follows(list, next)) return broken("the count of cached blocks is wrong", heap->region, page);
    }
    return 0;
}

static int check_heap(const na_heap *heap) {
    int bad = 0;
    uint32_t pages = 0, retired_slices = 0;
    for (int c = 0; c < NA_CLASSES; c++) bad += check_queue(heap, &heap->queue[c], c, &pages);
    bad += check_queue(heap, &heap->full, -1, &pages);
    const na_block *held = na_secure ? na_secure_damaged(heap) : NULL;
    if (held != NULL)
        bad += broken("a block that is held back lost its seal (written after free?)", heap->region, na_span_at(held));
    for (unsigned c = 0; c < NA_CLASSES; c++) bad += check_cache(heap, c);
    for (const na_span *page = heap->retired_first; page != NULL; page = page->newer) {
        pages++;
        retired_slices += page->slices;
        if (!page->retired || na_page_used(page) != 0)
            bad += broken("a retired page has blocks in use", heap->region, page);
    }
    if (retired_slices != heap->retired_slices)
        bad += broken("a heap's count of retired pages is wrong", heap->region, NULL);
    if (pages != heap->pages) bad += broken("a heap's count of pages is wrong", heap->region, NULL);
    return bad;
}

static int check_span_caches(const na_region *region, uint32_t spans) {
    uint32_t count = 0;
    for (const na_span_cache *cache = region->caches; cache != NULL; cache = cache->next)
        for (unsigned slot = 0; slot < NA_SPAN_CACHE_SLOTS; slot++) {
            const na_span *span = atomic_load_explicit(&cache->span[slot], memory_order_relaxed);
            if (span == NULL) continue;
            count++;
            if (span->kind != NA_CACHED || span->region != region->index)
                return broken("a span cache has a span that is not cached or of another region", region, span);
            if (span->slices != cache->slices[slot])
                return broken("the length of a span in a cache differs", region, span);
        }
    if (count != 0 && atomic_load(&region->cached_since) == NA_NO_TIME)
        return broken("spans in a cache are not known of", region, NULL);
    /* In a child of threads some may have been on their way into a slot, or from there to the region. */
    bool agrees = count == spans || (na_cut_short && count < spans);
    return agrees ? 0 : broken("a cached span is in no slot, or in two", region, NULL);
}

static int check_abandoned(const na_region *region) {
    const na_heap *newer = NULL;
    uint64_t count = 0, bound = UINT64_MAX;
    for (const na_heap *heap = region->abandoned; heap != NULL; newer = heap, heap = heap->next, count++) {
        uint64_t abandoned_at = atomic_load_explicit(&heap->abandoned_at, memory_order_relaxed);
        if (heap->newer != newer || abandoned_at > bound || atomic_load(&heap->thread) != NULL)
            return broken("the list of abandoned heaps is wrong", region, NULL);
        bound = abandoned_at;
    }
    if (region->abandoned_oldest != newer) return broken("the oldest abandoned heap is wrong", region, NULL);
    for (const na_heap *heap = region->collected; heap != NULL; heap = heap->next) count++;
    return count == region->abandoned_count ? 0 : broken("the count of abandoned heaps is wrong", region, NULL);
}

int numalloc_verify(void) {
    if (!na_init()) return errno;
    int bad = na_hooked && !na_modes.verify() ? 1 : 0;
    for (int i = 0; i < na_region_count; i++) {
        na_region *region = &na_regions[i];
        if (!atomic_load_explicit(&region->opened, memory_order_acquire)) continue;
        pthread_mutex_lock(&region->lock);
        sums sum = {0};
        bad += check_part(region, 0, &sum);
        bad += check_part(region, 1, &sum);
        if (bad == 0) bad += check_span_caches(region, sum.cached);
        if (bad == 0) bad += check_reserves(region, sum.reserved);
        if (bad == 0 && sum.used != atomic_load(&region->used_bytes))
            bad += broken("used bytes are wrong", region, NULL);
        if (bad == 0 && sum.dirty != region->dirty_bytes) bad += broken("dirty bytes are wrong", region, NULL);
        for (const na_heap *heap = region->all; heap != NULL; heap = heap->all_next)
            if (!heap->busy) bad += check_heap(heap);
        bad += check_abandoned(region);
        pthread_mutex_unlock(&region->lock);
    }
    return bad == 0 ? 0 : EINVAL;
}
