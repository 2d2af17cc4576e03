/* SPDX-License-Identifier: BSD-3-Clause
 *
 * model_weak [--full]: the sources of remote.c, abandoned.c and cache.c in every interleaving, under C11's orders: each atomic
 * location keeps the history of its stores, a load may give any that its thread does not know to be overwritten, and only
 * release and acquire pass on what a thread knows. A seq_cst load gives no store before the last seq_cst one. Plain data
 * (blocks, links between pending pages, cached spans) are watched for races. Then each order is weakened in turn: what is
 * not found would be an order that the check knows nothing of.
 *
 *   frees     two threads free to two pages of one heap, whose thread collects them
 *   adoption  a thread frees to a page while another adopts its heap: no page with remote frees is in no list
 *   cache     a thread caches a span while another gives back what is cached: no cached span is forgotten
 *
 * Bounds: two pages, three blocks, one span, stores at the end of the modification order. The first 200000 executions of
 * each, depth first; with --full 20 million.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "heap/heap.h"
#include "large/large.h"
#include "space/space.h"

enum { THREADS = 3, LOCATIONS = 64, STORES = 24, STEPS = 256, STACK = 64 << 10 };
typedef struct view {
    unsigned char seen[LOCATIONS];
} view;
static struct location {
    const void *address;
    int count, in_order; /* the last seq_cst store */
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
static int weak_line[2], weak_order; /* operations of these lines, plus their file's number, have this order instead */

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
static int order_at(int line, int order) { return line == weak_line[0] || line == weak_line[1] ? weak_order : order; }
static void yield(const void *address);

static void append(struct location *at, uint64_t value, const view *known, int order) {
    if (at->count == STORES) abort();
    if (order == memory_order_seq_cst) at->in_order = at->count;
    at->value[at->count] = value;
    at->known[at->count] = *known;
    views[self].seen[at - locations] = (unsigned char)at->count++;
}

static uint64_t load(const void *address, uint64_t initial, int order, int line) {
    yield(address);
    struct location *at = find(address, initial);
    int oldest = views[self].seen[at - locations];
    order = order_at(line, order);
    if (order == memory_order_seq_cst && oldest < at->in_order) oldest = at->in_order;
    int index = at->count - 1 - choose(at->count - oldest);
    views[self].seen[at - locations] = (unsigned char)index;
    if (acquires(order)) join(&views[self], &at->known[index]);
    return at->value[index];
}

/* Plain data: whoever reads or writes them must know the access before. */
static void plain(const void *address) {
    struct location *at = find(address, 0);
    if (views[self].seen[at - locations] != at->count - 1 && wrong == NULL) wrong = "a race on plain data";
    append(at, 0, &(view){{0}}, memory_order_relaxed);
}

static void store(const void *address, uint64_t initial, uint64_t value, int order, int line) {
    yield(address);
    struct location *at = find(address, initial);
    view known = {{0}};
    order = order_at(line, order);
    if (releases(order)) {
        known = views[self];
        known.seen[at - locations] = (unsigned char)at->count;
    }
    append(at, value, &known, order);
}

static na_region region;
static na_heap heap, heir;
static enum { FREES, ADOPTION, CACHED } scenario;

/* Another thread may come first. Of the span cache one slot is used. */
static void yield(const void *address) {
    if (scenario != CACHED || address == &heap.spans.span[0] || address == &region.cached_since)
        swapcontext(&contexts[self], &scheduler);
}
static na_span pages[2];

/* true: `value` was stored. */
static bool swap(const void *address, uint64_t initial, uint64_t *expected, uint64_t value, int order, int line) {
    yield(address);
    if ((address == &heap.pending || address == &heir.pending) && expected != NULL)
        plain(&((na_span *)(uintptr_t)value)->pending_next);
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
    append(at, value, &known, order);
    return true;
}

