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
void na_mixed_purge_due(na_region *region, bool all); /* with the lock held */

#pragma GCC visibility pop

#endif
