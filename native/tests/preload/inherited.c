/* SPDX-License-Identifier: BSD-3-Clause
 *
 * inherited [--each] NODE...: under LD_PRELOAD and a memory policy of those nodes (numactl), what malloc gives has pages on
 * them alone, and on each of them; --each: whatever node it is called on. What is asked for on a node is on that. For
 * machines of several nodes.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <string.h>

#include "../check.h"
#include "served.h"

#pragma weak numalloc_node_ids
#pragma weak numalloc_node_info_sized
#pragma weak numalloc_onnode
#pragma weak numalloc_page_nodes_sized
#pragma weak numalloc_bind_thread

static int wanted[64], count, each;
static size_t on_node[NUMALLOC_MAX_NODES];

static void look(void *block, size_t size) {
    static numalloc_page_counts_t counts;
    CHECK_EQUAL(numalloc_page_nodes(block, size, &counts), 0);
    CHECK_EQUAL(counts.untouched + counts.failed, 0);
    for (int node = 0; node < NUMALLOC_MAX_NODES; node++) on_node[node] += counts.on_node[node];
}

static void malloc_follows_it(void) {
    static const size_t sizes[] = {100, 5000, 100000, 1000000, 12000000};
    static void *block[400];
    int ids[64], nodes = numalloc_node_ids(ids, 64);
    size_t before[64] = {0};
    memset(on_node, 0, sizeof on_node);
    for (int n = 0; n < nodes; n++) { /* from each node's CPUs */
        numalloc_node_info_t info;
        CHECK_EQUAL(numalloc_node_info(ids[n], &info), 0);
        if (info.cpus == 0) continue;
        CHECK_EQUAL(numalloc_bind_thread(ids[n]), 0);
        for (int s = 0; s < 5; s++)
            for (int i = 0; i < (s < 3 ? 100 : 1); i++) {
                block[i] = i % 2 == 0 ? malloc(sizes[s]) : calloc(1, sizes[s]);
                CHECK(served(block[i]));
                memset(block[i], 1, sizes[s]);
                look(block[i], sizes[s]);
                if (s > 2) free(block[i]);
            }
        for (int i = 0; i < count; i++) {
            if (each) CHECK(on_node[wanted[i]] != before[i]);
            before[i] = on_node[wanted[i]];
        }
    }
    size_t elsewhere = 0;
    for (int node = 0; node < NUMALLOC_MAX_NODES; node++) elsewhere += on_node[node];
    for (int i = 0; i < count; i++) {
        CHECK(on_node[wanted[i]] != 0);
        elsewhere -= on_node[wanted[i]];
    }
    CHECK_EQUAL(elsewhere, 0);
}

static void on_a_node_is_on_that(void) {
    int ids[64], nodes = numalloc_node_ids(ids, 64);
    for (int n = 0; n < nodes; n++) {
        memset(on_node, 0, sizeof on_node);
        void *block = numalloc_onnode(1000000, ids[n]);
        CHECK(block != NULL);
        memset(block, 1, 1000000);
        look(block, 1000000);
        for (int i = 0; i < nodes; i++) CHECK((on_node[ids[i]] != 0) == (i == n));
        free(block);
    }
}

static const check_case cases[] = {{"malloc_follows_it", malloc_follows_it},
                                   {"on_a_node_is_on_that", on_a_node_is_on_that}};

int main(int argc, char **argv) {
    served_or_exit();
    each = argc > 1 && strcmp(argv[1], "--each") == 0;
    for (int i = 1 + each; i < argc && count < 64; i++) wanted[count++] = atoi(argv[i]);
    return check_main(cases, 2, 0, argv);
}
