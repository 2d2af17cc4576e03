/* SPDX-License-Identifier: BSD-3-Clause
 *
 * model_steps.c: what a thread of the model does, one access to shared memory at a time. Each case of step() repeats
 * a piece of heap.c or remote.c; when those change, this changes.
 */
#include <string.h>

#include "model_remote.h"

/* ---- one thread ------------------------------------------------------------------------------------------------- */

static page *page_of(state *s, unsigned block) { return &s->pages[block / PER_PAGE]; }

/* Shared memory of a page is looked at: it must be one. */
static page *reach(state *s, unsigned p) {
    must(p < PAGES && s->pages[p].exists, "a page is reached after its release");
    return &s->pages[p < PAGES ? p : 0];
}

static bool lock_free(const state *s, int t) { return s->lock == NONE || s->lock == t; }

static const char *script_of(int t) {
    return t < THREADS - 1 ? (now->script[t] != NULL ? now->script[t] : "") : now->last;
}

bool finished(const state *s, int t) {
    return s->threads[t].at == AT_SCRIPT && script_of(t)[s->threads[t].next_op] == '\0';
}

static bool givers_done(const state *s) {
    for (int t = 0; t < THREADS - 1; t++) {
        const thread *self = &s->threads[t];
        if (self->at != AT_SCRIPT && script_of(t)[self->next_op - 1] == 'g') return false;
        if (strchr(script_of(t) + self->next_op, 'g') != NULL) return false;
    }
    return true;
}

/* May thread t take a step? */
bool enabled(const state *s, int t) {
    const thread *self = &s->threads[t];
    switch (self->at) {
    case AT_SCRIPT: {
        char op = script_of(t)[self->next_op];
        if (op == '\0') return false;
        if (t == THREADS - 1)
            for (int i = 0; i < THREADS - 1; i++)
                if (!finished(s, i)) return false;
        return op != 'f' || s->given != 0 || givers_done(s);
    }
    case ALLOC_HEAP_LOCK:
    case OVER_LOCK: return broken == ADOPT_WITHOUT_LOCK || lock_free(s, t);
    case RELEASE_LOCK:
    case RETIRE_LOCK:
    case PURGE_LOCK: return lock_free(s, t);
    default: return true;
    }
}

static void take_lock(state *s, int t) {
    if (s->lock == NONE) s->lock = (uint8_t)t;
}
static void drop_lock(state *s, int t) {
    if (s->lock == t) s->lock = NONE;
}

static uint8_t first_in(const state *s, enum heap_place place) {
    for (uint8_t h = 0; h < HEAPS; h++)
        if (s->heaps[h].place == place) return h;
    return NONE;
}

unsigned pages_of(const state *s, unsigned h, bool with_full) {
    unsigned count = 0;
    for (int p = 0; p < PAGES; p++)
        count += s->pages[p].exists && s->pages[p].heap == h && (with_full || !s->pages[p].full);
    return count;
}

static void start_push(thread *self, uint8_t p, slot chain, enum where back) {
    self->push_page = p;
    self->push_first = chain.first;
    self->push_last = chain.last;
    self->push_count = chain.count;
    self->pushing = 1;
    self->push_return = (uint8_t)back;
    self->at = PUSH_LOAD;
}

static void start_empty(thread *self, uint8_t h, uint8_t mine, enum where back) {
    self->empty_heap = h;
    self->empty_mine = mine;
    self->empty_return = (uint8_t)back;
    self->at = EMPTY_LOAD;
}

/* na_page_freed: the used count of an own page fell. true: the page is to be released first. */
static bool page_freed(state *s, thread *self, uint8_t p, enum where back) {
    page *page = &s->pages[p];
    page->full = 0;
    unsigned used = page->used;
    if (broken == COUNT_WAITING_AS_FREE) used -= page->remote.count;
    if (used != 0 || pages_of(s, page->heap, false) <= 1) return false;
    self->release_page = p;
    self->release_return = (uint8_t)back;
    self->at = RELEASE_LOCK;
    return true;
}

/* Takes a block of an own page; false: none is free. */
static bool take_block(state *s, thread *self, char op) {
    for (uint8_t p = 0; p < PAGES; p++) {
        page *page = &s->pages[p];
        if (!page->exists || page->heap != self->heap || page->full) continue;
        if (page->free == 0) {
            page->full = 1;
            continue;
        }
        unsigned b = (unsigned)__builtin_ctz(page->free);
        page->free = (uint8_t)(page->free & ~bit(b));
        page->used++;
        if (op == 'g') s->given |= bit(p * PER_PAGE + b);
        else self->held |= bit(p * PER_PAGE + b);
        return true;
    }
    return false;
}

