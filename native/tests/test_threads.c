/* SPDX-License-Identifier: BSD-3-Clause */
/* heap.c, remote.c, thread.c, fork.c: blocks cross threads, threads end, processes fork. */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "api/api.h"
#include "check.h"

static numalloc_stats_t total(void) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    return stats;
}

static void run(void *(*body)(void *), void *argument) {
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, body, argument), 0);
    pthread_join(thread, NULL);
}

/* ---- frees by another thread --------------------------------------------------------------------------- */

enum { BLOCKS = 20000 };
static void *blocks[BLOCKS];

static void *free_all(void *unused) {
    (void)unused;
    for (int i = 0; i < BLOCKS; i++) numalloc_free(blocks[i]);
    return NULL;
}

static void remote_frees_come_home(void) {
    numalloc_cleanup();
    numalloc_stats_t before = total();
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            size_t size = (size_t)(16 + i % 700);
            CHECK((blocks[i] = numalloc(size)) != NULL);
            memset(blocks[i], round, size);
        }
        run(free_all, NULL);
    }
    numalloc_cleanup();
    numalloc_stats_t after = total();
    CHECK_EQUAL(after.allocated_bytes, before.allocated_bytes);
    CHECK_EQUAL(after.remote_frees - before.remote_frees, 5 * BLOCKS);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* An unbounded stream through a bounded queue: one thread only allocates, the other only frees. */
enum { RING = 256, STREAM = 400000 };
static void *ring[RING];
static sem_t ring_room, ring_items;
static atomic_int ring_bad;

static void *consume(void *unused) {
    (void)unused;
    for (int i = 0; i < STREAM; i++) {
        while (sem_wait(&ring_items) != 0) {}
        uint32_t *block = ring[i % RING];
        if (block[0] != (uint32_t)i || block[3] != ~(uint32_t)i) atomic_fetch_add(&ring_bad, 1);
        numalloc_free(block);
        sem_post(&ring_room);
    }
    return NULL;
}

