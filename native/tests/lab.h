/* SPDX-License-Identifier: BSD-3-Clause
 *
 * lab.h: what the programs of the NUMA lab share: threads on other nodes, and where pages are, by move_pages and by
 * /proc/self/numa_maps.
 */
#ifndef NA_TESTS_LAB_H
#define NA_TESTS_LAB_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "check.h"
#include "numa_alloc.h"

static int ids[NUMALLOC_MAX_NODES], nodes;         /* allowed nodes with memory */
static int cpu_ids[NUMALLOC_MAX_NODES], cpu_nodes; /* nodes with CPUs, those that have memory first */

static inline bool has_memory(int node) {
    for (int i = 0; i < nodes; i++)
        if (ids[i] == node) return true;
    return false;
}

/* Finds all nodes; false: fewer than two of them have CPUs. */
static inline bool lab_nodes(const char *program) {
    nodes = numalloc_node_ids(ids, NUMALLOC_MAX_NODES);
    for (int with_memory = 1; with_memory >= 0; with_memory--)
        for (int node = 0; node < NUMALLOC_MAX_NODES; node++) {
            numalloc_node_info_t info;
            if (has_memory(node) != with_memory || numalloc_node_info(node, &info) != 0 || info.cpus == 0) continue;
            cpu_ids[cpu_nodes++] = node;
        }
    if (cpu_nodes < 2)
        fprintf(stderr, "%s: this machine has %d NUMA node(s) with CPUs, at least 2 are needed: make test-numa\n",
                program, cpu_nodes);
    return cpu_nodes >= 2;
}

/* ---- doing things elsewhere ----------------------------------------------------------------------------- */

typedef struct task {
    int node;
    void (*body)(struct task *);
    void *p;
    size_t size;
    void **many;
    int count;
    int error;
} task;

static inline void *run_task(void *argument) {
    task *t = argument;
    t->error = numalloc_bind_thread(t->node);
    if (t->error == 0) t->body(t);
    return NULL;
}

static inline void on_node(task *t) {
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, run_task, t), 0);
    pthread_join(thread, NULL);
    CHECK_EQUAL(t->error, 0);
}

static inline void touch_body(task *t) { memset(t->p, 0x77, t->size); }
static inline void touch_from(int node, void *p, size_t size) {
    task t = {.node = node, .body = touch_body, .p = p, .size = size};
    on_node(&t);
}

static inline int other_than(int node) { /* a node with CPUs that is not `node` */
    for (int i = 0; i < cpu_nodes; i++)
        if (cpu_ids[i] != node) return cpu_ids[i];
    return -1;
}

/* The node that is next by distance, ties by id; skip: after that many nearer ones. */
static inline int nearest_to(int home, int skip) {
    bool passed[NUMALLOC_MAX_NODES] = {false};
    int nearest = -1;
    for (int turn = 0; turn <= skip; turn++) {
        nearest = -1;
        for (int i = 0; i < nodes; i++) {
            int id = ids[i];
            if (id == home || passed[id]) continue;
            if (nearest < 0 || numalloc_distance(home, id) < numalloc_distance(home, nearest)) nearest = id;
        }
        if (nearest >= 0) passed[nearest] = true;
    }
    return nearest;
}

/* Where memory of a thread on this node is: there, or on the nearest node with memory. */
static inline int home_of(int cpu_node) { return has_memory(cpu_node) ? cpu_node : nearest_to(cpu_node, 0); }

/* ---- looking -------------------------------------------------------------------------------------------- */

static inline size_t pages_on(const void *p, size_t size, int node, size_t *all) {
    static numalloc_page_counts_t counts;
    CHECK_EQUAL(numalloc_page_nodes(p, size, &counts), 0);
    *all = counts.pages;
    return counts.on_node[node];
}

static inline bool all_on(const void *p, size_t size, int node) {
    size_t all, there = pages_on(p, size, node, &all);
    return all != 0 && there == all;
}

/* The line of numa_maps for the mapping that holds `p`: policy text and pages per node. */
static inline bool numa_maps_of(const void *p, char *policy, long *on) {
    static char line[65536];
    FILE *file = fopen("/proc/self/numa_maps", "r");
    if (file == NULL) return false;
    char found[65536] = "";
    while (fgets(line, sizeof line, file) != NULL) {
        if (strtoull(line, NULL, 16) > (uintptr_t)p) break; /* ascending */
        strcpy(found, line);
    }
    fclose(file);
    for (int i = 0; i < NUMALLOC_MAX_NODES; i++) on[i] = 0;
    policy[0] = '\0';
    if (sscanf(found, "%*x %99s", policy) != 1) return false;
    for (char *at = found; (at = strstr(at, " N")) != NULL; at++) {
        int node;
        long pages;
        if (sscanf(at, " N%d=%ld", &node, &pages) == 2 && node >= 0 && node < NUMALLOC_MAX_NODES) on[node] = pages;
    }
    return true;
}

/* numa_maps agrees that the whole mapping around `p` (a region of one home) has pages on `node` only. */
static inline bool maps_only_on(const void *p, int node) {
    static long on[NUMALLOC_MAX_NODES];
    char policy[100], expected[32];
    if (!numa_maps_of(p, policy, on)) return false;
    snprintf(expected, sizeof expected, "prefer:%d", node);
    bool good = strncmp(policy, expected, strlen(expected)) == 0 && on[node] > 0;
    for (int i = 0; i < NUMALLOC_MAX_NODES; i++) good = good && (i == node || on[i] == 0);
    if (!good) printf("numa_maps: policy %s, pages on %d: %ld\n", policy, node, on[node]);
    return good;
}

#endif
