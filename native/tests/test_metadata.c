/* SPDX-License-Identifier: BSD-3-Clause */
/* test_metadata: how much metadata there is on a made-up machine of 64 nodes with 512 threads, counted in the regions:
 * descriptors of spans, and heaps. It does not grow with threads times nodes, and it is a small share of what is allocated. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "numa_alloc.h"
#include "os/os.h"
#include "space/space.h"

enum { NODES = 64, THREADS = 512, KIB = 1 << 10, MIB = 1 << 20, BLOCK = 64, EACH = MIB / BLOCK };

/* ---- the machine: its files, and a kernel that accepts every policy -------------------------------------------------- */

int __real_os_read_file(const char *path, char *buffer, size_t capacity, size_t *length);
int __wrap_os_read_file(const char *path, char *buffer, size_t capacity, size_t *length);
int __wrap_os_bind(void *address, size_t bytes, enum na_bind_mode mode, const na_nodeset *nodes);
int __wrap_os_can_bind(void);

int __wrap_os_read_file(const char *path, char *buffer, size_t capacity, size_t *length) {
    char answer[1024] = "", rest[64] = "";
    int node = -1, used = 0;
    if (strcmp(path, "/sys/devices/system/node/online") == 0 ||
        strcmp(path, "/sys/devices/system/node/has_memory") == 0)
        (void)snprintf(answer, sizeof answer, "0-%d\n", NODES - 1);
    else if (strcmp(path, "/proc/self/status") == 0)
        (void)snprintf(answer, sizeof answer, "Name:\tmade-up\nMems_allowed_list:\t0-%d\n", NODES - 1);
    else if (sscanf(path, "/sys/devices/system/node/node%d/%63s", &node, rest) == 2 && node >= 0 && node < NODES) {
        if (strcmp(rest, "cpulist") == 0)
            (void)snprintf(answer, sizeof answer, "%d-%d\n", node * THREADS / NODES, (node + 1) * THREADS / NODES - 1);
        else if (strcmp(rest, "meminfo") == 0)
            (void)snprintf(answer, sizeof answer, "Node %d MemTotal: 8388608 kB\nNode %d MemFree: 4194304 kB\n", node,
                           node);
        else if (strcmp(rest, "distance") == 0)
            for (int other = 0; other < NODES; other++)
                used += snprintf(answer + used, sizeof answer - (size_t)used, "%d ", other == node ? 10 : 20);
    }
    if (answer[0] == 0) return __real_os_read_file(path, buffer, capacity, length);
    size_t bytes = strlen(answer) < capacity ? strlen(answer) : capacity - 1;
    memcpy(buffer, answer, bytes);
    buffer[bytes] = 0;
    if (length != NULL) *length = bytes;
    return 0;
}

int __wrap_os_bind(void *address, size_t bytes, enum na_bind_mode mode, const na_nodeset *nodes) {
    (void)address, (void)bytes, (void)mode, (void)nodes;
    return 0;
}

int __wrap_os_can_bind(void) { return 0; }

/* ---- counting ------------------------------------------------------------------------------------------------------- */

static size_t metadata(void) {
    size_t bytes = 0;
    for (int i = 0; i < na_region_count; i++) {
        na_region *region = &na_regions[i];
        if (!atomic_load(&region->opened)) continue;
        bytes += region->span_count * sizeof(na_span) + (region->kept_high - region->meta_next);
    }
    return bytes;
}

static pthread_barrier_t barrier;

/* A thread has a heap on its node, with a block of each of some classes; it ends when all have been counted. */
static void *threads_work(void *number) {
    int node = (int)((uintptr_t)number % NODES);
    void *blocks[10];
    for (int i = 0; i < 10; i++) CHECK((blocks[i] = numalloc_onnode((size_t)16 << i, node)) != NULL);
    (void)pthread_barrier_wait(&barrier);
    (void)pthread_barrier_wait(&barrier);
    for (int i = 0; i < 10; i++) numalloc_free(blocks[i]);
    return NULL;
}

int main(void) {
    int ids[NUMALLOC_MAX_NODES];
    CHECK_EQUAL(numalloc_node_ids(ids, NUMALLOC_MAX_NODES), NODES);

    /* 64 MiB of small blocks, a MiB on each node. */
    for (int node = 0; node < NODES; node++) numalloc_free(numalloc_onnode(BLOCK, node)); /* its heap and first page */
    size_t before = metadata();
    static void *blocks[NODES][EACH];
    for (int node = 0; node < NODES; node++)
        for (int i = 0; i < EACH; i++) CHECK((blocks[node][i] = numalloc_onnode(BLOCK, node)) != NULL);
    size_t a_gib = (metadata() - before) * (1024 / NODES);
    printf("metadata of a GiB of small blocks: %zu KiB\n", a_gib / KIB);
    CHECK(a_gib > 0 && a_gib <= 3 * MIB);
    for (int node = 0; node < NODES; node++)
        for (int i = 0; i < EACH; i++) numalloc_free(blocks[node][i]);

    /* 512 threads, 8 on each node. */
    pthread_attr_t small;
    CHECK_EQUAL(pthread_attr_init(&small), 0);
    CHECK_EQUAL(pthread_attr_setstacksize(&small, 256 * KIB), 0);
    CHECK_EQUAL(pthread_barrier_init(&barrier, NULL, THREADS + 1), 0);
    static pthread_t threads[THREADS];
    before = metadata();
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK_EQUAL(pthread_create(&threads[i], &small, threads_work, (void *)i), 0);
    (void)pthread_barrier_wait(&barrier);
    size_t first = metadata() - before;
    (void)pthread_barrier_wait(&barrier);
    for (int i = 0; i < THREADS; i++) CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
    printf("metadata of a thread with blocks of 10 classes: %zu bytes\n", first / THREADS);
    CHECK(first / THREADS <= 16 * KIB);

    /* As many again use what those left. */
    before = metadata();
    for (uintptr_t i = 0; i < THREADS; i++)
        CHECK_EQUAL(pthread_create(&threads[i], &small, threads_work, (void *)i), 0);
    (void)pthread_barrier_wait(&barrier);
    size_t second = metadata() - before;
    (void)pthread_barrier_wait(&barrier);
    for (int i = 0; i < THREADS; i++) CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
    printf("of the same threads once more: %zu bytes\n", second / THREADS);
    CHECK(second <= first / 4);
    CHECK_EQUAL(numalloc_verify(), 0);
    return 0;
}
