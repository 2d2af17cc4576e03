/* SPDX-License-Identifier: BSD-3-Clause
 *
 * workloads.c: the work `hpcalloc bench alloc` times. Plain malloc and free, so that LD_PRELOAD decides which
 * allocator serves them; this program knows none.
 *
 *   workloads --list                         one line a workload: name, least threads, what it does
 *   workloads NAME [--threads N] [--scale S] runs it; one JSON line on standard output
 *
 * Every block carries a tag that is checked when it is freed; a wrong one ends the run with exit code 1. The
 * amount of work depends on S alone, is shared out among the threads, and is the same for every allocator:
 * sizes and order come from a fixed seed.
 *
 * Each thread is pinned to a CPU of its own, in the order of the CPUs the process may use (taskset chooses them), if
 * there are enough: the scheduler starts two threads on one core in some runs and on two in others, and looks again
 * only after milliseconds, which is as long as a short run takes. Threads that a workload starts stay with theirs.
 */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The version of pow that glibc had before 2.29 and still has, for wheels that run on older systems. */
#if defined __GLIBC__ && defined __x86_64__
__asm__(".symver pow, pow@GLIBC_2.2.5");
#elif defined __GLIBC__ && defined __aarch64__
__asm__(".symver pow, pow@GLIBC_2.17");
#endif

enum { THREADS_MAX = 256, CACHE_LINE = 64 };

typedef struct worker {
    _Alignas(CACHE_LINE) int index;
    int threads;
    uint64_t random;     /* state */
    uint64_t share;      /* operations to do */
    uint64_t operations; /* done: blocks allocated, resized or freed are one each pair */
    double began, ended; /* seconds; each by the thread itself, since the main thread may be waiting for a CPU */
} worker;

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint64_t next_random(worker *w) { /* xorshift64* (Vigna 2016) */
    w->random ^= w->random >> 12;
    w->random ^= w->random << 25;
    w->random ^= w->random >> 27;
    return w->random * UINT64_C(2685821657736338717);
}
static uint64_t below(worker *w, uint64_t limit) { return (next_random(w) >> 33) % limit; }
static double uniform(worker *w) { return (double)(next_random(w) >> 11) * 0x1p-53; }
static size_t log_uniform(worker *w, double least, double most) {
    return (size_t)(least * pow(most / least, uniform(w)));
}

/* ---- blocks with a tag -------------------------------------------------------------------------------- */

typedef struct block {
    struct block *next; /* free for the workload's use */
    uint64_t tag;       /* the size, mixed with the address */
} block;

static void fail(const char *what) {
    fprintf(stderr, "workloads: %s\n", what);
    exit(1);
}

static uint64_t tag_of(const void *b, size_t size) { return ((uint64_t)(uintptr_t)b * 31) ^ size; }

static block *marked(void *memory, size_t size) {
    block *b = memory;
    if (b == NULL) fail("out of memory");
    b->tag = tag_of(b, size);
    if (size > sizeof *b) ((char *)b)[size - 1] = (char)size;
    return b;
}

static block *make(size_t size) { return marked(malloc(size < sizeof(block) ? sizeof(block) : size), size); }

static void drop(block *b, size_t size) {
    if (b->tag != tag_of(b, size)) fail("a block lost its contents");
    if (size > sizeof *b && ((char *)b)[size - 1] != (char)size) fail("a block lost its last byte");
    free(b);
}

/* The size travels in the block where its freer can't know it. */
static block *make_sized(size_t size) {
    block *b = marked(malloc(size < sizeof(block) + 8 ? sizeof(block) + 8 : size), size);
    b->tag = size;
    return b;
}
static void drop_sized(block *b) {
    size_t size = b->tag;
    if (size == 0 || (size > sizeof *b && ((char *)b)[size - 1] != (char)size)) fail("a passed block is damaged");
    b->tag = 0;
    free(b);
}

static void touch(char *memory, size_t size) {
    for (size_t at = 0; at < size; at += 4096) memory[at] = (char)(at >> 12);
}

