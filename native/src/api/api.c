/* SPDX-License-Identifier: BSD-3-Clause
 *
 * api.c: the calls that allocate, free and describe blocks: checks arguments, finds the region, and hands over
 * to heap.c or large.c. The fast paths are in fast.h.
 *
 * Threads: no state of its own.
 */
#include "api/api.h"
#include "api/sized.h"
#include "heap/hooks.h"
#include "large/large.h"
#include "reclaim/reclaim.h"
#include "space/space.h"

#include <errno.h>
#include <string.h>

#define NA_ALIGN_MAX ((size_t)1 << 30)
#define NA_FLAGS (NUMALLOC_STRICT | NUMALLOC_ZERO | NUMALLOC_POPULATE)

static void *alloc_here(size_t size, size_t align, unsigned flags);

void *numalloc(size_t size) { return na_alloc_any(size); }

void numalloc_free(void *ptr) {
    na_span *span = na_span_at(ptr);
    if (!na_free_fast(span, ptr) && ptr != NULL) na_free_slow(span, ptr, "numalloc_free");
}

/* ---- freeing, the rest ------------------------------------------------------------------------------- */

static const char *const NOT_OURS = "is not from this allocator";
static const char *const NOT_LIVE = "is not allocated (freed before?)";
static const char *const NOT_START = "is not the start of a block";
static const char *const REMEDY_OURS = "free memory with the library that allocated it";
static const char *const REMEDY_ONCE = "free each block once; build with -fsanitize=address to find the first free";
static const char *const REMEDY_START = "free the pointer that the allocation returned";

/* Is the start of a block free? Of large blocks only secure mode knows. */
static bool is_free(const void *start) { return NA_UNLIKELY(na_secure) ? !na_live_at(start) : na_marked_free(start); }

/* NULL if `ptr` is the start of a live block of `span`; else what is wrong with it. */
static const char *fault_of(const na_span *span, const void *ptr, const char **remedy) {
    *remedy = REMEDY_ONCE;
    if (span == NULL) {
        bool inside = na_is_ours(ptr);
        if (!inside) *remedy = REMEDY_OURS;
        return inside ? NOT_LIVE : NOT_OURS;
    }
    if (span->kind == NA_LARGE) {
        if (ptr == (void *)span->start) return NA_UNLIKELY(na_secure) && is_free(ptr) ? NOT_LIVE : NULL;
        *remedy = REMEDY_START;
        return NOT_START;
    }
    if (span->kind != NA_PAGE) return NOT_LIVE;
    uint32_t offset = (uint32_t)((uintptr_t)ptr - span->start); /* a page is short */
    if (offset % span->block_size != 0 || offset / span->block_size >= na_page_carved(span)) {
        *remedy = REMEDY_START;
        return NOT_START;
    }
    return is_free(ptr) ? NOT_LIVE : NULL;
}

/* NULL: the block is the caller's to free; else what is wrong. */
static const char *claim(const na_span *span, const void *ptr, const char **remedy) {
    if (NA_UNLIKELY(na_secure) && na_live_claim(ptr)) return NULL;
    const char *fault = fault_of(span, ptr, remedy);
    return fault == NULL && na_secure ? NOT_LIVE : fault; /* another thread was first, just now */
}

static void (*_Atomic before_large_free)(void);

void numalloc_before_large_free(void (*look)(void)) { atomic_store(&before_large_free, look); }

static void free_large(na_span *span) {
    bool peak = na_span_bytes(span) >= NA_PEAK_BYTES;
    void (*look)(void) = atomic_load_explicit(&before_large_free, memory_order_relaxed);
    if (NA_UNLIKELY(look != NULL)) look();
    na_region *region = &na_regions[span->region];
    uint64_t now = os_now_ms();
    if (region->node_index < 0) na_mixed_free(span, now);
    else na_large_free(region, span, now);
    if (peak) na_purger_start();
    na_reclaim_pass(region, true, now);
}

static void free_block(na_span *span, void *ptr, const char *call) {
    const char *remedy, *fault = claim(span, ptr, &remedy);
    if (fault != NULL) {
        na_misuse(call, ptr, fault, remedy);
        return;
    }
    if (span->kind == NA_LARGE) {
        free_large(span);
        return;
    }
    if (NA_UNLIKELY(na_secure)) {
        na_secure_free(span, ptr);
        return;
    }
    na_heap *heap = atomic_load_explicit(&span->heap, memory_order_relaxed);
    /* NULL: no memory for a record, or the thread has ended and no exit handler would run again; the free still works. */
    na_thread *self = na_self.ended ? na_self.thread : na_thread_get();
    na_block *block = ptr;
    if (self != NULL && atomic_load_explicit(&heap->thread, memory_order_relaxed) == self) {
        if (na_page_push(span, block)) na_freed_slow(span);
    } else {
        na_mark_free(block);
        na_remote_free(span, block);
    }
}

