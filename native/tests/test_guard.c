/* SPDX-License-Identifier: BSD-3-Clause */
/* guard.c: each misuse is named, with call, size and, where stacks are recorded, where the block came from; correct
 * programs see nothing but their own bytes. Children run the faults. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>

#include "heap/hooks.h"
#include "modes.h"
#include "os/topology.h"

enum { ABORTED = 256 + SIGABRT, FAULTED = 256 + SIGSEGV };

/* Hides from the compiler how long a block is and what is done to it. */
static void *known(void *p) {
    __asm__ volatile("" : "+r"(p));
    return p;
}
static void write_at(void *block, ptrdiff_t offset, char value) { ((volatile char *)known(block))[offset] = value; }
static char read_at(const void *block, ptrdiff_t offset) {
    return ((volatile char *)known((void *)(uintptr_t)block))[offset];
}

NAMED void *made_here(size_t size) {
    void *p = numalloc(size);
    __asm__ volatile("" : "+r"(p));
    return p;
}
NAMED void freed_here(void *p) {
    numalloc_free(p);
    __asm__ volatile("");
}

/* ---- bodies: misuse ------------------------------------------------------------------------------------- */

static void past_the_end(void) {
    char *p = made_here(100);
    write_at(p, 100, 0);
    freed_here(p);
}
static void past_the_end_of_large(void) {
    char *p = numalloc(1000000);
    write_at(p, 1000003, 'x');
    numalloc_free(p);
}
static void past_the_end_of_nothing(void) {
    char *p = numalloc(0);
    write_at(p, 0, 1);
    numalloc_free(p);
}
static void past_the_end_of_calloc(void) {
    char *p = numalloc_calloc(3, 5);
    write_at(p, 15, 1);
    numalloc_free(p);
}
static void before_the_start(void) {
    char *p = numalloc(50);
    write_at(p, -1, 0);
    numalloc_free(p);
}
static void realloc_sees_it(void) {
    char *p = numalloc(50);
    write_at(p, 50, 0);
    p = numalloc_realloc(p, 60);
}
static void after_free(void) {
    char *p = made_here(200);
    freed_here(p);
    write_at(p, 17, 5);
    numalloc_purge(); /* empties the quarantine */
}
static void after_free_until_evicted(void) {
    char *p = numalloc(200);
    numalloc_free(p);
    write_at(p, 199, 5);
    for (int i = 0; i < 1000; i++) numalloc_free(known(numalloc(200)));
}
static void after_free_until_exit(void) {
    char *p = numalloc(200);
    numalloc_free(p);
    write_at(p, 0, 5);
}
static void live_and_damaged_at_exit(void) { write_at(numalloc(40), 41, 0); }
static void twice(void) {
    void *p = known(made_here(300));
    freed_here(p);
    freed_here(known(p));
}
static void twice_large(void) {
    void *p = known(numalloc(300000));
    numalloc_free(p);
    numalloc_free(known(p));
}
static void inside(void) { numalloc_free((char *)known(numalloc(64)) + 24); }
static void realloc_inside(void) {
    void *p = numalloc_realloc((char *)known(numalloc(64)) + 16, 100);
    (void)p;
}
static void realloc_after_free(void) {
    void *p = known(numalloc(64));
    numalloc_free(p);
    p = numalloc_realloc(known(p), 100);
}
static void foreign(void) {
    int local = 0;
    numalloc_free(known(&local));
}
static void *frees(void *p) {
    numalloc_free(p);
    return NULL;
}
static void twice_across_threads(void) {
    void *p = known(numalloc(100));
    pthread_t thread;
    pthread_create(&thread, NULL, frees, p);
    pthread_join(thread, NULL);
    numalloc_free(known(p));
}

/* Warned, a program goes on, and hears of each damage once. */
static void warned(void) {
    char *p = numalloc(100), *q = numalloc(100);
    write_at(p, 100, 0);
    CHECK_EQUAL(numalloc_verify(), EINVAL);
    CHECK_EQUAL(numalloc_verify(), 0);
    numalloc_free(p);
    numalloc_free(known(p));
    write_at(q, -3, 0);
    numalloc_free(q);
    numalloc_purge();
    CHECK_EQUAL(numalloc_verify(), 0);
    CHECK(known(numalloc(100)) != NULL);
}