/* ---- one thread's work --------------------------------------------------------------------------------- */

static void pair(worker *w) {
    for (uint64_t i = 0; i < w->share; i++) {
        block *b = malloc(64);
        if (b == NULL) fail("out of memory");
        b->tag = i;
        __asm__ volatile("" ::"r"(b) : "memory");
        free(b);
    }
    w->operations = w->share;
}

/* Replaces a random slot: each size is what `size` gives. */
static void replace(worker *w, uint32_t slots, size_t (*size)(worker *)) {
    block **slot = calloc(slots, sizeof *slot);
    size_t *bytes = calloc(slots, sizeof *bytes);
    if (slot == NULL || bytes == NULL) fail("out of memory");
    for (uint64_t i = 0; i < w->share; i++) {
        uint32_t k = (uint32_t)below(w, slots);
        if (slot[k] != NULL) drop(slot[k], bytes[k]);
        bytes[k] = size(w);
        slot[k] = make(bytes[k]);
    }
    for (uint32_t k = 0; k < slots; k++)
        if (slot[k] != NULL) drop(slot[k], bytes[k]);
    free(slot);
    free(bytes);
    w->operations = w->share;
}

static size_t size_small(worker *w) { return 16 + below(w, 241); }
static size_t size_medium(worker *w) { return 1024 + below(w, 63 * 1024); }
/* Pareto with exponent 1.2 from 16 bytes, cut at 1 MiB: most are tiny, most bytes are in the few large. */
static size_t size_heavy(worker *w) {
    double size = 16.0 / pow(1.0 - uniform(w), 1.0 / 1.2);
    return size > 0x1p20 ? (size_t)1 << 20 : (size_t)size;
}

static void window(worker *w) { replace(w, 8192, size_small); }
static void window_wide(worker *w) { replace(w, 262144, size_small); }
static void medium(worker *w) { replace(w, 1024, size_medium); }
static void heavy_tail(worker *w) { replace(w, 4096, size_heavy); }

static void stacked(worker *w, bool last_in_first_out) {
    enum { DEPTH = 20000 };
    block **stack = malloc(DEPTH * sizeof *stack);
    size_t *bytes = malloc(DEPTH * sizeof *bytes);
    if (stack == NULL || bytes == NULL) fail("out of memory");
    for (uint64_t done = 0; done < w->share; done += DEPTH) {
        for (int i = 0; i < DEPTH; i++) stack[i] = make(bytes[i] = size_small(w));
        for (int i = 0; i < DEPTH; i++) {
            int k = last_in_first_out ? DEPTH - 1 - i : i;
            drop(stack[k], bytes[k]);
        }
        w->operations += DEPTH;
    }
    free(stack);
    free(bytes);
}
static void lifo(worker *w) { stacked(w, true); }
static void fifo(worker *w) { stacked(w, false); }

/* Vectors that grow by half, and a string that grows a little at a time, to 1 MiB. */
static void grow(worker *w) {
    enum { VECTORS = 16, LIMIT = 1 << 20 };
    while (w->operations < w->share) {
        char *vector[VECTORS] = {NULL};
        size_t size[VECTORS];
        for (int k = 0; k < VECTORS; k++) size[k] = 16 + below(w, 64);
        for (bool any = true; any;) {
            any = false;
            for (int k = 0; k < VECTORS; k++) {
                if (size[k] > LIMIT) continue;
                char before = vector[k] != NULL ? vector[k][0] : 7;
                vector[k] = realloc(vector[k], size[k]);
                if (vector[k] == NULL) fail("out of memory");
                if (w->operations > 0 && before != vector[k][0] && size[k] > 128) fail("realloc lost contents");
                vector[k][0] = 7;
                vector[k][size[k] - 1] = 7;
                size[k] += size[k] / 2;
                w->operations++;
                any = true;
            }
        }
        for (int k = 0; k < VECTORS; k++) free(vector[k]);
        char *text = NULL;
        for (size_t length = 0; length < LIMIT;) {
            size_t more = 256 + below(w, 1024);
            text = realloc(text, length + more);
            if (text == NULL) fail("out of memory");
            memset(text + length, (int)(length >> 8), more);
            length += more;
            w->operations++;
        }
        if (text[0] != 0) fail("realloc lost contents");
        free(text);
    }
}

