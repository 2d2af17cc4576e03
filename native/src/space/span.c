/* SPDX-License-Identifier: BSD-3-Clause
 *
 * span.c: owns the free spans of each region: finds, splits, coalesces and extends them.
 *
 * Invariants. No two free spans touch. A free span has its descriptor in the map at its first and last slice
 * and NULL in between; a span in use has it at every slice. The memory of
 * free spans belongs to rest.c. A span that is being purged is as a free one, but in no bin. A reserve is as a free span,
 * but in no bin and joined with no neighbour; it follows the large block for which it is held.
 *
 * Threads: everything under the region's lock; functions without _locked take it.
 */
#include "space/space.h"

#include <errno.h>

/* ---- bins: sizes 1..3 exact, then four bins per doubling; all of a later bin is larger ---------------- */

static unsigned bin_of(uint32_t slices) {
    if (slices < 4) return slices - 1;
    unsigned top = 31u - (unsigned)__builtin_clz(slices);
    return 3 + (top - 2) * 4 + ((slices >> (top - 2)) & 3);
}
_Static_assert(3 + (31 - 2) * 4 + 3 < NA_SPAN_BINS, "every length has a bin");

static void bin_insert(na_part *part, na_span *span) {
    unsigned bin = bin_of(span->slices);
    span->prev = NULL;
    span->next = part->bin[bin];
    if (span->next != NULL) span->next->prev = span;
    part->bin[bin] = span;
    part->bin_used[bin >> 6] |= UINT64_C(1) << (bin & 63);
}

static void bin_remove(na_part *part, na_span *span) {
    unsigned bin = bin_of(span->slices);
    if (span->next != NULL) span->next->prev = span->prev;
    if (span->prev != NULL) span->prev->next = span->next;
    else {
        part->bin[bin] = span->next;
        if (span->next == NULL) part->bin_used[bin >> 6] &= ~(UINT64_C(1) << (bin & 63));
    }
}

static int bin_next(const na_part *part, unsigned from) {
    for (unsigned w = from >> 6; w < NA_SPAN_BINS / 64; w++) {
        uint64_t used = part->bin_used[w];
        if (w == from >> 6) used &= ~UINT64_C(0) << (from & 63);
        if (used != 0) return (int)(w * 64 + (unsigned)__builtin_ctzll(used));
    }
    return -1;
}

/* ---- the map --------------------------------------------------------------------------------------------- */

static void map_fill(uintptr_t start, uint32_t slices, na_span *span) {
    na_span **entry = &na_map[na_slice_index(start)];
    for (uint32_t i = 0; i < slices; i++) entry[i] = span;
}

static void map_ends(na_span *span, na_span *value) {
    na_map[na_slice_index(span->start)] = value;
    na_map[na_slice_index(na_span_end(span) - 1)] = value;
}

/* ---- free spans ------------------------------------------------------------------------------------------ */

static void insert(na_region *region, na_span *span, enum na_span_kind kind) {
    span->kind = (uint8_t)kind;
    span->part = span->start >= region->part[1].start;
    na_part *part = &region->part[span->part];
    map_ends(span, span);
    if (kind == NA_RESERVE) {
        na_queue_append(&region->reserves, span);
        region->reserved += span->slices;
    } else {
        bin_insert(part, span);
    }
    na_rest_add(region, span);
}

static void free_span_remove(na_region *region, na_span *span) {
    na_part *part = &region->part[span->part];
    na_rest_remove(span);
    if (span->kind == NA_RESERVE) {
        na_queue_remove(&region->reserves, span);
        region->reserved -= span->slices;
    } else {
        bin_remove(part, span);
    }
    map_ends(span, NULL);
}

/* Dirty slices in a range of a free span. */
static uint32_t dirty_in(const na_span *span, uintptr_t start, uint32_t slices) {
    if (span->dirty_slices == 0) return 0;
    return span->dirty_slices == span->slices ? slices : (uint32_t)na_dirty_count(start, slices);
}

/* The first slices of a free span are taken. Its descriptor is that of the rest, or unused. */
static void split_front(na_region *region, na_span *span, uint32_t slices) {
    enum na_span_kind kind = (enum na_span_kind)span->kind;
    free_span_remove(region, span);
    if (span->slices == slices) {
        na_descriptor_delete(region, span);
        return;
    }
    span->dirty_slices -= dirty_in(span, span->start, slices);
    span->start += (uintptr_t)slices << NA_SLICE_SHIFT;
    span->slices -= slices;
    insert(region, span, kind);
}

