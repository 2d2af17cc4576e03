/* SPDX-License-Identifier: BSD-3-Clause
 *
 * region.c: owns the one reservation of address space, its cut into regions of equal size, and the page map.
 *
 *   reservation: | node 0 | node 1 | ... | node 0 strict | node 1 strict | ... | mixed |
 *                (before mixed, with an inherited memory policy: | node 0 local | node 1 local | ... |)
 *   region:      | metadata | small part -> | large part ->                           |
 *
 * Invariants. A region's policy is set once, over the whole region, before its first byte is opened. Reserved address
 * space counts against RLIMIT_AS. Under such a limit nothing is reserved (na_held is false): addresses are chosen where
 * others are not likely to map, a piece is mapped and given its policy when it is opened, and free ends of parts go back.
 * A part is open from its start up to `opened` and tiled by spans up to `top`; both shrink only then. Map entries are
 * never unmapped, so that a stale pointer may be looked up safely.
 * Strict regions have the same kernel policy as the others (preferred): strictness is populate-and-verify,
 * because a bind policy answers a full node with the OOM killer at fault time.
 *
 * Threads: the globals are set once by na_regions_reserve and constant afterwards; a region by its lock.
 */
#include "space/space.h"

#include <errno.h>

uintptr_t na_base;
uintptr_t na_reserved;
unsigned na_shift;
size_t na_size_max;
na_span **na_map;
uint8_t *na_dirty;
na_region *na_regions;
int na_region_count;
_Atomic(bool) na_held;
bool na_secure;
_Atomic(uint64_t) *na_live;

enum {
    NA_REGION_SHIFT_MIN = 26, /* 64 MiB */
    NA_TOTAL_SHIFT_MAX = 46,  /* half of a 47-bit address space */
    NA_OPEN_STEP = 64 << 20,  /* bytes a part is opened by */
    NA_META_SHARE = 64,       /* of a region is for metadata; descriptors of all its slices take an eighth of that */
};
#define LIMIT_UNKNOWN ((uint64_t)4 << 30) /* of address space: taken for one that is not known */

/* Sanitizers and valgrind keep shadow tables in proportion to what is mapped. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { NA_REGION_SHIFT_DEFAULT = 33 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
enum { NA_REGION_SHIFT_DEFAULT = 33 };
#else
enum { NA_REGION_SHIFT_DEFAULT = 38 };
#endif
#else
enum { NA_REGION_SHIFT_DEFAULT = 38 }; /* 256 GiB */
#endif

static unsigned log2_ceil(uint64_t value) { return value <= 1 ? 0 : 64u - (unsigned)__builtin_clzll(value - 1); }

static unsigned region_shift_wanted(void) {
    unsigned shift = NA_REGION_SHIFT_DEFAULT;
    if (na_opt.reserve != 0) {
        shift = log2_ceil(na_opt.reserve);
    } else {
        /* Room for fragmentation of addresses: four times the memory there is. */
        unsigned memory = log2_ceil(na_topo.largest_node_bytes) + 2;
        if (memory > shift && NA_REGION_SHIFT_DEFAULT > 33) shift = memory;
    }
    if (shift < NA_REGION_SHIFT_MIN) shift = NA_REGION_SHIFT_MIN;
    unsigned count = log2_ceil((uint64_t)na_region_count);
    while (shift > NA_REGION_SHIFT_MIN && shift + count > NA_TOTAL_SHIFT_MAX) shift--;
    return shift;
}

/* Bytes of the tables for so many bytes of address space. */
static size_t map_bytes(size_t total) { return (total >> NA_SLICE_SHIFT) * sizeof(na_span *); }
static size_t dirty_bytes(size_t total) { return na_round_up(total >> NA_SLICE_SHIFT, os_page_size()); }
static size_t live_bytes(size_t total) { return na_secure ? total / NA_GRANULE / 8 : 0; }

/* Under a limit of address space: a part as long as all that is left, if the tables leave room for it. */
static unsigned region_shift_under(uint64_t left, unsigned shift) {
    if (shift > log2_ceil(left) + 2) shift = log2_ceil(left) + 2;
    for (; shift > NA_REGION_SHIFT_MIN; shift--) {
        size_t total = (size_t)na_region_count << shift;
        if (map_bytes(total) + dirty_bytes(total) + live_bytes(total) <= left / 8) break;
    }
    return shift;
}

/* Addresses at which nothing is mapped, far from where the system maps, be it downwards or upwards from there. */
static int find_addresses(size_t bytes, size_t align, void **address) {
    int error = os_map(os_page_size(), address);
    if (error != 0) return error;
    (void)os_release(*address, os_page_size());
    uintptr_t at = (uintptr_t)*address;
    do { /* ENOMEM is beyond the limit only after what is there */
        at = (at / 2) & ~(align - 1);
        if (at < bytes) return ENOMEM;
        error = os_map_at((void *)at, bytes);
    } while (error == EEXIST);
    if (error == 0) (void)os_release((void *)at, bytes);
    *address = (void *)at;
    return 0;
}

