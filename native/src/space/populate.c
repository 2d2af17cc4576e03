/* SPDX-License-Identifier: BSD-3-Clause
 *
 * populate.c: owns the faulting in of memory.
 *
 * Room is compared with the whole request before its first page is faulted in: the kernel answers a full cgroup or machine
 * with the OOM killer, MADV_POPULATE_WRITE included. Then chunk by chunk pages are faulted in and, where that matters, the
 * node of each is asked for. The kernel policy under strict memory only prefers its nodes, so a node that turns out to be
 * full gives a page elsewhere, which is seen here and refused, and not an OOM kill as under a bind policy.
 *
 * Threads: `in_flight` is atomic.
 */
#include "space/space.h"

#include <errno.h>
#include <string.h>

enum { QUERY_PAGES = 1024, CHUNK = 32 << 20 /* bytes */ };

int na_each_status(uintptr_t start, uintptr_t end,
                   void (*visit)(uintptr_t start, const int *status, size_t count, void *context), void *context) {
    int status[QUERY_PAGES];
    size_t page = os_page_size();
    while (start < end) {
        size_t count = (end - start) / page;
        if (count > QUERY_PAGES) count = QUERY_PAGES;
        int error = os_query_pages((void *)start, count, status);
        if (error != 0) return error;
        visit(start, status, count, context);
        start += count * page;
    }
    return 0;
}

/* ---- room ------------------------------------------------------------------------------------------------------ */

/* What all threads are about to fault in: two that look at the same room shall not both have it. A thread may thus be
 * refused what another has in hand and does not need. */
static _Atomic(uint64_t) in_flight;

void na_populate_fork_child(void) { atomic_store_explicit(&in_flight, 0, memory_order_relaxed); }

/* Page tables count in a cgroup too: 8 bytes for 4 KiB at most. */
uint64_t na_room(void) {
    uint64_t granted = os_cgroup_room(), available = na_topology_available_bytes();
    if (granted != UINT64_MAX) granted -= granted / 256;
    return granted < available ? granted : available;
}

/* Of `bytes`, while threads together want `all`. */
static bool room_for(uint64_t bytes, uint64_t all, const na_nodeset *nodes) {
    if (all > na_room()) return false;
    if (nodes == NULL) return true;
    uint64_t count = (uint64_t)nodeset_count(nodes), share = bytes / count + (bytes % count != 0);
    for (int node = nodeset_next(nodes, 0); node >= 0; node = nodeset_next(nodes, node + 1))
        if (share > na_topology_free_bytes(node)) return false;
    return true;
}

static bool has_room(uintptr_t start, size_t bytes, uint64_t others, const na_nodeset *nodes) {
    if (room_for(bytes, others + bytes, nodes)) return true;
    size_t resident = 0;
    (void)os_resident((const void *)start, bytes, &resident);
    uint64_t need = bytes - resident;
    return need == 0 || (resident != 0 && room_for(need, others + need, nodes));
}

bool na_has_room(uintptr_t start, size_t bytes, const na_nodeset *nodes) {
    uintptr_t end = na_page_ceil(start + bytes);
    start = na_page_floor(start);
    return has_room(start, end - start, atomic_load_explicit(&in_flight, memory_order_relaxed), nodes);
}

/* ---- where pages are ------------------------------------------------------------------------------------------- */

