/* SPDX-License-Identifier: BSD-3-Clause
 *
 * topology.c: reads nodes, CPUs, memory and distances from sysfs, and what this process may use from
 * /proc/self/status. Where sysfs has no nodes, node 0 has the CPUs of sysfs or of the caller's affinity, and the
 * memory of /proc/meminfo.
 *
 * Invariants. Every index_of an allowed node, home_of_cpu and neighbour is an index below node_count; each
 * row of neighbours holds every index once, its own first.
 *
 * Threads: written once by na_topology_init under its caller's lock, read-only afterwards.
 */
#include "os/topology.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

na_topology na_topo;

enum { PATH = 256, TEXT = 65536 };

static char root_path[PATH];
static char *text;         /* TEXT bytes for the file that is read right now, while na_topology_init runs */
static bool without_sysfs; /* no list of nodes: one node, made up */
static int16_t position_of[NUMALLOC_MAX_NODES]; /* node id -> row of `distances` */
static uint8_t *distances;                      /* online_count squared, by position */
static int16_t *neighbours;                     /* node_count squared, by index */
static void *tables;                            /* memory of both */
static size_t tables_bytes;
static bool tables_known; /* a first call failed later, or this is a test */

/* ---- parsing ---------------------------------------------------------------------------------------- */

/* Gives the end, where more may follow. Not snprintf, whose code and tables few processes have use for at their start.
 * Paths here are short, and root_path is below PATH. */
static char *append(char *to, const char *text_to_add) {
    while ((*to = *text_to_add++) != '\0') to++;
    return to;
}

int na_topology_read(const char *path, char *into, size_t capacity) {
    char full[2 * PATH];
    size_t length;
    if (into == NULL) return ENOMEM;
    append(append(full, root_path), path);
    return os_read_file(full, into, capacity, &length);
}

/* A file of a node, below sysfs. */
static int read_of_node(int node, const char *file, char *into, size_t capacity) {
    char path[PATH], digits[16], *first = digits + sizeof digits - 1;
    *first = '\0';
    do *--first = (char)('0' + node % 10);
    while ((node /= 10) != 0);
    append(append(append(path, "/sys/devices/system/node/node"), first), file);
    return na_topology_read(path, into, capacity);
}

int na_topology_list(const char *path, void (*visit)(const char *name, void *context), void *context) {
    char full[2 * PATH];
    append(append(full, root_path), path);
    return os_list(full, visit, context);
}

void na_topology_each_in_list(const char *list, void (*visit)(int id, void *context), void *context) {
    const char *c = list;
    while (*c >= '0' && *c <= '9') {
        long from = 0, to;
        while (*c >= '0' && *c <= '9' && from < 1000000) from = from * 10 + (*c++ - '0');
        to = from;
        if (*c == '-') {
            to = 0;
            c++;
            while (*c >= '0' && *c <= '9' && to < 1000000) to = to * 10 + (*c++ - '0');
        }
        for (long id = from; id <= to; id++) visit((int)id, context);
        if (*c == ',') c++;
    }
}

static void add_node(int id, void *set) {
    if (id < NUMALLOC_MAX_NODES) nodeset_add(set, id);
}

/* The value behind `key` in lines like "Node 0 MemFree:   123 kB" or "MemFree:   123 kB", in bytes. */
static bool value_of(const char *meminfo, const char *key, uint64_t *bytes) {
    const char *at = strstr(meminfo, key);
    if (at == NULL) return false;
    at += strlen(key);
    while (*at == ' ' || *at == '\t') at++;
    if (*at < '0' || *at > '9') return false;
    uint64_t value = 0;
    while (*at >= '0' && *at <= '9') value = value * 10 + (uint64_t)(*at++ - '0');
    *bytes = value * 1024;
    return true;
}

static int read_meminfo(int node, char *into, size_t capacity) {
    if (without_sysfs) return na_topology_read("/proc/meminfo", into, capacity);
    return read_of_node(node, "/meminfo", into, capacity);
}

static uint64_t total_bytes(int node) {
    uint64_t bytes = 0;
    if (read_meminfo(node, text, TEXT) == 0 && value_of(text, "MemTotal:", &bytes)) return bytes;
    return 0;
}

/* ---- CPUs --------------------------------------------------------------------------------------------- */

enum { BITS = 8 * sizeof(unsigned long) }; /* in a word of a na_cpuset */

static void add_cpu(int cpu, void *cpus) {
    if (cpu < NA_MAX_CPUS) ((na_cpuset *)cpus)->word[cpu / BITS] |= 1UL << (cpu % BITS);
}

