/* SPDX-License-Identifier: BSD-3-Clause
 *
 * machine.c: the calls about the machine: its nodes, kinds of memory, and threads and policies on them.
 *
 * Threads: no state.
 */
#include "api/api.h"
#include "api/sized.h"
#include "os/topology.h"

#include <errno.h>
#include <string.h>

int numalloc_node_count(void) { return na_init() ? na_topo.node_count : 1; }

int numalloc_node_ids(int *ids, int capacity) {
    if (!na_init()) return 0;
    for (int i = 0; ids != NULL && i < na_topo.node_count && i < capacity; i++) ids[i] = na_topo.node_id[i];
    return na_topo.node_count;
}

int numalloc_node_info_sized(int node, numalloc_node_info_t *info, size_t bytes) {
    numalloc_node_info_t own;
    if (!na_answer(info, bytes, offsetof(numalloc_node_info_t, read_bandwidth))) return EINVAL;
    if (!na_init()) return errno;
    int error = na_topology_node_info(node, &own);
    if (error != 0) return error;
    const na_memory *memory = na_memory_of(node);
    own.read_bandwidth = memory->read_bandwidth;
    own.write_bandwidth = memory->write_bandwidth;
    own.read_latency = memory->read_latency;
    own.write_latency = memory->write_latency;
    own.tier = memory->tier;
    memcpy(info, &own, bytes < sizeof own ? bytes : sizeof own);
    return 0;
}

int numalloc_distance(int from, int to) { return na_init() ? na_topology_distance(from, to) : -1; }

int numalloc_current_node(void) {
    if (!na_init()) return 0;
    int node = na_topology_node_of_cpu(na_topology_cpu_now());
    return node >= 0 ? node : na_topo.node_id[0];
}

int numalloc_bind_thread(int node) {
    if (!na_init()) return errno;
    if (!nodeset_has(&na_topo.online, node)) return ENODEV;
    na_cpuset cpus;
    na_topology_cpus_of(node, &cpus);
    int error = os_set_affinity(&cpus);
    return error == EINVAL ? ENODEV : error; /* EINVAL: none of them is in our cpuset */
}

int numalloc_memory_policy(int policy, unsigned flags, const numalloc_nodemask_t *nodes) {
    if (!na_init()) return errno;
    bool strict = flags == NUMALLOC_STRICT;
    if (flags != 0 && !strict) return EINVAL;
    if (nodes == NULL) nodes = &na_topo.allowed;
    if (!nodeset_within(nodes, &na_topo.allowed) || nodeset_count(nodes) == 0) return ENODEV;
    enum na_bind_mode mode = strict ? NA_BIND_STRICT : NA_BIND_DEFAULT;
    if (policy == NUMALLOC_INTERLEAVE && !strict) mode = NA_BIND_INTERLEAVE;
    else if (policy == NUMALLOC_ONNODE && !strict)
        mode = nodeset_count(nodes) == 1 ? NA_BIND_PREFERRED : NA_BIND_NEAREST;
    else if (policy != NUMALLOC_LOCAL) return EINVAL;
    int error = os_set_policy(mode, nodes);
    if (error != EINVAL) return error;
    return mode == NA_BIND_NEAREST ? ENOSYS : ENODEV; /* they were taken from this process */
}

int numalloc_memory_policy_now(int *mode, numalloc_nodemask_t *nodes) {
    if (mode == NULL || nodes == NULL) return EINVAL;
    *nodes = (numalloc_nodemask_t){{0}};
    return os_get_policy(mode, nodes);
}

int numalloc_can_bind(void) { return na_init() && na_topo.online_count == 1 ? 0 : os_can_bind(); }
int numalloc_can_query(void) { return os_can_query(); }

/* ---- kinds of memory ------------------------------------------------------------------------------------- */

int numalloc_kind_sized(int kind, numalloc_kind_t *answer, size_t bytes) {
    if (!na_answer(answer, bytes, sizeof *answer) || !na_is_kind(kind)) return EINVAL;
    answer->nearest = -1;
    if (!na_init()) return errno;
    const na_memory_kind *known = na_kind_of(kind);
    if (known->source == NUMALLOC_SOURCE_NONE) return ENODATA;
    answer->source = known->source;
    answer->nodes = known->nodes;
    answer->nearest = na_kind_nearest(kind, numalloc_current_node());
    return 0;
}

size_t numalloc_kind_text(char *buffer, size_t capacity) {
    if (na_init()) return na_kinds_text(buffer, capacity);
    if (capacity != 0) *buffer = '\0';
    return 0;
}

/* Weights are the smallest numbers that are in proportion to a twentieth, and below this limit. */
enum { WEIGHT_MAX = 32 };

/* The heaviest is `heaviest`. false: one is further from proportion. */
static bool in_proportion(const numalloc_nodemask_t *nodes, uint64_t most, uint64_t heaviest,
                          numalloc_weights_t *weights) {
    bool close = true;
    for (int node = nodeset_next(nodes, 0); node >= 0; node = nodeset_next(nodes, node + 1)) {
        uint64_t exact = na_memory_bandwidth(na_memory_of(node)) * heaviest; /* times `most` */
        uint64_t weight = (exact + most / 2) / most;
        if (weight == 0) weight = 1;
        uint64_t off = weight * most > exact ? weight * most - exact : exact - weight * most;
        close = close && off <= exact / 20;
        weights->of[node] = (uint8_t)weight;
    }
    return close;
}

int numalloc_weights(const numalloc_nodemask_t *nodes, numalloc_weights_t *weights) {
    if (weights == NULL) return EINVAL;
    memset(weights, 0, sizeof *weights);
    if (!na_init()) return errno;
    if (nodes == NULL) nodes = &na_topo.allowed;
    if (nodeset_count(nodes) == 0) return EINVAL;
    if (!nodeset_within(nodes, &na_topo.allowed)) return ENODEV;
    uint64_t most = 0;
    for (int node = nodeset_next(nodes, 0); node >= 0; node = nodeset_next(nodes, node + 1)) {
        uint32_t bandwidth = na_memory_bandwidth(na_memory_of(node));
        if (bandwidth == 0) return ENODATA;
        if (bandwidth > most) most = bandwidth;
    }
    for (uint64_t heaviest = 1; heaviest <= WEIGHT_MAX; heaviest++)
        if (in_proportion(nodes, most, heaviest, weights)) break;
    na_weights_reduce(weights, nodes);
    return 0;
}
