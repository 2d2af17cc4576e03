/* SPDX-License-Identifier: BSD-3-Clause
 *
 * registry.h: owns the table of live array blocks of at least REGISTRY_MIN bytes, so that a report can ask for the
 * pages of every array that counts. Small blocks are left out: they would pay for it and tell little. Included by
 * handler.c only.
 *
 * Two tables. A block's entry is in the window of REGISTRY_WINDOW places that its address leads to in the first, where
 * entering is one compare-and-swap and leaving one store; when all of these are taken, in the second, which grows, under
 * a lock.
 *
 * Invariants: address 0 marks an empty place. First table: WRITING marks one whose size is not there yet; only who frees
 * the block takes an entry out. Second: open addressing with linear probing, at most half of the places are in use, no
 * tombstones (removal closes the gap); the lock is taken over fork().
 *
 * Threads: any.
 */
#ifndef HPCALLOC_REGISTRY_H
#define HPCALLOC_REGISTRY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#define REGISTRY_MIN ((size_t)64 << 10) /* bytes */
enum { REGISTRY_BITS = 12, REGISTRY_PLACES = 1 << REGISTRY_BITS, REGISTRY_WINDOW = 4 };
#define REGISTRY_WRITING ((uintptr_t)1)

typedef struct registry_entry {
    uintptr_t address; /* first byte of the block; 0: empty slot */
    size_t size;       /* bytes asked for */
} registry_entry;

static struct {
    _Atomic(uintptr_t) address;
    _Atomic(size_t) size;
} registry_first[REGISTRY_PLACES + REGISTRY_WINDOW];

