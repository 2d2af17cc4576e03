/* SPDX-License-Identifier: BSD-3-Clause
 *
 * start.c: blocks from before main, even from before any constructor, are whole and can be freed; options are
 * read all the same. Run with NUMALLOC_RESERVE=1G, which the allocator sees only in the environment.
 */
#include "../check.h"
#include "early.h"
#include "served.h"

#include <malloc.h>

static char *first_block, *last_block;

/* Before the constructors of all libraries, the C library's own included: environ is not set yet. */
static void before_all(void) {
    first_block = malloc(1000);
    memset(first_block, 1, 1000);
    free(malloc(3 << 20));
}
__attribute__((section(".preinit_array"), used)) static void (*before_all_entry)(void) = before_all;

__attribute__((constructor)) static void before_main(void) {
    last_block = realloc(first_block, 100000);
    first_block = malloc(50);
}

static void blocks_before_main(void) {
    CHECK(served(first_block) && served(last_block) && served(early_block) && served(early_large));
    for (int i = 0; i < 1000; i++) CHECK(last_block[i] == 1);
    for (int i = 0; i < 1 << 20; i++) CHECK(early_large[i] == 0);
    CHECK(strcmp(early_block, "early") == 0);
    early_block = realloc(early_block, 5000);
    CHECK(strcmp(early_block, "early") == 0);
    free(early_block);
    free(early_large);
    free(last_block);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void options_before_main(void) {
    static char text[16384];
    CHECK(numalloc_stats_json(text, sizeof text) < sizeof text);
    CHECK(strstr(text, "\"reserve\": 1073741824") != NULL);
}

/* After main: destructors and atexit handlers still allocate. */
static void at_exit(void) {
    char *block = realloc(first_block, 70000);
    if (!served(block)) _exit(91);
    free(block);
    early_allocate();
}
static void blocks_after_main(void) { CHECK_EQUAL(atexit(at_exit), 0); }

static const check_case cases[] = {
    {"blocks_before_main", blocks_before_main},
    {"options_before_main", options_before_main},
    {"blocks_after_main", blocks_after_main},
};

SERVED_MAIN(cases)