static void zeroed(worker *w) {
    enum { SLOTS = 256 };
    uint64_t *slot[SLOTS] = {NULL};
    for (; w->operations < w->share; w->operations++) {
        int k = (int)below(w, SLOTS);
        free(slot[k]);
        size_t words = 2 + log_uniform(w, 1, 16384);
        slot[k] = calloc(words, sizeof **slot);
        if (slot[k] == NULL) fail("out of memory");
        if (slot[k][0] != 0 || slot[k][words / 2] != 0 || slot[k][words - 1] != 0) fail("calloc gave old contents");
        slot[k][0] = slot[k][words / 2] = slot[k][words - 1] = UINT64_MAX;
    }
    for (int k = 0; k < SLOTS; k++) free(slot[k]);
}

static void aligned(worker *w) {
    enum { SLOTS = 4096 };
    void **slot = calloc(SLOTS, sizeof *slot);
    if (slot == NULL) fail("out of memory");
    for (; w->operations < w->share; w->operations++) {
        size_t k = below(w, SLOTS), align = (size_t)32 << below(w, 8), size = 16 + below(w, 2000);
        free(slot[k]);
        if (posix_memalign(&slot[k], align, size) != 0) fail("out of memory");
        if ((uintptr_t)slot[k] % align != 0) fail("a block is not aligned");
        *(char *)slot[k] = 1;
    }
    for (int k = 0; k < SLOTS; k++) free(slot[k]);
    free(slot);
}

/* Arrays of a solver: a few live at a time, every page written. */
static void arrays(worker *w, int slots, double least, double most) {
    char *slot[16] = {NULL};
    for (; w->operations < w->share; w->operations++) {
        int k = (int)below(w, (uint64_t)slots);
        free(slot[k]);
        size_t size = log_uniform(w, least, most);
        slot[k] = malloc(size);
        if (slot[k] == NULL) fail("out of memory");
        touch(slot[k], size);
    }
    for (int k = 0; k < slots; k++) free(slot[k]);
}
static void large(worker *w) { arrays(w, 4, 0x1p20, 0x1p26); }
static void huge(worker *w) { arrays(w, 1, 0x1p27, 0x1p30); }

/* a*b+c with temporaries: two arrays of one size at a time, the sizes changing slowly. */
static void temporaries(worker *w) {
    while (w->operations < w->share) {
        size_t size = log_uniform(w, 0x1p16, 0x1p24);
        for (int i = 0; i < 20; i++, w->operations += 2) {
            char *product = malloc(size), *sum = malloc(size);
            if (product == NULL || sum == NULL) fail("out of memory");
            touch(product, size);
            touch(sum, size);
            free(product);
            free(sum);
        }
    }
}

/* Few long-lived blocks strewn among many short-lived ones, whose typical size changes with each phase. */
static void fragment(worker *w) {
    enum { LIVED = 20000, SHORT = 4000, PHASES = 8 };
    block **lived = calloc(LIVED, sizeof *lived), **brief = calloc(SHORT, sizeof *brief);
    size_t *lived_bytes = calloc(LIVED, sizeof *lived_bytes), *brief_bytes = calloc(SHORT, sizeof *brief_bytes);
    if (lived == NULL || brief == NULL || lived_bytes == NULL || brief_bytes == NULL) fail("out of memory");
    for (uint64_t i = 0; i < w->share; i++) {
        size_t typical = (size_t)24 << (i * PHASES / w->share);
        uint64_t k = below(w, SHORT);
        if (brief[k] != NULL) {
            uint64_t old = below(w, LIVED);
            if (below(w, 20) == 0) {
                if (lived[old] != NULL) drop(lived[old], lived_bytes[old]);
                lived[old] = brief[k];
                lived_bytes[old] = brief_bytes[k];
            } else {
                drop(brief[k], brief_bytes[k]);
            }
        }
        brief_bytes[k] = typical / 2 + below(w, typical) + 16;
        brief[k] = make(brief_bytes[k]);
    }
    for (int k = 0; k < LIVED; k++)
        if (lived[k] != NULL) drop(lived[k], lived_bytes[k]);
    for (int k = 0; k < SHORT; k++)
        if (brief[k] != NULL) drop(brief[k], brief_bytes[k]);
    free(lived), free(brief), free(lived_bytes), free(brief_bytes);
    w->operations = w->share;
}

