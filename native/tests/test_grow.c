/* SPDX-License-Identifier: BSD-3-Clause */
/* span.c, large.c: blocks that realloc makes grow in place over their reserves, which are in nobody's way. Each case is
 * a process of its own. */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "check.h"
#include "large/large.h"
#include "space/space.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 }; /* its own mappings are beyond the limits here */
#else
enum { SANITIZED = 0 };
#endif

enum { MIB = 1 << 20 };

static na_region *region(void) {
    na_region *each = na_region_node(0, false);
    CHECK_EQUAL(na_region_open(each), 0);
    return each;
}

static unsigned char mark(int k, size_t i) { return (unsigned char)((size_t)k * 31 + i / 512); }

static void fill(unsigned char *p, int k, size_t from, size_t to) {
    for (size_t i = from & ~(size_t)511; i < to; i += 512) p[i] = mark(k, i);
    p[to - 1] = mark(k, to - 1);
}

static void check(const unsigned char *p, int k, size_t size) {
    for (size_t i = 0; i < size; i += 512) CHECK_EQUAL(p[i], mark(k, i));
    CHECK_EQUAL(p[size - 1], mark(k, size - 1));
}

/* On the first node, or not at all. */
static unsigned char *there(unsigned char *p) {
    if (p == NULL || na_span_at(p)->region == region()->index) return p;
    numalloc_free(p);
    errno = ENOMEM;
    return NULL;
}

static unsigned char *take(size_t size) {
    numalloc_request_t request = {.size = size, .policy = NUMALLOC_ONNODE, .node = na_topo.node_id[0]};
    return there(numalloc_request(&request));
}

/* A large block that realloc made. */
static unsigned char *growing(size_t size) {
    unsigned char *p = take(NA_BLOCK_MAX / 2);
    return p != NULL ? there(numalloc_realloc(p, size)) : NULL;
}

/* Slices behind a block that are its own to grow into. */
static uint32_t reserve_of(const void *p) {
    const na_span *span = na_span_at(p);
    uintptr_t end = na_span_end(span);
    const na_span *after = end < region()->part[span->part].top ? na_map[na_slice_index(end)] : NULL;
    return after != NULL && after->kind == NA_RESERVE ? after->slices : 0;
}

static void neighbours_grow_in_place(void) {
    enum { VECTORS = 16 };
    unsigned char *vector[VECTORS];
    size_t size[VECTORS];
    for (int round = 0; round < 3; round++) {
        for (int k = 0; k < VECTORS; k++) {
            size[k] = 70000 + 1000 * (size_t)k;
            CHECK((vector[k] = growing(size[k])) != NULL);
            fill(vector[k], k, 0, size[k]);
        }
        CHECK_EQUAL(numalloc_verify(), 0);
        while (size[0] < 1000000) {
            for (int k = 0; k < VECTORS; k++) {
                size_t more = size[k] + size[k] / 2;
                unsigned char *p = numalloc_realloc(vector[k], more);
                CHECK(p == vector[k]);
                CHECK(numalloc_usable_size(p) >= more);
                check(p, k, size[k]);
                fill(p, k, size[k], more);
                size[k] = more;
            }
            CHECK_EQUAL(numalloc_verify(), 0);
        }
        for (int k = 0; k < VECTORS; k++) {
            check(vector[k], k, size[k]);
            numalloc_free(vector[k]);
        }
        CHECK_EQUAL(region()->reserved, 0);
        CHECK_EQUAL(numalloc_verify(), 0);
    }
}

