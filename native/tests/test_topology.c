/* SPDX-License-Identifier: BSD-3-Clause */
/* topology.c on made-up machines: a directory with the files of /sys and /proc that it reads. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "check.h"
#include "os/topology.h"

static char root[] = "/tmp/numallocXXXXXX";

static void write_file(const char *path, const char *text) {
    char full[512], command[600];
    snprintf(full, sizeof full, "%s%s", root, path);
    snprintf(command, sizeof command, "mkdir -p $(dirname %s)", full);
    CHECK_EQUAL(system(command), 0);
    FILE *file = fopen(full, "w");
    CHECK(file != NULL);
    fputs(text, file);
    fclose(file);
}

static void machine(const char *online, const char *has_memory, const char *mems_allowed) {
    char text[512];
    strcpy(root + strlen(root) - 6, "XXXXXX");
    CHECK(mkdtemp(root) != NULL);
    snprintf(text, sizeof text, "%s\n", online);
    write_file("/sys/devices/system/node/online", text);
    if (has_memory != NULL) {
        snprintf(text, sizeof text, "%s\n", has_memory);
        write_file("/sys/devices/system/node/has_memory", text);
    }
    if (mems_allowed != NULL) {
        snprintf(text, sizeof text, "Name:\tx\nMems_allowed:\tff\nMems_allowed_list:\t%s\nThreads:\t1\n", mems_allowed);
        write_file("/proc/self/status", text);
    }
}

static void node(int id, const char *cpus, int megabytes, const char *distance) {
    char path[256], text[512];
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", id);
    snprintf(text, sizeof text, "%s\n", cpus);
    write_file(path, text);
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/meminfo", id);
    snprintf(text, sizeof text,
             "Node %d MemTotal:       %d kB\nNode %d MemFree:        %d kB\nNode %d Inactive(file):  1024 kB\n", id,
             megabytes * 1024, id, megabytes * 512, id);
    write_file(path, text);
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/distance", id);
    snprintf(text, sizeof text, "%s\n", distance);
    write_file(path, text);
}

static void discover(void) {
    char command[300];
    na_topology_init(root);
    snprintf(command, sizeof command, "rm -r %s", root);
    CHECK_EQUAL(system(command), 0);
}

static void two_nodes(void) {
    machine("0-1", "0-1", "0-1");
    node(0, "0-3,8-11", 1000, "10 21");
    node(1, "4-7,12-15", 2000, "21 10");
    discover();
    CHECK_EQUAL(na_topo.node_count, 2);
    CHECK_EQUAL(na_topology_node_of_cpu(9), 0);
    CHECK_EQUAL(na_topology_node_of_cpu(12), 1);
    CHECK_EQUAL(na_topology_node_of_cpu(16), -1);
    CHECK_EQUAL(na_topology_home_of_cpu(5), 1);
    CHECK_EQUAL(na_topology_distance(0, 1), 21);
    CHECK_EQUAL(na_topology_distance(0, 2), -1);
    CHECK_EQUAL(na_topo.largest_node_bytes, 2000LL << 20);
}

static void run_on(int cpu) {
    na_cpuset cpus = {{0}};
    cpus.word[0] = 1UL << cpu;
    if (os_set_affinity(&cpus) != 0) SKIP("CPU 0");
}

/* This thread's CPU is on node 0 for the kernel, and in no list that was read. */
static void a_cpu_that_was_offline_at_the_start(void) {
    machine("0-2", "0-2", "1-2");
    node(0, "", 1000, "10 30 20");
    node(1, "40-41", 1000, "30 10 20");
    node(2, "42-43", 1000, "20 20 10");
    run_on(0);
    if (os_current_node(NULL) != 0) SKIP("a CPU on node 0");
    discover();
    CHECK_EQUAL(na_topology_node_of_cpu(0), -1);
    CHECK_EQUAL(na_topology_cpu_now(), 0);
    CHECK_EQUAL(na_topology_home_of_cpu(0), 1); /* index of node 2, at 20 */
    CHECK_EQUAL(na_topology_node_of_cpu(0), 0);
    CHECK_EQUAL(na_topology_home_of_cpu(41), 0);
    CHECK_EQUAL(na_topology_home_of_cpu(-1), 0);
}