static void start_operation(state *s, thread *self, char op) {
    switch (op) {
    case 'g':
    case 'm':
        self->at = self->heap == NONE ? ALLOC_HEAP_LOCK : ALLOC_COLLECT;
        if (self->heap != NONE && take_block(s, self, op)) self->at = OPERATION_DONE; /* the fast path */
        break;
    case 'o':
    case 'f': {
        uint32_t *from = op == 'o' ? &self->held : &s->given;
        if (*from == 0) {
            self->at = OPERATION_DONE;
            break;
        }
        self->block = (uint8_t)__builtin_ctz(*from);
        *from &= *from - 1;
        self->from_start = 1;
        self->at = FREE_HEAP;
        break;
    }
    case 'P':
        self->flush_at = 0;
        self->flush_return = PURGE_FLUSHED;
        self->at = FLUSH_NEXT;
        break;
    default:
        self->flush_at = 0;
        self->flush_return = END_FLUSHED;
        self->at = FLUSH_NEXT;
    }
}

/* Into a slot of the thread. */
static void collect_free(state *s, thread *self) {
    uint8_t block = self->block;
    slot *slot = &self->slots[block / PER_PAGE];
    if (slot->count == 0) slot->last = block;
    s->next[block] = slot->count == 0 ? NONE : slot->first;
    slot->first = block;
    slot->count++;
    self->from_start = 0;
    self->at = OPERATION_DONE;
    if (slot->count < now->batch) return;
    struct slot chain = *slot;
    *slot = (struct slot){NONE, NONE, 0};
    start_push(self, block / PER_PAGE, chain, OPERATION_DONE);
}

static void free_own(state *s, thread *self) {
    page *page = page_of(s, self->block);
    page->free |= (uint8_t)bit(self->block % PER_PAGE);
    page->used--;
    self->from_start = 0;
    if (!page_freed(s, self, self->block / PER_PAGE, OPERATION_DONE)) self->at = OPERATION_DONE;
}

/* The chain of a page's remote word becomes its free blocks; true: the page is being released. */
static bool take_in(state *s, thread *self, uint8_t p) {
    page *page = reach(s, p);
    unsigned count = 0;
    for (uint8_t b = page->remote.first; b != NONE && count <= PER_PAGE; b = s->next[b], count++) {
        must((page->free & bit(b % PER_PAGE)) == 0, "a block is freed twice");
        page->free |= (uint8_t)bit(b % PER_PAGE);
    }
    must(count == page->remote.count, "a chain is not as long as its count says");
    page->used = (uint8_t)(page->used - page->remote.count);
    page->remote = (word){NONE, 0, 0};
    return page_freed(s, self, p, EMPTY_PAGE);
}

