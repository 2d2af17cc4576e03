/* SPDX-License-Identifier: BSD-3-Clause
 *
 * guard.c: owns what NUMALLOC_GUARD puts around, into and behind blocks, and the quarantine of freed ones.
 *
 *   raw block:  | front canary | user's bytes | tail canary |            shift = length of the front
 *   mode 2:     | front canary | user's bytes | tail | page without access |  the user's bytes end at the page
 *
 * The front is as long as the alignment asked for. Blocks over NA_BLOCK_MAX, alignments over 4 KiB and spread memory
 * have none: those blocks start on slices and pages, which callers rely on. Spread memory has a tail only where the
 * span is longer than what was asked for, so that the split over the nodes stays as it was.
 *
 * Invariants. A block's canaries are whole from before its record is in the table until the record is taken out. A
 * quarantined block is still allocated as far as its heap knows, so its address is not allocated again; NA_RECORD_FREED
 * is set once, by the thread that owns the free. NA_RECORD_POISONED says that all of the pattern is there,
 * NA_RECORD_SEALED that the block may not be looked at.
 *
 * Threads: the records by their stripes, the quarantine's list by `lock`, a leaf.
 */
#include "api/api.h"
#include "heap/hooks.h"
#include "modes/modes.h"
#include "space/space.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    FRONT = 0xcf, /* not 0, not a character: a string's end or a fill would differ */
    TAIL = 0xcb,  /* behind the block */
    FRESH = 0xcd, /* never written by the user */
    FREED = 0xdf, /* written after free where it differs */
    CANARY_MAX = 64,
    SHIFT_MAX = 4096,
    LARGE_FILL = 4096,     /* of blocks over NA_BLOCK_MAX: patterns must not make sparse arrays resident */
    PAGE_FROM = 4096,      /* mode 2: blocks from this size get a page, */
    PAGE_EVERY = 16,       /* and of smaller ones one in so many, */
    PAGES_MAX = 16 * 1024, /* while fewer than this have one: two mappings each of 65530 */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static na_record *oldest, *newest;
static size_t held; /* bytes in quarantine */
static _Atomic(uint32_t) pages;
static _Thread_local __attribute__((tls_model("initial-exec"))) uint32_t turn;

static size_t fill_length(size_t size) { return size <= NA_BLOCK_MAX ? size : LARGE_FILL; }
static uintptr_t user_of(const na_record *record) { return record->start + record->shift; }

static size_t raw_bytes(const na_record *record) { return na_usable(na_span_at((void *)record->start)); }

static uintptr_t front_start(const na_record *record) {
    return user_of(record) - (record->shift < CANARY_MAX ? record->shift : CANARY_MAX);
}

static uintptr_t tail_end(const na_record *record) {
    uintptr_t after = user_of(record) + record->size, end = record->start + raw_bytes(record);
    if ((record->flags & NA_RECORD_PAGE) != 0) end = na_round_up(after, os_page_size());
    return end - after < CANARY_MAX ? end : after + CANARY_MAX;
}

/* ---- allocating ---------------------------------------------------------------------------------------- */

static void dress(na_record *record, bool zero) {
    uintptr_t user = user_of(record), after = user + record->size;
    record->flags |= NA_RECORD_GUARDED;
    memset((void *)front_start(record), FRONT, user - front_start(record));
    memset((void *)after, TAIL, tail_end(record) - after);
    if (!zero) memset((void *)user, FRESH, fill_length(record->size));
}