/* The CPUs of a node that are online; false: its file can't be read. `into`: TEXT bytes. */
static bool read_cpus(int node, char *into, na_cpuset *cpus) {
    memset(cpus, 0, sizeof *cpus);
    if (without_sysfs) {
        if (na_topology_read("/sys/devices/system/cpu/online", into, TEXT) != 0 || into[0] < '0' || into[0] > '9')
            return os_get_affinity(cpus) == 0;
    } else if (read_of_node(node, "/cpulist", into, TEXT) != 0) {
        return false;
    }
    na_topology_each_in_list(into, add_cpu, cpus);
    return true;
}

/* ---- distances ---------------------------------------------------------------------------------------- */

static void read_distances(int node) {
    uint8_t *row = distances + position_of[node] * na_topo.online_count;
    for (int i = 0; i < na_topo.online_count; i++) row[i] = i == position_of[node] ? 10 : 20; /* ACPI's defaults */
    if (read_of_node(node, "/distance", text, TEXT) != 0) return;
    const char *c = text;
    for (int i = 0; i < na_topo.online_count; i++) { /* one number per online node, ascending */
        while (*c == ' ') c++;
        if (*c < '0' || *c > '9') return;
        unsigned value = 0;
        while (*c >= '0' && *c <= '9') value = value * 10 + (unsigned)(*c++ - '0');
        row[i] = (uint8_t)(value > 255 ? 255 : value);
    }
}

int na_topology_distance(int from, int to) {
    if (!nodeset_has(&na_topo.online, from) || !nodeset_has(&na_topo.online, to)) return -1;
    if (distances == NULL) return from == to ? 10 : 20;
    return distances[position_of[from] * na_topo.online_count + position_of[to]];
}

/* Allowed nodes by distance from node id `from`, ties by id: insertion sort, node counts are small. */
static void sort_neighbours(int from, int16_t *row) {
    for (int i = 0; i < na_topo.node_count; i++) {
        int d = na_topology_distance(from, na_topo.node_id[i]);
        if (na_topo.node_id[i] == from) d = -1; /* itself first, whatever the table says */
        int at = i;
        for (; at > 0; at--) {
            int other = na_topo.node_id[row[at - 1]];
            if ((other == from ? -1 : na_topology_distance(from, other)) <= d) break;
            row[at] = row[at - 1];
        }
        row[at] = (int16_t)i;
    }
}

/* The order when there was no memory for tables (or one node): by index, round from the node itself. Twice all
 * indexes in a row, so that any start has node_count entries behind it. */
static int16_t round_order[2 * NUMALLOC_MAX_NODES];

const int16_t *na_topology_neighbours(int from) {
    return neighbours != NULL ? neighbours + from * na_topo.node_count : round_order + from;
}

/* ---- discovery ---------------------------------------------------------------------------------------- */

/* The set in a file, false if it can't be read or is empty. */
static bool read_nodeset(const char *path, na_nodeset *set) {
    memset(set, 0, sizeof *set);
    if (na_topology_read(path, text, TEXT) != 0) return false;
    na_topology_each_in_list(text, add_node, set);
    return nodeset_count(set) != 0;
}

static bool read_mems_allowed(na_nodeset *set) {
    memset(set, 0, sizeof *set);
    if (na_topology_read("/proc/self/status", text, TEXT) != 0) return false;
    const char *line = strstr(text, "Mems_allowed_list:");
    if (line == NULL) return false;
    line += strlen("Mems_allowed_list:");
    while (*line == ' ' || *line == '\t') line++;
    na_topology_each_in_list(line, add_node, set);
    return nodeset_count(set) != 0;
}

static void find_nodes(void) {
    na_nodeset memory, mems_allowed;
    without_sysfs = !read_nodeset("/sys/devices/system/node/online", &na_topo.online);
    if (without_sysfs) na_topo.online = nodeset_single(0);
    if (!read_nodeset("/sys/devices/system/node/has_memory", &memory)) memory = na_topo.online;
    if (!read_mems_allowed(&mems_allowed)) mems_allowed = na_topo.online;
    for (int w = 0; w < NUMALLOC_MAX_NODES / 64; w++)
        na_topo.allowed.word[w] = na_topo.online.word[w] & memory.word[w] & mems_allowed.word[w];
    /* Nothing left means that the files contradict each other; the first node is then as good as any. */
    if (nodeset_count(&na_topo.allowed) == 0) na_topo.allowed = nodeset_single(nodeset_next(&na_topo.online, 0));
}

/* Under vm.overcommit_memory=0, the default, a mapping beyond all memory and swap is an obvious mistake. Reserved address
 * space is exempt from the kernel's check, so requests are compared here. Under 2 the kernel counts what is opened. */