static void region_lay_out(na_region *region, int index, na_span **bins) {
    int nodes = na_topo.node_count;
    region->index = (int16_t)index;
    region->base = na_base + ((uintptr_t)index << na_shift);
    region->node_index = (int16_t)(index == na_region_count - 1 ? -1 : index % nodes);
    region->use = (uint8_t)(region->node_index < 0 ? NA_ONNODE : index / nodes);
    region->strict = region->use == NA_STRICT;
    if (region->node_index < 0) region->node = NUMALLOC_NODE_MIXED;
    else if (region->use != NA_INHERITED) region->node = na_topo.node_id[region->node_index];
    else if (nodeset_count(&na_topo.policy_nodes) == 1) region->node = nodeset_next(&na_topo.policy_nodes, 0);
    else region->node = NUMALLOC_NODE_MIXED;
    int policy_index = region->use == NA_INHERITED && region->node >= 0 ? na_topology_index_of(region->node) : -1;
    region->limited_index = policy_index >= 0 ? (int16_t)policy_index : region->node_index;
    pthread_mutex_init(&region->lock, NULL);
    region->cached_since = NA_NO_TIME;
    if (region->node_index < 0) region->caches = &region->mixed_cache;

    size_t bytes = (size_t)1 << na_shift;
    uintptr_t meta_end = region->base + na_round_up(bytes / NA_META_SHARE, NA_HUGE_BYTES);
    region->descriptors_end = region->base;
    region->meta_next = region->meta_opened = region->kept_high = meta_end;
    region->kept_low = region->base;
    uintptr_t middle = region->base + bytes / 4;
    region->part[0] = (na_part){.start = meta_end, .limit = middle, .bin = bins};
    region->part[1] = (na_part){.start = middle, .limit = region->base + bytes, .bin = bins + NA_SPAN_BINS};
    na_rest_open(region);
    for (int p = 0; p < 2; p++) region->part[p].top = region->part[p].opened = region->part[p].start;
}

int na_regions_reserve(void) {
    na_region_count = (na_topo.policy != NULL ? 3 : 2) * na_topo.node_count + 1;
    void *base = NULL;
    int error = ENOMEM;
    unsigned shift = region_shift_wanted();
    uint64_t left = os_address_space_left();
    bool held = ((uint64_t)na_region_count << shift) <= left / 2;
    if (!held) shift = region_shift_under(left, shift);
    for (; shift >= NA_REGION_SHIFT_MIN; shift--) {
        size_t total = (size_t)na_region_count << shift,
               align = (size_t)1 << (shift < 30 ? shift : 30); /* a 1 GiB page fits */
        error = held ? os_reserve(total, align, &base) : find_addresses(total, align, &base);
        if (error == 0) break;
    }
    if (error != 0) return error;

    size_t total = (size_t)na_region_count << shift;
    size_t page = os_page_size();
    void *map = NULL, *dirty = NULL, *regions = NULL, *live = NULL;
    error = os_reserve_readable(map_bytes(total), &map);
    if (error == 0) error = os_reserve_readable(dirty_bytes(total), &dirty);
    if (error == 0 && na_secure) error = os_reserve_readable(live_bytes(total), &live);
    /* The bins come last: few processes use those of more than one region. */
    size_t bins_at = na_round_up((size_t)na_region_count * sizeof(na_region), 64);
    size_t bins = 2 * NA_SPAN_BINS;
    size_t bytes = na_round_up(bins_at + (size_t)na_region_count * bins * sizeof(na_span *), page);
    if (error == 0) error = os_map(bytes, &regions);
    if (error != 0) {
        if (held) os_release(base, total);
        if (map != NULL) os_release(map, map_bytes(total));
        if (dirty != NULL) os_release(dirty, dirty_bytes(total));
        if (live != NULL) os_release(live, live_bytes(total));
        return error;
    }
    na_shift = shift;
    na_size_max = ((size_t)1 << shift) - NA_SLICE;
    if (na_size_max > na_topo.overcommit_bytes) na_size_max = na_topo.overcommit_bytes;
    na_base = (uintptr_t)base;
    na_map = map;
    na_dirty = dirty;
    na_live = live;
    na_regions = regions;
    for (int i = 0; i < na_region_count; i++)
        region_lay_out(&na_regions[i], i, (na_span **)((char *)regions + bins_at) + (size_t)i * bins);
    na_held = held;
    na_reserved = total; /* last: na_span_at sees nothing before */
    return 0;
}