/* A block that ends at a page without access. NULL: it failed, the caller uses another layout. */
static void *alloc_before_page(const numalloc_request_t *request, size_t align, na_record *record) {
    size_t page = os_page_size(), size = request->size;
    if (align > page) return NULL;
    if (atomic_fetch_add_explicit(&pages, 1, memory_order_relaxed) < PAGES_MAX) {
        numalloc_request_t ask = *request;
        size_t body = na_round_up(size != 0 ? size : 1, page);
        ask.size = body + page;
        if (ask.size <= NA_BLOCK_MAX) ask.align = 2 * NA_SLICE; /* a span of its own */
        char *raw = na_request(&ask);
        if (raw != NULL && os_forbid(raw + body, page) == 0) {
            record->start = (uintptr_t)raw;
            record->shift = (uint32_t)(body - na_round_up(size, align));
            record->flags |= NA_RECORD_PAGE;
            dress(record, (request->flags & NUMALLOC_ZERO) != 0);
            return (void *)user_of(record);
        }
        if (raw != NULL) na_free(raw, "numalloc_request");
    }
    atomic_fetch_sub_explicit(&pages, 1, memory_order_relaxed);
    return NULL;
}

void *na_guard_alloc(const numalloc_request_t *request, na_record *record) {
    size_t size = request->size, align = request->align > NA_GRANULE ? request->align : NA_GRANULE;
    if (size > PTRDIFF_MAX / 2 || (align & (align - 1)) != 0) return na_request(request); /* which says what is wrong */
    bool spread = request->policy == NUMALLOC_INTERLEAVE || request->policy == NUMALLOC_BLOCKED ||
                  request->policy == NUMALLOC_WEIGHTED;
    if (spread && size + align + NA_GRANULE < os_page_size()) spread = false; /* whole, on one node */
    if (na_opt.guard == NA_GUARD_PAGES && !spread && (size >= PAGE_FROM || turn++ % PAGE_EVERY == 0)) {
        void *user = alloc_before_page(request, align, record);
        if (user != NULL) return user;
    }
    numalloc_request_t ask = *request;
    if (!spread && align <= SHIFT_MAX && size + align + NA_GRANULE <= NA_BLOCK_MAX) record->shift = (uint32_t)align;
    if (!spread) ask.size += record->shift + NA_GRANULE;
    char *raw = na_request(&ask);
    if (raw == NULL) return NULL;
    record->start = (uintptr_t)raw;
    dress(record, (request->flags & NUMALLOC_ZERO) != 0);
    return (void *)user_of(record);
}

/* Back to its heap. Without its mapping whole it can't go there: then the addresses are lost, no more. */
void na_guard_undo(const na_record *record) {
    if ((record->flags & (NA_RECORD_PAGE | NA_RECORD_SEALED)) != 0) {
        if (os_commit((void *)record->start, raw_bytes(record)) != 0) return;
        atomic_fetch_sub_explicit(&pages, 1, memory_order_relaxed);
    }
    na_free((void *)record->start, "numalloc_free");
}

/* ---- damage -------------------------------------------------------------------------------------------- */

/* First byte in [from, to) that is not `pattern`; `to` if there is none. */
static uintptr_t first_other(uintptr_t from, uintptr_t to, unsigned char pattern) {
    if (from == to) return to;
    const unsigned char *bytes = (const unsigned char *)from;
    if (bytes[0] == pattern && memcmp(bytes, bytes + 1, to - from - 1) == 0) return to;
    while (from < to && *(const volatile unsigned char *)from == pattern) from++;
    return from;
}

/* What was done to a block, in words; false: nothing. */
static bool damage(const na_record *record, char *what, size_t capacity) {
    uintptr_t user = user_of(record), after = user + record->size, at;
    if ((record->flags & (NA_RECORD_GUARDED | NA_RECORD_SEALED)) != NA_RECORD_GUARDED) return false;
    if ((at = first_other(after, tail_end(record), TAIL)) != tail_end(record))
        (void)snprintf(what, capacity, "is a block of %zu bytes that was written past its end, at byte %zu",
                       record->size, (size_t)(at - user));
    else if ((at = first_other(front_start(record), user, FRONT)) != user)
        (void)snprintf(what, capacity, "is a block of %zu bytes that was written before its start, at byte -%zu",
                       record->size, (size_t)(user - at));
    else if ((record->flags & NA_RECORD_POISONED) != 0 &&
             (at = first_other(user, user + fill_length(record->size), FREED)) != user + fill_length(record->size))
        (void)snprintf(what, capacity, "is a block of %zu bytes that was written after it was freed, at byte %zu",
                       record->size, (size_t)(at - user));
    else return false;
    return true;
}