/* The second table. */
static struct {
    pthread_mutex_t lock;
    registry_entry *slots;
    size_t mask;           /* slots - 1, a power of two minus 1; 0: no table yet */
    _Atomic(size_t) count; /* blocks in the table */
    uint64_t missed;       /* blocks that could not be entered for want of memory */
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void registry_lock(void) { pthread_mutex_lock(&registry.lock); }
static void registry_unlock(void) { pthread_mutex_unlock(&registry.lock); }

/* A thread that was about to write an entry is not in the child, and its block was nobody's yet. */
static void registry_child(void) {
    for (size_t i = 0; i < REGISTRY_PLACES + REGISTRY_WINDOW; i++)
        if (atomic_load_explicit(&registry_first[i].address, memory_order_relaxed) == REGISTRY_WRITING)
            atomic_store_explicit(&registry_first[i].address, 0, memory_order_relaxed);
    registry_unlock();
}

/* Once per process. 0 or errno. */
static int registry_init(void) { return pthread_atfork(registry_lock, registry_unlock, registry_child); }

static uint64_t registry_hash(uintptr_t address) { return ((uint64_t)address >> 12) * UINT64_C(0x9E3779B97F4A7C15); }

/* ---- the second table ------------------------------------------------------------------------------------ */

static size_t registry_home(uintptr_t address) { return (size_t)(registry_hash(address) >> 20) & registry.mask; }

/* An entry of the same address is replaced: its block was freed with a size that hid it from handler_free. */
static void registry_put(registry_entry entry) {
    size_t i = registry_home(entry.address);
    while (registry.slots[i].address != 0 && registry.slots[i].address != entry.address) i = (i + 1) & registry.mask;
    if (registry.slots[i].address == 0) registry.count++;
    registry.slots[i] = entry;
}

static int registry_grow(void) {
    registry_entry *old = registry.slots;
    size_t slots = registry.mask == 0 ? 256 : 2 * (registry.mask + 1);
    registry_entry *fresh = calloc(slots, sizeof *fresh);
    if (fresh == NULL) return -1;
    size_t old_slots = old == NULL ? 0 : registry.mask + 1;
    registry.slots = fresh;
    registry.mask = slots - 1;
    registry.count = 0;
    for (size_t i = 0; i < old_slots; i++)
        if (old[i].address != 0) registry_put(old[i]);
    free(old);
    return 0;
}

static void registry_add_second(registry_entry entry) {
    registry_lock();
    if (2 * (registry.count + 1) > registry.mask && registry_grow() != 0) registry.missed++;
    else registry_put(entry);
    registry_unlock();
}

static size_t registry_remove_second(uintptr_t address) {
    size_t size = 0;
    if (atomic_load_explicit(&registry.count, memory_order_relaxed) == 0) return 0; /* ours would have been there */
    registry_lock();
    if (registry.count != 0) {
        size_t i = registry_home(address);
        while (registry.slots[i].address != 0 && registry.slots[i].address != address) i = (i + 1) & registry.mask;
        if (registry.slots[i].address != 0) {
            size = registry.slots[i].size;
            registry.count--;
            for (size_t j = (i + 1) & registry.mask; registry.slots[j].address != 0; j = (j + 1) & registry.mask) {
                size_t home = registry_home(registry.slots[j].address);
                if (((j - home) & registry.mask) >= ((j - i) & registry.mask)) {
                    registry.slots[i] = registry.slots[j];
                    i = j;
                }
            }
            registry.slots[i].address = 0;
        }
    }
    registry_unlock();
    return size;
}

/* ---- both ------------------------------------------------------------------------------------------------ */

static size_t registry_window(uintptr_t address) { return (size_t)(registry_hash(address) >> (64 - REGISTRY_BITS)); }

/* Takes the block out and returns its size; 0 when it is not in a table. */
static size_t registry_remove(void *block) {
    uintptr_t address = (uintptr_t)block;
    size_t first = registry_window(address);
    for (size_t i = first; i < first + REGISTRY_WINDOW; i++) {
        if (atomic_load_explicit(&registry_first[i].address, memory_order_relaxed) != address) continue;
        size_t size = atomic_load_explicit(&registry_first[i].size, memory_order_relaxed);
        atomic_store_explicit(&registry_first[i].address, 0, memory_order_release);
        return size;
    }
    return registry_remove_second(address);
}

/* Enters into the first table; false: all places are taken. */
static int registry_enter(uintptr_t address, size_t size) {
    size_t first = registry_window(address);
    for (size_t i = first; i < first + REGISTRY_WINDOW; i++) {
        uintptr_t empty = 0;
        if (atomic_load_explicit(&registry_first[i].address, memory_order_relaxed) != 0 ||
            !atomic_compare_exchange_strong_explicit(&registry_first[i].address, &empty, REGISTRY_WRITING,
                                                     memory_order_acquire, memory_order_relaxed))
            continue;
        atomic_store_explicit(&registry_first[i].size, size, memory_order_relaxed);
        atomic_store_explicit(&registry_first[i].address, address, memory_order_release);
        return 1;
    }
    return 0;
}

static void registry_add(void *block, size_t size) {
    if (size < REGISTRY_MIN) return;
    (void)registry_remove(block); /* an entry whose block was freed with a size that hid it from handler_free */
    if (!registry_enter((uintptr_t)block, size)) registry_add_second((registry_entry){(uintptr_t)block, size});
}

/* A copy of the tables in *entries (free() it), its length in *count. 0 or -1 for want of memory. */
static int registry_snapshot(registry_entry **entries, size_t *count, uint64_t *missed) {
    int result = 0;
    registry_lock();
    *count = 0;
    *missed = registry.missed;
    *entries = malloc((registry.count + REGISTRY_PLACES + REGISTRY_WINDOW) * sizeof **entries);
    if (*entries == NULL) {
        result = -1;
    } else {
        for (size_t i = 0; i < REGISTRY_PLACES + REGISTRY_WINDOW; i++) {
            registry_entry entry = {atomic_load_explicit(&registry_first[i].address, memory_order_acquire), 0};
            entry.size = atomic_load_explicit(&registry_first[i].size, memory_order_acquire);
            /* Another block's entry may have come meanwhile. */
            if (entry.address > REGISTRY_WRITING &&
                atomic_load_explicit(&registry_first[i].address, memory_order_relaxed) == entry.address)
                (*entries)[(*count)++] = entry;
        }
        for (size_t i = 0; registry.slots != NULL && i <= registry.mask; i++)
            if (registry.slots[i].address != 0) (*entries)[(*count)++] = registry.slots[i];
    }
    registry_unlock();
    return result;
}

#endif