static enum na_thp_mode thp_mode(void) {
    enum na_thp_mode mode;
    return os_thp_mode(&mode) == 0 ? mode : NA_THP_NEVER;
}

/* Advice per part: large blocks want transparent huge pages; the small part must not get them unasked, since
 * one live block would keep 2 MiB. */
static void advise(const na_region *region, uintptr_t start, size_t bytes) {
    bool large = start >= region->part[1].start;
    if (large && na_opt.huge != NA_HUGE_NEVER) {
        (void)os_advise_huge((void *)start, bytes, true); /* base pages where the kernel has none */
    } else if (thp_mode() == NA_THP_ALWAYS) {
        (void)os_advise_huge((void *)start, bytes, false);
    }
}

static int set_policy(const na_region *region, uintptr_t start, size_t bytes) {
    /* Where the kernel allows no binding, pages are where they are first touched, and strict requests are refused. */
    if (region->node_index < 0 || region->use == NA_INHERITED || na_topo.online_count == 1 || os_can_bind() != 0)
        return 0;
    na_nodeset home = nodeset_single(region->node);
    int error = os_bind((void *)start, bytes, NA_BIND_PREFERRED, &home);
    if (error == EPERM || error == ENOSYS) return 0; /* a filter that looks at arguments: as without os_can_bind */
    return error == EINVAL ? ENODEV : error;         /* the node is no longer allowed */
}

int na_region_restore(na_region *region, uintptr_t start, size_t bytes) {
    int error = set_policy(region, start, bytes);
    advise(region, start, bytes);
    return error;
}

static int commit_kept(na_region *region, uintptr_t start, uintptr_t end) {
    int error = os_commit((void *)start, end - start);
    return error != 0 || na_held ? error : na_region_restore(region, start, end - start);
}

int na_region_commit(na_region *region, uintptr_t start, uintptr_t end) {
    if (na_held) return commit_kept(region, start, end);
    int error = 0;
    if (start < region->part[0].start) { /* metadata: some of it is kept, at both ends */
        uintptr_t low = region->kept_low < end ? region->kept_low : end;
        uintptr_t high = region->kept_high > start ? region->kept_high : start;
        if (start < low) error = commit_kept(region, start, low);
        if (error == 0 && high < end) error = commit_kept(region, high, end);
        if (start < low) start = low;
        if (high < end) end = high;
        if (error != 0 || start >= end) return error;
    }
    error = os_map_at((void *)start, end - start);
    if (error != 0) return ENOMEM; /* others may have come to be there */
    error = na_region_restore(region, start, end - start);
    if (error != 0) (void)os_release((void *)start, end - start);
    return error;
}

static void let_go(uintptr_t start, uintptr_t end) {
    if (start < end) (void)os_release((void *)start, end - start);
}

bool na_is_open(uintptr_t address) {
    const na_region *region = &na_regions[(address - na_base) >> na_shift];
    if (address < region->part[0].start) return address < region->kept_low || address >= region->kept_high;
    return address < __atomic_load_n(&region->part[address >= region->part[1].start].opened, __ATOMIC_RELAXED);
}

/* What is reserved of metadata, but for what may be needed. */
static void let_metadata_go(na_region *region, uintptr_t descriptors) {
    uintptr_t low = region->base + descriptors, high = region->meta_opened - na_round_up(descriptors / 4, NA_SLICE);
    if (low < region->descriptors_end) low = region->descriptors_end;
    if (high < low || high > region->meta_opened) low = high = region->meta_opened;
    region->kept_low = low;
    region->kept_high = high;
    let_go(low, high);
}

bool na_regions_let_go(uint64_t limit) {
    uint64_t most = (uint64_t)1 << na_shift;
    if (limit == UINT64_MAX) limit = LIMIT_UNKNOWN;
    if (limit > most) limit = most;
    uintptr_t descriptors = na_round_up(limit / NA_SLICE * sizeof(na_span), NA_SLICE);
    for (int i = 0; i < na_region_count; i++) pthread_mutex_lock(&na_regions[i].lock);
    bool was_held = na_held, any = was_held;
    na_held = false;
    for (int i = 0; i < na_region_count; i++) {
        na_region *region = &na_regions[i];
        if (was_held) let_metadata_go(region, descriptors);
        for (int p = 0; p < 2; p++) {
            na_part *part = &region->part[p];
            uintptr_t end = was_held ? part->limit : part->opened;
            na_span_drop_top(region, part);
            __atomic_store_n(&part->opened, part->top, __ATOMIC_RELAXED);
            let_go(part->top, end);
            any |= part->top < end;
        }
    }
    for (int i = na_region_count; i-- > 0;) pthread_mutex_unlock(&na_regions[i].lock);
    return any;
}

