/* SPDX-License-Identifier: BSD-3-Clause
 *
 * purger.c: owns the thread that returns memory while the program makes no calls. Slow paths return what is due as
 * they pass by; after a peak, a program that computes or waits may not pass by for hours.
 *
 * The free of a block from 1 MiB starts the thread, as does the end of a thread whose heap may hold as much. It sleeps
 * until the oldest free memory is due, and ends when there is none, so a program that has no such peaks never has it.
 * Smaller blocks do not start it: the C library frees such with locks held that starting a thread takes.
 *
 * Threads: `running` is atomic, the rest is the regions' under their locks.
 */
#include "heap/hooks.h"
#include "os/options.h"
#include "reclaim/purger.h"
#include "reclaim/reclaim.h"
#include "space/rest.h"
#include "types.h"

#include <errno.h>

static _Atomic(bool) running;

/* Milliseconds until it looks again, 0: nothing rests. */
static uint64_t purge_due(void) { return na_reclaim_due() ? na_rest_tick_ms() : 0; }

static uint64_t tick(void) {
    uint64_t wait = purge_due();
    if (wait != 0) return wait;
    atomic_store(&running, false);
    /* Who freed a block between the look and the store found the thread running. */
    wait = purge_due();
    return wait != 0 && !atomic_exchange(&running, true) ? wait : 0;
}

void na_purger_start(void) {
    int64_t delay = __atomic_load_n(&na_opt.purge_delay_ms, __ATOMIC_RELAXED);
    if (!na_opt.purger || delay == NA_PURGE_NEVER || atomic_load(&running) || atomic_exchange(&running, true)) return;
    int saved = errno;
    bool before = na_unhooked;
    na_unhooked = true; /* what the thread is made of is no block of the program's */
    /* Without it memory comes back as slow paths pass by. */
    if (os_ticker_start((uint64_t)delay + 1, tick) != 0) atomic_store(&running, false);
    na_unhooked = before;
    errno = saved;
}

void na_purger_fork_child(void) {
#if defined(__SANITIZE_THREAD__)
    atomic_store(&running, true); /* ThreadSanitizer ends a child of threads that starts one: it has none */
#else
    atomic_store(&running, false);
#endif
}
