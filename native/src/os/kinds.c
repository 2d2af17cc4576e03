/* SPDX-License-Identifier: BSD-3-Clause
 *
 * kinds.c: what the kernel tells of each node's memory (bandwidth, latency, tier), and which nodes are of a kind by that.
 * Read once, when it is first asked for: few processes do.
 *
 * Invariants. A kind with a source has at least one node, all of them allowed; without, it has none.
 *
 * Threads: tables are written once under pthread_once, which a child of fork may repeat; `nearest` atomically by any
 * thread, all of them with the same values.
 */
#include "os/topology.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { PATH = 128, NUMBER = 64, LIST = 16384 };

static na_memory memory[NUMALLOC_MAX_NODES]; /* by node id */
static na_memory_kind kinds[NA_KINDS];
static _Atomic(int16_t) nearest[NA_KINDS]
                               [NUMALLOC_MAX_NODES]; /* by the caller's node id; node id + 1, 0: not yet known */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- reading ------------------------------------------------------------------------------------------------ */

static uint32_t read_number(const char *path) {
    char text[NUMBER];
    uint64_t value = 0;
    if (na_topology_read(path, text, sizeof text) != 0) return 0;
    for (const char *c = text; *c >= '0' && *c <= '9' && value <= UINT32_MAX; c++)
        value = value * 10 + (uint64_t)(*c - '0');
    return value <= UINT32_MAX ? (uint32_t)value : 0;
}

/* As the CPUs next to the node see it; older kernels: the nearest initiator of any sort. */
static void read_attributes(int node) {
    static const char *const access[] = {"access1", "access0"};
    na_memory *m = &memory[node];
    for (int i = 0; i < 2 && m->read_bandwidth == 0 && m->read_latency == 0; i++) {
        const struct {
            const char *name;
            uint32_t *value;
        } files[] = {{"read_bandwidth", &m->read_bandwidth},
                     {"write_bandwidth", &m->write_bandwidth},
                     {"read_latency", &m->read_latency},
                     {"write_latency", &m->write_latency}};
        char path[PATH];
        for (int f = 0; f < 4; f++) {
            (void)snprintf(path, sizeof path, "/sys/devices/system/node/node%d/%s/initiators/%s", node, access[i],
                           files[f].name);
            *files[f].value = read_number(path);
        }
    }
}

static void set_tier(int node, void *tier) {
    if (node < NUMALLOC_MAX_NODES) memory[node].tier = *(const int *)tier;
}

static void read_tier(const char *name, void *context) {
    char *list = context, path[PATH];
    int tier;
    if (sscanf(name, "memory_tier%d", &tier) != 1) return;
    (void)snprintf(path, sizeof path, "/sys/devices/virtual/memory_tiering/memory_tier%d/nodelist", tier);
    if (na_topology_read(path, list, LIST) == 0) na_topology_each_in_list(list, set_tier, &tier);
}

/* ---- kinds -------------------------------------------------------------------------------------------------- */

/* The lower of two numbers, one of which may be missing. */
static uint32_t lower(uint32_t a, uint32_t b) { return a == 0 || (b != 0 && b < a) ? b : a; }

static uint32_t higher(uint32_t a, uint32_t b) { return a > b ? a : b; }

static uint64_t value_of(int kind, int node) {
    numalloc_node_info_t info;
    if (kind == NUMALLOC_KIND_BANDWIDTH) return na_memory_bandwidth(&memory[node]);
    if (kind == NUMALLOC_KIND_LATENCY) return higher(memory[node].read_latency, memory[node].write_latency);
    return na_topology_node_info(node, &info) == 0 ? info.total_bytes : 0;
}

uint32_t na_memory_bandwidth(const na_memory *m) { return lower(m->read_bandwidth, m->write_bandwidth); }

/* Nodes within 10 % of the best. None, if the value of one is not known. */
static void by_value(int kind, na_memory_kind *answer) {
    bool least = kind == NUMALLOC_KIND_LATENCY;
    uint64_t best = 0;
    for (int i = 0; i < na_topo.node_count; i++) {
        uint64_t value = value_of(kind, na_topo.node_id[i]);
        if (value == 0) return;
        if (best == 0 || (least ? value < best : value > best)) best = value;
    }
    for (int i = 0; i < na_topo.node_count; i++) {
        uint64_t value = value_of(kind, na_topo.node_id[i]);
        if (least ? value <= best + best / 10 : value >= best - best / 10)
            nodeset_add(&answer->nodes, na_topo.node_id[i]);
    }
    answer->source = kind == NUMALLOC_KIND_CAPACITY ? NUMALLOC_SOURCE_SIZE : NUMALLOC_SOURCE_ATTRIBUTES;
}

/* Nodes of the first tier or, of capacity, of the last. None, if all are in one. */
static void by_tier(int kind, na_memory_kind *answer) {
    int first = memory[na_topo.node_id[0]].tier, last = first;
    for (int i = 0; i < na_topo.node_count; i++) {
        int tier = memory[na_topo.node_id[i]].tier;
        if (tier < 0) return;
        if (tier < first) first = tier;
        if (tier > last) last = tier;
    }
    if (first == last) return;
    for (int i = 0; i < na_topo.node_count; i++)
        if (memory[na_topo.node_id[i]].tier == (kind == NUMALLOC_KIND_CAPACITY ? last : first))
            nodeset_add(&answer->nodes, na_topo.node_id[i]);
    answer->source = NUMALLOC_SOURCE_TIERS;
}

