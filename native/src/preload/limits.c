/* SPDX-License-Identifier: BSD-3-Clause
 *
 * limits.c: setrlimit and prlimit. Reserved address space counts against RLIMIT_AS, so it goes back before a program
 * limits itself: its next thread or library would find no room otherwise.
 *
 * Threads: no state.
 */
#define _GNU_SOURCE
#include "api/api.h"
#include "space/space.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static int set(pid_t process, int resource, const struct rlimit *limit, struct rlimit *before) {
    if (resource == RLIMIT_AS && limit != NULL && limit->rlim_cur != RLIM_INFINITY &&
        (process == 0 || process == getpid()))
        (void)(na_init() && na_regions_let_go(limit->rlim_cur));
    return (int)syscall(SYS_prlimit64, process, resource, limit, before);
}

/* 64-bit systems have one layout of the structure and both names of each call. Their first parameters are enumerations
 * in C, so the names are given to functions of other ones. */
NUMALLOC_API int na_setrlimit(int resource, const struct rlimit *limit) __asm__("setrlimit");
NUMALLOC_API int na_setrlimit64(int resource, const struct rlimit *limit) __asm__("setrlimit64");
NUMALLOC_API int na_prlimit(pid_t process, int resource, const struct rlimit *limit,
                            struct rlimit *before) __asm__("prlimit");
NUMALLOC_API int na_prlimit64(pid_t process, int resource, const struct rlimit *limit,
                              struct rlimit *before) __asm__("prlimit64");

int na_setrlimit(int resource, const struct rlimit *limit) { return set(0, resource, limit, NULL); }
int na_setrlimit64(int resource, const struct rlimit *limit) { return set(0, resource, limit, NULL); }
int na_prlimit(pid_t process, int resource, const struct rlimit *limit, struct rlimit *before) {
    return set(process, resource, limit, before);
}
int na_prlimit64(pid_t process, int resource, const struct rlimit *limit, struct rlimit *before) {
    return set(process, resource, limit, before);
}
