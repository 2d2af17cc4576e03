/* SPDX-License-Identifier: BSD-3-Clause
 *
 * leaks.h: the leak report.
 */
#ifndef NA_LEAKS_H
#define NA_LEAKS_H

#include "types.h"

#pragma GCC visibility push(hidden)

void na_leaks_exit(void);
void na_leaks_fork(void);

#pragma GCC visibility pop

#endif