/* ---- threads that pass blocks on ------------------------------------------------------------------------ */

typedef struct ring { /* of chains; one producer, one consumer */
    _Alignas(CACHE_LINE) _Atomic(uint32_t) head;
    _Alignas(CACHE_LINE) _Atomic(uint32_t) tail;
    _Alignas(CACHE_LINE) block *chain[64];
} ring;
static ring rings[THREADS_MAX];

static bool ring_try_push(ring *r, block *chain) {
    uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (head - atomic_load_explicit(&r->tail, memory_order_acquire) == 64) return false;
    r->chain[head % 64] = chain;
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
    return true;
}
static block *ring_try_pop(ring *r) {
    uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    if (atomic_load_explicit(&r->head, memory_order_acquire) == tail) return NULL;
    block *chain = r->chain[tail % 64];
    atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
    return chain;
}

enum { CHAIN = 100 };
static block *make_chain(worker *w) {
    block *chain = NULL;
    for (int i = 0; i < CHAIN; i++) {
        block *b = make_sized(24 + below(w, 233));
        b->next = chain;
        chain = b;
    }
    return chain;
}
static void drop_chain(block *chain) {
    while (chain != NULL) {
        block *next = chain->next;
        drop_sized(chain);
        chain = next;
    }
}

/* Even threads make, odd threads only free. */
static void producer_consumer(worker *w) {
    ring *r = &rings[w->index / 2];
    uint64_t chains = w->share * 2 / CHAIN;
    if (w->index % 2 == 0 && w->index + 1 == w->threads) { /* the odd one out does both */
        for (uint64_t i = 0; i < chains; i++) drop_chain(make_chain(w));
    } else if (w->index % 2 == 0) {
        for (uint64_t i = 0; i < chains; i++) {
            block *chain = make_chain(w);
            while (!ring_try_push(r, chain)) sched_yield();
        }
    } else {
        for (uint64_t i = 0; i < chains;) {
            block *chain = ring_try_pop(r);
            if (chain == NULL) {
                sched_yield();
                continue;
            }
            drop_chain(chain);
            i++;
        }
    }
    w->operations = w->share;
}

/* Each thread frees what the one before it made; all make and free. */
static void around(worker *w) {
    ring *out = &rings[w->index], *in = &rings[(w->index + w->threads - 1) % w->threads];
    uint64_t chains = w->share / CHAIN, sent = 0, received = 0;
    block *ready = NULL;
    while (sent < chains || received < chains) {
        bool moved = false;
        if (sent < chains) {
            if (ready == NULL) ready = make_chain(w);
            if (ring_try_push(out, ready)) {
                ready = NULL;
                sent++;
                moved = true;
            }
        }
        block *chain = received < chains ? ring_try_pop(in) : NULL;
        if (chain != NULL) {
            drop_chain(chain);
            received++;
            moved = true;
        }
        if (!moved) sched_yield();
    }
    w->operations = chains * CHAIN;
}