static void a_cpu_of_an_unknown_node(void) {
    machine("3,5", "3,5", "3,5");
    node(3, "40-41", 1000, "10 30");
    node(5, "42-43", 1000, "30 10");
    run_on(0);
    discover();
    CHECK_EQUAL(na_topology_cpu_now(), 0);
    CHECK_EQUAL(na_topology_node_of_cpu(0), -1);
    CHECK_EQUAL(na_topology_home_of_cpu(0), 0);
}

static bool has_cpu(const na_cpuset *cpus, int cpu) { return (cpus->word[cpu / 64] >> (cpu % 64) & 1) != 0; }

static void a_list_of_cpus_that_grows(void) {
    na_cpuset cpus;
    numalloc_node_info_t info;
    machine("0-1", "0-1", "0-1");
    node(0, "0-1", 1000, "10 21");
    node(1, "", 1000, "21 10");
    na_topology_init(root);
    na_topology_cpus_of(1, &cpus);
    CHECK(!has_cpu(&cpus, 6));
    node(1, "6-7", 1000, "21 10");
    na_topology_cpus_of(1, &cpus);
    CHECK(has_cpu(&cpus, 6) && has_cpu(&cpus, 7) && !has_cpu(&cpus, 0));
    CHECK_EQUAL(na_topology_node_info(1, &info), 0);
    CHECK_EQUAL(info.cpus, 2);
    discover();
    na_topology_cpus_of(0, &cpus); /* the files are gone: what was known */
    CHECK(has_cpu(&cpus, 0) && has_cpu(&cpus, 1) && !has_cpu(&cpus, 6));
}

static void ids_with_gaps(void) {
    machine("0,8", "0,8", "0,8");
    node(0, "0-1", 1000, "10 40");
    node(8, "2-3", 1000, "40 10");
    discover();
    CHECK_EQUAL(na_topo.node_count, 2);
    CHECK_EQUAL(na_topo.node_id[1], 8);
    CHECK_EQUAL(na_topology_index_of(8), 1);
    CHECK_EQUAL(na_topology_index_of(1), -1);
    CHECK_EQUAL(na_topology_distance(0, 8), 40);
    CHECK_EQUAL(na_topology_home_of_cpu(3), 1);
}

static void a_node_without_cpus_is_nobodys_home(void) {
    machine("0-2", "0-2", "0-2");
    node(0, "0-1", 1000, "10 20 17");
    node(1, "2-3", 1000, "20 10 28");
    node(2, "", 4000, "17 28 10");
    discover();
    CHECK_EQUAL(na_topo.node_count, 3);
    for (int cpu = 0; cpu < 4; cpu++) CHECK_EQUAL(na_topology_home_of_cpu(cpu), cpu / 2);
    const int16_t *near = na_topology_neighbours(0);
    CHECK(near[0] == 0 && near[1] == 2 && near[2] == 1);
    near = na_topology_neighbours(1);
    CHECK(near[0] == 1 && near[1] == 0 && near[2] == 2);
}

static void a_node_without_memory_lives_next_door(void) {
    machine("0-2", "0,2", "0-2");
    node(0, "0-1", 1000, "10 30 20");
    node(1, "2-3", 0, "30 10 15");
    node(2, "4-5", 1000, "20 15 10");
    discover();
    CHECK_EQUAL(na_topo.node_count, 2);
    CHECK_EQUAL(na_topology_home_of_cpu(2), 1); /* index of node 2, at 15 */
    CHECK_EQUAL(na_topology_index_of(1), -1);
}

static void a_restricted_process(void) {
    machine("0-3", "0-3", "2-3");
    for (int i = 0; i < 4; i++) {
        char cpus[16];
        snprintf(cpus, sizeof cpus, "%d-%d", 2 * i, 2 * i + 1);
        node(i, cpus, 1000, i == 0 ? "10 11 30 20" : i == 1 ? "11 10 20 30" : i == 2 ? "30 20 10 11" : "20 30 11 10");
    }
    discover();
    CHECK_EQUAL(na_topo.node_count, 2);
    CHECK_EQUAL(na_topo.node_id[0], 2);
    CHECK_EQUAL(na_topology_home_of_cpu(0), 1); /* node 0 is nearest to node 3 */
    CHECK_EQUAL(na_topology_home_of_cpu(2), 0); /* node 1 to node 2 */
    numalloc_node_info_t info;
    CHECK_EQUAL(na_topology_node_info(0, &info), 0);
    CHECK_EQUAL(info.allowed, 0);
    CHECK_EQUAL(na_topology_node_info(7, &info), ENODEV);
}

