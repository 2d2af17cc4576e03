/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thread.c: owns what is per thread: its record, its heaps, its end.
 *
 * Invariants. na_self.heap is a heap of the calling thread or na_empty_heap, so that the fast path needs no
 * test for a new thread. Records of ended threads are reused and never unmapped.
 *
 * Threads: na_threads_lock for the list of threads; na_self by its thread.
 */
#include "heap/heap.h"
#include "heap/hooks.h"
#include "space/space.h"

#include <errno.h>
#include <string.h>

_Thread_local na_tls na_self __attribute__((tls_model("initial-exec"))) = {.heap = &na_empty_heap, .cpu = -1};
bool na_many_nodes;
uintptr_t na_secret;
bool na_hooked;
_Thread_local bool na_unhooked __attribute__((tls_model("initial-exec")));
bool na_cut_short;
pthread_mutex_t na_threads_lock = PTHREAD_MUTEX_INITIALIZER;

static _Atomic(bool) has_key;
static void (*after_peak)(void);
static pthread_key_t exit_key;
static na_thread *threads_live, *threads_unused;

static void thread_end(void *record);

void na_threads_init(void (*when_much_is_left)(void)) {
    after_peak = when_much_is_left;
    na_secret = (uintptr_t)os_random() | 1;
    na_many_nodes = na_topo.node_count > 1;
    has_key = has_key || pthread_key_create(&exit_key, thread_end) == 0;
}

/* Where the static library is in one that is closed, or at the program's end: threads that end later must not come here. */
__attribute__((destructor)) static void unload(void) {
    if (atomic_exchange_explicit(&has_key, false, memory_order_relaxed)) (void)pthread_key_delete(exit_key);
}

/* From the metadata of a region; NULL: there is no memory. */
static na_thread *record_from(na_region *region) {
    if (na_region_open(region) != 0) return NULL;
    pthread_mutex_lock(&region->lock);
    na_thread *thread = na_meta_alloc(region, sizeof *thread + (size_t)na_region_count * sizeof(na_heap *));
    pthread_mutex_unlock(&region->lock);
    return thread;
}

/* On the caller's node, or on any other. */
static na_thread *record_make(void) {
    na_thread *thread = threads_unused;
    if (thread != NULL) {
        threads_unused = thread->next;
        memset(thread, 0, sizeof *thread + (size_t)na_region_count * sizeof(na_heap *));
        return thread;
    }
    thread = record_from(na_region_node(na_home_index(), na_use_local(na_opt.strict)));
    for (int i = 0; i < na_region_count && thread == NULL; i++) thread = record_from(&na_regions[i]);
    return thread;
}

na_thread *na_thread_get(void) {
    if (NA_LIKELY(na_self.thread != NULL)) return na_self.thread;
    pthread_mutex_lock(&na_threads_lock);
    na_thread *thread = record_make();
    if (thread != NULL) {
        thread->prev = NULL;
        thread->next = threads_live;
        if (thread->next != NULL) thread->next->prev = thread;
        threads_live = thread;
    }
    pthread_mutex_unlock(&na_threads_lock);
    if (thread == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    na_self.thread = thread; /* before setspecific, which may allocate */
    if (atomic_load_explicit(&has_key, memory_order_relaxed)) (void)pthread_setspecific(exit_key, thread);
    return thread;
}

na_thread *na_threads_first(void) { return threads_live; }

void na_thread_forget(na_thread *thread) {
    if (thread->next != NULL) thread->next->prev = thread->prev;
    if (thread->prev != NULL) thread->prev->next = thread->next;
    else threads_live = thread->next;
    thread->next = threads_unused;
    threads_unused = thread;
}

/* true: they may hold much free memory. */
static bool leave_heaps(na_thread *thread) {
    bool much = false;
    na_self.heap = &na_empty_heap; /* before another thread may go on with it */
    na_inline_hide();
    for (int i = 0; i < na_region_count; i++) {
        na_heap *heap = thread->heaps[i];
        if (heap == NULL) continue;
        much |= heap->pages + heap->spans.total >= NA_PEAK_BYTES / NA_SLICE;
        thread->heaps[i] = NULL;
        na_heap_abandon(heap);
    }
    return much;
}

/* Runs among the other destructors of thread-specific data; one that allocates later starts the thread anew,
 * and pthread calls us again for it. */
static void thread_end(void *record) {
    na_thread *thread = record;
    if (thread != na_self.thread) return;
    int saved = errno;
    na_remote_flush(thread);
    if (leave_heaps(thread)) {
        after_peak(); /* which may allocate, and free blocks of other threads */
        na_remote_flush(thread);
        (void)leave_heaps(thread);
    }
    na_self.thread = NULL;
    na_self.cpu = -1;
    na_self.ended = true;
    pthread_mutex_lock(&na_threads_lock);
    na_thread_forget(thread);
    pthread_mutex_unlock(&na_threads_lock);
    errno = saved;
}

/* Where the caller runs; not asked for on a machine of one node, whose answer is always home 0. */
static int cpu_now(void) { return na_many_nodes ? na_topology_cpu_now() : -1; }

int na_home_index(void) { return na_topology_home_of_cpu(cpu_now()); }

na_heap *na_heap_here(void) {
    int cpu = cpu_now();
    na_heap *heap = na_heap_of(na_region_node(na_topology_home_of_cpu(cpu), na_use_local(na_opt.strict)));
    if (heap == NULL) return NULL;
    if (!na_hooked && !na_secure && (na_self.heap != heap || na_self.cpu != cpu)) {
        na_self.heap = heap;
        na_inline_show(heap, cpu);
    }
    na_self.cpu = cpu;
    return heap;
}