int na_region_open(na_region *region) {
    if (atomic_load_explicit(&region->opened, memory_order_acquire)) return 0;
    pthread_mutex_lock(&region->lock);
    int error = 0;
    if (!atomic_load_explicit(&region->opened, memory_order_relaxed)) {
        size_t bytes = (size_t)1 << na_shift;
        if (na_held) error = set_policy(region, region->base, bytes);
        if (error == 0) {
            for (int p = 0; na_held && p < 2; p++)
                advise(region, region->part[p].start, region->part[p].limit - region->part[p].start);
            /* The map's share of this region is read by all threads and written by this node's: keep it here. */
            uintptr_t share = (uintptr_t)&na_map[na_slice_index(region->base)];
            size_t share_bytes = (bytes >> NA_SLICE_SHIFT) * sizeof(na_span *);
            if (share_bytes % os_page_size() == 0) (void)set_policy(region, share, share_bytes);
            atomic_store_explicit(&region->opened, true, memory_order_release);
        }
    }
    pthread_mutex_unlock(&region->lock);
    return error;
}

/* Opens the entries of a table for the slices of an address range. */
static int table_open(void *table, size_t bits_per_slice, uintptr_t start, uintptr_t end) {
    size_t page = os_page_size();
    uintptr_t first = (uintptr_t)table + na_slice_index(start) * bits_per_slice / 8;
    uintptr_t last = (uintptr_t)table + (na_slice_index(end - 1) + 1) * bits_per_slice / 8 + 7;
    first &= ~(page - 1);
    last = (last + page - 1) & ~(page - 1);
    uintptr_t table_end =
        (uintptr_t)table + (((na_reserved >> NA_SLICE_SHIFT) * bits_per_slice / 8 + page - 1) & ~(page - 1));
    if (last > table_end) last = table_end;
    return os_commit((void *)first, last - first);
}

static int open_to(na_part *part, uintptr_t end) {
    na_region *region = &na_regions[(part->start - na_base) >> na_shift];
    size_t spans = 4; /* those in hand while spans are cut and joined */
    for (int p = 0; p < 2; p++) {
        const na_part *each = &region->part[p];
        spans += ((each == part ? end : each->opened) - each->start) >> NA_SLICE_SHIFT;
    }
    /* Descriptors for as many as there may be, and room for a heap: where the system limits what is committed, memory that
     * is there could not be cut into pieces otherwise, nor serve small blocks. */
    int error = na_descriptors_open(region, spans);
    if (error == 0) error = na_meta_ahead(region);
    if (error == 0) error = table_open(na_map, 64, part->opened, end);
    if (error == 0) error = table_open(na_dirty, 8, part->opened, end);
    if (error == 0 && na_secure) error = table_open(na_live, NA_SLICE / NA_GRANULE, part->opened, end);
    if (error == 0 && na_held && os_address_space_left() == 0) error = ENOMEM; /* see na_regions_let_go */
    if (error == 0) error = na_region_commit(region, part->opened, end);
    if (error == 0) __atomic_store_n(&part->opened, end, __ATOMIC_RELAXED);
    return error;
}

int na_part_open(na_part *part, uintptr_t upto) {
    if (upto <= part->opened) return 0;
    if (upto > part->limit) return ENOMEM;
    /* Under a limit of address space no more than is wanted, but for whole huge pages. */
    uintptr_t align = na_held ? NA_OPEN_STEP : NA_HUGE_BYTES;
    uintptr_t step = (upto + align - 1) & ~(align - 1);
    if (step > part->limit) step = part->limit;
    int error = open_to(part, step);
    if (error != 0 && step != upto) error = open_to(part, upto); /* the commit limit is near */
    return error;
}

int na_region_prepare(na_region *region, size_t bytes) {
    int error = na_region_open(region);
    if (error != 0) return error;
    pthread_mutex_lock(&region->lock);
    na_part *large = &region->part[1];
    uintptr_t rounded = (bytes + NA_SLICE - 1) & ~((uintptr_t)NA_SLICE - 1);
    error =
        rounded < bytes || rounded > large->limit - large->start ? ENOMEM : na_part_open(large, large->start + rounded);
    pthread_mutex_unlock(&region->lock);
    return error;
}

void na_large_account(na_region *region, const na_span *span, int sign) {
    uint64_t bytes = na_span_bytes(span);
    uint64_t huge = span->huge_shift != 0 ? bytes : 0;
    if (sign > 0) {
        region->large_allocations++;
        region->large_blocks++;
        region->large_bytes += bytes;
        region->huge_bytes += huge;
    } else {
        if (sign < 0) region->large_frees++;
        else region->large_allocations--;
        region->large_blocks--;
        region->large_bytes -= bytes;
        region->huge_bytes -= huge;
    }
}
