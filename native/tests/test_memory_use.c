/* SPDX-License-Identifier: BSD-3-Clause */
/* test_memory_use [--full] [case...]: how much memory the process holds over time, as the system counts it: it stays
 * flat under streams of remote frees and of short threads, comes back, is kept when that is asked for, and grows beyond
 * what was prepared. Each case is a process of its own. Each fails when the feature it is about is taken out. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "numa_alloc.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 }; /* shadow memory, and threads' own, would be counted */
#else
enum { SANITIZED = 0 };
#endif

enum { MIB = 1 << 20 };
static bool full;

static numalloc_stats_t total(void) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    return stats;
}

/* MiB of memory the process has; what the allocator says where others hold much of it. */
static long resident(void) {
    if (SANITIZED) return (long)(total().committed_bytes / MIB);
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%*d %ld", &pages) == 1);
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE) / MIB;
}

static void sleep_ms(long ms) {
    struct timespec nap = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&nap, &nap) != 0) {}
}

/* Touches each page. */
static void touch(void *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 4096) ((volatile char *)p)[i] = 1;
}

/* ---- coalescing ---------------------------------------------------------------------------------------------------- */

/* NUMALLOC_RESERVE=64M: the addresses that fragments held must serve a large block, since there are no others. */
static void fragments_become_one(void) {
    static const size_t sizes[] = {200, 3000, 50000, 200000, 2 * MIB};
    static void *block[400000];
    for (int s = 0; s < 5; s++) {
        int n = 0;
        while (n < 400000 && (block[n] = numalloc(sizes[s])) != NULL) n++;
        CHECK_EQUAL(errno, ENOMEM);
        printf("%d blocks of %zu bytes\n", n, sizes[s]);
        CHECK((size_t)n * sizes[s] > 40 * MIB);
        void *large = numalloc(32 * MIB);
        CHECK(large == NULL);
        for (int i = 0; i < n; i += 2) numalloc_free(block[i]); /* first every other: no two neighbours */
        if (sizes[s] < MIB) CHECK((large = numalloc(32 * MIB)) == NULL);
        for (int i = 1; i < n; i += 2) numalloc_free(block[i]);
        (void)numalloc_purge(); /* empty pages that a heap keeps for the next block of its class */
        large = numalloc(32 * MIB);
        CHECK(large != NULL);
        touch(large, 32 * MIB);
        numalloc_free(large);
    }
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- remote frees ---------------------------------------------------------------------------------------------------- */

typedef struct item {
    struct item *next;
    uint64_t number, check;
} item;
enum { WAITING_MAX = 10000 };
static _Atomic(item *) inbox; /* newest first; taken whole */
static atomic_long sent, taken, damaged;
static atomic_bool held; /* nothing is consumed */

static void *consume(void *count) {
    uint64_t left = *(uint64_t *)count;
    while (left != 0) {
        item *list = atomic_load(&held) ? NULL : atomic_exchange(&inbox, NULL);
        if (list == NULL) {
            sched_yield();
            continue;
        }
        while (list != NULL) {
            item *next = list->next;
            if (list->check != ~list->number) atomic_fetch_add(&damaged, 1);
            numalloc_free(list);
            atomic_fetch_add_explicit(&taken, 1, memory_order_relaxed);
            left--;
            list = next;
        }
    }
    return NULL;
}

/* One thread only allocates, another only frees. What it grows from is what it needs when as many blocks wait as may:
 * how many do at another time is the scheduler's affair. */
static void a_stream_stays_flat(void) {
    uint64_t count = full ? 10000000 : SANITIZED ? 300000 : 2000000;
    pthread_t consumer;
    CHECK_EQUAL(pthread_create(&consumer, NULL, consume, &count), 0);
    long early = 0, late = 0;
    uint64_t committed_early = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (i == count / 20) atomic_store(&held, true);
        while (atomic_load_explicit(&sent, memory_order_relaxed) - atomic_load_explicit(&taken, memory_order_relaxed) >
               WAITING_MAX) {
            if (atomic_load(&held)) {
                early = resident();
                committed_early = total().committed_bytes;
                atomic_store(&held, false);
            }
            sched_yield();
        }
        item *it = numalloc(sizeof(item) + i % 7 * 48);
        CHECK(it != NULL);
        it->number = i;
        it->check = ~i;
        it->next = atomic_load(&inbox);
        while (!atomic_compare_exchange_weak(&inbox, &it->next, it)) {}
        atomic_fetch_add_explicit(&sent, 1, memory_order_relaxed);
    }
    late = resident();
    uint64_t committed_late = total().committed_bytes;
    pthread_join(consumer, NULL);
    CHECK_EQUAL(damaged, 0);
    CHECK(early != 0);
    printf("%llu blocks: %ld MiB -> %ld MiB\n", (unsigned long long)count, early, late);
    CHECK(committed_late <= committed_early + 6 * MIB); /* the stream is 150 bytes times count */
    CHECK(late <= early + 6);
    numalloc_cleanup();
    CHECK_EQUAL(total().allocated_bytes, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- threads that end -------------------------------------------------------------------------------------------------- */

enum { LEFT = 40, KEPT = 64 };
static void *left[KEPT][LEFT]; /* of the last threads */

static void *short_life(void *argument) {
    void **mine = argument;
    void *own[100];
    for (int i = 0; i < 100; i++) own[i] = numalloc((size_t)(i * 17 % 1500));
    for (int i = 0; i < LEFT; i++)
        if (mine != NULL) mine[i] = numalloc((size_t)(i * 53 % 4000));
    for (int i = 0; i < 100; i++) numalloc_free(own[i]);
    return NULL;
}

/* Most threads leave nothing; every fourth leaves blocks that another thread frees much later. */
static void threads_come_and_go(void) {
    int count = full ? 100000 : SANITIZED ? 1000 : 5000;
    long early = 0;
    uint64_t committed_early = 0;
    for (int i = 0; i < count; i++) {
        void **mine = NULL;
        if (i % 4 == 0) {
            mine = left[i / 4 % KEPT];
            for (int k = 0; k < LEFT; k++) {
                numalloc_free(mine[k]);
                mine[k] = NULL;
            }
        }
        pthread_t thread;
        CHECK_EQUAL(pthread_create(&thread, NULL, short_life, mine), 0);
        pthread_join(thread, NULL);
        if (i == count / 5) {
            early = resident();
            committed_early = total().committed_bytes;
        }
    }
    numalloc_stats_t stats = total();
    printf("%d threads: %ld MiB -> %ld MiB, %llu abandoned heaps\n", count, early, resident(),
           (unsigned long long)stats.abandoned_heaps);
    CHECK(stats.committed_bytes <= committed_early + 2 * MIB);
    CHECK(resident() <= early + 3);
    CHECK(stats.abandoned_heaps <= 4);
    for (int t = 0; t < KEPT; t++)
        for (int k = 0; k < LEFT; k++) numalloc_free(left[t][k]);
    numalloc_cleanup();
    CHECK_EQUAL(total().allocated_bytes, 0);
    CHECK_EQUAL(total().pages, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- blocks that were used before come first -------------------------------------------------------------------- */

static int by_address(const void *a, const void *b) {
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return (x > y) - (x < y);
}

/* A page that was just begun has room, but its memory is not there yet; the free blocks of older pages have theirs. */
static void used_blocks_come_before_fresh_ones(void) {
    static const size_t sizes[] = {48, 200, 1024, 2000, 9000, 40000};
    enum { MOST = 6000 };
    static uintptr_t seen[MOST];
    for (int s = 0; s < 6; s++) {
        size_t bytes = sizes[s] <= 1024 ? 1 << 16 : 1 << 19; /* of a page, at most */
        int in_page = (int)(bytes / sizes[s]), n = 4 * in_page + in_page / 4;
        CHECK(n <= MOST);
        for (int i = 0; i < n; i++) CHECK((seen[i] = (uintptr_t)numalloc(sizes[s])) != 0);
        for (int i = 0; i < 4 * in_page; i += 2) numalloc_free((void *)seen[i]);
        int again = 2 * in_page;
        static uintptr_t next[MOST];
        for (int i = 0; i < again; i++) CHECK((next[i] = (uintptr_t)numalloc(sizes[s])) != 0);
        qsort(seen, (size_t)n, sizeof *seen, by_address);
        int fresh = 0;
        for (int i = 0; i < again; i++) fresh += bsearch(&next[i], seen, (size_t)n, sizeof *seen, by_address) == NULL;
        printf("%zu bytes: %d of %d blocks were never used\n", sizes[s], fresh, again);
        CHECK(fresh <= (int)(4096 / sizes[s])); /* what was carved with the last one that was taken */
    }
}

/* ---- sparse classes -------------------------------------------------------------------------------------------------- */

enum { SPARSE_THREADS = 8 };
static pthread_barrier_t all_have;

static void *one_of_each_size(void *argument) {
    void *block[64];
    size_t *live = argument;
    int n = 0;
    for (size_t size = 16; size <= 65536; size += size / 64 * 16 + 16, n++) {
        CHECK(n < 64 && (block[n] = numalloc(size)) != NULL);
        memset(block[n], 1, size);
        *live += size;
    }
    pthread_barrier_wait(&all_have); /* to be measured */
    pthread_barrier_wait(&all_have);
    while (n-- > 0) numalloc_free(block[n]);
    return NULL;
}

/* Threads with a block or two of each class have pages of all of them, and hardly more memory than the blocks. */
static void sparse_classes_cost_little(void) {
    pthread_t thread[SPARSE_THREADS];
    static size_t live[SPARSE_THREADS];
    size_t sum = 0;
    long before = resident();
    pthread_barrier_init(&all_have, NULL, SPARSE_THREADS + 1);
    for (int i = 0; i < SPARSE_THREADS; i++)
        CHECK_EQUAL(pthread_create(&thread[i], NULL, one_of_each_size, &live[i]), 0);
    pthread_barrier_wait(&all_have);
    long held = resident() - before;
    pthread_barrier_wait(&all_have);
    for (int i = 0; i < SPARSE_THREADS; i++) {
        pthread_join(thread[i], NULL);
        sum += live[i];
    }
    printf("%zu KiB in blocks, %ld MiB held\n", sum / 1024, held);
    if (SANITIZED) return; /* only what the allocator has opened is known */
    /* A strict page has its memory from the start: 64 KiB of each small class, four blocks of each larger one. */
    bool strict = getenv("NUMALLOC_STRICT") != NULL;
    CHECK(held <= (long)(sum / MIB) + 1 + (strict ? SPARSE_THREADS * 5 : SPARSE_THREADS / 2));
}

/* ---- memory that comes back, or does not ---------------------------------------------------------------------------------- */

static void peak(size_t bytes) {
    enum { N = 300 };
    static void *block[N];
    for (int i = 0; i < N; i++) {
        size_t size = bytes / N;
        if (i % 3 == 0) size = bytes / N * 2;
        if (i % 3 == 1) size = 60000;
        CHECK((block[i] = numalloc(size)) != NULL);
        touch(block[i], size);
    }
    for (int i = 0; i < N; i++) numalloc_free(block[i]);
}

/* Threads of this process, or those with a name. */
static int threads_named(const char *name) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (const struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char path[300], text[64] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        FILE *file = fopen(path, "r");
        if (file == NULL) continue;
        if (fgets(text, sizeof text, file) != NULL) text[strcspn(text, "\n")] = '\0';
        fclose(file);
        count += task->d_name[0] != '.' && (name == NULL || strcmp(text, name) == 0);
    }
    closedir(tasks);
    return count;
}

/* NUMALLOC_PURGE_DELAY=200: a peak, then a program that does something else. The first calls after the delay return what
 * is due, or a thread does so before. */
static void idle_memory_returns(void) {
    bool asked = getenv("NUMALLOC_PURGER") == NULL;
    long before = resident();
    if (asked) CHECK_EQUAL(numalloc_purger(), 0);
    peak(300 * MIB);
    long high = resident(); /* most is gone already */
    CHECK(high <= before + 40);
    CHECK_EQUAL(threads_named("numalloc-purger"), asked);
    sleep_ms(300);
    if (!asked)
        for (int i = 0; i < 4; i++) numalloc_free(numalloc(200000)); /* any work on spans purges what is due */
    for (int i = 0; i < 200 && asked && threads_named(NULL) > 1; i++)
        sleep_ms(100); /* at once, but on a busy machine */
    long after = resident();
    printf("%ld MiB -> %ld MiB -> after a while %ld MiB\n", before, high, after);
    CHECK(after <= before + 8);
    CHECK_EQUAL(threads_named(NULL), 1);
}

/* NUMALLOC_PURGE_DELAY=never: what was registered with a network card stays. */
static void never_keeps(void) {
    long before = resident();
    peak(300 * MIB);
    sleep_ms(100);
    CHECK_EQUAL(numalloc_purge(), 0);
    numalloc_cleanup();
    numalloc_free(numalloc(200000));
    CHECK(resident() >= before + 200);
    CHECK(total().cached_bytes >= 200 * (uint64_t)MIB);
    CHECK_EQUAL(total().purged_bytes, 0);
}

/* ---- memory that fits nobody ------------------------------------------------------------------------------------------------ */

static void *touched(size_t bytes) {
    void *block = numalloc(bytes);
    CHECK(block != NULL);
    touch(block, bytes);
    return block;
}

/* 160 MiB at most are used; 80 of them become holes that are too short for what comes then. The blocks before have
 * earned what may be purged for it, which is no more than a part of what they took. */
static void holes_make_room(void) {
    enum { N = 8, HOLE = 20 * MIB, LONG = 60 * MIB, EARNING = 100 };
    uint64_t taken = 0;
    void *block[N];
    for (int i = 0; i < N; i++, taken += HOLE) block[i] = touched(HOLE);
    for (int i = 0; i < EARNING; i++, taken += HOLE) {
        numalloc_free(block[0]);
        block[0] = touched(HOLE);
    }
    CHECK_EQUAL(total().purged_bytes, 0); /* what fits again stays */
    for (int i = 0; i < N; i += 2) numalloc_free(block[i]);
    long before = resident();
    void *large = touched(LONG);
    taken += LONG;
    long after = resident();
    uint64_t purged = total().purged_bytes;
    printf("%ld MiB -> %ld MiB, %llu MiB returned\n", before, after, (unsigned long long)(purged / MIB));
    if (strcmp(getenv("NUMALLOC_PURGE_DELAY"), "never") == 0) {
        CHECK_EQUAL(purged, 0);
        CHECK(after >= before + LONG / MIB - 2);
    } else {
        CHECK(purged > 0);
        CHECK(after <= before + N * HOLE / MIB / 8 + 4);
    }
    numalloc_free(large);
    for (int i = 0; i < 1000; i++) { /* no two that follow each other fit the same hole */
        size_t bytes = i % 2 == 0 ? HOLE + 2 * MIB : LONG + 2 * MIB;
        numalloc_free(numalloc(bytes));
        taken += bytes;
    }
    CHECK(total().purged_bytes <= taken / 16);
    for (int i = 1; i < N; i += 2) numalloc_free(block[i]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- growth ------------------------------------------------------------------------------------------------------------- */

static void grows_beyond_the_pool(void) {
    CHECK_EQUAL(numalloc_init(MIB), 0);
    static void *block[1024];
    for (int i = 0; i < 256; i++) {
        CHECK((block[i] = numalloc(4 * MIB)) != NULL);
        touch(block[i], 4 * MIB);
    }
    CHECK(resident() >= 1024);
    CHECK(total().allocated_bytes >= (uint64_t)1024 * MIB);
    for (int i = 0; i < 256; i++) numalloc_free(block[i]);
    void *whole = numalloc((size_t)1024 * MIB);
    CHECK(whole != NULL);
    numalloc_free(whole);
    CHECK_EQUAL(numalloc_init(MIB), 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- starting --------------------------------------------------------------------------------------------------------------- */

static const struct check_case bodies[] = {
    {"fragments_become_one", fragments_become_one},
    {"a_stream_stays_flat", a_stream_stays_flat},
    {"threads_come_and_go", threads_come_and_go},
    {"used_blocks_come_before_fresh_ones", used_blocks_come_before_fresh_ones},
    {"sparse_classes_cost_little", sparse_classes_cost_little},
    {"idle_memory_returns", idle_memory_returns},
    {"never_keeps", never_keeps},
    {"holes_make_room", holes_make_room},
    {"grows_beyond_the_pool", grows_beyond_the_pool},
};

static void start(const char *environment, const char *body) {
    char command[512];
    snprintf(command, sizeof command, "%s \"$CHECK_SELF\" --body%s %s", environment, full ? "-full" : "", body);
    fflush(stdout);
    CHECK_EQUAL(system(command), 0);
}

static void coalescing(void) { start("NUMALLOC_RESERVE=64M", "fragments_become_one"); }
static void remote_frees(void) { start("", "a_stream_stays_flat"); }
static void thread_death(void) { start("", "threads_come_and_go"); }
static void reuse(void) { start("", "used_blocks_come_before_fresh_ones"); }
static void sparse(void) { start("", "sparse_classes_cost_little"); }
static void sparse_strict(void) { start("NUMALLOC_STRICT=1", "sparse_classes_cost_little"); }
static void idle(void) {
    start("NUMALLOC_PURGE_DELAY=200", "idle_memory_returns");
    start("NUMALLOC_PURGE_DELAY=200 NUMALLOC_PURGER=0", "idle_memory_returns");
}
static void never(void) { start("NUMALLOC_PURGE_DELAY=never", "never_keeps"); }
static void holes(void) { start("NUMALLOC_PURGE_DELAY=600000", "holes_make_room"); }
static void holes_never(void) { start("NUMALLOC_PURGE_DELAY=never", "holes_make_room"); }
static void growth(void) { start("", "grows_beyond_the_pool"); }

static const check_case cases[] = {
    {"coalescing", coalescing},
    {"remote_frees", remote_frees},
    {"thread_death", thread_death},
    {"reuse", reuse},
    {"sparse", sparse},
    {"sparse_strict", sparse_strict},
    {"idle", idle},
    {"never", never},
    {"holes", holes},
    {"holes_never", holes_never},
    {"growth", growth},
};

int main(int argc, char **argv) {
    if (argc == 3 && strncmp(argv[1], "--body", 6) == 0) {
        full = strcmp(argv[1], "--body-full") == 0;
        return check_main(bodies, sizeof bodies / sizeof bodies[0], argc - 1, argv + 1);
    }
    setenv("CHECK_SELF", argv[0], 1);
    if (argc > 1 && strcmp(argv[1], "--full") == 0) {
        full = true;
        argv[1] = argv[0];
        argc--;
        argv++;
    }
    return check_main(cases, sizeof cases / sizeof cases[0], argc, argv);
}
