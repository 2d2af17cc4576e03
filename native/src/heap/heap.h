/* SPDX-License-Identifier: BSD-3-Clause
 *
 * heap.h: blocks up to NA_BLOCK_MAX: pages, heaps, frees by other threads, abandoned heaps.
 */
#ifndef NA_HEAP_H
#define NA_HEAP_H

#include "types.h"

#pragma GCC visibility push(hidden)

/* ---- thread.c: what is per thread ---- */

typedef struct na_tls {
    na_heap *heap;     /* of the node the thread was last seen on; na_empty_heap before the first use */
    na_thread *thread; /* NULL before the first use and after the thread's end */
    int cpu;           /* where heap was chosen; only kept up on machines with several nodes */
    bool ended;        /* thread_end ran: what comes now may be the thread's last words */
} na_tls;

extern _Thread_local na_tls na_self __attribute__((tls_model("initial-exec")));
extern na_heap na_empty_heap; /* caches nothing; what is asked of it takes the slow path */
extern bool na_many_nodes;    /* the CPU must be looked at: there is more than one allowed node */
extern uintptr_t na_secret;   /* marks free blocks */
extern bool na_cut_short;     /* a child of fork, and its parent had threads, which may have been between two stores */

/* Once, under na_threads_lock. `when_much_is_left` is called as a thread ends whose heaps may hold much free memory. */
void na_threads_init(void (*when_much_is_left)(void));
na_thread *na_thread_get(void);           /* of the caller, made on demand; NULL with errno */
na_heap *na_heap_here(void);              /* the caller's heap on the node it runs on; NULL with errno */
int na_home_index(void);                  /* index of the node whose memory is local to the caller */
na_thread *na_threads_first(void);        /* under na_threads_lock */
void na_thread_forget(na_thread *thread); /* child of fork: its thread is gone */
extern pthread_mutex_t na_threads_lock;

/* ---- inline.c: what code compiled with numa_alloc_inline.h sees of the calling thread ---- */

void na_inline_show(na_heap *heap, int cpu); /* its heap, and the CPU for whose node it is */
void na_inline_hide(void);                   /* no heap: such code calls */

/* ---- misuse.c: what is said of the caller's mistakes ---- */

void na_misuse(const char *call, const void *address, const char *what, const char *remedy);
/* A free block that was written to; `lost` ones, from it on, are never used again. */
void na_list_damaged(const na_span *page, const na_block *block, uint32_t lost, const char *where);
/* The same with more to say, after the line and before the end. */
void na_misuse_more(const char *call, const void *address, const char *what, const char *remedy,
                    void (*more)(const void *data), const void *data);

/* ---- page.c: pages of one size class ---- */

na_span *na_page_new(na_heap *heap, unsigned class_index);     /* in no queue yet; NULL with errno */
void na_page_carve(na_span *page);                             /* links the next batch of blocks */
na_span *na_page_retired(na_heap *heap, unsigned class_index); /* is in no queue now; NULL: there is none */
static inline bool na_page_may_be_retired(const na_heap *heap, unsigned class_index) {
    return (heap->retired_classes >> class_index & 1) != 0;
}
_Static_assert(NA_CLASSES <= 64, "a bit for each");
void na_page_freed(na_span *page);                 /* its free blocks reached page->threshold */
void na_page_release(na_span *page);               /* no block in use: to the region */
void na_page_leave(na_span *page, uint64_t since); /* the same, but first into heap->gone; free since so many ms */
void na_pages_gone(na_heap *heap);                 /* those go to the region; takes the lock */
void na_pages_gone_free(na_heap *heap);            /* the same with the lock held */
void na_pages_retired_move(na_heap *from, na_heap *to);
void na_pages_retired_release(na_heap *heap);

/* By threads that do not own the page: those behind are no blocks. */
static inline uint32_t na_page_carved(const na_span *page) { return __atomic_load_n(&page->carved, __ATOMIC_RELAXED); }
static inline void na_page_carved_set(na_span *page, uint32_t carved) {
    __atomic_store_n(&page->carved, carved, __ATOMIC_RELAXED);
}
static inline uint32_t na_page_used(const na_span *page) { return page->carved - na_list_count(page->free); }

static inline void na_mark_free(na_block *block) { block->key = na_secret ^ (uintptr_t)block; }
static inline bool na_marked_free(const na_block *block) { return block->key == (na_secret ^ (uintptr_t)block); }

/* Into a page of one of the caller's own heaps. true: then call na_page_freed. */
static inline bool na_page_push(na_span *page, na_block *block) {
    na_mark_free(block);
    na_list list = na_list_push(&page->free, block);
    page->frees++;
    return NA_UNLIKELY(na_list_count(list) == page->threshold);
}

/* ---- remote.c: frees by threads that do not own the page ---- */

