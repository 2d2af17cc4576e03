/* SPDX-License-Identifier: BSD-3-Clause
 *
 * inline.h: what code compiled with numa_alloc_inline.h sees of the calling thread.
 */
#ifndef NA_INLINE_H
#define NA_INLINE_H

#include "types.h"

#pragma GCC visibility push(hidden)

void na_inline_show(na_heap *heap, int cpu); /* its heap, and the CPU for whose node it is */
void na_inline_hide(void);                   /* no heap: such code calls */

#pragma GCC visibility pop

#endif
