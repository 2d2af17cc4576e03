/* SPDX-License-Identifier: BSD-3-Clause */
/* misuse.c, verify.c, options.c: misuse ends with one line that names call, address and remedy, or is ignored with one
 * where so configured; nothing is corrupted. Children run the faults. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>

#include "check.h"
#include "space/space.h"

enum { ABORTED = 256 + SIGABRT };
static char text[8192];

static void aborts_with(void (*body)(void), const char *call, const char *what, const char *remedy) {
    int code = check_child(body, text, sizeof text);
    if (code != ABORTED || !strstr(text, call) || !strstr(text, what) || !strstr(text, remedy))
        printf("code %d, message: %s\n", code, text);
    CHECK_EQUAL(code, ABORTED);
    CHECK(strstr(text, call) != NULL);
    CHECK(strstr(text, what) != NULL);
    CHECK(strstr(text, remedy) != NULL);
}

static void double_free_small(void) {
    void *p = numalloc(100);
    numalloc_free(p);
    numalloc_free(p);
}
static void double_free_after_others(void) {
    void *p = numalloc(100), *q = numalloc(100), *r = numalloc(100);
    numalloc_free(p);
    numalloc_free(q);
    numalloc_free(r);
    numalloc_free(p);
}
static void double_free_large(void) {
    void *p = numalloc(1000000);
    numalloc_free(p);
    numalloc_free(p);
}
static void double_free_interleaved(void) {
    void *p = numalloc_interleaved(1000000, NULL);
    numalloc_free(p);
    numalloc_free(p);
}
static void *free_it(void *p) {
    numalloc_free(p);
    return NULL;
}
static void double_free_across_threads(void) {
    void *p = numalloc(100);
    pthread_t thread;
    pthread_create(&thread, NULL, free_it, p);
    pthread_join(thread, NULL);
    numalloc_free(p);
}
static void free_of_stack(void) {
    int local = 0;
    numalloc_free(&local);
}
static void free_of_libc_block(void) { numalloc_free(malloc(10)); }
static void free_inside_large(void) { numalloc_free((char *)numalloc(1000000) + 4096); }
static void free_of_never_given(void) { numalloc_free((void *)(na_base + na_reserved - NA_SLICE)); }
static void free_of_metadata(void) { numalloc_free((void *)(na_base + 128)); }
static void free_inside_foreign_page(void) {
    /* A page of another heap takes the slow path, where block boundaries are checked. */
    numalloc_request_t request = {.size = 100, .policy = NUMALLOC_LOCAL, .flags = NUMALLOC_STRICT};
    numalloc_free((char *)numalloc_request(&request) + 16);
}
static void realloc_of_freed(void) {
    void *p = numalloc(100);
    numalloc_free(p);
    p = numalloc_realloc(p, 200);
}
static void realloc_of_foreign(void) {
    int local = 0;
    void *p = numalloc_realloc(&local, 200);
    (void)p;
}

static void double_frees_abort(void) {
    aborts_with(double_free_small, "numalloc_free", "freed before", "free each block once");
    aborts_with(double_free_after_others, "numalloc_free", "freed before", "free each block once");
    aborts_with(double_free_large, "numalloc_free", "freed before", "free each block once");
    aborts_with(double_free_interleaved, "numalloc_free", "freed before", "free each block once");
    aborts_with(double_free_across_threads, "numalloc_free", "freed before", "free each block once");
}

static void foreign_frees_abort(void) {
    aborts_with(free_of_stack, "numalloc_free", "not from this allocator", "the library that allocated it");
    aborts_with(free_of_libc_block, "numalloc_free", "not from this allocator", "the library that allocated it");
    aborts_with(free_of_never_given, "numalloc_free", "not allocated", "free each block once");
    aborts_with(free_of_metadata, "numalloc_free", "not allocated", "free each block once");
}

static void inner_pointers_abort(void) {
    aborts_with(free_inside_large, "numalloc_free", "not the start", "the pointer that the allocation returned");
    aborts_with(free_inside_foreign_page, "numalloc_free", "not the start", "the pointer that the allocation returned");
}

static void bad_reallocs_abort(void) {
    aborts_with(realloc_of_freed, "numalloc_realloc", "freed before", "free each block once");
    aborts_with(realloc_of_foreign, "numalloc_realloc", "not from this allocator", "the library that allocated it");
}

static void warns_body(void) {
    na_opt.on_error = NA_ON_ERROR_WARN;
    int local = 0;
    void *p = numalloc(100), *q = numalloc(1000000);
    numalloc_free(p);
    numalloc_free(p);
    numalloc_free(q);
    numalloc_free(q);
    numalloc_free(&local);
    errno = 0;
    if (numalloc_realloc(p, 300) != NULL || errno != EINVAL) _exit(2);
    void *a = numalloc(100), *b = numalloc(100);
    if (a == b || numalloc_verify() != 0) _exit(3);
}

static void warn_mode_goes_on(void) {
    int code = check_child(warns_body, text, sizeof text);
    if (code != 0) printf("code %d, message: %s\n", code, text);
    CHECK_EQUAL(code, 0);
    int lines = 0;
    for (const char *c = text; *c != '\0'; c++) lines += *c == '\n';
    CHECK_EQUAL(lines, 4);
}

