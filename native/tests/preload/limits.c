/* SPDX-License-Identifier: BSD-3-Clause
 *
 * limits.c: a program that limits its own address space (RLIMIT_AS) while it runs goes on as without the library: threads
 * start, libraries load, what fits is granted and what does not is ENOMEM.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../check.h"
#include "served.h"

extern void *__libc_malloc(size_t size);

#define MIB ((size_t)1 << 20)

static size_t address_space(void) {
    size_t pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%zu", &pages) == 1);
    fclose(file);
    return pages * (size_t)getpagesize();
}

static void set_limit(size_t bytes) {
    struct rlimit limit = {bytes, bytes};
    CHECK_EQUAL(setrlimit(RLIMIT_AS, &limit), 0);
}

static void *use_memory(void *unused) {
    void *few = malloc(1000), *many = malloc(20 * MIB);
    if (few == NULL || many == NULL) return (void *)1;
    memset(many, 1, 20 * MIB);
    free(few);
    free(many);
    return unused;
}

static void goes_on(void) {
    pthread_t thread;
    void *failed = NULL;
    CHECK_EQUAL(pthread_create(&thread, NULL, use_memory, NULL), 0);
    CHECK_EQUAL(pthread_join(thread, &failed), 0);
    CHECK(failed == NULL);
    CHECK(dlopen("libm.so.6", RTLD_NOW) != NULL);
    CHECK(mmap(NULL, 100 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    for (int round = 0; round < 3; round++) { /* small blocks, blocks of each part, and more than was opened at first */
        void *block[150];
        for (int i = 0; i < 150; i++)
            CHECK((block[i] = malloc(i % 3 == 0 ? 3 * MIB : i % 3 == 1 ? 100000 : 500)) != NULL);
        for (int i = 0; i < 150; i++) memset(block[i], i, i % 3 == 0 ? 3 * MIB : i % 3 == 1 ? 100000 : 500);
        for (int i = 0; i < 150; i++) CHECK(*(unsigned char *)block[i] == i);
        for (int i = 0; i < 150; i++) free(block[i]);
    }
    errno = 0;
    CHECK(malloc(16 * 1024 * MIB) == NULL);
    CHECK_EQUAL(errno, ENOMEM);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void limited_body(void) {
    CHECK(use_memory(NULL) == NULL);
    set_limit(2048 * MIB);
    goes_on();
}

static void by_prlimit_body(void) {
    struct rlimit limit = {2048 * MIB, RLIM_INFINITY}, before;
    CHECK_EQUAL(prlimit(0, RLIMIT_AS, &limit, &before), 0);
    CHECK(before.rlim_cur == RLIM_INFINITY);
    goes_on();
    CHECK_EQUAL(getrlimit(RLIMIT_AS, &before), 0);
    CHECK(before.rlim_cur == limit.rlim_cur && before.rlim_max == RLIM_INFINITY);
}

/* Nothing new fits. What is there goes on being used. */
static void too_low_body(void) {
    void *kept = malloc(1000);
    CHECK(kept != NULL);
    set_limit(8 * MIB);
    memset(kept, 1, 1000);
    free(kept);
    CHECK((kept = malloc(1000)) != NULL);
    free(kept);
    errno = 0;
    CHECK(malloc(100 * MIB) == NULL);
    CHECK_EQUAL(errno, ENOMEM);
}

/* No call of the C library sets it, so that it is noticed when memory is opened. */
static void from_outside_body(void) {
    struct rlimit limit = {2048 * MIB, 2048 * MIB};
    CHECK_EQUAL(syscall(SYS_prlimit64, 0, RLIMIT_AS, &limit, NULL), 0);
    void *opened = malloc(200 * MIB);
    CHECK(opened != NULL);
    free(opened);
    goes_on();
}

static void lifted_body(void) {
    struct rlimit limit = {1024 * MIB, RLIM_INFINITY}, none = {RLIM_INFINITY, RLIM_INFINITY};
    CHECK_EQUAL(setrlimit(RLIMIT_AS, &limit), 0);
    CHECK(malloc(4096 * MIB) == NULL);
    CHECK_EQUAL(setrlimit(RLIMIT_AS, &none), 0);
    void *block = malloc(4096 * MIB);
    CHECK(block != NULL);
    CHECK(address_space() >= 4096 * MIB);
    free(block);
}

/* Mappings of others, also glibc's, come to be among blocks of the library: they are none of its own. */
static void others_move_in_body(void) {
    enum { COUNT = 40 };
    static void *mapped[COUNT], *other[COUNT];
    char *block = malloc(3 * MIB);
    CHECK(block != NULL);
    set_limit(16 * 1024 * MIB);
    char *beside = block + 1024 * MIB;
    for (int i = 0; i < COUNT; i++) {
        mapped[i] = mmap(i == 0 ? beside : NULL, 64 * MIB, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(mapped[i] != MAP_FAILED);
        CHECK((other[i] = __libc_malloc(MIB)) != NULL);
    }
    CHECK(mapped[0] == beside);
    for (int i = 0; i < COUNT; i++) CHECK((other[i] = realloc(other[i], 2 * MIB)) != NULL);
    for (int i = 0; i < COUNT; i++) free(other[i]);
    free(block);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* Started under a limit: most of it is for blocks, of any size. Without one it is for the case below to run. */
static void most_of_the_address_space(void) {
    static const size_t sizes[] = {64, 26 * MIB, MIB, 26 * MIB};
    struct rlimit limit;
    CHECK_EQUAL(getrlimit(RLIMIT_AS, &limit), 0);
    for (int i = 0; limit.rlim_cur != RLIM_INFINITY && i < 4; i++) {
        void **all = NULL, **block;
        size_t have = 0;
        while ((block = malloc(sizes[i])) != NULL) {
            *block = all;
            all = block;
            have += sizes[i];
        }
        while ((block = all) != NULL) {
            all = *block;
            free(block);
        }
        printf("%zu MiB in blocks of %zu\n", have >> 20, sizes[i]);
        CHECK(have >= limit.rlim_cur / 4 * 3);
    }
}
static void started_under_a_limit(void) {
    char self[4096], command[5000];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    CHECK(length > 0);
    self[length] = '\0';
    snprintf(command, sizeof command, "ulimit -v 300000; exec '%s' most_of_the_address_space", self);
    CHECK_EQUAL(system(command), 0);
}

static void child(void (*body)(void)) { CHECK_EQUAL(check_child(body, NULL, 0), 0); }
static void limited_at_run_time(void) { child(limited_body); }
static void limited_by_prlimit(void) { child(by_prlimit_body); }
static void below_what_is_in_use(void) { child(too_low_body); }
static void limited_from_outside(void) { child(from_outside_body); }
static void a_limit_that_is_lifted(void) { child(lifted_body); }
static void others_move_in(void) { child(others_move_in_body); }

static const check_case cases[] = {
    {"limited_at_run_time", limited_at_run_time},
    {"limited_by_prlimit", limited_by_prlimit},
    {"below_what_is_in_use", below_what_is_in_use},
    {"limited_from_outside", limited_from_outside},
    {"a_limit_that_is_lifted", a_limit_that_is_lifted},
    {"others_move_in", others_move_in},
    {"most_of_the_address_space", most_of_the_address_space},
    {"started_under_a_limit", started_under_a_limit},
};
SERVED_MAIN(cases)
