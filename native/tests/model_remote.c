/* SPDX-License-Identifier: BSD-3-Clause
 *
 * model_remote [--full] [--break=NAME]: a model of the protocol of remote frees (remote.c) and of heaps that lose and
 * get owners (heap.c), checked in every interleaving of a few threads at the granularity of single atomic operations.
 *
 * The model repeats the protocol in small: pages with two or three blocks, heaps, one region. Each thread runs a
 * script; a step of a thread is one access to shared memory with the private work behind it. States are explored depth
 * first and kept by a 128-bit hash, so a violation might hide behind a collision with probability of about 1e-24.
 * It is sequentially consistent: it shows that the order of the operations is right, not that each has the memory
 * order it needs. ThreadSanitizer sees to those on the code itself.
 *
 * After each step: every block is in one place; a page is in one pending list or in one thread's hands exactly when it
 * is marked QUEUED, and nowhere otherwise; the count of used blocks is right; a page that is released is out of
 * everybody's reach; heaps without owner are in one list. At the end, when a last thread has purged: no page is
 * queued, nothing is lost, and pages without live blocks are gone.
 *
 * --break=NAME breaks the protocol; the exit code is then 0 if a violation was found. --break=list names them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model_remote.h"

static const char *const breakage_name[BREAKAGES] = {"none",
                                                     "clear-queued-early",
                                                     "queue-always",
                                                     "push-without-compare",
                                                     "count-waiting-as-free",
                                                     "adopt-without-lock",
                                                     "forget-moved-pages",
                                                     "read-link-late"};
enum breakage broken;
const bounds *now;
const char *wrong;

/* ---- what must hold --------------------------------------------------------------------------------------------- */

static void count_chain(const state *s, uint8_t first, unsigned count, uint8_t *places) {
    for (unsigned i = 0; i < count; i++) {
        if (first >= PAGES * PER_PAGE) {
            must(false, "a chain ends early");
            return;
        }
        places[first]++;
        first = s->next[first];
    }
}

static void count_pending(const state *s, uint8_t first, uint8_t *queued) {
    for (int i = 0; first != NONE; first = s->pages[first].pending_next) {
        if (first >= PAGES || i++ > PAGES) {
            must(false, "a pending list is a ring");
            return;
        }
        queued[first]++;
    }
}

static void check(const state *s) {
    uint8_t places[PAGES * PER_PAGE] = {0}, queued[PAGES] = {0};
    for (unsigned h = 0; h < HEAPS; h++) {
        count_pending(s, s->heaps[h].pending, queued);
        if (s->heaps[h].place == EMPTY) must(pages_of(s, h, true) == 0, "an empty heap has pages");
    }
    for (int t = 0; t < THREADS; t++) {
        const thread *self = &s->threads[t];
        for (unsigned b = 0; b < PAGES * PER_PAGE; b++) places[b] += (self->held >> b) & 1;
        for (int i = 0; i < SLOTS; i++) count_chain(s, self->slots[i].first, self->slots[i].count, places);
        if (self->from_start) places[self->block]++;
        /* The last link of a chain that is being pushed is not yet valid. */
        if (self->pushing) count_chain(s, self->push_first, self->push_count, places);
        if (self->queueing != NONE) queued[self->queueing]++;
        if (broken == READ_LINK_LATE) continue; /* its hands are not kept apart; other checks find it */
        if (self->at == EMPTY_NEXT) {
            count_pending(s, self->empty_page, queued);
        } else {
            if (self->empty_page != NONE) queued[self->empty_page]++;
            count_pending(s, self->empty_next, queued);
        }
    }
    for (unsigned p = 0; p < PAGES; p++) {
        const page *page = &s->pages[p];
        if (!page->exists) {
            must(queued[p] == 0, "a released page is queued");
            continue;
        }
        must(queued[p] <= 1, "a page is queued twice");
        if (broken != CLEAR_QUEUED_EARLY && broken != READ_LINK_LATE)
            must(queued[p] == page->remote.queued, "a page is queued and not marked so, or the reverse");
        count_chain(s, page->remote.first, page->remote.count, places);
        unsigned used = 0;
        for (unsigned b = 0; b < (unsigned)now->per_page; b++) {
            unsigned in = places[p * PER_PAGE + b] + ((s->given >> (p * PER_PAGE + b)) & 1) + ((page->free >> b) & 1);
            must(in != 0, "a block is lost");
            must(in <= 1, "a block is in two places");
            used += !((page->free >> b) & 1);
        }
        must(used == page->used, "the count of used blocks is wrong");
        must(page->heap < HEAPS && s->heaps[page->heap].place != UNMADE, "a page has no heap");
    }
}

