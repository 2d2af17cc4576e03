/* SPDX-License-Identifier: BSD-3-Clause
 *
 * internal.h: prototypes across files, grouped by file.
 *
 * Includes go one way: numa_alloc.h <- os.h <- nodeset.h <- topology.h, options.h; sizeclass.h <- types.h <-
 * internal.h. Calls go one way too: api -> heap, large -> page, remote -> span -> region -> os; thread.c ties a
 * thread to its heaps; stats, debug and fork look at everything and are called by nothing below api. watch.c stands
 * between api's public calls and what they do (na_request, na_realloc, na_free).
 */
#ifndef NA_INTERNAL_H
#define NA_INTERNAL_H

#include <errno.h>

#include "options.h"
#include "os.h"
#include "topology.h"
#include "types.h"

#pragma GCC visibility push(hidden) /* direct loads and calls between our own files */

/* ---- sizes ------------------------------------------------------------------------------------------ */

#define NA_HUGE_BYTES ((size_t)NA_HUGE_SLICES << NA_SLICE_SHIFT) /* a 2 MiB huge page */

static inline size_t na_round_up(size_t value, size_t power) { return (value + power - 1) & ~(power - 1); }
static inline size_t na_span_bytes(const na_span *span) { return (size_t)span->slices << NA_SLICE_SHIFT; }
/* Bytes of a page's blocks, or of a large block. */
static inline size_t na_usable(const na_span *span) {
    return span->kind == NA_PAGE ? span->block_size : na_span_bytes(span);
}
/* Of a span that is not the caller's: its heap's thread may be keeping or taking it. */
static inline enum na_span_kind na_kind(const na_span *span) {
    return (enum na_span_kind)__atomic_load_n(&span->kind, __ATOMIC_RELAXED);
}
/* Is the memory of what became free then to go back now? */
static inline bool na_is_due(uint64_t freed_at, uint64_t now) {
    return na_opt.purge_delay_ms != NA_PURGE_NEVER && now - freed_at >= (uint64_t)na_opt.purge_delay_ms;
}
static inline uintptr_t na_span_end(const na_span *span) { return span->start + na_span_bytes(span); }

/* ---- thread.c: what is per process and per thread -------------------------------------------------- */

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

bool na_init(void);                       /* idempotent; false with errno when the address space can't be had */
na_thread *na_thread_get(void);           /* of the caller, made on demand; NULL with errno */
na_heap *na_heap_here(void);              /* the caller's heap on the node it runs on; NULL with errno */
int na_home_index(void);                  /* index of the node whose memory is local to the caller */
na_thread *na_threads_first(void);        /* under na_threads_lock */
void na_thread_forget(na_thread *thread); /* child of fork: its thread is gone */
size_t na_thread_bytes(void);             /* of a record, in whole cache lines */
void na_thread_arena(uintptr_t start, uintptr_t end); /* where the first records are carved */
extern pthread_mutex_t na_threads_lock;

/* ---- inline.c: what code compiled with numa_alloc_inline.h sees of the calling thread ------------------- */

void na_inline_show(na_heap *heap, int cpu); /* its heap, and the CPU for whose node it is */
void na_inline_hide(void);                   /* no heap: such code calls */

/* ---- heap.c ---------------------------------------------------------------------------------------- */

na_heap *na_heap_of(na_region *region); /* the caller's heap in a region; NULL with errno */
/* Slow path; NULL with errno. `whole`: all of it will be written to, so the block may be of a longer class. */
void *na_heap_alloc(na_heap *heap, unsigned class_index, bool whole);
void na_heap_collect(na_heap *heap);                          /* takes in remote frees; owner only */
void na_heap_shed(na_heap *heap);                             /* gives empty pages back; owner only */
void na_cache_fill(na_cache *cache, na_span *page);           /* an empty one, with the page's free or next blocks */
void na_heap_join(na_heap *heap, na_span *page);              /* a page with free blocks comes into its queue */
na_list na_cache_detach(na_heap *heap, unsigned class_index); /* all blocks of a cache */
void na_cache_add(na_heap *heap, unsigned class_index, na_list list, bool home); /* home: to their pages */
void na_caches_recount(na_heap *heap); /* child of fork: its thread may have been between two stores */
/* Empties the pending list of a heap; pages that moved on meanwhile are sent after. `mine`: the heap whose pages may be
 * changed, NULL: none. */