static uint64_t exchange(const void *address, uint64_t initial, uint64_t value, int order, int line) {
    yield(address);
    struct location *at = find(address, initial);
    uint64_t last = at->value[at->count - 1];
    view known = at->known[at->count - 1];
    order = order_at(line, order);
    if (acquires(order)) join(&views[self], &known);
    if (releases(order)) join(&known, &views[self]);
    append(at, value, &known, order);
    return last;
}

#undef atomic_load_explicit
#undef atomic_load
#undef atomic_store_explicit
#undef atomic_store
#undef atomic_exchange
#undef atomic_exchange_explicit
#undef atomic_compare_exchange_weak
#undef atomic_compare_exchange_weak_explicit
enum { REMOTE = 10000, ABANDONED = 20000, CACHE = 30000 };
#define BEFORE(at) (*(const volatile uint64_t *)(at))
#define LINE (SOURCE + __LINE__)
#define atomic_load_explicit(at, order) ((__typeof__(*(at) + 0))load(at, BEFORE(at), order, LINE))
#define atomic_store_explicit(at, value, order) store(at, BEFORE(at), (uint64_t)(value), order, LINE)
#define atomic_exchange_explicit(at, value, order)                                                                     \
    ((__typeof__(*(at) + 0))exchange(at, BEFORE(at), (uint64_t)(value), order, LINE))
#define atomic_compare_exchange_weak_explicit(at, expected, value, order, failure)                                     \
    swap(at, BEFORE(at), (uint64_t *)(expected), (uint64_t)(value), order, LINE)
#define atomic_compare_exchange_weak(at, expected, value)                                                              \
    atomic_compare_exchange_weak_explicit(at, expected, value, memory_order_seq_cst, memory_order_relaxed)
#define atomic_load(at) atomic_load_explicit(at, memory_order_seq_cst)
#define atomic_store(at, value) atomic_store_explicit(at, value, memory_order_seq_cst)
#define atomic_exchange(at, value) atomic_exchange_explicit(at, value, memory_order_seq_cst)
#define SOURCE REMOTE
#include "../src/heap/remote.c"
#undef SOURCE
#define SOURCE ABANDONED
#define push push_heap
#include "../src/heap/abandoned.c"
#undef SOURCE
#define SOURCE CACHE
#include "../src/large/cache.c"

/* What these sources call elsewhere. */
static void collect_of(na_heap *from);
na_options na_opt = {.purge_delay_ms = 1000};
uint64_t os_now_ms(void) { return 7; }
void na_caches_recount(na_heap *of) { (void)of; }
void na_heap_release(na_heap *of, uint64_t since) { (void)of, (void)since; }
void na_pages_gone_free(na_heap *of) { (void)of; }
void na_pages_retired_move(na_heap *from, na_heap *to) { (void)from, (void)to; }
na_list na_cache_detach(na_heap *of, unsigned class_index) { return (void)of, (void)class_index, 0; }
void na_cache_add(na_heap *of, unsigned class_index, na_list list, bool home) {
    (void)of, (void)class_index, (void)list, (void)home;
}
void na_heap_join(na_heap *to, na_span *page) { na_queue_append(&to->queue[0], page); }
void na_heap_collect(na_heap *of) { collect_of(of); }
void na_span_free_locked(na_region *of, na_span *freed, uint64_t since, bool reads_zero) {
    (void)of, (void)since, (void)reads_zero;
    plain(freed);
}
bool na_mixed_serves(const na_span *mixed, const na_placement *placement, size_t align) {
    return (void)mixed, (void)placement, (void)align, false;
}
void na_mixed_release(na_span *mixed, uint64_t since) { (void)mixed, (void)since; }

_Thread_local na_tls na_self = {NULL}; /* no slots: each free is pushed at once */
bool na_secure;                        /* off: na_seal is not called */
void na_seal(na_block *block, uint64_t value) { block->key = value; }

/* ---- threads ------------------------------------------------------------------------------------------------ */

static na_block blocks[3];
static int taken;
static na_span span;