/* Blocks are swapped into a table all threads share, so that any thread frees any other's. */
enum { TABLE = 16384 };
static _Atomic(block *) table[TABLE];
static void all_to_all(worker *w) {
    for (; w->operations < w->share; w->operations++) {
        block *b = make_sized(24 + below(w, 489));
        b = atomic_exchange_explicit(&table[below(w, TABLE)], b, memory_order_acq_rel);
        if (b != NULL) drop_sized(b);
    }
}
static void all_to_all_end(void) {
    for (int i = 0; i < TABLE; i++) {
        block *b = atomic_exchange(&table[i], NULL);
        if (b != NULL) drop_sized(b);
    }
}

/* A server's connections: each thread replaces blocks at random, ends, and a successor goes on with them. */
typedef struct connection {
    worker w;
    block *slot[1000];
} connection;
static void *connection_run(void *argument) {
    connection *c = argument;
    for (int i = 0; i < 20000; i++) {
        uint64_t k = below(&c->w, 1000);
        if (c->slot[k] != NULL) drop_sized(c->slot[k]);
        c->slot[k] = make_sized(24 + below(&c->w, 977));
    }
    return NULL;
}
static void larson(worker *w) {
    connection *c = calloc(1, sizeof *c);
    if (c == NULL) fail("out of memory");
    c->w.random = w->random;
    for (; w->operations < w->share; w->operations += 20000) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, connection_run, c) != 0) fail("no thread");
        pthread_join(thread, NULL);
    }
    for (int k = 0; k < 1000; k++)
        if (c->slot[k] != NULL) drop_sized(c->slot[k]);
    free(c);
}

static void *brief_thread(void *argument) {
    (void)argument;
    block *kept[50];
    for (int i = 0; i < 50; i++) kept[i] = make((size_t)(16 + i * 8));
    for (int i = 0; i < 50; i++) drop(kept[i], (size_t)(16 + i * 8));
    return NULL;
}
static void churn(worker *w) {
    for (; w->operations < w->share; w->operations++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, brief_thread, NULL) != 0) fail("no thread");
        pthread_join(thread, NULL);
    }
}

/* ---- the list -------------------------------------------------------------------------------------------- */

static const struct workload {
    const char *name;
    void (*run)(worker *);
    void (*end)(void);
    int least_threads;
    double operations; /* at scale 1, of all threads */
    const char *what;
} list[] = {
    {"pair", pair, NULL, 1, 40e6, "malloc and free of 64 bytes, again and again"},
    {"window", window, NULL, 1, 12e6, "random one of 8,192 blocks of 16 to 256 bytes is replaced"},
    {"window-wide", window_wide, NULL, 1, 4e6, "the same with 262,144 blocks: cache misses"},
    {"lifo", lifo, NULL, 1, 16e6, "20,000 small blocks, freed last in first out"},
    {"fifo", fifo, NULL, 1, 16e6, "20,000 small blocks, freed first in first out"},
    {"medium", medium, NULL, 1, 5e6, "random one of 1,024 blocks of 1 to 64 KiB is replaced"},
    {"heavy-tail", heavy_tail, NULL, 1, 6e6, "Pareto sizes 16 bytes to 1 MiB, 4,096 live"},
    {"producer-consumer", producer_consumer, NULL, 2, 12e6, "one thread makes, another only frees"},
    {"around", around, NULL, 2, 12e6, "each thread frees what its neighbour made"},
    {"all-to-all", all_to_all, all_to_all_end, 2, 12e6, "any thread frees any other's, through a table"},
    {"larson", larson, NULL, 1, 8e6, "server: threads end and hand their blocks to successors"},
    {"churn", churn, NULL, 1, 20e3, "threads that live for 50 blocks"},
    {"grow", grow, NULL, 1, 300e3, "realloc grows vectors by half and a string by a little, to 1 MiB"},
    {"calloc", zeroed, NULL, 1, 1e6, "zeroed blocks of 16 bytes to 128 KiB"},
    {"aligned", aligned, NULL, 1, 8e6, "posix_memalign to 32 bytes .. 4 KiB"},
    {"temporaries", temporaries, NULL, 1, 80e3, "pairs of arrays of 64 KiB to 16 MiB, written, as in a*b+c"},
    {"large", large, NULL, 1, 6000, "arrays of 1 to 64 MiB, written"},
    {"huge", huge, NULL, 1, 60, "arrays of 128 MiB to 1 GiB, written"},
    {"fragment", fragment, NULL, 1, 6e6, "long-lived blocks among short-lived ones of changing size"},
};
enum { WORKLOADS = sizeof list / sizeof list[0] };

