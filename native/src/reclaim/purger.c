/* SPDX-License-Identifier: BSD-3-Clause
 *
 * purger.c: owns the thread that returns memory while the program makes no calls, if NUMALLOC_PURGER=1 or the program asks
 * for it. Slow paths return what is due as they pass by; after a peak, a program that computes or waits may not pass by
 * for hours.
 *
 * The free of a block from 1 MiB starts the thread, as does the end of a thread whose heap may hold as much. It looks once a
 * tick and ends when nothing rests, so a program that has no such peaks never has it. Smaller blocks do not start it: the
 * C library frees such with locks held that starting a thread takes. A start that fails is tried again after 1 s, then 2,
 * up to 64.
 *
 * Threads: `running` is atomic, the rest is the regions' under their locks.
 */
#include "heap/hooks.h"
#include "reclaim/reclaim.h"
#include "space/space.h"

#include <errno.h>

static _Atomic(bool) running, asked;
static _Atomic(uint64_t) next_try, wait; /* ms; after a failure */

/* Milliseconds until it looks again, 0: nothing rests. */
static uint64_t purge_due(void) { return na_reclaim_due() ? na_rest_tick_ms() : 0; }

static uint64_t tick(void) {
    uint64_t next = purge_due();
    if (next != 0) return next;
    atomic_store(&running, false);
    /* A thread that freed a block between the look and the store found this one running. */
    next = purge_due();
    return next != 0 && !atomic_exchange(&running, true) ? next : 0;
}

static bool wanted(void) {
    if (__atomic_load_n(&na_opt.purge_delay_ms, __ATOMIC_RELAXED) == NA_PURGE_NEVER) return false;
    return na_opt.purger == NA_PURGER_EVER || (na_opt.purger == NA_PURGER_AUTO && atomic_load(&asked));
}

void na_purger_start(void) {
    enum { FIRST_WAIT = 1000, LONGEST_WAIT = 64000 }; /* ms after a failure */
    if (!wanted() || atomic_load(&running)) return;
    if (os_now_ms() < atomic_load(&next_try) || atomic_exchange(&running, true)) return;
    int saved = errno;
    bool before = na_unhooked;
    na_unhooked = true; /* what the thread is made of is no block of the program's */
    /* Without it memory comes back as slow paths pass by. */
    uint64_t last = atomic_load(&wait), longer = last == 0 ? FIRST_WAIT : last < LONGEST_WAIT ? 2 * last : last;
    bool failed = os_ticker_start(na_rest_tick_ms(), tick) != 0;
    atomic_store(&wait, failed ? longer : 0);
    atomic_store(&next_try, failed ? os_now_ms() + longer : 0);
    if (failed) atomic_store(&running, false);
    na_unhooked = before;
    errno = saved;
}

int na_purger_ask(void) {
    if (na_opt.purger == NA_PURGER_NEVER) return ENOTSUP;
    if (!atomic_exchange(&asked, true)) os_stay_loaded();
    na_purger_start(); /* it ends at once if nothing rests */
    return 0;
}

void na_purger_fork_child(void) {
#if defined(__SANITIZE_THREAD__)
    atomic_store(&running, true); /* ThreadSanitizer ends a child of threads that starts one: it has none */
#else
    atomic_store(&running, false);
#endif
}