struct misplaced {
    const na_nodeset *nodes;
    enum na_check check;
    size_t elsewhere;
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

static void find_outside(uintptr_t start, const int *status, size_t count, void *context) {
    struct misplaced *found = context;
    for (size_t i = 0, end; i < count; i = end) {
        for (end = i; end < count && status[end] != -ENOENT && !nodeset_has(found->nodes, status[end]);) end++;
        if (end != i) found->elsewhere += repair(start + i * os_page_size(), end - i, found);
        else end++;
    }
}

static int turn_of(const na_nodeset *nodes, size_t number) {
    int node = nodeset_next(nodes, 0);
    for (size_t skip = number % (size_t)nodeset_count(nodes); skip > 0; skip--) node = nodeset_next(nodes, node + 1);
    return node;
}

/* The kernel deals by address: page number modulo number of nodes, of base pages or of huge ones. */
static void find_undealt(uintptr_t start, const int *status, size_t count, void *context) {
    struct misplaced *found = context;
    size_t page = os_page_size();
    for (size_t i = 0, end; i < count; i = end) {
        uintptr_t address = start + i * page;
        end = i + ((address | (NA_HUGE_BYTES - 1)) + 1 - address) / page;
        if (end > count) end = count;
        size_t wrong = 0, huge_wrong = 0;
        int node = turn_of(found->nodes, address / page), of_huge = turn_of(found->nodes, address / NA_HUGE_BYTES);
        for (size_t k = i; k < end; k++) {
            wrong += status[k] != node;
            huge_wrong += status[k] != of_huge;
            node = nodeset_next(found->nodes, node + 1);
            if (node < 0) node = nodeset_next(found->nodes, 0);
        }
        if (found->check == NA_DEALT || huge_wrong != 0) found->elsewhere += wrong;
    }
}

bool na_pages_elsewhere(uintptr_t start, size_t bytes, const na_nodeset *nodes) {
    if (na_topo.online_count == 1 || os_can_query() != 0) return false;
    struct misplaced found = {.nodes = nodes, .check = NA_IN_SET, .repair = -1};
    return na_each_status(na_page_floor(start), na_page_ceil(start + bytes), find_outside, &found) == 0 &&
           found.elsewhere != 0;
}

/* Was a node of the set taken from this process since it started? The kernel then knows no policy for it. */
static bool any_removed(const na_nodeset *nodes) {
    void *probe;
    if (os_map(os_page_size(), &probe) != 0) return false;
    bool removed = false;
    for (int node = nodeset_next(nodes, 0); node >= 0 && !removed; node = nodeset_next(nodes, node + 1)) {
        na_nodeset one = nodeset_single(node);
        removed = os_bind(probe, os_page_size(), NA_BIND_PREFERRED, &one) == EINVAL;
    }
    (void)os_release(probe, os_page_size());
    return removed;
}

/* ---- faulting in ------------------------------------------------------------------------------------------------ */

static int verify(uintptr_t start, uintptr_t end, const na_nodeset *nodes, enum na_check check) {
    struct misplaced found = {.nodes = nodes, .check = check, .repair = -1};
    if (check == NA_IN_SET && nodeset_count(nodes) == 1) found.repair = nodeset_next(nodes, 0);
    int error = na_each_status(start, end, check == NA_IN_SET ? find_outside : find_undealt, &found);
    return error != 0 ? error : found.elsewhere != 0 ? ENOMEM : 0;
}

int na_populate(uintptr_t start, size_t bytes, const na_nodeset *nodes, enum na_check check) {
    uintptr_t end = na_page_ceil(start + bytes);
    start = na_page_floor(start);
    if (start == end) return 0;
    /* On a machine of one node every page is on it; nothing needs to be asked. */
    bool checked = check != NA_UNCHECKED && na_topo.online_count > 1;
    int error = checked ? os_can_bind() : 0;
    if (error == 0 && checked) error = os_can_query();
    if (error != 0) return error;

    uint64_t left = end - start;
    uint64_t others = atomic_fetch_add_explicit(&in_flight, left, memory_order_relaxed);
    if (!has_room(start, left, others, check != NA_UNCHECKED ? nodes : NULL)) error = ENOMEM;
    for (uintptr_t chunk_end; error == 0 && start < end; start = chunk_end) {
        chunk_end = end - start > CHUNK ? start + CHUNK : end;
        error = os_populate((void *)start, chunk_end - start);
        if (error == 0 && checked) error = verify(start, chunk_end, nodes, check);
        (void)atomic_fetch_sub_explicit(&in_flight, chunk_end - start, memory_order_relaxed);
        left -= chunk_end - start;
    }
    (void)atomic_fetch_sub_explicit(&in_flight, left, memory_order_relaxed);
    return error == ENOMEM && checked && any_removed(nodes) ? ENODEV : error;
}