static void seventy_nodes(void) {
    machine("0-69", "0-69", "0-69");
    char distance[1024] = "";
    for (int i = 0; i < 70; i++) strcat(distance, i == 0 ? "10" : " 20");
    for (int i = 0; i < 70; i++) {
        char cpus[16];
        snprintf(cpus, sizeof cpus, "%d", i);
        node(i, cpus, 100, distance);
    }
    discover();
    CHECK_EQUAL(na_topo.node_count, 70);
    CHECK(nodeset_has(&na_topo.allowed, 69) && !nodeset_has(&na_topo.allowed, 70));
    CHECK_EQUAL(na_topology_home_of_cpu(69), 69);
    CHECK_EQUAL(na_topology_neighbours(69)[0], 69);
}

static void no_sysfs_is_one_node(void) {
    na_topology_init("/nonexistent");
    CHECK_EQUAL(na_topo.node_count, 1);
    CHECK_EQUAL(na_topo.node_id[0], 0);
    CHECK_EQUAL(na_topology_home_of_cpu(5), 0);
    CHECK_EQUAL(na_topology_neighbours(0)[0], 0);
    CHECK_EQUAL(na_topology_distance(0, 0), 10);
    na_cpuset mine, cpus;
    CHECK_EQUAL(os_get_affinity(&mine), 0);
    na_topology_cpus_of(0, &cpus);
    CHECK_EQUAL(memcmp(&mine, &cpus, sizeof cpus), 0);
}

static void four_nodes_with_gaps_and_one_unusable(void) {
    machine("0,3,8,11", "0,3,8", "0,8,11");
    node(0, "0-1", 1000, "10 12 31 20");
    node(3, "2-3", 1000, "12 10 20 31");
    node(8, "4-5", 3000, "31 20 10 12");
    node(11, "6-7", 0, "20 31 12 10");
    discover();
    CHECK_EQUAL(na_topo.node_count, 2);
    CHECK(na_topo.node_id[0] == 0 && na_topo.node_id[1] == 8);
    CHECK(na_topology_index_of(3) == -1 && na_topology_index_of(11) == -1);
    CHECK_EQUAL(na_topology_home_of_cpu(2), 0); /* node 3 is not allowed; node 0 is at 12 */
    CHECK_EQUAL(na_topology_home_of_cpu(6), 1); /* node 11 has no memory; node 8 is at 12 */
    CHECK_EQUAL(na_topology_distance(3, 11), 31);
    CHECK_EQUAL(na_topology_distance(11, 0), 20);
    na_cpuset cpus;
    na_topology_cpus_of(11, &cpus);
    CHECK_EQUAL(cpus.word[0], 0xc0);
}

static void every_row_of_neighbours_is_a_permutation(void) {
    machine("0-5", "0-5", "0-5");
    static const char *const rows[] = {"10 20 20 20 20 20", "20 10 15 15 15 15", "21 11 10 12 13 14",
                                       "16 16 16 10 16 16", "30 29 28 27 10 26", "11 11 11 11 11 10"};
    for (int i = 0; i < 6; i++) node(i, "", 100, rows[i]);
    discover();
    for (int from = 0; from < 6; from++) {
        const int16_t *row = na_topology_neighbours(from);
        unsigned seen = 0;
        CHECK_EQUAL(row[0], from);
        for (int i = 0; i < 6; i++) {
            CHECK(row[i] >= 0 && row[i] < 6);
            seen |= 1u << row[i];
            if (i >= 2) CHECK(na_topology_distance(from, row[i - 1]) <= na_topology_distance(from, row[i]));
        }
        CHECK_EQUAL(seen, 63);
    }
    const int16_t *row = na_topology_neighbours(4);
    CHECK(row[1] == 5 && row[2] == 3 && row[5] == 0);
}

/* A directory where a file should be can be opened and not read, by root too. */
static void unreadable_files(void) {
    machine("0-1", NULL, NULL);
    write_file("/sys/devices/system/node/has_memory/x", "");
    write_file("/proc/self/status/x", "");
    write_file("/sys/devices/system/node/node0/cpulist/x", "");
    write_file("/sys/devices/system/node/node1/distance/x", "");
    write_file("/sys/devices/system/node/node1/cpulist", "4-5\n");
    discover();
    CHECK_EQUAL(na_topo.node_count, 2); /* all that is online */
    CHECK_EQUAL(na_topology_node_of_cpu(0), -1);
    CHECK_EQUAL(na_topology_home_of_cpu(0), 0); /* a CPU that belongs nowhere */
    CHECK_EQUAL(na_topology_home_of_cpu(5), 1);
    CHECK_EQUAL(na_topology_distance(0, 1), 20);
    CHECK_EQUAL(na_topology_distance(1, 1), 10);
    CHECK(na_topology_free_bytes(0) == UINT64_MAX);
    CHECK_EQUAL(na_topo.largest_node_bytes, 0);
}

