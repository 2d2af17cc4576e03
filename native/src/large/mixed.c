/* SPDX-License-Identifier: BSD-3-Clause
 *
 * mixed.c: owns interleaved, weighted and blocked memory: spans of the last region, each with a kernel policy of its own.
 *
 * Such a span costs a few VMAs, so freed ones stay in the region's span cache (cache.c) with their policy and pages, and
 * serve the next request for the same placement. What leaves it loses policy and memory and is an ordinary free span again.
 *
 * Threads: placements, span cache and accounting under the region's lock.
 */
#include "large/large.h"
#include "space/space.h"

#include <errno.h>
#include <string.h>

/* Policy ranges of one block, if the caller says how it is split, and if not: the kernel allows 65530 VMAs per process. */
enum { NA_PIECES_MAX = 8192, NA_PIECES_WEIGHTED = 256 };

static unsigned weight_of(const na_placement *placement, int node) {
    return placement->policy == NUMALLOC_WEIGHTED ? placement->weights->of[node] : 1;
}

static size_t sum_of_weights(const na_placement *placement) {
    size_t sum = 0;
    for (int node = nodeset_next(&placement->nodes, 0); node >= 0; node = nodeset_next(&placement->nodes, node + 1))
        sum += weight_of(placement, node);
    return sum;
}

static bool same_placement(const na_placement *a, const na_placement *b) {
    if (a->policy != b->policy || a->strict != b->strict || a->stripe != b->stripe || a->size != b->size ||
        !nodeset_equal(&a->nodes, &b->nodes))
        return false;
    for (int node = nodeset_next(&a->nodes, 0); node >= 0; node = nodeset_next(&a->nodes, node + 1))
        if (weight_of(a, node) != weight_of(b, node)) return false;
    return true;
}

/* Calls visit for each [from, to) of a blocked or weighted array and its node, boundaries on pages. Stops at an error but EINVAL, a
 * node that was taken from this process, which it gives in the end. */
static int each_piece(const na_placement *placement, uintptr_t start, size_t bytes,
                      int (*visit)(uintptr_t from, size_t length, int node, bool strict), bool strict) {
    size_t page = os_page_size();
    size_t end = na_round_up(bytes, page);
    if (placement->policy == NUMALLOC_WEIGHTED) bytes = end; /* nodes get whole pages by weight */
    size_t stripe = placement->stripe != 0 ? placement->stripe : bytes;
    size_t whole = sum_of_weights(placement);
    size_t from = 0;
    int removed = 0;
    for (size_t base = 0; base < bytes; base += stripe) {
        /* A last stripe that is cut off is split as a whole by weights. */
        size_t here = placement->policy == NUMALLOC_WEIGHTED && bytes - base < stripe ? bytes - base : stripe;
        int node = nodeset_next(&placement->nodes, 0);
        for (size_t sum = 0; node >= 0; node = nodeset_next(&placement->nodes, node + 1)) {
            sum += weight_of(placement, node);
            /* here * sum / whole without overflow */
            size_t part = here / whole * sum + here % whole * sum / whole;
            size_t to = (base + part + page / 2) & ~(page - 1);
            if (to > end || (sum == whole && bytes - base <= stripe)) to = end;
            if (to <= from) continue;
            int error = visit(start + from, to - from, node, strict);
            if (error == EINVAL) removed = error;
            else if (error != 0) return error;
            from = to;
        }
        if (stripe >= bytes - base) break; /* base + stripe might overflow */
    }
    return removed;
}

static int bind_piece(uintptr_t from, size_t length, int node, bool strict) {
    (void)strict; /* strictness is populate-and-verify, see region.c */
    na_nodeset home = nodeset_single(node);
    return os_bind((void *)from, length, NA_BIND_PREFERRED, &home);
}

static int populate_piece(uintptr_t from, size_t length, int node, bool strict) {
    na_nodeset home = nodeset_single(node);
    return na_populate(from, length, &home, strict ? NA_IN_SET : NA_UNCHECKED);
}