/* ---- running ------------------------------------------------------------------------------------------------ */

static const struct workload *chosen;
static pthread_barrier_t start;
static cpu_set_t usable; /* CPUs when the program began; none where the system doesn't tell */
static _Atomic(int) pinned;

static void pin(const worker *w) {
    if (w->threads > CPU_COUNT(&usable)) return;
    for (int cpu = 0, before = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &usable) || before++ != w->index) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (pthread_setaffinity_np(pthread_self(), sizeof one, &one) == 0) atomic_fetch_add(&pinned, 1);
    }
}

static void *run(void *argument) {
    worker *w = argument;
    pin(w);
    pthread_barrier_wait(&start);
    w->began = seconds_now();
    chosen->run(w);
    w->ended = seconds_now();
    return NULL;
}

/* Most memory this program held, in bytes. Not getrusage(): its figure starts at that of the parent. */
static uint64_t peak_resident(void) {
    char line[256];
    unsigned long long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    if (status == NULL) fail("/proc/self/status can't be read");
    while (fgets(line, sizeof line, status) != NULL && sscanf(line, "VmHWM: %llu kB", &kib) != 1) {}
    fclose(status);
    return kib * 1024;
}

static int usage(void) {
    fprintf(stderr, "usage: workloads --list | NAME [--threads N] [--scale S]\n");
    return 2;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (int i = 0; i < WORKLOADS; i++) printf("%s\t%d\t%s\n", list[i].name, list[i].least_threads, list[i].what);
        return 0;
    }
    if (argc < 2 || argc % 2 != 0) return usage();
    int threads = 1;
    double scale = 1.0;
    for (int i = 0; i < WORKLOADS; i++)
        if (strcmp(argv[1], list[i].name) == 0) chosen = &list[i];
    if (chosen == NULL) return usage();
    for (int i = 2; i + 1 < argc; i += 2) {
        char *end;
        if (strcmp(argv[i], "--threads") == 0) threads = (int)strtol(argv[i + 1], &end, 10);
        else if (strcmp(argv[i], "--scale") == 0) scale = strtod(argv[i + 1], &end);
        else return usage();
        if (*end != '\0') return usage();
    }
    if (threads < 1 || threads > THREADS_MAX || !(scale > 0.0)) return usage();
    if (threads < chosen->least_threads) threads = chosen->least_threads;

    static worker workers[THREADS_MAX];
    static pthread_t handles[THREADS_MAX];
    if (sched_getaffinity(0, sizeof usable, &usable) != 0) CPU_ZERO(&usable);
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        double share = ceil(chosen->operations * scale / threads);
        workers[i] = (worker){.index = i, .threads = threads, .share = (uint64_t)share};
        workers[i].random = UINT64_C(0x9e3779b97f4a7c15) * (uint64_t)(i + 1);
        if (pthread_create(&handles[i], NULL, run, &workers[i]) != 0) fail("no thread");
    }
    uint64_t operations = 0;
    double began = INFINITY, ended = 0.0;
    for (int i = 0; i < threads; i++) {
        pthread_join(handles[i], NULL);
        operations += workers[i].operations;
        began = fmin(began, workers[i].began);
        ended = fmax(ended, workers[i].ended);
    }
    if (chosen->end != NULL) chosen->end();
    printf("{\"workload\": \"%s\", \"threads\": %d, \"pinned\": %s, \"seconds\": %.9f, \"operations\": %llu, "
           "\"peak_bytes\": %llu}\n",
           chosen->name, threads, pinned == threads ? "true" : "false", ended - began, (unsigned long long)operations,
           (unsigned long long)peak_resident());
    return 0;
}
