/* SPDX-License-Identifier: BSD-3-Clause
 *
 * reclaim.c: the one owner of "memory is short" and of giving memory back. Free memory rests in three forms: in heaps
 * without a thread (abandoned.c), in span caches (cache.c), and in dirty spans (rest.c). It goes back
 *
 *   by age     what has rested for the purge delay, as calls pass by, or by the purger's thread;
 *   by volume  when a thread only frees, and more rests than NA_REST_LEAST and what is in use. Who takes it all again pays for
 *              that once for each new peak: only as much goes as the peak grew (`unproven`);
 *   for new    when memory is opened in one place while more than a share rests: what rests in the other part, where it
 *              serves nobody. In the same part, where it may serve the next request, it is bounded (`early_bytes`);
 *   all        when a request would fail, or a cgroup limit is near.
 *
 * A pass takes spans out under the region's lock and gives them to the system without it.
 *
 * Threads: any number at a time; each purges spans of its own.
 */
#include "large/large.h"
#include "reclaim/reclaim.h"
#include "space/space.h"

#include <errno.h>

enum {
    MIB = 1 << 20,
    BATCH = 32 * MIB,      /* bytes taken out at a time: nobody can have them meanwhile */
    PASS_PER_MS = 1 * MIB, /* bytes that are due go in a pass, for each ms since the last: a few percent of the time */
    PASS_LEAST = 2 * MIB,
    PASS_MOST = 256 * MIB,
    CGROUP_LOOK = 256 * MIB /* bytes opened between two looks at the limits, at most */
};

/* ---- dirty spans ----------------------------------------------------------------------------------------- */

/* Purges a batch that was taken out. The lock is held before and after, but not meanwhile. */
static uint64_t purge(na_region *region, na_rest_batch *batch) {
    if (batch->first == NULL) return 0;
    unsigned count = na_rest_count(region);
    pthread_mutex_unlock(&region->lock);
    na_rest_purge(batch);
    pthread_mutex_lock(&region->lock);
    region->in_purge[count]--;
    return na_rest_put_back(region, batch);
}

/* About so many bytes of a part that rested for `age` ticks, or less if there is no more; UINT64_MAX: all. */
static uint64_t purge_part(na_region *region, unsigned part, int age, uint64_t bytes) {
    uint64_t gone = 0;
    while (gone < bytes) {
        na_rest_batch batch = {.age = age, .all = bytes == UINT64_MAX};
        uint64_t left = bytes - gone;
        na_rest_take(region, part, left < BATCH ? left : BATCH, &batch);
        uint64_t some = purge(region, &batch);
        if (some == 0) break;
        gone += some;
    }
    return gone;
}

/* ---- when, and how much ---------------------------------------------------------------------------------- */

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t above(uint64_t value, uint64_t limit) { return value > limit ? value - limit : 0; }

/* `quiet`: ms without a call since one was wanted. While calls come all the time each gives back little. */
static void by_age(na_region *region, uint64_t now, uint64_t quiet) {
    bool due = na_rest_due(region);
    uint64_t since = region->passed_at != 0 ? above(now, region->passed_at) : quiet;
    region->passed_at = due ? now : 0;
    if (!due) return;
    uint64_t budget = since > PASS_MOST / PASS_PER_MS ? PASS_MOST : since * PASS_PER_MS;
    if (budget < PASS_LEAST) budget = PASS_LEAST;
    if (na_opt.purge_delay_ms == 0) budget = UINT64_MAX / 2;
    uint64_t gone = 0;
    for (unsigned p = 2; p-- > 0 && gone < budget;) gone += purge_part(region, p, NA_AGES, budget - gone);
    /* What nobody wanted for so long: the next peak is a new one. */
    uint64_t have = atomic_load_explicit(&region->used_bytes, memory_order_relaxed) + region->dirty_bytes;
    uint64_t low = above(region->used_most, gone);
    if (region->used_most > have) region->used_most = low > have ? low : have;
}

/* What rests beyond measure goes, from all three forms. The lock is held before and after, but not meanwhile. What is on its
 * way into free spans seems to be in use, so other threads see too little then: the excess is looked at again afterwards. */