void na_remote_free(na_span *page, na_block *block);
void na_remote_flush(na_thread *thread);
/* Puts a page into heap->pending. Returns the pages that the caller has to send on: `rest`, and if the page has moved
 * meanwhile what else was there. */
na_span *na_remote_route(na_heap *heap, na_span *page, na_span *rest);
void na_remote_send(na_span *list); /* each page of the list to its heap */
/* In a child of fork, after all pending lists were emptied: a page that should be in one. */
void na_remote_queue_again(na_span *page);
na_block *na_remote_take(na_span *page, uint32_t *count);
uint32_t na_remote_count(const na_span *page); /* frees that wait; for statistics */

/* ---- heap.c: the caches and queues of a heap ---- */

na_heap *na_heap_of(na_region *region); /* the caller's heap in a region; NULL with errno */
/* Slow path; NULL with errno. `whole`: all of the block will be written to, so that one of a longer class will do. */
void *na_heap_alloc(na_heap *heap, unsigned class_index, bool whole);
void na_heap_collect(na_heap *heap); /* takes in remote frees; owner only */
/* Gives empty pages back, free since so many ms, but for retired ones, which know; owner only. */
void na_heap_release(na_heap *heap, uint64_t since);
/* A cached block, or NULL. Its address in one register: Intel's cores (Golden Cove) hand on what was just stored without
 * delay, but only to a load without an index. */
static inline void *na_cache_pop(na_cache *cache) {
    __asm__("" : "+r"(cache));
    na_block *block = cache->top;
    if (NA_UNLIKELY(block == NULL)) return NULL;
    na_cache_set(cache, block->below);
    block->key = 0;
    return block;
}

void na_cache_fill(na_cache *cache, na_span *page);           /* an empty one, with the page's free or next blocks */
void na_heap_join(na_heap *heap, na_span *page);              /* a page with free blocks comes into its queue */
na_list na_cache_detach(na_heap *heap, unsigned class_index); /* all blocks of a cache */
void na_cache_add(na_heap *heap, unsigned class_index, na_list list, bool home); /* home: to their pages */
void na_caches_recount(na_heap *heap); /* child of fork: its thread may have been between two stores */

/* The queues of a heap are inconsistent between these two; a child of fork looks. */
static inline void na_heap_enter(na_heap *heap) {
    heap->busy++;
    atomic_signal_fence(memory_order_seq_cst);
}
static inline void na_heap_leave(na_heap *heap) {
    atomic_signal_fence(memory_order_seq_cst);
    heap->busy--;
}

/* ---- abandoned.c: heaps whose threads ended ---- */

void na_heap_abandon(na_heap *heap);       /* its thread ends; takes the lock */
void na_heap_orphan(na_heap *heap);        /* child of fork: the same, without touching its pages; with the lock held */
na_heap *na_heap_adopt(na_region *region); /* NULL: there is none; with the lock held */
/* The pages of one become the heap's, whose cache of the class wanted stays as it is. Takes the lock. false: none. */
bool na_heap_adopt_pages(na_heap *heap, unsigned wanted);
uint64_t na_abandoned_oldest(const na_region *region); /* ms when the thread of the oldest ended; NA_NO_TIME: none */
/* What is free in heaps that rest since before a time in ms goes back; takes the lock. */
void na_abandoned_release(na_region *region, uint64_t before);
void na_abandoned_reclaim(na_region *region); /* of all that rest, and of those that rest no more; takes the lock */

/* ---- secure.c: what the slow paths ask of secure.c while na_secure is set ---- */

void na_secure_init(void);                         /* after the options are read */
void na_secure_fork(void);                         /* child: other random numbers than the parent's */
size_t na_secure_heap_bytes(void);                 /* what each heap needs beside itself in the mode */
void na_secure_equip(na_heap *heap, void *memory); /* zeroed, of that size */

/* ---- lists ------------------------------------------------------------------------------------------------- */

void na_seal(na_block *block, uint64_t link);
bool na_unseal(const na_block *block, uint64_t *link); /* false: damaged; the link is not to be followed */

void na_secure_carve(na_span *page);
void *na_secure_take(na_span *page); /* NULL: the page's list was damaged, and is empty now */
void na_secure_take_remote(na_heap *heap, na_span *page);
void na_secure_unlink_all(const na_span *page);      /* the page goes, all its blocks are free; damage is reported */
void na_secure_free(na_span *page, na_block *block); /* after na_live_claim */
void na_secure_release(na_heap *heap);               /* what is held back goes home; owner only */
uint32_t na_secure_held(const na_heap *heap, unsigned class_index);
const na_block *na_secure_damaged(const na_heap *heap); /* of those held back; NULL: none */

#pragma GCC visibility pop

#endif
