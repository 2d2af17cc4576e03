/* SPDX-License-Identifier: BSD-3-Clause */
/* A program with functions and variables that are called as those inside libnumalloc.a are. */
#include <stddef.h>
#include <stdio.h>

#include "numa_alloc.h"

static int called;
#define OWN(name)                                                                                                      \
    int name(void);                                                                                                    \
    int name(void) { return ++called; }                                                                                \
    extern int name(void)
OWN(os_map);
OWN(os_release);
OWN(os_commit);
OWN(os_bind);
OWN(os_page_size);
OWN(os_message);
OWN(os_now_ms);
OWN(na_alloc);
OWN(na_free);
OWN(na_init);
OWN(na_span_alloc);
OWN(na_region_open);
OWN(na_heap_of);
extern int na_opt, na_topo;
int na_opt = 1, na_topo = 2;

int main(void) {
    void *block = numalloc(1 << 20);
    numalloc_free(block);
    numalloc_cleanup();
    printf("own_names: %s\n", block != NULL && called == 0 && na_opt == 1 && na_topo == 2 ? "ok" : "FAILED");
    return block == NULL || called != 0 || na_opt != 1 || na_topo != 2;
}
