/* SPDX-License-Identifier: BSD-3-Clause
 *
 * stress [--threads N] [--seconds S | --operations N] [--seed X]: random allocation, reallocation and freeing
 * by all threads on shared slots, so that most frees are remote; threads end and are replaced all the time.
 * Every block carries a checksum of its size and a pattern that is verified before it is freed. Ends with
 * numalloc_verify(), the count of what is still allocated and the growth of memory since it was warm. Exit 1 when
 * anything is wrong. A seed gives each thread the same decisions (not the same interleaving).
 */
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "numa_alloc.h"

enum {
    SLOTS = 4096,
    ROUND = 20000,     /* operations in a thread's life */
    WARM = 40 * SLOTS, /* operations after which the slots are as full as they will be */
    WARM_MS = 1500     /* freed memory stays for NUMALLOC_PURGE_DELAY, 1000 ms, so that it grows for so long */
};

typedef struct payload {
    uint64_t size, seed, check;
    unsigned char bytes[];
} payload;

static _Atomic(payload *) slots[SLOTS];
static atomic_ulong errors, operations;
static atomic_bool stop;
static uint64_t operation_limit = UINT64_MAX;
static int node_ids[NUMALLOC_MAX_NODES], nodes;

static uint64_t next(uint64_t *state) { /* splitmix64 (Steele, Lea, Flood 2014) */
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void wrong(const char *what, const payload *p) {
    if (atomic_fetch_add(&errors, 1) < 10)
        fprintf(stderr, "stress: %s at %p (size %llu)\n", what, (const void *)p, (unsigned long long)p->size);
}

static uint64_t check_of(const payload *p) { return (p->size * UINT64_C(0x9e3779b97f4a7c15)) ^ p->seed ^ 0x5afe; }

/* Large payloads are filled and checked at one byte in 509, and at their ends. */
static size_t stride(uint64_t size) { return size > 4096 ? 509 : 1; }

static unsigned char pattern(const payload *p, size_t i) { return (unsigned char)((p->seed >> (i % 8 * 8)) + i); }

static void fill(payload *p, size_t size, uint64_t seed, size_t from) {
    p->size = size;
    p->seed = seed;
    p->check = check_of(p);
    for (size_t i = from; i < size; i += stride(size)) p->bytes[i] = pattern(p, i);
    if (size != 0) p->bytes[size - 1] = pattern(p, size - 1);
}

static void verify(const payload *p) {
    if (p->check != check_of(p)) {
        wrong("header is damaged", p);
        return;
    }
    for (size_t i = 0; i < p->size; i += stride(p->size))
        if (p->bytes[i] != pattern(p, i)) {
            wrong("payload is damaged", p);
            return;
        }
    if (p->size != 0 && p->bytes[p->size - 1] != pattern(p, p->size - 1)) wrong("payload's end is damaged", p);
}

static size_t some_size(uint64_t r) {
    switch (r % 100) {
    case 0: return (size_t)(r >> 8) % (4u << 20);
    case 1:
    case 2:
    case 3: return (size_t)(r >> 8) % (300u << 10);
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
    case 9:
    case 10: return (size_t)(r >> 8) % 20000;
    default: return (size_t)(r >> 8) % 1000;
    }
}

static payload *some_block(uint64_t r, size_t size, uint64_t *state) {
    size_t bytes = sizeof(payload) + size;
    switch (r % 16) {
    case 0: return numalloc_aligned((size_t)16 << (r >> 8) % 12, bytes);
    case 1: {
        payload *p = numalloc_calloc(1, bytes);
        for (size_t i = 0; p != NULL && i < size; i += stride(size))
            if (p->bytes[i] != 0) {
                wrong("calloc is not zero", p);
                break;
            }
        return p;
    }
    case 2: return numalloc_onnode(bytes, node_ids[next(state) % (uint64_t)nodes]);
    case 3: return numalloc_interleaved(bytes, NULL);
    case 4: {
        numalloc_request_t request = {.size = bytes,
                                      .policy = NUMALLOC_ONNODE,
                                      .flags = NUMALLOC_STRICT,
                                      .node = node_ids[next(state) % (uint64_t)nodes]};
        /* Strict blocks are populated, so keep the large ones rare. */
        return bytes < 100000 ? numalloc_request(&request) : numalloc(bytes);
    }
    case 5: return numalloc_blocked(bytes, NULL);
    default: return numalloc(bytes);
    }
}

static void operate(uint64_t *state) {
    uint64_t r = next(state);
    _Atomic(payload *) *slot = &slots[r % SLOTS];
    r = next(state);
    payload *old = atomic_exchange(slot, NULL);
    if (old != NULL) {
        verify(old);
        if (r % 8 == 0) { /* resize and check that the common part survived */
            size_t size = some_size(next(state)), before = (size_t)old->size;
            uint64_t seed = old->seed;
            payload *moved = numalloc_realloc(old, sizeof(payload) + size);
            if (moved == NULL) {
                numalloc_free(old);
                return;
            }
            size_t common = size < before ? size : before;
            for (size_t i = 0; i < common; i += stride(before))
                if (moved->bytes[i] != (unsigned char)((seed >> (i % 8 * 8)) + i)) {
                    wrong("realloc lost contents", moved);
                    break;
                }
            fill(moved, size, seed, 0);
            old = moved;
            payload *other = atomic_exchange(slot, old);
            if (other != NULL) {
                verify(other);
                numalloc_free(other);
            }
            return;
        }
        numalloc_free(old);
    }
    if (r % 3 == 0) return;
    size_t size = some_size(next(state));
    payload *p = some_block(r >> 16, size, state);
    if (p == NULL) return;
    fill(p, size, next(state), 0);
    payload *other = atomic_exchange(slot, p);
    if (other != NULL) {
        verify(other);
        numalloc_free(other);
    }
}

static void *live(void *seed) {
    uint64_t state = *(uint64_t *)seed;
    for (int i = 0; i < ROUND && !atomic_load_explicit(&stop, memory_order_relaxed); i++) operate(&state);
    *(uint64_t *)seed = state;
    if (atomic_fetch_add(&operations, ROUND) + ROUND >= operation_limit) atomic_store(&stop, true);
    return NULL;
}

/* One life after the other: each has a new thread, so heaps are abandoned and adopted all the time. */
static void *lives(void *seed) {
    while (!atomic_load(&stop)) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, live, seed) != 0) break;
        pthread_join(thread, NULL);
    }
    return NULL;
}

