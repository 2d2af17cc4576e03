/* SPDX-License-Identifier: BSD-3-Clause */
/* What GCC warns of, one mistake a definition; without any, nothing. */
#include <string.h>

#include "numa_alloc.h"

void *f(void);
void *f(void) {
    void *p;
#if defined(PAST_END)
    p = numalloc(100);
    if (p != NULL) memset(p, 1, 101);
#elif defined(PAST_END_OF_CALLOC)
    p = numalloc_calloc(10, 10);
    if (p != NULL) memset(p, 1, 101);
#elif defined(PAST_END_OF_ALIGNED)
    p = numalloc_aligned(64, 100);
    if (p != NULL) memset(p, 1, 101);
#elif defined(TOO_LARGE)
    p = numalloc(2000000000);
#else
    p = numalloc_realloc(numalloc(100), 101);
    if (p != NULL) memset(p, 1, 101);
#endif
    return p;
}
