/* SPDX-License-Identifier: BSD-3-Clause
 *
 * deepbind.c: blocks that pass between a program and a library that it opened with RTLD_DEEPBIND. The library is where
 * only the RUNPATH of this program says: dlopen has to know its caller.
 */
#define _GNU_SOURCE
#include "../check.h"
#include "served.h"

#include <dlfcn.h>

static void blocks_pass_both_ways(void) {
    served_or_exit();
    void *library = dlopen("libdeep.so", RTLD_NOW | RTLD_DEEPBIND);
    if (library == NULL) printf("%s\n", dlerror());
    CHECK(library != NULL);
    void (*release)(void *) = (void (*)(void *))dlsym(library, "deep_free");
    void *(*allocate)(size_t) = (void *(*)(size_t))dlsym(library, "deep_malloc");
    for (size_t size = 1; size < 4000000; size *= 3) {
        release(malloc(size));
        void *block = allocate(size);
        CHECK(served(block));
        free(block);
    }
    CHECK_EQUAL(dlclose(library), 0);
}

static void errors_are_dlopens_own(void) {
    CHECK(dlopen("libnone.so", RTLD_NOW | RTLD_DEEPBIND) == NULL);
    const char *text = dlerror();
    CHECK(text != NULL && strstr(text, "libnone.so") != NULL);
    CHECK(dlopen(NULL, RTLD_NOW) != NULL);
}

static const check_case cases[] = {
    {"blocks_pass_both_ways", blocks_pass_both_ways},
    {"errors_are_dlopens_own", errors_are_dlopens_own},
};

int main(int argc, char **argv) { return check_main(cases, sizeof cases / sizeof *cases, argc, argv); }