/* What a program finds in memory that it did not write must not make its own block look free: it may be a mark of
 * the memory's former life, and it may be copied to where it was. */
static void copies_what_it_found(void) {
    enum { BLOCKS = 64 };
    static const size_t sizes[] = {16, 96, 5000, 32768};
    for (int s = 0; s < 4; s++) {
        size_t size = sizes[s], page = size <= 8192 ? 65536 : 8 * 65536, count = 3 * page / size;
        char **old = malloc(count * sizeof *old), **new = malloc(count * sizeof *new), *large[BLOCKS];
        uint64_t *found = calloc(count, sizeof *found);
        for (size_t i = 0; i < count; i++) old[i] = numalloc(size);
        for (size_t i = 0; i < count; i++) numalloc_free(old[i]); /* all pages but one go back */
        for (int k = 0; k < BLOCKS; k++) {
            large[k] = numalloc(s < 3 ? 65537 : page);
            for (size_t i = 0; i < count; i++)
                if (old[i] >= large[k] && old[i] < large[k] + page) memcpy(&found[i], old[i] + 8, 8);
        }
        for (int k = 0; k < BLOCKS; k++) numalloc_free(large[k]);
        for (size_t i = 0; i < count; i++) {
            new[i] = numalloc(size);
            for (size_t k = 0; k < count; k++)
                if (new[i] == old[k]) memcpy(new[i] + 8, &found[k], 8);
        }
        for (size_t i = 0; i < count; i++) numalloc_free(new[i]);
        free(old);
        free(new);
        free(found);
    }
}

static void contents_never_look_free(void) {
    int code = check_child(copies_what_it_found, text, sizeof text);
    if (code != 0) printf("code %d, message: %s\n", code, text);
    CHECK_EQUAL(code, 0);
}

/* numalloc_verify can fail: it notices a link written over after free. */
static void corrupts(void) {
    void **p = numalloc(64);
    numalloc_free(p);
    p[1] = NULL;
    _exit(numalloc_verify() == 0 ? 5 : 0);
}

static void verify_notices_a_write_after_free(void) {
    int code = check_child(corrupts, text, sizeof text);
    CHECK_EQUAL(code, 0);
    CHECK(strstr(text, "written after free") != NULL);
}

/* The link of one that was handed out since: the next in the cache is nowhere. Who only looks goes on. */
static void leads_astray(void) {
    uint64_t *p = numalloc(64), *q = numalloc(64);
    numalloc_free(p);
    numalloc_free(q);
    q[0] = UINT64_C(0x4141414141414141);
    if (numalloc(64) != q) _exit(6);
    numalloc_stats_t stats;
    if (numalloc_stats(-1, &stats) != 0) _exit(7);
    _exit(numalloc_verify() == 0 ? 5 : 0);
}

static void a_link_to_nowhere_is_not_followed(void) {
    if (getenv("NUMALLOC_SECURE") != NULL) return; /* there are no caches, and seals say what was written to */
    int code = check_child(leads_astray, text, sizeof text);
    CHECK_EQUAL(code, 0);
    CHECK(strstr(text, "a cached block is of no page") != NULL);
}

/* A program may have a block that was cached by the time statistics look. */
static void miscounts(void) {
    uint64_t *p = numalloc(64);
    numalloc_free(p);
    numalloc_stats_t before, after;
    (void)numalloc_stats(-1, &before);
    p[0] = UINT64_MAX;
    (void)numalloc_stats(-1, &after);
    uint64_t page = 65536; /* what is not known to be cached */
    _exit(after.allocated_bytes > before.allocated_bytes + page ? 5 : 0);
}

static void statistics_do_not_trust_a_block(void) {
    int code = check_child(miscounts, text, sizeof text);
    CHECK_EQUAL(code, 0);
}

/* The contract: of the caller's own pages the fast path takes any pointer. numalloc_verify looks; the modes refuse. */
static void free_inside_own_page(void) {
    char *p = numalloc(100);
    numalloc_free(p + 16);
    _exit(numalloc_verify() == 0 ? 5 : 0);
}

static void verify_notices_a_free_of_an_inner_pointer(void) {
    if (getenv("NUMALLOC_SECURE") != NULL) {
        aborts_with(free_inside_own_page, "numalloc_free", "not the start", "the pointer that the allocation returned");
        return;
    }
    CHECK_EQUAL(check_child(free_inside_own_page, text, sizeof text), 0);
    CHECK(strstr(text, "freed by a pointer into it") != NULL);
}

static const check_case cases[] = {
    {"double_frees_abort", double_frees_abort},
    {"foreign_frees_abort", foreign_frees_abort},
    {"inner_pointers_abort", inner_pointers_abort},
    {"bad_reallocs_abort", bad_reallocs_abort},
    {"warn_mode_goes_on", warn_mode_goes_on},
    {"contents_never_look_free", contents_never_look_free},
    {"verify_notices_a_write_after_free", verify_notices_a_write_after_free},
    {"verify_notices_a_free_of_an_inner_pointer", verify_notices_a_free_of_an_inner_pointer},
    {"a_link_to_nowhere_is_not_followed", a_link_to_nowhere_is_not_followed},
    {"statistics_do_not_trust_a_block", statistics_do_not_trust_a_block},
};
CHECK_MAIN(cases)
