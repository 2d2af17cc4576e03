/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fork.h: fork over all locks.
 */
#ifndef NA_FORK_H
#define NA_FORK_H

void na_fork_install(void) __attribute__((visibility("hidden")));

#endif
