/* SPDX-License-Identifier: BSD-3-Clause
 *
 * init.c: owns the first call: options, machine, address space, modes, in this order; and the calls about the library's
 * life: numalloc_init, purge, cleanup.
 *
 * Threads: na_threads_lock for the first call; one load for all others.
 */
#include "api/api.h"
#include "heap/hooks.h"
#include "reclaim/reclaim.h"
#include "space/space.h"

#include <errno.h>

static _Atomic(bool) ready;

static int init_once(void) {
    na_options_init();
    na_topology_init(NULL);
    na_secure = na_opt.secure;
    if (na_secure) na_secure_init();
    int error = na_regions_reserve();
    if (error != 0) return error;
    na_threads_init(na_reclaim_thread_left);
    /* A mode that can't have its tables is off; blocks are more important. */
    if (!na_modes.init()) os_message("numalloc: no memory to record blocks: leaks, profile and guard are off\n");
    if (na_topo.online_count > 1) { /* now, as a program may forbid itself these calls later */
        (void)os_can_query();
        for (int i = 0; i < na_topo.node_count; i++)
            (void)na_region_open(na_region_node(i, na_use_local(na_opt.strict)));
    }
    atomic_store_explicit(&ready, true, memory_order_release);
    return 0;
}

/* On one node the kernel is not asked. */
static const char *yes_no(int (*probe)(void)) {
    return na_topo.online_count == 1 ? "not needed" : probe() == 0 ? "yes" : "no";
}

static void tell(void) {
    os_message("numalloc %s: %d node(s), %zu GiB of address space each, bind %s, query %s\n", NUMALLOC_VERSION,
               na_topo.node_count, ((size_t)1 << na_shift) >> 30, yes_no(os_can_bind), yes_no(os_can_query));
    char policy[128];
    na_topology_policy_text(policy, sizeof policy);
    if (na_topo.policy != NULL)
        os_message("numalloc: the process inherited the memory policy %s: local memory follows it\n", policy);
}

bool na_init(void) {
    if (NA_LIKELY(atomic_load_explicit(&ready, memory_order_acquire))) return true;
    pthread_mutex_lock(&na_threads_lock);
    bool first = !atomic_load_explicit(&ready, memory_order_relaxed);
    int error = first ? init_once() : 0;
    pthread_mutex_unlock(&na_threads_lock);
    if (error != 0) {
        errno = error;
        return false;
    }
    if (first) {
        na_fork_install(); /* these two may allocate, hence after all else */
        if (na_opt.purger == NA_PURGER_EVER) os_stay_loaded();
        if (na_opt.verbose != 0) tell();
    }
    return true;
}

/* Before main, while there is one thread: topology and options are then read at a known time. Not for a copy of the library
 * whose public calls go to another one: nothing calls it. */
__attribute__((constructor)) static void load(void) {
    int saved = errno;
    if (na_serves() && na_init() && na_hooked)
        na_modes.start(); /* a failure shows at the first allocation, with errno */
    errno = saved;
}

/* ---- life cycle ------------------------------------------------------------------------------------------ */

int numalloc_version(void) { return NUMALLOC_VERSION_NUMBER; }

int numalloc_init(size_t bytes_per_node) {
    static _Atomic(size_t) given; /* bytes + 1; 0: not called yet */
    if (!na_init()) return errno;
    if (bytes_per_node > PTRDIFF_MAX) return ENOMEM;
    size_t before = 0;
    if (!atomic_compare_exchange_strong(&given, &before, bytes_per_node + 1))
        return before == bytes_per_node + 1 ? 0 : EALREADY;
    for (int i = 0; i < na_topo.node_count; i++) {
        int error = na_region_prepare(na_region_node(i, na_use_local(na_opt.strict)), bytes_per_node);
        if (error != 0) {
            atomic_store(&given, 0);
            return error;
        }
    }
    return 0;
}

size_t numalloc_purge(void) {
    if (!na_init()) return 0;
    if (na_hooked) na_modes.cleanup(false);
    na_thread *thread = na_thread_get();
    size_t bytes = 0;
    if (thread != NULL) na_remote_flush(thread);
    for (int i = 0; i < na_region_count; i++) {
        na_region *region = &na_regions[i];
        if (!atomic_load_explicit(&region->opened, memory_order_acquire)) continue;
        na_abandoned_reclaim(region); /* first, since it may send remote frees to the caller's heap */
        if (thread != NULL && thread->heaps[i] != NULL) na_heap_release(thread->heaps[i], os_now_ms());
        bytes += na_reclaim_region(region);
    }
    return bytes;
}

int numalloc_purger(void) { return na_init() ? na_purger_ask() : errno; }

void numalloc_release_address_space(void) {
    if (na_init()) (void)na_regions_let_go(UINT64_MAX);
}

void numalloc_cleanup(void) {
    (void)numalloc_purge();
    if (na_hooked) na_modes.cleanup(true);
}
