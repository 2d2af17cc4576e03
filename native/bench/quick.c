/* SPDX-License-Identifier: BSD-3-Clause
 *
 * quick: the machine, then a quick check of the allocator: each of 1, 2, 4 and 8 threads allocates, writes,
 * checks and frees blocks of 16 to 2048 bytes through a window of 512 live ones. The C library's malloc runs the
 * same loop between, for the ratio. A row has its mark only when every byte checked was right, no call failed,
 * all blocks were freed and the allocator's invariants hold. Exit 1 if a mark is missing.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "numa_alloc.h"

enum { WINDOW = 512, OPERATIONS = 2000000, ROUNDS = 3, THREADS_MAX = 8 };

typedef struct worker {
    void *(*allocate)(size_t);
    void (*release)(void *);
    pthread_barrier_t *start;
    uint64_t seed, errors;
} worker;

static void *work(void *argument) {
    worker *self = argument;
    uint64_t *slot[WINDOW] = {0};
    size_t words[WINDOW] = {0};
    uint64_t r = self->seed, errors = 0;
    pthread_barrier_wait(self->start);
    for (int i = 0; i < OPERATIONS; i++) {
        r = r * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        size_t k = (size_t)(r >> 33) % WINDOW;
        if (slot[k] != NULL) {
            uint64_t mark = (uint64_t)(uintptr_t)slot[k] ^ self->seed;
            errors += slot[k][0] != mark || slot[k][words[k] - 1] != mark;
            self->release(slot[k]);
        }
        words[k] = 2 + (size_t)(r >> 45) % 255; /* 16 to 2048 bytes */
        slot[k] = self->allocate(words[k] * sizeof(uint64_t));
        if (slot[k] == NULL) {
            errors++;
            continue;
        }
        slot[k][0] = slot[k][words[k] - 1] = (uint64_t)(uintptr_t)slot[k] ^ self->seed;
    }
    for (int k = 0; k < WINDOW; k++)
        if (slot[k] != NULL) self->release(slot[k]);
    self->errors = errors;
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds for all threads; adds to *errors. */
static double run(int threads, void *(*allocate)(size_t), void (*release)(void *), uint64_t *errors) {
    pthread_t thread[THREADS_MAX];
    worker worker[THREADS_MAX];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++) {
        worker[i] = (struct worker){allocate, release, &start, (uint64_t)i * 77 + 13, 0};
        if (pthread_create(&thread[i], NULL, work, &worker[i]) != 0) {
            perror("quick: pthread_create");
            exit(2);
        }
    }
    double begin = now();
    pthread_barrier_wait(&start);
    for (int i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    double seconds = now() - begin;
    for (int i = 0; i < threads; i++) *errors += worker[i].errors;
    pthread_barrier_destroy(&start);
    return seconds;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_machine(void) {
    static int ids[NUMALLOC_MAX_NODES];
    int count = numalloc_node_ids(ids, NUMALLOC_MAX_NODES);
    printf("machine: %d NUMA node%s this process may use, %ld CPUs online\n", count, count == 1 ? "" : "s",
           sysconf(_SC_NPROCESSORS_ONLN));
    for (int i = 0; i < count; i++) {
        numalloc_node_info_t info;
        if (numalloc_node_info(ids[i], &info) != 0) continue;
        printf("  node %d: %d CPUs, %.1f GiB memory, %.1f GiB free, distances", ids[i], info.cpus,
               (double)info.total_bytes / (1 << 30), (double)info.free_bytes / (1 << 30));
        for (int j = 0; j < count; j++) printf(" %d", numalloc_distance(ids[i], ids[j]));
        printf("\n");
    }
}

int main(void) {
    print_machine();
    printf("\n%d operations a thread, 16 to 2048 bytes, %d live blocks; median of %d\n", OPERATIONS, WINDOW, ROUNDS);
    printf("%8s %10s %10s %14s  %s\n", "threads", "time s", "M ops/s", "libc M ops/s", "ok");
    bool all = true;
    for (int threads = 1; threads <= THREADS_MAX; threads *= 2) {
        double ours[ROUNDS], libc[ROUNDS];
        uint64_t errors = 0;
        numalloc_stats_t before, after;
        numalloc_stats(-1, &before);
        for (int i = 0; i < ROUNDS; i++) { /* interleaved: both see the same neighbours */
            ours[i] = run(threads, numalloc, numalloc_free, &errors);
            libc[i] = run(threads, malloc, free, &errors);
        }
        qsort(ours, ROUNDS, sizeof ours[0], ascending);
        qsort(libc, ROUNDS, sizeof libc[0], ascending);
        numalloc_stats(-1, &after);
        bool freed = after.allocations - before.allocations == after.frees - before.frees;
        bool counted = after.allocations - before.allocations == (uint64_t)threads * OPERATIONS * ROUNDS;
        bool ok = errors == 0 && freed && counted && numalloc_verify() == 0;
        double operations = 2e-6 * threads * OPERATIONS; /* a malloc and a free each */
        printf("%8d %10.3f %10.1f %14.1f  %s\n", threads, ours[ROUNDS / 2], operations / ours[ROUNDS / 2],
               operations / libc[ROUNDS / 2], ok ? "\u2713" : "FAILED");
        all = all && ok;
    }
    return all ? 0 : 1;
}
