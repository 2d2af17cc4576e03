/* SPDX-License-Identifier: BSD-3-Clause
 *
 * meta.h: descriptors of spans, and memory for other metadata; with the region's lock held.
 */
#ifndef NA_META_H
#define NA_META_H

#include "types.h"

#pragma GCC visibility push(hidden)

int na_descriptors_open(na_region *region, size_t spans); /* so many may be had without a further system call */
na_span *na_descriptor_new(na_region *region);            /* NULL: no memory */
void na_descriptor_delete(na_region *region, na_span *span);
na_span *na_descriptor_at(const na_region *region, uint32_t index);
void *na_meta_alloc(na_region *region,
                    size_t bytes); /* zeros, in whole cache lines, never given back; NULL: no memory */

#pragma GCC visibility pop

#endif