/* Makes [start, start + slices) a free span joined with its free neighbours; its oldest dirty slice is of `tick` or
 * later. false: there is no descriptor, nothing is changed. */
static bool give_back(na_region *region, uintptr_t start, uint32_t slices, uint32_t dirty, uint64_t tick,
                      na_span *reuse) {
    na_part *part = &region->part[start >= region->part[1].start];
    uintptr_t end = start + ((uintptr_t)slices << NA_SLICE_SHIFT);
    na_span *before = start > part->start ? na_map[na_slice_index(start) - 1] : NULL;
    na_span *after = end < part->top ? na_map[na_slice_index(end)] : NULL;
    if (before != NULL && na_kind(before) != NA_FREE) before = NULL;
    if (after != NULL && na_kind(after) != NA_FREE) after = NULL;

    na_span *span = reuse;
    if (span == NULL && before == NULL && after == NULL) {
        span = na_descriptor_new(region);
        if (span == NULL) return false;
    }
    if (before != NULL) {
        if (before->in_ages && before->freed_at < tick) tick = before->freed_at;
        free_span_remove(region, before);
        start = before->start;
        slices += before->slices;
        dirty += before->dirty_slices;
        if (span == NULL) span = before;
        else na_descriptor_delete(region, before);
    }
    if (after != NULL) {
        if (after->in_ages && after->freed_at < tick) tick = after->freed_at;
        free_span_remove(region, after);
        slices += after->slices;
        dirty += after->dirty_slices;
        if (span == NULL) span = after;
        else na_descriptor_delete(region, after);
    }
    span->start = start;
    span->slices = slices;
    span->dirty_slices = dirty;
    span->freed_at = tick;
    insert(region, span, NA_FREE);
    return true;
}

/* ---- reserves -------------------------------------------------------------------------------------------- */

/* Address space behind a block that realloc makes or moves, so that it grows in place, without a copy and without
 * leaving a hole where it was. It is not used and has no memory but what was left there. */

static na_span *reserve_behind(const na_region *region, const na_span *span) {
    uintptr_t end = na_span_end(span);
    na_span *after = end < region->part[span->part].top ? na_map[na_slice_index(end)] : NULL;
    return after != NULL && na_kind(after) == NA_RESERVE ? after : NULL;
}

static void reserve_release(na_region *region, na_span *reserve) {
    free_span_remove(region, reserve);
    (void)give_back(region, reserve->start, reserve->slices, reserve->dirty_slices, reserve->freed_at, reserve);
}

void na_span_release_reserve(na_region *region, const na_span *span) {
    na_span *reserve = reserve_behind(region, span);
    if (reserve != NULL) reserve_release(region, reserve);
}

/* As much as the block may grow into: from 2 MiB on it belongs to the large part, where its pages move. All reserves
 * together are bounded by what is in use, as open address space counts where the system limits what is committed; those
 * that served longest ago give way. */
static uint32_t reserve_for(na_region *region, uint32_t slices) {
    enum { LEAST = 2048 }; /* slices of all */
    if (slices >= NA_LARGE_PART_SLICES) return 0;
    uint64_t most = atomic_load_explicit(&region->used_bytes, memory_order_relaxed) >> NA_SLICE_SHIFT;
    uint32_t wanted = NA_LARGE_PART_SLICES - 1 - slices;
    if (most < LEAST) most = LEAST;
    while (region->reserves.first != NULL && region->reserved + wanted > most)
        reserve_release(region, region->reserves.first);
    return wanted;
}

static bool reserves_release(na_region *region) {
    bool any = region->reserves.first != NULL;
    while (region->reserves.first != NULL) reserve_release(region, region->reserves.first);
    return any;
}

/* One of them, with memory enough for so many slices: it serves rather than new memory. */
static bool reserve_with_memory_release(na_region *region, uint32_t slices) {
    enum { LOOKS = 16 };
    na_span *span = region->reserves.first;
    for (int i = 0; span != NULL && i < LOOKS; span = span->next, i++)
        if (span->dirty_slices >= slices) {
            reserve_release(region, span);
            return true;
        }
    return false;
}

/* ---- cutting --------------------------------------------------------------------------------------------- */

