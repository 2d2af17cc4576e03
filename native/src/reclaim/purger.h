/* SPDX-License-Identifier: BSD-3-Clause
 *
 * purger.h: the thread that returns memory while the program makes no calls.
 */
#ifndef NA_PURGER_H
#define NA_PURGER_H

#include "types.h"

#pragma GCC visibility push(hidden)

void na_purger_start(void);      /* unless it runs or is not wanted; no lock may be held */
int na_purger_ask(void);         /* wanted from now on; 0 or ENOTSUP */
void na_purger_fork_child(void); /* its thread is gone */

#pragma GCC visibility pop

#endif
