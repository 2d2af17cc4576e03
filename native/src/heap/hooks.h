/* SPDX-License-Identifier: BSD-3-Clause
 *
 * hooks.h: the table through which the modes that see every block are called: leaks, heap profile, guard. Everything below
 * modes/ calls them by this table alone. modes/hooks.c defines it, as it has to be there before any constructor runs; it is
 * the one symbol that is defined further up the stairs than it is used.
 */
#ifndef NA_HOOKS_H
#define NA_HOOKS_H

#include "types.h"

#pragma GCC visibility push(hidden)

enum na_fork_step { NA_FORK_PREPARE, NA_FORK_PARENT, NA_FORK_CHILD };

typedef struct na_hooks {
    bool (*init)(void);  /* options are read, no block was given out. Sets na_hooked; false: no memory for the tables */
    void (*start)(void); /* when constructors run */
    void *(*alloc)(const numalloc_request_t *request);
    void *(*alloc_here)(size_t size, size_t align, unsigned flags); /* NUMALLOC_LOCAL; ends in a jump, see stack.c */
    void *(*realloc)(void *ptr, size_t size);
    void (*free)(void *ptr, const char *call);
    bool (*describe)(numalloc_block_info_t *info); /* raw block to what the user has; false: it was freed */
    bool (*verify)(void);                          /* false: damage, reported */
    void (*cleanup)(bool report);
    void (*fork)(int step);
} na_hooks;
extern const na_hooks na_modes;

/* While set, na_self.heap is na_empty_heap, so that both fast paths miss and each call asks the table. Constant after
 * na_init. */
extern bool na_hooked;

/* The caller allocates for a mode or for the library: its blocks pass no hook. */
extern _Thread_local bool na_unhooked __attribute__((tls_model("initial-exec")));

/* The lock of one leaf in the three steps of a fork. */
static inline void na_fork_step(pthread_mutex_t *lock, int step) {
    if (step == NA_FORK_PREPARE) pthread_mutex_lock(lock);
    else if (step == NA_FORK_PARENT) pthread_mutex_unlock(lock);
    else pthread_mutex_init(lock, NULL);
}

#pragma GCC visibility pop

#endif
