/* SPDX-License-Identifier: BSD-3-Clause
 *
 * pair: the time of one allocation and its free, called directly. One line: the program, then ns for 64, 1000 and 16384
 * bytes and 1 MiB as constants, for 64 bytes where the compiler does not know the size, and for 64 bytes sixteen at a
 * time. Built against the shared and the static library, with and without numa_alloc_inline.h. The best of many rounds,
 * each shorter than what a scheduler lets a process run for.
 */
#include <stdio.h>
#include <time.h>

#ifdef PAIR_INLINE
#include "numa_alloc_inline.h"
#else
#include "numa_alloc.h"
#endif

enum { ROUNDS = 60 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

#define MEASURE(best, size, pairs)                                                                                     \
    do {                                                                                                               \
        best = 1e30;                                                                                                   \
        for (int round = 0; round < ROUNDS; round++) {                                                                 \
            double began = now();                                                                                      \
            for (long i = 0; i < (pairs); i++) {                                                                       \
                volatile long *p = (volatile long *)numalloc(size);                                                    \
                if (p == NULL) return 1;                                                                               \
                *p = i;                                                                                                \
                numalloc_free((void *)(size_t)p);                                                                      \
            }                                                                                                          \
            double each = (now() - began) / (double)(pairs);                                                           \
            if (each < best) best = each;                                                                              \
        }                                                                                                              \
    } while (0)

/* Sixteen blocks at a time: what the calls cost a program that does not wait for each. */
static int sixteen(double *best) {
    *best = 1e30;
    for (int round = 0; round < ROUNDS; round++) {
        double began = now();
        for (int i = 0; i < 6000; i++) {
            void *p[16];
            for (int k = 0; k < 16; k++) {
                p[k] = numalloc(64);
                if (p[k] == NULL) return 0;
                *(volatile int *)p[k] = i;
            }
            for (int k = 0; k < 16; k++) numalloc_free(p[k]);
        }
        double each = (now() - began) / (6000.0 * 16.0);
        if (each < *best) *best = each;
    }
    return 1;
}

int main(int argc, char **argv) {
    volatile size_t unknown = 64;
    double b64, b1000, b16k, b1m, bunknown, b16;
    MEASURE(b64, 64, 100000L);
    MEASURE(b1000, 1000, 100000L);
    MEASURE(b16k, 16384, 100000L);
    MEASURE(b1m, 1048576, 5000L);
    MEASURE(bunknown, unknown, 100000L);
    if (!sixteen(&b16)) return 1;
    printf("%-26s %7.2f %7.2f %7.2f %7.1f %7.2f %7.2f\n", argc > 0 ? argv[0] : "", b64, b1000, b16k, b1m, bunknown,
           b16);
    return 0;
}
