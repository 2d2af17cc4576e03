/* SPDX-License-Identifier: BSD-3-Clause
 *
 * init.c: owns the first call: options, machine, address space, modes, in this order.
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