/* Cuts [start, start + slices) out of a free span; what is left on either side stays free. The descriptor
 * becomes that of the cut. */
static bool cut(na_region *region, na_span *span, uintptr_t start, uint32_t slices) {
    uint32_t ahead = (uint32_t)((start - span->start) >> NA_SLICE_SHIFT);
    uint32_t behind = span->slices - ahead - slices;
    na_span *first = NULL, *last = NULL;
    if (ahead != 0 && (first = na_descriptor_new(region)) == NULL) return false;
    if (behind != 0 && (last = na_descriptor_new(region)) == NULL) {
        if (first != NULL) na_descriptor_delete(region, first);
        return false;
    }
    uint64_t freed_at = span->freed_at;
    uintptr_t old_start = span->start, end = start + ((uintptr_t)slices << NA_SLICE_SHIFT);
    uint32_t inside = dirty_in(span, start, slices), outside = span->dirty_slices - inside, dirty_ahead;
    if (ahead <= behind) dirty_ahead = dirty_in(span, old_start, ahead); /* the shorter one is looked at */
    else dirty_ahead = outside - dirty_in(span, end, behind);
    free_span_remove(region, span);
    span->start = start;
    span->slices = slices;
    span->dirty_slices = inside;
    if (first != NULL) {
        first->start = old_start;
        first->slices = ahead;
        first->dirty_slices = dirty_ahead;
        first->freed_at = freed_at;
        insert(region, first, NA_FREE);
    }
    if (last != NULL) {
        last->start = end;
        last->dirty_slices = outside - dirty_ahead;
        last->slices = behind;
        last->freed_at = freed_at;
        insert(region, last, NA_FREE);
    }
    return true;
}

/* ---- finding --------------------------------------------------------------------------------------------- */

static uintptr_t align_up(uintptr_t address, uint32_t align_slices) {
    uintptr_t mask = ((uintptr_t)align_slices << NA_SLICE_SHIFT) - 1;
    return (address + mask) & ~mask;
}

static bool fits(const na_span *span, uint32_t slices, uint32_t align, uintptr_t *start) {
    *start = align_up(span->start, align);
    return *start + ((uintptr_t)slices << NA_SLICE_SHIFT) <= na_span_end(span);
}

/* Good fit: a few of the bin that may hold it, then the next larger bins. */
static na_span *find(na_part *part, uint32_t slices, uint32_t align, uintptr_t *start) {
    enum { TRIES = 8 };
    unsigned sure = bin_of(slices + align - 1) + 1; /* from this bin on, any span will do */
    for (int bin = bin_next(part, bin_of(slices)); bin >= 0; bin = bin_next(part, (unsigned)bin + 1)) {
        na_span *span = part->bin[bin];
        for (int i = 0; span != NULL && (i < TRIES || (unsigned)bin >= sure); i++, span = span->next)
            if (fits(span, slices, align, start)) return span;
    }
    return NULL;
}

/* In the large part: of some that may hold it, the one with the most memory where it would lie; of equals the shortest,
 * roughly. */
static na_span *find_warm(na_part *part, uint32_t slices, uint32_t align, uintptr_t *start) {
    enum { TRIES = 64 };
    unsigned sure = bin_of(slices + align - 1) + 1;
    na_span *best = NULL;
    size_t most = 0;
    int tries = 0;
    for (int bin = bin_next(part, bin_of(slices)); bin >= 0; bin = bin_next(part, (unsigned)bin + 1)) {
        for (na_span *span = part->bin[bin]; span != NULL; span = span->next) {
            if (tries++ >= TRIES && (best != NULL || (unsigned)bin < sure)) break;
            uintptr_t at;
            if (!fits(span, slices, align, &at)) continue;
            size_t dirty = dirty_in(span, at, slices);
            if (best != NULL && dirty <= most) continue;
            best = span;
            most = dirty;
            *start = at;
            if (dirty == slices) return best;
        }
        if (best != NULL && tries >= TRIES) break;
    }
    return best;
}

