/* SPDX-License-Identifier: BSD-3-Clause
 *
 * preload.h: between preload.c and preload_cxx.c.
 */
#ifndef NA_PRELOAD_H
#define NA_PRELOAD_H

/* The function of that name in the libraries after this one; NULL if there is none. errno is left alone. */
void *na_preload_next(const char *name);

#endif
