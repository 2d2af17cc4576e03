/* SPDX-License-Identifier: BSD-3-Clause
 *
 * calls.c: each call of the malloc family, under LD_PRELOAD, does what the manual of glibc says.
 */
#define _GNU_SOURCE
#include "../check.h"
#include "served.h"

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdint.h>
#include <unistd.h>

/* Not in the headers of every glibc. */
struct usage2 {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
static struct usage2 (*usage2_now)(void);

/* The compiler knows these functions and would leave calls out. */
static void *volatile sink;
static void *volatile nothing = NULL;

static void every_name(void) {
    static const char *const names[] = {
        "malloc",
        "calloc",
        "realloc",
        "reallocarray",
        "free",
        "cfree",
        "memalign",
        "aligned_alloc",
        "posix_memalign",
        "valloc",
        "pvalloc",
        "malloc_usable_size",
        "mallinfo",
        "mallinfo2",
        "malloc_trim",
        "mallopt",
        "malloc_stats",
        "malloc_info",
        "free_sized",
        "free_aligned_sized",
        "_Znwm",
        "_Znam",
        "_ZnwmRKSt9nothrow_t",
        "_ZnamRKSt9nothrow_t",
        "_ZnwmSt11align_val_t",
        "_ZnamSt11align_val_t",
        "_ZnwmSt11align_val_tRKSt9nothrow_t",
        "_ZnamSt11align_val_tRKSt9nothrow_t",
        "_ZdlPv",
        "_ZdaPv",
        "_ZdlPvm",
        "_ZdaPvm",
        "_ZdlPvRKSt9nothrow_t",
        "_ZdaPvRKSt9nothrow_t",
        "_ZdlPvSt11align_val_t",
        "_ZdaPvSt11align_val_t",
        "_ZdlPvmSt11align_val_t",
        "_ZdaPvmSt11align_val_t",
        "_ZdlPvSt11align_val_tRKSt9nothrow_t",
        "_ZdaPvSt11align_val_tRKSt9nothrow_t",
    };
    Dl_info library;
    CHECK(dladdr((void *)numalloc_node_of, &library) != 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Dl_info where;
        void *found = dlsym(RTLD_DEFAULT, names[i]);
        if (found == NULL || dladdr(found, &where) == 0 || where.dli_fbase != library.dli_fbase) {
            printf("%s is not the library's\n", names[i]);
            CHECK(found == NULL);
            CHECK(!"interposed");
        }
    }
}

static void sizes(void) {
    static const size_t size[] = {0, 1, 15, 16, 17, 1000, 1024, 1025, 65536, 65537, 1 << 20, 5 << 20};
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        char *ptr = malloc(size[i]);
        CHECK(ptr != NULL && served(ptr));
        CHECK_EQUAL((uintptr_t)ptr % 16, 0);
        CHECK(malloc_usable_size(ptr) >= size[i]);
        memset(ptr, 1, malloc_usable_size(ptr)); /* all of it may be used */
        free(ptr);
        char *zero = calloc(size[i], 1);
        CHECK(zero != NULL && served(zero));
        for (size_t k = 0; k < size[i]; k++) CHECK(zero[k] == 0);
        free(zero);
    }
    CHECK_EQUAL(malloc_usable_size(nothing), 0);
    free(nothing);
}

