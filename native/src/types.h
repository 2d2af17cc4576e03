/* SPDX-License-Identifier: BSD-3-Clause
 *
 * types.h: the words and the structures of the allocator.
 *
 *   slice       64 KiB of address space, the unit in which everything above a block is counted
 *   span        a run of slices with one descriptor: free, a page, or a large block
 *   page        a span cut into blocks of one size class, owned by one heap
 *   block       what the user gets: a piece of a page, or a whole large span
 *   home        the node a block belongs to for life, whoever touches or frees it
 *   region      the address range of one home and use; one kernel policy, set once. The last region is "mixed":
 *               interleaved and blocked spans, each with a policy of its own
 *   part        half of a region: "small" for pages and spans below 2 MiB, "large" for the rest, which wants huge pages
 *   heap        the pages of one region that one thread owns; no other thread changes them
 *   owner       the thread whose heap a page is in
 *   remote      done by a thread that is not the owner
 *   cache       free blocks of one class that a heap's thread uses next, of any page of its region; in their pages they
 *               count as used
 *   zeroed      memory that was zero when it became a page: a block that was never handed out is zero but for its links
 *   threshold   so many free blocks of a page call for its owner's care
 *   retired     a page without a block in use that stays in its heap for a while
 *   pending     list of a heap's pages that have received remote frees
 *   abandoned   a heap whose thread ended, as it was, caches and pages: the next thread of its node adopts it
 *   collected   an abandoned heap that has given back what was free, and has live blocks
 *   empty       a heap without pages or owner; the next thread has it. Heaps are never unmapped, so that a late remote
 *               free may still look at them
 *   span cache  freed large blocks: of a heap, for its thread's next ones; of the mixed region, with their policy
 *   reserve     free slices behind a large block that grows, held for it
 *   dirty       a slice that may hold bytes other than zero, hence memory; others read as zeros
 *   tick        coarse time: a seventh of the purge delay. A dirty free slice knows the tick in which it was freed
 *   live        given out and not freed; lost: free, but its list was damaged, so it is not used again
 *   hook        what a mode that sees every block is called by: leaks, heap profile, guard; heap/hooks.h
 *   purge       give the memory of dirty free slices back to the system
 *
 * Address arithmetic: region = (p - na_base) >> na_shift, descriptor = na_map[(p - na_base) >> 16].
 *
 * Locks: one per region (spans, lists of heaps), one for threads. Order: threads, then regions ascending;
 * nothing but fork takes two regions. The paths of numalloc() and numalloc_free() that end in a heap of the
 * caller, and remote frees of page blocks, take none.
 */
#ifndef NA_TYPES_H
#define NA_TYPES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "os/nodeset.h"
#include "sizeclass.h"

#define NA_LIKELY(x) __builtin_expect(!!(x), 1)
#define NA_UNLIKELY(x) __builtin_expect(!!(x), 0)

