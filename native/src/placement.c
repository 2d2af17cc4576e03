/* SPDX-License-Identifier: BSD-3-Clause
 *
 * placement.c: where pages are, faulting them in where they belong, moving them.
 *
 * Strict memory is populated chunk by chunk and each page's node is asked for. The kernel policy under it only
 * prefers the node, so a node that turns out to be full gives a page elsewhere, which is seen here and refused,
 * and not an OOM kill as under a bind policy.
 *
 * Threads: no state.
 */
#include "internal.h"

enum { NA_QUERY_PAGES = 1024, NA_POPULATE_CHUNK = 32 << 20 /* bytes */ };

static uintptr_t page_floor(uintptr_t address) { return address & ~((uintptr_t)os_page_size() - 1); }
static uintptr_t page_ceil(uintptr_t address) { return page_floor(address + os_page_size() - 1); }

/* Calls visit with the status of up to NA_QUERY_PAGES pages at a time; stops at an error. Both ends are on pages. */
static int each_status(uintptr_t start, uintptr_t end,
                       void (*visit)(uintptr_t start, const int *status, size_t count, void *context), void *context) {
    int status[NA_QUERY_PAGES];
    size_t page = os_page_size();
    while (start < end) {
        size_t count = (end - start) / page;
        if (count > NA_QUERY_PAGES) count = NA_QUERY_PAGES;
        int error = os_query_pages((void *)start, count, status);
        if (error != 0) return error;
        visit(start, status, count, context);
        start += count * page;
    }
    return 0;
}

static void count_pages(uintptr_t start, const int *status, size_t count, void *context) {
    (void)start;
    numalloc_page_counts_t *counts = context;
    for (size_t i = 0; i < count; i++) {
        if (status[i] >= 0 && status[i] < NUMALLOC_MAX_NODES) counts->on_node[status[i]]++;
        else if (status[i] == -ENOENT) counts->untouched++;
        else counts->failed++;
    }
}

int numalloc_page_nodes(const void *ptr, size_t len, numalloc_page_counts_t *counts) {
    if (counts == NULL) return EINVAL;
    *counts = (numalloc_page_counts_t){.page_size = os_page_size()};
    if (len == 0) return 0;
    if (ptr == NULL || (uintptr_t)ptr + len < (uintptr_t)ptr) return EINVAL;
    int error = os_can_query();
    if (error != 0) return error;
    uintptr_t start = page_floor((uintptr_t)ptr), end = page_ceil((uintptr_t)ptr + len);
    counts->pages = (end - start) / os_page_size();
    return each_status(start, end, count_pages, counts);
}

struct misplaced {
    const na_nodeset *nodes;
    size_t untouched, elsewhere;
    int repair; /* node to move pages to, -1: leave them */
};

static void find_misplaced(uintptr_t start, const int *status, size_t count, void *context) {
    struct misplaced *found = context;
    for (size_t i = 0; i < count; i++) {
        if (status[i] >= 0 && nodeset_has(found->nodes, status[i])) continue;
        if (status[i] == -ENOENT) {
            found->untouched++;
            continue;
        }
        int after = -1;
        void *page = (void *)(start + i * os_page_size());
        if (found->repair < 0 || os_move_pages(page, 1, found->repair, &after) != 0 || after != found->repair)
            found->elsewhere++;
    }
}

static uint64_t room_on(const na_nodeset *nodes) {
    uint64_t room = 0;
    for (int node = nodeset_next(nodes, 0); node >= 0; node = nodeset_next(nodes, node + 1)) {
        uint64_t bytes = na_topology_free_bytes(node);
        room = bytes > UINT64_MAX - room ? UINT64_MAX : room + bytes;
    }
    return room;
}

/* Free memory that the allocator keeps warm counts against the limits like any other. */
static void give_back_free_memory(void) {
    for (int i = 0; i < na_region_count; i++) {
        na_region *region = &na_regions[i];
        if (!atomic_load_explicit(&region->opened, memory_order_acquire)) continue;
        pthread_mutex_lock(&region->lock);
        if (region->node_index < 0 && na_opt.purge_delay_ms != NA_PURGE_NEVER) na_mixed_purge_due(region, true);
        na_span_purge_all(region);
        pthread_mutex_unlock(&region->lock);
    }
}