void na_pending_empty(na_heap *heap, na_heap *mine);

/* The queues of a heap are inconsistent between these two; a child of fork looks. */
static inline void na_heap_enter(na_heap *heap) {
    heap->busy++;
    atomic_signal_fence(memory_order_seq_cst);
}
static inline void na_heap_leave(na_heap *heap) {
    atomic_signal_fence(memory_order_seq_cst);
    heap->busy--;
}

/* ---- ended.c: heaps whose threads ended ----------------------------------------------------------------- */

void na_ended_add(na_heap *heap);    /* its thread ends; takes the lock */
void na_ended_orphan(na_heap *heap); /* child of fork: the same, without touching its pages; with the lock held */
na_heap *na_ended_adopt(na_region *region); /* NULL: there is none; with the lock held */
/* The pages of one become the heap's, whose cache of the class wanted stays as it is. Takes the lock. false: none. */
bool na_ended_take(na_heap *heap, unsigned wanted);
uint64_t na_ended_oldest(const na_region *region); /* ms when the first of the resting ones ended; UINT64_MAX: none */
void na_ended_due(na_region *region);     /* what is free in those that rest too long goes back; takes the lock */
void na_ended_release(na_region *region); /* of all that rest, however short; takes the lock */
void na_ended_reclaim(na_region *region); /* also of those that rest no more; takes the lock */
bool na_ended_relieve(na_region *region); /* memory is short: their node's and the caller's; false: nothing came */

/* ---- page.c ---------------------------------------------------------------------------------------- */

na_span *na_page_new(na_heap *heap, unsigned class_index);  /* in no queue yet; NULL with errno */
void na_page_carve(na_span *page);                          /* links the next batch of blocks */
na_span *na_page_idle(na_heap *heap, unsigned class_index); /* is in no queue now; NULL: there is none */
static inline bool na_page_may_be_idle(const na_heap *heap, unsigned class_index) {
    return (heap->idle_classes >> class_index & 1) != 0;
}
_Static_assert(NA_CLASSES <= 64, "a bit for each");
void na_page_freed(na_span *page);      /* its free blocks reached page->attention */
void na_page_release(na_span *page);    /* no block in use: to the region */
void na_page_leave(na_span *page);      /* the same, but first into heap->gone */
void na_pages_gone(na_heap *heap);      /* those go to the region; takes the lock */
void na_pages_gone_free(na_heap *heap); /* the same with the lock held */
void na_pages_idle_move(na_heap *from, na_heap *to);
void na_pages_idle_release(na_heap *heap);

void na_queue_push(na_queue *queue, na_span *page);
void na_queue_append(na_queue *queue, na_span *page);
void na_queue_remove(na_queue *queue, na_span *page);

static inline uint32_t na_page_used(const na_span *page) { return page->carved - na_list_count(page->free); }

static inline void na_mark_free(na_block *block) { block->key = na_secret ^ (uintptr_t)block; }
static inline bool na_marked_free(const na_block *block) { return block->key == (na_secret ^ (uintptr_t)block); }

/* ---- purger.c --------------------------------------------------------------------------------------- */

void na_purger_start(void);      /* unless it runs or is not wanted; no lock may be held */
void na_purger_fork_child(void); /* its thread is gone */

/* ---- remote.c -------------------------------------------------------------------------------------- */

void na_remote_free(na_span *page, na_block *block);
void na_remote_flush(na_thread *thread);
void na_remote_route(na_heap *heap, na_span *page); /* puts a page into heap->pending */
na_block *na_remote_take(na_span *page, uint32_t *count);
uint32_t na_remote_count(const na_span *page); /* frees that wait; for statistics */

/* ---- region.c -------------------------------------------------------------------------------------- */

extern uintptr_t na_base;          /* first byte of the reservation */
extern uintptr_t na_reserved;      /* its bytes, 0 before na_init */
extern unsigned na_shift;          /* log2 bytes of a region */
extern na_span **na_map;           /* slice -> descriptor */
extern _Atomic(uint64_t) *na_live; /* NUMALLOC_SECURE: a bit per 16 bytes, see secure.c; NULL without */
extern na_region *na_regions;
extern int na_region_count; /* 2 * nodes + 1 */

