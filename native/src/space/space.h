/* SPDX-License-Identifier: BSD-3-Clause
 *
 * space.h: address space: the reservation and its regions, metadata, free spans, dirty memory, faulting in.
 */
#ifndef NA_SPACE_H
#define NA_SPACE_H

#include "os/options.h"
#include "os/topology.h"
#include "types.h"

#pragma GCC visibility push(hidden)

/* ---- queue: lists of descriptors, linked both ways ---- */

static inline void na_queue_push(na_queue *queue, na_span *span) {
    span->prev = NULL;
    span->next = queue->first;
    if (span->next != NULL) span->next->prev = span;
    else queue->last = span;
    queue->first = span;
}

static inline void na_queue_append(na_queue *queue, na_span *span) {
    span->next = NULL;
    span->prev = queue->last;
    if (span->prev != NULL) span->prev->next = span;
    else queue->first = span;
    queue->last = span;
}

static inline void na_queue_remove(na_queue *queue, na_span *span) {
    if (span->prev != NULL) span->prev->next = span->next;
    else queue->first = span->next;
    if (span->next != NULL) span->next->prev = span->prev;
    else queue->last = span->prev;
    span->next = span->prev = NULL;
}

/* ---- region.c: the reservation, its regions, and descriptors ---- */

extern uintptr_t na_base;     /* first byte of the reservation */
extern uintptr_t na_reserved; /* its bytes, 0 before na_init */
extern unsigned na_shift;     /* log2 bytes of a region */
extern size_t na_size_max;    /* bytes: no block is longer. Hence its slices fit 32 bits */
extern na_span **na_map;      /* slice -> descriptor */
extern bool na_secure;        /* NUMALLOC_SECURE: sealed lists, random order, see heap/secure.c; set before reserving */
extern _Atomic(uint64_t) *na_live; /* secure: see below; NULL without */
extern na_region *na_regions;
extern _Atomic(bool) na_held; /* what is not open is reserved as well; becomes false with all locks of regions held */
extern int na_region_count;   /* a region for each node and use, and the mixed one */

int na_regions_reserve(void);                           /* 0 or errno */
int na_region_open(na_region *region);                  /* sets the policy; idempotent, takes the lock */
int na_region_prepare(na_region *region, size_t bytes); /* commits address space ahead of use */
int na_region_restore(na_region *region, uintptr_t start, size_t bytes); /* policy and advice again, after
                                                                           * the mapping was replaced */
/* Gives all address space that is only reserved, and free ends of parts, back to the system: it counts against RLIMIT_AS.
 * What is opened from then on is mapped when it is. Where there was a reservation, as much of it stays as metadata needs at
 * most under `limit` bytes of address space (UINT64_MAX: not known), so that no foreign mapping comes to be there. Takes
 * all locks of regions. false: there was nothing to give. */
bool na_regions_let_go(uint64_t limit);
/* Below: with the region's lock held. */
int na_region_commit(na_region *region, uintptr_t start, uintptr_t end); /* opens reserved space */
int na_part_open(na_part *part, uintptr_t upto);

static inline na_region *na_region_node(int node_index, enum na_use use) {
    return &na_regions[node_index + (int)use * na_topo.node_count];
}
/* Of local memory. */
static inline enum na_use na_use_local(bool strict) {
    return strict ? NA_STRICT : na_topo.policy != NULL ? NA_INHERITED : NA_ONNODE;
}
/* Where its pages may be. */
static inline na_nodeset na_region_nodes(const na_region *region) {
    return region->node >= 0 ? nodeset_single(region->node) : na_topo.allowed;
}
static inline na_region *na_region_mixed(void) { return &na_regions[na_region_count - 1]; }
static inline size_t na_slice_index(uintptr_t address) { return (address - na_base) >> NA_SLICE_SHIFT; }

/* Descriptor of the span an address lies in; NULL for foreign and free addresses (but the first and last
 * slices of a free span have their descriptor). */
