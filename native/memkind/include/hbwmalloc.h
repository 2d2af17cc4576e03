/* SPDX-License-Identifier: BSD-3-Clause
 *
 * hbwmalloc.h: memkind's calls for high-bandwidth memory, on libnumalloc (libnumalloc_memkind.so): those that programs still
 * use, compatible in source and in binary form. High-bandwidth memory is NUMALLOC_KIND_BANDWIDTH, on machines where the
 * kernel tells it and not all nodes are alike.
 *
 * Differences. What does not fit on the nodes of a bind policy is NULL, and not the OOM killer. Blocks may be passed to
 * numalloc_free(), and back.
 */
#ifndef NUMALLOC_HBWMALLOC_H
#define NUMALLOC_HBWMALLOC_H

#include <stddef.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    HBW_POLICY_BIND = 1,       /* high-bandwidth memory or NULL */
    HBW_POLICY_PREFERRED = 2,  /* at first; other memory when there is none left, or none at all */
    HBW_POLICY_INTERLEAVE = 3, /* dealt over the high-bandwidth nodes */
    HBW_POLICY_BIND_ALL = 4    /* as BIND, whose nodes are tried by distance anyway */
} hbw_policy_t;

enum { HBW_TOUCH_PAGES = 1 }; /* hbw_verify_memory_region: fault the pages in first */

hbw_policy_t hbw_get_policy(void);     /* PREFERRED, if nobody set another */
int hbw_set_policy(hbw_policy_t mode); /* once, before the first allocation. 0, EINVAL, EPERM: too late */
int hbw_check_available(void);         /* 0, or ENODEV */

/* 0: every page is in high-bandwidth memory; -1: one is not, or not there yet; EINVAL; EFAULT: it can't be told. */
int hbw_verify_memory_region(void *addr, size_t size, int flags);

void *hbw_malloc(size_t size); /* NULL for size 0 as well */
void *hbw_calloc(size_t num, size_t size);
void *hbw_realloc(void *ptr, size_t size); /* size 0 frees */
void hbw_free(void *ptr);
int hbw_posix_memalign(void **memptr, size_t alignment, size_t size);
size_t hbw_malloc_usable_size(void *ptr);

#ifdef __cplusplus
}
#endif
#endif