static double seconds_since(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + 1e-9 * (double)(now.tv_nsec - start->tv_nsec);
}

static uint64_t committed(void) {
    numalloc_stats_t stats;
    return numalloc_stats(-1, &stats) == 0 ? stats.committed_bytes : 0;
}

static uint64_t number(const char *text, const char *option) {
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || value == 0) {
        fprintf(stderr, "stress: %s takes a number above 0, not '%s'\n", option, text);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv) {
    uint64_t threads = 4, seconds = 5, seed = 1;
    static const struct option options[] = {{"threads", required_argument, NULL, 't'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {"operations", required_argument, NULL, 'n'},
                                            {"seed", required_argument, NULL, 'x'},
                                            {NULL, 0, NULL, 0}};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o == 't') threads = number(optarg, "--threads");
        else if (o == 's') seconds = number(optarg, "--seconds");
        else if (o == 'n') operation_limit = number(optarg, "--operations");
        else if (o == 'x') seed = number(optarg, "--seed");
        else return 2;
    }
    if (threads > 256) threads = 256;
    nodes = numalloc_node_ids(node_ids, NUMALLOC_MAX_NODES);
    pthread_t thread[256];
    uint64_t state[256];
    struct timespec start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (uint64_t i = 0; i < threads; i++) {
        state[i] = seed * 1000003 + i;
        if (pthread_create(&thread[i], NULL, lives, &state[i]) != 0) return 2;
    }
    uint64_t early = 0, highest = 0; /* while it warms up, and after that; 0: too short for that */
    bool by_time = operation_limit == UINT64_MAX;
    while (!atomic_load(&stop)) {
        struct timespec nap = {0, 100000000};
        nanosleep(&nap, NULL);
        double part = by_time ? seconds_since(&start) / (double)seconds
                              : (double)atomic_load(&operations) / (double)operation_limit;
        uint64_t now = committed();
        /* By operations and time: on a busy machine, or under a sanitizer, a share of the run may be next to nothing. */
        bool warm = part > 0.2 && atomic_load(&operations) >= WARM && seconds_since(&start) > 1e-3 * WARM_MS;
        uint64_t *of_phase = warm ? &highest : &early;
        if (now > *of_phase) *of_phase = now;
        if (by_time && part >= 1) atomic_store(&stop, true);
    }
    for (uint64_t i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    double elapsed = seconds_since(&start);
    for (int i = 0; i < SLOTS; i++) {
        payload *p = atomic_exchange(&slots[i], NULL);
        if (p == NULL) continue;
        verify(p);
        numalloc_free(p);
    }
    numalloc_cleanup();
    numalloc_stats_t stats;
    numalloc_stats(-1, &stats);
    bool whole = numalloc_verify() == 0;
    bool flat = highest <= early + early / 2 + ((uint64_t)32 << 20);
    bool empty = stats.allocated_bytes == 0;
    printf("stress: %llu threads, %lu operations, %.1f s, %lu errors, invariants %s, %llu bytes left, memory %llu -> "
           "%llu MiB %s\n",
           (unsigned long long)threads, atomic_load(&operations), elapsed, atomic_load(&errors),
           whole ? "hold" : "BROKEN", (unsigned long long)stats.allocated_bytes, (unsigned long long)(early >> 20),
           (unsigned long long)(highest >> 20),
           highest == 0 ? "(too short to tell)"
           : flat       ? "flat"
                        : "GROWS");
    return atomic_load(&errors) == 0 && whole && flat && empty ? 0 : 1;
}
