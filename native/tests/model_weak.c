/* SPDX-License-Identifier: BSD-3-Clause
 *
 * model_weak [--full]: the source of remote.c in every interleaving of two threads that free and the owner, under C11's orders: each
 * atomic location keeps the history of its stores, a load may give any that its thread does not know to be overwritten, and
 * only release and acquire pass on what a thread knows. Plain data (blocks, links between pending pages) are watched for
 * races. Then each order is weakened in turn: what is not found would be an order that the check knows nothing of.
 *
 * Bounds: two pages of one heap that stays their owner, three blocks, stores at the end of the modification order; seq_cst
 * counts as acquire and release. So it does not look at adoption, where the order of two locations matters: model_remote
 * does, sequentially consistent. The first 200000 executions, depth first; with --full 20 million.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "heap/heap.h"
#include "space/space.h"

enum { THREADS = 3, LOCATIONS = 24, STORES = 24, STEPS = 256, STACK = 64 << 10 };
typedef struct view {
    unsigned char seen[LOCATIONS];
} view;
static struct location {
    const void *address;
    int count;
    uint64_t value[STORES];
    view known[STORES];
} locations[LOCATIONS];
static int location_count, self;
static view views[THREADS];
static ucontext_t scheduler, contexts[THREADS];
static int done[THREADS];
static struct { int taken, of; } trail[STEPS];
static int steps, length;
static const char *wrong;
static int weak_line, weak_order; /* the operation of that line of remote.c has this order instead */

static int choose(int of) {
    if (of <= 1) return 0;
    if (steps == STEPS) abort();
    if (steps == length) {
        trail[steps].taken = 0;
        trail[steps].of = of;
        length++;
    }
    return trail[steps++].taken;
}

static struct location *find(const void *address, uint64_t initial) {
    for (int i = 0; i < location_count; i++)
        if (locations[i].address == address) return &locations[i];
    if (location_count == LOCATIONS) abort();
    struct location *new = &locations[location_count++];
    *new = (struct location){.address = address, .count = 1, .value = {initial}};
    return new;
}

static void join(view *into, const view *from) {
    for (int i = 0; i < LOCATIONS; i++)
        if (from->seen[i] > into->seen[i]) into->seen[i] = from->seen[i];
}
static bool acquires(int order) { return order == memory_order_acquire || order >= memory_order_acq_rel; }
static bool releases(int order) { return order == memory_order_release || order >= memory_order_acq_rel; }
static int order_at(int line, int order) { return line == weak_line ? weak_order : order; }
static void yield(void) { swapcontext(&contexts[self], &scheduler); }

static void append(struct location *at, uint64_t value, const view *known) {
    if (at->count == STORES) abort();
    at->value[at->count] = value;
    at->known[at->count] = *known;
    views[self].seen[at - locations] = (unsigned char)at->count++;
}

static uint64_t load(const void *address, uint64_t initial, int order, int line) {
    yield();
    struct location *at = find(address, initial);
    int oldest = views[self].seen[at - locations], index = at->count - 1 - choose(at->count - oldest);
    views[self].seen[at - locations] = (unsigned char)index;
    if (acquires(order_at(line, order))) join(&views[self], &at->known[index]);
    return at->value[index];
}

/* Plain data: whoever reads or writes them must know the access before. */
static void plain(const void *address) {
    struct location *at = find(address, 0);
    if (views[self].seen[at - locations] != at->count - 1 && wrong == NULL) wrong = "a race on plain data";
    append(at, 0, &(view){{0}});
}

static na_heap heap;
static na_span pages[2];

/* true: `value` was stored. */
static bool swap(const void *address, uint64_t initial, uint64_t *expected, uint64_t value, int order, int line) {
    yield();
    if (address == &heap.pending && expected != NULL) plain(&((na_span *)(uintptr_t)value)->pending_next);
    struct location *at = find(address, initial);
    uint64_t last = at->value[at->count - 1];
    if (expected != NULL && *expected != last) {
        *expected = last;
        views[self].seen[at - locations] = (unsigned char)(at->count - 1);
        return false;
    }
    view known = at->known[at->count - 1]; /* a release sequence goes on */
    order = order_at(line, order);
    if (acquires(order)) join(&views[self], &known);
    if (releases(order)) join(&known, &views[self]);
    known.seen[at - locations] = (unsigned char)at->count;
    if (releases(order)) {
        views[self].seen[at - locations] = (unsigned char)at->count;
        join(&known, &views[self]);
    }
    append(at, value, &known);
    return true;
}

static uint64_t exchange(const void *address, uint64_t initial, uint64_t value, int order, int line) {
    yield();
    struct location *at = find(address, initial);
    uint64_t last = at->value[at->count - 1];
    view known = at->known[at->count - 1];
    order = order_at(line, order);
    if (acquires(order)) join(&views[self], &known);
    if (releases(order)) join(&known, &views[self]);
    append(at, value, &known);
    return last;
}

#undef atomic_load_explicit
#undef atomic_load
#undef atomic_exchange
#undef atomic_exchange_explicit
#undef atomic_compare_exchange_weak_explicit
#define atomic_load_explicit(at, order)                                                                                \
    ((__typeof__(*(at) + 0))load(at, *(const volatile uint64_t *)(at), order, __LINE__))