static void frees(int first, int last) {
    for (int i = first; i <= last; i++) {
        plain(&blocks[i]);
        na_remote_free(&pages[i / 2], &blocks[i]);
    }
}

enum { PENDING_LINE = 1000000 };

/* As na_heap_collect does. */
static void collect_of(na_heap *from) {
    na_span *page = (na_span *)(uintptr_t)exchange(&from->pending, 0, 0, memory_order_acquire, PENDING_LINE);
    while (page != NULL) {
        plain(&page->pending_next);
        na_span *next = page->pending_next;
        na_heap *owner = (na_heap *)(uintptr_t)load(&page->heap, 0, memory_order_acquire, 0);
        if (owner != from) {
            page = na_remote_route(owner, page, next);
            continue;
        }
        uint32_t count;
        for (na_block *block = na_remote_take(page, &count); block != NULL; block = block->next) {
            plain(block);
            taken++;
        }
        page = next;
    }
}

static void collects(void) {
    for (int round = 0; round < 2; round++) collect_of(&heap);
}

static uint64_t last(const void *address) {
    const struct location *at = find(address, BEFORE(address));
    return at->value[at->count - 1];
}

/* What was freed last is in a list of the heap that has the page. */
static void no_page_is_lost(void) {
    for (int p = 0; p < 2; p++) {
        if ((last(&pages[p].remote) & QUEUED) == 0) continue;
        const na_heap *owner = (const na_heap *)(uintptr_t)last(&pages[p].heap);
        const na_span *page = (const na_span *)(uintptr_t)last(&owner->pending);
        while (page != NULL && page != &pages[p]) page = page->pending_next;
        if (page == NULL) wrong = "a page with remote frees is in no list";
    }
}

static void no_span_is_forgotten(void) {
    for (int slot = 0; slot < NA_SPAN_CACHE_SLOTS; slot++)
        if (last(&heap.spans.span[slot]) != 0 && last(&region.cached_since) == NA_NO_TIME)
            wrong = "a cached span is forgotten";
}

static void caches_a_span(void) {
    plain(&span);
    (void)na_span_cache_put(&region, &heap.spans, &span, 7);
}

static void frees_one(void) { frees(0, 0); }
static void frees_two(void) { frees(1, 2); }
static void adopts(void) { (void)na_heap_adopt_pages(&heir, 0); }
static void gives_back(void) { na_span_cache_release(&region, 9, UINT64_MAX); }
static void nothing(void) {}

static void start(int t) {
    static void (*const run[][THREADS])(void) = {
        [FREES] = {frees_one, frees_two, collects},
        [ADOPTION] = {frees_one, nothing, adopts},
        [CACHED] = {caches_a_span, nothing, gives_back},
    };
    run[scenario][t]();
    done[t] = 1;
    swapcontext(&contexts[t], &scheduler);
}

