/* SPDX-License-Identifier: BSD-3-Clause
 *
 * topology.h: NUMA nodes, their CPUs, memory and distances, and which of them this process may use.
 * Discovered once from sysfs and /proc/self/status; constant afterwards and read without locks, but for CPUs that were
 * offline then: the kernel is asked for the node of such a CPU when a thread that runs on it first wants memory.
 * A machine whose sysfs has no nodes is one node, id 0, with all CPUs.
 */
#ifndef NA_TOPOLOGY_H
#define NA_TOPOLOGY_H

#include "os/nodeset.h"

typedef struct na_cpu {
    _Alignas(4) int16_t node_plus_1; /* id of its node, 0: unknown */
    int16_t home;                    /* index of its node, or of the nearest allowed node */
} na_cpu;                            /* is read and written in one piece */

/* The tables have room for every id there can be, in memory that a process gets when it is written. Entries are written
 * for nodes and CPUs that exist, and only if that changes them: where node 0 is the only one, those of CPUs alone. */
typedef struct na_topology {
    int node_count;              /* allowed nodes with memory, >= 1 */
    int online_count;            /* nodes of the machine; 1: every page is on it, so the kernel is not told where */
    uint64_t largest_node_bytes; /* memory of the largest allowed node */
    uint64_t overcommit_bytes;   /* the kernel refuses a larger mapping (vm.overcommit_memory=0); UINT64_MAX: none */
    na_nodeset online;           /* all node ids that exist */
    na_nodeset allowed;          /* ids in node_id[] */
    const char *policy;          /* memory policy set before the process started; NULL: none */
    na_nodeset policy_nodes;
    na_cpu cpu[NA_MAX_CPUS];
    int16_t index_of[NUMALLOC_MAX_NODES]; /* id -> index, of allowed nodes */
    int node_id[NUMALLOC_MAX_NODES];      /* their ids, ascending; position = "index" of a node */
} na_topology;

extern na_topology na_topo; /* valid after na_topology_init() */

/* Index of a node, -1: not allowed, without memory, or absent. */
static inline int na_topology_index_of(int node) {
    return nodeset_has(&na_topo.allowed, node) ? na_topo.index_of[node] : -1;
}
static inline na_cpu na_topology_cpu(int cpu) {
    na_cpu known = {0, 0};
    if (cpu >= 0 && cpu < NA_MAX_CPUS) __atomic_load(&na_topo.cpu[cpu], &known, __ATOMIC_RELAXED);
    return known;
}
/* Node id of a CPU, -1: unknown. */
static inline int na_topology_node_of_cpu(int cpu) { return na_topology_cpu(cpu).node_plus_1 - 1; }
/* Index of the node whose memory is nearest to a CPU. */
static inline int na_topology_home_of_cpu(int cpu) { return na_topology_cpu(cpu).home; }

/* The caller's CPU; the kernel is asked for its node if that is unknown. */
int na_topology_cpu_now(void);

/* Discovers. Idempotent, thread-safe by the caller's lock. `root` replaces "/" in paths for tests, NULL
 * otherwise. Always leaves a usable topology. */
void na_topology_init(const char *root);

/* SLIT distance between two node ids, -1 if either is unknown. */
int na_topology_distance(int from, int to);

/* Allowed nodes as indexes in order of distance from index `from` (itself first; ties by id). The array
 * has node_count entries and lives as long as the process. */
const int16_t *na_topology_neighbours(int from);

/* That policy as "bind:0-1", cut off where it does not fit; "" where there is none. */
void na_topology_policy_text(char *to, size_t capacity);

int na_topology_node_info(int node, numalloc_node_info_t *info); /* ENODEV */
uint64_t na_topology_free_bytes(int node);           /* free memory of the node now; UINT64_MAX if unknown */
uint64_t na_topology_available_bytes(void);          /* memory and swap that the machine can give, but for 1/64 of its
                                             * memory, which others need; UINT64_MAX if unknown */
void na_topology_cpus_of(int node, na_cpuset *cpus); /* online CPUs of a node */

/* Files and lists like "0-3,8" as the topology reads them: below the root that it was given. */
int na_topology_read(const char *path, char *into, size_t capacity);
int na_topology_list(const char *path, void (*visit)(const char *name, void *context), void *context);
void na_topology_each_in_list(const char *list, void (*visit)(int id, void *context), void *context);

/* ---- kinds.c: what the kernel tells of a node's memory, and kinds of memory by that ---- */

typedef struct na_memory {
    uint32_t read_bandwidth, write_bandwidth; /* MB/s, as the CPUs next to the node see it; 0: not told */
    uint32_t read_latency, write_latency;     /* ns; 0: not told */
    int tier;                                 /* -1: not told */
} na_memory;
enum { NA_KINDS = NUMALLOC_KIND_CAPACITY - NUMALLOC_KIND_BANDWIDTH + 1 };
static inline bool na_is_kind(int kind) { return kind >= NUMALLOC_KIND_BANDWIDTH && kind <= NUMALLOC_KIND_CAPACITY; }
typedef struct na_memory_kind {
    na_nodeset nodes;
    int source; /* enum numalloc_source */
} na_memory_kind;

const na_memory *na_memory_of(int node);               /* of an online node */
uint32_t na_memory_bandwidth(const na_memory *memory); /* the lower of reading and writing; 0: not told */
void na_weights_reduce(numalloc_weights_t *weights, const na_nodeset *nodes); /* by their common divisor */
unsigned na_kernel_weight(int node); /* of the kernel's weighted interleaving, now; 0: it has none */
const na_memory_kind *na_kind_of(int kind);
int na_kind_nearest(int kind, int from);         /* node id, seen from a node id; -1: kind not known */
size_t na_kinds_text(char *to, size_t capacity); /* as numalloc_kind_text */
void na_kinds_forget(void);                      /* the topology is read anew; no other thread asks meanwhile */

#endif
