/* SPDX-License-Identifier: BSD-3-Clause
 *
 * bump.h: memory of records and sites.
 */
#ifndef NA_BUMP_H
#define NA_BUMP_H

#include "types.h"

#pragma GCC visibility push(hidden)

void *na_bump_alloc(size_t bytes); /* zeroed, 16-aligned, never given back; NULL at NUMALLOC_WATCH_LIMIT */
size_t na_bump_bytes(void);       /* mapped so far */
void na_bump_fork(int step);

#pragma GCC visibility pop

#endif
