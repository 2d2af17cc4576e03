/* SPDX-License-Identifier: BSD-3-Clause */
/* Preloaded into the programs of the NUMA lab, it switches placement off: every mbind succeeds and does nothing. The checks
 * must notice. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

long syscall(long number, ...) {
    static long (*real)(long, ...);
    if (number == SYS_mbind) return 0;
    long argument[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++) argument[i] = va_arg(arguments, long);
    va_end(arguments);
    if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "syscall");
    return real(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
}