/* New address space at the top of a part, joined with a free span that ends there. */
static na_span *grow_top(na_region *region, na_part *part, uint32_t slices, uint32_t align) {
    na_span *tail = part->top > part->start ? na_map[na_slice_index(part->top) - 1] : NULL;
    if (tail != NULL && na_kind(tail) != NA_FREE) tail = NULL;
    uintptr_t from = tail != NULL ? tail->start : part->top;
    uintptr_t start = align_up(from, align);
    uintptr_t end = start + ((uintptr_t)slices << NA_SLICE_SHIFT);
    if (start < from || end < start || end > part->limit || end <= part->top) return NULL;
    if (na_part_open(part, end) != 0) return NULL;
    /* [top, end) becomes free and is then cut like any other span. It may be clean. */
    uintptr_t old_top = part->top;
    part->top = end;
    if (!give_back(region, old_top, (uint32_t)((end - old_top) >> NA_SLICE_SHIFT), 0, region->tick, NULL)) {
        part->top = old_top;
        return NULL;
    }
    na_span *span = na_map[na_slice_index(end) - 1];
    return cut(region, span, start, slices) ? span : NULL;
}

/* Would `bytes` more on the region's node exceed NUMALLOC_NODE_LIMIT? Free memory that is still committed counts. */
static bool over_limit(const na_region *region, uint64_t bytes) {
    if (na_opt.node_limit == UINT64_MAX || region->node_index < 0) return false;
    uint64_t held = na_node_held(region->limited_index);
    return bytes > na_opt.node_limit || held > na_opt.node_limit - bytes;
}

uint64_t na_node_held(int node_index) {
    uint64_t bytes = atomic_load_explicit(&na_regions[node_index].mixed_bytes, memory_order_relaxed);
    for (int i = 0; i < na_region_count - 1; i++) {
        if (na_regions[i].limited_index != node_index) continue;
        bytes += atomic_load_explicit(&na_regions[i].used_bytes, memory_order_relaxed);
        bytes += atomic_load_explicit(&na_regions[i].dirty_bytes, memory_order_relaxed);
    }
    return bytes;
}

static na_span *in_hole(na_region *region, na_part *part, uint32_t slices, uint32_t align) {
    uintptr_t start = 0;
    bool large = slices >= NA_LARGE_PART_SLICES;
    na_span *span = large ? find_warm(part, slices, align, &start) : find(part, slices, align, &start);
    return span != NULL && cut(region, span, start, slices) ? span : NULL;
}

/* In the small part, before new memory is used: what is held for blocks that grow. */
static na_span *of_what_is_held(na_region *region, uint32_t slices, uint32_t align) {
    na_part *small = &region->part[0];
    return reserve_with_memory_release(region, slices) ? in_hole(region, small, slices, align) : NULL;
}

static na_span *alloc_locked(na_region *region, uint32_t slices, uint32_t align) {
    uint64_t bytes = (uint64_t)slices << NA_SLICE_SHIFT;
    if (over_limit(region, bytes)) return NULL;
    int first = slices >= NA_LARGE_PART_SLICES;
    for (int i = 0; i < 2; i++) { /* a part that is full lends from the other */
        na_part *part = &region->part[i == 0 ? first : !first];
        na_span *span = in_hole(region, part, slices, align);
        if (span == NULL && !first && i == 0) span = of_what_is_held(region, slices, align);
        if (span == NULL) span = grow_top(region, part, slices, align);
        if (span == NULL && reserves_release(region)) {
            span = in_hole(region, part, slices, align);
            if (span == NULL) span = grow_top(region, part, slices, align);
        }
        if (span != NULL) return span;
    }
    return NULL;
}

/* With a reserve behind it: in a hole, or of new address space that is open, no more than a share of what the part has
 * left. NULL: there is none. */
static na_span *alloc_to_grow(na_region *region, uint32_t slices) {
    enum { SHARE = 64 };
    uint32_t more = reserve_for(region, slices);
    if (more == 0 || over_limit(region, (uint64_t)slices << NA_SLICE_SHIFT)) return NULL;
    na_part *part = &region->part[0];
    na_span *reserve = na_descriptor_new(region), *span = NULL;
    if (reserve == NULL) return NULL;
    /* Rather a shorter one where memory may be than one that was never used. */
    uint32_t enough = ((more < slices ? more : slices) + 1) / 2;
    uintptr_t start = 0;
    for (uint32_t least = more; span == NULL && least >= enough; least /= 2)
        span = find(part, slices + least, 1, &start);
    if (span != NULL) {
        if (more > span->slices - slices) more = span->slices - slices;
        if (!cut(region, span, start, slices + more)) span = NULL;
    } else if (na_part_open(part, part->top + ((uintptr_t)(slices + 1) << NA_SLICE_SHIFT)) == 0) {
        uint64_t open = ((part->opened - part->top) >> NA_SLICE_SHIFT) - slices;
        uint64_t share = ((part->limit - part->top) >> NA_SLICE_SHIFT) / SHARE;
        if (more > open) more = (uint32_t)open;
        if (more > share) more = (uint32_t)share;
        if (more != 0) span = grow_top(region, part, slices + more, 1);
    }
    if (span == NULL) {
        na_descriptor_delete(region, reserve);
        return NULL;
    }
    span->slices = slices;
    reserve->start = na_span_end(span);
    reserve->slices = more;
    reserve->dirty_slices = (uint32_t)na_dirty_count(reserve->start, more);
    reserve->freed_at = span->freed_at;
    insert(region, reserve, NA_RESERVE);
    return span;
}

