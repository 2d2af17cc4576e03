/* SPDX-License-Identifier: BSD-3-Clause
 *
 * large.c: owns large blocks of one home: a span each, with huge pages if there are some (explicit ones if
 * asked for, then transparent, then base pages), grown in place or moved by mremap.
 *
 * Freed memory is used again from the span caches of heaps, below 2 MiB (cache.c), and from free spans: they keep their pages
 * until the purge delay is over, so a block of like size that comes soon gets memory that is already on its node.
 *
 * Threads: a block is used by one thread at a time, as with any allocator; accounting under the region's lock, that of
 * cached spans by their heap.
 */
#include "heap/heap.h"
#include "large/large.h"
#include "space/space.h"

#include <errno.h>
#include <string.h>

/* Zeroed blocks up to here are touched; longer ones, as glibc's, are likely to be used in part, or never. */
enum { NA_TOUCH_MAX = 128 << 10 };

static uint32_t slices_of(size_t bytes) { return (uint32_t)((bytes + NA_SLICE - 1) >> NA_SLICE_SHIFT); }

/* Makes a range read as zeros. What is mostly without memory stays so: in steps of a huge page, more than half of which
 * has to be there to be cleared. */
static void zero_range(uintptr_t start, uintptr_t end) {
    for (uintptr_t next; start < end; start = next) {
        next = (start + NA_HUGE_BYTES) & ~(NA_HUGE_BYTES - 1);
        if (next > end) next = end;
        uintptr_t whole = next & ~((uintptr_t)os_page_size() - 1);
        size_t resident;
        bool may_purge = na_opt.purge_delay_ms != NA_PURGE_NEVER; /* else a device may know these pages */
        bool sparse = may_purge && next - start > NA_SLICE &&
                      os_resident((void *)start, whole - start, &resident) == 0 && resident < (whole - start) / 2 &&
                      os_purge((void *)start, whole - start) == 0;
        uintptr_t from = sparse ? whole : start;
        memset((void *)from, 0, next - from);
    }
}

/* Zeroes the slices that were dirty, of the first `size` bytes. */
static void zero_dirty(const na_span *span, size_t size) {
    size_t first = na_slice_index(span->start);
    for (uint32_t i = 0, end = slices_of(size), run; i < end; i = run + 1) {
        for (run = i; run < end && na_dirty_at(first + run);) run++;
        if (run == i) continue;
        size_t from = (size_t)i << NA_SLICE_SHIFT, to = (size_t)run << NA_SLICE_SHIFT;
        zero_range(span->start + from, span->start + (to < size ? to : size));
    }
}

/* What became of a span whose mapping was to be replaced. LOST: it may have none, or one that can't be touched. */
enum backing { ORDINARY, HUGE_PAGES, LOST };

/* Address space that can't be used again is never given out: it stays a span in use, without memory. */
static void give_up(na_span *span) {
    (void)os_purge((void *)span->start, na_span_bytes(span));
    span->kind = NA_LOST;
}

/* Explicit huge pages for the whole span if its length is a multiple of them; it is zero then. */
static enum backing back_with_hugetlb(na_region *region, na_span *span) {
    for (unsigned shift = na_opt.huge == NA_HUGE_1G ? 30 : 21; shift >= 21; shift -= 9) {
        size_t page = (size_t)1 << shift;
        if (na_span_bytes(span) % page != 0 || span->start % page != 0) continue;
        int node = na_topo.online_count > 1 && region->use != NA_INHERITED ? region->node : -1;
        int error = os_map_hugetlb((void *)span->start, na_span_bytes(span), page, node);
        if (error == 0) {
            span->huge_shift = (uint8_t)shift;
            return HUGE_PAGES;
        }
        if (error == ENOTRECOVERABLE) return LOST;
        /* The range is normal memory again, without policy. */
        (void)na_region_restore(region, span->start, na_span_bytes(span));
    }
    return ORDINARY;
}

/* A range whose mapping was replaced (explicit huge pages, mremap) becomes an ordinary piece of the region
 * again, so that the kernel can merge it with its neighbours. false: it can't be used. */
static bool heal(na_region *region, na_span *span) {
    if (os_map_fresh((void *)span->start, na_span_bytes(span)) == 0) {
        (void)na_region_restore(region, span->start, na_span_bytes(span));
        return true;
    }
    /* Either nothing was done, or there is a hole now, which os_commit finds. Huge pages stay what they are, and
     * those that come after a purge may be missing in the pool. */
    return span->huge_shift == 0 && os_commit((void *)span->start, na_span_bytes(span)) == 0;
}