static inline na_span *na_span_at(const void *address) {
    uintptr_t offset = (uintptr_t)address - na_base;
    return NA_LIKELY(offset < na_reserved) ? na_map[offset >> NA_SLICE_SHIFT] : NULL;
}

/* Is it the allocator's own? Foreign mappings may be where address space was let go. */
bool na_is_open(uintptr_t address); /* of addresses in the reservation, after na_regions_let_go */
static inline bool na_is_ours(const void *address) {
    return (uintptr_t)address - na_base < na_reserved &&
           (NA_LIKELY(atomic_load_explicit(&na_held, memory_order_relaxed)) || na_is_open((uintptr_t)address));
}

/* Counts a large block: 1 it became one, -1 it was freed, 0 it did not become one after all. With the lock held. */
void na_large_account(na_region *region, const na_span *span, int sign);

/* ---- meta.c: descriptors of spans, and memory for other metadata; with the region's lock held ---- */

int na_descriptors_open(na_region *region, size_t spans); /* so many can be taken without a further system call */
int na_meta_ahead(na_region *region);                     /* so may a heap */
na_span *na_descriptor_new(na_region *region);            /* NULL: no memory */
void na_descriptor_delete(na_region *region, na_span *span);
na_span *na_descriptor_at(const na_region *region, uint32_t index);
void *na_meta_alloc(na_region *region,
                    size_t bytes); /* zeros, in whole cache lines, never given back; NULL: no memory */

/* ---- dirty.c: which slices may hold memory, and since when they are free; with the region's lock held, but for the slices ----
 * of a span that is the caller's.
 *
 * A byte per slice. 0: it reads as zeros. Else it is dirty: the stamp of the tick in which it was freed, or any, in use. */

extern uint8_t *na_dirty;
size_t na_dirty_count(uintptr_t start, uint32_t slices);
bool na_dirty_any(uintptr_t start, uint32_t slices);
void na_dirty_set(uintptr_t start, uint32_t slices, uint64_t tick);
void na_dirty_clear(uintptr_t start, uint32_t slices);
static inline bool na_dirty_at(size_t slice) { return na_dirty[slice] != 0; }

/* Stamps wrap after 255 ticks: memory that no pass saw for so long may wait for another delay. */
static inline uint8_t na_dirty_stamp(uint64_t tick) { return (uint8_t)(1 + tick % 255); }
/* Ticks since a stamp. */
static inline uint32_t na_dirty_age(uint8_t stamp, uint64_t tick) {
    return (255u + na_dirty_stamp(tick) - stamp) % 255;
}

/* ---- rest.c: the memory of free spans by age, and how it goes back; with the region's lock held but for na_rest_purge ---- */

void na_rest_open(na_region *region); /* empty lists; no lock is needed yet */
uint64_t na_rest_tick_ms(void);       /* milliseconds of a tick */
/* Moves the region's clock on; gives the tick of a time that is past, or now. */
uint64_t na_rest_tick(na_region *region, uint64_t ms);
void na_rest_add(na_region *region, na_span *span); /* of a free span: into the list of its age, if it is dirty */
void na_rest_remove(na_span *span);
bool na_rest_any(const na_region *region); /* does a part have memory that waits for its age? */
bool na_rest_due(const na_region *region); /* and some that is due? */
void na_rest_weigh(na_region *region);     /* says so in `restless` and `too_much` */

/* Retained free memory is at most this and as much as is in use: programs allocate again what they have just freed. */
#define NA_REST_LEAST ((uint64_t)24 << 20)
/* Each time so much memory is opened, reclaim.c checks whether other memory has to be released for it. */
#define NA_REST_FRESH ((uint64_t)256 << 10)
/* A pass of reclaim.c is wanted. */
static inline void na_rest_wake(na_region *region) {
    if (!atomic_load_explicit(&region->restless, memory_order_relaxed))
        atomic_store_explicit(&region->restless, true, memory_order_relaxed);
}

