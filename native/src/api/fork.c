/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fork.c: a child of fork() has one thread and can allocate, whatever the others were doing.
 *
 * All locks are held across the fork, so everything they guard is whole in the child. Heaps are not locked:
 * another thread may be in the middle of a fast path, which loses at most the one block that it holds, or it may
 * be changing its queues (heap->busy); then the child does not use the pages of that heap. All other heaps of
 * vanished threads are abandoned in the child as at a thread's end, and their memory is used again. So is a heap that a
 * vanished thread was collecting, except for the pages that it had taken out.
 *
 * The kernel's copy is a consistent cut: from the moment fork() protects a page, a thread that writes to it
 * waits until the copy is complete, so no later write of it is seen without the earlier ones.
 */
#include "api/api.h"
#include "heap/hooks.h"
#include "large/large.h"
#include "reclaim/reclaim.h"
#include "space/space.h"

static void prepare(void) {
    pthread_mutex_lock(&na_threads_lock);
    for (int i = 0; i < na_region_count; i++) pthread_mutex_lock(&na_regions[i].lock);
    if (na_hooked) na_modes.fork(NA_FORK_PREPARE);
}

static void parent(void) {
    if (na_hooked) na_modes.fork(NA_FORK_PARENT);
    for (int i = na_region_count; i-- > 0;) pthread_mutex_unlock(&na_regions[i].lock);
    pthread_mutex_unlock(&na_threads_lock);
}

static void orphan(na_heap *heap) {
    na_span_cache_recount(&heap->spans);
    na_heap_orphan(heap);
}

/* Pages that a vanished thread was about to queue or was collecting are in no list, and no other thread would queue them.
 * So all lists are built again. */
static void queue_pending_pages(void) {
    for (int i = 0; i < na_region_count; i++)
        for (na_heap *heap = na_regions[i].all; heap != NULL; heap = heap->all_next)
            atomic_store_explicit(&heap->pending, NULL, memory_order_relaxed);
    for (int i = 0; i < na_region_count; i++)
        for (uint32_t k = 0; k < na_regions[i].span_count; k++) {
            na_span *span = na_descriptor_at(&na_regions[i], k);
            if (span->kind == NA_PAGE) na_remote_queue_again(span);
        }
}

static void child(void) {
    if (na_hooked) na_modes.fork(NA_FORK_CHILD);
    if (na_secure) na_secure_fork();
    /* The mutexes were locked by this thread's image in the parent; here they are made anew. */
    for (int i = 0; i < na_region_count; i++) pthread_mutex_init(&na_regions[i].lock, NULL);
    pthread_mutex_init(&na_threads_lock, NULL);
    na_purger_fork_child();
    na_populate_fork_child();
    bool others = false;
    for (na_thread *thread = na_threads_first(), *next; thread != NULL; thread = next) {
        next = thread->next;
        if (thread == na_self.thread) continue;
        na_cut_short = others = true;
        for (int i = 0; i < na_region_count; i++)
            if (thread->heaps[i] != NULL) orphan(thread->heaps[i]);
        na_thread_forget(thread);
    }
    /* What a vanished thread, or the purger, was giving back is in no list. */
    for (int i = 0; i < na_region_count; i++) na_rest_fork_child(&na_regions[i]);
    for (int i = 0; i < na_region_count; i++)
        for (na_heap *heap = na_regions[i].all; heap != NULL; heap = heap->all_next) {
            na_thread *owner = atomic_load_explicit(&heap->thread, memory_order_relaxed);
            others |= heap->in_hand;
            if (heap->in_hand || (owner != NULL && owner != na_self.thread)) orphan(heap);
        }
    if (others) queue_pending_pages();
}

/* What pthread_atfork() calls in the C library. That function itself is a part of each library that calls it, at the
 * end of its code, which most processes need for nothing else. */
#if defined(__GLIBC__) && !defined(__SANITIZE_THREAD__)
extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *object);
extern void *__dso_handle __attribute__((visibility("hidden")));
void na_fork_install(void) { (void)__register_atfork(prepare, parent, child, __dso_handle); }
#else
void na_fork_install(void) { (void)pthread_atfork(prepare, parent, child); }
#endif