static void reads_behind(void) {
    const char *p = numalloc(8192);
    (void)read_at(p, 8191);
    (void)read_at(p, 8192);
}
static void reads_behind_odd(void) {
    const char *p = numalloc(5001);
    (void)read_at(p, 5001 + 16);
}
static void reads_behind_small(void) { /* one of some small ones has a page */
    for (int i = 0; i < 64; i++) (void)read_at(numalloc(32), 32);
}
static void reads_after_free(void) {
    char *p = numalloc(10000);
    write_at(p, 0, 1);
    numalloc_free(p);
    (void)read_at(p, 0);
}

/* ---- bodies: correct programs ------------------------------------------------------------------------------ */

static void off(void) {
    CHECK(!na_hooked);
    CHECK_EQUAL(numalloc_usable_size(known(numalloc(100))), 112);
}

static void patterns(void) {
    unsigned char *p = numalloc(100);
    for (int i = 0; i < 100; i++) CHECK_EQUAL((unsigned char)read_at(p, i), 0xcd);
    numalloc_free(p);
    for (int i = 0; i < 100; i++) CHECK_EQUAL((unsigned char)read_at(p, i), 0xdf);
    for (int round = 0; round < 50; round++) {
        size_t size = (size_t)round * 700 + 1;
        unsigned char *zero = numalloc_calloc(1, size);
        for (size_t i = 0; i < size; i++) CHECK_EQUAL(zero[i], 0);
        memset(zero, 1, size);
        numalloc_free(zero);
        if (round % 10 == 9) numalloc_purge();
    }
}

static void whole(void *p, size_t size, size_t align) {
    CHECK(p != NULL && (uintptr_t)p % align == 0);
    CHECK_EQUAL(numalloc_usable_size(p), size);
    memset(p, 0x5a, size);
    numalloc_block_info_t info;
    CHECK_EQUAL(numalloc_block_info((char *)p + size / 2, &info), 0);
    CHECK(info.start == p && info.size == size);
    CHECK(numalloc_node_of(p) != NUMALLOC_NODE_FOREIGN);
    CHECK_EQUAL(numalloc_prefault(p, size), 0);
}

static void shapes(void) {
    static const size_t sizes[] = {0, 1, 15, 16, 17, 100, 1024, 4000, 4080, 4096, 5000, 65500, 65536, 70000, 1 << 21};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        for (size_t align = 16; align <= 1 << 21; align *= 2) {
            void *p = numalloc_aligned(align, sizes[s]);
            whole(p, sizes[s], align);
            numalloc_free(p);
        }
        for (int policy = NUMALLOC_LOCAL; policy <= NUMALLOC_BLOCKED; policy++) {
            numalloc_request_t request = {.size = sizes[s], .policy = policy, .node = na_topo.node_id[0]};
            void *p = numalloc_request(&request);
            whole(p, sizes[s], 16);
            p = numalloc_realloc(p, sizes[s] + 100);
            whole(p, sizes[s] + 100, 16);
            p = numalloc_realloc(p, sizes[s] / 2 + 1);
            for (size_t i = 0; i < sizes[s] / 2 + 1 && i < sizes[s]; i++) CHECK_EQUAL(read_at(p, (ptrdiff_t)i), 0x5a);
            numalloc_free(p);
            CHECK_EQUAL(numalloc_node_of(p), NUMALLOC_NODE_FOREIGN);
        }
    }
    CHECK_EQUAL(numalloc_verify(), 0);
    numalloc_request_t wrong = {.size = 5, .align = 24};
    CHECK(numalloc_request(&wrong) == NULL && errno == EINVAL);
    CHECK(numalloc_request(NULL) == NULL && errno == EINVAL);
    CHECK(numalloc(SIZE_MAX) == NULL && errno == ENOMEM);
}

static void bounded(void) {
    numalloc_stats_t before, after;
    for (int i = 0; i < 20000; i++) numalloc_free(known(numalloc(1000)));
    CHECK_EQUAL(numalloc_stats(-1, &before), 0);
    for (int i = 0; i < 50000; i++) numalloc_free(known(numalloc(1000)));
    CHECK_EQUAL(numalloc_stats(-1, &after), 0);
    CHECK(before.allocated_bytes > 900000 && before.allocated_bytes < 1200000);
    CHECK(after.committed_bytes < before.committed_bytes + (1 << 20));
    numalloc_purge();
    CHECK_EQUAL(numalloc_stats(-1, &after), 0);
    CHECK_EQUAL(after.allocated_bytes, 0);
}