static void shrink(na_region *region) {
    uint64_t excess = na_rest_excess(region);
    if (excess != 0 && region->rested != 0) {
        pthread_mutex_unlock(&region->lock);
        na_abandoned_release(region, NA_NO_TIME);
        na_span_cache_release(region, NA_NO_TIME, region->node_index < 0 ? excess : UINT64_MAX);
        pthread_mutex_lock(&region->lock);
        excess = na_rest_excess(region);
    }
    region->unproven -= excess;
    for (unsigned p = 2; p-- > 0 && excess != 0;) excess = above(excess, purge_part(region, p, 0, excess));
}

/* What is used or dirty above the most that was ever used and a share of it, or `floor`. */
static uint64_t excess_over(const na_region *region, unsigned share, uint64_t floor) {
    uint64_t more = region->used_most / share;
    uint64_t used = atomic_load_explicit(&region->used_bytes, memory_order_relaxed);
    return above(used + region->dirty_bytes, region->used_most + (more > floor ? more : floor));
}

static void for_new(na_region *region) {
    uint64_t opened[2] = {region->part[0].fresh, region->part[1].fresh}, growing = region->fresh_growing;
    region->part[0].fresh = region->part[1].fresh = region->fresh_growing = 0;
    if (region->dirty_bytes == 0) return;
    for (unsigned p = 0; p < 2; p++)
        if (opened[p] != 0) { /* what was freed in this tick may be wanted again at once */
            uint64_t excess = least(excess_over(region, 8, 16 * MIB), 2 * opened[p] + PASS_LEAST);
            if (excess != 0) (void)purge_part(region, !p, 1, excess);
        }
    if (opened[1] != 0 && region->early_bytes > 0) {
        uint64_t excess = least(excess_over(region, 8, 16 * MIB), (uint64_t)region->early_bytes);
        if (excess != 0) region->early_bytes -= (int64_t)purge_part(region, 1, 0, excess);
    }
    /* Blocks that grow in place leave alone what is free elsewhere: for each of their bytes two go. */
    if (growing != 0 && excess_over(region, 16, MIB) != 0) (void)purge_part(region, 0, 0, 2 * growing);
}

/* ---- limits of cgroups ----------------------------------------------------------------------------------- */

static _Atomic(uint64_t) opened_since, look_after = CGROUP_LOOK / 16;

/* `opened` bytes are about to be written to. Near a limit others' free memory goes first. */
static void mind_limits(uint64_t opened) {
    uint64_t since = atomic_fetch_add_explicit(&opened_since, opened, memory_order_relaxed) + opened;
    if (since < atomic_load_explicit(&look_after, memory_order_relaxed)) return;
    atomic_store_explicit(&opened_since, 0, memory_order_relaxed);
    uint64_t room = os_cgroup_room(), next = CGROUP_LOOK;
    if (room != UINT64_MAX) {
        next = above(room, opened) / 4; /* the nearer the limit, the sooner the next look */
        if (next > CGROUP_LOOK) next = CGROUP_LOOK;
        if (next < MIB) next = MIB;
        if (room < opened + next + 16 * MIB) (void)na_reclaim_all();
    }
    atomic_store_explicit(&look_after, next, memory_order_relaxed);
}

/* ---- entry points ---------------------------------------------------------------------------------------- */

/* Heaps and cached spans that rested long enough: `before` in ms. */
static void release_before(na_region *region, uint64_t before) {
    na_abandoned_release(region, before);
    na_span_cache_release(region, before, UINT64_MAX);
}

void na_reclaim_look(na_region *region, uint64_t now) {
    int saved = errno;
    uint64_t look_at = atomic_load_explicit(&region->look_at, memory_order_relaxed);
    if (now >= look_at) {
        atomic_store_explicit(&region->look_at, now + na_rest_tick_ms(), memory_order_relaxed);
        release_before(region,
                       na_opt.purge_delay_ms == 0 ? UINT64_MAX : above(now + 1, (uint64_t)na_opt.purge_delay_ms));
    }
    atomic_store_explicit(&region->restless, false, memory_order_relaxed);
    pthread_mutex_lock(&region->lock);
    (void)na_rest_tick(region, now);
    uint64_t opened = region->part[0].fresh + region->part[1].fresh;
    for_new(region);
    if (na_only_frees()) shrink(region);
    by_age(region, now, above(now, look_at));
    na_rest_weigh(region);
    pthread_mutex_unlock(&region->lock);
    if (opened != 0) mind_limits(opened);
    errno = saved;
}

