/* SPDX-License-Identifier: BSD-3-Clause */
/* profile.c: the arithmetic, the estimates against what was really allocated, the files. A strict reader of the
 * pprof format is in check_modes.py. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>

#include "heap/hooks.h"
#include "modes.h"
#include "modes/modes.h"
#include "os/options.h"

enum { RATE = 16384 };

static void *volatile kept[100000];

NAMED void *by_first(size_t size) {
    void *p = numalloc(size);
    __asm__ volatile("" : "+r"(p));
    return p;
}
NAMED void *by_second(size_t size) {
    void *p = numalloc(size);
    __asm__ volatile("" : "+r"(p));
    return p;
}

/* Bytes of the collapsed stacks that go through `function`; "" for all. */
static double collapsed(const char *suffix, const char *function) {
    char path[] = "/tmp/numalloc-test-XXXXXX", name[100], *line = NULL;
    int file = mkstemp(path);
    CHECK(file >= 0);
    close(file);
    snprintf(name, sizeof name, "%s%s", path, suffix);
    CHECK_EQUAL(numalloc_profile_dump(name), 0);
    FILE *in = fopen(name, "r");
    CHECK(in != NULL);
    double sum = 0;
    size_t capacity = 0;
    while (getline(&line, &capacity, in) > 0) {
        CHECK(strncmp(line, "node ", 5) == 0 || strncmp(line, "nodes mixed", 11) == 0);
        const char *space = strrchr(line, ' ');
        if (strstr(line, function) != NULL) sum += atof(space + 1);
    }
    free(line);
    fclose(in);
    unlink(name);
    unlink(path);
    return sum;
}
static double live(const char *function) { return collapsed(".collapsed", function); }
static double ever(const char *function) { return collapsed(".allocated.collapsed", function); }

/* ---- bodies --------------------------------------------------------------------------------------------- */

static void off(void) {
    CHECK_EQUAL(numalloc_profile_dump("/dev/null"), ENOTSUP);
    CHECK(!na_hooked);
}

/* Sizes from far below to far above the rate, so that a wrong weight shows. The variance of the estimate is the sum
 * of s * s * (1 - p) / p, at most sum * RATE. */
static void estimates(void) {
    double sum[2] = {0, 0}, freed = 0;
    uint32_t r = 1;
    for (int i = 0; i < 100000; i++) {
        r = r * 1664525u + 1013904223u;
        size_t size = i % 10 == 0 ? 1000 + (r >> 8) % 60000 : 16 + (r >> 8) % 200;
        bool second = i % 3 == 0;
        kept[i] = second ? by_second(size) : by_first(size);
        sum[second] += (double)size;
        if (i % 7 == 0) {
            numalloc_free(kept[i]);
            kept[i] = NULL;
            freed += (double)size;
        }
    }
    double all = sum[0] + sum[1];
    CHECK(fabs(ever("by_first") - sum[0]) < 6 * sqrt(sum[0] * RATE));
    CHECK(fabs(ever("by_second") - sum[1]) < 6 * sqrt(sum[1] * RATE));
    CHECK(fabs(live("") - (all - freed)) < 6 * sqrt(all * RATE));
    CHECK(ever("by_first") > 0 && live("") < ever(""));
    for (int i = 0; i < 100000; i++) numalloc_free(kept[i]);
    CHECK(live("") == 0); /* frees take out exactly what went in */
    CHECK(ever("") > 0.8 * all);
}

static void *frees_all(void *argument) {
    void **blocks = argument;
    for (int i = 0; i < 1000; i++) numalloc_free(blocks[i]);
    return NULL;
}

static void exact(void) {
    static void *blocks[1000];
    for (int i = 0; i < 1000; i++) blocks[i] = by_first((size_t)i + 1);
    CHECK(live("by_first") == 500500 && ever("by_first") == 500500);
    void *p = numalloc_realloc(blocks[0], 100000); /* a free and an allocation */
    CHECK(p != NULL);
    CHECK(live("") == 500500 - 1 + 100000 && ever("") == 500500 + 100000);
    blocks[0] = p;
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, frees_all, blocks), 0);
    pthread_join(thread, NULL);
    CHECK(live("") == 0 && ever("") == 600500);
    by_second(123); /* stays, for the file at exit */
}

