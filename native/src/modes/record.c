/* SPDX-License-Identifier: BSD-3-Clause
 *
 * record.c: owns the table of records: what is known of each block, found by the raw block's first byte.
 *
 * Invariants. A record is in the table from after its block was allocated until before the block goes back to its
 * heap, so an address has one record at most. A bucket that reads empty without the lock has no record of a block
 * of the caller: a thread that frees a block has seen its allocation. So a free of a block that was not sampled costs
 * one load.
 *
 * Threads: a bucket by its stripe. A stripe is never held while blocks are allocated or freed.
 */
#include "heap/hooks.h"
#include "modes/modes.h"

enum {
    BUCKET_SHIFT = 20, /* 8 MiB of zeros until used; chains stay short up to some million blocks */
    STRIPES = 32,      /* ThreadSanitizer knows 64 locks held by one thread, and fork takes all */
    BATCH = 64         /* records a stripe takes from the bump allocator */
};

typedef struct stripe {
    _Alignas(64) pthread_mutex_t lock;
    na_record *unused;
} stripe;

static stripe stripes[STRIPES] = {[0 ... STRIPES - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER}};
static _Atomic(na_record *) *bucket; /* mapped when a mode is on: other programs may lock their memory */
static _Atomic(uint64_t) lost;

int na_records_init(void) {
    void *table;
    int error = os_map(sizeof *bucket << BUCKET_SHIFT, &table);
    if (error == 0) bucket = table;
    return error;
}

static size_t index_of(uintptr_t start) {
    return (size_t)((start >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> (64 - BUCKET_SHIFT));
}
static stripe *stripe_of(size_t index) { return &stripes[index % STRIPES]; }

static na_record *take_unused(stripe *of) {
    if (of->unused == NULL) {
        na_record *batch = na_bump_alloc(BATCH * sizeof *batch);
        for (int i = 0; batch != NULL && i < BATCH; i++) {
            batch[i].next = of->unused;
            of->unused = &batch[i];
        }
    }
    na_record *record = of->unused;
    if (record != NULL) of->unused = record->next;
    return record;
}

bool na_record_put(const na_record *value) {
    size_t index = index_of(value->start);
    stripe *of = stripe_of(index);
    pthread_mutex_lock(&of->lock);
    na_record *record = take_unused(of);
    if (record != NULL) {
        *record = *value;
        record->next = atomic_load_explicit(&bucket[index], memory_order_relaxed);
        atomic_store_explicit(&bucket[index], record, memory_order_relaxed);
    }
    pthread_mutex_unlock(&of->lock);
    if (record == NULL) na_record_lost();
    return record != NULL;
}

static na_record *find(size_t index, uintptr_t start) {
    na_record *record = atomic_load_explicit(&bucket[index], memory_order_relaxed);
    while (record != NULL && record->start != start) record = record->next;
    return record;
}

static bool empty(size_t index) { return atomic_load_explicit(&bucket[index], memory_order_relaxed) == NULL; }

bool na_record_take(uintptr_t start, uintptr_t user, na_record *value) {
    size_t index = index_of(start);
    if (empty(index)) return false;
    stripe *of = stripe_of(index);
    pthread_mutex_lock(&of->lock);
    na_record *record = find(index, start);
    if (record != NULL && record->start + record->shift == user) {
        na_record *before = atomic_load_explicit(&bucket[index], memory_order_relaxed);
        if (before == record) {
            atomic_store_explicit(&bucket[index], record->next, memory_order_relaxed);
        } else {
            while (before->next != record) before = before->next;
            before->next = record->next;
        }
        *value = *record;
        record->next = of->unused;
        of->unused = record;
    } else {
        record = NULL;
    }
    pthread_mutex_unlock(&of->lock);
    return record != NULL;
}

bool na_record_look(uintptr_t start, na_record *value) {
    size_t index = index_of(start);
    if (empty(index)) return false;
    stripe *of = stripe_of(index);
    pthread_mutex_lock(&of->lock);
    na_record *record = find(index, start);
    if (record != NULL) *value = *record;
    pthread_mutex_unlock(&of->lock);
    return record != NULL;
}

na_record *na_record_mark(uintptr_t start, uintptr_t user, uint8_t flags, na_site *freed, na_record *before) {
    size_t index = index_of(start);
    if (empty(index)) return NULL;
    stripe *of = stripe_of(index);
    pthread_mutex_lock(&of->lock);
    na_record *record = find(index, start);
    if (record != NULL) {
        *before = *record;
        if (record->start + record->shift == user && (record->flags & flags) == 0) {
            record->flags |= flags;
            record->freed = freed;
        }
    }
    pthread_mutex_unlock(&of->lock);
    return record;
}

void na_records_each(bool (*visit)(na_record *record, void *data), void *data) {
    for (size_t s = 0; s < STRIPES; s++) {
        pthread_mutex_lock(&stripes[s].lock);
        bool stop = false;
        for (size_t index = s; index < (size_t)1 << BUCKET_SHIFT && !stop; index += STRIPES)
            for (na_record *record = atomic_load_explicit(&bucket[index], memory_order_relaxed);
                 record != NULL && !stop; record = record->next)
                stop = visit(record, data);
        pthread_mutex_unlock(&stripes[s].lock);
        if (stop) return;
    }
}

void na_record_lost(void) { atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed); }
uint64_t na_records_lost(void) { return atomic_load_explicit(&lost, memory_order_relaxed); }

void na_record_fork(int step) {
    for (int i = 0; i < STRIPES; i++) na_fork_step(&stripes[i].lock, step);
}
