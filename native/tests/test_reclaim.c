/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_reclaim: free memory goes back by age, by volume, for new memory and near limits; nobody waits for it; no thread is
 * started unless asked for. Each case is a process of its own. Sizes and delays are such that no other rule does the work.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "check.h"
#include "heap/heap.h"
#include "machine.h"
#include "space/space.h"

#define MIB ((size_t)1 << 20)

static numalloc_stats_t total(void) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    return stats;
}
static size_t resting_mib(void) { return (size_t)(total().cached_bytes / MIB); }
static na_region *region(void) { return na_region_node(0, false); }

static void sleep_ms(long ms) {
    struct timespec nap = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&nap, &nap) != 0) {}
}

/* Untouched where only the allocator's books matter: to it a block is dirty from its birth. */
static void *take(size_t bytes) {
    void *block = numalloc(bytes);
    CHECK(block != NULL);
    return block;
}

/* ---- by age ------------------------------------------------------------------------------------------------ */

/* NUMALLOC_PURGE_DELAY=200. One span of 96 MiB is free; each 10 ms a block of 4 MiB is cut from it and joined again. What
 * stays in use keeps the rule of volume away. */
static void joining_makes_nothing_younger_body(void) {
    enum { COUNT = 12 };
    void *block[COUNT], *live = take(160 * MIB);
    for (int i = 0; i < COUNT; i++) block[i] = take(8 * MIB);
    for (int i = 0; i < COUNT; i++) numalloc_free(block[i]);
    CHECK(resting_mib() >= 96);
    for (int i = 0; i < 60 || (i < 1000 && resting_mib() > 12); i++) {
        numalloc_free(take(4 * MIB));
        sleep_ms(10);
    }
    CHECK(resting_mib() <= 12);
    numalloc_free(live);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* Ages by slice: of a span that was joined from an old and a young one, the old half goes. */
static void each_slice_has_its_age_body(void) {
    char *old = take(16 * MIB), *young = take(16 * MIB);
    void *live = take(64 * MIB);
    char *low = old < young ? old : young;
    CHECK_EQUAL(low + 16 * MIB == old || low + 16 * MIB == young, 1);
    na_region *r = region();
    numalloc_free(old);
    numalloc_free(young);
    pthread_mutex_lock(&r->lock);
    uint64_t later = r->tick + NA_AGES;
    (void)na_rest_tick(r, later * na_rest_tick_ms());
    na_dirty_set((uintptr_t)young, 16 * MIB / NA_SLICE, later);
    na_rest_batch batch = {.age = NA_AGES};
    for (unsigned p = 0; p < 2; p++) na_rest_take(r, p, UINT64_MAX / 2, &batch);
    uint64_t taken = batch.bytes;
    na_rest_purge(&batch);
    uint64_t gone = na_rest_put_back(r, &batch);
    pthread_mutex_unlock(&r->lock);
    CHECK_EQUAL(taken, 16 * MIB);
    CHECK_EQUAL(gone, 16 * MIB);
    CHECK(!na_dirty_any((uintptr_t)old, 16 * MIB / NA_SLICE));
    CHECK_EQUAL(na_dirty_count((uintptr_t)young, 16 * MIB / NA_SLICE), 16 * MIB / NA_SLICE);
    numalloc_free(live);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* NUMALLOC_PURGE_DELAY=600000. mallopt() changes the delay while a batch is out: what counts as zero is what was purged. */
static void a_delay_that_changes_body(void) {
    char *old = take(16 * MIB), *young = take(16 * MIB);
    void *live = take(64 * MIB);
    na_region *r = region();
    memset(young, 1, 16 * MIB);
    numalloc_free(old);
    numalloc_free(young);
    pthread_mutex_lock(&r->lock);
    uint64_t later = r->tick + NA_AGES;
    (void)na_rest_tick(r, later * na_rest_tick_ms());
    na_dirty_set((uintptr_t)young, 16 * MIB / NA_SLICE, later);
    na_rest_batch batch = {.age = NA_AGES};
    na_opt.purge_delay_ms = 0;
    na_rest_take(r, 1, UINT64_MAX / 2, &batch);
    na_opt.purge_delay_ms = NA_PURGE_NEVER;
    na_rest_purge(&batch);
    na_opt.purge_delay_ms = 0;
    CHECK_EQUAL(na_rest_put_back(r, &batch), 32 * MIB);
    na_opt.purge_delay_ms = 600000;
    pthread_mutex_unlock(&r->lock);
    char *zeros = numalloc_calloc(1, 32 * MIB);
    CHECK(zeros != NULL && zeros <= young && young < zeros + 32 * MIB);
    for (size_t at = 0; at < 32 * MIB; at += 4096) CHECK_EQUAL(zeros[at], 0);
    numalloc_free(zeros);
    numalloc_free(live);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* NUMALLOC_PURGE_DELAY=100. More goes by age than was ever in use at a time. */
static void more_goes_than_was_in_use_body(void) {
    enum { COUNT = 20 };
    void *block[COUNT];
    for (int i = 0; i < COUNT; i++) block[i] = take(3 * MIB / 2);
    for (int i = 0; i < COUNT; i++) numalloc_free(block[i]);
    numalloc_free(take(30 * MIB));
    for (int i = 0; i < 100 && resting_mib() > 4; i++) {
        sleep_ms(150);
        numalloc_free(take(3 * MIB));
    }
    CHECK(region()->used_most <= 40 * MIB);
    for (int i = 0; i < COUNT; i++) block[i] = take(8 * MIB); /* the rule of volume goes by that */
    for (int i = 0; i < COUNT; i++) numalloc_free(block[i]);
    CHECK(resting_mib() < 60);
}

/* ---- by volume --------------------------------------------------------------------------------------------- */

/* NUMALLOC_PURGE_DELAY=600000. A program frees what it has and makes no further call. */
static void what_is_left_is_little_body(void) {
    static const size_t sizes[] = {3000, 60000, 160 << 10, 1 << 20, 6 << 20};
    static void *block[40000];
    for (int s = 0; s < 5; s++) {
        size_t count = 100 * MIB / sizes[s];
        for (size_t i = 0; i < count; i++) block[i] = take(sizes[s]);
        for (size_t i = 0; i < count; i++) numalloc_free(block[i]);
        printf("blocks of %zu bytes: %zu MiB left\n", sizes[s], (size_t)(total().committed_bytes / MIB));
        CHECK(total().committed_bytes < 40 * MIB);
        (void)numalloc_purge();
        region()->used_most = 0; /* as after a while: the next peak is a new one */
    }
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* So do its threads that end, in any order and at once. */
enum { THREADS = 24 };
static pthread_barrier_t all_there;
static atomic_int may_end; /* so many of them */
static void *works_and_ends(void *number) {
    void *block[3000], *large[12];
    for (int i = 0; i < 3000; i++) block[i] = take(1000);
    for (int i = 0; i < 12; i++) large[i] = take(150000);
    pthread_barrier_wait(&all_there);
    for (int i = 0; i < 3000; i++) numalloc_free(block[i]);
    for (int i = 0; i < 12; i++) numalloc_free(large[i]);
    pthread_barrier_wait(&all_there);
    while (may_end <= (int)(intptr_t)number) sched_yield();
    return NULL;
}
static void start_threads(pthread_t *thread) {
    CHECK_EQUAL(pthread_barrier_init(&all_there, NULL, THREADS), 0);
    for (intptr_t i = 0; i < THREADS; i++) CHECK_EQUAL(pthread_create(&thread[i], NULL, works_and_ends, (void *)i), 0);
}
static void little_is_left(void) {
    CHECK(total().peak_bytes > 96 * MIB);
    printf("%zu MiB left\n", (size_t)(total().committed_bytes / MIB));
    CHECK(total().committed_bytes <= NA_REST_LEAST + 2 * MIB);
    CHECK_EQUAL(numalloc_verify(), 0);
}
static void what_threads_leave_is_little_body(void) {
    pthread_t thread[THREADS];
    may_end = THREADS;
    start_threads(thread);
    for (int i = 0; i < THREADS; i++) CHECK_EQUAL(pthread_join(thread[i], NULL), 0);
    little_is_left();
}

/* A heap that a thread is giving back seems to be in use. Here each that takes one stops until all have ended or stopped. */
static atomic_int stopped;
static atomic_bool do_stop;
int __real_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock) {
    int in_hand = 0;
    if (do_stop)
        for (na_heap *heap = region()->all; heap != NULL; heap = heap->all_next) in_hand += heap->in_hand;
    int error = __real_pthread_mutex_unlock(lock);
    if (in_hand > stopped) {
        stopped++;
        while (do_stop) sched_yield();
    }
    return error;
}
static void who_ends_sees_what_others_hold_body(void) {
    pthread_t thread[THREADS];
    bool ended[THREADS] = {false};
    start_threads(thread);
    do_stop = true;
    for (int i = 0; i < THREADS; i++) {
        int before = stopped;
        may_end = i + 1;
        while (!ended[i] && stopped == before) ended[i] = pthread_tryjoin_np(thread[i], NULL) == 0;
    }
    do_stop = false;
    CHECK(stopped >= 2);
    for (int i = 0; i < THREADS; i++)
        if (!ended[i]) CHECK_EQUAL(pthread_join(thread[i], NULL), 0);
    little_is_left();
}

/* What is freed and taken again by turns stays. */
static void what_is_used_again_stays_body(void) {
    for (int i = 0; i < 20; i++) numalloc_free(take(64 * MIB));
    CHECK_EQUAL(total().purged_bytes, 0);
    void *block[8];
    uint64_t before = 0;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 8; i++) block[i] = take(10 * MIB);
        for (int i = 0; i < 8; i++) numalloc_free(block[i]);
        if (round == 0) before = total().purged_bytes;
        if (round == 2) CHECK(total().purged_bytes <= before + 40 * MIB); /* the price of a peak, once */
        if (round == 2) before = total().purged_bytes;
    }
    CHECK(total().purged_bytes <= before + 20 * 80 * MIB / 24);
}

/* ---- for new memory ---------------------------------------------------------------------------------------- */

/* NUMALLOC_PURGE_DELAY=700: a tick is 100 ms. */
static void large_memory_makes_room_for_small_body(void) {
    static void *block[10000];
    for (int round = 0; round < 2; round++) {
        numalloc_free(take(100 * MIB));
        sleep_ms(210);
        for (int i = 0; i < 5000; i++) block[i] = take(20000);
        for (int i = 0; i < 5000; i++) numalloc_free(block[i]);
        sleep_ms(210);
    }
    CHECK(total().peak_bytes < 140 * MIB);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* NUMALLOC_PURGE_DELAY=600000, in a cgroup that has 120 MiB left. */
static void limits_are_looked_at_body(void) {
    numalloc_free(take(100 * MIB));
    CHECK(resting_mib() >= 100);
    machine_room = 120 * MIB;
    void *p = take(101 * MIB);
    CHECK_EQUAL(resting_mib(), 0);
    numalloc_free(p);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* NUMALLOC_RESERVE=64M: what the caller's caches hold pins address space. */
static void caches_give_way_body(void) {
    static void *block[100000];
    int count = 0;
    while (count < 100000 && (block[count] = numalloc(3000)) != NULL) count++;
    CHECK_EQUAL(errno, ENOMEM);
    while (count > 0) numalloc_free(block[--count]);
    numalloc_free(take(26 * MIB));
    numalloc_free(take(40 * MIB));
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- zeros ------------------------------------------------------------------------------------------------- */

/* A large array of zeros of which little was written, twice: the second time it has no more memory than the first. */
static void zeros_stay_sparse_body(void) {
    enum { STEP = 4 << 20 };
    static const size_t sizes[] = {64 << 20, 400 << 20}; /* the second has more slices than were once looked at */
    for (int s = 0; s < 2; s++) {
        size_t resident[2];
        void *first = NULL;
        for (int round = 0; round < 2; round++) {
            char *zeros = numalloc_calloc(1, sizes[s]);
            CHECK(zeros != NULL && (round == 0 || zeros == first));
            for (size_t at = 0; at < sizes[s]; at += STEP / 64 * 3) CHECK_EQUAL(zeros[at], 0);
            first = zeros;
            for (size_t at = 0; at < sizes[s]; at += STEP) zeros[at] = 1;
            CHECK_EQUAL(os_resident(zeros, sizes[s], &resident[round]), 0);
            numalloc_free(zeros);
        }
        CHECK(resident[1] <= resident[0] + sizes[s] / 8);
        (void)numalloc_purge();
    }
    unsigned char *full = take(8 * MIB); /* and what was written is cleared, wherever it is */
    memset(full, 1, 8 * MIB);
    numalloc_free(full);
    full = numalloc_calloc(1, 8 * MIB - 12345);
    for (size_t at = 0; at < 8 * MIB - 12345; at++) CHECK_EQUAL(full[at], 0);
    numalloc_free(full);
}

/* NUMALLOC_PURGE_DELAY=never. A device may know pages of free memory: no new block takes them away. */
static void registered_pages_stay_body(void) {
    size_t bytes = 16 * MIB;
    char *sparse = take(bytes);
    for (size_t at = 0; at < bytes; at += 4 * MIB) memset(sparse + at, 1, MIB / 2);
    numalloc_free(sparse);
    CHECK(numalloc_calloc(1, bytes) == sparse);
    for (size_t at = 0; at < bytes; at += 4096) CHECK_EQUAL(sparse[at], 0);
    numalloc_free(sparse);
    for (int round = 0; round < 2; round++) { /* the span cache of mixed memory gives way to other placements */
        void *block[2 * NA_SPAN_CACHE_SLOTS];
        for (int i = 0; i < 2 * NA_SPAN_CACHE_SLOTS; i++) {
            numalloc_nodemask_t nodes = {{3}};
            numalloc_request_t request = {.size = (size_t)(i + 1) * 300000, .flags = NUMALLOC_ZERO, .nodes = &nodes};
            request.policy = round == 0 ? NUMALLOC_INTERLEAVE : NUMALLOC_BLOCKED;
            CHECK((block[i] = numalloc_request(&request)) != NULL);
            for (size_t at = 0; at < request.size; at += 4096) CHECK_EQUAL(((char *)block[i])[at], 0);
            memset(block[i], 1, request.size);
        }
        for (int i = 0; i < 2 * NA_SPAN_CACHE_SLOTS; i++) numalloc_free(block[i]);
    }
    CHECK_EQUAL(numalloc_purge(), 0);
    CHECK_EQUAL(machine_calls(MACHINE_purge), 0);
}

/* ---- nobody waits ------------------------------------------------------------------------------------------ */

static void (*at_purge)(void);
static atomic_int purges;
static void hook(enum machine_call call) {
    if (call != MACHINE_purge || at_purge == NULL) return;
    atomic_fetch_add(&purges, 1);
    at_purge();
}

static void locks_are_free(void) {
    at_purge = NULL;
    for (int i = 0; i < na_region_count; i++) {
        int error = pthread_mutex_trylock(&na_regions[i].lock);
        CHECK_EQUAL(error, 0);
        pthread_mutex_unlock(&na_regions[i].lock);
    }
    numalloc_free(take(300000)); /* and serve */
    at_purge = locks_are_free;
}

/* Frees of all kinds whose memory goes at once: NUMALLOC_PURGE_DELAY=0 */
static void free_all_kinds(void) {
    void *block[40];
    for (int i = 0; i < 30; i++) block[i] = take((size_t)(i % 5 + 1) * 700000);
    for (int i = 0; i < 30; i++) numalloc_free(block[i]);
    if (os_can_bind() == 0)
        for (int i = 0; i < 20; i++) numalloc_free(numalloc_interleaved(MIB * (size_t)(1 + i % 3), NULL));
    (void)numalloc_purge();
}

static void no_lock_over_system_calls_body(void) {
    at_purge = locks_are_free;
    machine_hook = hook;
    free_all_kinds();
    CHECK(purges > 5);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void child_has_all(void) {
    CHECK_EQUAL(numalloc_verify(), 0);
    for (int i = 0; i < na_region_count; i++) CHECK_EQUAL(na_regions[i].in_purge[0] + na_regions[i].in_purge[1], 0);
    free_all_kinds();
    CHECK_EQUAL(numalloc_verify(), 0);
}

static atomic_int forks;
static int child_code;
static void forks_meanwhile(void) {
    if (atomic_fetch_add(&forks, 1) % 7 != 0) return;
    at_purge = NULL;
    if (child_code == 0) child_code = check_child(child_has_all, NULL, 0);
    at_purge = forks_meanwhile;
}

/* In a child of fork the thread that was purging is gone; its spans are not. */
static void *frees(void *unused) {
    void *block[40];
    for (int i = 0; i < 40; i++) block[i] = numalloc((size_t)(i % 5 + 1) * 700000);
    for (int i = 0; i < 40; i++) numalloc_free(block[i]);
    return unused;
}
static void a_child_finds_what_was_going_body(void) {
    pthread_t thread;
    at_purge = forks_meanwhile;
    machine_hook = hook;
    CHECK_EQUAL(pthread_create(&thread, NULL, frees, NULL), 0);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK(forks > 7);
    CHECK_EQUAL(child_code, 0);
}

/* NUMALLOC_PURGE_DELAY=0. Two threads purge such that at each time one of them is at it. numalloc_purge() waits for what was
 * going when it was called, not for what comes later. */
enum { TURNS_MOST = 20000 };
static atomic_int turns;
static atomic_bool turns_end;
static pthread_t does_not_wait;
static void waits_for_the_other(void) {
    if (pthread_equal(pthread_self(), does_not_wait)) return;
    int turn = atomic_fetch_add(&turns, 1) + 1;
    while (atomic_load(&turns) == turn && !turns_end) sched_yield();
}
static void *purges_by_turns(void *unused) {
    while (!turns_end && turns < TURNS_MOST) numalloc_free(numalloc(2 * MIB));
    turns_end = true;
    return unused;
}
static void a_purge_ends_body(void) {
    pthread_t thread[2];
    does_not_wait = pthread_self();
    at_purge = waits_for_the_other;
    machine_hook = hook;
    for (int i = 0; i < 2; i++) CHECK_EQUAL(pthread_create(&thread[i], NULL, purges_by_turns, NULL), 0);
    while (turns < 10) sched_yield();
    (void)numalloc_purge();
    bool ended = turns < TURNS_MOST;
    turns_end = true;
    for (int i = 0; i < 2; i++) CHECK_EQUAL(pthread_join(thread[i], NULL), 0);
    CHECK(ended);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* NUMALLOC_RESERVE=64M. What another thread is giving back is free memory: a request waits for it. */
static atomic_int purge_step;
static void is_slow(void) {
    if (pthread_equal(pthread_self(), does_not_wait)) return;
    purge_step = 1;
    sleep_ms(50);
}
static void *purges_all(void *unused) {
    (void)numalloc_purge();
    return unused;
}
static void a_request_waits_for_memory_that_goes_body(void) {
    pthread_t thread;
    does_not_wait = pthread_self();
    numalloc_free(take(30 * MIB));
    at_purge = is_slow;
    machine_hook = hook;
    CHECK_EQUAL(pthread_create(&thread, NULL, purges_all, NULL), 0);
    while (purge_step == 0) sched_yield();
    void *block = numalloc(30 * MIB);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK(block != NULL);
    numalloc_free(block);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- the thread -------------------------------------------------------------------------------------------- */

static void no_thread_unless_asked_body(void) {
    numalloc_free(take(20 * MIB));
    CHECK_EQUAL(machine_calls(MACHINE_ticker_start), 0);
    CHECK_EQUAL(numalloc_purger(), 0);
    CHECK_EQUAL(machine_calls(MACHINE_ticker_start), 1);
}

/* NUMALLOC_PURGER=0 */
static void no_thread_at_all_body(void) {
    CHECK_EQUAL(numalloc_purger(), ENOTSUP);
    numalloc_free(take(20 * MIB));
    CHECK_EQUAL(machine_calls(MACHINE_ticker_start), 0);
}

/* NUMALLOC_PURGER=1 MACHINE_FAULT=ticker_start:1:1000000:11 */
static void a_failed_start_backs_off_body(void) {
    for (int i = 0; i < 100; i++) numalloc_free(take(2 * MIB));
    uint64_t calls = machine_calls(MACHINE_ticker_start);
    CHECK(calls >= 1 && calls <= 3); /* the next is tried after a second */
}

/* NUMALLOC_PURGER=1. The end of a thread starts the purger's, which may free blocks of other threads: they go home. */
static void *of_main;
static void frees_at_start(enum machine_call call) {
    if (call == MACHINE_ticker_start) numalloc_free(of_main);
}
static void *leaves_much(void *unused) {
    for (int i = 0; i < 2000; i++) (void)take(1000);
    return unused;
}
static void frees_at_a_threads_end_body(void) {
    pthread_t thread;
    of_main = take(1000);
    machine_hook = frees_at_start;
    CHECK_EQUAL(pthread_create(&thread, NULL, leaves_much, NULL), 0);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK_EQUAL(machine_calls(MACHINE_ticker_start), 1);
    CHECK_EQUAL(na_remote_count(na_span_at(of_main)), 1);
}

static const check_case bodies[] = {
    {"joining_makes_nothing_younger", joining_makes_nothing_younger_body},
    {"each_slice_has_its_age", each_slice_has_its_age_body},
    {"a_delay_that_changes", a_delay_that_changes_body},
    {"more_goes_than_was_in_use", more_goes_than_was_in_use_body},
    {"what_is_left_is_little", what_is_left_is_little_body},
    {"what_threads_leave_is_little", what_threads_leave_is_little_body},
    {"who_ends_sees_what_others_hold", who_ends_sees_what_others_hold_body},
    {"what_is_used_again_stays", what_is_used_again_stays_body},
    {"large_memory_makes_room_for_small", large_memory_makes_room_for_small_body},
    {"limits_are_looked_at", limits_are_looked_at_body},
    {"caches_give_way", caches_give_way_body},
    {"zeros_stay_sparse", zeros_stay_sparse_body},
    {"registered_pages_stay", registered_pages_stay_body},
    {"no_lock_over_system_calls", no_lock_over_system_calls_body},
    {"a_child_finds_what_was_going", a_child_finds_what_was_going_body},
    {"a_purge_ends", a_purge_ends_body},
    {"a_request_waits_for_memory_that_goes", a_request_waits_for_memory_that_goes_body},
    {"no_thread_unless_asked", no_thread_unless_asked_body},
    {"no_thread_at_all", no_thread_at_all_body},
    {"a_failed_start_backs_off", a_failed_start_backs_off_body},
    {"frees_at_a_threads_end", frees_at_a_threads_end_body},
};

#define CASE(name, environment)                                                                                        \
    static void name(void) { check_start(environment, #name); }
CASE(joining_makes_nothing_younger, "NUMALLOC_PURGE_DELAY=200")
CASE(each_slice_has_its_age, "NUMALLOC_PURGE_DELAY=600000")
CASE(a_delay_that_changes, "NUMALLOC_PURGE_DELAY=600000")
CASE(more_goes_than_was_in_use, "NUMALLOC_PURGE_DELAY=100")
CASE(what_is_left_is_little, "NUMALLOC_PURGE_DELAY=600000")
CASE(what_threads_leave_is_little, "NUMALLOC_PURGE_DELAY=600000")
CASE(who_ends_sees_what_others_hold, "NUMALLOC_PURGE_DELAY=600000")
CASE(what_is_used_again_stays, "NUMALLOC_PURGE_DELAY=600000")
CASE(large_memory_makes_room_for_small, "NUMALLOC_PURGE_DELAY=700")
CASE(limits_are_looked_at, "NUMALLOC_PURGE_DELAY=600000")
CASE(caches_give_way, "NUMALLOC_RESERVE=64M")
CASE(zeros_stay_sparse, "NUMALLOC_PURGE_DELAY=600000")
CASE(registered_pages_stay, "MACHINE_NODES=2 NUMALLOC_PURGE_DELAY=never")
CASE(no_lock_over_system_calls, "NUMALLOC_PURGE_DELAY=0")
CASE(a_child_finds_what_was_going, "NUMALLOC_PURGE_DELAY=0")
CASE(a_purge_ends, "NUMALLOC_PURGE_DELAY=0")
CASE(a_request_waits_for_memory_that_goes, "NUMALLOC_RESERVE=64M NUMALLOC_PURGE_DELAY=600000")
CASE(no_thread_unless_asked, "")
CASE(no_thread_at_all, "NUMALLOC_PURGER=0")
CASE(frees_at_a_threads_end, "NUMALLOC_PURGER=1")
CASE(a_failed_start_backs_off, "NUMALLOC_PURGER=1 MACHINE_FAULT=ticker_start:1:1000000:11")

static const check_case cases[] = {
    {"joining_makes_nothing_younger", joining_makes_nothing_younger},
    {"each_slice_has_its_age", each_slice_has_its_age},
    {"a_delay_that_changes", a_delay_that_changes},
    {"more_goes_than_was_in_use", more_goes_than_was_in_use},
    {"what_is_left_is_little", what_is_left_is_little},
    {"what_threads_leave_is_little", what_threads_leave_is_little},
    {"who_ends_sees_what_others_hold", who_ends_sees_what_others_hold},
    {"what_is_used_again_stays", what_is_used_again_stays},
    {"large_memory_makes_room_for_small", large_memory_makes_room_for_small},
    {"limits_are_looked_at", limits_are_looked_at},
    {"caches_give_way", caches_give_way},
    {"zeros_stay_sparse", zeros_stay_sparse},
    {"registered_pages_stay", registered_pages_stay},
    {"no_lock_over_system_calls", no_lock_over_system_calls},
    {"a_child_finds_what_was_going", a_child_finds_what_was_going},
    {"a_purge_ends", a_purge_ends},
    {"a_request_waits_for_memory_that_goes", a_request_waits_for_memory_that_goes},
    {"no_thread_unless_asked", no_thread_unless_asked},
    {"no_thread_at_all", no_thread_at_all},
    {"a_failed_start_backs_off", a_failed_start_backs_off},
    {"frees_at_a_threads_end", frees_at_a_threads_end},
};

CHECK_MAIN_OF_BODIES(cases, bodies)
