/* SPDX-License-Identifier: BSD-3-Clause
 *
 * api.h: what the public calls share.
 */
#ifndef NA_API_H
#define NA_API_H

#include <stdbool.h>

#include "heap/fast.h"

#pragma GCC visibility push(hidden)

/* ---- init.c: the first call, and the library's life ---- */

/* Idempotent; every public call begins with it. false with errno if the address space can't be reserved. */
bool na_init(void);

/* false: public calls go to another copy of this library, which was loaded before (LD_PRELOAD). */
bool na_serves(void);

/* ---- api.c: what the public calls do below the modes ---- */

void *na_alloc(na_region *region, size_t size, size_t align, unsigned flags); /* in that region or not at all */

/* What the public calls do while no hook is set, and what the modes call. */
void *na_request(const numalloc_request_t *request);
void *na_realloc(void *ptr, size_t size);
void na_free(void *ptr, const char *call);

void *na_alloc_slow(size_t size);                              /* NULL with errno */
void na_free_slow(na_span *span, void *ptr, const char *call); /* span: na_span_at(ptr) */
static inline void *na_alloc_any(size_t size) {
    void *block = na_alloc_fast(size);
    return NA_LIKELY(block != NULL) ? block : na_alloc_slow(size);
}

uintptr_t na_block_start(const void *ptr); /* of the live block that ptr points into; 0: none */

/* ---- fork.c: fork over all locks ---- */

void na_fork_install(void);

#pragma GCC visibility pop

#endif
