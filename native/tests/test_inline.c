/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_inline inline|calls: numa_alloc_inline.h from C and C++, against the static and the shared library. Linked with
 * --wrap=numalloc,--wrap=numalloc_free, so that the functions the header falls back to are counted: `inline` wants
 * next to none of them, `calls` (a mode that sees every block, or a header of another layout) wants every one.
 * Exit 1 when anything is wrong.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "numa_alloc_inline.h"

#ifdef __cplusplus
extern "C" {
#endif
void *__real_numalloc(size_t size);
void __real_numalloc_free(void *ptr);
void *__wrap_numalloc(size_t size);
void __wrap_numalloc_free(void *ptr);

static __thread unsigned long allocations, frees; /* that were calls */
void *__wrap_numalloc(size_t size) {
    allocations++;
    return __real_numalloc(size);
}
void __wrap_numalloc_free(void *ptr) {
    frees++;
    __real_numalloc_free(ptr);
}
#ifdef __cplusplus
}
#endif

/* The functions, which the compiler can't know. */
static void *(*volatile called)(size_t) = numalloc;
static void (*volatile free_called)(void *) = numalloc_free;

enum { PAIRS = 100000, SLOTS = 512 };
static int failures;

static void check(const char *what, int good) {
    if (!good) {
        printf("FAILED: %s (%lu allocations and %lu frees were calls)\n", what, allocations, frees);
        failures++;
    }
}

static unsigned char *bytes_of(void *p) { return (unsigned char *)p; }

/* Pairs of one constant size: this is what becomes a pop of a list and a push. */
static void pairs(int want_inline) {
    int i;
    allocations = frees = 0;
    for (i = 0; i < PAIRS; i++) {
        unsigned char *p = bytes_of(numalloc(64));
        p[0] = (unsigned char)i;
        p[63] = 1;
        numalloc_free(p);
    }
    if (want_inline) check("pairs are inline", allocations < PAIRS / 1000 && frees < PAIRS / 1000);
    else check("pairs are calls", allocations == PAIRS && frees == PAIRS);
}

static size_t some_size(unsigned long *state) {
    *state = *state * 6364136223846793005ul + 1442695040888963407ul;
    return (*state >> 33) % ((*state >> 20) % 16 == 0 ? 200000 : 2000);
}

/* Blocks of all sizes keep what is written to them, whichever of the two ways they came and go. */
static void contents(void) {
    static unsigned char *slot[SLOTS];
    static size_t size[SLOTS];
    unsigned long state = 1;
    int i, wrong = 0;
    for (i = 0; i < 20 * SLOTS; i++) {
        int k = (int)(some_size(&state) % SLOTS);
        if (slot[k] != NULL) {
            size_t at;
            for (at = 0; at < size[k]; at += 61) wrong += slot[k][at] != (unsigned char)(k + (int)size[k]);
            if (i % 3 != 0) numalloc_free(slot[k]);
            else free_called(slot[k]);
        }
        size[k] = some_size(&state);
        slot[k] = bytes_of(i % 5 != 0 ? numalloc(size[k]) : i % 2 ? called(size[k]) : numalloc_calloc(1, size[k]));
        if (slot[k] == NULL || (size_t)slot[k] % 16 != 0 || numalloc_usable_size(slot[k]) < size[k]) {
            wrong++;
            break;
        }
        memset(slot[k], k + (int)size[k], size[k]);
    }
    for (i = 0; i < SLOTS; i++) {
        numalloc_free(slot[i]);
        slot[i] = NULL;
    }
    check("contents are kept", wrong == 0);
    check("invariants hold", numalloc_verify() == 0);
}

/* Each class, from the other side: a block is of the size that its class has in the library. */
static void classes(void) {
    size_t size;
    int wrong = 0;
    for (size = 0; size <= 70000; size += size < 3000 ? 1 : 61) {
        numalloc_block_info_t info;
        void *p = numalloc(size), *q = numalloc(size), *r = called(size);
        size_t usable = numalloc_usable_size(r);
        wrong += numalloc_usable_size(q) != usable || numalloc_block_info(p, &info) != 0 || info.start != p;
        numalloc_free(p);
        numalloc_free(r);
        p = numalloc(size); /* one that was just freed, inline */
        wrong += p == q || numalloc_usable_size(p) != usable;
        numalloc_free(p);
        numalloc_free(q);
    }
    check("classes are the library's", wrong == 0);
}

static void *blocks[SLOTS];
static void *another_thread(void *unused) {
    int i;
    for (i = 0; i < SLOTS; i++) numalloc_free(blocks[i]); /* before and after its first allocation */
    for (i = 0; i < SLOTS; i++) {
        blocks[i] = numalloc(48);
        memset(blocks[i], 1, 48);
    }
    return unused;
}
static void threads(void) {
    int i, round;
    for (round = 0; round < 50; round++) {
        pthread_t thread;
        for (i = 0; i < SLOTS; i++) {
            blocks[i] = numalloc((size_t)(i % 700) + 1);
            memset(blocks[i], 2, (size_t)(i % 700) + 1);
        }
        if (pthread_create(&thread, NULL, another_thread, NULL) != 0) exit(2);
        pthread_join(thread, NULL);
        for (i = 0; i < SLOTS; i++) numalloc_free(blocks[i]);
    }
    check("invariants hold with threads", numalloc_verify() == 0);
}

