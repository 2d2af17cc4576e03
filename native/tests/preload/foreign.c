/* SPDX-License-Identifier: BSD-3-Clause
 *
 * foreign.c: blocks that are not the allocator's come to free, realloc and malloc_usable_size, and go on to the C
 * library; a library with an allocator of its own keeps to it.
 */
#define _GNU_SOURCE
#include "../check.h"
#include "served.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_memalign(size_t align, size_t size);

extern char *own_copy(const char *text);
extern size_t own_free(char *text);
extern char *own_strdup(const char *text);
extern void *next_malloc(size_t size);
extern void next_free(void *ptr);

static void take_over(void *(*from)(size_t)) {
    for (size_t size = 1; size < 4 << 20; size = size * 3 + 1) { /* mmapped ones included */
        char *block = from(size);
        CHECK(block != NULL && !served(block));
        CHECK(malloc_usable_size(block) >= size);
        CHECK(malloc_usable_size(block) < 2 * size + 8192);
        memset(block, 9, size);
        block = realloc(block, size * 2 + 100);
        CHECK(block != NULL);
        for (size_t i = 0; i < size; i++) CHECK(block[i] == 9);
        block = realloc(block, size);
        CHECK(block != NULL && block[0] == 9);
        errno = 42;
        free(block);
        CHECK_EQUAL(errno, 42);
        CHECK(realloc(from(size), 0) == NULL);
    }
}

static void *from_calloc(size_t size) { return __libc_calloc(size, 1); }
static void *from_memalign(size_t size) { return __libc_memalign(256, size); }

static void blocks_of_the_c_library(void) {
    take_over(__libc_malloc);
    take_over(from_calloc);
    take_over(from_memalign);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void *thread_of_the_c_library(void *unused) {
    for (int i = 0; i < 1000; i++) free(__libc_malloc((size_t)i * 7));
    return __libc_malloc(unused == NULL ? 100 : 1);
}
static void blocks_of_its_other_arenas(void) {
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        void *block;
        CHECK_EQUAL(pthread_create(&thread, NULL, thread_of_the_c_library, NULL), 0);
        CHECK_EQUAL(pthread_join(thread, &block), 0);
        CHECK(!served(block));
        free(block);
    }
}

/* What dlsym(RTLD_NEXT) finds behind us or before us: either way each block finds home. */
static void malloc_found_by_dlsym(void) {
    char *block = next_malloc(100);
    CHECK(block != NULL && malloc_usable_size(block) >= 100);
    block = realloc(block, 1000);
    CHECK(block != NULL);
    free(block);
    next_free(next_malloc(50));
    take_over(next_malloc);
}

static void a_library_with_its_own(void) {
    char *own = own_copy("own");
    CHECK(!served(own) && strcmp(own, "own") == 0);
    CHECK_EQUAL(own_free(own), 4);
    char *ours = own_strdup("ours");
    CHECK(served(ours) && strcmp(ours, "ours") == 0);
    free(ours);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static const check_case cases[] = {
    {"blocks_of_the_c_library", blocks_of_the_c_library},
    {"blocks_of_its_other_arenas", blocks_of_its_other_arenas},
    {"malloc_found_by_dlsym", malloc_found_by_dlsym},
    {"a_library_with_its_own", a_library_with_its_own},
};

SERVED_MAIN(cases)
