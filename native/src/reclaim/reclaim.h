/* SPDX-License-Identifier: BSD-3-Clause
 *
 * reclaim.h: memory is short, and memory goes back.
 */
#ifndef NA_RECLAIM_H
#define NA_RECLAIM_H

#include "heap/heap.h"
#include "os/options.h"

#pragma GCC visibility push(hidden)

/* ---- reclaim.c: when free memory goes back, and how much of it. Called by api/ and modes/ alone: what lies below says only ----
 * that it failed. No lock may be held. */

void na_reclaim_look(na_region *region, uint64_t now);

/* Does the caller only free? A thread that freed one or two arrays may well take as many again. */
static inline bool na_only_frees(void) { return na_self.thread != NULL && na_self.thread->frees_in_row > 2; }

/* A call of the program passes by, which may have taken or freed spans: gives back what is due, and what has to make up for
 * newly opened memory, or rests beyond measure. */
static inline void na_reclaim_pass(na_region *region, bool freed, uint64_t now) {
    if (na_self.thread != NULL) na_self.thread->frees_in_row = freed ? na_self.thread->frees_in_row + 1 : 0;
    if (na_opt.purge_delay_ms == NA_PURGE_NEVER) return; /* RDMA registrations may cover free memory */
    if (atomic_load_explicit(&region->restless, memory_order_relaxed) ||
        (atomic_load_explicit(&region->too_much, memory_order_relaxed) && na_only_frees()) ||
        now >= atomic_load_explicit(&region->look_at, memory_order_relaxed))
        na_reclaim_look(region, now);
}

/* A request failed: all that is free on its node goes back, in the second attempt also what the caller's own
 * caches hold. false: nothing came. */
enum { NA_RELIEVE_ATTEMPTS = 2 };
bool na_reclaim_relieve(na_region *region, int attempt);

size_t na_reclaim_region(na_region *region); /* all that is free, but for threads' own caches; gives bytes purged */

/* Memory is short: everything that is free, but for threads' own caches. false: it may not go. */
bool na_reclaim_all(void);

void na_reclaim_thread_left(void); /* a thread ended: threads that leave much leave less */

bool na_reclaim_due(void); /* for the purger: all that is due now; false: nothing rests any more */

/* ---- purger.c: the thread that returns memory while the program makes no calls ---- */

void na_purger_start(void);      /* unless it runs or is not wanted; no lock may be held */
int na_purger_ask(void);         /* wanted from now on; 0 or ENOTSUP */
void na_purger_fork_child(void); /* its thread is gone */

#pragma GCC visibility pop

#endif