__attribute__((noinline)) void na_free_slow(na_span *span, void *ptr, const char *call) {
    if (NA_UNLIKELY(na_hooked)) na_modes.free(ptr, call);
    else free_block(span, ptr, call);
}

void na_free(void *ptr, const char *call) { free_block(na_span_at(ptr), ptr, call); }

/* A heap may have taken or given spans. */
static void after_change(na_heap *heap, bool freed) {
    if (NA_LIKELY(!heap->changed)) return;
    heap->changed = 0;
    na_reclaim_pass(heap->region, freed, os_now_ms());
}

__attribute__((noinline)) void na_freed_slow(na_span *page) {
    na_heap *heap = atomic_load_explicit(&page->heap, memory_order_relaxed);
    na_page_freed(page);
    after_change(heap, true);
}

/* ---- allocating, the rest ------------------------------------------------------------------------------ */

/* Zeroes a block that the heap has just given. */
static void zero_block(void *ptr, size_t size, const na_heap *heap) {
    uint32_t tag = na_span_at(ptr)->tag;
    const na_cache *cache = &heap->cache[na_tag_class(tag)];
    bool free_is_zero = na_tag_is_page(tag, heap->tag_of_pages) && cache->zeroed == cache->frees;
    memset(ptr, 0, free_is_zero ? sizeof(na_block) : size);
    if (free_is_zero) na_touch(ptr, size);
}

/* Of large blocks; those of a page become live where they leave its list. */
static void *born(void *block) {
    if (NA_UNLIKELY(na_secure) && block != NULL) (void)na_live_begin(block);
    return block;
}

/* The one look at a size: what passes can be rounded up and counted in slices. */
static bool size_fits(size_t size) {
    if (NA_LIKELY(size <= na_size_max)) return true;
    errno = ENOMEM;
    return false;
}

static void *alloc_in(na_region *region, size_t size, size_t align, unsigned flags) {
    if (size < NA_GRANULE) size = NA_GRANULE;
    size_t padded = align > NA_GRANULE ? (size + align - 1) & ~(align - 1) : size;
    bool large = padded > NA_BLOCK_MAX || align > NA_SLICE;
    /* What grows beyond half a slice has a span of its own if it can, in which it is not copied any more. */
    if (large || ((flags & NA_GROWING) != 0 && size > NA_SLICE / 2)) {
        void *block = na_large_alloc(region, size, align, flags);
        na_reclaim_pass(region, false, os_now_ms());
        if (large || block != NULL) return born(block);
    }
    na_heap *heap = na_heap_of(region);
    if (heap == NULL) return NULL;
    bool whole = (flags & NUMALLOC_ZERO) != 0 && align <= NA_GRANULE;
    void *block = na_heap_alloc(heap, aligned_to_class(align, padded), whole);
    after_change(heap, false);
    if (block == NULL) return NULL;
    if ((flags & NUMALLOC_POPULATE) != 0) {
        na_nodeset home = na_region_nodes(region);
        int error = na_populate((uintptr_t)block, size, &home, region->strict ? NA_IN_SET : NA_UNCHECKED);
        if (error != 0) {
            na_free(block, "numalloc_request");
            errno = error;
            return NULL;
        }
    }
    if ((flags & NUMALLOC_ZERO) != 0) zero_block(block, size, heap);
    return block;
}

/* Was memory that is faulted in refused for want of room, and free memory given back since? */
static bool made_room(bool strict, unsigned flags) {
    return errno == ENOMEM && (strict || (flags & NUMALLOC_POPULATE) != 0) && na_reclaim_all();
}

static void *counted(na_region *region, bool strict, void *block) {
    if (NA_UNLIKELY(block == NULL) && strict && errno == ENOMEM)
        atomic_fetch_add_explicit(&region->strict_failures, 1, memory_order_relaxed);
    return block;
}

/* The first failure is followed by another try in any case: what was in the way may have been another thread's purge, which
 * relieve waits for, or another thread has just made the room that both need. */
