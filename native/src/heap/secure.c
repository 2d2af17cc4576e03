/* SPDX-License-Identifier: BSD-3-Clause
 *
 * secure.c: owns NUMALLOC_SECURE: which blocks are live, the sealed links of free ones, and the order in which blocks
 * are handed out.
 *
 *   live map   one bit per 16 bytes of address space, set at the first byte of each live block, page blocks and large
 *              ones. It lies away from the blocks. The free that clears the bit owns the block; one that finds it
 *              clear is a double free, or of no block at all
 *   sealed     a free block's first word is the link, masked; its second binds link and address to the keys of the
 *              process. A link that was written to is noticed before it is followed
 *   shelf      freed blocks that a heap holds back, some of each class. A freed one takes the place of one chosen at
 *              random, which goes home; so none is handed out by the next allocations for certain
 *
 * Invariants. While na_secure is set no thread has a heap in na_self, so the fast paths miss and all comes here. Every
 * block in a list, a chain or a shelf is sealed and not live. A block becomes live where it leaves its page's list,
 * and that must have been clear. Blocks of a shelf count as used in their page. Pages are linked as a whole, in random
 * order. Lists are changed between na_heap_enter and na_heap_leave, so that a child of fork leaves a list alone that
 * it caught half changed.
 *
 * What is damaged is given up: it stays non-live for ever and counts as used in its page, which hence stays.
 *
 * Threads: live bits are atomic; keys constant after na_secure_init; a shelf by its heap's owner.
 */
#include "heap/heap.h"
#include "space/space.h"

#include <string.h>

static uint64_t keys[5];

enum {
    SHELF_MOST = 32,                  /* blocks of one class */
    SHELF_LEAST = 2,                  /* of the largest class */
    SHELF_BYTES = 64 * 1024,          /* of one class, if that are more than SHELF_LEAST blocks */
    ORDER_MAX = NA_SLICE / NA_GRANULE /* blocks in a page */
};
_Static_assert(NA_SMALL_PAGE_SLICES == 1 && NA_MEDIUM_PAGE_SLICES * NA_GRANULE <= NA_SMALL_BLOCK_MAX,
               "a page has no more blocks than a slice of the smallest ones");

typedef struct generator { /* ChaCha with 8 rounds (Bernstein 2008): what was seen of it tells nothing of what comes */
    uint32_t state[16], output[16];
    unsigned used;
} generator;

typedef struct na_shelf {
    generator random;
    na_block *block[NA_CLASSES][SHELF_MOST];
    _Atomic(uint32_t) count[NA_CLASSES]; /* of these, not NULL; statistics look */
    uint16_t order[ORDER_MAX];           /* of a page that is linked right now */
} na_shelf;

void na_secure_init(void) {
    for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++) keys[i] = os_random();
}

/* ---- random numbers -------------------------------------------------------------------------------------- */

static void seed(generator *g) {
    static const uint32_t constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    memset(g, 0, sizeof *g);
    memcpy(g->state, constants, sizeof constants);
    for (int i = 0; i < 4; i++) {
        uint64_t part = os_random();
        memcpy(&g->state[4 + 2 * i], &part, sizeof part);
    }
    g->used = 16;
}

static inline uint32_t rotate(uint32_t value, unsigned bits) { return value << bits | value >> (32 - bits); }

static inline void quarter(uint32_t *x, int a, int b, int c, int d) {
    x[a] += x[b], x[d] = rotate(x[d] ^ x[a], 16);
    x[c] += x[d], x[b] = rotate(x[b] ^ x[c], 12);
    x[a] += x[b], x[d] = rotate(x[d] ^ x[a], 8);
    x[c] += x[d], x[b] = rotate(x[b] ^ x[c], 7);
}

