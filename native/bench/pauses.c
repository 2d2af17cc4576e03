/* SPDX-License-Identifier: BSD-3-Clause
 *
 * pauses [MIB]: how long calls of one thread take while memory that another thread has freed goes back to the system.
 * One thread frees MIB (512) in blocks of 1.2 MiB and of 160 KiB, then takes and returns a block now and then; the other
 * takes, writes to and returns blocks of 1.5 MB, and measures each step. Knows no allocator: run it under LD_PRELOAD.
 * Prints one line of JSON, times in nanoseconds.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES = 1 << 21, PAGE = 4096, MEASURED = 1500000, ROUNDS = 60, ROUND_US = 50000 };

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *table(size_t bytes) { /* not from the allocator that is measured */
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) exit(1);
    return memory;
}

enum step { TAKE, TOUCH, RETURN, STEPS };
static const char *const step_name[STEPS] = {"malloc", "touch", "free"};
static uint32_t *sample[STEPS];
static size_t samples;
static atomic_int stop;

static void note(enum step step, uint64_t from, uint64_t to) {
    uint64_t took = to - from;
    if (samples < SAMPLES) sample[step][samples] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
}

static void *measure(void *unused) {
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        uint64_t t0 = now();
        char *volatile block = malloc(MEASURED);
        uint64_t t1 = now();
        if (block == NULL) exit(1);
        for (size_t at = 0; at < 16 * PAGE; at += PAGE) block[at] = 1;
        uint64_t t2 = now();
        free(block);
        uint64_t t3 = now();
        note(TAKE, t0, t1);
        note(TOUCH, t1, t2);
        note(RETURN, t2, t3);
        samples += samples < SAMPLES;
    }
    return unused;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t quantile(const uint32_t *sorted, double share) {
    return sorted[(size_t)((double)(samples - 1) * share)];
}

int main(int argc, char **argv) {
    size_t bytes = (argc > 1 ? strtoul(argv[1], NULL, 10) : 512) << 20;
    size_t large = 1250000, small = 160 << 10, count = bytes / (large + small);
    char **block = table(2 * count * sizeof *block);
    for (int s = 0; s < STEPS; s++) sample[s] = table(SAMPLES * sizeof *sample[s]);
    for (size_t i = 0; i < 2 * count; i++) {
        size_t size = i % 2 == 0 ? large : small;
        block[i] = malloc(size);
        if (block[i] == NULL) return 1;
        memset(block[i], 1, size);
    }
    pthread_t thread;
    if (pthread_create(&thread, NULL, measure, NULL) != 0) return 1;
    for (size_t i = 0; i < 2 * count; i++) free(block[i]);
    for (int i = 0; i < ROUNDS; i++) {
        usleep(ROUND_US);
        free(malloc(3 << 20));
    }
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    printf("{\"samples\": %zu", samples);
    for (int s = 0; s < STEPS && samples != 0; s++) {
        qsort(sample[s], samples, sizeof *sample[s], ascending);
        printf(", \"%s\": {\"p50\": %u, \"p99\": %u, \"p99.9\": %u, \"max\": %u}", step_name[s],
               quantile(sample[s], 0.5), quantile(sample[s], 0.99), quantile(sample[s], 0.999), sample[s][samples - 1]);
    }
    printf("}\n");
    return samples == 0;
}
