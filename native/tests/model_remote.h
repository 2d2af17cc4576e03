/* SPDX-License-Identifier: BSD-3-Clause
 *
 * model_remote.h: the state of the model of remote frees, see model_remote.c. All of it is bytes and words without
 * padding in between that is ever written, so that states can be compared and hashed as memory.
 */
#ifndef NA_TESTS_MODEL_REMOTE_H
#define NA_TESTS_MODEL_REMOTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { THREADS = 4, PAGES = 3, PER_PAGE = 3, HEAPS = 5, NONE = 0xff, SCRIPT = 16 };
enum { SLOTS = PAGES }; /* a slot per page: collisions only make batches shorter, which the limit does too */

enum breakage {
    SOUND,
    CLEAR_QUEUED_EARLY,    /* the mark goes before the page is out of the list */
    QUEUE_ALWAYS,          /* each push queues the page */
    PUSH_WITHOUT_COMPARE,  /* a load and a store in place of the compare-and-swap */
    COUNT_WAITING_AS_FREE, /* a page whose blocks all wait in its remote list is released */
    ADOPT_WITHOUT_LOCK,    /* abandoned heaps are taken without the region's lock */
    FORGET_MOVED_PAGES,    /* a thread that queues a page does not look whether it has moved meanwhile */
    READ_LINK_LATE,        /* the link to the next pending page is read after the page was taken in */
    BREAKAGES
};
/* ---- state -------------------------------------------------------------------------------------------------------- */

typedef struct word { /* page->remote */
    uint8_t first, count, queued;
} word;

typedef struct page {
    uint8_t exists, heap, pending_next, full, used, free; /* free: bit per block */
    word remote;
} page;

enum heap_place { UNMADE, OWNED, IN_HAND, ABANDONED, EMPTY };
typedef struct heap {
    uint8_t pending, thread, place;
} heap;

typedef struct slot {
    uint8_t first, last, count;
} slot;

/* Where a thread is: subroutines have a register for where they return to, as none calls itself. */
enum where {
    AT_SCRIPT,
    ALLOC_HEAP_LOCK,
    ALLOC_HEAP_POP,
    ALLOC_HEAP_STORE,
    ALLOC_HEAP_UNLOCK,
    ALLOC_HEAP_OWN,
    ALLOC_COLLECT,
    ALLOC_SEARCH,
    ALLOC_FLUSHED,
    ALLOC_TOOK_OVER,
    ALLOC_NEW,
    FREE_HEAP,
    FREE_THREAD,
    PUSH_LOAD,
    PUSH_SWAP,
    PUSH_HEAP,
    ROUTE_LOAD,
    ROUTE_LINK,
    ROUTE_SWAP,
    ROUTE_CHECK,
    ROUTE_TAKE,
    FLUSH_NEXT,
    EMPTY_LOAD,
    EMPTY_TAKE,
    EMPTY_PAGE,
    EMPTY_NEXT,
    EMPTY_OWNER,
    EMPTY_UNMARK,
    EMPTY_BLOCKS,
    EMPTY_DONE,
    RELEASE_LOCK,
    RELEASE_PAGE,
    RELEASE_UNLOCK,
    OVER_LOOK,
    OVER_LOCK,
    OVER_POP,
    OVER_STORE,
    OVER_MOVE,
    OVER_EMPTY,
    OVER_UNLOCK,
    OVER_COLLECT,
    OVER_END,
    RELEASE_ALL_COLLECTED,
    RELEASE_ALL_PAGES,
    RETIRE_START,
    RETIRE_LOCK,
    RETIRE_DISOWN,
    RETIRE_UNLOCK,
    END_FLUSHED,
    END_RETIRED,
    PURGE_FLUSHED,
    PURGE_LOCK,
    PURGE_LIST,
    PURGE_UNLOCK,
    PURGE_HEAPS,
    PURGE_SHED,
    PURGE_END,
    OPERATION_DONE
};

typedef struct thread {
    uint8_t at, next_op, heap; /* heap: own, or NONE */
    uint32_t held;             /* blocks it uses, a bit each */
    slot slots[SLOTS];
    uint8_t block, from_start; /* of a free */
    uint8_t push_page, push_first, push_last, push_count, push_return;
    word push_old;
    uint8_t pushing;  /* the chain is in no other place yet */
    uint8_t queueing; /* page that this thread has to put into a pending list, or NONE */
    uint8_t route_heap, route_page, route_first, route_return;
    uint8_t flush_return, flush_at;
    uint8_t empty_heap, empty_mine, empty_page, empty_next, empty_return;
    uint8_t release_page, release_return;
    uint8_t over_other, over_at, over_result;
    uint8_t release_all_heap, release_all_at, release_all_return;
    uint8_t retire_heap, retire_return;
    uint8_t list; /* heaps in hand of a purge, a bit each */
    uint8_t saved;
} thread;

typedef struct state {
    page pages[PAGES];
    uint8_t next[PAGES * PER_PAGE]; /* link in the first word of a free block */
    heap heaps[HEAPS];
    uint8_t lock;   /* thread that has the region's lock, or NONE */
    uint32_t given; /* blocks passed on and not yet taken */
    thread threads[THREADS];
} state;

typedef struct bounds {
    const char *name;
    int pages, per_page, batch;
    const char *script[THREADS - 1]; /* g: allocate and pass on, m: allocate, o: free an own one, f: free one that was
                                      * passed on, P: purge, x: end */
    const char *last;                /* script of the last thread, which starts when the others have ended */
} bounds;

extern const bounds *now; /* what is being explored */

extern enum breakage broken;
extern const char *wrong; /* what is violated, or NULL */

static inline void must(bool condition, const char *what) {
    if (!condition && wrong == NULL) wrong = what;
}

static inline uint32_t bit(unsigned i) { return UINT32_C(1) << i; }
unsigned pages_of(const state *s, unsigned h, bool with_full); /* pages of a heap */
bool finished(const state *s, int t);                          /* thread t is at its script's end */
bool enabled(const state *s, int t);                           /* may it take a step? */
void step(state *s, int t);                                    /* takes it */

#endif
