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
#include <string.h>

#include "api/init.h"
#include "api/placement.h"
#include "heap/ended.h"
#include "heap/thread.h"
#include "large/kept.h"
#include "large/mixed.h"
#include "os/options.h"
#include "os/topology.h"
#include "space/region.h"
#include "space/span.h"
#include "types.h"

#include <errno.h>

enum { NA_QUERY_PAGES = 1024, NA_POPULATE_CHUNK = 32 << 20 /* bytes */ };

static uintptr_t page_floor(uintptr_t address) { return address & ~((uintptr_t)os_page_size() - 1); }
static uintptr_t page_ceil(uintptr_t address) { return page_floor(address + os_page_size() - 1); }

/* Neither NULL nor around the end of the address space, so that both ends may be rounded to pages. */
static bool is_range(const void *ptr, size_t len) {
    return ptr != NULL && len < UINTPTR_MAX - os_page_size() && (uintptr_t)ptr < UINTPTR_MAX - os_page_size() - len;
}

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
    if (!is_range(ptr, len)) return EINVAL;
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

/* How many of `count` pages, which are not where they should be, are elsewhere in the end. Once the node had no room for
 * some, no others are tried: each call has all CPUs give up what they have in hand. */
static size_t repair(uintptr_t start, size_t count, struct misplaced *found) {
    int after[64], why[64];
    size_t elsewhere = 0;
    for (size_t done = 0, now; done < count; done += now) {
        now = count - done < sizeof after / sizeof *after ? count - done : sizeof after / sizeof *after;
        void *pages = (void *)(start + done * os_page_size());
        if (found->repair < 0 || os_move_pages(pages, now, found->repair, after, why) != 0) {
            found->repair = -1;
            return elsewhere + count - done;
        }
        bool full = false;
        for (size_t i = 0; i < now; i++) {
            elsewhere += after[i] != found->repair;
            full = full || why[i] == ENOMEM;
        }
        if (full) found->repair = -1;
    }
    return elsewhere;
}

