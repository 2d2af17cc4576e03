/* SPDX-License-Identifier: BSD-3-Clause
 *
 * preload.h: between the files of this folder.
 */
#ifndef NA_PRELOAD_H
#define NA_PRELOAD_H

#include <stdint.h>

/* The function of that name in the libraries after this one; NULL if there is none. errno is left alone. */
void *na_preload_next(const char *name);

/* The same, remembered in `known` once found. */
uintptr_t na_preload_next_known(_Atomic(uintptr_t) *known, const char *name);

#endif
