/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thread.h: what is per thread.
 */
#ifndef NA_THREAD_H
#define NA_THREAD_H

#include "types.h"

#pragma GCC visibility push(hidden)

typedef struct na_tls {
    na_heap *heap;     /* of the node the thread was last seen on; na_empty_heap before the first use */
    na_thread *thread; /* NULL before the first use and after the thread's end */
    int cpu;           /* where heap was chosen; only kept up on machines with several nodes */
    bool ended;        /* thread_end ran: what comes now may be the thread's last words */
} na_tls;

extern _Thread_local na_tls na_self __attribute__((tls_model("initial-exec")));
extern na_heap na_empty_heap; /* caches nothing; what is asked of it takes the slow path */
extern bool na_many_nodes;    /* the CPU must be looked at: there is more than one allowed node */
extern uintptr_t na_secret;   /* marks free blocks */
extern bool na_cut_short;     /* a child of fork, and its parent had threads, which may have been between two stores */

/* Once, under na_threads_lock. `when_much_is_left` is called as a thread ends whose heaps may hold much free memory. */
void na_threads_init(void (*when_much_is_left)(void));
na_thread *na_thread_get(void);           /* of the caller, made on demand; NULL with errno */
na_heap *na_heap_here(void);              /* the caller's heap on the node it runs on; NULL with errno */
int na_home_index(void);                  /* index of the node whose memory is local to the caller */
na_thread *na_threads_first(void);        /* under na_threads_lock */
void na_thread_forget(na_thread *thread); /* child of fork: its thread is gone */
extern pthread_mutex_t na_threads_lock;

#pragma GCC visibility pop

#endif
