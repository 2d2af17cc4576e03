/* SPDX-License-Identifier: BSD-3-Clause
 *
 * placement.c: the calls about pages: where they are, faulting them in, moving them.
 *
 * Threads: no state.
 */
#include <string.h>

#include "api/api.h"
#include "api/sized.h"
#include "reclaim/reclaim.h"
#include "space/space.h"

#include <errno.h>

enum { QUERY_PAGES = 1024 };

/* Neither NULL nor around the end of the address space, so that both ends may be rounded to pages. */
static bool is_range(const void *ptr, size_t len) {
    return ptr != NULL && len < UINTPTR_MAX - os_page_size() && (uintptr_t)ptr < UINTPTR_MAX - os_page_size() - len;
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

int numalloc_page_nodes_sized(const void *ptr, size_t len, numalloc_page_counts_t *counts, size_t bytes) {
    if (!na_answer(counts, bytes, sizeof *counts)) return EINVAL;
    counts->page_size = os_page_size();
    if (len == 0) return 0;
    if (!is_range(ptr, len)) return EINVAL;
    int error = os_can_query();
    if (error != 0) return error;
    uintptr_t start = na_page_floor((uintptr_t)ptr), end = na_page_ceil((uintptr_t)ptr + len);
    counts->pages = (end - start) / os_page_size();
    return na_each_status(start, end, count_pages, counts);
}

uint64_t numalloc_room(void) {
    if (!na_init()) return UINT64_MAX;
    uint64_t room = na_room();
    if (room == UINT64_MAX) return room;
    numalloc_stats_t stats;
    uint64_t cached =
        numalloc_stats(-1, &stats) == 0 && na_opt.purge_delay_ms != NA_PURGE_NEVER ? stats.cached_bytes : 0;
    return cached > UINT64_MAX - room ? UINT64_MAX : room + cached;
}

int numalloc_limits_sized(numalloc_limits_t *limits, size_t bytes) {
    if (!na_answer(limits, bytes, sizeof *limits)) return EINVAL;
    if (!na_init()) return errno;
    limits->machine = na_topology_available_bytes();
    limits->cgroup = os_cgroup_room();
    limits->data = os_data_left();
    limits->address_space = os_address_space_left();
    limits->block = na_size_max;
    return 0;
}

static bool within_one_block(const void *ptr, size_t len) {
    numalloc_block_info_t info;
    if (numalloc_block_info(ptr, &info) != 0) return false;
    return len <= info.size - (size_t)((uintptr_t)ptr - (uintptr_t)info.start);
}

static bool is_ours(uintptr_t start, uintptr_t end) {
    if (start >= na_base + na_reserved || end <= na_base) return false;
    return na_held || na_is_ours((void *)start) || na_is_ours((void *)(end - 1));
}

int numalloc_prefault(void *ptr, size_t len) {
    if (len == 0) return 0;
    uintptr_t start = (uintptr_t)ptr;
    if (!na_init()) return errno;
    if (!is_range(ptr, len)) return EINVAL;
    na_nodeset home = {{0}};
    enum na_check check = NA_UNCHECKED;
    if (is_ours(start, start + len)) {
        if (!within_one_block(ptr, len)) return EFAULT;
        /* Strict memory of several nodes was populated at birth. */
        const na_region *region = &na_regions[na_span_at(ptr)->region];
        if (region->strict) {
            home = na_region_nodes(region);
            check = NA_IN_SET;
        }
    }
    int error = na_populate(start, len, &home, check);
    if (error == ENOMEM && na_reclaim_all()) error = na_populate(start, len, &home, check);
    return error;
}

/* ---- memory that is there or not ours ------------------------------------------------------------------------ */

/* 0, or why pages can't be sent to the nodes of a set. */
static int check_nodes(const na_nodeset *nodes) {
    if (nodes == NULL) return EINVAL;
    if (nodeset_count(nodes) == 0) return ENODEV;
    for (int node = nodeset_next(nodes, 0); node >= 0; node = nodeset_next(nodes, node + 1))
        if (!nodeset_has(&na_topo.allowed, node)) return ENODEV;
    return 0;
}

int numalloc_bind_range(void *ptr, size_t len, const numalloc_nodemask_t *nodes) {
    if (!na_init()) return errno;
    uintptr_t start = (uintptr_t)ptr, end = start + len, inside = os_page_size() - 1;
    int error = check_nodes(nodes);
    if (error != 0) return error;
    if (!is_range(ptr, len) || ((start | end) & inside) != 0 || is_ours(start, end)) return EINVAL;
    if (len == 0) return 0;
    if (na_topo.online_count == 1) return 0;
    error = os_can_bind();
    if (error != 0) return error;
    error = os_bind(ptr, len, nodeset_count(nodes) == 1 ? NA_BIND_PREFERRED : NA_BIND_INTERLEAVE, nodes);
    return error == EINVAL ? ENODEV : error; /* they were taken from this process */
}

static size_t chunk_pages(uintptr_t start, uintptr_t end) {
    size_t count = start < end ? (end - start) / os_page_size() : 0;
    return count < QUERY_PAGES ? count : QUERY_PAGES;
}

/* Moves [start, end) to one node and counts. Where pages are is asked one chunk ahead: a huge page that begins in this
 * chunk takes its part of the next one with it. */
static int move_range(uintptr_t start, uintptr_t end, int node, numalloc_migration_t *result) {
    int here[QUERY_PAGES], ahead[QUERY_PAGES], after[QUERY_PAGES], why[QUERY_PAGES];
    size_t count = chunk_pages(start, end);
    int error = os_query_pages((void *)start, count, here);
    while (error == 0 && count != 0) {
        uintptr_t next = start + count * os_page_size();
        size_t next_count = chunk_pages(next, end);
        if (next_count != 0) error = os_query_pages((void *)next, next_count, ahead);
        if (error == 0) error = os_move_pages((void *)start, count, node, after, why);
        if (error != 0) return error;
        for (size_t i = 0; i < count; i++) {
            if (after[i] == -ENOENT) result->untouched++;
            else if (after[i] != node) result->refused[why[i] > 0 && why[i] < NUMALLOC_ERRNO_MAX ? why[i] : EIO]++;
            else if (here[i] == node) result->stayed++;
            else result->moved++;
        }
        memcpy(here, ahead, next_count * sizeof here[0]);
        start = next;
        count = next_count;
    }
    return error;
}

int numalloc_migrate_pages_sized(void *ptr, size_t len, const numalloc_nodemask_t *nodes, size_t granule,
                                 numalloc_migration_t *result, size_t bytes) {
    size_t page = os_page_size();
    if (!na_answer(result, bytes, sizeof *result)) return EINVAL;
    result->page_size = page;
    if (!na_init()) return errno;
    int error = check_nodes(nodes);
    if (error != 0 || len == 0) return error;
    if (!is_range(ptr, len) || granule % page != 0) return EINVAL;
    error = os_can_query();
    if (error != 0) return error;
    uintptr_t start = na_page_floor((uintptr_t)ptr), end = na_page_ceil((uintptr_t)ptr + len);
    result->pages = (end - start) / page;
    bool by_turns = nodeset_count(nodes) > 1;
    if (granule == 0) granule = page;
    for (int node = nodeset_next(nodes, 0); error == 0 && start < end; node = nodeset_next(nodes, node + 1)) {
        if (node < 0) node = nodeset_next(nodes, 0);
        /* Units lie where huge pages do, at multiples of their size. */
        uintptr_t to = by_turns ? (start / granule + 1) * granule : end;
        if (to > end) to = end;
        error = move_range(start, to, node, result);
        start = to;
    }
    return error == EACCES ? ENODEV : error; /* of a whole call: the node was taken from this process */
}

int numalloc_migrate(void *ptr, size_t len, int node, size_t *unmoved) {
    if (unmoved != NULL) *unmoved = 0;
    if (node < 0 || node >= NUMALLOC_MAX_NODES) return ENODEV;
    na_nodeset home = nodeset_single(node);
    numalloc_migration_t result;
    int error = numalloc_migrate_pages(ptr, len, &home, 0, &result);
    if (error == 0 && unmoved != NULL) *unmoved = result.pages - result.untouched - result.stayed - result.moved;
    return error;
}