/* The kernel deals huge pages whole. Memory that it deals has them from so many turns on; below, the nodes' shares would
 * differ by more than an eighth. */
enum { TURNS = 8 };
static bool has_huge_pages(const na_placement *placement, const na_span *span) {
    size_t turn = placement->dealt_by_kernel;
    if (turn == 0) turn = (size_t)nodeset_count(&placement->nodes);
    return span->start % NA_HUGE_BYTES == 0 && na_span_bytes(span) >= TURNS * turn * NA_HUGE_BYTES;
}

static bool lost_huge_pages(const na_placement *placement, const na_span *span) {
    bool dealt = placement->policy == NUMALLOC_INTERLEAVE || placement->dealt_by_kernel != 0;
    return dealt && span->part == 1 && !has_huge_pages(placement, span);
}

/* Pages of a turn, if the kernel deals memory by the same weights, whatever their common divisor, and so many turns fit.
 * Strict memory is cut into runs of which each is looked at. */
static uint32_t kernel_turn(const na_placement *placement, size_t size) {
    if (placement->policy != NUMALLOC_WEIGHTED || placement->strict) return 0;
    int first = nodeset_next(&placement->nodes, 0);
    unsigned first_weight = na_kernel_weight(first), turn = 0;
    for (int node = first; node >= 0; node = nodeset_next(&placement->nodes, node + 1)) {
        unsigned weight = na_kernel_weight(node);
        if (weight == 0 || weight * weight_of(placement, first) != first_weight * weight_of(placement, node)) return 0;
        turn += weight;
    }
    return size / os_page_size() / TURNS >= turn ? turn : 0;
}

/* Runs of pages, longer ones where there would be too many: huge pages where there are turns enough. 0: one turn. */
static size_t weighted_stripe(const na_placement *placement, size_t size) {
    size_t turn = sum_of_weights(placement), unit = os_page_size();
    size_t most = NA_PIECES_WEIGHTED / (size_t)nodeset_count(&placement->nodes) + 1;
    if (size / NA_HUGE_BYTES / TURNS >= turn) unit = NA_HUGE_BYTES;
    while (size / unit / turn > most) unit *= 2;
    return size / unit / turn > 1 ? unit * turn : 0;
}

/* Interleaving covers the whole span, since the next user of a cached one may ask for more of it. */
static int set_policy(const na_placement *placement, const na_span *span, size_t size) {
    if (lost_huge_pages(placement, span)) (void)os_advise_huge((void *)span->start, na_span_bytes(span), false);
    if (placement->policy == NUMALLOC_INTERLEAVE || placement->dealt_by_kernel != 0) {
        enum na_bind_mode mode = placement->dealt_by_kernel != 0 ? NA_BIND_WEIGHTED : NA_BIND_INTERLEAVE;
        return os_bind((void *)span->start, na_span_bytes(span), mode, &placement->nodes);
    }
    return each_piece(placement, span->start, size, bind_piece, placement->strict);
}

static void drop_policy(na_region *region, const na_placement *placement, const na_span *span) {
    if (os_can_bind() == 0) (void)os_bind((void *)span->start, na_span_bytes(span), NA_BIND_DEFAULT, NULL);
    if (lost_huge_pages(placement, span)) (void)na_region_restore(region, span->start, na_span_bytes(span));
}

static int populate(const na_placement *placement, const na_span *span, size_t bytes) {
    if (placement->policy == NUMALLOC_INTERLEAVE) {
        enum na_check dealt = has_huge_pages(placement, span) ? NA_DEALT_HUGE : NA_DEALT;
        return na_populate(span->start, bytes, &placement->nodes, placement->strict ? dealt : NA_UNCHECKED);
    }
    /* All of it, before the first piece is there. */
    if (!na_has_room(span->start, bytes, placement->strict ? &placement->nodes : NULL)) return ENOMEM;
    return each_piece(placement, span->start, bytes, populate_piece, placement->strict);
}