/* Each call that takes a size, with sizes from all 64 bits: no block, or one as long as was asked for. */
static void sizes_of_every_bit(void) {
    static const size_t extra[] = {0, 1, 640 << 10, 5 << 20, (size_t)-1};
    for (int bit = 40; bit < 64; bit++)
        for (size_t i = 0; i < sizeof extra / sizeof *extra; i++) {
            volatile size_t size = ((size_t)1 << bit) + extra[i];
            void *given[12] = {malloc(size),
                               calloc(1, size),
                               calloc(size, 1),
                               calloc(2, size / 2),
                               memalign(64, size),
                               aligned_alloc(64, size),
                               valloc(size),
                               pvalloc(size),
                               realloc(nothing, size),
                               realloc(malloc(100), size),
                               realloc(malloc(3 << 20), size),
                               reallocarray(malloc(100000), 2, size / 2)};
            void *aligned = NULL;
            if (posix_memalign(&aligned, 64, size) == 0) CHECK(malloc_usable_size(aligned) >= size);
            free(aligned);
            for (int k = 0; k < 12; k++) {
                if (given[k] != NULL) CHECK(malloc_usable_size(given[k]) >= size / 2 * 2);
                free(given[k]);
            }
        }
}

static void out_of_range(void) {
    volatile size_t huge = (size_t)PTRDIFF_MAX + 1, half = SIZE_MAX / 2 + 2, all = SIZE_MAX;
#define REFUSED(call, error)                                                                                           \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        sink = (call);                                                                                                 \
        CHECK(sink == NULL);                                                                                           \
        CHECK_EQUAL(errno, error);                                                                                     \
    } while (0)
    REFUSED(malloc(huge), ENOMEM);
    REFUSED(malloc(all), ENOMEM);
    REFUSED(calloc(half, 2), ENOMEM);
    REFUSED(calloc(2, half), ENOMEM);
    REFUSED(calloc(huge, 1), ENOMEM);
    REFUSED(realloc(nothing, huge), ENOMEM);
    REFUSED(memalign(64, huge), ENOMEM);
    REFUSED(memalign(64, all), ENOMEM);
    REFUSED(memalign(half, 1), EINVAL);
    REFUSED(aligned_alloc(64, all), ENOMEM);
    REFUSED(valloc(all), ENOMEM);
    REFUSED(pvalloc(all), ENOMEM);
    REFUSED(pvalloc(all - 4095), ENOMEM);
    volatile size_t three = 3, none = 0, far = (size_t)1 << 62;
    REFUSED(aligned_alloc(three, 24), EINVAL);
    REFUSED(aligned_alloc(none, 24), EINVAL);
    REFUSED(aligned_alloc(far, 1), ENOMEM);
    char *volatile block = malloc(100);
    memset(block, 7, 100);
    REFUSED(realloc(block, huge), ENOMEM);
    REFUSED(reallocarray(block, half, 2), ENOMEM);
    for (int i = 0; i < 100; i++) CHECK(block[i] == 7);
    free(block);
}

static void alignments(void) {
    for (size_t align = 1; align <= (size_t)1 << 24; align *= 2) {
        void *ptr = memalign(align, 100);
        CHECK(ptr != NULL && served(ptr));
        CHECK_EQUAL((uintptr_t)ptr % align, 0);
        free(ptr);
        ptr = aligned_alloc(align, 100);
        CHECK(ptr != NULL && served(ptr));
        CHECK_EQUAL((uintptr_t)ptr % align, 0);
        free(ptr);
        int error = posix_memalign(&ptr, align, 100);
        CHECK_EQUAL(error, align < sizeof(void *) ? EINVAL : 0);
        if (error == 0) free(ptr);
    }
    volatile size_t odd = 48;
    void *ptr = memalign(odd, 10); /* rounded up */
    CHECK_EQUAL((uintptr_t)ptr % 64, 0);
    free(ptr);
    void *out = &ptr;
    errno = 5;
    CHECK_EQUAL(posix_memalign(&out, odd, 10), EINVAL);
    volatile size_t none = 0, all = SIZE_MAX;
    CHECK_EQUAL(posix_memalign(&out, none, 10), EINVAL);
    CHECK_EQUAL(posix_memalign(&out, 64, all), ENOMEM);
    CHECK(out == &ptr);
    CHECK_EQUAL(errno, 5);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *whole = pvalloc(1);
    CHECK_EQUAL((uintptr_t)whole % page, 0);
    CHECK(malloc_usable_size(whole) >= page);
    free(whole);
    whole = pvalloc(page + 1);
    CHECK(malloc_usable_size(whole) >= 2 * page);
    free(whole);
    ptr = valloc(10);
    CHECK_EQUAL((uintptr_t)ptr % page, 0);
    free(ptr);
}

