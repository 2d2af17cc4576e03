/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fork.h: fork over all locks.
 */
#ifndef NA_FORK_H
#define NA_FORK_H

#include "types.h"

#pragma GCC visibility push(hidden)

void na_fork_install(void);
extern bool na_cut_short; /* a child, and its parent had threads, which may have been between two stores */

enum na_fork_step { NA_FORK_PREPARE, NA_FORK_PARENT, NA_FORK_CHILD };

/* The lock of one leaf in the three steps of a fork. */
static inline void na_fork_step(pthread_mutex_t *lock, int step) {
    if (step == NA_FORK_PREPARE) pthread_mutex_lock(lock);
    else if (step == NA_FORK_PARENT) pthread_mutex_unlock(lock);
    else pthread_mutex_init(lock, NULL);
}

#pragma GCC visibility pop

#endif