/* Each node of a placement has its share of its span against NUMALLOC_NODE_LIMIT. sign 1: false if that is too much
 * for one of them, nothing is counted then. */
static bool count_share(const na_placement *placement, uint32_t slices, int sign) {
    if (na_opt.node_limit == UINT64_MAX) return true;
    uint64_t part = ((uint64_t)slices << NA_SLICE_SHIFT) / sum_of_weights(placement);
    bool fits = true;
    for (int node = nodeset_next(&placement->nodes, 0); node >= 0; node = nodeset_next(&placement->nodes, node + 1)) {
        int index = na_topology_index_of(node);
        uint64_t share = part * weight_of(placement, node);
        (void)atomic_fetch_add_explicit(&na_regions[index].mixed_bytes, sign > 0 ? share : -share,
                                        memory_order_relaxed);
        fits = fits && (sign < 0 || na_node_held(index) <= na_opt.node_limit);
    }
    if (!fits) (void)count_share(placement, slices, -1);
    return fits;
}

/* ---- placements --------------------------------------------------------------------------------------------- */

static void placement_delete(na_region *region, na_placement *placement) {
    placement->next = region->placement_unused;
    region->placement_unused = placement;
}

static na_placement *placement_new(na_region *region, const na_placement *value) {
    na_placement *placement = region->placement_unused;
    if (placement != NULL) region->placement_unused = placement->next;
    else placement = na_meta_alloc(region, sizeof *placement); /* zero */
    if (placement == NULL) return NULL;
    numalloc_weights_t *weights = placement->weights;
    if (weights == NULL && value->policy == NUMALLOC_WEIGHTED) weights = na_meta_alloc(region, sizeof *weights);
    *placement = *value;
    placement->weights = weights;
    if (value->policy != NUMALLOC_WEIGHTED) return placement;
    if (weights == NULL) {
        placement_delete(region, placement);
        return NULL;
    }
    *weights = *value->weights;
    return placement;
}

/* ---- the span cache ----------------------------------------------------------------------------------------- */

bool na_mixed_serves(const na_span *span, const na_placement *placement, size_t align) {
    return (span->start & (align - 1)) == 0 && same_placement(span->placement, placement);
}

static na_span *cache_take(na_region *region, const na_placement *placement, uint32_t slices, size_t align) {
    na_span *span = na_span_cache_take_placed(&region->mixed_cache, slices, placement, align);
    if (span != NULL) region->rested -= na_span_bytes(span);
    return span;
}

/* Becomes an ordinary free span: no policy, no memory. Where the policy can't be taken off, it is set anew by the next user of
 * the range. */
static void dissolve(na_region *region, na_span *span, uint64_t rested_since) {
    na_placement *placement = span->placement;
    unsigned count = na_rest_begin(region, span);
    pthread_mutex_unlock(&region->lock);
    bool purged = na_opt.purge_delay_ms != NA_PURGE_NEVER && os_purge((void *)span->start, na_span_bytes(span)) == 0;
    drop_policy(region, placement, span);
    (void)count_share(placement, span->slices, -1);
    pthread_mutex_lock(&region->lock);
    na_rest_end(region, span, count);
    placement_delete(region, placement);
    if (purged) region->purged_bytes += na_span_bytes(span);
    na_span_free_locked(region, span, rested_since, purged);
}

void na_mixed_release(na_span *span, uint64_t rested_since) {
    na_region *region = na_region_mixed();
    region->rested -= na_span_bytes(span);
    dissolve(region, span, rested_since);
}

/* ---- allocation -------------------------------------------------------------------------------------------- */

