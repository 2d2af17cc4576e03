/* SPDX-License-Identifier: BSD-3-Clause
 *
 * few_pages.c: what an ordinary program does, under LD_PRELOAD, runs no code from the library's second mapping of code,
 * so that the kernel never maps it. A failure means that a function is missing from cmake/order.ld.
 */
#define _GNU_SOURCE
#include "../check.h"

#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static void *volatile sink;

static void *take(size_t size) {
    char *block = malloc(size);
    if (block != NULL) block[0] = block[size - 1] = 1;
    return sink = block;
}

static void *work(void *unused) {
    (void)unused;
    enum { BLOCKS = 3000 };
    static __thread void *block[BLOCKS];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < BLOCKS; i++) block[i] = take(16 + (size_t)(i * 7919 % 3000) * (i % 50 == 0 ? 40 : 1));
        for (int i = 0; i < BLOCKS; i += 3) block[i] = realloc(block[i], 3000);
        for (int i = 0; i < BLOCKS; i++) free(block[round == 1 ? BLOCKS - 1 - i : i]);
    }
    free(calloc(100, 40));
    free(aligned_alloc(4096, 8192));
    free(memalign(64, 200));
    void *aligned = NULL;
    if (posix_memalign(&aligned, 128, 4000) == 0) free(aligned);
    char *text = NULL;
    for (size_t size = 100; size < 8 << 20; size += size / 2) text = realloc(text, size);
    text = realloc(text, 1 << 20);
    free(text);
    free(calloc(1, 3 << 20));
    return take(100);
}

/* Kilobytes of the library's code that are mapped: of the first mapping, and of others; -1: there is none. */
static void mapped(long *first, long *others) {
    *first = *others = -1;
    FILE *maps = fopen("/proc/self/smaps", "r");
    if (maps == NULL) return;
    char line[4096];
    bool code = false;
    for (long kilobytes; fgets(line, sizeof line, maps) != NULL;) {
        char access[8];
        if (sscanf(line, "%*[0-9a-f]-%*[0-9a-f] %4[-rwxps] ", access) == 1)
            code = strcmp(access, "r-xp") == 0 && strstr(line, "libnumalloc_preload") != NULL;
        else if (code && sscanf(line, "Rss: %ld", &kilobytes) == 1) {
            if (*first < 0) *first = kilobytes;
            else *others = (*others < 0 ? 0 : *others) + kilobytes;
        }
    }
    fclose(maps);
}

static void the_rest_is_not_mapped(void) {
    long first, others;
    mapped(&first, &others);
    CHECK(first >= 0); /* it is there: served.h would call into the rest to find out */
    if (others < 0) SKIP("a linker that puts functions where order.ld says");
    for (int round = 0; round < 2; round++) {
        pthread_t thread[3];
        void *block;
        for (int i = 0; i < 3; i++) CHECK_EQUAL(pthread_create(&thread[i], NULL, work, NULL), 0);
        for (int i = 0; i < 3; i++) {
            CHECK_EQUAL(pthread_join(thread[i], &block), 0);
            free(block);
        }
        (void)work(NULL);
        free(sink);
        struct timespec delay = {.tv_nsec = 300 * 1000 * 1000}; /* free memory goes back */
        (void)nanosleep(&delay, NULL);
        mapped(&first, &others);
        printf("%ld KiB of code, and %ld KiB of the rest\n", first, others);
        CHECK_EQUAL(others, 0);
    }
}

static const check_case cases[] = {{"the_rest_is_not_mapped", the_rest_is_not_mapped}};

int main(int argc, char **argv) { return check_main(cases, sizeof cases / sizeof *cases, argc, argv); }