int na_regions_reserve(void);                           /* 0 or errno */
int na_region_open(na_region *region);                  /* sets the policy; idempotent, takes the lock */
int na_region_prepare(na_region *region, size_t bytes); /* commits address space ahead of use */
int na_region_restore(na_region *region, uintptr_t start, size_t bytes); /* policy and advice again, after
                                                                           * the mapping was replaced */
/* Below: with the region's lock held. */
int na_part_open(na_part *part, uintptr_t upto);
na_span *na_descriptor_new(na_region *region);
void na_descriptor_delete(na_region *region, na_span *span);
na_span *na_descriptor_at(const na_region *region, uint32_t index);
void *na_region_meta(na_region *region, size_t bytes); /* for heaps and placements; never given back */

static inline na_region *na_region_node(int node_index, bool strict) {
    return &na_regions[node_index + (strict ? na_topo.node_count : 0)];
}
static inline na_region *na_region_mixed(void) { return &na_regions[na_region_count - 1]; }
static inline size_t na_slice_index(uintptr_t address) { return (address - na_base) >> NA_SLICE_SHIFT; }

/* Descriptor of the span an address lies in; NULL for foreign and free addresses (but the first and last
 * slices of a free span have their descriptor). */
static inline na_span *na_span_at(const void *address) {
    uintptr_t offset = (uintptr_t)address - na_base;
    return NA_LIKELY(offset < na_reserved) ? na_map[offset >> NA_SLICE_SHIFT] : NULL;
}

/* ---- dirty.c: which slices may hold memory; with the region's lock held ------------------------------ */

extern uint64_t *na_dirty;
size_t na_dirty_count(uintptr_t start, uint32_t slices);
void na_dirty_set(uintptr_t start, uint32_t slices);
void na_dirty_clear(uintptr_t start, uint32_t slices);
static inline bool na_dirty_at(size_t slice) { return (na_dirty[slice >> 6] >> (slice & 63)) & 1; }

/* ---- span.c ---------------------------------------------------------------------------------------- */

/* A span of `slices`, aligned to `align` slices (a power of two), marked dirty and not yet a page or block.
 * *clean: all of it reads as zeros. Takes the lock. NULL with errno. `was_dirty`, if not NULL, gets a bit per
 * slice for the first NA_TRACKED_SLICES of them. */
enum { NA_TRACKED_SLICES = 4096 };
na_span *na_span_alloc(na_region *region, uint32_t slices, uint32_t align, enum na_span_kind kind, bool *clean,
                       uint64_t *was_dirty);
/* Of a large block that realloc makes or moves: with a reserve behind it, where one can be had. Takes the lock. */
na_span *na_span_alloc_growing(na_region *region, uint32_t slices, uint32_t align, bool *clean);
void na_span_forgo(na_region *region, const na_span *span);             /* its reserve, if any; with the lock held */
void na_span_free(na_region *region, na_span *span);                    /* takes the lock */
bool na_span_extend(na_region *region, na_span *span, uint32_t slices); /* in place, to `slices`; takes the lock */
void na_span_trim(na_region *region, na_span *span, uint32_t slices);   /* takes the lock */
size_t na_span_purge_all(na_region *region);                            /* with the lock held; gives bytes */
void na_span_purge_due(na_region *region);                              /* with the lock held */
void na_span_free_locked(na_region *region, na_span *span);

/* ---- kept.c: freed large blocks for a thread's next ones -------------------------------------------------- */

na_span *na_kept_take(na_heap *heap,
                      uint32_t slices);         /* dirty, counted as a large block; NULL: none fits; owner only */
bool na_kept_put(na_heap *heap, na_span *span); /* takes it off the count; false: not done; owner only */
void na_kept_recount(na_heap *heap);            /* child of fork: its thread may have been between two stores */
void na_kept_due(na_region *region);            /* those that wait too long go back; takes the lock */
bool na_kept_release(na_region *region);        /* all of all heaps; takes the lock; false: there were none */
bool na_kept_yield(na_region *region, uint32_t slices); /* one that serves goes back, of any heap; with the lock held */