static void memory_of_a_node(void) {
    char text[512];
    machine("0-1", "0-1", "0-1");
    node(0, "0", 1000, "10 20");
    node(1, "1", 64, "20 10");
    na_topology_init(root);
    numalloc_node_info_t info;
    CHECK_EQUAL(na_topology_node_info(1, &info), 0);
    CHECK(info.node == 1 && info.cpus == 1 && info.allowed == 1);
    CHECK_EQUAL(info.total_bytes, 64LL << 20);
    CHECK_EQUAL(info.free_bytes, 32LL << 20);
    CHECK_EQUAL(na_topology_free_bytes(1), 33LL << 20); /* with 1 MiB of idle file pages */
    /* asked anew each time */
    snprintf(text, sizeof text, "Node 1 MemTotal: 65536 kB\nNode 1 MemFree: 7 kB\nNode 1 Active(file): 10 kB\n");
    write_file("/sys/devices/system/node/node1/meminfo", text);
    CHECK_EQUAL(na_topology_free_bytes(1), 12 * 1024);
    CHECK(na_topology_free_bytes(5) == UINT64_MAX);
    discover();
}

/* A kernel without NUMA: no directory of nodes at all. */
static void no_nodes_in_sysfs_is_one_node_with_all_cpus(void) {
    machine("0", NULL, NULL);
    write_file("/sys/devices/system/cpu/online", "0-2,6\n");
    write_file("/proc/meminfo", "MemTotal:  2048 kB\nMemFree:  512 kB\nSwapTotal: 9 kB\n");
    char command[600];
    snprintf(command, sizeof command, "rm -r %s/sys/devices/system/node", root);
    CHECK_EQUAL(system(command), 0);
    na_topology_init(root);
    CHECK_EQUAL(na_topo.node_count, 1);
    CHECK_EQUAL(na_topo.largest_node_bytes, 2LL << 20);
    CHECK_EQUAL(na_topology_free_bytes(0), 512 * 1024);
    numalloc_node_info_t info;
    CHECK_EQUAL(na_topology_node_info(0, &info), 0);
    CHECK_EQUAL(info.cpus, 4);
    CHECK(na_topology_node_of_cpu(6) == 0 && na_topology_node_of_cpu(3) == -1);
    discover();
}

static void overcommit_limit_is_memory_and_swap(void) {
    machine("0", "0", "0");
    node(0, "0", 64, "10");
    write_file("/proc/meminfo", "MemTotal:  2048 kB\nMemFree:  512 kB\nSwapTotal: 8 kB\n");
    write_file("/proc/sys/vm/overcommit_memory", "0\n");
    na_topology_init(root);
    CHECK_EQUAL(na_topo.overcommit_bytes, 2056 * 1024);
    write_file("/proc/sys/vm/overcommit_memory", "1\n");
    na_topology_init(root);
    CHECK(na_topo.overcommit_bytes == UINT64_MAX);
    write_file("/proc/sys/vm/overcommit_memory", "2\n"); /* the kernel counts what is opened */
    discover();
    CHECK(na_topo.overcommit_bytes == UINT64_MAX);
}

static void again_gives_the_same(void) {
    machine("0-1", "0-1", "0-1");
    node(0, "0-1", 1000, "10 17");
    node(1, "2-3", 1000, "18 10");
    na_topology_init(root);
    for (int i = 0; i < 50; i++) na_topology_init(root);
    CHECK(na_topology_distance(0, 1) == 17 && na_topology_distance(1, 0) == 18);
    discover();
}

static void contradicting_files_leave_a_node(void) {
    machine("0-1", "0-1", "5");
    node(0, "0", 1000, "10 20");
    node(1, "1", 1000, "20 10");
    discover();
    CHECK_EQUAL(na_topo.node_count, 1);
    CHECK_EQUAL(na_topo.node_id[0], 0);
}

static void garbage_is_survived(void) {
    machine("x-y,,", "--", "");
    node(0, "9999999-99999999", 1000, "ten");
    discover();
    CHECK_EQUAL(na_topo.node_count, 1);
}

