/* SPDX-License-Identifier: BSD-3-Clause
 *
 * init.h: the first call.
 */
#ifndef NA_INIT_H
#define NA_INIT_H

#include <stdbool.h>

/* Idempotent; every public call begins with it. false with errno when the address space can't be had. */
bool na_init(void) __attribute__((visibility("hidden")));

/* false: public calls go to another copy of this library, which was loaded before (LD_PRELOAD). */
bool na_serves(void) __attribute__((visibility("hidden")));

#endif
