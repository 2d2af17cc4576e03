/* SPDX-License-Identifier: BSD-3-Clause
 *
 * bump.c: owns the memory of records and sites. It comes from the kernel and not from the heaps, so that watching
 * does not change what is watched, and stops at NUMALLOC_WATCH_LIMIT.
 *
 * Threads: one lock, a leaf; callers may hold a stripe or the lock of the sites.
 */
#include "heap/hooks.h"
#include "modes/modes.h"
#include "os/options.h"

enum { CHUNK = 1 << 20 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uintptr_t next, end;
static size_t mapped;

void *na_bump_alloc(size_t bytes) {
    bytes = na_round_up(bytes, NA_GRANULE);
    void *result = NULL;
    pthread_mutex_lock(&lock);
    if (end - next < bytes) {
        size_t size = na_round_up(bytes, CHUNK);
        void *chunk;
        /* What is left of the last chunk is lost: less than a request. */
        if (size <= na_opt.watch_limit && mapped <= na_opt.watch_limit - size && os_map(size, &chunk) == 0) {
            mapped += size;
            next = (uintptr_t)chunk;
            end = next + size;
        }
    }
    if (end - next >= bytes) {
        result = (void *)next;
        next += bytes;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

size_t na_bump_bytes(void) {
    pthread_mutex_lock(&lock);
    size_t bytes = mapped;
    pthread_mutex_unlock(&lock);
    return bytes;
}

void na_bump_fork(int step) { na_fork_step(&lock, step); }