static void resizing(void) {
    char *ptr = realloc(nothing, 10);
    CHECK(served(ptr));
    for (size_t size = 10; size < (8 << 20); size += size / 3 + 1) {
        memset(ptr, (int)(size & 127), size);
        ptr = realloc(ptr, size + size / 3 + 1);
        CHECK(ptr != NULL);
        for (size_t i = 0; i < size; i += 61) CHECK(ptr[i] == (char)(size & 127));
    }
    ptr = reallocarray(ptr, 3, 5);
    CHECK(ptr != NULL && malloc_usable_size(ptr) >= 15);
    struct usage2 before = usage2_now();
    volatile size_t none = 0;
    errno = 5;
    CHECK(realloc(ptr, none) == NULL); /* frees, and is no error */
    CHECK_EQUAL(errno, 5);
    CHECK(usage2_now().uordblks < before.uordblks);
}

static void freeing(void) {
    void (*sized)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    void (*aligned)(void *, size_t, size_t) =
        (void (*)(void *, size_t, size_t))dlsym(RTLD_DEFAULT, "free_aligned_sized");
    void (*old)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
    CHECK(sized != NULL && aligned != NULL && old != NULL);
    struct usage2 before = usage2_now();
    for (size_t size = 1; size < (4 << 20); size *= 3) {
        void *ptr[4] = {malloc(size), malloc(size), aligned_alloc(64, size), malloc(size)};
        errno = 42;
        sized(ptr[0], size);
        old(ptr[1]);
        aligned(ptr[2], 64, size);
        free(ptr[3]);
        CHECK_EQUAL(errno, 42);
    }
    sized(NULL, 0);
    CHECK_EQUAL(usage2_now().uordblks, before.uordblks);
}

static void usage(void) {
    struct usage2 before = usage2_now();
    CHECK(before.arena == before.uordblks + before.fordblks);
    enum { COUNT = 1000 };
    static void *small[COUNT];
    for (int i = 0; i < COUNT; i++) small[i] = malloc(1000);
    char *large = malloc(64 << 20);
    struct usage2 during = usage2_now();
    CHECK(during.uordblks - before.uordblks >= COUNT * 1000 && during.uordblks - before.uordblks < COUNT * 1300);
    CHECK_EQUAL(during.hblks - before.hblks, 1);
    CHECK_EQUAL(during.hblkhd - before.hblkhd, 64 << 20);
    CHECK(during.arena == during.uordblks + during.fordblks);
    memset(large, 1, 64 << 20);
    free(large);
    for (int i = 0; i < COUNT; i++) free(small[i]);
    struct usage2 after = usage2_now();
    CHECK_EQUAL(after.uordblks, before.uordblks);
    CHECK_EQUAL(after.hblkhd, before.hblkhd);
    CHECK(after.keepcost >= 64 << 20); /* warm */
    CHECK_EQUAL(malloc_trim(0), 1);
    CHECK(usage2_now().keepcost < after.keepcost);
    CHECK_EQUAL(malloc_trim(0), 0); /* nothing is left */
}

/* mallinfo's ints. */
static void saturation(void) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    void *ptr = malloc((size_t)3 << 30); /* never touched */
    CHECK(ptr != NULL);
    struct mallinfo info = mallinfo();
    struct usage2 wide = usage2_now();
    free(ptr);
    CHECK_EQUAL(info.hblkhd, INT32_MAX);
    CHECK_EQUAL(info.uordblks, wide.uordblks);
    CHECK_EQUAL(info.fordblks, wide.fordblks);
    CHECK_EQUAL(info.arena, wide.arena);
    CHECK_EQUAL(info.hblks, wide.hblks);