enum {
    NA_SLICE_SHIFT = 16,
    NA_SLICE = 1 << NA_SLICE_SHIFT, /* bytes */
    NA_SMALL_PAGE_SLICES = 1,       /* pages of blocks up to NA_SMALL_BLOCK_MAX */
    NA_MEDIUM_PAGE_SLICES = 8,      /* pages of larger blocks */
    NA_STRICT_BLOCKS = 4,           /* strict memory: blocks in the first page of a class of larger ones */
    NA_SMALL_BLOCK_MAX = 1024,      /* bytes: at least 64 blocks in a page, or heaps would change pages all the time */
    NA_HUGE_SLICES = 32,            /* slices in a 2 MiB huge page */
    NA_LARGE_PART_SLICES = 32,      /* spans from 2 MiB live in the large part: smaller ones can fill no huge page */
    NA_ALIGN_HUGE_SLICES = 64,      /* spans from 4 MiB start on a huge page */
    NA_SPAN_BINS = 128,             /* free spans by size: exact to 4 slices, then four per doubling */
    NA_REMOTE_SLOTS = 16,           /* pages a thread collects remote frees for at a time */
    NA_REMOTE_BATCH = 64,           /* blocks at most in one of them */
    NA_REMOTE_BATCH_BYTES = 16384,  /* bytes at most in one of them */
    NA_CACHE_BLOCKS = 128,          /* freed blocks a heap keeps at most of one class */
    NA_CACHE_BYTES = 65536,         /* bytes of them at most, but always NA_CACHE_LEAST blocks */
    NA_CACHE_LEAST = 16,
    NA_RETIRED_SLICES = 64,   /* of retired pages in a heap at most */
    NA_PEAK_BYTES = 1 << 20,  /* freed blocks from this size are worth a thread that returns them */
    NA_SPAN_CACHE_SLOTS = 16, /* freed large blocks in a span cache at most */
    NA_SPAN_CACHE_LONGEST = NA_LARGE_PART_SLICES - 1, /* slices of one at most, in a heap's */
    NA_SPAN_CACHE_SLICES = 32,                        /* of all of them at most, in a heap's */
    NA_AGES = 8,                                      /* ticks after which the memory of a free slice is due */
    NA_DUE = NA_AGES,                                 /* index of the list of spans with slices that are due */
    NA_EDGES,                                         /* of those with less than a whole huge page of memory */
    NA_REST_LISTS
};
#define NA_SPAN_CACHE_MAX ((size_t)NA_SPAN_CACHE_LONGEST << NA_SLICE_SHIFT) /* bytes */
#define NA_NO_TIME UINT64_MAX /* in the place of milliseconds: nothing is there */

/* A list of a page's free blocks in one word: address of the first << 16 | number of blocks. As each block holds the
 * list below it in the same form, taking one off the list needs no counting, and putting one on needs an increment of
 * what was read anyway. */
typedef uint64_t na_list;
#define NA_LIST_BITS 16
#define NA_LIST_MASK ((UINT64_C(1) << NA_LIST_BITS) - 1)

/* The first two words of a free block. `key` marks it as free, so that a second free is noticed. */
typedef struct na_block {
    union {
        na_list below;         /* in its page's list: the rest of it */
        struct na_block *next; /* in a chain of remote frees */
    };
    uintptr_t key; /* na_secret ^ address while free */
} na_block;

static inline na_block *na_list_first(na_list list) { return (na_block *)(uintptr_t)(list >> NA_LIST_BITS); }
static inline uint32_t na_list_count(na_list list) { return (uint32_t)(list & NA_LIST_MASK); }
static inline na_list na_list_push(na_list *list, na_block *block) { /* gives the longer list */
    na_list below = *list, longer = ((uint64_t)(uintptr_t)block << NA_LIST_BITS) | ((below + 1) & NA_LIST_MASK);
    block->below = below;
    *list = longer;
    return longer;
}
static inline na_block *na_list_pop(na_list *list) {
    na_block *block = na_list_first(*list);
    *list = block->below;
    return block;
}
_Static_assert(sizeof(na_block) <= NA_GRANULE, "a free block must hold its links");

/* No span in the map is NA_NO_SPAN: nothing matches the tag of na_empty_heap, which is zeros. */
enum na_span_kind { NA_NO_SPAN, NA_FREE, NA_PAGE, NA_LARGE, NA_LOST, NA_CACHED, NA_RESERVE, NA_PURGING };

_Static_assert((NA_SLICE * NA_MEDIUM_PAGE_SLICES) / NA_GRANULE < (1 << NA_LIST_BITS), "the number of blocks fits");

typedef struct na_heap na_heap;
typedef struct na_region na_region;

/* A circular list with a head of its own: an element leaves without knowing which list it is in. */
typedef struct na_link {
    struct na_link *next, *prev;
} na_link;

/* Descriptor of a span, two cache lines. The first is what any thread reads when it frees, with the remote
 * list; the second is written by the owner alone (a page), or under the region lock (all else). */
