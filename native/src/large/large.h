/* SPDX-License-Identifier: BSD-3-Clause
 *
 * large.h: blocks of whole slices.
 */
#ifndef NA_LARGE_H
#define NA_LARGE_H

#include "types.h"

#pragma GCC visibility push(hidden)

/* NULL with errno. Flags: NUMALLOC_ZERO and NUMALLOC_POPULATE; NA_GROWING: for realloc, which may want more room soon. */
#define NA_GROWING (1u << 31)
void *na_large_alloc(na_region *region, size_t size, size_t align, unsigned flags);
void na_large_free(na_span *span);
void *na_large_realloc(na_span *span, size_t size); /* in place or moved within its region; NULL with errno */
size_t na_large_align(size_t bytes, size_t align);  /* where a block of that size starts, in bytes */

#pragma GCC visibility pop

#endif
