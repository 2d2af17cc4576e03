/* SPDX-License-Identifier: BSD-3-Clause
 *
 * init.h: the first call.
 */
#ifndef NA_INIT_H
#define NA_INIT_H

#include <stdbool.h>

/* Idempotent; every public call begins with it. false with errno when the address space can't be had. */
bool na_init(void) __attribute__((visibility("hidden")));

#endif