void na_reclaim_thread_left(void) {
    na_purger_start();
    if (na_opt.purge_delay_ms == NA_PURGE_NEVER) return;
    for (int i = 0; i < na_region_count; i++) {
        na_region *region = &na_regions[i];
        if (!atomic_load_explicit(&region->opened, memory_order_acquire)) continue;
        pthread_mutex_lock(&region->lock);
        shrink(region);
        pthread_mutex_unlock(&region->lock);
    }
}

/* All dirty memory of a region, also what others are just giving back: the epoch moves on when all batches of the one before
 * are back, so after two steps those of the present one are. */
static void purge_all(na_region *region) {
    if (na_opt.purge_delay_ms == NA_PURGE_NEVER) return;
    pthread_mutex_lock(&region->lock);
    for (unsigned p = 0; p < 2; p++) (void)purge_part(region, p, 0, UINT64_MAX);
    for (uint32_t epoch = region->purge_epoch; region->purge_epoch - epoch < 2;) {
        if (region->in_purge[(region->purge_epoch + 1) % 2] == 0) {
            region->purge_epoch++;
            continue;
        }
        pthread_mutex_unlock(&region->lock);
        os_nap();
        pthread_mutex_lock(&region->lock);
    }
    pthread_mutex_unlock(&region->lock);
}

static uint64_t purged(na_region *region) {
    pthread_mutex_lock(&region->lock);
    uint64_t bytes = region->purged_bytes;
    pthread_mutex_unlock(&region->lock);
    return bytes;
}

/* What is in the way of a request: spans in use, and where there is a limit for the node also free memory. */
static uint64_t held(na_region *region) {
    pthread_mutex_lock(&region->lock);
    uint64_t bytes = atomic_load_explicit(&region->used_bytes, memory_order_relaxed);
    if (na_opt.node_limit != UINT64_MAX) bytes += region->dirty_bytes;
    pthread_mutex_unlock(&region->lock);
    return bytes;
}

size_t na_reclaim_region(na_region *region) {
    uint64_t before = purged(region);
    release_before(region, UINT64_MAX);
    purge_all(region);
    return purged(region) - before;
}

bool na_reclaim_all(void) {
    int saved = errno;
    if (na_opt.purge_delay_ms == NA_PURGE_NEVER) return false;
    for (int i = 0; i < na_region_count; i++)
        if (atomic_load_explicit(&na_regions[i].opened, memory_order_acquire)) (void)na_reclaim_region(&na_regions[i]);
    errno = saved;
    return true;
}

/* A node that is full is full for long, and each request comes by here: what there is nothing of costs next to nothing. */
bool na_reclaim_relieve(na_region *region, int attempt) {
    int saved = errno;
    bool any = false;
    /* The regions of a node share its limit, mixed memory that of all; where nothing is reserved all share the address space. */
    for (int i = 0; i < na_region_count; i++) {
        na_region *each = &na_regions[i];
        bool mixed = na_opt.node_limit != UINT64_MAX && (each->node_index < 0 || region->node_index < 0);
        if (each->limited_index != region->limited_index && !mixed && na_held) continue;
        if (!atomic_load_explicit(&each->opened, memory_order_acquire)) continue;
        uint64_t before = held(each);
        na_heap *own = na_self.thread != NULL ? na_self.thread->heaps[each->index] : NULL;
        if (own != NULL && attempt == 0) na_pages_retired_release(own);
        if (own != NULL && attempt == 1) na_heap_release(own, os_now_ms());
        (void)na_reclaim_region(each);
        any |= held(each) < before;
    }
    uint64_t space = os_address_space_left();
    if (space == 0 || (!na_held && space != UINT64_MAX)) any |= na_regions_let_go(UINT64_MAX);
    errno = saved;
    return any;
}

bool na_reclaim_due(void) {
    bool rests = false;
    if (na_opt.purge_delay_ms == NA_PURGE_NEVER) return false;
    for (int i = 0; i < na_region_count; i++) {
        na_region *region = &na_regions[i];
        if (!atomic_load_explicit(&region->opened, memory_order_acquire)) continue;
        na_reclaim_look(region, os_now_ms());
        rests |= na_abandoned_oldest(region) != NA_NO_TIME || atomic_load(&region->cached_since) != NA_NO_TIME;
        pthread_mutex_lock(&region->lock);
        rests |= na_rest_any(region);
        pthread_mutex_unlock(&region->lock);
    }
    return rests;
}
