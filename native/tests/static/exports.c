/* SPDX-License-Identifier: BSD-3-Clause */
/* A program that shows the functions of the libnumalloc.a in it, under the preload library: each uses its own. */
#include <stdio.h>
#include <stdlib.h>

#include "numa_alloc.h"

int main(void) {
    void *own = numalloc(50), *block = calloc(1, 100), *aligned = NULL;
    if (own == NULL || block == NULL || posix_memalign(&aligned, 4096, 100) != 0) return 1;
    block = realloc(block, 300);
    aligned = realloc(aligned, 5000);
    numalloc_block_info_t info; /* the program's knows nothing of the other's blocks */
    int known = numalloc_block_info(block, &info) == 0 || numalloc_block_info(aligned, &info) == 0;
    free(block);
    free(aligned);
    numalloc_free(own);
    printf("exports: %s\n", known ? "FAILED" : "ok");
    return known;
}