static void read_all(void) {
    void *list = NULL;
    for (int node = nodeset_next(&na_topo.online, 0); node >= 0; node = nodeset_next(&na_topo.online, node + 1)) {
        memory[node] = (na_memory){.tier = -1};
        read_attributes(node);
    }
    if (os_map(LIST, &list) == 0) {
        (void)na_topology_list("/sys/devices/virtual/memory_tiering", read_tier, list);
        (void)os_release(list, LIST);
    }
    memset(kinds, 0, sizeof kinds);
    memset((void *)nearest, 0, sizeof nearest);
    for (int k = 0; k < NA_KINDS; k++) {
        int kind = NUMALLOC_KIND_BANDWIDTH + k;
        if (kind == NUMALLOC_KIND_CAPACITY) by_tier(kind, &kinds[k]);
        if (kinds[k].source == NUMALLOC_SOURCE_NONE) by_value(kind, &kinds[k]);
        if (kinds[k].source == NUMALLOC_SOURCE_NONE) by_tier(kind, &kinds[k]);
    }
}

/* ---- questions ------------------------------------------------------------------------------------------------ */

void na_kinds_forget(void) { once = (pthread_once_t)PTHREAD_ONCE_INIT; }

const na_memory *na_memory_of(int node) {
    (void)pthread_once(&once, read_all);
    return &memory[node];
}

void na_weights_reduce(numalloc_weights_t *weights, const na_nodeset *nodes) {
    unsigned divisor = 0;
    for (int node = nodeset_next(nodes, 0); node >= 0; node = nodeset_next(nodes, node + 1))
        for (unsigned other = weights->of[node]; other != 0;) {
            unsigned rest = divisor % other;
            divisor = other;
            other = rest;
        }
    for (int node = nodeset_next(nodes, 0); node >= 0; node = nodeset_next(nodes, node + 1))
        weights->of[node] = (uint8_t)(weights->of[node] / divisor);
}

unsigned na_kernel_weight(int node) {
    char path[PATH];
    (void)snprintf(path, sizeof path, "/sys/kernel/mm/mempolicy/weighted_interleave/node%d", node);
    return read_number(path);
}

const na_memory_kind *na_kind_of(int kind) {
    (void)pthread_once(&once, read_all);
    return &kinds[kind - NUMALLOC_KIND_BANDWIDTH];
}

/* Are the CPUs of a node the ones next to this memory? */
static bool is_initiator(int from, int node) {
    char path[PATH], text[LIST / 4];
    (void)snprintf(path, sizeof path, "/sys/devices/system/node/node%d/access1/initiators/node%d/cpulist", node, from);
    return na_topology_read(path, text, sizeof text) == 0;
}

/* Before distance comes what the kernel says of the node's initiators: firmware often has no distances of such nodes. */
static int find_nearest(const na_nodeset *nodes, int from) {
    int best = -1, best_distance = 0;
    for (int node = nodeset_next(nodes, 0); node >= 0; node = nodeset_next(nodes, node + 1)) {
        int distance = na_topology_distance(from, node);
        if (node == from) distance = -2;
        else if (is_initiator(from, node)) distance -= 256;
        if (best < 0 || distance < best_distance) {
            best = node;
            best_distance = distance;
        }
    }
    return best;
}

int na_kind_nearest(int kind, int from) {
    const na_memory_kind *known = na_kind_of(kind);
    if (known->source == NUMALLOC_SOURCE_NONE) return -1;
    _Atomic(int16_t) *at = &nearest[kind - NUMALLOC_KIND_BANDWIDTH][from];
    int node = atomic_load_explicit(at, memory_order_relaxed) - 1;
    if (node >= 0) return node;
    node = find_nearest(&known->nodes, from);
    atomic_store_explicit(at, (int16_t)(node + 1), memory_order_relaxed);
    return node;
}

size_t na_kinds_text(char *to, size_t capacity) {
    size_t length = 0;
#define ADD(...)                                                                                                       \
    length += (size_t)snprintf(length < capacity ? to + length : NULL, length < capacity ? capacity - length : 0,      \
                               __VA_ARGS__)
    if (capacity != 0) *to = '\0';
    for (int i = 0; i < na_topo.node_count; i++) {
        int node = na_topo.node_id[i];
        const na_memory *m = na_memory_of(node);
        numalloc_node_info_t info = {0};
        (void)na_topology_node_info(node, &info);
        ADD("%snode %d: %d CPUs, %llu MiB, ", i == 0 ? "" : "; ", node, info.cpus,
            (unsigned long long)(info.total_bytes >> 20));
        if (na_memory_bandwidth(m) != 0) ADD("%u MB/s, ", na_memory_bandwidth(m));
        else ADD("no bandwidth told, ");
        if (value_of(NUMALLOC_KIND_LATENCY, node) != 0)
            ADD("%llu ns, ", (unsigned long long)value_of(NUMALLOC_KIND_LATENCY, node));
        else ADD("no latency told, ");
        if (m->tier >= 0) ADD("tier %d", m->tier);
        else ADD("no tier told");
    }
#undef ADD
    return length;
}