static void a_reserve_is_not_in_use(void) {
    unsigned char *p = growing(70000);
    CHECK(p != NULL);
    CHECK_EQUAL(reserve_of(p), NA_LARGE_PART_SLICES - 1 - 2);
    CHECK_EQUAL(numalloc_usable_size(p), 2 * NA_SLICE);
    CHECK_EQUAL(numalloc_usable_size(p + 2 * NA_SLICE), 0);
    CHECK(numalloc_node_of(p + 2 * NA_SLICE + 5) != NUMALLOC_NODE_MIXED);
    numalloc_stats_t stats, grown;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    CHECK(numalloc_realloc(p, MIB) == p);
    CHECK_EQUAL(numalloc_stats(-1, &grown), 0);
    CHECK_EQUAL(grown.large_bytes - stats.large_bytes, MIB - 2 * NA_SLICE);
    CHECK_EQUAL(reserve_of(p), NA_LARGE_PART_SLICES - 1 - 16);
    CHECK(numalloc_realloc(p, MIB / 4) == p); /* who shrinks gives it up */
    CHECK_EQUAL(reserve_of(p), 0);
    CHECK_EQUAL(region()->reserved, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
    numalloc_free(p);
    p = take(MIB); /* who does not grow has none */
    CHECK_EQUAL(reserve_of(p), 0);
    numalloc_free(p);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* A vector that grows by steps, marked as it grows: bytes that were copied because it moved, or whose pages did. */
static size_t grow_by(unsigned char **vector, size_t from, size_t to, size_t step, int *moves) {
    size_t moved = 0;
    for (size_t size = from; size < to; size += step) {
        unsigned char *p = numalloc_realloc(*vector, size + step);
        CHECK(p != NULL);
        if (p != *vector) {
            check(p, 7, size);
            moved += size;
            ++*moves;
        }
        *vector = p;
        fill(p, 7, size, size + step);
    }
    check(*vector, 7, to);
    return moved;
}

/* Nothing else is allocated: below half a slice it goes through the size classes, at 2 MiB to where huge pages are. */
static void small_steps_hardly_move(void) {
    for (int round = 0; round < 3; round++) {
        int moves = 0;
        unsigned char *p = there(numalloc(1024));
        CHECK(p != NULL);
        fill(p, 7, 0, 1024);
        CHECK(grow_by(&p, 1024, MIB, 1024, &moves) <= 256 * 1024);
        moves = 0;
        (void)grow_by(&p, MIB, 64 * MIB, 4096, &moves);
        CHECK(moves <= 1);
        CHECK(atomic_load(&region()->used_bytes) <= 72 * MIB); /* its classes have a page each */
        CHECK_EQUAL(numalloc_verify(), 0);
        numalloc_free(p);
    }
    CHECK(region()->peak_bytes <= 74 * MIB);
}

static bool resident(const void *p, size_t size) {
    size_t bytes;
    return os_resident(p, na_round_up(size, os_page_size()), &bytes) == 0 && bytes >= size;
}

/* Its pages are there before it has them, also those between the end of what was asked for and that of its span. */
static void strict_ones_grow_in_place(void) {
    numalloc_request_t request = {.size = 70000, .flags = NUMALLOC_STRICT};
    unsigned char *p = numalloc_request(&request);
    CHECK(p != NULL && resident(p, 70000));
    CHECK(numalloc_realloc(p, 2 * NA_SLICE) == p && resident(p, 2 * NA_SLICE));
    numalloc_free(p);
    request.size = NA_BLOCK_MAX / 2;
    CHECK((p = numalloc_request(&request)) != NULL);
    fill(p, 7, 0, request.size);
    int moves = 0;
    size_t moved = grow_by(&p, request.size, MIB, 8192, &moves);
    CHECK(moves == 1 && moved <= NA_BLOCK_MAX);
    const na_region *strict = &na_regions[na_span_at(p)->region];
    CHECK(strict->strict);
    for (size_t size = MIB; size < 24 * MIB; size += MIB / 4) {
        (void)grow_by(&p, size, size + MIB / 4, 4096, &moves);
        CHECK(resident(p, size + MIB / 4));
        CHECK(na_span_bytes(na_span_at(p)) <= size + size / 8 + MIB);
        CHECK_EQUAL(numalloc_verify(), 0);
    }
    CHECK(moves <= 2);
    /* What is cut off is not there any more when it grows again. */
    CHECK(numalloc_realloc(p, 3 * MIB) == p);
    CHECK((p = numalloc_realloc(p, 9 * MIB)) != NULL && resident(p, 9 * MIB));
    check(p, 7, 3 * MIB);
    CHECK_EQUAL(numalloc_verify(), 0);
    numalloc_free(p);
    CHECK_EQUAL(strict->reserved, 0);
}

/* NUMALLOC_NODE_LIMIT=64M: an eighth more is asked for where it is to be had. */
static void strict_ones_grow_to_the_limit(void) {
    numalloc_request_t request = {.size = 16 * MIB, .flags = NUMALLOC_STRICT};
    unsigned char *p = numalloc_request(&request);
    CHECK(p != NULL);
    int moves = 0;
    fill(p, 7, 0, 16 * MIB);
    (void)grow_by(&p, 16 * MIB, 63 * MIB, 4096, &moves);
    CHECK(moves == 0 && resident(p, 63 * MIB));
    CHECK(numalloc_realloc(p, 65 * MIB) == NULL && errno == ENOMEM);
    check(p, 7, 63 * MIB);
    CHECK_EQUAL(numalloc_verify(), 0);
    numalloc_free(p);
}

/* Where huge pages begin, though the small part may have the room. */
static void long_ones_leave_the_small_part(void) {
    unsigned char *p = growing(70000);
    CHECK(p != NULL);
    fill(p, 1, 0, 70000);
    CHECK_EQUAL(na_span_at(p)->part, 0);
    size_t size = 70000;
    for (size_t more; size < 40 * MIB; size = more) {
        more = size + size / 4;
        CHECK((p = numalloc_realloc(p, more)) != NULL);
        check(p, 1, size);
        fill(p, 1, size, more);
        CHECK_EQUAL(na_span_at(p)->part, more > 2 * MIB - NA_SLICE);
        CHECK_EQUAL(numalloc_verify(), 0);
    }
    CHECK_EQUAL(region()->reserved, 0);
    numalloc_free(p);
}

/* All reserves together are bounded; the latest have theirs. */
static void old_reserves_give_way(void) {
    enum { BLOCKS = 300 };
    static unsigned char *block[BLOCKS];
    for (int k = 0; k < BLOCKS; k++) {
        CHECK((block[k] = growing(70000)) != NULL);
        CHECK(region()->reserved <= 2048);
    }
    for (int k = 0; k < BLOCKS; k++) /* less than the whole where open address space ends */
        CHECK(k < BLOCKS - 64 || reserve_of(block[k]) != 0);
    CHECK_EQUAL(reserve_of(block[0]), 0);
    CHECK_EQUAL(numalloc_verify(), 0);
    for (int k = 0; k < BLOCKS; k++) numalloc_free(block[k]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* NUMALLOC_RESERVE=64M: before a request fails, or goes to the other part, there is no reserve. */
static void a_full_region_has_none(void) {
    enum { MOST = 1000 };
    static unsigned char *block[MOST];
    size_t slices = 0;
    int n = 0;
    for (; n < MOST && (block[n] = growing(70000)) != NULL; n++) {
        slices += na_span_at(block[n])->slices;
        if (na_span_at(block[n])->part != 0) CHECK_EQUAL(region()->reserved, 0);
    }
    CHECK(n < MOST);
    CHECK_EQUAL(errno, ENOMEM);
    CHECK_EQUAL(region()->reserved, 0);
    CHECK(slices >= 56 * (MIB / NA_SLICE));
    CHECK_EQUAL(numalloc_verify(), 0);
    while (n > 0) numalloc_free(block[--n]);
    /* Nor does a page, or another large block, go without because of them. */
    static void *page[MOST], *large[MOST];
    for (int k = 0; k < 6; k++) CHECK((block[k] = growing(70000)) != NULL);
    CHECK(region()->reserved != 0);
    size_t bytes = 0;
    while (n < MOST && (large[n] = take(MIB)) != NULL) n++;
    CHECK(n >= 54);
    CHECK_EQUAL(region()->reserved, 0);
    while (n > 0) numalloc_free(large[--n]);
    for (int k = 0; k < 6; k++) numalloc_free(block[k]);
    (void)numalloc_purge();
    for (int k = 0; k < 6; k++) CHECK((block[k] = growing(70000)) != NULL);
    for (; n < MOST && (page[n] = take(60000)) != NULL; n++) bytes += 60000;
    CHECK(bytes >= 44 * MIB); /* seven in half a MiB */
    for (int k = 0; k < 6; k++) numalloc_free(block[k]);
    while (n > 0) numalloc_free(page[--n]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* NUMALLOC_NODE_LIMIT=64M: reserves take nothing of it. */
static void limits_do_not_count_them(void) {
    enum { MOST = 1000 };
    static unsigned char *block[MOST];
    int n = 0;
    while (n < MOST && (block[n] = growing(70000)) != NULL) n++;
    CHECK_EQUAL(errno, ENOMEM);
    CHECK(n >= 480 && n <= 512);
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(0, &stats), 0);
    CHECK(stats.committed_bytes <= 64 * MIB);
    while (n > 0) numalloc_free(block[--n]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* Leaves a hole of 31 slices with memory where the next growing block will be. */
static unsigned char *growing_over_memory(void) {
    numalloc_free(take(NA_BLOCK_MAX / 2)); /* its page is there */
    void *hole = take(31 * NA_SLICE), *after = take(2 * MIB - NA_SLICE);
    CHECK(hole != NULL && after != NULL);
    memset(hole, 1, 31 * NA_SLICE);
    numalloc_free(hole);
    na_span_cache_release(region(), NA_NO_TIME, UINT64_MAX);
    unsigned char *p = growing(70000);
    CHECK(p == hole);
    CHECK_EQUAL(reserve_of(p), 29);
    return p;
}

/* Memory in a reserve is free: it goes in a purge, and serves before memory that was never used. */
static void their_memory_is_free(void) {
    unsigned char *p = growing_over_memory();
    CHECK(region()->dirty_bytes >= 29 * NA_SLICE);
    (void)numalloc_purge();
    CHECK_EQUAL(region()->dirty_bytes, 0);
    CHECK_EQUAL(reserve_of(p), 29);
    CHECK(numalloc_realloc(p, MIB) == p);
    for (size_t i = 2 * NA_SLICE; i < MIB; i += 4096) CHECK_EQUAL(p[i], 0);
    CHECK_EQUAL(numalloc_verify(), 0);

    p = growing_over_memory();
    uintptr_t top = region()->part[0].top;
    void *q = take(25 * NA_SLICE);
    CHECK(na_span_at(q)->start == na_span_end(na_span_at(p)));
    CHECK_EQUAL(region()->part[0].top, top);
    CHECK_EQUAL(reserve_of(p), 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* What grows in place takes new memory; what is free elsewhere goes for it, unless a device may know that memory. */
static void growing_gives_back_elsewhere(void) {
    enum { HOLES = 128, VECTORS = 8 };
    static unsigned char *block[2 * HOLES];
    for (int i = 0; i < 2 * HOLES; i++) CHECK((block[i] = take(2 * NA_SLICE)) != NULL);
    for (int i = 0; i < 2 * HOLES; i++) memset(block[i], 1, 2 * NA_SLICE);
    for (int i = 0; i < 2 * HOLES; i += 2) numalloc_free(block[i]);
    na_span_cache_release(region(), NA_NO_TIME, UINT64_MAX);
    unsigned char *vector[VECTORS];
    for (int k = 0; k < VECTORS; k++) CHECK((vector[k] = growing(70000)) != NULL);
    for (size_t size = 3 * NA_SLICE; size <= 31 * NA_SLICE; size += NA_SLICE)
        for (int k = 0; k < VECTORS; k++) {
            CHECK(numalloc_realloc(vector[k], size) == vector[k]);
            memset(vector[k], 1, size);
        }
    uint64_t have = atomic_load(&region()->used_bytes) + region()->dirty_bytes, most = region()->used_most;
    if (na_opt.purge_delay_ms == NA_PURGE_NEVER) CHECK_EQUAL(region()->purged_bytes, 0);
    else CHECK(have <= most + most / 16 + 2 * NA_SLICE);
    for (int i = 1; i < 2 * HOLES; i += 2)
        for (size_t at = 0; at < 2 * NA_SLICE; at += 4096) CHECK_EQUAL(block[i][at], 1);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* Where open address space is limited they give way as well. */
static void they_cost_no_data(void) {
    enum { MOST = 2000 };
    static unsigned char *block[MOST];
    struct rlimit limit = {96 * MIB, 96 * MIB};
    CHECK_EQUAL(setrlimit(RLIMIT_DATA, &limit), 0);
    int n = 0;
    while (n < MOST && (block[n] = growing(70000)) != NULL) n++;
    CHECK_EQUAL(errno, ENOMEM);
    CHECK((size_t)n * 2 * NA_SLICE >= 60 * MIB);
    CHECK_EQUAL(region()->reserved, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
    while (n > 0) numalloc_free(block[--n]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

enum { GROWERS = 4 };
static atomic_long damaged;

/* Vectors that grow to random lengths, some past 2 MiB, shrink and go. */
static void *grows(void *number) {
    enum { VECTORS = 8, STEPS = 3000 };
    unsigned char *vector[VECTORS] = {0};
    size_t size[VECTORS] = {0};
    unsigned r = 1 + (unsigned)(uintptr_t)number;
    for (int step = 0; step < STEPS; step++) {
        r = r * 1103515245u + 12345u;
        unsigned k = (r >> 16) % VECTORS;
        size_t wanted = size[k] + size[k] / 2 + 1000 + (r >> 8) % 5000;
        if (size[k] > 512 * 1024 && (r >> 20) % 8 == 0) wanted = size[k] / 3;
        if (size[k] > 4 * MIB || (r >> 24) % 32 == 0) {
            numalloc_free(vector[k]);
            vector[k] = NULL;
            size[k] = wanted = 0;
            continue;
        }
        unsigned char *p = numalloc_realloc(vector[k], wanted);
        if (p == NULL) break;
        unsigned char is = (unsigned char)((uintptr_t)number * VECTORS + k + 1);
        size_t both = size[k] < wanted ? size[k] : wanted;
        for (size_t i = 0; i < both; i += 4096) damaged += p[i] != is;
        for (size_t i = 0; i < wanted; i += 4096) p[i] = is;
        vector[k] = p;
        size[k] = wanted;
    }
    for (int k = 0; k < VECTORS; k++) numalloc_free(vector[k]);
    return NULL;
}

static void threads_grow_beside_each_other(void) {
    pthread_t thread[GROWERS];
    for (uintptr_t i = 0; i < GROWERS; i++) CHECK_EQUAL(pthread_create(&thread[i], NULL, grows, (void *)i), 0);
    for (int i = 0; i < GROWERS; i++) CHECK_EQUAL(pthread_join(thread[i], NULL), 0);
    CHECK_EQUAL(damaged, 0);
    CHECK_EQUAL(region()->reserved, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void a_child_has_them(void) {
    unsigned char *p = growing(70000);
    CHECK(p != NULL);
    fill(p, 3, 0, 70000);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        bool good = numalloc_realloc(p, MIB) == p && p[0] == mark(3, 0) && numalloc_verify() == 0;
        numalloc_free(p);
        _exit(good && numalloc_verify() == 0 && region()->reserved == 0 ? 0 : 1);
    }
    int status;
    while (waitpid(child, &status, 0) < 0) {}
    CHECK_EQUAL(status, 0);
    CHECK(numalloc_realloc(p, MIB) == p);
    check(p, 3, 70000);
    numalloc_free(p);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- starting them ----------------------------------------------------------------------------------- */

static const check_case bodies[] = {
    {"neighbours_grow_in_place", neighbours_grow_in_place},
    {"a_reserve_is_not_in_use", a_reserve_is_not_in_use},
    {"small_steps_hardly_move", small_steps_hardly_move},
    {"strict_ones_grow_in_place", strict_ones_grow_in_place},
    {"strict_ones_grow_to_the_limit", strict_ones_grow_to_the_limit},
    {"long_ones_leave_the_small_part", long_ones_leave_the_small_part},
    {"old_reserves_give_way", old_reserves_give_way},
    {"a_full_region_has_none", a_full_region_has_none},
    {"limits_do_not_count_them", limits_do_not_count_them},
    {"their_memory_is_free", their_memory_is_free},
    {"growing_gives_back_elsewhere", growing_gives_back_elsewhere},
    {"they_cost_no_data", they_cost_no_data},
    {"threads_grow_beside_each_other", threads_grow_beside_each_other},
    {"a_child_has_them", a_child_has_them},
};

static void in_place(void) { check_start("", "neighbours_grow_in_place"); }
static void not_in_use(void) { check_start("", "a_reserve_is_not_in_use"); }
static void small_steps(void) { check_start("", "small_steps_hardly_move"); }
static void strict(void) { check_start("", "strict_ones_grow_in_place"); }
static void strict_limit(void) { check_start("NUMALLOC_NODE_LIMIT=64M", "strict_ones_grow_to_the_limit"); }
static void long_ones(void) { check_start("", "long_ones_leave_the_small_part"); }
static void bounded(void) { check_start("", "old_reserves_give_way"); }
static void full(void) { check_start("NUMALLOC_RESERVE=64M", "a_full_region_has_none"); }
static void limit(void) { check_start("NUMALLOC_NODE_LIMIT=64M", "limits_do_not_count_them"); }
static void memory(void) { check_start("NUMALLOC_PURGE_DELAY=600000", "their_memory_is_free"); }
static void elsewhere(void) { check_start("NUMALLOC_PURGE_DELAY=600000", "growing_gives_back_elsewhere"); }
static void elsewhere_never(void) { check_start("NUMALLOC_PURGE_DELAY=never", "growing_gives_back_elsewhere"); }
static void data(void) {
    if (!SANITIZED) check_start("", "they_cost_no_data");
}
static void threads(void) { check_start("", "threads_grow_beside_each_other"); }
static void threads_full(void) { check_start("NUMALLOC_RESERVE=64M", "threads_grow_beside_each_other"); }
static void child(void) { check_start("", "a_child_has_them"); }

static const check_case cases[] = {
    {"in_place", in_place},
    {"not_in_use", not_in_use},
    {"small_steps", small_steps},
    {"strict", strict},
    {"strict_limit", strict_limit},
    {"long_ones", long_ones},
    {"bounded", bounded},
    {"full", full},
    {"limit", limit},
    {"memory", memory},
    {"elsewhere", elsewhere},
    {"elsewhere_never", elsewhere_never},
    {"data", data},
    {"threads", threads},
    {"threads_full", threads_full},
    {"child", child},
};

CHECK_MAIN_OF_BODIES(cases, bodies)
