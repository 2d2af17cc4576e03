/* SPDX-License-Identifier: BSD-3-Clause
 *
 * loading.c: libraries that come and go while the allocator is in place; and the allocator's own library loaded
 * late, into what static TLS is left. Arguments: directory of the libraries, then cases.
 */
#define _GNU_SOURCE
#include "../check.h"
#include "served.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>

static const char *directory;

static void *open_library(const char *name, int flags) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    void *library = dlopen(path, flags);
    if (library == NULL) printf("%s\n", dlerror());
    return library;
}

static _Atomic(int) stop;
static void *work(void *unused) {
    while (!atomic_load(&stop))
        for (size_t size = 1; size < 100000; size *= 2) free(malloc(size));
    return unused;
}

static void use(const char *name, int rounds) {
    for (int i = 0; i < rounds; i++) {
        void *library = open_library(name, i % 2 == 0 ? RTLD_NOW : RTLD_LAZY);
        CHECK(library != NULL);
        char *(*block)(void) = (char *(*)(void))dlsym(library, "module_block");
        int (*threads)(void) = (int (*)(void))dlsym(library, "module_threads");
        CHECK(block != NULL && threads != NULL);
        char *text = block();
        CHECK_EQUAL(threads(), 1500);
        CHECK_EQUAL(dlclose(library), 0);
        CHECK(served(text) && strcmp(text, "from the module") == 0);
        free(text); /* outlives its library */
    }
}

static void open_and_close(void) {
    served_or_exit();
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, work, NULL), 0);
    use("libmodule.so", 100);
    use("libmodule_static.so", 100);
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* The C++ runtime is in no scope that the preloaded library sees: bad_alloc is thrown all the same. */
static void bad_alloc_in_a_module(void) {
    served_or_exit();
    static const char *const names[] = {"libmodule.so", "libmodule_static.so"};
    for (int i = 0; i < 2; i++) {
        void *library = open_library(names[i], RTLD_NOW | RTLD_LOCAL);
        CHECK(library != NULL);
        int (*catches)(void) = (int (*)(void))dlsym(library, "module_catches");
        CHECK_EQUAL(catches(), 7);
        CHECK_EQUAL(dlclose(library), 0);
    }
}

static void *allocate_late(void *symbol) {
    void *(*allocate)(size_t) = (void *(*)(size_t))symbol;
    char *block = allocate(100);
    if (block != NULL) memset(block, 1, 100);
    return block;
}

/* libnumalloc.so itself, as Python or a plug-in loads it, beside libraries that took static TLS; threads that ran
 * before must be able to use it. */
static void late_library(void) {
    for (int i = 0; i < 8; i++) {
        char name[64];
        snprintf(name, sizeof name, "libtls_few%d.so", i);
        void *library = open_library(name, RTLD_NOW);
        CHECK(library != NULL);
        int (*sum)(void) = (int (*)(void))dlsym(library, "tls_sum");
        CHECK_EQUAL(sum(), 1);
    }
    pthread_t thread;
    atomic_store(&stop, 0);
    CHECK_EQUAL(pthread_create(&thread, NULL, work, NULL), 0);
    void *library = open_library("libnumalloc.so", RTLD_NOW);
    CHECK(library != NULL);
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    void *allocate = dlsym(library, "numalloc");
    void (*release)(void *) = (void (*)(void *))dlsym(library, "numalloc_free");
    CHECK(allocate != NULL && release != NULL);
    release(allocate_late(allocate));
    for (int i = 0; i < 10; i++) {
        void *block;
        CHECK_EQUAL(pthread_create(&thread, NULL, allocate_late, allocate), 0);
        CHECK_EQUAL(pthread_join(thread, &block), 0);
        CHECK(block != NULL);
        release(block);
    }
    CHECK_EQUAL(dlclose(library), 0); /* stays: threads' ends call it */
    CHECK_EQUAL(pthread_create(&thread, NULL, allocate_late, allocate), 0);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
}

/* Where static TLS is used up the dynamic linker says so, and nothing is half loaded. */
static void fill(const char *name, int number) {
    char path[4096];
    snprintf(path, sizeof path, "%s/lib%s%d.so", directory, name, number);
    CHECK_EQUAL(access(path, R_OK), 0);
    (void)dlopen(path, RTLD_NOW); /* some find no room, that is the purpose */
}
static void no_room_left(void) {
    for (int bytes = 4096; bytes >= 16; bytes /= 2) fill("tls_", bytes);
    for (int i = 0; i < 4; i++) fill("tls_least", i); /* what alignment left over */
    char path[4096];
    snprintf(path, sizeof path, "%s/libnumalloc.so", directory);
    CHECK(dlopen(path, RTLD_NOW) == NULL);
    CHECK(strstr(dlerror(), "static TLS") != NULL);
    free(malloc(100));
}

static const check_case cases[] = {
    {"open_and_close", open_and_close},
    {"bad_alloc_in_a_module", bad_alloc_in_a_module},
    {"late_library", late_library},
    {"no_room_left", no_room_left},
};

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    directory = argv[1];
    return check_main(cases, sizeof cases / sizeof *cases, argc - 1, argv + 1);
}