static void find_misplaced(uintptr_t start, const int *status, size_t count, void *context) {
    struct misplaced *found = context;
    for (size_t i = 0, end; i < count; i = end) {
        for (end = i; end < count && status[end] != -ENOENT && !nodeset_has(found->nodes, status[end]);) end++;
        if (end != i) found->elsewhere += repair(start + i * os_page_size(), end - i, found);
        else found->untouched += status[end++] == -ENOENT;
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
    if (na_opt.purge_delay_ms == NA_PURGE_NEVER) return;
    for (int i = 0; i < na_region_count; i++) {
        na_region *region = &na_regions[i];
        if (!atomic_load_explicit(&region->opened, memory_order_acquire)) continue;
        na_ended_release(region);
        (void)na_kept_release(region);
        pthread_mutex_lock(&region->lock);
        if (region->node_index < 0) na_mixed_purge_due(region, true);
        na_span_purge_all(region);
        pthread_mutex_unlock(&region->lock);
    }
}

static uint64_t room_anywhere(void) {
    uint64_t granted = os_cgroup_room(), available = na_topology_available_bytes();
    return granted < available ? granted : available;
}

uint64_t numalloc_room(void) {
    if (!na_init()) return UINT64_MAX;
    uint64_t room = room_anywhere();
    if (room == UINT64_MAX) return room;
    numalloc_stats_t kept;
    uint64_t cached = numalloc_stats(-1, &kept) == 0 && na_opt.purge_delay_ms != NA_PURGE_NEVER ? kept.cached_bytes : 0;
    return cached > UINT64_MAX - room ? UINT64_MAX : room + cached;
}

/* May `bytes` more be faulted in, while threads together want `all`? `nodes`: where they have to be, NULL: anywhere. */
static bool room_for(uint64_t bytes, uint64_t all, const na_nodeset *nodes) {
    for (int attempt = 0; attempt < 2; attempt++) {
        if (all <= room_anywhere() && (nodes == NULL || bytes <= room_on(nodes))) return true;
        if (attempt == 0) give_back_free_memory();
    }
    return false;
}

static int populate_strict(uintptr_t start, uintptr_t end, const na_nodeset *nodes) {
    struct misplaced found = {.nodes = nodes, .repair = -1};
    int error = each_status(start, end, find_misplaced, &found);
    if (error != 0 || (found.untouched == 0 && found.elsewhere == 0)) return error;
    uint64_t need = (uint64_t)(found.untouched + found.elsewhere) * os_page_size();
    if (!room_for(need, need, nodes)) return ENOMEM;
    error = os_populate((void *)start, end - start);
    if (error != 0) return error;
    /* Pages that fell elsewhere are tried once more: the node may have reclaimed meanwhile. And again with what we have:
     * the kernel calls some memory free that it gives to nobody. */
    const struct misplaced again = {.nodes = nodes, .repair = nodeset_count(nodes) == 1 ? nodeset_next(nodes, 0) : -1};
    for (int attempt = 0; attempt < 2; attempt++) {
        found = again;
        error = each_status(start, end, find_misplaced, &found);
        if (error != 0 || (found.untouched == 0 && found.elsewhere == 0)) return error;
        if (attempt == 0 && again.repair >= 0) give_back_free_memory();
    }
    return ENOMEM;
}

bool na_pages_elsewhere(uintptr_t start, size_t bytes, const na_nodeset *nodes) {
    if (!na_many_nodes || os_can_query() != 0) return false;
    struct misplaced found = {.nodes = nodes, .repair = -1};
    return each_status(page_floor(start), page_ceil(start + bytes), find_misplaced, &found) == 0 &&
           found.elsewhere != 0;
}

/* What all threads are faulting in at this moment: two that look at the same room shall not both have it. A thread may
 * thus be refused what another has in hand and does not need. */
static _Atomic(uint64_t) in_flight;

void na_placement_fork_child(void) { atomic_store_explicit(&in_flight, 0, memory_order_relaxed); }

static int populate_within_room(uintptr_t start, uintptr_t end, const na_nodeset *nodes) {
    uint64_t bytes = end - start;
    uint64_t all = atomic_fetch_add_explicit(&in_flight, bytes, memory_order_relaxed) + bytes;
    bool room = room_for(bytes, all, nodes);
    if (!room) { /* what is there already needs none */
        size_t resident = 0;
        (void)os_resident((void *)start, bytes, &resident);
        uint64_t need = bytes - resident;
        room = need == 0 || (need != bytes && room_for(need, all - bytes + need, nodes));
    }
    int error = room ? os_populate((void *)start, bytes) : ENOMEM;
    (void)atomic_fetch_sub_explicit(&in_flight, bytes, memory_order_relaxed);
    return error;
}

int na_populate(uintptr_t start, size_t bytes, const na_nodeset *nodes, bool strict) {
    uintptr_t end = page_ceil(start + bytes);
    start = page_floor(start);
    /* On a machine of one node every page is on it; nothing needs to be asked. */
    bool verify = strict && na_topo.online_count > 1;
    if (verify) {
        int error = os_can_bind();
        if (error == 0) error = os_can_query();
        if (error != 0) return error;
    }
    while (start < end) {
        uintptr_t chunk = end - start > NA_POPULATE_CHUNK ? start + NA_POPULATE_CHUNK : end;
        int error =
            verify ? populate_strict(start, chunk, nodes) : populate_within_room(start, chunk, strict ? nodes : NULL);
        if (error != 0) return error;
        start = chunk;
    }
    return 0;
}

/* Who reads memory that was never written before he writes to it takes two faults a page, and with several threads the
 * second one interrupts their cores: 11 us instead of 2. */
void na_touch(void *start, size_t size) {
    for (size_t at = 0; at < size; at += os_page_size()) ((volatile char *)start)[at] = 0;
    ((volatile char *)start)[size - 1] = 0;
}

static bool within_one_block(const void *ptr, size_t len) {
    numalloc_block_info_t info;
    if (numalloc_block_info(ptr, &info) != 0) return false;
    return len <= info.size - (size_t)((uintptr_t)ptr - (uintptr_t)info.start);
}

static bool is_ours(uintptr_t start, uintptr_t end) { return start < na_base + na_reserved && end > na_base; }

int numalloc_prefault(void *ptr, size_t len) {
    if (len == 0) return 0;
    uintptr_t start = (uintptr_t)ptr;
    if (!na_init()) return errno;
    if (!is_range(ptr, len)) return EINVAL;
    if (!is_ours(start, start + len)) return na_populate(start, len, NULL, false);
    if (!within_one_block(ptr, len)) return EFAULT;
    const na_span *span = na_span_at(ptr);
    const na_region *region = &na_regions[span->region];
    /* The nodes only matter to strict memory of one home; other strict memory was populated at birth. */
    na_nodeset home = na_region_nodes(region);
    return na_populate(start, len, &home, region->strict);
}

/* ---- memory that is there or not ours ------------------------------------------------------------------------ */

/* 0, or why pages can't be sent to the nodes of a set. */
static int check_nodes(const na_nodeset *nodes) {
    if (nodes == NULL || nodeset_count(nodes) == 0) return ENODEV;
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
    return os_bind(ptr, len, nodeset_count(nodes) == 1 ? NA_BIND_PREFERRED : NA_BIND_INTERLEAVE, nodes);
}

static size_t chunk_pages(uintptr_t start, uintptr_t end) {
    size_t count = start < end ? (end - start) / os_page_size() : 0;
    return count < NA_QUERY_PAGES ? count : NA_QUERY_PAGES;
}

/* Moves [start, end) to one node and counts. Where pages are is asked one chunk ahead: a huge page that begins in this
 * chunk takes its part of the next one with it. */
static int move_range(uintptr_t start, uintptr_t end, int node, numalloc_migration_t *result) {
    int here[NA_QUERY_PAGES], ahead[NA_QUERY_PAGES], after[NA_QUERY_PAGES], why[NA_QUERY_PAGES];
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

int numalloc_migrate_pages(void *ptr, size_t len, const numalloc_nodemask_t *nodes, size_t granule,
                           numalloc_migration_t *result) {
    size_t page = os_page_size();
    if (result == NULL) return EINVAL;
    *result = (numalloc_migration_t){.page_size = page};
    if (!na_init()) return errno;
    int error = check_nodes(nodes);
    if (error != 0 || len == 0) return error;
    if (!is_range(ptr, len) || granule % page != 0) return EINVAL;
    error = os_can_query();
    if (error != 0) return error;
    uintptr_t start = page_floor((uintptr_t)ptr), end = page_ceil((uintptr_t)ptr + len);
    result->pages = (end - start) / page;
    bool dealt = nodeset_count(nodes) > 1;
    if (granule == 0) granule = page;
    for (int node = nodeset_next(nodes, 0); error == 0 && start < end; node = nodeset_next(nodes, node + 1)) {
        if (node < 0) node = nodeset_next(nodes, 0);
        /* Units lie where huge pages do, at multiples of their size. */
        uintptr_t to = dealt ? (start / granule + 1) * granule : end;
        if (to > end) to = end;
        error = move_range(start, to, node, result);
        start = to;
    }
    return error;
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
