/* SPDX-License-Identifier: BSD-3-Clause */
/* A library that has the allocator inside, by libnumalloc.a. */
#include <string.h>

#include "numa_alloc.h"

__attribute__((visibility("default"))) int plugin_allocates(void);
int plugin_allocates(void) {
    char *small = numalloc(100), *large = numalloc(1 << 20);
    if (small == NULL || large == NULL) return 1;
    memset(large, 1, 1 << 20);
    numalloc_free(small);
    numalloc_free(large);
    return 0;
}
