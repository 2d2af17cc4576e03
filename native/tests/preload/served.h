/* SPDX-License-Identifier: BSD-3-Clause
 *
 * served.h: for programs that run under LD_PRELOAD. They link nothing of the library: what they call is what any
 * program calls, and these two, which are there if the library is.
 */
#ifndef NA_TESTS_SERVED_H
#define NA_TESTS_SERVED_H

#include <stdio.h>
#include <stdlib.h>

#include "numa_alloc.h"

#pragma weak numalloc_node_count
#pragma weak numalloc_node_of
#pragma weak numalloc_stats_sized
#pragma weak numalloc_stats_json
#pragma weak numalloc_verify

/* Is it a live block of the library? */
static inline int served(void *ptr) {
    __asm__("" : "+r"(ptr)); /* what is in it does not matter, and the compiler warns when it is nothing */
    return &numalloc_node_of != NULL && numalloc_node_of(ptr) != NUMALLOC_NODE_FOREIGN;
}

/* First in main: without the library every case would test the C library. */
static inline void served_or_exit(void) {
    void *ptr = malloc(1);
    if (!served(ptr)) {
        printf("malloc is not served by the library: run with LD_PRELOAD=libnumalloc_preload.so\n");
        exit(1);
    }
    free(ptr);
}

/* The main of most of these programs; check.h comes before. */
#define SERVED_MAIN(cases)                                                                                             \
    int main(int argc, char **argv) {                                                                                  \
        served_or_exit();                                                                                              \
        return check_main(cases, sizeof(cases) / sizeof(cases)[0], argc, argv);                                        \
    }

#endif