static void tell_more(const void *data) {
    const na_record *record = data;
    na_out out;
    bool before = na_unhooked;
    if (na_out_open(&out, NA_STANDARD_ERROR) != 0) return;
    na_unhooked = true;
    na_out_put(&out, "  block of %zu bytes at %p on node %d, allocated by thread %u", record->size,
               (void *)user_of(record), record->node, record->thread);
    if (record->site == NULL) na_out_put(&out, "; NUMALLOC_LEAKS=stderr shows where\n");
    else na_out_put(&out, " at\n");
    if (record->site != NULL) na_site_print(&out, record->site, "    ");
    if (record->freed != NULL) {
        na_out_put(&out, "  freed at\n");
        na_site_print(&out, record->freed, "    ");
    }
    (void)na_out_close(&out);
    na_unhooked = before;
}

static void blame(const char *call, const void *address, const char *what, const char *remedy,
                  const na_record *record) {
    na_misuse_more(call, address, what, remedy, tell_more, record);
}

static const char *const REMEDY_WRITE = "find the write beyond the block; NUMALLOC_GUARD=2 faults at it";
static const char *const REMEDY_AFTER = "find the pointer that was kept after free; NUMALLOC_GUARD=2 faults at it";

static const char *remedy_for(const na_record *record) {
    return (record->flags & NA_RECORD_POISONED) != 0 ? REMEDY_AFTER : REMEDY_WRITE;
}

static void check_one(const na_record *record, const char *call) {
    char what[200];
    na_record before;
    if ((record->flags & NA_RECORD_BLAMED) != 0 || !damage(record, what, sizeof what)) return;
    (void)na_record_mark(record->start, user_of(record), NA_RECORD_BLAMED, record->freed, &before);
    blame(call, (void *)user_of(record), what, remedy_for(record), record);
}

typedef struct finding {
    bool found;
    char what[200];
    na_record record;
} finding;

static bool find_damage(na_record *record, void *data) {
    finding *to = data;
    if ((record->flags & NA_RECORD_BLAMED) != 0 || !damage(record, to->what, sizeof to->what)) return false;
    record->flags |= NA_RECORD_BLAMED; /* told once */
    to->record = *record;
    return to->found = true;
}

bool na_guard_check(const char *call, bool fatal) {
    for (bool sound = true;; sound = false) {
        finding now = {.found = false};
        na_records_each(find_damage, &now);
        if (!now.found) return sound;
        void *user = (void *)user_of(&now.record);
        if (fatal) {
            blame(call, user, now.what, remedy_for(&now.record), &now.record);
        } else {
            os_message("numalloc: %s: the address %p %s\n", call, user, now.what);
            tell_more(&now.record);
        }
    }
}

/* ---- freeing ------------------------------------------------------------------------------------------- */

/* The last look at a quarantined block. */
static void release(const na_record *record) {
    na_record now;
    if (!na_record_look(record->start, &now)) return;
    check_one(&now, "quarantine");
    if (na_record_take(record->start, user_of(record), &now)) na_guard_undo(&now);
}

/* Lets the oldest go until at most `limit` bytes are held. */
static void shrink(size_t limit) {
    for (;;) {
        pthread_mutex_lock(&lock);
        na_record *record = held > limit ? oldest : NULL;
        if (record != NULL) {
            oldest = record->later;
            if (oldest == NULL) newest = NULL;
            held -= raw_bytes(record);
        }
        pthread_mutex_unlock(&lock);
        if (record == NULL) return;
        release(record);
    }
}

void na_guard_drain(void) { shrink(0); }

