/* SPDX-License-Identifier: BSD-3-Clause */
/* abandoned.c, cache.c: what is kept for the next use serves it, and gives way: after the purge delay, to a purge, at a limit,
 * when its thread ends, in a child of fork. Each case is a process of its own. Each fails when the feature it is about is
 * taken out. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "check.h"
#include "heap/heap.h"
#include "large/large.h"
#include "space/space.h"

enum { KIB = 1 << 10, MIB = 1 << 20 };

static numalloc_stats_t total(void) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    return stats;
}

static void sleep_ms(long ms) {
    struct timespec nap = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&nap, &nap) != 0) {}
}

static void run(void *(*body)(void *), void *argument) {
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, body, argument), 0);
    pthread_join(thread, NULL);
}

/* ---- heaps whose threads ended ---------------------------------------------------------------------------------- */

enum { BLOCKS = 8192 };
static void *block[BLOCKS];

/* Takes `bytes` in small blocks and frees them. */
static void *small_work(void *bytes) {
    size_t count = *(size_t *)bytes / 1024;
    for (size_t i = 0; i < count; i++) block[i] = memset(numalloc(1000), 1, 1000);
    for (size_t i = 0; i < count; i++) numalloc_free(block[i]);
    return NULL;
}

static void a_successor_goes_on_body(void) {
    size_t bytes = 300 * KIB;
    run(small_work, &bytes);
    numalloc_stats_t first = total();
    void *last = block[0];
    CHECK(first.pages != 0);
    CHECK_EQUAL(first.allocated_bytes, 0);
    CHECK_EQUAL(first.abandoned_heaps, 1);
    CHECK_EQUAL(numalloc_verify(), 0);
    for (int i = 0; i < 10; i++) {
        run(small_work, &bytes);
        CHECK_EQUAL(total().pages, first.pages); /* none was made anew */
        CHECK_EQUAL(total().abandoned_heaps, 1);
    }
    int again = 0;
    for (size_t i = 0; i < bytes / 1024; i++) again += block[i] == last;
    CHECK_EQUAL(again, 1);
    CHECK(numalloc_purge() > 0);
    CHECK_EQUAL(total().pages, 0);
    CHECK_EQUAL(total().abandoned_heaps, 0);
    CHECK_EQUAL(total().committed_bytes >> 20, 0); /* the heap itself */
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* A living thread takes over what rests, caches and idle pages too, before it makes pages. */
static void the_living_take_over_body(void) {
    size_t bytes = 3 * MIB;
    numalloc_free(numalloc(1000));
    uint64_t before = total().pages;
    run(small_work, &bytes);
    uint64_t rests = total().pages;
    CHECK(rests > before + 30);
    size_t count = 3 * MIB / 1024;
    for (size_t i = 0; i < count; i++) CHECK((block[i] = numalloc(1000)) != NULL);
    CHECK_EQUAL(total().abandoned_heaps, 0);
    CHECK(total().pages <= rests + 2);
    for (size_t i = 0; i < count; i++) numalloc_free(block[i]);
    CHECK_EQUAL(numalloc_verify(), 0);
    CHECK_EQUAL(total().allocated_bytes, 0);
    CHECK_EQUAL(total().allocations, total().frees);
}

/* NUMALLOC_PURGE_DELAY=200 */
static void what_rests_returns_body(void) {
    size_t bytes = 3 * MIB;
    run(small_work, &bytes);
    CHECK(total().committed_bytes >= 3 * MIB);
    for (int i = 0; i < 200 && total().committed_bytes >= MIB; i++) sleep_ms(100); /* at once, but on a busy machine */
    CHECK(total().committed_bytes < MIB);
    CHECK_EQUAL(total().abandoned_heaps, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* NUMALLOC_PURGE_DELAY=200 NUMALLOC_PURGER=0 */
static void what_rests_returns_in_passing_body(void) {
    size_t bytes = 3 * MIB;
    numalloc_free(numalloc(1000)); /* this thread has a heap and needs no other */
    run(small_work, &bytes);
    sleep_ms(300);
    CHECK_EQUAL(total().abandoned_heaps, 1);
    CHECK(total().pages >= 40);
    numalloc_free(numalloc(100 * KIB));
    CHECK_EQUAL(total().abandoned_heaps, 0);
    CHECK_EQUAL(total().pages, 1);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* Blocks of 1 MiB until there are no more. */
static int fill(void *big[], int most) {
    int count = 0;
    while (count < most && (big[count] = numalloc(MIB)) != NULL) count++;
    if (count < most) CHECK_EQUAL(errno, ENOMEM);
    return count;
}

/* NUMALLOC_NODE_LIMIT=16M */
static void what_rests_gives_way_body(void) {
    CHECK_EQUAL(numalloc_node_count(), 1);
    size_t bytes = 3 * MIB;
    void *big[32];
    numalloc_free(numalloc(1000)); /* this thread has a heap and needs no other */
    run(small_work, &bytes);
    int count = fill(big, 32);
    CHECK(count >= 15 && count <= 16);
    CHECK(total().pages <= 1);
    for (int i = 0; i < count; i++) numalloc_free(big[i]);
    /* What the caller's own heap has does so, too. */
    (void)small_work(&bytes);
    CHECK(total().pages >= 40);
    count = fill(big, 32);
    CHECK(count >= 15 && count <= 16);
    for (int i = 0; i < count; i++) numalloc_free(big[i]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- freed large blocks ---------------------------------------------------------------------------------- */

static uint64_t cached_bytes(void) { return na_span_cache_count(na_region_node(0, false)).bytes; }

static void a_kept_block_serves_body(void) {
    void *p = numalloc(100 * KIB);
    memset(p, 7, 100 * KIB);
    numalloc_stats_t live = total();
    numalloc_free(p);
    numalloc_stats_t after = total();
    CHECK_EQUAL(cached_bytes(), 128 * KIB);
    CHECK_EQUAL(after.committed_bytes, live.committed_bytes);
    CHECK_EQUAL(after.cached_bytes, live.cached_bytes + 128 * KIB);
    CHECK_EQUAL(after.large_blocks, live.large_blocks - 1);
    CHECK_EQUAL(after.large_bytes, live.large_bytes - 128 * KIB);
    CHECK_EQUAL(after.allocated_bytes, live.allocated_bytes - 128 * KIB);
    CHECK_EQUAL(numalloc_verify(), 0);
    CHECK_EQUAL(numalloc_usable_size(p), 0);
    CHECK_EQUAL(numalloc_node_of(p), NUMALLOC_NODE_FOREIGN);
    CHECK(numalloc(128 * KIB) == p);
    CHECK_EQUAL(total().large_blocks, live.large_blocks);
    CHECK_EQUAL(total().allocated_bytes, live.allocated_bytes);
    CHECK_EQUAL(total().allocations, live.allocations + 1);
    CHECK_EQUAL(cached_bytes(), 0);
    numalloc_free(p);
    unsigned char *zero = numalloc_calloc(1, 128 * KIB);
    CHECK(zero == p);
    for (int i = 0; i < 128 * KIB; i++) CHECK_EQUAL(zero[i], 0);
    numalloc_free(p);
    /* One that is an eighth longer will do, a longer one will not; nor is one kept that is not of this kind. */
    p = numalloc(16 * 64 * KIB);
    numalloc_free(p);
    void *shorter = numalloc(13 * 64 * KIB), *fits = numalloc(15 * 64 * KIB);
    CHECK(shorter != p && fits == p);
    CHECK_EQUAL(numalloc_usable_size(p), 16 * 64 * KIB);
    numalloc_free(shorter);
    numalloc_free(fits);
    uint64_t before = cached_bytes();
    p = numalloc(3 * MIB);
    numalloc_free(p);
    p = numalloc_realloc(numalloc(300 * KIB), 500 * KIB); /* a block that grew will grow again */
    numalloc_free(p);
    CHECK_EQUAL(cached_bytes(), before);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void what_is_kept_is_bounded_body(void) {
    void *many[200];
    for (int i = 0; i < 200; i++) CHECK((many[i] = numalloc((size_t)(70 + i % 7 * 100) * KIB)) != NULL);
    for (int i = 0; i < 200; i++) {
        numalloc_free(many[i]);
        CHECK(cached_bytes() <= 2 * MIB);
        CHECK_EQUAL(numalloc_verify(), 0);
    }
    CHECK(cached_bytes() >= MIB);
    CHECK(numalloc_purge() > 0);
    CHECK_EQUAL(cached_bytes(), 0);
    CHECK_EQUAL(total().cached_bytes, 0);
}

/* A block of one slice is had for its alignment, and none that is kept is asked for one. */
static void what_never_serves_is_not_kept_body(void) {
    for (int i = 0; i < 20; i++) numalloc_free(numalloc_aligned(128 * KIB, 1000));
    CHECK_EQUAL(cached_bytes(), 0);
    numalloc_free(numalloc_aligned(128 * KIB, 100 * KIB)); /* serves any that is as long */
    CHECK_EQUAL(cached_bytes(), 128 * KIB);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void free_twice(void) {
    void *p = numalloc(100 * KIB);
    numalloc_free(p);
    numalloc_free(p);
}
static void a_second_free_is_noticed_body(void) {
    char text[4096];
    CHECK_EQUAL(check_child(free_twice, text, sizeof text), 256 + SIGABRT);
    CHECK(strstr(text, "is not allocated (freed before?)") != NULL);
}

/* Blocks of 100 KiB and 1 MiB, taken and freed. */
static void *large_work(void *unused) {
    (void)unused;
    void *p[10];
    for (int i = 0; i < 9; i++) p[i] = memset(numalloc(100 * KIB), 1, 100 * KIB);
    p[9] = memset(numalloc(MIB - 100), 1, MIB - 100);
    for (int i = 0; i < 10; i++) numalloc_free(p[i]);
    return NULL;
}

/* NUMALLOC_PURGE_DELAY=200 */
static void what_is_kept_returns_body(void) {
    (void)large_work(NULL);
    CHECK(cached_bytes() >= MIB);
    for (int i = 0; i < 200 && total().committed_bytes >= MIB; i++) sleep_ms(100);
    CHECK_EQUAL(cached_bytes(), 0);
    CHECK(total().committed_bytes < MIB);
    numalloc_free(numalloc(100 * KIB));
    CHECK(cached_bytes() != 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* NUMALLOC_PURGE_DELAY=200 NUMALLOC_PURGER=0 */
static void what_is_kept_returns_in_passing_body(void) {
    (void)large_work(NULL);
    sleep_ms(300);
    CHECK(cached_bytes() >= MIB);
    numalloc_free(numalloc(3 * MIB));
    CHECK_EQUAL(cached_bytes(), 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static pthread_barrier_t barrier;
static void *keeps_while_others_work(void *unused) {
    (void)large_work(unused);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return large_work(unused);
}

/* NUMALLOC_NODE_LIMIT=16M */
static void what_is_kept_gives_way_body(void) {
    pthread_t thread;
    void *big[32];
    pthread_barrier_init(&barrier, NULL, 2);
    CHECK_EQUAL(pthread_create(&thread, NULL, keeps_while_others_work, NULL), 0);
    pthread_barrier_wait(&barrier);
    CHECK(cached_bytes() >= MIB);
    int count = fill(big, 32);
    CHECK(count >= 15 && count <= 16);
    CHECK_EQUAL(cached_bytes(), 0);
    for (int i = 0; i < count; i++) numalloc_free(big[i]);
    CHECK_EQUAL(numalloc_verify(), 0);
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* A strict block that grows in place needs the room that cached ones have. */
static void strict_blocks_grow_at_the_limit_body(void) {
    numalloc_request_t request = {.size = 3 * MIB, .policy = NUMALLOC_LOCAL, .flags = NUMALLOC_STRICT};
    void *strict = numalloc_request(&request);
    if (strict == NULL && errno == EPERM) return; /* no placement here: nothing strict, either */
    CHECK(strict != NULL);
    void *first = numalloc(MIB), *second = numalloc(MIB);
    numalloc_free(first);
    numalloc_free(second);
    CHECK(cached_bytes() >= 2 * MIB);
    strict = numalloc_realloc(strict, 13 * MIB);
    CHECK(strict != NULL);
    CHECK_EQUAL(cached_bytes(), 0);
    numalloc_free(strict);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* Blocks that are taken and kept while somebody counts, with many heaps to look at in between. */
enum { LOOKERS_ON = 60 };
static _Atomic(bool) counted;
static void *look_on(void *unused) {
    numalloc_free(numalloc(64));
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return unused;
}
static void *take_and_keep(void *unused) {
    numalloc_free(numalloc(128 * KIB));
    pthread_barrier_wait(&barrier);
    while (!atomic_load(&counted)) numalloc_free(numalloc(128 * KIB));
    pthread_barrier_wait(&barrier);
    return unused;
}
static void counts_are_not_negative_body(void) {
    pthread_t thread[LOOKERS_ON + 2];
    pthread_barrier_init(&barrier, NULL, LOOKERS_ON + 3);
    for (int i = 0; i < LOOKERS_ON + 2; i++) {
        bool works = i == 0 || i == LOOKERS_ON + 1;
        CHECK_EQUAL(pthread_create(&thread[i], NULL, works ? take_and_keep : look_on, NULL), 0);
    }
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 30000; i++) CHECK((int64_t)total().large_blocks >= 0);
    atomic_store(&counted, true);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < LOOKERS_ON + 2; i++) pthread_join(thread[i], NULL);
}

static void a_purge_takes_it_from_all_body(void) {
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    CHECK_EQUAL(pthread_create(&thread, NULL, keeps_while_others_work, NULL), 0);
    pthread_barrier_wait(&barrier);
    CHECK(cached_bytes() >= MIB);
    CHECK(numalloc_purge() >= MIB);
    CHECK_EQUAL(cached_bytes(), 0);
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    CHECK(cached_bytes() >= MIB);
    CHECK_EQUAL(total().allocated_bytes, 0);
    CHECK_EQUAL(total().allocations, total().frees);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void *take_one(void *out) {
    *(void **)out = numalloc(700 * KIB);
    numalloc_free(*(void **)out);
    return NULL;
}

static void a_successor_has_the_kept_body(void) {
    void *first, *second;
    run(take_one, &first);
    run(take_one, &second);
    CHECK(first == second);
    CHECK_EQUAL(cached_bytes(), 704 * KIB);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void in_child(void) {
    CHECK(cached_bytes() >= MIB);
    (void)large_work(NULL);
    CHECK_EQUAL(numalloc_verify(), 0);
    (void)numalloc_purge();
    CHECK_EQUAL(cached_bytes(), 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void a_child_has_it_body(void) {
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    (void)large_work(NULL);
    CHECK_EQUAL(pthread_create(&thread, NULL, keeps_while_others_work, NULL), 0);
    pthread_barrier_wait(&barrier);
    CHECK_EQUAL(check_child(in_child, NULL, 0), 0);
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* What a thread without a record was giving back, as the purger does, when its process forked. */
static atomic_bool giving_back;

static void *gives_back(void *unused) {
    while (atomic_load(&giving_back))
        for (int i = 0; i < na_region_count; i++) {
            if (!atomic_load(&na_regions[i].opened)) continue;
            na_span_cache_release(&na_regions[i], NA_NO_TIME, UINT64_MAX);
            na_abandoned_reclaim(&na_regions[i]);
        }
    return unused;
}

static uint64_t heaps_bytes;

static void child_of_one_that_gives_back(void) {
    alarm(60);
    CHECK_EQUAL(numalloc_verify(), 0);
    (void)numalloc_purge();
    CHECK_EQUAL(numalloc_verify(), 0);
    CHECK_EQUAL(cached_bytes(), 0);
    numalloc_stats_t stats = total();
    CHECK(stats.pages <= 8); /* of one class, whose cached blocks were on their way just then */
    CHECK(stats.committed_bytes <= heaps_bytes + stats.pages * NA_SLICE);
}

static void a_child_has_what_was_given_back_body(void) {
    pthread_t thread;
    size_t bytes = 32 * KIB;
    run(small_work, &bytes);
    (void)large_work(NULL);
    (void)numalloc_purge();
    heaps_bytes = total().committed_bytes;
    atomic_store(&giving_back, true);
    CHECK_EQUAL(pthread_create(&thread, NULL, gives_back, NULL), 0);
    int bad = 0;
    for (int round = 0; round < 300 && bad == 0; round++) {
        run(small_work, &bytes);
        for (int i = 0; i < 8; i++) block[i] = numalloc(100 * KIB);
        for (int i = 0; i < 8; i++) numalloc_free(block[i]);
        char text[4096] = "";
        bad = check_child(child_of_one_that_gives_back, text, sizeof text);
        if (bad != 0) printf("round %d: %s\n", round, text);
    }
    atomic_store(&giving_back, false);
    pthread_join(thread, NULL);
    CHECK_EQUAL(bad, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* Any thread frees any other's, while one forks, purges and asks. */
enum { SHARED = 64, EXCHANGES = 20000, TRADERS = 3 };
static _Atomic(size_t *) shared[SHARED];
static atomic_int trading, damaged;

static void *trade(void *number) {
    uint64_t random = 1 + *(uint64_t *)number;
    for (int i = 0; i < EXCHANGES; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        size_t size = (size_t)(65 + (random >> 33) % ((random >> 20) % 16 == 0 ? 2000 : 300)) * KIB;
        bool zero = (random >> 50) % 8 == 0;
        size_t *p = zero ? numalloc_calloc(1, size) : numalloc(size);
        if (p == NULL || (zero && (p[0] != 0 || p[size / 16] != 0 || p[size / 8 - 1] != 0))) {
            atomic_fetch_add(&damaged, 1);
            break;
        }
        p[0] = size;
        p[size / 8 - 1] = (size_t)(uintptr_t)p;
        p = atomic_exchange(&shared[(random >> 40) % SHARED], p);
        if (p == NULL) continue;
        if (p[p[0] / 8 - 1] != (size_t)(uintptr_t)p) atomic_fetch_add(&damaged, 1);
        numalloc_free(p);
    }
    atomic_fetch_sub(&trading, 1);
    return NULL;
}

static void child_of_traders(void) {
    (void)large_work(NULL);
    (void)numalloc_purge();
    (void)large_work(NULL);
}

static void traded_by_threads_body(void) {
    pthread_t thread[TRADERS];
    uint64_t number[TRADERS];
    atomic_store(&trading, TRADERS);
    for (uint64_t i = 0; i < TRADERS; i++) {
        number[i] = i;
        CHECK_EQUAL(pthread_create(&thread[i], NULL, trade, &number[i]), 0);
    }
    for (int i = 0; atomic_load(&trading) > 0; i++) {
        (void)numalloc_purge();
        (void)total();
        if (i % 16 == 0) CHECK_EQUAL(check_child(child_of_traders, NULL, 0), 0);
    }
    for (int i = 0; i < TRADERS; i++) pthread_join(thread[i], NULL);
    CHECK_EQUAL(damaged, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
    for (int i = 0; i < SHARED; i++) numalloc_free(atomic_exchange(&shared[i], NULL));
    CHECK_EQUAL(numalloc_verify(), 0);
    CHECK_EQUAL(total().allocated_bytes, 0);
    CHECK_EQUAL(total().large_blocks, 0);
    CHECK_EQUAL(total().allocations, total().frees);
    (void)numalloc_purge();
    CHECK_EQUAL(total().cached_bytes, 0);
}

/* Pages of a range that are there. */
static size_t present(void *start, size_t bytes) {
    unsigned char page[512];
    size_t count = 0, size = os_page_size();
    uintptr_t from = (uintptr_t)start & ~(size - 1), end = na_round_up((uintptr_t)start + bytes, size);
    CHECK((end - from) / size <= sizeof page);
    CHECK_EQUAL(mincore((void *)from, end - from, page), 0);
    for (size_t i = 0; i < (end - from) / size; i++) count += page[i] & 1;
    return count;
}

/* Zeroed blocks are touched up to 128 KiB; longer ones cost nothing before they are used. */
static void zeroed_blocks_are_touched_body(void) {
    static const size_t sizes[] = {20000, 60000, 64 * KIB, 100 * KIB, 128 * KIB};
    numalloc_free(numalloc(1));
    for (int i = 0; i < 5; i++) {
        unsigned char *p = numalloc_calloc(1, sizes[i]);
        for (size_t k = 0; k < sizes[i]; k += 509) CHECK_EQUAL(p[k], 0);
        p = numalloc_calloc(1, sizes[i]);
        CHECK(present(p, sizes[i]) >= sizes[i] / os_page_size());
    }
    CHECK_EQUAL(present(numalloc_calloc(1, MIB), MIB), 0);
}

/* ---- starting --------------------------------------------------------------------------------------------------------------- */

static const struct check_case bodies[] = {
    {"a_successor_goes_on", a_successor_goes_on_body},
    {"the_living_take_over", the_living_take_over_body},
    {"what_rests_returns", what_rests_returns_body},
    {"what_rests_returns_in_passing", what_rests_returns_in_passing_body},
    {"what_rests_gives_way", what_rests_gives_way_body},
    {"a_kept_block_serves", a_kept_block_serves_body},
    {"what_is_kept_is_bounded", what_is_kept_is_bounded_body},
    {"what_never_serves_is_not_kept", what_never_serves_is_not_kept_body},
    {"a_second_free_is_noticed", a_second_free_is_noticed_body},
    {"what_is_kept_returns", what_is_kept_returns_body},
    {"what_is_kept_returns_in_passing", what_is_kept_returns_in_passing_body},
    {"what_is_kept_gives_way", what_is_kept_gives_way_body},
    {"strict_blocks_grow_at_the_limit", strict_blocks_grow_at_the_limit_body},
    {"counts_are_not_negative", counts_are_not_negative_body},
    {"a_purge_takes_it_from_all", a_purge_takes_it_from_all_body},
    {"a_successor_has_the_kept", a_successor_has_the_kept_body},
    {"a_child_has_it", a_child_has_it_body},
    {"a_child_has_what_was_given_back", a_child_has_what_was_given_back_body},
    {"traded_by_threads", traded_by_threads_body},
    {"zeroed_blocks_are_touched", zeroed_blocks_are_touched_body},
};

static void a_successor_goes_on(void) { check_start("", "a_successor_goes_on"); }
static void the_living_take_over(void) { check_start("", "the_living_take_over"); }
static void what_rests_returns(void) {
    check_start("NUMALLOC_PURGE_DELAY=200 NUMALLOC_PURGER=1", "what_rests_returns");
}
static void what_rests_returns_in_passing(void) {
    check_start("NUMALLOC_PURGE_DELAY=200 NUMALLOC_PURGER=0", "what_rests_returns_in_passing");
}
static void what_rests_gives_way(void) { check_start("NUMALLOC_NODE_LIMIT=16M", "what_rests_gives_way"); }

static void a_kept_block_serves(void) { check_start("", "a_kept_block_serves"); }
static void what_is_kept_is_bounded(void) { check_start("", "what_is_kept_is_bounded"); }
static void what_never_serves_is_not_kept(void) { check_start("", "what_never_serves_is_not_kept"); }
static void a_second_free_is_noticed(void) { check_start("", "a_second_free_is_noticed"); }
static void what_is_kept_returns(void) {
    check_start("NUMALLOC_PURGE_DELAY=200 NUMALLOC_PURGER=1", "what_is_kept_returns");
}
static void what_is_kept_returns_in_passing(void) {
    check_start("NUMALLOC_PURGE_DELAY=200 NUMALLOC_PURGER=0", "what_is_kept_returns_in_passing");
}
static void what_is_kept_gives_way(void) { check_start("NUMALLOC_NODE_LIMIT=16M", "what_is_kept_gives_way"); }
static void strict_blocks_grow_at_the_limit(void) {
    check_start("NUMALLOC_NODE_LIMIT=14M", "strict_blocks_grow_at_the_limit");
}
static void counts_are_not_negative(void) { check_start("", "counts_are_not_negative"); }
static void a_purge_takes_it_from_all(void) { check_start("", "a_purge_takes_it_from_all"); }
static void a_successor_has_the_kept(void) { check_start("", "a_successor_has_the_kept"); }
static void a_child_has_it(void) { check_start("", "a_child_has_it"); }
static void a_child_has_what_was_given_back(void) { check_start("", "a_child_has_what_was_given_back"); }
static void traded_by_threads(void) { check_start("", "traded_by_threads"); }
static void zeroed_blocks_are_touched(void) { check_start("", "zeroed_blocks_are_touched"); }

/* Bytes that were ever made blocks of a size in the pages there are. */
static size_t carved_bytes(unsigned class_index) {
    const na_region *region = na_region_node(0, false);
    size_t bytes = 0;
    for (uint32_t i = 0; i < region->span_count; i++) {
        const na_span *page = na_descriptor_at(region, i);
        if (page->kind == NA_PAGE && page->slices != 0 && page->class_index == class_index)
            bytes += (size_t)page->carved * page->block_size;
    }
    return bytes;
}

/* Who fills and empties a heap by turns has as much memory as the most that was in use. */
static void retired_pages_are_used_before_new_blocks(void) {
    enum { SIZE = 256, BLOCKS = 900 }; /* three pages and a half */
    static void *block[BLOCKS];
    size_t first = 0;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < BLOCKS; i++) CHECK((block[i] = numalloc(SIZE)) != NULL);
        for (int i = 0; i < BLOCKS; i++) numalloc_free(block[round % 2 == 0 ? i : BLOCKS - 1 - i]);
        if (round == 0) first = carved_bytes(size_to_class(SIZE));
    }
    CHECK_EQUAL(numalloc_verify(), 0);
    CHECK_EQUAL(carved_bytes(size_to_class(SIZE)), first);
}

static const check_case cases[] = {
    {"a_successor_goes_on", a_successor_goes_on},
    {"the_living_take_over", the_living_take_over},
    {"what_rests_returns", what_rests_returns},
    {"what_rests_returns_in_passing", what_rests_returns_in_passing},
    {"what_rests_gives_way", what_rests_gives_way},
    {"a_kept_block_serves", a_kept_block_serves},
    {"what_is_kept_is_bounded", what_is_kept_is_bounded},
    {"what_never_serves_is_not_kept", what_never_serves_is_not_kept},
    {"a_second_free_is_noticed", a_second_free_is_noticed},
    {"what_is_kept_returns", what_is_kept_returns},
    {"what_is_kept_returns_in_passing", what_is_kept_returns_in_passing},
    {"what_is_kept_gives_way", what_is_kept_gives_way},
    {"strict_blocks_grow_at_the_limit", strict_blocks_grow_at_the_limit},
    {"counts_are_not_negative", counts_are_not_negative},
    {"a_purge_takes_it_from_all", a_purge_takes_it_from_all},
    {"a_successor_has_the_kept", a_successor_has_the_kept},
    {"a_child_has_it", a_child_has_it},
    {"a_child_has_what_was_given_back", a_child_has_what_was_given_back},
    {"traded_by_threads", traded_by_threads},
    {"zeroed_blocks_are_touched", zeroed_blocks_are_touched},
    {"retired_pages_are_used_before_new_blocks", retired_pages_are_used_before_new_blocks},
};

CHECK_MAIN_OF_BODIES(cases, bodies)