#pragma GCC diagnostic pop
}

static void tuning(void) {
    CHECK_EQUAL(mallopt(M_MMAP_THRESHOLD, 1 << 20), 1);
    CHECK_EQUAL(mallopt(M_ARENA_MAX, 1), 1);
    CHECK_EQUAL(mallopt(M_MXFAST, 64), 1);
    CHECK_EQUAL(mallopt(M_MXFAST, 1 << 20), 0);
    CHECK_EQUAL(mallopt(M_PERTURB, 0), 1);
    CHECK_EQUAL(mallopt(M_PERTURB, 0xaa), 0);
    CHECK_EQUAL(mallopt(12345, 1), 0);
    char *large = malloc(8 << 20);
    memset(large, 1, 8 << 20);
    CHECK_EQUAL(mallopt(M_TRIM_THRESHOLD, -1), 1); /* memory stays */
    free(large);
    CHECK_EQUAL(malloc_trim(0), 0);
    CHECK_EQUAL(mallopt(M_TRIM_THRESHOLD, 128 << 10), 1); /* as before */
    CHECK_EQUAL(malloc_trim(0), 1);
}

static void show_stats(void) { malloc_stats(); }

static void reports(void) {
    char text[4096];
    void *held = malloc(64 << 20);
    int status = check_child(show_stats, text, sizeof text);
    CHECK_EQUAL(status, 0);
    size_t bytes = 0;
    const char *at = strstr(text, "large bytes      =");
    CHECK(strstr(text, "Node 0:") != NULL && at != NULL && sscanf(at, "large bytes = %zu", &bytes) == 1);
    CHECK_EQUAL(bytes, usage2_now().hblkhd);
    char *xml = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&xml, &length);
    CHECK_EQUAL(malloc_info(1, out), EINVAL);
    CHECK_EQUAL(malloc_info(0, out), 0);
    fclose(out);
    CHECK(strncmp(xml, "<malloc version=\"1\">\n<heap nr=\"0\">\n", 35) == 0);
    CHECK(strcmp(xml + length - 10, "</malloc>\n") == 0);
    snprintf(text, sizeof text, "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n<system", usage2_now().hblks,
             bytes);
    CHECK(strstr(xml, text) != NULL);
    free(xml);
    free(held);
}

/* A program without a C++ runtime calls operator new: nobody can throw. */
static void new_too_much(void) {
    void *(*operator_new)(size_t) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "_Znwm");
    sink = operator_new((size_t)PTRDIFF_MAX + 1);
}

static void new_without_runtime(void) {
    char text[1024];
    void *(*nothrow)(size_t, const void *) =
        (void *(*)(size_t, const void *))dlsym(RTLD_DEFAULT, "_ZnwmRKSt9nothrow_t");
    CHECK(nothrow != NULL && nothrow((size_t)PTRDIFF_MAX + 1, "") == NULL);
    CHECK_EQUAL(check_child(new_too_much, text, sizeof text), 256 + SIGABRT);
    CHECK(strstr(text, "operator new(9223372036854775808)") != NULL && strstr(text, "remedy") != NULL);
}

static const check_case cases[] = {
    {"every_name", every_name},
    {"sizes", sizes},
    {"sizes_of_every_bit", sizes_of_every_bit},
    {"out_of_range", out_of_range},
    {"alignments", alignments},
    {"resizing", resizing},
    {"freeing", freeing},
    {"usage", usage},
    {"saturation", saturation},
    {"tuning", tuning},
    {"reports", reports},
    {"new_without_runtime", new_without_runtime},
};

int main(int argc, char **argv) {
    served_or_exit();
    usage2_now = (struct usage2(*)(void))dlsym(RTLD_DEFAULT, "mallinfo2");
    if (usage2_now == NULL) return 1;
    return check_main(cases, sizeof cases / sizeof *cases, argc, argv);
}