/* Each case is run in this process, so this is the first: pages stay. */
static void only_what_exists_is_written(void) {
    machine("0-1", "0-1", "0-1");
    node(0, "0-3", 1000, "10 20");
    node(1, "4-7", 1000, "20 10");
    discover();
    CHECK_EQUAL(na_topology_home_of_cpu(7), 1);
    size_t page = os_page_size();
    uintptr_t start = (uintptr_t)&na_topo & ~(page - 1), end = (uintptr_t)(&na_topo + 1);
    size_t pages = (end - start + page - 1) / page, written = 0;
    unsigned char resident[64];
    CHECK(pages <= sizeof resident);
    CHECK_EQUAL(mincore((void *)start, pages * page, resident), 0);
    for (size_t i = 0; i < pages; i++) written += resident[i] & 1;
    printf("%zu of %zu pages\n", written, pages);
    CHECK(written * page <= NUMALLOC_MAX_NODES * sizeof(int) + 4 * page); /* of 38 KiB */
}

/* ---- kinds of memory --------------------------------------------------------------------------------------- */

static void attributes(int id, int access, int bandwidth, int latency) {
    static const char *const files[] = {"read_bandwidth", "write_bandwidth", "read_latency", "write_latency"};
    char path[256], text[32];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/access%d/initiators/%s", id, access, files[i]);
        snprintf(text, sizeof text, "%d\n", i < 2 ? bandwidth : latency);
        write_file(path, text);
    }
}

static void tier(int number, const char *nodes) {
    char path[256];
    snprintf(path, sizeof path, "/sys/devices/virtual/memory_tiering/memory_tier%d/nodelist", number);
    write_file(path, nodes);
}

static void check_kind(int kind, uint64_t nodes, int source) {
    CHECK_EQUAL(na_kind_of(kind)->nodes.word[0], nodes);
    CHECK_EQUAL(na_kind_of(kind)->source, source);
}

/* Two packages, each with fast memory of its own (nodes 2 and 3), and one node of much memory; nobody may use node 5. */
static void kinds_by_attributes(void) {
    machine("0-5", "0-5", "0-4");
    node(0, "0-3", 4000, "10 21 20 20 30 10");
    node(1, "4-7", 4000, "21 10 20 20 30 10");
    node(2, "", 1000, "20 20 10 20 30 10");
    node(3, "", 1000, "20 20 20 10 30 10");
    node(4, "", 9000, "30 30 30 30 10 10");
    node(5, "", 9000, "30 30 30 30 10 10");
    static const int bandwidth[] = {100000, 100000, 400000, 390000, 20000, 900000};
    static const int latency[] = {80, 85, 110, 110, 300, 10};
    for (int id = 0; id < 6; id++) attributes(id, 1, bandwidth[id], latency[id]);
    attributes(2, 0, 1, 1); /* of a device that is nearer */
    write_file("/sys/devices/system/node/node2/access1/initiators/node0/cpulist", "0-3\n");
    write_file("/sys/devices/system/node/node3/access1/initiators/node1/cpulist", "4-7\n");
    tier(3, "2-3\n");
    tier(4, "0-1\n");
    tier(128, "4-5\n");
    na_topology_init(root);
    check_kind(NUMALLOC_KIND_BANDWIDTH, 0xc, NUMALLOC_SOURCE_ATTRIBUTES);
    check_kind(NUMALLOC_KIND_LATENCY, 0x3, NUMALLOC_SOURCE_ATTRIBUTES);
    check_kind(NUMALLOC_KIND_CAPACITY, 0x10, NUMALLOC_SOURCE_TIERS);
    CHECK_EQUAL(na_memory_of(4)->tier, 128);
    CHECK_EQUAL(na_memory_of(2)->write_bandwidth, 400000);
    CHECK_EQUAL(na_kind_nearest(NUMALLOC_KIND_BANDWIDTH, 0), 2);
    CHECK_EQUAL(na_kind_nearest(NUMALLOC_KIND_BANDWIDTH, 1), 3); /* by its initiators: the distances are equal */
    CHECK_EQUAL(na_kind_nearest(NUMALLOC_KIND_BANDWIDTH, 3), 3);
    CHECK_EQUAL(na_kind_nearest(NUMALLOC_KIND_LATENCY, 1), 1);
    CHECK_EQUAL(na_kind_nearest(NUMALLOC_KIND_CAPACITY, 1), 4);
    discover();
    CHECK_EQUAL(na_kind_nearest(NUMALLOC_KIND_BANDWIDTH, 0), -1); /* forgotten, and nothing is told any more */
}