/* All threads have ended, the last after purging. */
static void check_end(const state *s) {
    for (int h = 0; h < HEAPS; h++) {
        must(s->heaps[h].pending == NONE, "a page stays queued on a heap that nobody will empty");
        must(s->heaps[h].place != IN_HAND && (s->heaps[h].place != OWNED || s->heaps[h].thread == THREADS - 1),
             "a heap is left with a dead thread");
    }
    for (unsigned p = 0; p < PAGES; p++) {
        const page *page = &s->pages[p];
        if (!page->exists) continue;
        unsigned live = 0;
        uint32_t held = s->given;
        for (int t = 0; t < THREADS; t++) held |= s->threads[t].held;
        for (unsigned b = 0; b < (unsigned)now->per_page; b++) live += (held >> (p * PER_PAGE + b)) & 1;
        must(page->used == live, "a remote free never reached an owner");
        must(live != 0, "a page without live blocks stays");
    }
}

/* ---- exploring ---------------------------------------------------------------------------------------------------- */

typedef struct key {
    uint64_t a, b;
} key;
static key *table;
static size_t table_size, table_used; /* a power of two */

static uint64_t mix(uint64_t z) { /* splitmix64 (Steele, Lea, Flood 2014) */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static key key_of(const state *s) {
    key k = {0x243f6a8885a308d3, 0x13198a2e03707344};
    const unsigned char *bytes = (const unsigned char *)s;
    for (size_t i = 0; i < sizeof *s; i += 8) {
        uint64_t part = 0;
        memcpy(&part, bytes + i, sizeof *s - i < 8 ? sizeof *s - i : 8);
        k.a = mix(k.a ^ part);
        k.b = mix(k.b + part * UINT64_C(0x9e3779b97f4a7c15));
    }
    k.a |= 1; /* 0: an empty place */
    return k;
}

static void *memory(size_t count, size_t size) {
    void *p = calloc(count, size);
    if (p != NULL) return p;
    fprintf(stderr, "model_remote: out of memory\n");
    exit(2);
}

/* false: seen before. */
static bool remember(key k) {
    if (table_used * 4 >= table_size * 3) {
        key *old = table;
        size_t old_size = table_size;
        table_size = table_size == 0 ? (size_t)1 << 16 : table_size * 2;
        table = memory(table_size, sizeof *table);
        table_used = 0;
        for (size_t i = 0; i < old_size; i++)
            if (old[i].a != 0) (void)remember(old[i]);
        free(old);
    }
    size_t at = k.b & (table_size - 1);
    for (; table[at].a != 0; at = (at + 1) & (table_size - 1))
        if (table[at].a == k.a && table[at].b == k.b) return false;
    table[at] = k;
    table_used++;
    return true;
}

enum { DEPTH = 4096 };
static struct frame {
    state s;
    int t; /* next thread to try; the step that led on was of t - 1 */
} stack[DEPTH];

static uint64_t states, transitions, deepest;

static void tell(int depth) {
    printf("model_remote: %s: violated: %s\n  threads' steps:", now->name, wrong);
    for (int i = 0; i <= depth; i++) printf(" %d@%d", stack[i].t - 1, stack[i].s.threads[stack[i].t - 1].at);
    printf("\n");
}

/* All states that can be reached; false: a violation was found and told. */
static bool explore(const bounds *instance) {
    now = instance;
    wrong = NULL;
    free(table);
    table = NULL;
    table_size = table_used = 0;
    states = transitions = deepest = 0;
    memset(stack, 0, sizeof stack[0]);
    state *s = &stack[0].s;
    s->lock = NONE;
    memset(s->next, NONE, sizeof s->next);
    for (int p = 0; p < PAGES; p++) s->pages[p] = (page){.heap = NONE, .pending_next = NONE, .remote = {NONE, 0, 0}};
    for (int h = 0; h < HEAPS; h++) s->heaps[h] = (heap){NONE, NONE, UNMADE};
    for (int t = 0; t < THREADS; t++) {
        thread *self = &s->threads[t];
        self->heap = self->queueing = self->empty_page = self->empty_next = NONE;
        for (int i = 0; i < SLOTS; i++) self->slots[i] = (slot){NONE, NONE, 0};
    }
    (void)remember(key_of(s));
    states = 1;
    for (int depth = 0; depth >= 0;) {
        struct frame *f = &stack[depth];
        if (f->t == THREADS) {
            depth--;
            continue;
        }
        int t = f->t++;
        if (!enabled(&f->s, t)) {
            if (t != THREADS - 1) continue;
            bool any = false, done = true;
            for (int i = 0; i < THREADS; i++) {
                any |= enabled(&f->s, i);
                done &= finished(&f->s, i);
            }
            if (any) continue;
            if (done) check_end(&f->s);
            else must(false, "the threads wait for each other");
            if (wrong == NULL) continue;
            tell(depth - 1);
            return false;
        }
        struct frame *next = f + 1;
        next->s = f->s;
        next->t = 0;
        step(&next->s, t);
        transitions++;
        if (wrong == NULL) check(&next->s);
        if (depth + 2 == DEPTH) must(false, "a thread runs in circles");
        if (wrong != NULL) {
            tell(depth);
            return false;
        }
        if (!remember(key_of(&next->s))) continue;
        states++;
        depth++;
        if ((uint64_t)depth > deepest) deepest = (uint64_t)depth;
    }
    return true;
}

/* ---- what is explored ----------------------------------------------------------------------------------------------- */

static const bounds quick[] = {
    {"two threads free what a third allocates", 2, 2, 1, {"gggx", "ffx", "fx"}, "P"},
    {"batches of two", 2, 2, 2, {"gggx", "ffx", "fx"}, "P"},
    {"the owner ends, an heir adopts or takes over", 2, 2, 1, {"ggx", "mmox", "fx"}, "P"},
    {"the same, and the last one has a heap", 2, 2, 1, {"ggx", "mmox", "fx"}, "moP"},
    {"an heir with a heap of its own takes over", 2, 1, 1, {"ggx", "mmx", "ffx"}, "P"},
    {"two owners free each other's", 2, 2, 1, {"gfx", "gfx", NULL}, "moP"},
    {"a purge while frees arrive", 2, 2, 1, {"ggx", "PP", "ffx"}, "P"},
    {"a page that comes and goes", 1, 1, 1, {"ggx", "ffx", NULL}, "P"},
};
static const bounds larger[] = {
    {"three pages, three threads", 3, 2, 1, {"ggggx", "fffx", "ffx"}, "P"},
    {"three blocks, batches of two", 2, 3, 2, {"ggggx", "ffx", "ffx"}, "moP"},
    {"two heirs", 2, 2, 1, {"ggfx", "mgox", "mfox"}, "P"},
    {"three owners in a ring", 3, 1, 1, {"gfx", "gfx", "gfx"}, "P"},
    {"three owners in a ring, twice", 3, 1, 1, {"ggffx", "gfx", "gfx"}, "moP"},
    {"an owner ends twice", 2, 2, 1, {"ggxgfx", "fmx", "ffx"}, "moP"},
    {"purges by an owner", 2, 2, 1, {"ggfPx", "gfPx", "fPx"}, "P"},
    {"owners that purge and go on", 3, 2, 1, {"ggPgfx", "fmPmoox", "ffPx"}, "moP"},
};

int main(int argc, char **argv) {
    bool full = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--full") == 0) {
            full = true;
        } else if (strcmp(argv[i], "--break=list") == 0) {
            for (int b = 1; b < BREAKAGES; b++) printf("%s\n", breakage_name[b]);
            return 0;
        } else if (strncmp(argv[i], "--break=", 8) == 0) {
            for (int b = 1; b < BREAKAGES; b++)
                if (strcmp(argv[i] + 8, breakage_name[b]) == 0) broken = (enum breakage)b;
            if (broken == SOUND) return 2;
        } else {
            fprintf(stderr, "usage: model_remote [--full] [--break=NAME | --break=list]\n");
            return 2;
        }
    }
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    uint64_t all_states = 0, all_transitions = 0;
    int count = 0, quick_count = sizeof quick / sizeof quick[0], larger_count = sizeof larger / sizeof larger[0];
    bool sound = true;
    for (int i = 0; i < quick_count + (full ? larger_count : 0) && sound; i++, count++) {
        const bounds *instance = i < quick_count ? &quick[i] : &larger[i - quick_count];
        sound = explore(instance);
        all_states += states;
        all_transitions += transitions;
        if (sound && broken == SOUND)
            printf("model_remote: %s: %llu states, %llu steps, depth %llu\n", instance->name,
                   (unsigned long long)states, (unsigned long long)transitions, (unsigned long long)deepest);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("model: %d instances, %llu states, %llu steps, %.1f s, %s%s\n", count, (unsigned long long)all_states,
           (unsigned long long)all_transitions,
           (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec),
           broken != SOUND ? breakage_name[broken] : "",
           broken != SOUND ? (sound ? " was NOT FOUND" : " was found")
           : sound         ? "no violation"
                           : "VIOLATED");
    return (broken == SOUND) == sound ? 0 : 1;
}