void *na_alloc(na_region *region, size_t size, size_t align, unsigned flags) {
    if (!size_fits(size)) return NULL;
    void *block = alloc_in(region, size, align, flags);
    for (int attempt = 0; NA_UNLIKELY(block == NULL) && errno == ENOMEM && attempt < NA_RELIEVE_ATTEMPTS; attempt++)
        if (na_reclaim_relieve(region, attempt) || attempt == 0) block = alloc_in(region, size, align, flags);
    if (NA_UNLIKELY(block == NULL) && made_room(region->strict, flags)) block = alloc_in(region, size, align, flags);
    return counted(region, region->strict, block);
}

static void *mixed_alloc(const na_placement *placement, size_t size, size_t align, unsigned flags) {
    na_region *region = na_region_mixed();
    void *block = na_mixed_alloc(placement, size, align, flags);
    if (NA_UNLIKELY(block == NULL) && errno == ENOMEM) {
        (void)na_reclaim_relieve(region, 0);
        block = na_mixed_alloc(placement, size, align, flags);
    }
    if (NA_UNLIKELY(block == NULL) && made_room(placement->strict, flags))
        block = na_mixed_alloc(placement, size, align, flags);
    na_reclaim_pass(region, false, os_now_ms());
    return born(counted(region, placement->strict, block));
}

/* On a node, or when it can't and the use is not strict, on the next by distance, which is counted. */
static void *alloc_on(int node_index, enum na_use use, size_t size, size_t align, unsigned flags) {
    void *block = na_alloc(na_region_node(node_index, use), size, align, flags);
    if (NA_LIKELY(block != NULL) || use == NA_STRICT || (errno != ENOMEM && errno != ENODEV)) return block;
    const int16_t *neighbour = na_topology_neighbours(node_index);
    for (int i = 1; i < na_topo.node_count; i++) {
        block = na_alloc(na_region_node(neighbour[i], use), size, align, flags);
        if (block == NULL) continue;
        atomic_fetch_add_explicit(&na_region_node(node_index, use)->fallbacks, 1, memory_order_relaxed);
        return block;
    }
    errno = ENOMEM;
    return NULL;
}

static void *alloc_here(size_t size, size_t align, unsigned flags) {
    if (!na_init()) return NULL;
    if (NA_UNLIKELY(na_hooked)) return na_modes.alloc_here(size, align, flags);
    na_heap *heap = na_heap_here();
    /* A region that can't be opened (the commit limit, after the thread came to its node): others may have free memory. */
    int home = heap != NULL ? heap->region->node_index : na_home_index();
    return alloc_on(home, na_use_local(na_opt.strict || (flags & NUMALLOC_STRICT) != 0), size, align, flags);
}

/* Most need no more than the next blocks of the page at hand, or a span of the cache. */
__attribute__((noinline)) void *na_alloc_slow(size_t size) {
    if (size - 1 < NA_BLOCK_MAX && !na_moved()) {
        na_heap *heap = na_self.heap;
        unsigned class_index = size_to_class(size);
        na_cache *cache = &heap->cache[class_index];
        /* The fast path saw the thread on another node, and now it is back. */
        if (NA_UNLIKELY(cache->top != NULL)) return na_cache_pop(cache);
        na_span *page = heap->queue[class_index].first;
        /* Blocks that were never used come after those that others of its pages have. */
        if (page != NULL && (page->free != 0 || (page->carved < page->capacity && page->next == NULL &&
                                                 !na_page_may_be_retired(heap, class_index)))) {
            na_heap_enter(heap);
            na_cache_fill(cache, page);
            na_heap_leave(heap);
            return na_cache_pop(cache);
        }
    } else if (size - 1 < NA_SPAN_CACHE_MAX && !na_moved() && !na_opt.strict) {
        uint32_t slices = (uint32_t)((size + NA_SLICE - 1) >> NA_SLICE_SHIFT);
        na_span *span = na_span_cache_take(&na_self.heap->spans, slices);
        if (span != NULL) return (void *)span->start;
    }
    return alloc_here(size, 0, 0);
}

static bool align_valid(size_t align) { return align != 0 && (align & (align - 1)) == 0 && align <= NA_ALIGN_MAX; }