static void producer_and_consumer_stay_flat(void) {
    pthread_t consumer;
    sem_init(&ring_room, 0, RING);
    sem_init(&ring_items, 0, 0);
    numalloc_cleanup();
    CHECK_EQUAL(pthread_create(&consumer, NULL, consume, NULL), 0);
    uint64_t early = 0, late = 0;
    for (int i = 0; i < STREAM; i++) {
        while (sem_wait(&ring_room) != 0) {}
        uint32_t *block = numalloc(64 + (size_t)(i % 5) * 100);
        block[0] = (uint32_t)i;
        block[3] = ~(uint32_t)i;
        ring[i % RING] = block;
        sem_post(&ring_items);
        if (i == STREAM / 10) early = total().committed_bytes;
    }
    late = total().committed_bytes;
    pthread_join(consumer, NULL);
    CHECK_EQUAL(ring_bad, 0);
    CHECK(late <= early + ((uint64_t)2 << 20)); /* the stream is 80 MB; what waits is bounded */
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- threads that end -------------------------------------------------------------------------------------- */

static void *allocate_some(void *out) {
    void **slot = out;
    for (int i = 0; i < 50; i++) numalloc_free(numalloc((size_t)i * 40));
    *slot = numalloc(200);
    return NULL;
}

static void short_threads_leave_nothing(void) {
    uint64_t early = 0;
    for (int i = 0; i < 3000; i++) {
        void *left = NULL;
        run(allocate_some, &left);
        CHECK(left != NULL);
        numalloc_free(left);
        if (i == 300) early = total().committed_bytes;
    }
    numalloc_stats_t after = total();
    CHECK(after.committed_bytes <= early + ((uint64_t)1 << 20));
    CHECK(after.abandoned_heaps <= 2);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void *keep(void *slot) {
    for (int i = 0; i < 1000; i++) ((void **)slot)[i] = numalloc(128);
    return NULL;
}

static void *look_for(void *argument) {
    void **kept = argument;
    /* The dead thread's pages have free blocks between the live ones; a new thread gets them. */
    int found = 0;
    void *mine[4000];
    for (int i = 0; i < 4000; i++) {
        mine[i] = numalloc(128);
        for (int k = 0; k < 1000; k += 2) found += mine[i] == kept[k];
    }
    for (int i = 0; i < 4000; i++) numalloc_free(mine[i]);
    return (void *)(intptr_t)found;
}

static void abandoned_memory_is_adopted(void) {
    static void *kept[1000];
    run(keep, kept);
    CHECK(total().abandoned_heaps >= 1);
    for (int k = 0; k < 1000; k += 2) numalloc_free(kept[k]);
    numalloc_purge(); /* hands over this thread's remote frees */
    pthread_t thread;
    void *found;
    CHECK_EQUAL(pthread_create(&thread, NULL, look_for, kept), 0);
    pthread_join(thread, &found);
    CHECK((intptr_t)found > 400);
    for (int k = 1; k < 1000; k += 2) numalloc_free(kept[k]);
    numalloc_cleanup();
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* A live thread that runs short takes abandoned pages before it asks for new ones. */
static void abandoned_memory_is_stolen_by_the_living(void) {
    static void *kept[1000];
    numalloc_cleanup();
    numalloc_free(numalloc(128)); /* this thread has a heap already */
    run(keep, kept);
    CHECK(total().abandoned_heaps >= 1);
    for (int k = 0; k < 1000; k += 2) numalloc_free(kept[k]);
    static void *mine[20000];
    int found = 0;
    for (int i = 0; i < 20000; i++) {
        mine[i] = numalloc(128);
        for (int k = 0; k < 1000; k += 2) found += mine[i] == kept[k];
    }
    CHECK(found > 400);
    CHECK_EQUAL(total().abandoned_heaps, 0);
    for (int i = 0; i < 20000; i++) numalloc_free(mine[i]);
    for (int k = 1; k < 1000; k += 2) numalloc_free(kept[k]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static pthread_key_t late_key;
static void late_destructor(void *value) {
    numalloc_free(value);
    numalloc_free(numalloc(3000));
}
static void *sets_late_key(void *unused) {
    (void)unused;
    pthread_setspecific(late_key, numalloc(77));
    return NULL;
}

static void destructors_may_allocate(void) {
    CHECK_EQUAL(pthread_key_create(&late_key, late_destructor), 0);
    for (int i = 0; i < 100; i++) run(sets_late_key, NULL);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- fork ---------------------------------------------------------------------------------------------------- */

static atomic_bool stop;

static void *churn(void *unused) {
    (void)unused;
    void *slot[64] = {0};
    for (unsigned i = 0; !atomic_load_explicit(&stop, memory_order_relaxed); i++) {
        numalloc_free(slot[i % 64]);
        slot[i % 64] = numalloc((size_t)(i * 7919 % 9000));
    }
    for (int i = 0; i < 64; i++) numalloc_free(slot[i]);
    return NULL;
}

static void in_child(void) {
    alarm(60); /* a deadlock ends the child */
    void *p[500];
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 500; i++) {
            size_t size = (size_t)(i * 61 % 40000);
            if ((p[i] = numalloc(size)) == NULL) _exit(3);
            memset(p[i], 1, size);
        }
        for (int i = 0; i < 500; i++) numalloc_free(p[i]);
    }
    numalloc_purge();
}

static void a_child_of_a_threaded_process_allocates(void) {
    pthread_t thread[3];
    atomic_store(&stop, false);
    for (int i = 0; i < 3; i++) CHECK_EQUAL(pthread_create(&thread[i], NULL, churn, NULL), 0);
    int bad = 0;
    char text[4096] = "";
    for (int i = 0; i < 40 && bad == 0; i++) bad = check_child(in_child, text, sizeof text);
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++) pthread_join(thread[i], NULL);
    if (bad != 0) printf("child: code %d: %s\n", bad, text);
    CHECK_EQUAL(bad, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

enum { LENT = 100, LENT_BYTES = 208 };
static unsigned char *lent[LENT];
static void *lend(void *barrier) {
    for (int i = 0; i < LENT; i++) memset(lent[i] = numalloc(LENT_BYTES), 0xa5, LENT_BYTES);
    pthread_barrier_wait(barrier);
    pthread_barrier_wait(barrier); /* alive while the blocks are freed and used again */
    return NULL;
}

static uint64_t live_bytes(void) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    return stats.allocated_bytes;
}

/* Blocks of a neighbour on the same node are used by the thread that freed them, zeroed when that is asked for, and
 * go home with it. */
static void freed_blocks_of_a_neighbour_are_cached(void) {
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, lend, &barrier), 0);
    pthread_barrier_wait(&barrier);
    numalloc_free(numalloc(LENT_BYTES)); /* the thread has a heap */
    uint64_t before = live_bytes();
    uint64_t usable = numalloc_usable_size(lent[0]);
    for (int i = 0; i < LENT; i++) numalloc_free(lent[i]);
    CHECK_EQUAL(numalloc_verify(), 0);
    /* Those beyond what may be cached wait in the thread's slots. */
    int known = (int)((before - live_bytes()) / usable), again = 0, dirty = 0;
    CHECK(known > 0);
    enum { MANY = 4000 };
    static unsigned char *mine[MANY];
    for (int i = 0; i < MANY; i++) {
        mine[i] = numalloc_calloc(1, LENT_BYTES);
        for (int k = 0; k < LENT; k++) again += mine[i] == lent[k];
        for (int k = 0; k < LENT_BYTES; k++) dirty += mine[i][k] != 0;
    }
    CHECK_EQUAL(dirty, 0);
    CHECK(numalloc_node_count() > 1 || again >= known); /* threads may run on two nodes */
    CHECK_EQUAL(numalloc_verify(), 0);
    for (int i = 0; i < MANY; i++) numalloc_free(mine[i]);
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    (void)numalloc_purge();
    CHECK_EQUAL(numalloc_verify(), 0);
    pthread_barrier_destroy(&barrier);
}

/* The fast path asks on which CPU it is, and the slow path asks again: a thread may have left and come back between. */
static void a_way_to_and_fro_loses_no_block(void) {
    enum { ROUNDS = 100 };
    void *block[ROUNDS];
    numalloc_free(numalloc(700));
    uint64_t before = live_bytes();
    for (int i = 0; i < ROUNDS; i++) CHECK((block[i] = na_alloc_slow(700)) != NULL);
    for (int i = 0; i < ROUNDS; i++) numalloc_free(block[i]);
    (void)numalloc_purge();
    CHECK_EQUAL(live_bytes(), before);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void child_frees_parents_blocks_body(void) {
    for (int i = 0; i < 100; i++) numalloc_free(blocks[i]);
    if (numalloc_verify() != 0) _exit(4);
}

static void a_child_frees_its_parents_blocks(void) {
    for (int i = 0; i < 100; i++) blocks[i] = numalloc((size_t)(i * 5000));
    char text[4096];
    int code = check_child(child_frees_parents_blocks_body, text, sizeof text);
    if (code != 0) printf("child: code %d: %s\n", code, text);
    CHECK_EQUAL(code, 0);
    for (int i = 0; i < 100; i++) numalloc_free(blocks[i]);
}

static const check_case cases[] = {
    {"remote_frees_come_home", remote_frees_come_home},
    {"producer_and_consumer_stay_flat", producer_and_consumer_stay_flat},
    {"short_threads_leave_nothing", short_threads_leave_nothing},
    {"abandoned_memory_is_adopted", abandoned_memory_is_adopted},
    {"abandoned_memory_is_stolen_by_the_living", abandoned_memory_is_stolen_by_the_living},
    {"freed_blocks_of_a_neighbour_are_cached", freed_blocks_of_a_neighbour_are_cached},
    {"a_way_to_and_fro_loses_no_block", a_way_to_and_fro_loses_no_block},
    {"destructors_may_allocate", destructors_may_allocate},
    {"a_child_of_a_threaded_process_allocates", a_child_of_a_threaded_process_allocates},
    {"a_child_frees_its_parents_blocks", a_child_frees_its_parents_blocks},
};
CHECK_MAIN(cases)
