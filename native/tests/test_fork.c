/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_fork: a thread is stopped at a given call inside the allocator, another one forks there, and the child must have
 * all that the vanished thread had in hand. The linker's --wrap puts the stops in: calls of os.h (machine.c) and the
 * release of a region's lock.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "check.h"
#include "heap/heap.h"
#include "machine.h"
#include "space/space.h"

/* ---- stopping a thread ------------------------------------------------------------------------------------- */

static _Atomic(const void *) stop_at; /* a region's lock: its next release; `populating`: the next os_populate */
static const char populating;
static pthread_barrier_t stopped, go_on;

static void maybe_stop(const void *here) {
    const void *expected = here;
    if (!atomic_compare_exchange_strong(&stop_at, &expected, NULL)) return;
    pthread_barrier_wait(&stopped);
    pthread_barrier_wait(&go_on);
}

int __real_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock) {
    int error = __real_pthread_mutex_unlock(lock);
    maybe_stop(lock);
    return error;
}

static void at_call(enum machine_call call) {
    if (call == MACHINE_populate) maybe_stop(&populating);
}

/* `work` runs in a thread of its own as far as `here`; the child of a fork at that moment runs `body`. */
static int fork_while(void *(*work)(void *), const void *here, void (*body)(void)) {
    pthread_t thread;
    CHECK_EQUAL(pthread_barrier_init(&stopped, NULL, 2), 0);
    CHECK_EQUAL(pthread_barrier_init(&go_on, NULL, 2), 0);
    machine_hook = at_call;
    atomic_store(&stop_at, here);
    CHECK_EQUAL(pthread_create(&thread, NULL, work, NULL), 0);
    pthread_barrier_wait(&stopped);
    int code = check_child(body, NULL, 0);
    pthread_barrier_wait(&go_on);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    return code;
}

/* ---- heaps ------------------------------------------------------------------------------------------------- */

enum { CACHED = 100 };

static void *use_a_heap(void *unused) {
    void *block = numalloc(100);
    numalloc_free(block);
    return block == NULL ? (void *)1 : unused;
}

static bool in_list(const na_heap *list, const na_heap *heap) {
    while (list != NULL && list != heap) list = list->next;
    return list != NULL;
}

static void every_heap_is_found(void) {
    for (int i = 0; i < na_region_count; i++) {
        const na_region *region = &na_regions[i];
        for (const na_heap *heap = region->all; heap != NULL; heap = heap->all_next) {
            if (heap == na_self.heap) continue;
            CHECK(atomic_load(&heap->thread) == NULL);
            CHECK(in_list(region->abandoned, heap) || in_list(region->collected, heap) || in_list(region->empty, heap));
        }
    }
    void *block = numalloc(100);
    CHECK(block != NULL);
    numalloc_free(block);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void a_heap_that_is_being_adopted(void) {
    pthread_t thread;
    CHECK(use_a_heap(NULL) == NULL); /* of this thread */
    CHECK_EQUAL(pthread_create(&thread, NULL, use_a_heap, NULL), 0);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK(na_self.heap->region->abandoned != NULL);
    CHECK_EQUAL(fork_while(use_a_heap, &na_self.heap->region->lock, every_heap_is_found), 0);
}

static void a_heap_that_is_being_made(void) {
    CHECK(use_a_heap(NULL) == NULL);
    while (na_self.heap->region->abandoned != NULL) numalloc_purge();
    CHECK_EQUAL(fork_while(use_a_heap, &na_self.heap->region->lock, every_heap_is_found), 0);
}

static void *cache_and_end(void *unused) {
    void *block[CACHED];
    for (int i = 0; i < CACHED; i++) block[i] = numalloc(100);
    for (int i = 0; i < CACHED; i++) numalloc_free(block[i]);
    return unused;
}

/* Has a heap, and takes over that of a thread which ended. */
static void *take_over(void *lock) {
    pthread_t other;
    if (use_a_heap(NULL) != NULL || pthread_create(&other, NULL, cache_and_end, NULL) != 0) return (void *)1;
    pthread_join(other, NULL);
    atomic_store(&stop_at, &na_self.heap->region->lock);
    numalloc_free(numalloc(3000));
    return lock;
}

static void few_blocks_are_lost(void) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    CHECK(stats.allocated_bytes < CACHED * 100 / 10);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void caches_that_are_being_taken_over(void) {
    CHECK(use_a_heap(NULL) == NULL);
    CHECK_EQUAL(fork_while(take_over, NULL, few_blocks_are_lost), 0);
}

/* A thread vanishes that had set a page's mark and was about to queue it, or had taken it out of its list to collect it. */
static void *of_this_thread[CACHED];
static void *free_them(void *unused) {
    for (int i = 0; i < CACHED; i++) numalloc_free(of_this_thread[i]);
    na_remote_flush(na_self.thread);
    atomic_store(&na_span_at(of_this_thread[0])->heap->pending, NULL);
    maybe_stop((const void *)(uintptr_t)free_them);
    return unused;
}

static void pages_are_queued(void) {
    na_span *page = na_span_at(of_this_thread[0]);
    CHECK(na_remote_count(page) > CACHED / 2);
    CHECK(atomic_load(&na_self.heap->pending) != NULL);
    na_heap_collect(na_self.heap);
    CHECK_EQUAL(na_remote_count(page), 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void pages_that_are_being_queued(void) {
    for (int i = 0; i < CACHED; i++) CHECK((of_this_thread[i] = numalloc(200)) != NULL);
    CHECK_EQUAL(fork_while(free_them, (const void *)(uintptr_t)free_them, pages_are_queued), 0);
}

/* ---- demand ------------------------------------------------------------------------------------------------ */

enum { WANTED = 32 << 20 };

static void *fault_in(void *unused) {
    void *memory = mmap(NULL, WANTED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return (void *)1;
    int error = numalloc_prefault(memory, WANTED);
    (void)munmap(memory, WANTED);
    return error == 0 ? unused : (void *)1;
}

static void there_is_room_for_one(void) {
    machine_room = WANTED + WANTED / 2;
    CHECK(fault_in(NULL) == NULL);
}

static void what_others_were_faulting_in(void) {
    CHECK_EQUAL(fork_while(fault_in, &populating, there_is_room_for_one), 0);
}

static const check_case cases[] = {
    {"a_heap_that_is_being_adopted", a_heap_that_is_being_adopted},
    {"a_heap_that_is_being_made", a_heap_that_is_being_made},
    {"caches_that_are_being_taken_over", caches_that_are_being_taken_over},
    {"pages_that_are_being_queued", pages_that_are_being_queued},
    {"what_others_were_faulting_in", what_others_were_faulting_in},
};
CHECK_MAIN(cases)