#define atomic_exchange_explicit(at, value, order)                                                                     \
    ((__typeof__(*(at) + 0))exchange(at, *(const volatile uint64_t *)(at), (uint64_t)(value), order, __LINE__))
#define atomic_compare_exchange_weak_explicit(at, expected, value, order, failure)                                     \
    swap(at, *(const volatile uint64_t *)(at), (uint64_t *)(expected), (uint64_t)(value), order, __LINE__)
#define atomic_load(at) atomic_load_explicit(at, memory_order_seq_cst)
#define atomic_exchange(at, value) atomic_exchange_explicit(at, value, memory_order_seq_cst)
#include "../src/heap/remote.c"

_Thread_local na_tls na_self = {NULL}; /* no slots: each free is pushed at once */
bool na_secure;                        /* off: na_seal is not called */
void na_seal(na_block *block, uint64_t value) { block->key = value; }

/* ---- threads ------------------------------------------------------------------------------------------------ */

static na_block blocks[3];
static int taken;

static void frees(int first, int last) {
    for (int i = first; i <= last; i++) {
        plain(&blocks[i]);
        na_remote_free(&pages[i / 2], &blocks[i]);
    }
}

enum { PENDING_LINE = 1000000 };

/* As na_pending_empty does for a heap's own pages. */
static void collects(void) {
    for (int round = 0; round < 2; round++) {
        na_span *page = (na_span *)(uintptr_t)exchange(&heap.pending, 0, 0, memory_order_acquire, PENDING_LINE);
        while (page != NULL) {
            plain(&page->pending_next);
            na_span *next = page->pending_next;
            uint32_t count;
            for (na_block *block = na_remote_take(page, &count); block != NULL; block = block->next) {
                plain(block);
                taken++;
            }
            page = next;
        }
    }
}

static void start(int t) {
    if (t == 0) frees(0, 0);
    else if (t == 1) frees(1, 2);
    else collects();
    done[t] = 1;
    swapcontext(&contexts[t], &scheduler);
}

static void run_once(void) {
    static char stacks[THREADS][STACK];
    memset(views, 0, sizeof views);
    memset(done, 0, sizeof done);
    memset(pages, 0, sizeof pages);
    memset(&heap, 0, sizeof heap);
    memset(blocks, 0, sizeof blocks);
    location_count = steps = taken = 0;
    for (int p = 0; p < 2; p++) {
        pages[p].block_size = 64;
        *(na_heap **)&pages[p].heap = &heap;
    }
    for (int t = 0; t < THREADS; t++) {
        getcontext(&contexts[t]);
        contexts[t].uc_stack.ss_sp = stacks[t];
        contexts[t].uc_stack.ss_size = STACK;
        makecontext(&contexts[t], (void (*)(void))start, 1, t);
    }
    for (;;) {
        int ready[THREADS], count = 0;
        for (int t = 0; t < THREADS; t++)
            if (!done[t]) ready[count++] = t;
        if (count == 0 || wrong != NULL) break;
        self = ready[choose(count)];
        swapcontext(&scheduler, &contexts[self]);
    }
}

static long explore(long most) {
    long runs = 0;
    length = 0;
    wrong = NULL;
    do {
        run_once();
        runs++;
        while (length > 0 && trail[length - 1].taken + 1 == trail[length - 1].of) length--;
        if (length > 0) trail[length - 1].taken++;
    } while (length > 0 && wrong == NULL && runs < most);
    return runs;
}

int main(int argc, char **argv) {
    long most = argc > 1 && strcmp(argv[1], "--full") == 0 ? 20000000L : 200000;
    long runs = explore(most);
    printf("model_weak: as it is: %ld executions, %s\n", runs, wrong != NULL ? wrong : "no violation");
    int failed = wrong != NULL;
    static const struct {
        const char *name, *text;
        int weaker;
    } mutants[] = {
        {"route without release", "page, memory_order_seq_cst", memory_order_acquire},
        {"push without release", "memory_order_acq_rel, memory_order_relaxed", memory_order_acquire},
        {"push without acquire", "memory_order_acq_rel, memory_order_relaxed", memory_order_release},
        {"take without release", "exchange_explicit(&page->remote", memory_order_acquire},
        {"take without acquire", "exchange_explicit(&page->remote", memory_order_release},
        {"pending without acquire", NULL, memory_order_relaxed},
    };
    for (size_t m = 0; m < sizeof mutants / sizeof mutants[0]; m++) {
        char line[512];
        FILE *source = fopen(REMOTE_SOURCE, "r");
        weak_line = mutants[m].text == NULL ? PENDING_LINE : 0;
        weak_order = mutants[m].weaker;
        for (int number = 1; source != NULL && weak_line == 0 && fgets(line, sizeof line, source) != NULL; number++)
            if (strstr(line, mutants[m].text) != NULL && strchr(line, '#') == NULL) weak_line = number;
        if (source != NULL) fclose(source);
        runs = explore(most);
        printf("model_weak: %s (line %d): %s after %ld executions\n", mutants[m].name, weak_line,
               wrong != NULL ? "found" : "NOT FOUND", runs);
        failed |= wrong == NULL || weak_line == 0;
    }
    return failed;
}
