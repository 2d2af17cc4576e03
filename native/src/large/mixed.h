/* SPDX-License-Identifier: BSD-3-Clause
 *
 * mixed.h: interleaved and blocked memory.
 */
#ifndef NA_MIXED_H
#define NA_MIXED_H

#include "types.h"

#pragma GCC visibility push(hidden)

void *na_mixed_alloc(const na_placement *placement, size_t size, size_t align, unsigned flags);
void na_mixed_free(na_span *span);
/* Freed spans that wait with their policy since before a time in ms go back, the oldest first, about so many bytes of
 * them; takes the lock. false: there were none. */
bool na_mixed_release(na_region *region, uint64_t before, uint64_t bytes);

#pragma GCC visibility pop

#endif
