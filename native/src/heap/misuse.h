/* SPDX-License-Identifier: BSD-3-Clause
 *
 * misuse.h: what is said of the caller's mistakes.
 */
#ifndef NA_MISUSE_H
#define NA_MISUSE_H

#include "types.h"

#pragma GCC visibility push(hidden)

void na_misuse(const char *call, const void *address, const char *what, const char *remedy);
/* A free block that was written to; `lost` ones, from it on, are never used again. */
void na_list_damaged(const na_span *page, const na_block *block, uint32_t lost, const char *where);
/* The same with more to say, after the line and before the end. */
void na_misuse_more(const char *call, const void *address, const char *what, const char *remedy,
                    void (*more)(const void *data), const void *data);

#pragma GCC visibility pop

#endif