/* Gives a span back that is no block any more (sign -1), or did not become one (0). */
static void dispose(na_region *region, na_span *span, int sign, uint64_t now) {
    bool usable = (span->huge_shift == 0 && !span->remapped) || heal(region, span);
    if (!usable) give_up(span);
    pthread_mutex_lock(&region->lock);
    na_large_account(region, span, sign);
    if (usable) na_span_free_locked(region, span, now, false);
    else na_span_release_reserve(region, span);
    pthread_mutex_unlock(&region->lock);
}

/* Blocks start on a slice, large ones on a huge page. */
size_t na_large_align(size_t bytes, size_t align) {
    size_t least = bytes >> NA_SLICE_SHIFT >= NA_ALIGN_HUGE_SLICES ? NA_HUGE_BYTES : NA_SLICE;
    return align > least ? align : least;
}

static na_heap *heap_in(const na_region *region) {
    return na_self.thread != NULL ? na_self.thread->heaps[region->index] : NULL;
}

void *na_large_alloc(na_region *region, size_t size, size_t align, unsigned flags) {
    int error = na_region_open(region);
    if (error != 0) {
        errno = error;
        return NULL;
    }
    size_t bytes = na_round_up(size, NA_SLICE);
    bool hugetlb = (na_opt.huge == NA_HUGE_2M || na_opt.huge == NA_HUGE_1G) && size >= NA_HUGE_BYTES;
    if (hugetlb) {
        size_t page = na_opt.huge == NA_HUGE_1G && size >= ((size_t)1 << 30) ? (size_t)1 << 30 : NA_HUGE_BYTES;
        bytes = na_round_up(size, page);
        if (align < page) align = page;
    }
    align = na_large_align(bytes, align);
    bool clean = false, zero = (flags & NUMALLOC_ZERO) != 0;
    bool growing = (flags & NA_GROWING) != 0;
    bool may_keep = !growing && align == NA_SLICE && bytes <= NA_SPAN_CACHE_MAX;
    na_heap *heap = may_keep ? heap_in(region) : NULL;
    na_span *span = heap != NULL ? na_span_cache_take(&heap->spans, slices_of(bytes)) : NULL;
    bool cached = span != NULL;
    if (!cached) {
        span = na_span_alloc(region, slices_of(bytes), slices_of(align), NA_LARGE, growing, &clean);
        if (span == NULL) return NULL;
    }
    enum backing backing = hugetlb ? back_with_hugetlb(region, span) : ORDINARY;
    if (backing == HUGE_PAGES) {
        pthread_mutex_lock(&region->lock);
        region->huge_bytes += na_span_bytes(span);
        pthread_mutex_unlock(&region->lock);
    }
    if (backing == LOST) {
        pthread_mutex_lock(&region->lock);
        na_large_account(region, span, 0);
        pthread_mutex_unlock(&region->lock);
        give_up(span);
        errno = ENOMEM;
        return NULL;
    }
    if (region->strict || (flags & NUMALLOC_POPULATE) != 0) {
        na_nodeset home = na_region_nodes(region);
        error = na_populate(span->start, size, &home, region->strict ? NA_IN_SET : NA_UNCHECKED);
        if (error != 0) {
            dispose(region, span, 0, os_now_ms());
            errno = error;
            return NULL;
        }
        span->populated = na_round_up(size, os_page_size());
        /* A preferred node that is full: the kernel took the pages from the next. */
        if (!region->strict && na_pages_elsewhere(span->start, size, &home))
            atomic_fetch_add_explicit(&region->fallbacks, 1, memory_order_relaxed);
    }
    if (zero && cached) memset((void *)span->start, 0, size);
    else if (zero && clean && size <= NA_TOUCH_MAX) na_touch((void *)span->start, size);
    else if (zero && !clean && backing != HUGE_PAGES) zero_dirty(span, size);
    return (void *)span->start;
}

void na_large_free(na_region *region, na_span *span, uint64_t now) {
    /* A block of one slice is large for its alignment only, which no cached span serves. */
    bool ordinary = span->huge_shift == 0 && !span->remapped && !span->grown;
    bool fits = span->slices > 1 && span->slices <= NA_SPAN_CACHE_LONGEST;
    na_heap *heap = ordinary && fits ? heap_in(region) : NULL;
    if (heap == NULL || !na_span_cache_put(region, &heap->spans, span, now)) dispose(region, span, -1, now);
}