/* Retained bytes beyond that, but no more than the peak grew. */
static inline uint64_t na_rest_excess(const na_region *region) {
    uint64_t used = atomic_load_explicit(&region->used_bytes, memory_order_relaxed);
    uint64_t may = used - region->rested + NA_REST_LEAST, rests = region->dirty_bytes + region->rested;
    uint64_t excess = rests > may ? rests - may : 0;
    return excess < region->unproven ? excess : region->unproven;
}

/* Spans that were taken out of the region to be purged. */
typedef struct na_rest_batch {
    int age;  /* ticks for which slices must have rested: NA_AGES, those that are due; 0: any, the oldest spans first */
    bool all; /* every dirty slice; else in the large part whole huge pages only */
    na_span *first;
    int least; /* ticks, at least 0: `age`, or 0 if the delay was 0 when spans were taken out; mallopt may change it then */
    uint64_t tick;
    uint64_t bytes; /* to be purged, about */
} na_rest_batch;

/* Takes out spans with about so many bytes of memory to give back. No other thread can take these, and a child of fork
 * finds them. */
void na_rest_take(na_region *region, unsigned part, uint64_t bytes, na_rest_batch *batch);
void na_rest_purge(na_rest_batch *batch);                           /* the system calls; no lock may be held */
uint64_t na_rest_put_back(na_region *region, na_rest_batch *batch); /* gives bytes that went */
/* The same for a span that another module purges: a child of fork finds it between these two. */
unsigned na_rest_begin(na_region *region, na_span *span);
void na_rest_end(na_region *region, na_span *span, unsigned count);
/* A batch is out from now on; gives the element of in_purge that counts it. */
static inline unsigned na_rest_count(na_region *region) {
    unsigned count = region->purge_epoch % 2;
    region->in_purge[count]++;
    return count;
}
void na_rest_fork_child(na_region *region); /* the purging threads are gone */

/* ---- span.c: spans of slices ---- */

/* A span of `slices`, aligned to `align` slices (a power of two), not yet a page or block. *clean: all of it reads as
 * zeros; else na_dirty tells which slices do not. `grows`: realloc makes or moves a large block, which has a reserve behind it
 * if there is room. Takes the lock. NULL with errno. */
na_span *na_span_alloc(na_region *region, uint32_t slices, uint32_t align, enum na_span_kind kind, bool grows,
                       bool *clean);
void na_span_release_reserve(na_region *region, const na_span *span); /* its reserve, if any; with the lock held */
/* `rested_since`: ms since when its memory is unused; `reads_zero`: it has none. */
void na_span_free(na_region *region, na_span *span, uint64_t rested_since); /* takes the lock */
void na_span_free_locked(na_region *region, na_span *span, uint64_t rested_since, bool reads_zero);
bool na_span_extend(na_region *region, na_span *span, uint32_t slices); /* in place, to `slices`; takes the lock */
void na_span_trim(na_region *region, na_span *span, uint32_t slices);   /* takes the lock */
/* For region.c, with the lock held: a free span at the top of a part is no more, and its addresses are to be unmapped. */
void na_span_drop_top(na_region *region, na_part *part);
/* For rest.c, with the lock held. A piece of a free span, or all of a reserve, leaves the bins; and comes back. */
void na_span_take_out(na_region *region, na_span *span, uintptr_t start, uint32_t slices);
void na_span_put_back(na_region *region, na_span *span);

/* Is the memory of what became free then to go back now? */
static inline bool na_is_due(uint64_t freed_at, uint64_t now) {
    return na_opt.purge_delay_ms != NA_PURGE_NEVER && now - freed_at >= (uint64_t)na_opt.purge_delay_ms;
}

/* Bytes of a node that count against NUMALLOC_NODE_LIMIT: of all its regions, and its share of mixed memory. */
uint64_t na_node_held(int node_index);

