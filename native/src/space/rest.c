/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rest.c: owns the memory of free spans by age: which spans have slices that are due, and how such memory leaves. When,
 * and how much, is decided in reclaim.c.
 *
 * Invariants. A free span or reserve with a dirty slice is in a list of its part: rest[freed_at % NA_AGES], rest[NA_DUE]
 * if freed_at is NA_AGES ticks ago, rest[NA_EDGES] if none of it can go by age. freed_at is not after the tick of its oldest
 * dirty slice. If it is earlier, a look finds nothing due and files the span again. Slices know their own ticks (dirty.h),
 * so neither cutting nor coalescing makes memory younger. What leaves is cut out of its span, is of kind NA_PURGING and in region->purging
 * while the system works, and is joined with its neighbours again afterwards.
 *
 * Threads: all under the region's lock, but na_rest_purge, which holds none.
 */
#include "space/space.h"

enum { NA_PURGE_STEP = 4 << 20 }; /* bytes that one system call gives back: others fault and map meanwhile */

static na_span *span_of(na_link *link) { return (na_span *)((char *)link - offsetof(na_span, rest)); }

static void list_init(na_link *list) { list->next = list->prev = list; }
static bool list_empty(const na_link *list) { return list->next == list; }
static void list_append(na_link *list, na_link *link) {
    link->next = list;
    link->prev = list->prev;
    list->prev->next = link;
    list->prev = link;
}
static void list_leave(na_link *link) {
    link->prev->next = link->next;
    link->next->prev = link->prev;
}
/* All of one list behind those of another. */
static void list_move(na_link *from, na_link *to) {
    if (list_empty(from)) return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

void na_rest_open(na_region *region) {
    for (int p = 0; p < 2; p++)
        for (int i = 0; i < NA_REST_LISTS; i++) list_init(&region->part[p].rest[i]);
    list_init(&region->purging);
}

/* ---- the clock ------------------------------------------------------------------------------------------- */

uint64_t na_rest_tick_ms(void) {
    int64_t delay = __atomic_load_n(&na_opt.purge_delay_ms, __ATOMIC_RELAXED);
    return delay < NA_AGES ? 1 : (uint64_t)delay / (NA_AGES - 1);
}

uint64_t na_rest_tick(na_region *region, uint64_t ms) {
    uint64_t tick = ms / na_rest_tick_ms();
    uint64_t late = tick > region->tick ? tick - region->tick : 0;
    for (uint64_t i = 0; i < late && i < NA_AGES; i++) {
        uint64_t oldest = region->tick + 1 + i; /* its list is that of what was freed NA_AGES ticks before */
        for (int p = 0; p < 2; p++) list_move(&region->part[p].rest[oldest % NA_AGES], &region->part[p].rest[NA_DUE]);
    }
    region->tick += late;
    return tick;
}

/* ---- the lists ------------------------------------------------------------------------------------------- */

static void file(na_region *region, na_span *span) {
    uint64_t age = region->tick - span->freed_at;
    bool due = na_opt.purge_delay_ms == 0 || (int64_t)age >= NA_AGES;
    na_link *lists = region->part[span->part].rest;
    if (span->freed_at > region->tick) span->freed_at = region->tick; /* the delay was changed */
    list_append(&lists[due ? NA_DUE : span->freed_at % NA_AGES], &span->rest);
    span->in_ages = 1;
}

void na_rest_add(na_region *region, na_span *span) {
    if (span->dirty_slices != 0) file(region, span);
}

void na_rest_remove(na_span *span) {
    if (!span->in_ages) return;
    span->in_ages = 0;
    list_leave(&span->rest);
}

bool na_rest_any(const na_region *region) {
    for (int p = 0; p < 2; p++)
        for (int i = 0; i <= NA_DUE; i++)
            if (!list_empty(&region->part[p].rest[i])) return true;
    return false;
}

bool na_rest_due(const na_region *region) {
    return !list_empty(&region->part[0].rest[NA_DUE]) || !list_empty(&region->part[1].rest[NA_DUE]);
}

void na_rest_weigh(na_region *region) {
    bool excess = na_rest_excess(region) != 0;
    if (na_rest_due(region)) na_rest_wake(region);
    if (atomic_load_explicit(&region->too_much, memory_order_relaxed) != excess)
        atomic_store_explicit(&region->too_much, excess, memory_order_relaxed);
}

/* ---- what can go ----------------------------------------------------------------------------------------- */

/* Memory leaves in units: a slice, or of the large part a whole huge page, since splitting one costs a neighbour the huge
 * page. What lies at the ends of a span and is less than that waits until a neighbour is freed. */
static uint32_t unit_of(const na_span *span, bool all) {
    return span->part == 1 && !all && na_opt.huge != NA_HUGE_NEVER ? NA_HUGE_SLICES : 1;
}

enum { NO_AGE = -1 };
/* Ticks for which all dirty slices of a unit have rested; NO_AGE: none is dirty. */
static int unit_age(const uint8_t *stamps, uint32_t slices, uint64_t tick) {
    int youngest = NO_AGE;
    for (uint32_t i = 0; i < slices; i++) {
        if (stamps[i] == 0) continue;
        int age = (int)na_dirty_age(stamps[i], tick);
        if (youngest == NO_AGE || age < youngest) youngest = age;
    }
    return youngest;
}

/* Calls visit(start, slices, context) for each run of units of a span that can go, until it gives false. */
static void each_run(const na_span *span, const na_rest_batch *batch,
                     bool (*visit)(uintptr_t start, uint32_t slices, void *context), void *context) {
    uint32_t unit = unit_of(span, batch->all);
    uintptr_t step = (uintptr_t)unit << NA_SLICE_SHIFT, end = na_span_end(span) & ~(step - 1), from = 0;
    for (uintptr_t at = na_round_up(span->start, step); at < end; at += step) {
        bool go = unit_age(&na_dirty[na_slice_index(at)], unit, batch->tick) >= batch->least;
        if (go && from == 0) from = at;
        if (from == 0 || (go && at + step < end)) continue;
        uintptr_t to = go ? at + step : at;
        if (!visit(from, (uint32_t)((to - from) >> NA_SLICE_SHIFT), context)) return;
        from = 0;
    }
}

/* The first run of a span that can go, as far as it has `wanted` bytes. */
struct stretch {
    uint64_t wanted, found;
    uintptr_t start, end;
};
static bool add_run(uintptr_t start, uint32_t slices, void *context) {
    struct stretch *stretch = context;
    uint64_t missing = na_round_up(stretch->wanted - stretch->found, NA_HUGE_BYTES) >> NA_SLICE_SHIFT;
    if (missing < slices) slices = (uint32_t)missing;
    if (stretch->found == 0) stretch->start = start;
    stretch->end = start + ((uintptr_t)slices << NA_SLICE_SHIFT);
    stretch->found += (uint64_t)na_dirty_count(start, slices) << NA_SLICE_SHIFT;
    return stretch->found < stretch->wanted;
}

/* From the end: allocations take a free span's start. */
static void add_from_end(const na_span *span, const na_rest_batch *batch, struct stretch *stretch) {
    uint32_t unit = unit_of(span, batch->all);
    uintptr_t step = (uintptr_t)unit << NA_SLICE_SHIFT, start = na_round_up(span->start, step);
    for (uintptr_t at = na_span_end(span) & ~(step - 1); at > start && stretch->found < stretch->wanted;) {
        at -= step;
        if (unit_age(&na_dirty[na_slice_index(at)], unit, batch->tick) < batch->least) continue;
        if (stretch->found == 0) stretch->end = at + step;
        stretch->start = at;
        stretch->found += (uint64_t)na_dirty_count(at, unit) << NA_SLICE_SHIFT;
    }
}

/* Nothing in a span is due yet: it waits for its oldest unit, if one can ever go. */
static void file_by_oldest(na_region *region, na_span *span) {
    uint32_t unit = unit_of(span, false);
    uintptr_t step = (uintptr_t)unit << NA_SLICE_SHIFT, end = na_span_end(span) & ~(step - 1);
    int oldest = NO_AGE;
    for (uintptr_t at = na_round_up(span->start, step); at < end; at += step) {
        int age = unit_age(&na_dirty[na_slice_index(at)], unit, region->tick);
        if (age > oldest) oldest = age;
    }
    na_rest_remove(span);
    if (oldest == NO_AGE) {
        list_append(&region->part[span->part].rest[NA_EDGES], &span->rest);
        span->in_ages = 1;
    } else {
        span->freed_at = region->tick - (uint64_t)oldest;
        file(region, span);
    }
}

/* ---- how it goes ----------------------------------------------------------------------------------------- */

unsigned na_rest_begin(na_region *region, na_span *span) {
    list_append(&region->purging, &span->rest);
    return na_rest_count(region);
}

void na_rest_end(na_region *region, na_span *span, unsigned count) {
    region->in_purge[count]--;
    list_leave(&span->rest);
}

/* false: nothing of the span can go. */
static bool take_from(na_region *region, na_span *span, uint64_t wanted, na_rest_batch *batch) {
    struct stretch stretch = {.wanted = wanted};
    if (batch->age == NA_AGES) each_run(span, batch, add_run, &stretch);
    else add_from_end(span, batch, &stretch);
    if (stretch.found == 0) return false;
    uint32_t slices = (uint32_t)((stretch.end - stretch.start) >> NA_SLICE_SHIFT);
    /* A reserve, which is short, leaves as a whole; so does a span that can't be cut for want of descriptors. */
    span->grown = span->kind == NA_RESERVE;
    na_span_take_out(region, span, stretch.start, slices);
    list_append(&region->purging, &span->rest);
    span->next = batch->first;
    batch->first = span;
    batch->bytes += stretch.found;
    return true;
}

void na_rest_take(na_region *region, unsigned part, uint64_t bytes, na_rest_batch *batch) {
    enum { LOOKS = 256 }; /* spans without a whole huge page in a row */
    int looks = LOOKS;
    batch->tick = region->tick;
    batch->least = na_opt.purge_delay_ms == 0 ? 0 : batch->age;
    uint64_t upto = batch->bytes + bytes;
    int lists = batch->all ? NA_REST_LISTS : NA_AGES + 1 - batch->age;
    for (int i = 0; i < lists && batch->bytes < upto; i++) { /* the oldest first */
        uint64_t index = i == 0 ? NA_DUE : i == NA_EDGES ? NA_EDGES : (region->tick + (uint64_t)i) % NA_AGES;
        na_link *list = &region->part[part].rest[index];
        for (na_link *link = list->next, *next; link != list && batch->bytes < upto && looks > 0; link = next) {
            next = link->next;
            na_span *span = span_of(link);
            if (take_from(region, span, upto - batch->bytes, batch)) {
                next = list->next; /* what is left of it is in the list anew */
            } else {
                looks--;
                if (batch->age == NA_AGES) file_by_oldest(region, span);
            }
        }
    }
}

static bool purge_run(uintptr_t start, uint32_t slices, void *context) {
    uintptr_t end = start + ((uintptr_t)slices << NA_SLICE_SHIFT);
    for (uintptr_t next; start < end; start = next) {
        next = (start + NA_PURGE_STEP) & ~((uintptr_t)NA_PURGE_STEP - 1);
        if (next > end) next = end;
        if (os_purge((void *)start, next - start) == 0) continue;
        *(bool *)context = true;
        return false;
    }
    return true;
}

void na_rest_purge(na_rest_batch *batch) {
    for (na_span *span = batch->first; span != NULL; span = span->next) {
        bool failed = false;
        each_run(span, batch, purge_run, &failed);
        span->capacity = failed;
    }
}

static bool clear_run(uintptr_t start, uint32_t slices, void *context) {
    *(uint64_t *)context += (uint64_t)na_dirty_count(start, slices) << NA_SLICE_SHIFT;
    na_dirty_clear(start, slices);
    return true;
}

uint64_t na_rest_put_back(na_region *region, na_rest_batch *batch) {
    uint64_t gone = 0;
    for (na_span *span = batch->first, *next; span != NULL; span = next) {
        uint64_t before = gone;
        next = span->next;
        if (span->capacity != 0) span->freed_at = region->tick; /* memory that is locked: later, perhaps */
        else each_run(span, batch, clear_run, &gone);
        span->dirty_slices -= (uint32_t)((gone - before) >> NA_SLICE_SHIFT);
        list_leave(&span->rest);
        na_span_put_back(region, span);
    }
    region->dirty_bytes -= gone;
    region->purged_bytes += gone;
    batch->first = NULL;
    return gone;
}

void na_rest_fork_child(na_region *region) {
    while (!list_empty(&region->purging)) {
        na_span *span = span_of(region->purging.next);
        list_leave(&span->rest);
        if (span->kind == NA_PURGING) na_span_put_back(region, span);
        else na_span_free_locked(region, span, os_now_ms(), false);
    }
    region->in_purge[0] = region->in_purge[1] = 0;
}