/* Slices were taken, `clean` of them without memory. */
static void account_use(na_region *region, const na_span *span, uint32_t taken, uint32_t clean) {
    enum { PART_EARLY = 24 }; /* of so many bytes that are taken one may go back early, see reclaim.c */
    uint64_t bytes = (uint64_t)taken << NA_SLICE_SHIFT, opened = (uint64_t)clean << NA_SLICE_SHIFT;
    uint64_t used = atomic_load_explicit(&region->used_bytes, memory_order_relaxed) + bytes;
    atomic_store_explicit(&region->used_bytes, used, memory_order_relaxed);
    region->dirty_bytes -= bytes - opened;
    if (used > region->used_most) {
        region->unproven += used - region->used_most;
        region->used_most = used;
    }
    if (used + region->dirty_bytes > region->peak_bytes) region->peak_bytes = used + region->dirty_bytes;
    region->part[span->part].fresh += opened;
    if (span->kind == NA_LARGE && span->grown) region->fresh_growing += opened;
    if (span->slices >= NA_LARGE_PART_SLICES) region->early_bytes += (int64_t)(bytes / PART_EARLY);
    if (region->early_bytes > (int64_t)region->used_most) region->early_bytes = (int64_t)region->used_most;
    if (region->part[0].fresh + region->part[1].fresh >= NA_REST_FRESH) na_rest_wake(region);
}

static void account_disuse(na_region *region, uint64_t bytes) {
    uint64_t used = atomic_load_explicit(&region->used_bytes, memory_order_relaxed);
    atomic_store_explicit(&region->used_bytes, used - bytes, memory_order_relaxed);
}

na_span *na_span_alloc(na_region *region, uint32_t slices, uint32_t align, enum na_span_kind kind, bool grows,
                       bool *clean) {
    pthread_mutex_lock(&region->lock);
    na_span *span = grows && align == 1 ? alloc_to_grow(region, slices) : NULL;
    if (span == NULL) span = alloc_locked(region, slices, align);
    if (span != NULL) {
        span->grown = grows;
        uint32_t dirty = grows ? (uint32_t)na_dirty_count(span->start, slices) : span->dirty_slices;
        *clean = dirty == 0;
        span->kind = (uint8_t)kind;
        map_fill(span->start, slices, span);
        account_use(region, span, slices, slices - dirty);
        if (kind == NA_LARGE) na_large_account(region, span, 1);
    } else {
        errno = ENOMEM;
    }
    pthread_mutex_unlock(&region->lock);
    return span;
}

/* ---- freeing ----------------------------------------------------------------------------------------------- */

/* `rested_since`: ms. `reads_zero`: it has no memory. */
static void release_range(na_region *region, uintptr_t start, uint32_t slices, uint64_t rested_since, bool reads_zero,
                          na_span *reuse) {
    uint64_t tick = na_rest_tick(region, rested_since);
    uint64_t bytes = (uint64_t)slices << NA_SLICE_SHIFT;
    account_disuse(region, bytes);
    if (reads_zero) {
        na_dirty_clear(start, slices);
    } else {
        na_dirty_set(start, slices, tick);
        region->dirty_bytes += bytes;
    }
    map_fill(start, slices, NULL);
    /* Only trimming can lack a descriptor; na_span_trim makes sure of one. */
    (void)give_back(region, start, slices, reads_zero ? 0 : slices, tick, reuse);
    na_rest_weigh(region);
}