typedef struct na_kept_counts {
    uint64_t taken, taken_bytes, freed, freed_bytes; /* large blocks, ever; the region's own counts lack them */
    uint64_t bytes;                                  /* kept now */
} na_kept_counts;
na_kept_counts na_kept_count(const na_region *region); /* with the lock held */

/* ---- large.c, mixed.c -------------------------------------------------------------------------------- */

/* NULL with errno. Flags: NUMALLOC_ZERO and NUMALLOC_POPULATE; NA_GROWING: for realloc, which may want more room soon. */
#define NA_GROWING (1u << 31)
void *na_large_alloc(na_region *region, size_t size, size_t align, unsigned flags);
void na_large_free(na_span *span);
void *na_large_realloc(na_span *span, size_t size); /* in place or moved within its region; NULL with errno */
size_t na_large_align(size_t bytes, size_t align);  /* where a block of that size starts, in bytes */
void na_large_account(na_region *region, const na_span *span, int sign); /* with the lock held */

void *na_mixed_alloc(const na_placement *placement, size_t size, size_t align, unsigned flags);
void na_mixed_free(na_span *span);
void na_mixed_purge_due(na_region *region, bool all); /* with the lock held */

/* ---- placement.c ------------------------------------------------------------------------------------- */

/* Faults the pages of a range in and, where `strict`, checks that each page is on a node of the set. ENOMEM, or EPERM
 * where placement can't be set or asked for. */
int na_populate(uintptr_t start, size_t bytes, const na_nodeset *nodes, bool strict);

/* Writes to each page of a block that is zero. */
void na_touch(void *start, size_t size);

/* Is a page of the range known to be on a node outside the set? */
bool na_pages_elsewhere(uintptr_t start, size_t bytes, const na_nodeset *nodes);

/* ---- api.c ------------------------------------------------------------------------------------------- */

void *na_alloc(na_region *region, size_t size, size_t align, unsigned flags); /* in that region or not at all */

/* Below the watch: what the public calls do when no mode looks on. */
void *na_request(const numalloc_request_t *request);
void *na_realloc(void *ptr, size_t size);
void na_free(void *ptr, const char *call);
uintptr_t na_block_start(const void *ptr); /* of the live block that ptr points into; 0: none */

/* ---- watch.c: modes that see every block; watch.h has the rest --------------------------------------- */

/* While one of these is set, na_self.heap is na_empty_heap, so that both fast paths miss. Constant after na_init. */
extern bool na_watched;
extern bool na_secure;     /* secure.c: sealed lists, random order; secure.h has the rest */
int na_watch_init(void);   /* 0 or errno */
void na_watch_start(void); /* when constructors run */
void *na_watch_here(size_t size, size_t align, unsigned flags); /* NUMALLOC_LOCAL */
void *na_watch_alloc(const numalloc_request_t *request);
void *na_watch_realloc(void *ptr, size_t size);
void na_watch_free(void *ptr, const char *call);
bool na_watch_describe(numalloc_block_info_t *info); /* raw block to what the user has; false: it was freed */
bool na_watch_verify(void);                          /* false: damage, reported */
void na_watch_cleanup(bool report);
void na_watch_fork(int step);
enum na_fork_step { NA_FORK_PREPARE, NA_FORK_PARENT, NA_FORK_CHILD };

/* ---- stats.c ------------------------------------------------------------------------------------------- */

/* false: public calls go to another copy of this library, which was loaded before (LD_PRELOAD). */
bool na_serves(void);

/* ---- audit.c: where pages were while the program ran; only under NUMALLOC_AUDIT ------------------------ */

void na_audit_look(void); /* before a large block goes; no more often than its budget allows */
void na_audit_fork_child(void);

/* ---- debug.c ----------------------------------------------------------------------------------------- */

void na_misuse(const char *call, const void *address, const char *what, const char *remedy);
/* A free block that was written to; `lost` ones, from it on, are never used again. */
void na_list_damaged(const na_span *page, const na_block *block, uint32_t lost, const char *where);
/* The same with more to say, after the line and before the end. */
void na_misuse_more(const char *call, const void *address, const char *what, const char *remedy,
                    void (*more)(const void *data), const void *data);

/* ---- fork.c ------------------------------------------------------------------------------------------ */

void na_fork_install(void);
extern bool na_cut_short; /* a child, and its parent had threads, which may have been between two stores */

#pragma GCC visibility pop

#endif