void *numalloc_aligned(size_t align, size_t size) {
    if (!align_valid(align)) {
        errno = EINVAL;
        return NULL;
    }
    void *block = na_aligned_fast(align, size);
    if (NA_LIKELY(block != NULL)) return block;
    if (align <= NA_GRANULE) return na_alloc_any(size);
    if (align <= NA_SLICE && size - 1 < NA_BLOCK_MAX && !na_hooked) {
        size_t padded = na_round_up(size, align);
        if (padded <= NA_BLOCK_MAX && aligned_to_class(align, padded) < NA_SIZES) return na_alloc_any(padded);
    }
    return alloc_here(size, align, 0);
}

void *numalloc_calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    void *block = na_alloc_fast(bytes); /* NULL also where a mode sees each block: it may hold anything */
    if (NA_LIKELY(block != NULL)) {
        zero_block(block, bytes < sizeof(na_block) ? sizeof(na_block) : bytes, na_self.heap);
        return block;
    }
    return alloc_here(bytes, 0, NUMALLOC_ZERO);
}

/* ---- requests with a policy ------------------------------------------------------------------------------ */

/* The set asked for, or all allowed nodes. 0 or errno. */
static int resolve_nodes(const numalloc_nodemask_t *asked, na_nodeset *nodes) {
    *nodes = asked != NULL ? *asked : na_topo.allowed;
    if (nodeset_count(nodes) == 0) return EINVAL;
    return nodeset_within(nodes, &na_topo.allowed) ? 0 : ENODEV;
}

/* A member of the set by turns, for blocks too small to be spread. */
static int next_by_turns(const na_nodeset *nodes) {
    na_thread *thread = na_thread_get();
    uint32_t turn = thread != NULL ? thread->round_robin++ : 0;
    int skip = (int)(turn % (uint32_t)nodeset_count(nodes));
    int node = nodeset_next(nodes, 0);
    while (skip-- > 0) node = nodeset_next(nodes, node + 1);
    return node;
}

static void *request_spread(const numalloc_request_t *request, size_t align, bool strict) {
    na_nodeset nodes;
    int error = resolve_nodes(request->nodes, &nodes);
    if (error != 0) {
        errno = error;
        return NULL;
    }
    if (nodeset_count(&nodes) == 1 || request->size < os_page_size()) {
        int index = na_topology_index_of(next_by_turns(&nodes));
        return alloc_on(index, strict ? NA_STRICT : NA_ONNODE, request->size, align, request->flags);
    }
    if (!size_fits(request->size)) return NULL;
    na_placement placement = {.nodes = nodes, .policy = (uint8_t)request->policy, .strict = strict};
    if (request->policy == NUMALLOC_BLOCKED) placement.stripe = request->stripe;
    return mixed_alloc(&placement, request->size, align, request->flags);
}

/* Blocks below a page by turns, in the proportion of the weights. */
static int next_by_weight(const na_placement *placement) {
    na_thread *thread = na_thread_get();
    unsigned sum = 0, turn = thread != NULL ? thread->round_robin++ : 0;
    int node = -1;
    while ((node = nodeset_next(&placement->nodes, node + 1)) >= 0) sum += placement->weights->of[node];
    turn %= sum;
    for (node = nodeset_next(&placement->nodes, 0); turn >= placement->weights->of[node];) {
        turn -= placement->weights->of[node];
        node = nodeset_next(&placement->nodes, node + 1);
    }
    return node;
}

static void *request_weighted(const numalloc_request_t *request, size_t align, bool strict) {
    numalloc_weights_t weights;
    na_placement placement = {.policy = NUMALLOC_WEIGHTED, .strict = strict, .weights = &weights};
    if (request->weights != NULL) {
        weights = *request->weights;
        for (int node = 0; node < NUMALLOC_MAX_NODES; node++)
            if (weights.of[node] != 0) nodeset_add(&placement.nodes, node);
    }
    int error = request->weights == NULL ? numalloc_weights(request->nodes, &weights) : 0;
    if (error == 0)
        error = resolve_nodes(request->weights != NULL ? &placement.nodes : request->nodes, &placement.nodes);
    if (error == 0 && request->nodes != NULL && !nodeset_equal(request->nodes, &placement.nodes)) error = EINVAL;
    if (error != 0) {
        errno = error;
        return NULL;
    }
    if (nodeset_count(&placement.nodes) == 1 || request->size < os_page_size()) {
        int index = na_topology_index_of(next_by_weight(&placement));
        return alloc_on(index, strict ? NA_STRICT : NA_ONNODE, request->size, align, request->flags);
    }
    if (!size_fits(request->size)) return NULL;
    na_weights_reduce(&weights, &placement.nodes);
    return mixed_alloc(&placement, request->size, align, request->flags);
}