typedef struct na_span {
    _Alignas(64) _Atomic(na_heap *) heap; /* page: its heap; NULL otherwise */
    _Atomic(uint64_t) remote;             /* page: remote frees, see remote.c */
    struct na_span *pending_next;         /* page: link in heap->pending */
    uintptr_t start;                      /* address of the first byte */
    uint32_t slices;                      /* length */
    union {
        struct {
            uint16_t region;     /* index */
            uint8_t kind;        /* enum na_span_kind */
            uint8_t class_index; /* page: size class */
        };
        uint32_t tag; /* the three in one word, see na_tag_class */
    };
    uint32_t block_size; /* page: bytes */
    uint8_t part;        /* 0 small, 1 large */
    uint8_t huge_shift;  /* large: log2 bytes of explicit huge pages, 0: none */
    uint8_t remapped;    /* large: pages came by mremap, the mapping has odd offsets */
    uint8_t in_ages;     /* free: it is in one of its part's lists by age */
    union {
        na_link rest; /* free and dirty: list by age; being purged: region->purging */
        struct {
            struct na_span *older, *newer;
        };                              /* retired: the heap's list */
        struct na_placement *placement; /* large, mixed region: its policy */
    };

    _Alignas(64) na_list free; /* page: free blocks */
    union {
        uint64_t frees;     /* page: blocks freed ever, as its owner has seen it */
        uint64_t populated; /* strict, large: bytes that were faulted in and verified */
    };
    uint32_t threshold; /* page: a free that makes this many free blocks needs care; 0: none does */
    union {
        uint32_t carved;       /* page: blocks that were ever linked; the others were never allocated */
        uint32_t dirty_slices; /* free or being purged */
    };
    uint32_t capacity;           /* page: blocks it can hold; being purged: not 0 if that failed */
    uint8_t full;                /* page: it is in the heap's full queue */
    uint8_t retired;             /* page: it is in the heap's list of retired ones */
    uint8_t zeroed;              /* page: its memory was zero when it became one */
    uint8_t grown;               /* large: realloc made it; being purged: it is a reserve */
    struct na_span *next, *prev; /* page: queue of its heap; free: bin; reserve: list; unused: next */
    uint64_t freed_at;           /* retired: ms when it became so; free: its oldest dirty slice, or an earlier tick */
} na_span;
_Static_assert(sizeof(na_span) == 128, "two cache lines");

typedef struct na_queue {
    na_span *first, *last;
} na_queue;

/* Policy of a span of the mixed region, beside it for queries, realloc and reuse. */
typedef struct na_placement {
    na_nodeset nodes;
    size_t size;    /* blocked, weighted: bytes that were split, else 0 */
    size_t stripe;  /* blocked, weighted: bytes after which the split repeats, 0: it does not */
    uint8_t policy; /* enum numalloc_policy */
    uint8_t strict;
    uint32_t dealt_by_kernel; /* weighted: pages of a turn of the kernel's weighted interleaving; 0: runs of our own */
    numalloc_weights_t *weights; /* weighted: without common divisor. Unused ones keep the memory */
    struct na_placement *next;   /* unused ones */
} na_placement;

/* Is a span with this tag a page of the region whose tag_of_pages this is? Then also: of which class. */
static inline bool na_tag_is_page(uint32_t tag, uint32_t tag_of_pages) { return (tag ^ tag_of_pages) << 8 == 0; }
static inline uint32_t na_tag_class(uint32_t tag) { return tag >> 24; }
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "class_index is the highest byte of the tag");

/* Free blocks of one class, which numalloc() takes and numalloc_free() adds to: a list in two words, its first block and
 * their number, so that a free and the next allocation wait for two values that were just stored, not three. */
typedef struct na_cache {
    na_block *top;
    uint64_t frees;  /* blocks freed to it ever */
    uint64_t zeroed; /* while this equals `frees`, all blocks are zero but for their links */
    uint32_t count;  /* blocks */
    uint32_t limit;  /* with as many or more, freed ones go to their pages */
} na_cache;
static inline na_list na_cache_list(const na_cache *cache) {
    return ((uint64_t)(uintptr_t)cache->top << NA_LIST_BITS) + cache->count;
}
static inline void na_cache_set(na_cache *cache, na_list list) {
    cache->count = na_list_count(list);
    cache->top = na_list_first(list);
}
_Static_assert(sizeof(na_cache) == 32, "finding one of them takes a shift");