/* ---- live: which blocks are given out, under NUMALLOC_SECURE: a bit per 16 bytes, set at the first byte of each live block ----
 * The map lies away from the blocks and is opened with them by region.c.
 *
 * Threads: any; bits are atomic. */

static inline uint64_t na_live_bit(const void *block, size_t *word) {
    size_t granule = ((uintptr_t)block - na_base) / NA_GRANULE;
    *word = granule >> 6;
    return (uintptr_t)block % NA_GRANULE == 0 ? UINT64_C(1) << (granule & 63) : 0;
}

/* Of addresses in the reservation. */
static inline bool na_live_at(const void *block) {
    size_t word;
    uint64_t bit = na_live_bit(block, &word);
    return (atomic_load_explicit(&na_live[word], memory_order_relaxed) & bit) != 0;
}
/* false: it was live. */
static inline bool na_live_begin(const void *block) {
    size_t word;
    uint64_t bit = na_live_bit(block, &word);
    return (atomic_fetch_or_explicit(&na_live[word], bit, memory_order_relaxed) & bit) == 0;
}
/* Of any address. true for one caller only, which then owns the block; false: it was not live. */
static inline bool na_live_claim(const void *block) {
    if ((uintptr_t)block - na_base >= na_reserved || !na_live_at(block)) return false; /* the map may be closed there */
    size_t word;
    uint64_t bit = na_live_bit(block, &word);
    return (atomic_fetch_and_explicit(&na_live[word], ~bit, memory_order_relaxed) & bit) != 0;
}

/* ---- populate.c: faulting memory in, where it belongs, without calling the OOM killer ---- */

/* What is asked of each page once it is there. */
enum na_check {
    NA_UNCHECKED,
    NA_IN_SET,    /* it is on a node of the set */
    NA_DEALT,     /* it is on the node of the set whose turn it is, page by page */
    NA_DEALT_HUGE /* the same, or all pages of a huge page are on the node whose turn the huge page is */
};

/* Faults the pages of a range in. ENOMEM, before anything is faulted in, where the nodes, the cgroup or the machine have no
 * room for the whole of it; ENOMEM where checked pages are elsewhere in the end; ENODEV where that is because a node was
 * taken from this process; EPERM, ENOSYS where placement can't be set or asked for. Gives no memory back: the caller may
 * have the allocator's free memory returned and try once more. `nodes`: NULL for NA_UNCHECKED. */
int na_populate(uintptr_t start, size_t bytes, const na_nodeset *nodes, enum na_check check);

/* Is there room for a range, in equal shares on the nodes (NULL: anywhere)? What is there already needs none. */
bool na_has_room(uintptr_t start, size_t bytes, const na_nodeset *nodes);

uint64_t na_room(void); /* bytes that cgroups grant and the machine has, less a reserve; UINT64_MAX: nothing is known */

/* Is a page of the range known to be on a node outside the set? */
bool na_pages_elsewhere(uintptr_t start, size_t bytes, const na_nodeset *nodes);

/* Writes to each page of a block that is zero. A read before the first write costs a second fault, which interrupts the
 * cores of other threads: 11 us instead of 2. */
static inline void na_touch(void *start, size_t size) {
    for (size_t at = 0; at < size; at += os_page_size()) ((volatile char *)start)[at] = 0;
    ((volatile char *)start)[size - 1] = 0;
}

/* Calls visit with the status of some pages at a time (os_query_pages); stops at an error. Both ends are on pages. */
int na_each_status(uintptr_t start, uintptr_t end,
                   void (*visit)(uintptr_t start, const int *status, size_t count, void *context), void *context);

void na_populate_fork_child(void); /* the other threads' demand went with them */

static inline uintptr_t na_page_floor(uintptr_t address) { return address & ~((uintptr_t)os_page_size() - 1); }
static inline uintptr_t na_page_ceil(uintptr_t address) { return na_page_floor(address + os_page_size() - 1); }

#pragma GCC visibility pop

#endif