/* A thread that moves allocates on its new node at once, with what it freed on the old one still in reach. */
static void nodes(void) {
    int ids[NUMALLOC_MAX_NODES], all = numalloc_node_ids(ids, NUMALLOC_MAX_NODES), count = 0, i, round, wrong = 0;
    numalloc_node_info_t info;
    for (i = 0; i < all; i++) /* those with CPUs */
        if (numalloc_node_info(ids[i], &info) == 0 && info.cpus != 0) ids[count++] = ids[i];
    for (round = 0; round < 4 * count; round++) {
        int node = ids[round % count];
        wrong += numalloc_bind_thread(node) != 0;
        for (i = 0; i < 100; i++) {
            void *p = numalloc(96), *q = numalloc(96);
            wrong += numalloc_node_of(p) != node || numalloc_node_of(q) != node;
            numalloc_free(p);
            numalloc_free(q);
        }
    }
    check("blocks are on the node where the thread is", wrong == 0);
}

/* A member of another library that has the same name. */
static struct {
    size_t (*numalloc)(size_t);
    void (*numalloc_free)(void *);
} others;
static size_t twice(size_t value) { return 2 * value; }

static void odd_calls(void) {
    volatile size_t most = (size_t)-1;
    void *(*function)(size_t) = &numalloc;
    void *p = function(10);
    check("the name without parentheses is the function", p != NULL);
    others.numalloc = twice;
    others.numalloc_free = numalloc_free;
    check("a member of that name is the member", others.numalloc(3) == 6);
    others.numalloc_free(p);
    numalloc_free(NULL);
    check("sizes out of reach are NULL", numalloc(most) == NULL && numalloc(most - 15) == NULL);
}

static void *hidden(void *p) {
    __asm__ volatile("" : "+r"(p));
    return p;
}

/* A child that frees twice, or what is not ours, has to end by SIGABRT. */
static void refused(const char *what, int foreign) {
    int status = 0, local = 0;
    pid_t child = fork();
    if (child == 0) {
        void *p = numalloc(64);
        if (freopen("/dev/null", "w", stderr) == NULL) _exit(3);
        numalloc_free(foreign ? hidden(&local) : p);
        numalloc_free(hidden(p));
        _exit(0);
    }
    check(what, child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status));
}

/* A child of fork() has what another thread had stored between two instructions. Blocks that were never handed out are
 * zero, and are not zeroed again while no block was freed to their cache: so a free has to count before the block can be
 * had. Step by step, with a signal after each instruction. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
static numalloc_inline_cache_t *volatile stepped;
static void *volatile dirty;
static volatile int steps, torn;
static void step(int unused) {
    (void)unused;
    steps = steps + 1;
    torn = torn + (stepped->top == dirty && stepped->virgin == stepped->frees);
}
static void set_stepping(int on) {
    unsigned long flags;
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; popq %0; lea 128(%%rsp), %%rsp" : "=r"(flags)::"memory");
    flags = on ? flags | 0x100ul : flags & ~0x100ul;
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushq %0; popfq; lea 128(%%rsp), %%rsp" ::"r"(flags) : "memory", "cc");
}
static void cuts(void (*function)(void *), size_t size) {
    struct sigaction action;
    void *p = numalloc(size);
    memset(&action, 0, sizeof action);
    action.sa_handler = step;
    sigaction(SIGTRAP, &action, NULL);
    stepped = &numalloc_inline_self.cache[numalloc_inline_class(size)];
    dirty = memset(p, 1, size);
    steps = torn = 0;
    check("a cache of blocks that are zero", stepped->virgin == stepped->frees);
    set_stepping(1);
    if (function == NULL) numalloc_free(p);
    else function(p);
    set_stepping(0);
    check("a free goes by steps", steps > 10 && stepped->top == dirty && stepped->virgin != stepped->frees);
    check("a freed block is at no time taken for one that is zero", torn == 0);
}
static void no_cut_shows_dirty_blocks(void) {
    cuts(NULL, 700);
    cuts(numalloc_free, 900);
}
#else
static void no_cut_shows_dirty_blocks(void) {}
#endif

int main(int argc, char **argv) {
    int want_inline = argc == 2 && strcmp(argv[1], "inline") == 0;
    numalloc_stats_t stats;
    if (argc != 2 || (!want_inline && strcmp(argv[1], "calls") != 0)) return 2;
    numalloc_free(numalloc(1)); /* before it the thread has no heap */
    if (want_inline) no_cut_shows_dirty_blocks();
    pairs(want_inline);
    contents();
    classes();
    threads();
    if (numalloc_node_count() > 1) nodes();
    pairs(want_inline);
    odd_calls();
    refused("a second free is refused", 0);
    refused("a foreign free is refused", 1);
    numalloc_cleanup();
    check("nothing is left", numalloc_stats(-1, &stats) == 0 && stats.allocated_bytes == 0);
    printf("%s: %s\n", argv[1], failures == 0 ? "ok" : "FAILED");
    return failures != 0;
}
