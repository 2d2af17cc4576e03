/* SPDX-License-Identifier: BSD-3-Clause
 *
 * early.h: what early.c did before main.
 */
#ifndef NA_TESTS_EARLY_H
#define NA_TESTS_EARLY_H

#include <pthread.h>

extern char *early_block, *early_large;
extern int early_forks[3]; /* calls of its prepare, parent and child handler */
extern pthread_key_t early_key;

void early_allocate(void);
void early_at_thread_end(void (*function)(void *)); /* destructor of early_key */

#endif