static uint64_t overcommit_bytes(void) {
    uint64_t memory, swap = 0;
    if (na_topology_read("/proc/sys/vm/overcommit_memory", text, TEXT) != 0 || text[0] != '0') return UINT64_MAX;
    if (na_topology_read("/proc/meminfo", text, TEXT) != 0 || !value_of(text, "MemTotal:", &memory)) return UINT64_MAX;
    (void)value_of(text, "SwapTotal:", &swap);
    return memory + swap;
}

/* Index of its node, or of the nearest that is allowed. */
static int home_of_node(int node) {
    int own = na_topology_index_of(node), nearest = 0;
    for (int i = 1; own < 0 && i < na_topo.node_count; i++)
        if (na_topology_distance(node, na_topo.node_id[i]) < na_topology_distance(node, na_topo.node_id[nearest]))
            nearest = i;
    return own >= 0 ? own : nearest;
}

static void set_cpu(int cpu, na_cpu value) {
    if (cpu < NA_MAX_CPUS) __atomic_store(&na_topo.cpu[cpu], &value, __ATOMIC_RELAXED);
}

static na_cpu cpu_on(int node) { return (na_cpu){(int16_t)(node + 1), (int16_t)home_of_node(node)}; }

int na_topology_cpu_now(void) {
    int cpu = os_current_cpu();
    if (na_topology_node_of_cpu(cpu) >= 0) return cpu;
    int now, node = os_current_node(&now);
    if (node < 0 || !nodeset_has(&na_topo.online, node)) return cpu;
    set_cpu(now, cpu_on(node));
    return now;
}

/* As in /proc/PID/numa_maps; NULL: no policy, pages are where they are first touched. */
static const char *policy_name(int mode, const na_nodeset *nodes) {
    static const char *const names[] = {
        NULL, "prefer", "bind", "interleave", NULL, "prefer (many)", "weighted interleave"};
    enum { NAMES = sizeof names / sizeof names[0] };
    unsigned number = (unsigned)mode & 0xff; /* flags are higher bits */
    if (number < NAMES && names[number] == NULL) return NULL;
    for (int w = 0; w < NUMALLOC_MAX_NODES / 64; w++)
        if (nodes->word[w] != 0) return number < NAMES ? names[number] : "unknown";
    return NULL; /* preferred without a node: local, for older kernels */
}

void na_topology_init(const char *root) {
    append(root_path, root != NULL && strlen(root) < PATH ? root : "");
    if (tables_known) memset(na_topo.cpu, 0, sizeof na_topo.cpu);
    tables_known = true;
    na_kinds_forget();
    memset(&na_topo, 0, offsetof(na_topology, cpu));
    void *memory = NULL;
    (void)os_map(TEXT, &memory); /* without, nothing can be read */
    text = memory;
    find_nodes();
    na_topo.overcommit_bytes = overcommit_bytes();

    na_topo.online_count = 0;
    for (int node = nodeset_next(&na_topo.online, 0); node >= 0; node = nodeset_next(&na_topo.online, node + 1)) {
        if (position_of[node] != na_topo.online_count) position_of[node] = (int16_t)na_topo.online_count;
        na_topo.online_count++;
        if (!nodeset_has(&na_topo.allowed, node)) continue;
        if (na_topo.index_of[node] != na_topo.node_count) na_topo.index_of[node] = (int16_t)na_topo.node_count;
        if (na_topo.node_id[na_topo.node_count] != node) na_topo.node_id[na_topo.node_count] = node;
        na_topo.node_count++;
        uint64_t bytes = total_bytes(node);
        if (bytes > na_topo.largest_node_bytes) na_topo.largest_node_bytes = bytes;
    }

    /* On one node it means nothing. */
    int mode;
    if (na_topo.online_count > 1 && os_get_policy(&mode, &na_topo.policy_nodes) == 0)
        na_topo.policy = policy_name(mode, &na_topo.policy_nodes);

    size_t page = os_page_size();
    size_t square = (size_t)na_topo.online_count * (size_t)na_topo.online_count;
    size_t table =
        (square + (size_t)na_topo.node_count * (size_t)na_topo.node_count * sizeof *neighbours + 16 + page - 1) &
        ~(page - 1);
    if (tables != NULL) (void)os_release(tables, tables_bytes);
    tables = NULL;
    distances = NULL;
    neighbours = NULL;
    for (int i = 1; i < 2 * na_topo.node_count; i++)
        if (round_order[i] != i % na_topo.node_count) round_order[i] = (int16_t)(i % na_topo.node_count);
    if (na_topo.online_count > 1 && os_map(table, &tables) == 0) {
        tables_bytes = table;
        neighbours = tables;
        distances = (uint8_t *)(neighbours + na_topo.node_count * na_topo.node_count);
    }
    for (int node = nodeset_next(&na_topo.online, 0); node >= 0; node = nodeset_next(&na_topo.online, node + 1))
        if (distances != NULL) read_distances(node);
    for (int i = 0; neighbours != NULL && i < na_topo.node_count; i++)
        sort_neighbours(na_topo.node_id[i], neighbours + i * na_topo.node_count);

    na_cpuset cpus;
    for (int node = nodeset_next(&na_topo.online, 0); node >= 0; node = nodeset_next(&na_topo.online, node + 1)) {
        if (!read_cpus(node, text, &cpus)) continue;
        na_cpu value = cpu_on(node);
        for (int w = 0; w < NA_MAX_CPUS / BITS; w++)
            for (unsigned long left = cpus.word[w]; left != 0; left &= left - 1)
                set_cpu(w * BITS + __builtin_ctzl(left), value);
    }
    if (text != NULL) (void)os_release(text, TEXT);
    text = NULL;
}

