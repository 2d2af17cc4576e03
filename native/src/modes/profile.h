/* SPDX-License-Identifier: BSD-3-Clause
 *
 * profile.h: the heap profile.
 */
#ifndef NA_PROFILE_H
#define NA_PROFILE_H

#include "modes/stack.h"
#include "types.h"

#pragma GCC visibility push(hidden)

bool na_profile_pick(size_t size);                /* is this block a sample? */
bool na_profile_made(na_site *site, size_t size); /* false: no memory */
void na_profile_gone(na_site *site, size_t size);
void na_profile_exit(void);
void na_profile_fork(void);

/* Exposed for tests. */
double na_exp_minus(double x);         /* e^-x, x >= 0 */
double na_log(double x);               /* x > 0 */
double na_profile_weight(size_t size); /* 1 / probability of being picked */

#pragma GCC visibility pop

#endif