void na_span_free_locked(na_region *region, na_span *span, uint64_t rested_since, bool reads_zero) {
    na_span_release_reserve(region, span);
    atomic_store_explicit(&span->heap, NULL, memory_order_relaxed);
    span->in_ages = 0;
    span->huge_shift = 0;
    span->remapped = 0;
    release_range(region, span->start, span->slices, rested_since, reads_zero, span);
}

void na_span_free(na_region *region, na_span *span, uint64_t rested_since) {
    pthread_mutex_lock(&region->lock);
    na_span_free_locked(region, span, rested_since, false);
    pthread_mutex_unlock(&region->lock);
}

/* ---- in place ---------------------------------------------------------------------------------------------- */

bool na_span_extend(na_region *region, na_span *span, uint32_t slices) {
    pthread_mutex_lock(&region->lock);
    uint32_t more = slices - span->slices;
    uintptr_t end = na_span_end(span);
    na_part *part = &region->part[span->part];
    bool done = false;
    if (!over_limit(region, (uint64_t)more << NA_SLICE_SHIFT)) {
        na_span *after = reserve_behind(region, span);
        if (after != NULL && after->slices < more) {
            reserve_release(region, after);
            after = NULL;
        }
        if (after == NULL && end < part->top) after = na_map[na_slice_index(end)];
        bool after_free = after != NULL && (na_kind(after) == NA_FREE || na_kind(after) == NA_RESERVE);
        uint32_t have = after_free ? after->slices : 0;
        bool at_top = end == part->top || (after_free && na_span_end(after) == part->top);
        if (have < more && at_top) {
            uintptr_t upto = end + ((uintptr_t)more << NA_SLICE_SHIFT);
            if (upto > end && upto <= part->limit && na_part_open(part, upto) == 0) {
                uintptr_t old_top = part->top;
                part->top = upto;
                if (give_back(region, old_top, (uint32_t)((upto - old_top) >> NA_SLICE_SHIFT), 0, region->tick, NULL)) {
                    after = na_map[na_slice_index(end)];
                    have = after->slices;
                } else {
                    part->top = old_top;
                }
            }
        }
        if (have >= more) {
            uint32_t dirty = (uint32_t)na_dirty_count(end, more);
            split_front(region, after, more);
            map_fill(end, more, span);
            span->slices = slices;
            span->grown = 1;
            account_use(region, span, more, more - dirty);
            done = true;
        }
    }
    pthread_mutex_unlock(&region->lock);
    return done;
}

void na_span_trim(na_region *region, na_span *span, uint32_t slices) {
    pthread_mutex_lock(&region->lock);
    na_span *rest = na_descriptor_new(region); /* without one the span simply stays long */
    if (rest != NULL) {
        uint32_t less = span->slices - slices;
        na_span_release_reserve(region, span);
        span->slices = slices;
        release_range(region, na_span_end(span), less, os_now_ms(), false, rest);
    }
    pthread_mutex_unlock(&region->lock);
}

/* ---- for region.c ------------------------------------------------------------------------------------------ */

void na_span_drop_top(na_region *region, na_part *part) {
    na_span *span = part->top > part->start ? na_map[na_slice_index(part->top) - 1] : NULL;
    if (span == NULL || na_kind(span) != NA_FREE) return;
    if (span->dirty_slices != 0 && na_opt.purge_delay_ms == NA_PURGE_NEVER) return; /* a device may know its pages */
    part->top = span->start;
    free_span_remove(region, span);
    region->dirty_bytes -= (uint64_t)span->dirty_slices << NA_SLICE_SHIFT;
    na_dirty_clear(span->start, span->slices);
    na_descriptor_delete(region, span);
}

/* ---- for rest.c -------------------------------------------------------------------------------------------- */

void na_span_take_out(na_region *region, na_span *span, uintptr_t start, uint32_t slices) {
    bool whole = span->kind != NA_FREE || slices == span->slices || !cut(region, span, start, slices);
    if (whole) free_span_remove(region, span);
    map_ends(span, span);
    span->kind = NA_PURGING;
}

void na_span_put_back(na_region *region, na_span *span) {
    const na_span *before = span->grown ? na_map[na_slice_index(span->start) - 1] : NULL; /* it was a reserve */
    map_ends(span, NULL);
    span->grown = 0;
    if (before != NULL && na_kind(before) == NA_LARGE && before->grown) insert(region, span, NA_RESERVE);
    else (void)give_back(region, span->start, span->slices, span->dirty_slices, span->freed_at, span);
}
