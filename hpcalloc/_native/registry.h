/* SPDX-License-Identifier: BSD-3-Clause
 *
 * registry.h: owns the table of live array blocks of at least REGISTRY_MIN bytes, so that a report can ask for the
 * pages of every array that counts. Small blocks are left out: they would pay for it and tell little. Included by
 * handler.c only.
 *
 * Invariants: open addressing with linear probing, address 0 marks an empty slot, at most half of the slots are in
 * use, no tombstones (removal closes the gap).
 *
 * Threads: any, under one mutex, which is taken over fork().
 */
#ifndef HPCALLOC_REGISTRY_H
#define HPCALLOC_REGISTRY_H

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#define REGISTRY_MIN ((size_t)64 << 10) /* bytes */

typedef struct registry_entry {
    uintptr_t address; /* first byte of the block; 0: empty slot */
    size_t size;       /* bytes asked for */
} registry_entry;

static struct {
    pthread_mutex_t lock;
    registry_entry *slots;
    size_t mask;     /* slots - 1, a power of two minus 1; 0: no table yet */
    size_t count;    /* blocks in the table */
    uint64_t missed; /* blocks that could not be entered for want of memory */
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void registry_lock(void) { pthread_mutex_lock(&registry.lock); }
static void registry_unlock(void) { pthread_mutex_unlock(&registry.lock); }

/* Once per process. 0 or errno. */
static int registry_init(void) { return pthread_atfork(registry_lock, registry_unlock, registry_unlock); }

static size_t registry_home(uintptr_t address) {
    return (size_t)(((uint64_t)address >> 12) * UINT64_C(0x9E3779B97F4A7C15) >> 20) & registry.mask;
}

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

static void registry_add(void *block, size_t size) {
    if (size < REGISTRY_MIN) return;
    registry_lock();
    if (2 * (registry.count + 1) > registry.mask && registry_grow() != 0) {
        registry.missed++;
    } else {
        registry_put((registry_entry){(uintptr_t)block, size});
    }
    registry_unlock();
}

/* Takes the block out and returns its size; 0 when it is not in the table. */
static size_t registry_remove(void *block) {
    size_t size = 0;
    registry_lock();
    if (registry.count != 0) {
        size_t i = registry_home((uintptr_t)block);
        while (registry.slots[i].address != 0 && registry.slots[i].address != (uintptr_t)block)
            i = (i + 1) & registry.mask;
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

/* A copy of the table in *entries (free() it), its length in *count. 0 or -1 for want of memory. */
static int registry_snapshot(registry_entry **entries, size_t *count, uint64_t *missed) {
    int result = 0;
    registry_lock();
    *count = 0;
    *missed = registry.missed;
    *entries = malloc((registry.count + 1) * sizeof **entries);
    if (*entries == NULL) {
        result = -1;
    } else if (registry.slots != NULL) {
        for (size_t i = 0; i <= registry.mask; i++)
            if (registry.slots[i].address != 0) (*entries)[(*count)++] = registry.slots[i];
    }
    registry_unlock();
    return result;
}

#endif
