/* SPDX-License-Identifier: BSD-3-Clause
 *
 * served.h: for programs that run under LD_PRELOAD. They link nothing of the library: what they call is what any
 * program calls, and these two, which are there if the library is.
 */
#ifndef NA_TESTS_SERVED_H
#define NA_TESTS_SERVED_H

#include <stdio.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif
__attribute__((weak)) extern int numalloc_node_of(void *ptr);
__attribute__((weak)) extern int numalloc_verify(void);
#ifdef __cplusplus
}
#endif

/* Is it a live block of the library? */
static inline int served(void *ptr) { return numalloc_node_of != NULL && numalloc_node_of(ptr) != -2; }

/* First in main: without the library every case would test the C library. */
static inline void served_or_exit(void) {
    void *ptr = malloc(1);
    if (!served(ptr)) {
        printf("malloc is not served by the library: run with LD_PRELOAD=libnumalloc_preload.so\n");
        exit(1);
    }
    free(ptr);
}

#endif