/* Kernels before 5.18 have no access1; some firmware tells of some nodes only. */
static void kinds_by_what_there_is(void) {
    machine("0-2", "0-2", "0-2");
    node(0, "0-3", 4000, "10 20 30");
    node(1, "", 3900, "20 10 30");
    node(2, "", 1000, "30 20 10");
    attributes(0, 0, 5000, 100);
    attributes(1, 0, 9000, 120);
    na_topology_init(root);
    check_kind(NUMALLOC_KIND_BANDWIDTH, 0, NUMALLOC_SOURCE_NONE);
    check_kind(NUMALLOC_KIND_CAPACITY, 0x3, NUMALLOC_SOURCE_SIZE);
    attributes(2, 0, 9100, 130);
    tier(4, "0-2\n");
    na_topology_init(root);
    check_kind(NUMALLOC_KIND_BANDWIDTH, 0x6, NUMALLOC_SOURCE_ATTRIBUTES);
    check_kind(NUMALLOC_KIND_LATENCY, 0x1, NUMALLOC_SOURCE_ATTRIBUTES);
    check_kind(NUMALLOC_KIND_CAPACITY, 0x3, NUMALLOC_SOURCE_SIZE); /* one tier says nothing */
    CHECK_EQUAL(na_kind_nearest(NUMALLOC_KIND_BANDWIDTH, 0), 1);
    char text[300];
    CHECK_EQUAL(na_kinds_text(text, sizeof text), strlen(text));
    CHECK(strstr(text, "node 2: 0 CPUs, 1000 MiB, 9100 MB/s, 130 ns, tier 4") != NULL);
    char cut[20];
    CHECK_EQUAL(na_kinds_text(cut, sizeof cut), strlen(text));
    CHECK(strncmp(cut, text, sizeof cut - 1) == 0 && cut[sizeof cut - 1] == '\0');
    discover();
}

static void kinds_by_tier(void) {
    machine("0-1", "0-1", "0-1");
    node(0, "0-3", 1000, "10 20");
    node(1, "", 9000, "20 10");
    tier(4, "0\n");
    tier(22, "1\n");
    na_topology_init(root);
    check_kind(NUMALLOC_KIND_BANDWIDTH, 0x1, NUMALLOC_SOURCE_TIERS);
    check_kind(NUMALLOC_KIND_LATENCY, 0x1, NUMALLOC_SOURCE_TIERS);
    check_kind(NUMALLOC_KIND_CAPACITY, 0x2, NUMALLOC_SOURCE_TIERS);
    discover();
}

static const check_case cases[] = {
    {"only_what_exists_is_written", only_what_exists_is_written},
    {"two_nodes", two_nodes},
    {"a_cpu_that_was_offline_at_the_start", a_cpu_that_was_offline_at_the_start},
    {"a_cpu_of_an_unknown_node", a_cpu_of_an_unknown_node},
    {"a_list_of_cpus_that_grows", a_list_of_cpus_that_grows},
    {"ids_with_gaps", ids_with_gaps},
    {"a_node_without_cpus_is_nobodys_home", a_node_without_cpus_is_nobodys_home},
    {"a_node_without_memory_lives_next_door", a_node_without_memory_lives_next_door},
    {"a_restricted_process", a_restricted_process},
    {"seventy_nodes", seventy_nodes},
    {"four_nodes_with_gaps_and_one_unusable", four_nodes_with_gaps_and_one_unusable},
    {"every_row_of_neighbours_is_a_permutation", every_row_of_neighbours_is_a_permutation},
    {"unreadable_files", unreadable_files},
    {"memory_of_a_node", memory_of_a_node},
    {"no_sysfs_is_one_node", no_sysfs_is_one_node},
    {"no_nodes_in_sysfs_is_one_node_with_all_cpus", no_nodes_in_sysfs_is_one_node_with_all_cpus},
    {"overcommit_limit_is_memory_and_swap", overcommit_limit_is_memory_and_swap},
    {"again_gives_the_same", again_gives_the_same},
    {"contradicting_files_leave_a_node", contradicting_files_leave_a_node},
    {"garbage_is_survived", garbage_is_survived},
    {"kinds_by_attributes", kinds_by_attributes},
    {"kinds_by_what_there_is", kinds_by_what_there_is},
    {"kinds_by_tier", kinds_by_tier},
};
CHECK_MAIN(cases)
