/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cache.c: owns the freed large blocks that wait for the next ones of their kind. A heap has a span cache for its thread, so
 * that a program which takes and returns arrays of 64 KiB to 2 MiB, again and again, takes no lock for them. Larger ones are
 * not kept there: a lock costs little compared with touching them, and as free spans they join their neighbours. The mixed region
 * has one for all threads: its spans keep their policy, which cost system calls.
 *
 * Invariants. A cached span is of kind NA_CACHED, counts as used by the region, and is in one slot of one cache of its
 * region. The thread that exchanges a slot for NULL owns the span. `slices` has for each slot what the cache's owner put there,
 * or 0; if another thread has emptied the slot since, it is too large.
 *
 * Threads: a heap's cache is filled by its thread and emptied by any; for the region under its lock, so that a fork finds
 * no block on its way there. A child lacks what another thread was putting into a slot, or taking for itself, just then. The
 * cache of the mixed region is used under its lock.
 */
#include "large/large.h"
#include "space/space.h"

static na_span *empty_slot(na_span_cache *cache, unsigned slot) {
    if (atomic_load_explicit(&cache->span[slot], memory_order_relaxed) == NULL) return NULL;
    return atomic_exchange(&cache->span[slot], NULL);
}

static void forget_slot(na_span_cache *cache, unsigned slot) {
    cache->total -= cache->slices[slot];
    cache->slices[slot] = 0;
}

static void set_kind(na_span *span, enum na_span_kind kind) {
    __atomic_store_n(&span->kind, (uint8_t)kind, __ATOMIC_RELAXED); /* neighbours look at it, see na_kind */
}

/* In cached_since while a thread counts: there may be some. Not NA_NO_TIME, so that no other thread skips them. */
#define COUNTING (NA_NO_TIME - 1)

/* A count that one thread writes. A thread that sees that a block was freed sees, too, that it was taken. */
static void add(_Atomic(uint64_t) *count, uint64_t more) {
    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + more, memory_order_release);
}

/* ---- the owner ------------------------------------------------------------------------------------------- */

/* Of the length wanted, or an eighth longer at most. */
static bool serves(uint32_t have, uint32_t slices) { return have >= slices && have <= slices + slices / 8; }

/* The slot that fits best. -1: none. */
static __attribute__((noinline)) int best_slot(const na_span_cache *cache, uint32_t slices) {
    uint32_t least = UINT32_MAX;
    int best = -1;
    for (int i = 0; i < NA_SPAN_CACHE_SLOTS; i++) {
        uint32_t have = cache->slices[i];
        if (serves(have, slices) && have < least) {
            least = have;
            best = i;
        }
    }
    return best;
}

/* NULL: another thread was first. */
static na_span *take_from(na_span_cache *cache, unsigned slot) {
    na_span *span = empty_slot(cache, slot);
    forget_slot(cache, slot);
    if (span == NULL) return NULL;
    set_kind(span, NA_LARGE);
    add(&cache->taken, 1);
    add(&cache->taken_bytes, na_span_bytes(span));
    return span;
}

na_span *na_span_cache_take(na_span_cache *cache, uint32_t slices) {
    /* What was put last is most likely in the core's cache. */
    int slot = cache->slices[cache->last] == slices ? (int)cache->last : best_slot(cache, slices);
    for (; slot >= 0; slot = best_slot(cache, slices)) {
        na_span *span = take_from(cache, (unsigned)slot);
        if (span != NULL) return span;
    }
    return NULL;
}

na_span *na_span_cache_take_placed(na_span_cache *cache, uint32_t slices, const na_placement *placement, size_t align) {
    for (unsigned slot = 0; slot < NA_SPAN_CACHE_SLOTS; slot++) {
        const na_span *span = atomic_load_explicit(&cache->span[slot], memory_order_relaxed);
        if (span != NULL && serves(span->slices, slices) && na_mixed_serves(span, placement, align))
            return take_from(cache, slot);
    }
    return NULL;
}

/* Back to the region, whose lock is held; for mixed memory it is released during the call. Returns bytes; 0: another thread
 * was first. */
static uint64_t release_slot(na_region *region, na_span_cache *cache, unsigned slot) {
    na_span *span = empty_slot(cache, slot);
    if (span == NULL) return 0;
    uint64_t since = atomic_load_explicit(&cache->at[slot], memory_order_relaxed), bytes = na_span_bytes(span);
    if (region->node_index < 0) na_mixed_release(span, since);
    else na_span_free_locked(region, span, since, false);
    return bytes;
}

/* A slot for so many slices. If there is none, a quarter of the slots, the oldest, are released under one lock. */
static __attribute__((noinline)) unsigned room_for(na_region *region, na_span_cache *cache, uint32_t slices) {
    bool mixed = region->node_index < 0;
    uint64_t most = mixed ? UINT64_MAX : NA_SPAN_CACHE_SLICES, wanted = slices;
    for (;;) {
        unsigned slot = cache->last;
        for (unsigned i = 0; i < NA_SPAN_CACHE_SLOTS && cache->total + wanted <= most; i++) {
            if (cache->slices[slot] == 0) return slot;
            slot = (slot + 1) % NA_SPAN_CACHE_SLOTS;
        }
        if (!mixed) pthread_mutex_lock(&region->lock);
        unsigned oldest = cache->last;
        for (unsigned i = 0; i < NA_SPAN_CACHE_SLOTS / 4 || cache->total + wanted > most; i++) {
            oldest = (oldest + 1) % NA_SPAN_CACHE_SLOTS;
            forget_slot(cache, oldest);
            (void)release_slot(region, cache, oldest);
        }
        if (!mixed) pthread_mutex_unlock(&region->lock);
    }
}