static void refill(generator *g) {
    uint32_t *x = g->output;
    memcpy(x, g->state, sizeof g->output);
    for (int round = 0; round < 8; round += 2) {
        for (int i = 0; i < 4; i++) quarter(x, i, 4 + i, 8 + i, 12 + i);
        for (int i = 0; i < 4; i++) quarter(x, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
    }
    for (int i = 0; i < 16; i++) x[i] += g->state[i];
    if (++g->state[12] == 0) g->state[13]++;
    g->used = 0;
}

/* 0 .. below - 1; the bias is below / 2^32. */
static uint32_t draw(generator *g, uint32_t below) {
    if (g->used == 16) refill(g);
    return (uint32_t)((uint64_t)g->output[g->used++] * below >> 32);
}

/* ---- seals ------------------------------------------------------------------------------------------------ */

static inline uint64_t mix(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t mask_of(const na_block *block) { return mix((uintptr_t)block ^ keys[0], keys[1] | 1); }
static inline uint64_t seal_of(const na_block *block, uint64_t masked) {
    return mix((uintptr_t)block ^ keys[2], masked ^ keys[3]) ^ keys[4];
}

void na_seal(na_block *block, uint64_t link) {
    block->below = link ^ mask_of(block);
    block->key = seal_of(block, block->below);
}

bool na_unseal(const na_block *block, uint64_t *link) {
    uint64_t masked = block->below;
    *link = masked ^ mask_of(block);
    return block->key == seal_of(block, masked);
}

/* ---- links ------------------------------------------------------------------------------------------------ */

/* Could the link of a block with `count` blocks from it on be this? A seal that is right but of an earlier time must
 * lead nowhere else. */
static bool leads_on(const na_span *page, na_list below, uint32_t count) {
    if (na_list_count(below) + 1 != count) return false;
    if (count == 1) return below == 0;
    size_t offset = (uintptr_t)na_list_first(below) - page->start;
    return offset % page->block_size == 0 && offset / page->block_size < page->carved;
}

/* ---- pages ------------------------------------------------------------------------------------------------ */

size_t na_secure_heap_bytes(void) { return sizeof(na_shelf); }

void na_secure_equip(na_heap *heap, void *memory) {
    heap->shelf = memory;
    seed(&heap->shelf->random);
}

static void push(na_span *page, na_block *block) {
    na_list below = page->free;
    na_seal(block, below);
    page->free = ((uint64_t)(uintptr_t)block << NA_LIST_BITS) | ((below + 1) & NA_LIST_MASK);
}

/* All of the page's blocks, in an order of its own (Fisher and Yates). */
void na_secure_carve(na_span *page) {
    na_shelf *shelf = atomic_load_explicit(&page->heap, memory_order_relaxed)->shelf;
    uint32_t first = page->carved, count = page->capacity - first;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t other = draw(&shelf->random, i + 1);
        shelf->order[i] = shelf->order[other];
        shelf->order[other] = (uint16_t)(first + i);
    }
    na_page_carved_set(page, page->capacity);
    for (uint32_t i = 0; i < count; i++)
        push(page, (na_block *)(page->start + (uintptr_t)shelf->order[i] * page->block_size));
    page->threshold = page->carved;
}

void *na_secure_take(na_span *page) {
    if (page->free == 0) na_secure_carve(page);
    na_block *block = na_list_first(page->free);
    uint32_t count = na_list_count(page->free);
    na_list below;
    bool sealed = na_unseal(block, &below);
    if (NA_UNLIKELY(!sealed || !leads_on(page, below, count) || !na_live_begin(block))) {
        page->free = 0;
        na_list_damaged(page, block, count, "the free list");
        return NULL;
    }
    page->free = below;
    block->below = block->key = 0;
    return block;
}

void na_secure_take_remote(na_heap *heap, na_span *page) {
    uint32_t count, taken = 0;
    na_block *block = na_remote_take(page, &count);
    while (block != NULL) {
        uint64_t next;
        size_t offset;
        bool sealed = na_unseal(block, &next);
        offset = next - page->start;
        bool sound = sealed && !na_live_at(block) &&
                     (taken + 1 == count ? next == 0
                                         : offset % page->block_size == 0 && offset / page->block_size < page->carved);
        if (NA_UNLIKELY(!sound)) {
            na_list_damaged(page, block, count - taken, "the remote frees");
            break;
        }
        push(page, block);
        taken++;
        block = (na_block *)(uintptr_t)next;
    }
    page->frees += taken;
    heap->remote_frees += taken;
    if (taken != 0 && (page->full || na_page_used(page) == 0)) na_page_freed(page);
}

void na_secure_unlink_all(const na_span *page) {
    bool named = false;
    for (uint32_t i = 0; i < page->carved; i++) {
        na_block *block = (na_block *)(page->start + (uintptr_t)i * page->block_size);
        uint64_t link;
        if (!named && !na_unseal(block, &link)) {
            named = true;
            na_list_damaged(page, block, 0, "a page that is given back");
        }
        block->below = block->key = 0;
    }
}

/* ---- freeing ---------------------------------------------------------------------------------------------- */

static void send_home(na_span *page, na_block *block) {
    na_heap *heap = atomic_load_explicit(&page->heap, memory_order_relaxed);
    na_thread *self = na_self.thread;
    if (self == NULL || atomic_load_explicit(&heap->thread, memory_order_relaxed) != self) {
        na_remote_free(page, block);
        return;
    }
    na_heap_enter(heap);
    push(page, block);
    page->frees++;
    if (na_list_count(page->free) == page->threshold) na_page_freed(page);
    na_heap_leave(heap);
}

static uint32_t shelf_room(uint32_t block_size) {
    uint32_t room = SHELF_BYTES / block_size;
    return room > SHELF_MOST ? SHELF_MOST : room < SHELF_LEAST ? SHELF_LEAST : room;
}

static void count_held(na_shelf *shelf, unsigned class_index, int more) {
    uint32_t count = atomic_load_explicit(&shelf->count[class_index], memory_order_relaxed);
    atomic_store_explicit(&shelf->count[class_index], count + (uint32_t)more, memory_order_relaxed);
}

/* Off the shelf. NULL: there was none, or it is damaged and stays where it is. */
static na_block *take_down(na_shelf *shelf, unsigned class_index, uint32_t place) {
    na_block *block = shelf->block[class_index][place];
    if (block == NULL) return NULL;
    shelf->block[class_index][place] = NULL;
    count_held(shelf, class_index, -1);
    uint64_t link;
    if (NA_LIKELY(na_unseal(block, &link) && link == 0)) return block;
    na_list_damaged(na_span_at(block), block, 1, "the freed blocks held back");
    return NULL;
}

void na_secure_free(na_span *page, na_block *block) {
    na_thread *thread = na_self.ended ? na_self.thread : na_thread_get();
    na_heap *heap = thread != NULL ? thread->heaps[page->region] : NULL;
    if (heap != NULL) {
        na_shelf *shelf = heap->shelf;
        na_heap_enter(heap);
        unsigned class_index = page->class_index;
        uint32_t place = draw(&shelf->random, shelf_room(page->block_size));
        na_block *other = take_down(shelf, class_index, place);
        na_seal(block, 0);
        shelf->block[class_index][place] = block;
        count_held(shelf, class_index, 1);
        na_heap_leave(heap);
        if (other == NULL) return;
        block = other;
        page = na_span_at(block);
    }
    send_home(page, block);
}

void na_secure_release(na_heap *heap) {
    for (unsigned c = 0; c < NA_CLASSES; c++)
        for (uint32_t place = 0; place < SHELF_MOST && na_secure_held(heap, c) != 0; place++) {
            na_block *block = take_down(heap->shelf, c, place);
            if (block != NULL) send_home(na_span_at(block), block);
        }
    if (na_self.thread != NULL) na_remote_flush(na_self.thread);
}

/* ---- looked at by others ---------------------------------------------------------------------------------- */

uint32_t na_secure_held(const na_heap *heap, unsigned class_index) {
    return atomic_load_explicit(&heap->shelf->count[class_index], memory_order_relaxed);
}

const na_block *na_secure_damaged(const na_heap *heap) {
    for (unsigned c = 0; c < NA_CLASSES; c++)
        for (uint32_t place = 0; place < SHELF_MOST; place++) {
            const na_block *block = heap->shelf->block[c][place];
            uint64_t link;
            if (block != NULL && (!na_unseal(block, &link) || link != 0 || na_live_at(block))) return block;
        }
    return NULL;
}

void na_secure_fork(void) {
    for (int i = 0; i < na_region_count; i++)
        for (na_heap *heap = na_regions[i].all; heap != NULL; heap = heap->all_next) seed(&heap->shelf->random);
}

/* What was written to held-back blocks of the last thread is not to be missed for want of a further free. */
__attribute__((destructor)) static void at_exit(void) {
    na_thread *thread = na_self.thread;
    if (!na_secure || thread == NULL) return;
    for (int i = 0; i < na_region_count; i++) {
        const na_block *block = thread->heaps[i] != NULL ? na_secure_damaged(thread->heaps[i]) : NULL;
        if (block != NULL) na_list_damaged(na_span_at(block), block, 1, "the freed blocks held back");
    }
}
