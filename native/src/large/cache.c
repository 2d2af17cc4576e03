/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cache.c: owns the freed large blocks that heaps keep for their threads' next ones, so that a program which takes and
 * returns arrays of 64 KiB to 1 MiB, again and again, takes no lock for them. Larger ones are not: beside touching
 * them a lock is nothing, and as free spans they join their neighbours.
 *
 * Invariants. A cached span is of kind NA_CACHED, counts as used by the region, and is in one slot of one heap of its
 * home. Who exchanges a slot for NULL owns the span from then on. A heap's `cached_slices` says for each slot what its
 * thread put there, or 0; where others have emptied the slot since, it says too much.
 *
 * Threads: slots are filled by their heap's thread and emptied by any; for the region under its lock, so that a fork finds
 * no block on its way there. A child lacks what another thread was putting into a slot, or taking for itself, just then.
 */
#include "large/large.h"
#include "space/space.h"

static na_span *empty_slot(na_heap *heap, unsigned slot) {
    if (atomic_load_explicit(&heap->cached[slot], memory_order_relaxed) == NULL) return NULL;
    return atomic_exchange(&heap->cached[slot], NULL);
}

static void set_kind(na_span *span, enum na_span_kind kind) {
    __atomic_store_n(&span->kind, (uint8_t)kind, __ATOMIC_RELAXED); /* neighbours look at it, see na_kind */
}

/* In cached_since while somebody counts: there may be some. Not NA_NO_TIME, so that nobody passes them by meanwhile. */
#define COUNTING (NA_NO_TIME - 1)

/* A count that one thread writes. Who sees that a block was freed sees, too, that it was taken. */
static void add(_Atomic(uint64_t) *count, uint64_t more) {
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + more, memory_order_release);
}

/* ---- the heap's thread ----------------------------------------------------------------------------------- */

/* Of the length wanted, or an eighth longer at most. */
static bool serves(uint32_t have, uint32_t slices) { return have >= slices && have <= slices + slices / 8; }

/* The slot that fits best; of equals the one put last. -1: none. */
static int best_slot(const na_heap *heap, uint32_t slices) {
    if (heap->cached_slices[heap->cached_last] == slices) return (int)heap->cached_last;
    uint32_t least = UINT32_MAX;
    int best = -1;
    for (int i = 0; i < NA_SPAN_CACHE_SLOTS; i++) {
        uint32_t have = heap->cached_slices[i];
        if (serves(have, slices) && have < least) {
            least = have;
            best = i;
        }
    }
    return best;
}

na_span *na_span_cache_take(na_heap *heap, uint32_t slices) {
    for (int slot; (slot = best_slot(heap, slices)) >= 0;) {
        na_span *span = empty_slot(heap, (unsigned)slot);
        heap->cached_total -= heap->cached_slices[slot];
        heap->cached_slices[slot] = 0;
        if (span == NULL) continue;
        set_kind(span, NA_LARGE);
        add(&heap->cached_taken, 1);
        add(&heap->cached_taken_bytes, na_span_bytes(span));
        return span;
    }
    return NULL;
}

/* Back to the region, with its lock held. false: somebody was first. */
static bool release_slot(na_heap *heap, unsigned slot) {
    na_span *span = empty_slot(heap, slot);
    if (span != NULL)
        na_span_free_locked(heap->region, span, atomic_load_explicit(&heap->cached_at[slot], memory_order_relaxed));
    return span != NULL;
}

/* A slot for so many slices. When there is none, the oldest go, a few at a time, as one lock serves them all. */
static unsigned room_for(na_heap *heap, uint32_t slices) {
    unsigned slot = heap->cached_last; /* what was taken last was put last, most often */
    if (heap->cached_total + slices <= NA_SPAN_CACHE_SLICES)
        for (unsigned i = 0; i < NA_SPAN_CACHE_SLOTS; i++, slot = (slot + 1) % NA_SPAN_CACHE_SLOTS)
            if (heap->cached_slices[slot] == 0) return slot;
    unsigned oldest = heap->cached_last;
    pthread_mutex_lock(&heap->region->lock);
    for (unsigned i = 0; i < NA_SPAN_CACHE_SLOTS; i++) {
        if (i >= NA_SPAN_CACHE_SLOTS / 4 && heap->cached_total + slices <= NA_SPAN_CACHE_SLICES) break;
        oldest = (oldest + 1) % NA_SPAN_CACHE_SLOTS;
        heap->cached_total -= heap->cached_slices[oldest];
        heap->cached_slices[oldest] = 0;
        (void)release_slot(heap, oldest);
    }
    pthread_mutex_unlock(&heap->region->lock);
    return (heap->cached_last + 1) % NA_SPAN_CACHE_SLOTS;
}