/* ---- questions -------------------------------------------------------------------------------------------- */

/* Free memory plus what the kernel drops when memory is wanted: file pages (half of them, as some are in use)
 * and reclaimable slab. */
uint64_t na_topology_free_bytes(int node) {
    char meminfo[4096];
    uint64_t bytes, part;
    if (read_meminfo(node, meminfo, sizeof meminfo) != 0 || !value_of(meminfo, "MemFree:", &bytes)) return UINT64_MAX;
    if (value_of(meminfo, "Active(file):", &part)) bytes += part / 2;
    if (value_of(meminfo, "Inactive(file):", &part)) bytes += part;
    if (value_of(meminfo, "SReclaimable:", &part)) bytes += part / 2;
    return bytes;
}

uint64_t na_topology_available_bytes(void) {
    char meminfo[4096];
    size_t length;
    uint64_t bytes, swap, total;
    if (os_read_file("/proc/meminfo", meminfo, sizeof meminfo, &length) != 0) return UINT64_MAX;
    if (!value_of(meminfo, "MemAvailable:", &bytes)) return UINT64_MAX;
    if (value_of(meminfo, "SwapFree:", &swap)) bytes += swap;
    if (value_of(meminfo, "MemTotal:", &total)) bytes -= bytes < total / 64 ? bytes : total / 64;
    return bytes;
}

void na_topology_policy_text(char *to, size_t capacity) {
    size_t length = (size_t)snprintf(to, capacity, "%s", na_topo.policy != NULL ? na_topo.policy : "");
    char before = ':';
    for (int node = na_topo.policy != NULL ? nodeset_next(&na_topo.policy_nodes, 0) : -1, last; node >= 0;) {
        for (last = node; nodeset_next(&na_topo.policy_nodes, last + 1) == last + 1;) last++;
        if (length < capacity) length += (size_t)snprintf(to + length, capacity - length, "%c%d", before, node);
        if (length < capacity && last != node) length += (size_t)snprintf(to + length, capacity - length, "-%d", last);
        before = ',';
        node = nodeset_next(&na_topo.policy_nodes, last + 1);
    }
}

int na_topology_node_info(int node, numalloc_node_info_t *info) {
    if (!nodeset_has(&na_topo.online, node)) return ENODEV;
    *info = (numalloc_node_info_t){.node = node, .allowed = nodeset_has(&na_topo.allowed, node)};
    na_cpuset cpus;
    na_topology_cpus_of(node, &cpus);
    for (size_t w = 0; w < sizeof cpus.word / sizeof cpus.word[0]; w++) info->cpus += __builtin_popcountl(cpus.word[w]);
    char meminfo[4096];
    if (read_meminfo(node, meminfo, sizeof meminfo) == 0) {
        (void)value_of(meminfo, "MemTotal:", &info->total_bytes);
        (void)value_of(meminfo, "MemFree:", &info->free_bytes);
    }
    return 0;
}

void na_topology_cpus_of(int node, na_cpuset *cpus) {
    void *into = NULL;
    bool told = os_map(TEXT, &into) == 0 && read_cpus(node, into, cpus);
    for (int cpu = 0; !told && cpu < NA_MAX_CPUS; cpu++)
        if (na_topology_cpu(cpu).node_plus_1 - 1 == node) add_cpu(cpu, cpus);
    if (into != NULL) (void)os_release(into, TEXT);
}