/* Preferred: the nearest node of the kind, and from there as any node. Strict: those of the kind by distance. */
static void *request_of_kind(const numalloc_request_t *request, size_t align, bool strict) {
    int node = na_kind_nearest(request->policy, numalloc_current_node());
    if (node < 0) {
        errno = ENODATA;
        return NULL;
    }
    int nearest = na_topology_index_of(node);
    if (!strict) return alloc_on(nearest, NA_ONNODE, request->size, align, request->flags);
    const na_nodeset *nodes = &na_kind_of(request->policy)->nodes;
    const int16_t *neighbour = na_topology_neighbours(nearest);
    void *block = NULL;
    for (int i = 0; i < na_topo.node_count && block == NULL; i++)
        if (nodeset_has(nodes, na_topo.node_id[neighbour[i]]))
            block = alloc_on(neighbour[i], NA_STRICT, request->size, align, request->flags);
    return block;
}

void *na_request(const numalloc_request_t *request) {
    if ((request->flags & ~(unsigned)NA_FLAGS) != 0 || (request->align != 0 && !align_valid(request->align))) {
        errno = EINVAL;
        return NULL;
    }
    if (!na_init()) return NULL;
    bool strict = na_opt.strict || (request->flags & NUMALLOC_STRICT) != 0;
    switch (request->policy) {
    case NUMALLOC_LOCAL:
        return alloc_on(na_home_index(), na_use_local(strict), request->size, request->align, request->flags);
    case NUMALLOC_ONNODE:
        if (!nodeset_has(&na_topo.allowed, request->node)) break;
        return alloc_on(na_topology_index_of(request->node), strict ? NA_STRICT : NA_ONNODE, request->size,
                        request->align, request->flags);
    case NUMALLOC_INTERLEAVE:
    case NUMALLOC_BLOCKED: return request_spread(request, request->align, strict);
    case NUMALLOC_WEIGHTED: return request_weighted(request, request->align, strict);
    case NUMALLOC_KIND_BANDWIDTH:
    case NUMALLOC_KIND_LATENCY:
    case NUMALLOC_KIND_CAPACITY: return request_of_kind(request, request->align, strict);
    default: errno = EINVAL; return NULL;
    }
    errno = ENODEV;
    return NULL;
}

void *numalloc_request_sized(const numalloc_request_t *request, size_t bytes) {
    numalloc_request_t own;
    if (!na_question(request, bytes, offsetof(numalloc_request_t, weights), &own, sizeof own)) {
        errno = EINVAL;
        return NULL;
    }
    if (!na_init()) return NULL;
    return NA_UNLIKELY(na_hooked) ? na_modes.alloc(&own) : na_request(&own);
}

void *numalloc_onnode(size_t size, int node) {
    numalloc_request_t request = {.size = size, .policy = NUMALLOC_ONNODE, .node = node};
    return numalloc_request(&request);
}

void *numalloc_interleaved(size_t size, const numalloc_nodemask_t *nodes) {
    numalloc_request_t request = {.size = size, .policy = NUMALLOC_INTERLEAVE, .nodes = nodes};
    return numalloc_request(&request);
}

void *numalloc_blocked(size_t size, const numalloc_nodemask_t *nodes) {
    numalloc_request_t request = {.size = size, .policy = NUMALLOC_BLOCKED, .nodes = nodes};
    return numalloc_request(&request);
}

void *numalloc_onkind(size_t size, int kind) {
    numalloc_request_t request = {.size = size, .policy = kind};
    if (na_is_kind(kind)) return numalloc_request(&request);
    errno = EINVAL;
    return NULL;
}

void *numalloc_weighted(size_t size, const numalloc_weights_t *weights) {
    numalloc_request_t request = {.size = size, .policy = NUMALLOC_WEIGHTED, .weights = weights};
    return numalloc_request(&request);
}

/* ---- realloc ------------------------------------------------------------------------------------------- */

/* A block of the same home as `span`'s. */
static void *alloc_like(const na_span *span, size_t size, bool grows) {
    const na_region *region = &na_regions[span->region];
    if (region->node_index >= 0) return alloc_on(region->node_index, region->use, size, 0, grows ? NA_GROWING : 0);
    na_placement placement = *span->placement;
    return mixed_alloc(&placement, size, 0, 0);
}