static void dumps(void) {
    for (volatile int i = 0; i < 2; i = i + 1) kept[i] = by_first(i == 0 ? 100000 : 100); /* one call, not unrolled */
    CHECK_EQUAL(numalloc_profile_dump("/no-such-directory/x"), ENOENT);
    CHECK_EQUAL(numalloc_profile_dump("/dev/full"), ENOSPC);
    CHECK_EQUAL(numalloc_profile_dump("stderr"), 0);
}

/* ---- cases ---------------------------------------------------------------------------------------------- */

static void arithmetic(void) {
    for (double x = 1e-9; x < 800; x *= 1.37) {
        CHECK(fabs(na_exp_minus(x) - exp(-x)) <= 1e-13 * exp(-x) + 1e-300);
        CHECK(fabs(na_log(x) - log(x)) <= 1e-13 * (1 + fabs(log(x))));
    }
    CHECK(na_exp_minus(0) == 1 && na_log(1) == 0);
    na_opt.profile_rate = RATE;
    for (size_t size = 1; size < 1000000; size = size * 3 + 1) {
        double weight = 1 / -expm1(-(double)size / RATE);
        CHECK(fabs(na_profile_weight(size) - weight) < 1e-9 * weight);
    }
    na_opt.profile_rate = 1;
    CHECK(na_profile_weight(5) == 1);
}

/* The chance of being picked is what the weight says. */
static void blocks_are_picked_in_proportion(void) {
    na_opt.profile_rate = 1000;
    static const size_t sizes[] = {10, 300, 1000, 3000};
    for (int k = 0; k < 4; k++) {
        int n = 400000, hits = 0;
        for (int i = 0; i < n; i++) {
            hits += na_profile_pick(sizes[k]);
            (void)na_profile_pick(sizes[(k + i) % 4]); /* others between make no difference */
        }
        double p = 1 / na_profile_weight(sizes[k]);
        CHECK(fabs(hits - n * p) < 6 * sqrt(n * p * (1 - p)));
    }
}

static void off_by_default(void) {
    RUN(0, "off", "NUMALLOC_VERBOSE=0");
    CHECK(said[0] == '\0');
}

static void estimates_are_near_the_truth(void) {
    RUN(0, "estimates", "NUMALLOC_PROFILE=/dev/null", "NUMALLOC_PROFILE_RATE=16K");
}

static void rate_1_is_exact(void) {
    RUN(0, "exact", "NUMALLOC_PROFILE=stderr", "NUMALLOC_PROFILE_RATE=1");
    SAID("heap profile:      1:      123 [  1002:   600623] @ heap_v2/1\n");
    SAID("     1:      123 [     1:      123] @ 0x");
    SAID("\nMAPPED_LIBRARIES:\n");
    RUN(0, "exact", "NUMALLOC_PROFILE=/dev/null", "NUMALLOC_PROFILE_RATE=1", "NUMALLOC_GUARD=1");
    RUN(0, "exact", "NUMALLOC_PROFILE=/dev/null", "NUMALLOC_PROFILE_RATE=1", "NUMALLOC_GUARD=2",
        "NUMALLOC_LEAKS=/dev/null");
}

static void dumps_go_where_they_are_told(void) {
    RUN(0, "dumps", "NUMALLOC_PROFILE=/dev/null", "NUMALLOC_PROFILE_RATE=1");
    SAID("heap profile:      2:   100100 [     2:   100100] @ heap_v2/1\n");
    SAID("\n     1:   100000 [     1:   100000] @ 0x"); /* sizes apart: pprof takes those of a line for equal */
    SAID("\n     1:      100 [     1:      100] @ 0x");
    RUN(0, "dumps", "NUMALLOC_PROFILE=/no-such-directory/x");
    SAID("can't be written to /no-such-directory/x");
}

static const check_case bodies[] = {{"off", off}, {"estimates", estimates}, {"exact", exact}, {"dumps", dumps}};

static const check_case cases[] = {
    {"arithmetic", arithmetic},           {"blocks_are_picked_in_proportion", blocks_are_picked_in_proportion},
    {"off_by_default", off_by_default},   {"estimates_are_near_the_truth", estimates_are_near_the_truth},
    {"rate_1_is_exact", rate_1_is_exact}, {"dumps_go_where_they_are_told", dumps_go_where_they_are_told},
};
WATCHED_MAIN(cases, bodies)
