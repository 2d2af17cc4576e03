/* SPDX-License-Identifier: BSD-3-Clause
 *
 * deepbind.c: dlopen without RTLD_DEEPBIND. A library opened with that flag finds malloc in the C library, not here: its
 * free of a block of this library ends the program, and so does the reverse (php does it with all its modules).
 *
 * Invariant: the C library's dlopen is called by a jump. It takes the address it returns to for its caller, whose
 * RUNPATH and namespace count; the return address is the program's. CMakeLists.txt asks for that optimization, the test
 * preload_deepbind notices a compiler that doesn't do it.
 *
 * Threads: as dlopen; state of its own is what dlsym found, an atomic.
 */
#define _GNU_SOURCE
#include "preload/preload.h"
#include "types.h"

#include <dlfcn.h>

NUMALLOC_API void *dlopen(const char *file, int mode) {
    static _Atomic(uintptr_t) known;
    uintptr_t next = na_preload_next_known(&known, "dlopen");
    return ((void *(*)(const char *, int))next)(file, mode & ~RTLD_DEEPBIND);
}