static void retire(na_record *record, const na_record *value) {
    na_record before;
    size_t bytes = raw_bytes(value);
    if (bytes > na_opt.quarantine) {
        release(value);
        return;
    }
    if ((value->flags & NA_RECORD_PAGE) != 0) { /* marked first: checking threads must not read it any more */
        (void)na_record_mark(value->start, user_of(value), NA_RECORD_SEALED, value->freed, &before);
        (void)os_forbid((void *)value->start, bytes);
    } else {
        memset((void *)user_of(value), FREED, fill_length(value->size));
        (void)na_record_mark(value->start, user_of(value), NA_RECORD_POISONED, value->freed, &before);
    }
    pthread_mutex_lock(&lock);
    record->later = NULL;
    if (newest != NULL) newest->later = record;
    else oldest = record;
    newest = record;
    held += bytes;
    pthread_mutex_unlock(&lock);
    shrink(na_opt.quarantine);
}

/* Marks a block as freed and says what is wrong with that, if anything. NULL: it is not to be freed. */
static na_record *begin_free(uintptr_t start, void *ptr, const char *call, na_record *value) {
    na_site *here = na_opt.leaks[0] != '\0' ? na_site_here(na_regions[na_span_at(ptr)->region].node) : NULL;
    na_record *record = na_record_mark(start, (uintptr_t)ptr, NA_RECORD_FREED, here, value);
    if (record == NULL) return NULL;
    char what[200];
    if (user_of(value) != (uintptr_t)ptr) {
        (void)snprintf(what, sizeof what, "is not the start of a block, but %td bytes from that of one of %zu",
                       (ptrdiff_t)((uintptr_t)ptr - user_of(value)), value->size);
        blame(call, ptr, what, "free the pointer that the allocation returned", value);
        return NULL;
    }
    if ((value->flags & NA_RECORD_FREED) != 0) {
        (void)snprintf(what, sizeof what, "is not allocated (freed before): a block of %zu bytes", value->size);
        blame(call, ptr, what, "free each block once", value);
        return NULL;
    }
    check_one(value, call);
    value->freed = here;
    value->flags |= NA_RECORD_FREED;
    if ((value->flags & NA_RECORD_SAMPLED) != 0) na_profile_gone(value->site, value->size);
    return record;
}

void na_guard_free(uintptr_t start, void *ptr, const char *call) {
    na_record value = {.start = 0};
    na_record *record = begin_free(start, ptr, call, &value);
    if (record != NULL) retire(record, &value);
    else if (value.start == 0) na_free(ptr, call); /* never recorded */
}

/* Where a block of the same home comes from. */
static void home_of(uintptr_t start, numalloc_request_t *request, na_nodeset *nodes) {
    const na_span *span = na_span_at((void *)start);
    const na_region *region = &na_regions[span->region];
    if (region->node_index >= 0) {
        request->policy = region->use == NA_INHERITED ? NUMALLOC_LOCAL : NUMALLOC_ONNODE;
        request->node = region->node;
        request->flags = region->strict ? NUMALLOC_STRICT : 0;
        return;
    }
    *nodes = span->placement->nodes;
    request->policy = span->placement->policy;
    request->nodes = nodes;
    request->stripe = span->placement->stripe;
    request->weights = span->placement->weights;
    request->flags = span->placement->strict ? NUMALLOC_STRICT : 0;
}

/* Always moves, so that pointers into the old block are found out. */
void *na_guard_realloc(uintptr_t start, void *ptr, size_t size) {
    na_record value;
    if (!na_record_look(start, &value)) return na_realloc(ptr, size);
    if (user_of(&value) != (uintptr_t)ptr || (value.flags & NA_RECORD_FREED) != 0) {
        (void)begin_free(start, ptr, "numalloc_realloc", &value);
        errno = EINVAL;
        return NULL;
    }
    numalloc_request_t request = {.size = size};
    na_nodeset nodes;
    home_of(start, &request, &nodes);
    void *moved = na_modes.alloc(&request);
    if (moved == NULL) return size <= value.size ? ptr : NULL; /* shrinking never fails */
    memcpy(moved, ptr, value.size < size ? value.size : size);
    na_guard_free(start, ptr, "numalloc_realloc");
    return moved;
}

void na_guard_fork(int step) { na_fork_step(&lock, step); }