/* May `bytes` more be faulted in? `nodes`: where they have to be, NULL: anywhere. */
static bool room_for(uint64_t bytes, const na_nodeset *nodes) {
    for (int attempt = 0; attempt < 2; attempt++) {
        if (bytes <= os_cgroup_room() && (nodes == NULL || bytes <= room_on(nodes))) return true;
        if (attempt == 0) give_back_free_memory();
    }
    return false;
}

static int populate_strict(uintptr_t start, uintptr_t end, const na_nodeset *nodes) {
    struct misplaced found = {.nodes = nodes, .repair = -1};
    int error = each_status(start, end, find_misplaced, &found);
    if (error != 0 || (found.untouched == 0 && found.elsewhere == 0)) return error;
    uint64_t need = (uint64_t)(found.untouched + found.elsewhere) * os_page_size();
    if (!room_for(need, nodes)) return ENOMEM;
    error = os_populate((void *)start, end - start);
    if (error != 0) return error;
    /* Pages that fell elsewhere are tried once more: the node may have reclaimed meanwhile. */
    found = (struct misplaced){.nodes = nodes, .repair = nodeset_count(nodes) == 1 ? nodeset_next(nodes, 0) : -1};
    error = each_status(start, end, find_misplaced, &found);
    if (error != 0) return error;
    return found.untouched != 0 || found.elsewhere != 0 ? ENOMEM : 0;
}

bool na_pages_elsewhere(uintptr_t start, size_t bytes, const na_nodeset *nodes) {
    if (!na_many_nodes || os_can_query() != 0) return false;
    struct misplaced found = {.nodes = nodes, .repair = -1};
    return each_status(page_floor(start), page_ceil(start + bytes), find_misplaced, &found) == 0 &&
           found.elsewhere != 0;
}

int na_populate(uintptr_t start, size_t bytes, const na_nodeset *nodes, bool strict) {
    uintptr_t end = page_ceil(start + bytes);
    start = page_floor(start);
    /* On a machine of one node every page is on it; nothing needs to be asked. */
    bool verify = strict && nodeset_count(&na_topo.online) > 1;
    if (verify) {
        int error = os_can_bind();
        if (error == 0) error = os_can_query();
        if (error != 0) return error;
    }
    while (start < end) {
        uintptr_t chunk = end - start > NA_POPULATE_CHUNK ? start + NA_POPULATE_CHUNK : end;
        int error;
        if (verify) error = populate_strict(start, chunk, nodes);
        else if (!room_for(chunk - start, strict ? nodes : NULL)) error = ENOMEM;
        else error = os_populate((void *)start, chunk - start);
        if (error != 0) return error;
        start = chunk;
    }
    return 0;
}

static bool within_one_block(const void *ptr, size_t len) {
    numalloc_block_info_t info;
    if (numalloc_block_info(ptr, &info) != 0) return false;
    return len <= info.size - (size_t)((uintptr_t)ptr - (uintptr_t)info.start);
}

int numalloc_prefault(void *ptr, size_t len) {
    if (len == 0) return 0;
    if (!within_one_block(ptr, len)) return EFAULT;
    const na_span *span = na_span_at(ptr);
    const na_region *region = &na_regions[span->region];
    /* The nodes only matter to strict memory of one home; other strict memory was populated at birth. */
    na_nodeset home = region->node_index >= 0 ? nodeset_single(region->node) : na_topo.allowed;
    return na_populate((uintptr_t)ptr, len, &home, region->strict);
}

int numalloc_migrate(void *ptr, size_t len, int node, size_t *unmoved) {
    if (unmoved != NULL) *unmoved = 0;
    if (!na_init()) return errno;
    if (!nodeset_has(&na_topo.allowed, node)) return ENODEV;
    if (len == 0) return 0;
    if (ptr == NULL || (uintptr_t)ptr + len < (uintptr_t)ptr) return EINVAL;
    int error = os_can_query();
    if (error != 0) return error;
    uintptr_t start = page_floor((uintptr_t)ptr), end = page_ceil((uintptr_t)ptr + len);
    int status[NA_QUERY_PAGES];
    while (start < end) {
        size_t count = (end - start) / os_page_size();
        if (count > NA_QUERY_PAGES) count = NA_QUERY_PAGES;
        error = os_move_pages((void *)start, count, node, status);
        if (error != 0) return error;
        for (size_t i = 0; i < count; i++)
            if (status[i] != node && status[i] != -ENOENT && unmoved != NULL) ++*unmoved;
        start += count * os_page_size();
    }
    return 0;
}
