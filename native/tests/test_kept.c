/* SPDX-License-Identifier: BSD-3-Clause */
/* ended.c, kept.c: what is kept for the next use serves it, and gives way: after the purge delay, to a purge, at a limit,
 * when its thread ends, in a child of fork. Each case is a process of its own. Each fails when the feature it is about is
 * taken out. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "internal.h"

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
    run(small_work, &bytes);
    int count = fill(big, 32);
    CHECK(count >= 15 && count <= 16);
    CHECK_EQUAL(total().pages, 0);
    for (int i = 0; i < count; i++) numalloc_free(big[i]);
    /* What the caller's own heap has does so, too. */
    (void)small_work(&bytes);
    CHECK(total().pages >= 40);
    count = fill(big, 32);
    CHECK(count >= 15 && count <= 16);
    for (int i = 0; i < count; i++) numalloc_free(big[i]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- starting --------------------------------------------------------------------------------------------------------------- */

static const struct check_case bodies[] = {
    {"a_successor_goes_on", a_successor_goes_on_body},
    {"the_living_take_over", the_living_take_over_body},
    {"what_rests_returns", what_rests_returns_body},
    {"what_rests_returns_in_passing", what_rests_returns_in_passing_body},
    {"what_rests_gives_way", what_rests_gives_way_body},
};

static void start(const char *environment, const char *body) {
    char command[512];
    snprintf(command, sizeof command, "%s \"$CHECK_SELF\" --body %s", environment, body);
    fflush(stdout);
    CHECK_EQUAL(system(command), 0);
}

static void a_successor_goes_on(void) { start("", "a_successor_goes_on"); }
static void the_living_take_over(void) { start("", "the_living_take_over"); }
static void what_rests_returns(void) { start("NUMALLOC_PURGE_DELAY=200", "what_rests_returns"); }
static void what_rests_returns_in_passing(void) {
    start("NUMALLOC_PURGE_DELAY=200 NUMALLOC_PURGER=0", "what_rests_returns_in_passing");
}
static void what_rests_gives_way(void) { start("NUMALLOC_NODE_LIMIT=16M", "what_rests_gives_way"); }

static const check_case cases[] = {
    {"a_successor_goes_on", a_successor_goes_on},   {"the_living_take_over", the_living_take_over},
    {"what_rests_returns", what_rests_returns},     {"what_rests_returns_in_passing", what_rests_returns_in_passing},
    {"what_rests_gives_way", what_rests_gives_way},
};

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--body") == 0)
        return check_main(bodies, sizeof bodies / sizeof bodies[0], argc - 1, argv + 1);
    setenv("CHECK_SELF", argv[0], 1);
    return check_main(cases, sizeof cases / sizeof cases[0], argc, argv);
}