/* ---- realloc ------------------------------------------------------------------------------------------- */

static void resize_accounting(na_region *region, size_t before, size_t after) {
    pthread_mutex_lock(&region->lock);
    region->large_bytes += after;
    region->large_bytes -= before;
    pthread_mutex_unlock(&region->lock);
}

enum move { MOVED, NOT_MOVED, TARGET_LOST };

/* Moves the pages instead of their contents. `from` is as before unless they moved. */
static enum move move_by_remap(na_region *region, na_span *from, na_span *to) {
    if (from->huge_shift != 0 || to->huge_shift != 0 || from->slices < NA_LARGE_PART_SLICES) return NOT_MOVED;
    int error = os_remap((void *)from->start, na_span_bytes(from), (void *)to->start);
    if (error == ENOSYS) return NOT_MOVED;
    to->remapped = 1;
    if (error == 0) return MOVED;
    return heal(region, to) ? NOT_MOVED : TARGET_LOST; /* the kernel may have unmapped it before it failed */
}

/* A small cut is not worth the span it makes. */
static bool shrinks(const na_span *span, uint32_t want) {
    return span->huge_shift == 0 && want < span->slices - span->slices / 8;
}

/* Strict memory is faulted in and verified before it is the caller's, to the end of its span. */
static bool populate_rest(const na_region *region, na_span *span) {
    uint64_t bytes = na_span_bytes(span);
    if (!region->strict || span->populated >= bytes) return true;
    na_nodeset home = na_region_nodes(region);
    int error = na_populate(span->start + span->populated, bytes - span->populated, &home, NA_IN_SET);
    if (error == 0) span->populated = bytes;
    else errno = error;
    return error == 0;
}

static void trim(na_region *region, na_span *span, uint32_t slices) {
    na_span_trim(region, span, slices);
    if (region->strict && span->populated > na_span_bytes(span)) span->populated = na_span_bytes(span);
}

/* In place. */
static bool extend(na_region *region, na_span *span, uint32_t slices) {
    size_t before = na_span_bytes(span);
    uint32_t had = span->slices;
    if (span->huge_shift != 0 || !na_span_extend(region, span, slices)) return false;
    bool good = populate_rest(region, span);
    if (!good) trim(region, span, had);
    resize_accounting(region, before, na_span_bytes(span));
    return good;
}

/* Verifying takes a look at the room that there is, so strict memory grows by an eighth if it can. */
static bool extend_for(na_region *region, na_span *span, uint32_t want) {
    uint32_t ample = want + want / 8;
    if (span->part == 0 && want < NA_LARGE_PART_SLICES && ample >= NA_LARGE_PART_SLICES)
        ample = NA_LARGE_PART_SLICES - 1;
    return (region->strict && ample != want && extend(region, span, ample)) || extend(region, span, want);
}

bool na_large_stays(const na_span *span, size_t size) {
    size_t ready = na_regions[span->region].strict ? span->populated : na_span_bytes(span);
    return size <= ready && !shrinks(span, slices_of(size));
}

void *na_large_realloc(na_span *span, size_t size) {
    na_region *region = &na_regions[span->region];
    size_t before = na_span_bytes(span);
    uint32_t want = slices_of(size);
    if (size <= before) {
        if (shrinks(span, want)) {
            trim(region, span, want);
            resize_accounting(region, before, na_span_bytes(span));
        }
        return populate_rest(region, span) ? (void *)span->start : NULL;
    }
    /* Where huge pages begin a block leaves the small part, unless it can't. */
    bool outgrows = span->slices < NA_LARGE_PART_SLICES && want >= NA_LARGE_PART_SLICES;
    if (!outgrows && extend_for(region, span, want)) return (void *)span->start;
    void *moved = na_large_alloc(region, size, 0, NA_GROWING);
    if (moved == NULL) return outgrows && extend(region, span, want) ? (void *)span->start : NULL;
    enum move how = move_by_remap(region, span, na_span_at(moved));
    if (how == TARGET_LOST) {
        dispose(region, na_span_at(moved), -1, os_now_ms()); /* gives it up, as it can't be healed */
        errno = ENOMEM;
        return NULL;
    }
    if (how == NOT_MOVED) memcpy(moved, (void *)span->start, before);
    dispose(region, span, -1,
            os_now_ms()); /* not into the cache: its size is not wanted again, and its neighbours may grow */
    return moved;
}