/* Freed large blocks for the next ones of their kind, see cache.c. */
typedef struct na_span_cache {
    uint32_t slices[NA_SPAN_CACHE_SLOTS]; /* what its owner put into the slots, 0: nothing */
    uint32_t last;                        /* the slot that was filled last */
    uint32_t total;                       /* sum of `slices` */
    _Atomic(uint64_t) taken, taken_bytes; /* large blocks allocated from there ever */
    _Atomic(uint64_t) freed, freed_bytes; /* freed to there ever */
    _Atomic(na_span *) span[NA_SPAN_CACHE_SLOTS];
    _Atomic(uint64_t) at[NA_SPAN_CACHE_SLOTS]; /* ms when the slot was filled */
    struct na_span_cache *next;                /* of the region */
} na_span_cache;

/* The pages of one region that one thread owns. Only the owner touches anything but `pending`, `thread` and
 * the links, which the region lock guards. */
struct na_heap {
    na_cache cache[NA_CLASSES];
    uint32_t tag_of_pages;              /* of the region's pages, class 0 */
    na_queue queue[NA_CLASSES];         /* pages that may have free blocks */
    na_queue full;                      /* pages without, of all classes */
    _Atomic(na_span *) pending;         /* pages with remote frees; any thread pushes */
    _Atomic(struct na_thread *) thread; /* owner, NULL: abandoned or empty */
    na_region *region;
    uint64_t returned[NA_CLASSES];         /* blocks sent home from the cache ever */
    uint64_t remote_frees;                 /* collected ever */
    uint32_t pages;                        /* in the queues */
    struct na_shelf *shelf;                /* NUMALLOC_SECURE: secure.c; NULL without */
    uint64_t gone_frees;                   /* blocks freed ever in pages that it gave back */
    na_span *retired_first, *retired_last; /* pages without a used block, oldest first; in no queue */
    uint32_t retired_slices;
    na_span *gone;                    /* pages that left it, on their way to the region */
    uint64_t retired_classes;         /* bit c: there may be a retired page of class c */
    uint8_t strict_pages[NA_CLASSES]; /* strict: pages made and not given back, of each class; as far as 255 */
    uint8_t changed;                  /* it took or released a span since the last look */
    uint8_t in_hand;                  /* of no thread and in no list: it is being collected */
    volatile uint8_t busy;            /* not 0: queues are being changed, a child of fork must not use them */
    _Atomic(uint64_t) abandoned_at;   /* ms when its thread ended */
    na_heap *next;                    /* list of abandoned (to the older), collected or empty ones */
    na_heap *newer;                   /* abandoned */
    uint64_t rested;                  /* abandoned: bytes of retired pages and cached spans when its thread ended */
    na_heap *all_next;                /* every heap of the region */
    na_span_cache spans;
};

typedef struct na_remote_slot {
    na_span *page;
    na_block *first, *last;
    uint32_t count;
} na_remote_slot;

/* What a thread owns. Reused by later threads, never unmapped. */
typedef struct na_thread {
    na_remote_slot remote[NA_REMOTE_SLOTS];
    uint32_t remote_slots_used;    /* slots with blocks in them */
    uint32_t frees_in_row;         /* of spans, since it took one */
    uint32_t round_robin;          /* next node for small interleaved blocks */
    struct na_thread *next, *prev; /* live threads; unused: next */
    na_heap *heaps[];              /* one per region, NULL until needed */
} na_thread;

/* What a node's regions are for. On-node memory serves local requests as well, unless the process inherited a memory
 * policy: then local memory is in regions without a policy of their own, and pages come from where the thread's says. */
enum na_use { NA_ONNODE, NA_STRICT, NA_INHERITED };

