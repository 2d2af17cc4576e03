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
#include <stdio.h>
#include <unistd.h>

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

/* The end of a thread with many pages starts the purger, whose making allocates. The heap that serves this rests, too: who
 * allocates later does not do so from a heap that another thread may have taken over. */
static pthread_key_t counting_key;
static int64_t heaps_more = -1;
static void count_heaps(void *rounds) {
    if (rounds != NULL && pthread_setspecific(counting_key, NULL) == 0 && (intptr_t)rounds > 1) {
        pthread_setspecific(counting_key, (void *)((intptr_t)rounds - 1));
        return;
    }
    uint64_t before = stats_now().heaps;
    free(malloc(64));
    heaps_more = (int64_t)(stats_now().heaps - before);
}
static void *have_many_pages(void *unused) {
    enum { MANY = 40000 };
    static void *block[MANY];
    pthread_setspecific(counting_key, (void *)(intptr_t)2); /* the second round: the allocator's is over */
    for (int i = 0; i < MANY; i++) block[i] = malloc(64);
    for (int i = 0; i < MANY; i++) free(block[i]);
    return unused;
}
static long threads_now(void) {
    char line[256];
    long count = 0;
    FILE *status = fopen("/proc/self/status", "r");
    CHECK(status != NULL);
    while (fgets(line, sizeof line, status) != NULL) (void)sscanf(line, "Threads: %ld", &count);
    fclose(status);
    return count;
}
static void the_purger_starts_at_the_end(void) {
    pthread_t thread;
    (void)malloc_trim(0); /* early.c started the purger: with nothing to return it ends */
    for (int i = 0; i < 200 && threads_now() > 1; i++) usleep(50000);
    CHECK_EQUAL(threads_now(), 1);
    CHECK_EQUAL(pthread_key_create(&counting_key, count_heaps), 0);
    pthread_attr_t
        attributes; /* its stack is the one that the purger had, and that the next would have without a call */
    CHECK_EQUAL(pthread_attr_init(&attributes), 0);
    CHECK_EQUAL(pthread_attr_setstacksize(&attributes, 256 * 1024), 0);
    CHECK_EQUAL(pthread_create(&thread, &attributes, have_many_pages, NULL), 0);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK_EQUAL(heaps_more, 1);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static const check_case cases[] = {
    {"the_purger_starts_at_the_end", the_purger_starts_at_the_end}, /* first: little else has started it */
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
