/* SPDX-License-Identifier: BSD-3-Clause
 *
 * lab_hotplug: CPUs of a node that were offline when the process started come online. For the NUMA lab, as root: it takes
 * all CPUs of the last node with CPUs offline, starts itself, and lets that process bring them back.
 */
#define _GNU_SOURCE
#include <sched.h>

#include "check.h"
#include "numa_alloc.h"

static int node;
static size_t cpus[64];
static int count;

static void set_online(size_t cpu, int value) {
    char path[80];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%zu/online", cpu);
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    CHECK(fprintf(file, "%d\n", value) > 0);
    CHECK_EQUAL(fclose(file), 0);
}

/* The last node with CPUs, and those. */
static void find_cpus(void) {
    int ids[64], nodes = numalloc_node_ids(ids, 64);
    cpu_set_t mask;
    numalloc_node_info_t info;
    do node = ids[--nodes];
    while (nodes > 0 && numalloc_node_info(node, &info) == 0 && info.cpus == 0);
    CHECK_EQUAL(numalloc_bind_thread(node), 0);
    CHECK_EQUAL(sched_getaffinity(0, sizeof mask, &mask), 0);
    for (size_t cpu = 0; cpu < CPU_SETSIZE && count < 64; cpu++)
        if (CPU_ISSET(cpu, &mask)) cpus[count++] = cpu;
    CHECK(count > 1 && cpus[0] != 0);
    CHECK_EQUAL(numalloc_bind_thread(ids[0]), 0);
}

static void check_here(void) {
    CHECK_EQUAL(numalloc_current_node(), node);
    static const size_t sizes[] = {100, 100000, 3000000};
    for (int i = 0; i < 3; i++) {
        static numalloc_page_counts_t counts;
        void *block = numalloc(sizes[i]);
        CHECK(block != NULL);
        CHECK_EQUAL(numalloc_node_of(block), node);
        memset(block, 1, sizes[i]);
        CHECK_EQUAL(numalloc_page_nodes(block, sizes[i], &counts), 0);
        CHECK_EQUAL(counts.on_node[node], counts.pages);
        numalloc_free(block);
    }
}

static void without_its_cpus(void) {
    numalloc_node_info_t info;
    CHECK_EQUAL(numalloc_node_info(node, &info), 0);
    CHECK_EQUAL(info.cpus, 0);
    CHECK(numalloc_bind_thread(node) != 0);
    numalloc_free(numalloc(100));
    for (int i = 0; i < count; i++) {
        set_online(cpus[i], 1);
        cpu_set_t mask, one;
        CHECK_EQUAL(numalloc_node_info(node, &info), 0);
        CHECK_EQUAL(info.cpus, i + 1);
        CHECK_EQUAL(numalloc_bind_thread(node), 0);
        CHECK_EQUAL(sched_getaffinity(0, sizeof mask, &mask), 0);
        CHECK_EQUAL(CPU_COUNT(&mask), i + 1);
        CPU_ZERO(&one);
        CPU_SET(cpus[i], &one);
        CHECK_EQUAL(sched_setaffinity(0, sizeof one, &one), 0);
        check_here();
    }
}

static char *self;

static void cpus_come_online(void) {
    char command[1000];
    find_cpus();
    int length = snprintf(command, sizeof command, "'%s' --started %d", self, node);
    for (int i = 0; i < count; i++) {
        set_online(cpus[i], 0);
        length += snprintf(command + length, sizeof command - (size_t)length, " %zu", cpus[i]);
    }
    int status = system(command);
    for (int i = 0; i < count; i++) set_online(cpus[i], 1);
    CHECK_EQUAL(status, 0);
}

int main(int argc, char **argv) {
    static const check_case whole[] = {{"cpus_come_online", cpus_come_online}};
    static const check_case started[] = {{"without_its_cpus", without_its_cpus}};
    self = argv[0];
    if (argc < 3 || strcmp(argv[1], "--started") != 0) return check_main(whole, 1, 0, argv);
    node = atoi(argv[2]);
    for (int i = 3; i < argc && count < 64; i++) cpus[count++] = (size_t)atoi(argv[i]);
    return check_main(started, 1, 0, argv);
}