typedef struct na_part {
    uintptr_t start, limit; /* addresses */
    uintptr_t top;          /* spans lie in [start, top) without gaps */
    uintptr_t opened;       /* [start, opened) is committed */
    na_span **bin;          /* NA_SPAN_BINS of them, apart from what all parts use */
    uint64_t bin_used[NA_SPAN_BINS / 64];
    na_link rest[NA_REST_LISTS]; /* spans with dirty slices, see rest.c */
    uint64_t fresh;              /* bytes of clean slices that were taken since reclaim looked last */
} na_part;

/* Everything below is guarded by `lock` except what is set once at opening. */
struct na_region {
    pthread_mutex_t lock;
    uintptr_t base;                   /* address of the first byte */
    int16_t index;                    /* of the region */
    int16_t node_index;               /* of its home in na_topo.node_id[], -1 mixed */
    int16_t limited_index;            /* the node whose NUMALLOC_NODE_LIMIT it counts against, -1 mixed */
    int node;                         /* id of its home; -1: mixed, or an inherited policy of several nodes */
    uint8_t use;                      /* enum na_use */
    bool strict;                      /* use is NA_STRICT */
    _Atomic(bool) opened;             /* policy set, metadata ready */
    uintptr_t descriptors_end;        /* descriptors are open up to here */
    uintptr_t meta_next, meta_opened; /* other metadata: carved downwards so far, opened so far; see meta.c */
    uintptr_t kept_low, kept_high;    /* after na_regions_let_go: metadata between them is not reserved */
    uint32_t span_count;              /* descriptors ever made */
    na_span *span_unused;
    na_part part[2];
    na_queue reserves;                 /* of the small part, in the order in which they were made or served last */
    uint64_t reserved;                 /* slices in them */
    uint64_t tick;                     /* as the lists by age know it */
    na_link purging;                   /* spans whose memory is being given back, outside the lock */
    uint32_t in_purge[2], purge_epoch; /* batches of them, by parity of the epoch in which they were taken out */
    na_span_cache *caches;             /* of its heaps, or the one of the mixed region */
    na_span_cache mixed_cache;
    /* Changed under the lock; looked at without, to skip it. */
    _Atomic(na_heap *) abandoned, abandoned_oldest, collected, empty;
    uint64_t rested; /* bytes: sum over the heaps in `abandoned`; mixed: in its span cache. They count as used */
    _Atomic(uint64_t)
        cached_since; /* ms, not after the first block of its span caches was freed; NA_NO_TIME: there is none */
    na_heap *all;
    na_placement *placement_unused;
    /* statistics */
    _Atomic(uint64_t) used_bytes;  /* of spans that are not free */
    _Atomic(uint64_t) dirty_bytes; /* of dirty slices in free spans */
    _Atomic(uint64_t) mixed_bytes; /* region of NA_ONNODE: this node's share of mixed memory, its span cache included */
    uint64_t peak_bytes, purged_bytes;
    /* What reclaim.c goes by */
    _Atomic(bool) restless;    /* memory is due, or was opened: a pass is wanted */
    _Atomic(bool) too_much;    /* more rests than may: a pass of a thread that only frees is wanted */
    _Atomic(uint64_t) look_at; /* ms: the next pass without such a reason */
    uint64_t passed_at;        /* ms when a pass found memory that was due; 0: the last one found none */
    uint64_t used_most;        /* of used_bytes ever, less what was due and went */
    uint64_t unproven;         /* bytes by which used_most grew, and did not shrink early since */
    int64_t early_bytes;       /* that may go before they are due when their own part opens memory */
    uint64_t fresh_growing;    /* bytes of `fresh` of the small part that blocks took as they grew */
    uint64_t large_allocations, large_frees, large_blocks, large_bytes, huge_bytes;
    uint64_t pages, abandoned_count; /* heaps abandoned and collected */
    _Atomic(uint64_t) fallbacks, strict_failures, lost_blocks;
};

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
static inline uintptr_t na_span_end(const na_span *span) { return span->start + na_span_bytes(span); }

#endif