void *na_mixed_alloc(const na_placement *wanted, size_t size, size_t align, unsigned flags) {
    na_region *region = na_region_mixed();
    na_placement placement = *wanted;
    size_t bytes = na_round_up(size, NA_SLICE);
    if (placement.stripe >= size || placement.policy == NUMALLOC_INTERLEAVE) placement.stripe = 0;
    if (placement.policy == NUMALLOC_WEIGHTED) placement.stripe = weighted_stripe(&placement, size);
    placement.size = placement.policy != NUMALLOC_INTERLEAVE ? size : 0;
    placement.dealt_by_kernel = 0;
    align = na_large_align(bytes, align);
    size_t stripes = placement.stripe == 0 ? 1 : (size + placement.stripe - 1) / placement.stripe;
    size_t pieces = stripes * (size_t)nodeset_count(&placement.nodes);
    if (placement.policy == NUMALLOC_BLOCKED && pieces > NA_PIECES_MAX) {
        errno = EINVAL;
        return NULL;
    }
    int error = na_region_open(region);
    if (error == 0 && placement.strict) error = os_can_bind();
    if (error != 0) {
        errno = error;
        return NULL;
    }
    uint32_t slices = (uint32_t)(bytes >> NA_SLICE_SHIFT);
    pthread_mutex_lock(&region->lock);
    na_span *span = cache_take(region, &placement, slices, align);
    bool cached = span != NULL;
    na_placement *own = cached ? span->placement : placement_new(region, &placement);
    pthread_mutex_unlock(&region->lock);
    if (own == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    bool stale = cached; /* holds what the last user left */
    if (!cached) {
        bool clean, counted = count_share(&placement, slices, 1);
        if (counted)
            span = na_span_alloc(region, slices, (uint32_t)(align >> NA_SLICE_SHIFT), NA_CACHED, false, &clean);
        if (span != NULL) {
            span->placement = own;
            own->dealt_by_kernel = placement.dealt_by_kernel = kernel_turn(&placement, size);
            error = os_can_bind();
            if (error == 0) error = set_policy(&placement, span, size);
            if (error == EINVAL) error = ENODEV; /* the nodes are no longer allowed */
            /* Where they are touched, then. */
            if ((error == EPERM || error == ENOSYS || error == ENODEV) && !placement.strict) {
                atomic_fetch_add_explicit(&region->fallbacks, 1, memory_order_relaxed);
                error = 0;
            }
            /* Pages that are there already lie where the last user had them. They stay there when they can't be
             * purged (mlockall) or may not be (a device may know them), but for strict requests, which look. */
            bool may_purge = na_opt.purge_delay_ms != NA_PURGE_NEVER;
            stale = !clean && !(may_purge && os_purge((void *)span->start, na_span_bytes(span)) == 0);
        } else {
            if (counted) (void)count_share(&placement, slices, -1);
            error = ENOMEM;
        }
    }
    if (error == 0 && (placement.strict || (flags & NUMALLOC_POPULATE) != 0)) error = populate(&placement, span, size);
    if (error == 0 && stale && (flags & NUMALLOC_ZERO) != 0) memset((void *)span->start, 0, size);
    pthread_mutex_lock(&region->lock);
    if (error == 0 && !cached) {
        span->kind = NA_LARGE;
        na_large_account(region, span, 1);
    } else if (error != 0) {
        if (cached) na_large_account(region, span, -1);
        if (span != NULL) dissolve(region, span, os_now_ms());
        else placement_delete(region, own);
    }
    pthread_mutex_unlock(&region->lock);
    if (error != 0) {
        errno = error;
        return NULL;
    }
    return (void *)span->start;
}

void na_mixed_free(na_span *span, uint64_t now) {
    na_region *region = na_region_mixed();
    pthread_mutex_lock(&region->lock);
    if (na_span_cache_put(region, &region->mixed_cache, span, now)) {
        region->rested += na_span_bytes(span);
        na_rest_weigh(region);
    } else {
        na_large_account(region, span, -1);
        span->kind = NA_CACHED;
        dissolve(region, span, now);
    }
    pthread_mutex_unlock(&region->lock);
}
