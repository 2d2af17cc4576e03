/* SPDX-License-Identifier: BSD-3-Clause
 *
 * remote.c: frees by threads that do not own the page. The block goes home: never into a cache of the freeing
 * thread, which may sit on another node.
 *
 * A thread collects such frees per page in a small table of its own (slots) and pushes a slot's chain with one
 * compare-and-swap onto the page when the slot is full, wanted for another page, or the thread needs memory or
 * ends. So a batch costs one atomic operation, and the page's owner one exchange.
 *
 * page->remote is one word: count << 48 | address of the first block | QUEUED. The push that sets QUEUED puts
 * the page into its heap's pending list; nobody else may, and only the thread that took the page out of a
 * pending list clears it (na_remote_take). Hence:
 *   - a page is in at most one pending list, so one link suffices;
 *   - the blocks of a push count as used until the page was taken out of a pending list, so the page can't be
 *     released while the pusher still has to queue it;
 *   - a page that moves to another heap while it is queued is found in the old heap's list and routed on, by the thread
 *     that moved it or by the one that queued it. Heaps are never unmapped.
 *
 * The idea of batches per slab is from snmalloc's BatchIt (Li, Liu, Parkinson: BatchIt: Optimizing
 * Message-Passing Allocators for Producer-Consumer Workloads, ISMM 2024).
 */
#include "heap/heap.h"
#include "space/space.h"

#define QUEUED UINT64_C(1)
#define COUNT_SHIFT 48
#define ADDRESS_MASK (((UINT64_C(1) << COUNT_SHIFT) - 1) & ~UINT64_C(15))

na_span *na_remote_route(na_heap *heap, na_span *page, na_span *rest) {
    na_span *first = atomic_load_explicit(&heap->pending, memory_order_relaxed);
    do {
        page->pending_next = first;
    } while (!atomic_compare_exchange_weak_explicit(&heap->pending, &first, page, memory_order_seq_cst,
                                                    memory_order_relaxed));
    /* Adoption moves a page first and then empties the list of the heap that the page left, so one of the two threads
     * finds the page there. The page may be another's by now, or none: then nothing is lost. */
    if (NA_LIKELY(atomic_load(&page->heap) == heap)) return rest;
    na_span *more = atomic_exchange(&heap->pending, NULL), *last = more;
    if (more == NULL) return rest;
    while (last->pending_next != NULL) last = last->pending_next;
    last->pending_next = rest;
    return more;
}

void na_remote_send(na_span *list) {
    while (list != NULL) {
        na_span *page = list;
        list = na_remote_route(atomic_load_explicit(&page->heap, memory_order_acquire), page, page->pending_next);
    }
}

static void chain(na_block *block, na_block *next) {
    if (NA_UNLIKELY(na_secure)) na_seal(block, (uintptr_t)next);
    else block->next = next;
}

static void push(na_span *page, na_block *first, na_block *last, uint32_t count) {
    uint64_t old = atomic_load_explicit(&page->remote, memory_order_relaxed);
    uint64_t new;
    do {
        chain(last, (na_block *)(uintptr_t)(old & ADDRESS_MASK));
        new = (((old >> COUNT_SHIFT) + count) << COUNT_SHIFT) | (uint64_t)(uintptr_t)first | QUEUED;
    } while (
        !atomic_compare_exchange_weak_explicit(&page->remote, &old, new, memory_order_acq_rel, memory_order_relaxed));
    if ((old & QUEUED) != 0) return;
    page->pending_next = NULL; /* this thread alone may queue it */
    na_remote_send(page);
}

void na_remote_queue_again(na_span *page) {
    if ((atomic_load_explicit(&page->remote, memory_order_relaxed) & QUEUED) == 0) return;
    if (atomic_load_explicit(&page->heap, memory_order_relaxed) == NULL) return; /* it was becoming a page */
    page->pending_next = NULL;
    na_remote_send(page);
}

na_block *na_remote_take(na_span *page, uint32_t *count) {
    uint64_t old = atomic_exchange_explicit(&page->remote, 0, memory_order_acq_rel);
    *count = (uint32_t)(old >> COUNT_SHIFT);
    return (na_block *)(uintptr_t)(old & ADDRESS_MASK);
}

uint32_t na_remote_count(const na_span *page) {
    return (uint32_t)(atomic_load_explicit(&page->remote, memory_order_relaxed) >> COUNT_SHIFT);
}

static void slot_flush(na_thread *thread, na_remote_slot *slot) {
    na_span *page = slot->page;
    slot->page = NULL;
    thread->remote_slots_used--;
    push(page, slot->first, slot->last, slot->count);
}

void na_remote_flush(na_thread *thread) {
    if (thread->remote_slots_used == 0) return;
    for (int i = 0; i < NA_REMOTE_SLOTS; i++)
        if (thread->remote[i].page != NULL) slot_flush(thread, &thread->remote[i]);
}

void na_remote_free(na_span *page, na_block *block) {
    na_thread *thread = na_self.thread;
    uint32_t size = page->block_size;
    if (thread == NULL || size > NA_REMOTE_BATCH_BYTES / 2) {
        push(page, block, block, 1);
        return;
    }
    size_t hash = (uintptr_t)page / sizeof(na_span);
    na_remote_slot *slot = &thread->remote[(hash ^ (hash >> 4)) % NA_REMOTE_SLOTS];
    if (slot->page != page) {
        if (slot->page != NULL) slot_flush(thread, slot);
        slot->page = page;
        slot->last = block;
        slot->count = 0;
        chain(block, NULL);
        thread->remote_slots_used++;
    } else {
        chain(block, slot->first);
    }
    slot->first = block;
    slot->count++;
    if (slot->count >= NA_REMOTE_BATCH || slot->count * size >= NA_REMOTE_BATCH_BYTES) slot_flush(thread, slot);
}