static void *works(void *argument) {
    void **slots = argument;
    for (int i = 0; i < 20000; i++) {
        void **slot = &slots[i % 128];
        void *p = numalloc((size_t)(i % 3000));
        memset(p, 7, (size_t)(i % 3000));
        numalloc_free(__atomic_exchange_n(slot, p, __ATOMIC_ACQ_REL));
        if (i % 2500 == 0) numalloc_purge();
        if (i % 5000 == 0 && numalloc_leak_report(NULL, NULL) != 0) abort();
    }
    return NULL;
}

static void threads(void) {
    static void *slots[128];
    pthread_t thread[4];
    for (int t = 0; t < 4; t++) CHECK_EQUAL(pthread_create(&thread[t], NULL, works, slots), 0);
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            for (int k = 0; k < 1000; k++) numalloc_free(known(numalloc(500)));
            _exit(0);
        }
        int status;
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    for (int t = 0; t < 4; t++) pthread_join(thread[t], NULL);
    for (int i = 0; i < 128; i++) numalloc_free(slots[i]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void out_of_records(void) {
    static char *p[100000];
    for (int i = 0; i < 100000; i++) CHECK((p[i] = numalloc((size_t)(i % 300))) != NULL);
    for (int i = 0; i < 100000; i++) memset(p[i], 1, (size_t)(i % 300));
    for (int i = 0; i < 100000; i++) numalloc_free(p[i]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- cases ---------------------------------------------------------------------------------------------- */

static void is_named(const char *body, const char *call, const char *what) {
    RUN(ABORTED, body, "NUMALLOC_GUARD=1");
    SAID(call);
    SAID(what);
    SAID("; remedy: ");
}

static void writes_beyond_a_block_are_named(void) {
    is_named("past_the_end", "numalloc_free(0x", "is a block of 100 bytes that was written past its end, at byte 100");
    is_named("past_the_end_of_large", "numalloc_free(", "1000000 bytes that was written past its end, at byte 1000003");
    is_named("past_the_end_of_nothing", "numalloc_free(", "0 bytes that was written past its end, at byte 0");
    is_named("past_the_end_of_calloc", "numalloc_free(", "15 bytes that was written past its end, at byte 15");
    is_named("before_the_start", "numalloc_free(", "50 bytes that was written before its start, at byte -1");
    is_named("realloc_sees_it", "numalloc_realloc(", "50 bytes that was written past its end, at byte 50");
    is_named("live_and_damaged_at_exit", "exit(", "40 bytes that was written past its end, at byte 41");
}

static void writes_after_free_are_named(void) {
    is_named("after_free", "quarantine(", "200 bytes that was written after it was freed, at byte 17");
    is_named("after_free_until_exit", "exit(", "200 bytes that was written after it was freed, at byte 0");
    RUN(ABORTED, "after_free_until_evicted", "NUMALLOC_GUARD=1", "NUMALLOC_QUARANTINE=64K");
    SAID("200 bytes that was written after it was freed, at byte 199");
}

static void wrong_frees_are_named(void) {
    is_named("twice", "numalloc_free(", "is not allocated (freed before): a block of 300 bytes");
    is_named("twice_large", "numalloc_free(", "is not allocated (freed before): a block of 300000 bytes");
    is_named("twice_across_threads", "numalloc_free(", "is not allocated (freed before): a block of 100 bytes");
    is_named("inside", "numalloc_free(", "is not the start of a block, but 24 bytes from that of one of 64");
    is_named("realloc_inside", "numalloc_realloc(", "is not the start of a block, but 16 bytes from that of one of 64");
    is_named("realloc_after_free", "numalloc_realloc(", "is not allocated (freed before)");
    is_named("foreign", "numalloc_free(", "is not from this allocator");
}

static void stacks_are_shown_with_leaks(void) {
    RUN(ABORTED, "past_the_end", "NUMALLOC_GUARD=1", "NUMALLOC_LEAKS=/dev/null");
    SAID("allocated by thread ");
    SAID("made_here");
    RUN(ABORTED, "twice", "NUMALLOC_GUARD=1", "NUMALLOC_LEAKS=/dev/null");
    SAID("made_here");
    SAID("freed at");
    SAID("freed_here");
    RUN(ABORTED, "after_free", "NUMALLOC_GUARD=1", "NUMALLOC_LEAKS=/dev/null");
    SAID("made_here");
    SAID("freed_here");
    RUN(ABORTED, "past_the_end", "NUMALLOC_GUARD=1");
    SAID("NUMALLOC_LEAKS=stderr shows where");
}

static void a_warning_goes_on(void) {
    RUN(0, "warned", "NUMALLOC_GUARD=1", "NUMALLOC_ON_ERROR=warn");
    int messages = 0;
    for (const char *at = said; (at = strstr(at, "numalloc: ")) != NULL; at++) messages++;
    CHECK_EQUAL(messages, 3);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_FAULT(body) CHECK(run_watched(body, ENVIRONMENT("NUMALLOC_GUARD=2")) != 0 && strstr(said, "SEGV") != NULL)
#else
#define IS_FAULT(body) RUN(FAULTED, body, "NUMALLOC_GUARD=2")
#endif

static void pages_fault_at_once(void) {
    IS_FAULT("reads_behind");
    IS_FAULT("reads_behind_odd");
    IS_FAULT("reads_behind_small");
    IS_FAULT("reads_after_free");
    RUN(ABORTED, "twice_large", "NUMALLOC_GUARD=2");
    SAID("is not allocated (freed before): a block of 300000 bytes");
}

static void off_by_default(void) { RUN(0, "off", "NUMALLOC_VERBOSE=0"); }
static void patterns_are_seen(void) { RUN(0, "patterns", "NUMALLOC_GUARD=1"); }

static void every_shape_is_whole(void) {
    RUN(0, "shapes", "NUMALLOC_GUARD=1");
    CHECK(said[0] == '\0');
    RUN(0, "shapes", "NUMALLOC_GUARD=2");
    CHECK(said[0] == '\0');
    RUN(0, "shapes", "NUMALLOC_GUARD=1", "NUMALLOC_QUARANTINE=0");
}

static void the_quarantine_is_bounded(void) { RUN(0, "bounded", "NUMALLOC_GUARD=1", "NUMALLOC_QUARANTINE=1M"); }

static void threads_and_forks(void) {
    RUN(0, "threads", "NUMALLOC_GUARD=1", "NUMALLOC_LEAKS=/dev/null", "NUMALLOC_QUARANTINE=1M");
    RUN(0, "threads", "NUMALLOC_GUARD=2", "NUMALLOC_LEAKS=/dev/null", "NUMALLOC_PROFILE=/dev/null");
}

static void blocks_without_a_record_work(void) {
    RUN(0, "out_of_records", "NUMALLOC_GUARD=1", "NUMALLOC_WATCH_LIMIT=2M");
    RUN(0, "out_of_records", "NUMALLOC_GUARD=2", "NUMALLOC_WATCH_LIMIT=1");
}

static const check_case bodies[] = {
    {"past_the_end", past_the_end},
    {"past_the_end_of_large", past_the_end_of_large},
    {"past_the_end_of_nothing", past_the_end_of_nothing},
    {"past_the_end_of_calloc", past_the_end_of_calloc},
    {"before_the_start", before_the_start},
    {"realloc_sees_it", realloc_sees_it},
    {"after_free", after_free},
    {"after_free_until_evicted", after_free_until_evicted},
    {"after_free_until_exit", after_free_until_exit},
    {"live_and_damaged_at_exit", live_and_damaged_at_exit},
    {"twice", twice},
    {"twice_large", twice_large},
    {"twice_across_threads", twice_across_threads},
    {"inside", inside},
    {"realloc_inside", realloc_inside},
    {"realloc_after_free", realloc_after_free},
    {"foreign", foreign},
    {"warned", warned},
    {"reads_behind", reads_behind},
    {"reads_behind_odd", reads_behind_odd},
    {"reads_behind_small", reads_behind_small},
    {"reads_after_free", reads_after_free},
    {"off", off},
    {"patterns", patterns},
    {"shapes", shapes},
    {"bounded", bounded},
    {"threads", threads},
    {"out_of_records", out_of_records},
};

static const check_case cases[] = {
    {"writes_beyond_a_block_are_named", writes_beyond_a_block_are_named},
    {"writes_after_free_are_named", writes_after_free_are_named},
    {"wrong_frees_are_named", wrong_frees_are_named},
    {"stacks_are_shown_with_leaks", stacks_are_shown_with_leaks},
    {"a_warning_goes_on", a_warning_goes_on},
    {"pages_fault_at_once", pages_fault_at_once},
    {"off_by_default", off_by_default},
    {"patterns_are_seen", patterns_are_seen},
    {"every_shape_is_whole", every_shape_is_whole},
    {"the_quarantine_is_bounded", the_quarantine_is_bounded},
    {"threads_and_forks", threads_and_forks},
    {"blocks_without_a_record_work", blocks_without_a_record_work},
};
WATCHED_MAIN(cases, bodies)
