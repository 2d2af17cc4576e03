/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thread_end.c: destructors of thread-specific data that allocate and free before and after the allocator's own,
 * and what the C library frees when all of them are through. No thread leaves anything behind.
 */
#define _GNU_SOURCE
#include "../check.h"
#include "early.h"
#include "served.h"

#include <dlfcn.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

static numalloc_stats_t stats_now(void) {
    numalloc_stats_t now;
    CHECK_EQUAL(numalloc_stats(-1, &now), 0);
    return now;
}

static pthread_key_t late_key;
static _Atomic(int) calls;

/* The value is a block, its first int how many more rounds its destructor asks for. */
static void again(void *value) {
    int left = *(int *)value;
    pthread_key_t key = ((pthread_key_t *)value)[1];
    free(value);
    atomic_fetch_add(&calls, 1);
    early_allocate();
    if (left == 0) return;
    int *next = malloc(500);
    next[0] = left - 1;
    ((pthread_key_t *)next)[1] = key;
    pthread_setspecific(key, next);
}

static void set(pthread_key_t key, int rounds) {
    int *value = malloc(100);
    value[0] = rounds;
    ((pthread_key_t *)value)[1] = key;
    pthread_setspecific(key, value);
}

static void *end_with(void *rounds) {
    int more = (int)(intptr_t)rounds;
    set(late_key, more);
    set(early_key, more);
    void *block = malloc(64);
    (void)strerror(123456);                            /* a buffer of the thread's, freed after all destructors */
    (void)dlopen("/nonexistent/library.so", RTLD_NOW); /* likewise the message for dlerror */
    free(block);
    return NULL;
}

static void run_threads(int count, int rounds) {
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        CHECK_EQUAL(pthread_create(&thread, NULL, end_with, (void *)(intptr_t)rounds), 0);
        CHECK_EQUAL(pthread_join(thread, NULL), 0);
    }
}

static void nothing_stays(int rounds) {
    enum { COUNT = 200 };
    run_threads(10, rounds); /* what the first threads bring about stays */
    numalloc_stats_t before = stats_now();
    int called = atomic_load(&calls);
    run_threads(COUNT, rounds);
    numalloc_stats_t after = stats_now();
    CHECK_EQUAL(atomic_load(&calls) - called, 2 * COUNT * (rounds + 1));
    CHECK(after.heaps <= before.heaps);
    CHECK(after.allocated_bytes <= before.allocated_bytes + 4096);
    CHECK(after.committed_bytes <= before.committed_bytes + (1 << 20));
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void destructors(void) { nothing_stays(0); }
static void destructors_in_rounds(void) { nothing_stays(PTHREAD_DESTRUCTOR_ITERATIONS - 2); }

/* In the last round allowed nobody calls the allocator again: the heap made then stays with the dead thread. */
static void destructors_to_the_last_round(void) {
    int called = atomic_load(&calls);
    run_threads(20, PTHREAD_DESTRUCTOR_ITERATIONS - 1);
    CHECK_EQUAL(atomic_load(&calls) - called, 2 * 20 * PTHREAD_DESTRUCTOR_ITERATIONS);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* Threads that end while others free their blocks. */
static _Atomic(void *) handed[64];
static void *hand(void *unused) {
    for (int i = 0; i < 64; i++) {
        void *old = atomic_exchange(&handed[i], malloc((size_t)i * 40 + 1));
        free(old);
    }
    set(late_key, 1);
    return unused;
}
static void blocks_that_outlive_threads(void) {
    uint64_t before = stats_now().committed_bytes; /* heaps of the case before are still there */
    for (int i = 0; i < 200; i++) {
        pthread_t thread[4];
        for (int k = 0; k < 4; k++) CHECK_EQUAL(pthread_create(&thread[k], NULL, hand, NULL), 0);
        for (int k = 0; k < 4; k++) CHECK_EQUAL(pthread_join(thread[k], NULL), 0);
    }
    for (int i = 0; i < 64; i++) free(atomic_exchange(&handed[i], NULL));
    CHECK_EQUAL(numalloc_verify(), 0);
    (void)malloc_trim(0);
    CHECK(stats_now().committed_bytes <= before + (8 << 20));
}

static const check_case cases[] = {
    {"destructors", destructors},
    {"destructors_in_rounds", destructors_in_rounds},
    {"destructors_to_the_last_round", destructors_to_the_last_round},
    {"blocks_that_outlive_threads", blocks_that_outlive_threads},
};

int main(int argc, char **argv) {
    served_or_exit();
    early_at_thread_end(again);
    if (pthread_key_create(&late_key, again) != 0) return 1;
    return check_main(cases, sizeof cases / sizeof *cases, argc, argv);
}