bool na_span_cache_put(na_region *region, na_span_cache *cache, na_span *span, uint64_t now) {
    if (na_opt.purge_delay_ms == 0) return false;
    unsigned slot = cache->last; /* what was taken last was put last, most often */
    if (cache->slices[slot] != 0 || cache->total + span->slices > NA_SPAN_CACHE_SLICES)
        slot = room_for(region, cache, span->slices);
    add(&cache->freed, 1);
    add(&cache->freed_bytes, na_span_bytes(span));
    set_kind(span, NA_CACHED);
    atomic_store_explicit(&cache->at[slot], now, memory_order_relaxed);
    cache->last = slot;
    cache->total += span->slices;
    cache->slices[slot] = span->slices;
    atomic_store(&cache->span[slot], span);
    /* Both sequentially consistent: a thread that counts cached spans sees this one, or this thread sees that it must set `since`. */
    _Atomic(uint64_t) *since = &region->cached_since;
    uint64_t said = atomic_load(since);
    while (said >= COUNTING && !atomic_compare_exchange_weak(since, &said, now)) {}
    return true;
}

void na_span_cache_recount(na_span_cache *cache) {
    cache->total = 0;
    for (unsigned slot = 0; slot < NA_SPAN_CACHE_SLOTS; slot++) {
        const na_span *span = atomic_load_explicit(&cache->span[slot], memory_order_relaxed);
        cache->slices[slot] = span != NULL ? span->slices : 0;
        cache->total += cache->slices[slot];
    }
}

/* ---- any thread -------------------------------------------------------------------------------------------- */

/* The slot that was filled first, before a time; -1: none. */
static int oldest_slot(const na_span_cache *cache, uint64_t before) {
    int oldest = -1;
    for (int slot = 0; slot < NA_SPAN_CACHE_SLOTS; slot++) {
        if (atomic_load(&cache->span[slot]) == NULL) continue;
        uint64_t at = atomic_load_explicit(&cache->at[slot], memory_order_relaxed);
        if (at >= before) continue;
        before = at;
        oldest = slot;
    }
    return oldest;
}

/* About so many bytes of a cache. */
static uint64_t release_from(na_region *region, na_span_cache *cache, uint64_t before, uint64_t bytes) {
    uint64_t gone = 0;
    int slot = bytes != 0 ? oldest_slot(cache, before) : -1;
    if (slot < 0) return 0;
    pthread_mutex_lock(&region->lock);
    for (int i = 0; slot >= 0 && i < NA_SPAN_CACHE_SLOTS && gone < bytes; i++) { /* its owner may be filling it */
        gone += release_slot(region, cache, (unsigned)slot);
        slot = oldest_slot(cache, before);
    }
    pthread_mutex_unlock(&region->lock);
    return gone;
}

void na_span_cache_release(na_region *region, uint64_t before, uint64_t bytes) {
    uint64_t since = atomic_load(&region->cached_since);
    if (since == NA_NO_TIME || (since >= before && since != COUNTING)) return;
    atomic_store(&region->cached_since, COUNTING);
    pthread_mutex_lock(&region->lock);
    na_span_cache *cache = region->caches; /* what follows it never changes */
    pthread_mutex_unlock(&region->lock);
    since = NA_NO_TIME;
    for (; cache != NULL; cache = cache->next) {
        uint64_t gone = release_from(region, cache, before, bytes);
        bytes -= gone < bytes ? gone : bytes;
        int slot = oldest_slot(cache, NA_NO_TIME);
        uint64_t at = slot >= 0 ? atomic_load_explicit(&cache->at[slot], memory_order_relaxed) : NA_NO_TIME;
        if (at < since) since = at;
    }
    uint64_t said = atomic_load(&region->cached_since);
    while ((since < said || said == COUNTING) && !atomic_compare_exchange_weak(&region->cached_since, &said, since)) {}
}

/* Other threads go on counting. Frees are read first, in all caches, so that no difference is negative; spans taken before
 * the other counts are read seem to be in use. */
na_span_cache_counts na_span_cache_count(const na_region *region) {
    na_span_cache_counts sum = {0};
    for (const na_span_cache *cache = region->caches; cache != NULL; cache = cache->next) {
        sum.freed += atomic_load_explicit(&cache->freed, memory_order_acquire);
        sum.freed_bytes += atomic_load_explicit(&cache->freed_bytes, memory_order_acquire);
    }
    for (const na_span_cache *cache = region->caches; cache != NULL; cache = cache->next) {
        sum.taken += atomic_load_explicit(&cache->taken, memory_order_acquire);
        sum.taken_bytes += atomic_load_explicit(&cache->taken_bytes, memory_order_acquire);
        for (unsigned slot = 0; slot < NA_SPAN_CACHE_SLOTS; slot++) {
            const na_span *span = atomic_load_explicit(&cache->span[slot], memory_order_relaxed);
            if (span != NULL) sum.bytes += na_span_bytes(span);
        }
    }
    return sum;
}