void step(state *s, int t) {
    thread *self = &s->threads[t];
    char op = self->next_op > 0 ? script_of(t)[self->next_op - 1] : '\0';
    switch ((enum where)self->at) {
    case AT_SCRIPT: start_operation(s, self, script_of(t)[self->next_op++]); break;
    case OPERATION_DONE:
        break; /* not a step of its own, see below */

    /* numalloc: na_heap_of, then na_heap_alloc */
    case ALLOC_HEAP_LOCK:
        if (broken != ADOPT_WITHOUT_LOCK) take_lock(s, t);
        self->at = ALLOC_HEAP_POP;
        break;
    case ALLOC_HEAP_POP: {
        uint8_t h = first_in(s, ABANDONED);
        if (h == NONE) h = first_in(s, EMPTY);
        if (h == NONE) h = first_in(s, UNMADE);
        must(h != NONE, "the model has too few heaps");
        self->over_other = h;
        self->at = ALLOC_HEAP_STORE;
        break;
    }
    case ALLOC_HEAP_STORE:
        must(s->heaps[self->over_other].place != IN_HAND && s->heaps[self->over_other].place != OWNED,
             "a heap is taken by two threads");
        s->heaps[self->over_other].place = IN_HAND;
        self->at = ALLOC_HEAP_UNLOCK;
        break;
    case ALLOC_HEAP_UNLOCK:
        drop_lock(s, t);
        self->at = ALLOC_HEAP_OWN;
        break;
    case ALLOC_HEAP_OWN:
        s->heaps[self->over_other].thread = (uint8_t)t;
        s->heaps[self->over_other].place = OWNED;
        self->heap = self->over_other;
        self->at = ALLOC_COLLECT;
        break;
    case ALLOC_COLLECT: start_empty(self, self->heap, self->heap, ALLOC_SEARCH); break;
    case ALLOC_SEARCH:
        if (take_block(s, self, op)) {
            self->at = OPERATION_DONE;
            break;
        }
        self->flush_at = 0;
        self->flush_return = ALLOC_FLUSHED;
        self->at = FLUSH_NEXT;
        break;
    case ALLOC_FLUSHED: self->at = OVER_LOOK; break;
    case ALLOC_TOOK_OVER:
        self->at = self->over_result != 0 && take_block(s, self, op) ? OPERATION_DONE : ALLOC_NEW;
        break;
    case ALLOC_NEW:                /* the region's lock is held for this one step */
        self->at = OPERATION_DONE; /* no memory: the call fails */
        if (s->lock != NONE) {
            self->at = ALLOC_NEW;
            break;
        }
        for (int p = 0; p < now->pages; p++) {
            if (s->pages[p].exists) continue;
            s->pages[p] = (page){.exists = 1,
                                 .heap = self->heap,
                                 .pending_next = NONE,
                                 .free = (uint8_t)(bit((unsigned)now->per_page) - 1),
                                 .remote = {NONE, 0, 0}};
            (void)take_block(s, self, op);
            break;
        }
        break;

    /* numalloc_free */
    case FREE_HEAP: {
        page *page = reach(s, self->block / PER_PAGE);
        if (page->heap == self->heap) {
            free_own(s, self);
        } else {
            self->saved = page->heap;
            self->at = FREE_THREAD;
        }
        break;
    }
    case FREE_THREAD:
        if (s->heaps[self->saved].thread == t) free_own(s, self);
        else collect_free(s, self);
        break;

    /* push */
    case PUSH_LOAD:
        self->push_old = reach(s, self->push_page)->remote;
        self->at = PUSH_SWAP;
        break;
    case PUSH_SWAP: {
        page *page = reach(s, self->push_page);
        word old = self->push_old;
        s->next[self->push_last] = old.first;
        if (broken != PUSH_WITHOUT_COMPARE && memcmp(&page->remote, &old, sizeof old) != 0) {
            self->push_old = page->remote;
            break;
        }
        page->remote = (word){self->push_first, (uint8_t)(old.count + self->push_count), 1};
        self->pushing = 0;
        if (old.queued && broken != QUEUE_ALWAYS) {
            self->at = self->push_return;
            break;
        }
        self->queueing = self->push_page;
        self->at = PUSH_HEAP;
        break;
    }
    case PUSH_HEAP:
        self->route_heap = reach(s, self->push_page)->heap;
        self->route_return = self->empty_return = self->push_return;
        self->empty_mine = NONE;
        self->at = ROUTE_LOAD;
        break;

    /* na_remote_route, of the page in `queueing` */
    case ROUTE_LOAD:
        self->route_first = s->heaps[self->route_heap].pending;
        self->at = ROUTE_LINK;
        break;
    case ROUTE_LINK:
        reach(s, self->queueing)->pending_next = self->route_first;
        self->at = ROUTE_SWAP;
        break;
    case ROUTE_SWAP:
        (void)reach(s, self->queueing);
        if (s->heaps[self->route_heap].pending != self->route_first) {
            self->route_first = s->heaps[self->route_heap].pending;
            self->at = ROUTE_LINK;
            break;
        }
        s->heaps[self->route_heap].pending = self->route_page = self->queueing;
        self->queueing = NONE;
        self->at = broken == FORGET_MOVED_PAGES ? self->route_return : ROUTE_CHECK;
        break;
    case ROUTE_CHECK: /* the page may be released by now, which is no harm */
        self->at = s->pages[self->route_page].heap == self->route_heap ? self->route_return : ROUTE_TAKE;
        break;
    case ROUTE_TAKE: { /* what is taken back comes before what is in hand */
        uint8_t more = s->heaps[self->route_heap].pending, last = more;
        s->heaps[self->route_heap].pending = NONE;
        self->at = more == NONE ? self->route_return : EMPTY_PAGE;
        if (more == NONE) break;
        while (reach(s, last)->pending_next != NONE) last = s->pages[last].pending_next;
        s->pages[last].pending_next = self->empty_next;
        self->empty_next = more;
        break;
    }

    /* na_remote_flush */
    case FLUSH_NEXT:
        while (self->flush_at < SLOTS && self->slots[self->flush_at].count == 0) self->flush_at++;
        if (self->flush_at == SLOTS) {
            self->at = self->flush_return;
            break;
        }
        {
            slot chain = self->slots[self->flush_at];
            self->slots[self->flush_at] = (slot){NONE, NONE, 0};
            start_push(self, self->flush_at, chain, FLUSH_NEXT);
        }
        break;

    /* pending_empty; the chain in hand is empty_page with what its links reach */
    case EMPTY_LOAD: self->at = s->heaps[self->empty_heap].pending == NONE ? self->empty_return : EMPTY_TAKE; break;
    case EMPTY_TAKE:
        self->empty_next = s->heaps[self->empty_heap].pending;
        s->heaps[self->empty_heap].pending = NONE;
        self->at = EMPTY_PAGE;
        break;
    case EMPTY_PAGE:
        if (broken == READ_LINK_LATE && self->empty_page != NONE)
            self->empty_next = s->pages[self->empty_page].pending_next;
        self->empty_page = self->empty_next;
        self->empty_next = NONE;
        self->at = self->empty_page == NONE ? EMPTY_DONE : EMPTY_NEXT;
        break;
    case EMPTY_NEXT:
        if (broken != READ_LINK_LATE) self->empty_next = reach(s, self->empty_page)->pending_next;
        self->at = EMPTY_OWNER;
        break;
    case EMPTY_OWNER: {
        uint8_t owner = reach(s, self->empty_page)->heap;
        if (owner == self->empty_mine) {
            self->at = broken == CLEAR_QUEUED_EARLY ? EMPTY_UNMARK : EMPTY_BLOCKS;
            break;
        }
        self->queueing = self->empty_page;
        if (broken != READ_LINK_LATE) self->empty_page = NONE;
        self->route_heap = owner;
        self->route_return = EMPTY_PAGE;
        self->at = ROUTE_LOAD;
        break;
    }
    case EMPTY_UNMARK: /* only when broken */
        reach(s, self->empty_page)->remote.queued = 0;
        self->at = EMPTY_BLOCKS;
        break;
    case EMPTY_BLOCKS: {
        uint8_t p = self->empty_page;
        if (broken != READ_LINK_LATE) self->empty_page = NONE;
        if (!take_in(s, self, p)) self->at = EMPTY_PAGE;
        break;
    }
    case EMPTY_DONE: self->at = self->empty_return; break;

    /* na_page_release */
    case RELEASE_LOCK:
        self->saved = s->lock == t; /* by a thread that has it already: never, see below */
        must(!self->saved, "the region's lock is taken twice");
        take_lock(s, t);
        self->at = RELEASE_PAGE;
        break;
    case RELEASE_PAGE: {
        page *page = reach(s, self->release_page);
        must(page->remote.queued == 0 && page->remote.count == 0, "a page is released that has remote frees");
        must(page->used == 0, "a page is released that has used blocks");
        *page = (struct page){.heap = NONE, .pending_next = NONE, .remote = {NONE, 0, 0}};
        self->at = RELEASE_UNLOCK;
        break;
    }
    case RELEASE_UNLOCK:
        drop_lock(s, t);
        self->at = self->release_return;
        break;

    /* na_heap_adopt_pages */
    case OVER_LOOK:
        self->over_result = 0;
        self->at = first_in(s, ABANDONED) == NONE ? ALLOC_TOOK_OVER : OVER_LOCK;
        break;
    case OVER_LOCK:
        if (broken != ADOPT_WITHOUT_LOCK) take_lock(s, t);
        self->at = OVER_POP;
        break;
    case OVER_POP:
        self->over_other = first_in(s, ABANDONED);
        self->over_at = 0;
        self->at = self->over_other == NONE ? OVER_UNLOCK : OVER_STORE;
        break;
    case OVER_STORE:
        must(s->heaps[self->over_other].place == ABANDONED, "a heap is taken by two threads");
        s->heaps[self->over_other].place = IN_HAND;
        self->over_result = 1;
        self->at = OVER_MOVE;
        break;
    case OVER_MOVE: /* a page of the other heap at a time */
        while (self->over_at < PAGES &&
               !(s->pages[self->over_at].exists && s->pages[self->over_at].heap == self->over_other))
            self->over_at++;
        if (self->over_at < PAGES) s->pages[self->over_at++].heap = self->heap;
        else self->at = OVER_EMPTY;
        break;
    case OVER_EMPTY:
        s->heaps[self->over_other].place = EMPTY;
        self->at = OVER_UNLOCK;
        break;
    case OVER_UNLOCK:
        drop_lock(s, t);
        self->at = OVER_COLLECT;
        if (self->over_result) start_empty(self, self->over_other, NONE, OVER_COLLECT);
        break;
    case OVER_COLLECT: start_empty(self, self->heap, self->heap, OVER_END); break;
    case OVER_END: self->at = ALLOC_TOOK_OVER; break;

    /* na_heap_release */
    case RELEASE_ALL_COLLECTED:
        self->release_all_at = 0;
        self->at = RELEASE_ALL_PAGES;
        break;
    case RELEASE_ALL_PAGES:
        for (; self->release_all_at < PAGES; self->release_all_at++) {
            page *page = &s->pages[self->release_all_at];
            unsigned used = page->used - (broken == COUNT_WAITING_AS_FREE ? page->remote.count : 0u);
            if (page->exists && page->heap == self->release_all_heap && used == 0) break;
        }
        if (self->release_all_at == PAGES) {
            self->at = self->release_all_return;
            break;
        }
        self->release_page = self->release_all_at;
        self->release_return = RELEASE_ALL_PAGES;
        self->at = RELEASE_LOCK;
        break;

    /* na_heap_abandon, and collect() of abandoned.c */
    case RETIRE_START:
        self->release_all_heap = self->retire_heap;
        self->release_all_return = RETIRE_LOCK;
        start_empty(self, self->release_all_heap, self->release_all_heap, RELEASE_ALL_COLLECTED);
        break;
    case RETIRE_LOCK:
        take_lock(s, t);
        self->at = RETIRE_DISOWN;
        break;
    case RETIRE_DISOWN:
        s->heaps[self->retire_heap].thread = NONE;
        s->heaps[self->retire_heap].place = pages_of(s, self->retire_heap, true) != 0 ? ABANDONED : EMPTY;
        self->at = RETIRE_UNLOCK;
        break;
    case RETIRE_UNLOCK:
        drop_lock(s, t);
        self->at = self->retire_return;
        break;

    /* thread_end */
    case END_FLUSHED:
        if (self->heap == NONE) {
            self->at = OPERATION_DONE;
            break;
        }
        self->retire_heap = self->heap;
        self->heap = NONE;
        self->retire_return = END_RETIRED;
        self->at = RETIRE_LOCK; /* it is abandoned as it is */
        break;
    case END_RETIRED: self->at = OPERATION_DONE; break;

    /* numalloc_purge */
    case PURGE_FLUSHED: self->at = PURGE_LOCK; break;
    case PURGE_SHED: {
        if (self->heap == NONE) {
            self->at = PURGE_END;
            break;
        }
        self->release_all_heap = self->heap;
        self->release_all_return = PURGE_END;
        start_empty(self, self->heap, self->heap, RELEASE_ALL_COLLECTED);
        break;
    }
    case PURGE_END: self->at = OPERATION_DONE; break;
    case PURGE_LOCK:
        take_lock(s, t);
        self->at = PURGE_LIST;
        break;
    case PURGE_LIST:
        self->list = 0;
        for (unsigned h = 0; h < HEAPS; h++)
            if (s->heaps[h].place == ABANDONED) {
                self->list |= (uint8_t)bit(h);
                s->heaps[h].place = IN_HAND;
            }
        self->at = PURGE_UNLOCK;
        break;
    case PURGE_UNLOCK:
        drop_lock(s, t);
        self->at = PURGE_HEAPS;
        break;
    case PURGE_HEAPS:
        if (self->list == 0) {
            self->at = PURGE_SHED;
            break;
        }
        self->retire_heap = (uint8_t)__builtin_ctz(self->list);
        self->list &= (uint8_t)(self->list - 1);
        s->heaps[self->retire_heap].thread = (uint8_t)t;
        s->heaps[self->retire_heap].place = OWNED;
        self->retire_return = PURGE_HEAPS;
        self->at = RETIRE_START;
        break;
    }
    if (self->at == OPERATION_DONE) { /* registers that are no more used do not make states different */
        thread clean = {.at = AT_SCRIPT, .next_op = self->next_op, .heap = self->heap, .held = self->held};
        memcpy(clean.slots, self->slots, sizeof clean.slots);
        clean.queueing = clean.empty_page = clean.empty_next = NONE;
        *self = clean;
    }
}
