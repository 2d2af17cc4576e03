/* SPDX-License-Identifier: BSD-3-Clause */
/* topology.c on made-up machines: a directory with the files of /sys and /proc that it reads. */
#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "topology.h"

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
    CHECK_EQUAL(na_topo.node_of_cpu[9], 0);
    CHECK_EQUAL(na_topo.node_of_cpu[12], 1);
    CHECK_EQUAL(na_topo.node_of_cpu[16], -1);
    CHECK_EQUAL(na_topo.home_of_cpu[5], 1);
    CHECK_EQUAL(na_topology_distance(0, 1), 21);
    CHECK_EQUAL(na_topology_distance(0, 2), -1);
    CHECK_EQUAL(na_topo.largest_node_bytes, 2000LL << 20);
}

static void ids_with_gaps(void) {
    machine("0,8", "0,8", "0,8");
    node(0, "0-1", 1000, "10 40");
    node(8, "2-3", 1000, "40 10");
    discover();
    CHECK_EQUAL(na_topo.node_count, 2);
    CHECK_EQUAL(na_topo.node_id[1], 8);
    CHECK_EQUAL(na_topo.index_of[8], 1);
    CHECK_EQUAL(na_topo.index_of[1], -1);
    CHECK_EQUAL(na_topology_distance(0, 8), 40);
    CHECK_EQUAL(na_topo.home_of_cpu[3], 1);
}

static void a_node_without_cpus_is_nobodys_home(void) {
    machine("0-2", "0-2", "0-2");
    node(0, "0-1", 1000, "10 20 17");
    node(1, "2-3", 1000, "20 10 28");
    node(2, "", 4000, "17 28 10");
    discover();
    CHECK_EQUAL(na_topo.node_count, 3);
    for (int cpu = 0; cpu < 4; cpu++) CHECK_EQUAL(na_topo.home_of_cpu[cpu], cpu / 2);
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
    CHECK_EQUAL(na_topo.home_of_cpu[2], 1); /* index of node 2, at 15 */
    CHECK_EQUAL(na_topo.index_of[1], -1);
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
    CHECK_EQUAL(na_topo.home_of_cpu[0], 1); /* node 0 is nearest to node 3 */
    CHECK_EQUAL(na_topo.home_of_cpu[2], 0); /* node 1 to node 2 */
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
    CHECK_EQUAL(na_topo.home_of_cpu[69], 69);
    CHECK_EQUAL(na_topology_neighbours(69)[0], 69);
}

static void no_sysfs_is_one_node(void) {
    na_topology_init("/nonexistent");
    CHECK_EQUAL(na_topo.node_count, 1);
    CHECK_EQUAL(na_topo.node_id[0], 0);
    CHECK_EQUAL(na_topo.home_of_cpu[5], 0);
    CHECK_EQUAL(na_topology_neighbours(0)[0], 0);
    CHECK_EQUAL(na_topology_distance(0, 0), 10);
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

static const check_case cases[] = {
    {"two_nodes", two_nodes},
    {"ids_with_gaps", ids_with_gaps},
    {"a_node_without_cpus_is_nobodys_home", a_node_without_cpus_is_nobodys_home},
    {"a_node_without_memory_lives_next_door", a_node_without_memory_lives_next_door},
    {"a_restricted_process", a_restricted_process},
    {"seventy_nodes", seventy_nodes},
    {"no_sysfs_is_one_node", no_sysfs_is_one_node},
    {"contradicting_files_leave_a_node", contradicting_files_leave_a_node},
    {"garbage_is_survived", garbage_is_survived},
};
CHECK_MAIN(cases)