void *na_realloc(void *ptr, size_t size) {
    na_span *span = na_span_at(ptr);
    const char *remedy, *fault = fault_of(span, ptr, &remedy);
    if (fault != NULL) {
        na_misuse("numalloc_realloc", ptr, fault, remedy);
        errno = EINVAL;
        return NULL;
    }
    if (!size_fits(size)) return NULL;
    size_t have = na_usable(span);
    bool large = size > NA_BLOCK_MAX && span->kind == NA_LARGE && na_regions[span->region].node_index >= 0;
    /* As it is, unless it would be much shorter than its block. */
    if (large ? na_large_stays(span, size) : size <= have && size >= have / 2) return ptr;
    if (large) {
        if (NA_UNLIKELY(na_secure) && !na_live_claim(ptr)) {
            na_misuse("numalloc_realloc", ptr, NOT_LIVE, REMEDY_ONCE);
            errno = EINVAL;
            return NULL;
        }
        na_region *region = &na_regions[span->region]; /* first, as the span may be another's afterwards */
        void *moved = na_large_realloc(span, size);
        if (moved == NULL && region->strict && errno == ENOMEM && (na_reclaim_relieve(region, 0) | made_room(true, 0)))
            moved = na_large_realloc(span, size); /* others are asked for below */
        na_reclaim_pass(region, false, os_now_ms());
        (void)born(moved != NULL ? moved : ptr);
        if (moved != NULL || region->strict) return counted(region, region->strict, moved);
    }
    void *moved = alloc_like(span, size, size > have);
    if (moved == NULL) return size <= have ? ptr : NULL; /* shrinking never fails */
    memcpy(moved, ptr, have < size ? have : size);
    if (na_hooked) na_free(ptr, "numalloc_realloc");
    else numalloc_free(ptr);
    return moved;
}

void *numalloc_realloc(void *ptr, size_t size) {
    if (ptr == NULL) return numalloc(size);
    if (size == 0) {
        numalloc_free(ptr);
        return NULL;
    }
    return NA_UNLIKELY(na_hooked) ? na_modes.realloc(ptr, size) : na_realloc(ptr, size);
}

/* ---- queries ------------------------------------------------------------------------------------------- */

size_t numalloc_usable_size(const void *ptr) {
    if (NA_UNLIKELY(na_hooked)) {
        numalloc_block_info_t info;
        return numalloc_block_info(ptr, &info) == 0 && info.start == ptr ? info.size : 0;
    }
    const na_span *span = na_span_at(ptr);
    const char *remedy;
    return ptr != NULL && fault_of(span, ptr, &remedy) == NULL ? na_usable(span) : 0;
}

static uintptr_t start_of(const na_span *span, const void *ptr) {
    if (span == NULL || (span->kind != NA_PAGE && span->kind != NA_LARGE)) return 0;
    if (span->kind == NA_LARGE) return span->start;
    uint32_t index = (uint32_t)(((uintptr_t)ptr - span->start) / span->block_size);
    uintptr_t start = span->start + (uintptr_t)index * span->block_size;
    return index < na_page_carved(span) && !is_free((void *)start) ? start : 0;
}

uintptr_t na_block_start(const void *ptr) { return start_of(na_span_at(ptr), ptr); }

int numalloc_block_info_sized(const void *ptr, numalloc_block_info_t *info, size_t bytes) {
    if (!na_answer(info, bytes, sizeof *info)) return EINVAL;
    const na_span *span = na_span_at(ptr);
    uintptr_t start = start_of(span, ptr);
    if (start == 0) return EFAULT;
    const na_region *region = &na_regions[span->region];
    bool mixed = region->node_index < 0;
    bool strict = mixed ? span->placement->strict != 0 : region->strict;
    *info = (numalloc_block_info_t){
        .start = (void *)start,
        .size = na_usable(span),
        .size_class = span->kind == NA_PAGE ? span->class_index : -1,
        .numa_node = region->node,
        .policy = mixed                         ? span->placement->policy
                  : region->use == NA_INHERITED ? NUMALLOC_LOCAL
                                                : NUMALLOC_ONNODE,
        .flags = strict ? NUMALLOC_STRICT : 0,
        .huge_page = span->huge_shift != 0 ? (size_t)1 << span->huge_shift : 0,
    };
    return NA_UNLIKELY(na_hooked) && !na_modes.describe(info) ? EFAULT : 0;
}

int numalloc_node_of(const void *ptr) {
    numalloc_block_info_t info;
    return numalloc_block_info(ptr, &info) == 0 ? info.numa_node : NUMALLOC_NODE_FOREIGN;
}
