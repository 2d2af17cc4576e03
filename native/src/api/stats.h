/* SPDX-License-Identifier: BSD-3-Clause
 *
 * stats.h: statistics.
 */
#ifndef NA_STATS_H
#define NA_STATS_H

#include "types.h"

#pragma GCC visibility push(hidden)

/* false: public calls go to another copy of this library, which was loaded before (LD_PRELOAD). */
bool na_serves(void);

#pragma GCC visibility pop

#endif
