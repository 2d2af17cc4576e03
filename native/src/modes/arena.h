/* SPDX-License-Identifier: BSD-3-Clause
 *
 * arena.h: memory of records and sites.
 */
#ifndef NA_ARENA_H
#define NA_ARENA_H

#include "types.h"

#pragma GCC visibility push(hidden)

void *na_arena_take(size_t bytes); /* zeroed, 16-aligned, never given back; NULL at NUMALLOC_WATCH_LIMIT */
size_t na_arena_bytes(void);       /* mapped so far */
void na_arena_fork(int step);

#pragma GCC visibility pop

#endif