bool na_span_cache_put(na_heap *heap, na_span *span) {
    if (span->slices > NA_SPAN_CACHE_LONGEST || na_opt.purge_delay_ms == 0) return false;
    unsigned slot = room_for(heap, span->slices);
    uint64_t now = os_now_ms();
    add(&heap->cached_freed, 1);
    add(&heap->cached_freed_bytes, na_span_bytes(span));
    set_kind(span, NA_CACHED);
    atomic_store_explicit(&heap->cached_at[slot], now, memory_order_relaxed);
    heap->cached_last = slot;
    heap->cached_total += span->slices;
    heap->cached_slices[slot] = (uint8_t)span->slices;
    atomic_store(&heap->cached[slot], span);
    /* Both sequentially consistent: who counts the cached ones anew sees this one, or this sees that it has to say so. */
    _Atomic(uint64_t) *since = &heap->region->cached_since;
    uint64_t said = atomic_load(since);
    while (said >= COUNTING && !atomic_compare_exchange_weak(since, &said, now)) {}
    return true;
}

void na_span_cache_recount(na_heap *heap) {
    heap->cached_total = 0;
    for (unsigned slot = 0; slot < NA_SPAN_CACHE_SLOTS; slot++) {
        const na_span *span = atomic_load_explicit(&heap->cached[slot], memory_order_relaxed);
        heap->cached_slices[slot] = span != NULL ? (uint8_t)span->slices : 0;
        heap->cached_total += heap->cached_slices[slot];
    }
}

/* ---- anyone ---------------------------------------------------------------------------------------------- */

static na_heap *heaps_of(na_region *region) {
    pthread_mutex_lock(&region->lock);
    na_heap *first = region->all; /* what follows it never changes */
    pthread_mutex_unlock(&region->lock);
    return first;
}

/* Gives back what is in a heap's cache since before a time; false: there was nothing. `since` becomes the time of the first
 * that stays, if that is earlier. */
static bool release_from(na_heap *heap, uint64_t before, uint64_t *since) {
    bool locked = false, any = false;
    for (unsigned slot = 0; slot < NA_SPAN_CACHE_SLOTS; slot++) {
        if (atomic_load(&heap->cached[slot]) == NULL) continue;
        uint64_t at = atomic_load_explicit(&heap->cached_at[slot], memory_order_relaxed);
        if (at >= before) {
            if (at < *since) *since = at;
            continue;
        }
        if (!locked) pthread_mutex_lock(&heap->region->lock);
        locked = true;
        any |= release_slot(heap, slot);
    }
    if (locked) pthread_mutex_unlock(&heap->region->lock);
    return any;
}

/* Of all heaps. */
static bool release_before(na_region *region, uint64_t before) {
    bool any = false;
    uint64_t since = NA_NO_TIME;
    atomic_store(&region->cached_since, COUNTING);
    for (na_heap *heap = heaps_of(region); heap != NULL; heap = heap->all_next)
        any |= release_from(heap, before, &since);
    uint64_t said = atomic_load(&region->cached_since);
    while ((since < said || said == COUNTING) && !atomic_compare_exchange_weak(&region->cached_since, &said, since)) {}
    return any;
}

bool na_span_cache_release(na_region *region, uint64_t before) {
    uint64_t since = atomic_load(&region->cached_since);
    return since != NA_NO_TIME && (since < before || since == COUNTING) && release_before(region, before);
}

/* Other threads count meanwhile. Frees are read first, in all heaps, so that no difference is negative; what is taken until
 * the rest is read seems to be in use. */
na_span_cache_counts na_span_cache_count(const na_region *region) {
    na_span_cache_counts sum = {0};
    for (const na_heap *heap = region->all; heap != NULL; heap = heap->all_next) {
        sum.freed += atomic_load_explicit(&heap->cached_freed, memory_order_acquire);
        sum.freed_bytes += atomic_load_explicit(&heap->cached_freed_bytes, memory_order_acquire);
    }
    for (const na_heap *heap = region->all; heap != NULL; heap = heap->all_next) {
        sum.taken += atomic_load_explicit(&heap->cached_taken, memory_order_acquire);
        sum.taken_bytes += atomic_load_explicit(&heap->cached_taken_bytes, memory_order_acquire);
        for (unsigned slot = 0; slot < NA_SPAN_CACHE_SLOTS; slot++) {
            const na_span *span = atomic_load_explicit(&heap->cached[slot], memory_order_relaxed);
            if (span != NULL) sum.bytes += na_span_bytes(span);
        }
    }
    return sum;
}