static void run_once(void) {
    static char stacks[THREADS][STACK];
    memset(views, 0, sizeof views);
    memset(done, 0, sizeof done);
    memset(pages, 0, sizeof pages);
    memset(&heap, 0, sizeof heap);
    memset(&heir, 0, sizeof heir);
    memset(&span, 0, sizeof span);
    memset(&region, 0, sizeof region);
    pthread_mutex_init(&region.lock, NULL);
    heap.region = heir.region = &region;
    region.caches = &heap.spans;
    *(na_heap **)&region.collected = &heap;
    *(uint64_t *)&region.cached_since = 5;
    span.slices = 2;
    memset(blocks, 0, sizeof blocks);
    location_count = steps = taken = 0;
    for (int p = 0; p < 2; p++) {
        pages[p].block_size = 64;
        *(na_heap **)&pages[p].heap = &heap;
        if (scenario == ADOPTION && p == 0) na_queue_append(&heap.queue[0], &pages[p]);
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
    if (wrong == NULL && scenario != CACHED) no_page_is_lost();
    if (wrong == NULL && scenario == CACHED) no_span_is_forgotten();
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
    static const char *const names[] = {"frees", "adoption", "cache"};
    int failed = 0;
    for (scenario = FREES; scenario <= CACHED; scenario++) {
        long runs = explore(most);
        printf("model_weak: %s as it is: %ld executions, %s\n", names[scenario], runs,
               wrong != NULL ? wrong : "no violation");
        failed |= wrong != NULL;
    }
    static const struct {
        const char *name, *text;
        int scenario, source, weaker;
        const char *also; /* weakened as well, where one of the two orders is enough */
    } mutants[] = {
        {"route without release", "page, memory_order_seq_cst", FREES, REMOTE, memory_order_acquire, NULL},
        {"push without release", "memory_order_acq_rel, memory_order_relaxed", FREES, REMOTE, memory_order_acquire,
         NULL},
        {"push without acquire", "memory_order_acq_rel, memory_order_relaxed", FREES, REMOTE, memory_order_release,
         NULL},
        {"take without release", "exchange_explicit(&page->remote", FREES, REMOTE, memory_order_acquire, NULL},
        {"take without acquire", "exchange_explicit(&page->remote", FREES, REMOTE, memory_order_release, NULL},
        {"pending without acquire", NULL, FREES, 0, memory_order_relaxed, NULL},
        {"route without acquire", "page, memory_order_seq_cst", ADOPTION, REMOTE, memory_order_release,
         "atomic_load(&page->heap) == heap"},
        {"adoption without acquire", "atomic_exchange(&other->pending", ADOPTION, ABANDONED, memory_order_release,
         NULL},
        {"adoption without release", "atomic_exchange(&other->pending", ADOPTION, ABANDONED, memory_order_acquire,
         "atomic_store(&page->heap, to)"},
        {"put without release", "atomic_store(&cache->span[slot], span)", CACHED, CACHE, memory_order_relaxed, NULL},
        {"put out of order", "atomic_store(&cache->span[slot], span)", CACHED, CACHE, memory_order_release, NULL},
        {"look at slots out of order", "atomic_load(&cache->span[slot]) == NULL", CACHED, CACHE, memory_order_acquire,
         NULL},
        {"look at the time out of order", "said = atomic_load(since)", CACHED, CACHE, memory_order_acquire, NULL},
        {"counting out of order", "cached_since, COUNTING)", CACHED, CACHE, memory_order_release, NULL},
    };
    for (size_t m = 0; m < sizeof mutants / sizeof mutants[0]; m++) {
        static const char *const sources[] = {"", "heap/remote.c", "heap/abandoned.c", "large/cache.c"};
        char line[512], path[4096];
        snprintf(path, sizeof path, "%s/%s", SOURCES, sources[mutants[m].source / REMOTE]);
        FILE *source = mutants[m].text != NULL ? fopen(path, "r") : NULL;
        weak_line[0] = mutants[m].text == NULL ? PENDING_LINE : 0;
        weak_line[1] = mutants[m].also == NULL ? -1 : 0;
        weak_order = mutants[m].weaker;
        for (int number = 1; source != NULL && fgets(line, sizeof line, source) != NULL; number++)
            for (int w = 0; w < 2; w++) {
                const char *text = w == 0 ? mutants[m].text : mutants[m].also;
                if (weak_line[w] == 0 && strstr(line, text) != NULL && strchr(line, '#') == NULL)
                    weak_line[w] = mutants[m].source + number;
            }
        if (source != NULL) fclose(source);
        scenario = mutants[m].scenario;
        long runs = explore(most);
        printf("model_weak: %s (line %d): %s after %ld executions\n", mutants[m].name, weak_line[0] % REMOTE,
               wrong != NULL ? "found" : "NOT FOUND", runs);
        failed |= wrong == NULL || weak_line[0] == 0 || weak_line[1] == 0;
    }
    return failed;
}
