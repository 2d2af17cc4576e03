/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_faults [--full]: each call of os.h fails in turn.
 *
 * A recorded run of a workload tells how often it makes each call. Then, for each call, each number of it and each
 * errno its contract allows, a fresh process runs the workload with that one call failing, and with all from that one
 * on. Without --full the first and the last number stand for all, and each variant tries one of three combinations of
 * number and way to fail: other ones for each errno, so that the variants together try all. The workload checks what it
 * is told by the allocator and what is in its blocks; then nothing fails any more, and all memory must be there to be
 * given back.
 *
 *   test_faults --run VARIANT: one run, with MACHINE_FAULT as machine.h says; what a failed line tells to do.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "machine.h"
#include "numa_alloc.h"

/* ---- the workload -------------------------------------------------------------------------------------------- */

enum { BLOCKS = 1500, SECONDS = 60 /* until a run counts as hung */ };

typedef struct block {
    unsigned char *p;
    size_t size;
} block;
static block blocks[BLOCKS];
static int count;

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "test_faults.c:%d: failed: %s (errno %d)\n", __LINE__, #condition, errno);                 \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* Few bytes of a large block, as many runs are made. */
static size_t stride(size_t size) { return size > 20000 ? 3571 : 13; }
static unsigned char pattern(const block *b, size_t i) { return (unsigned char)(b->size * 7 + i); }

static void fill(const block *b) {
    for (size_t i = 0; i < b->size; i += stride(b->size)) b->p[i] = pattern(b, i);
    if (b->size != 0) b->p[b->size - 1] = pattern(b, b->size - 1);
}

static bool intact(const block *b, size_t size) {
    for (size_t i = 0; i < b->size && i < size; i += stride(b->size))
        if (b->p[i] != pattern(b, i)) return false;
    return b->size == 0 || b->size > size || b->p[b->size - 1] == pattern(b, b->size - 1);
}

/* What numa_alloc.h allows a call to say. */
static bool errno_right(bool strict) {
    return errno == ENOMEM || (strict && (errno == EPERM || errno == ENOSYS)) || (errno == ENODEV);
}

/* Takes a block in, or its absence. */
static void *keep(void *p, size_t size, bool strict) {
    if (p == NULL) {
        REQUIRE(errno_right(strict));
        return NULL;
    }
    REQUIRE(numalloc_usable_size(p) >= size);
    REQUIRE(count < BLOCKS);
    blocks[count] = (block){p, size};
    fill(&blocks[count++]);
    return p;
}

static void *ask(int policy, size_t size, size_t align, unsigned flags, size_t stripe) {
    numalloc_request_t request = {
        .size = size, .align = align, .policy = policy, .flags = flags, .stripe = stripe, .node = 0};
    if (policy == NUMALLOC_ONNODE) request.node = numalloc_node_count() - 1;
    unsigned char *p = numalloc_request(&request);
    if (p != NULL && align != 0) REQUIRE((uintptr_t)p % align == 0);
    if (p != NULL && (flags & NUMALLOC_ZERO) != 0)
        for (size_t i = 0; i < size; i += 7) REQUIRE(p[i] == 0);
    return keep(p, size, (flags & NUMALLOC_STRICT) != 0);
}

static void release(int i) {
    REQUIRE(intact(&blocks[i], SIZE_MAX));
    numalloc_free(blocks[i].p);
    blocks[i] = blocks[--count];
}

static void grow(int i, size_t size) {
    block *b = &blocks[i];
    unsigned char *moved = numalloc_realloc(b->p, size);
    if (moved == NULL) {
        REQUIRE(errno_right(true));
        REQUIRE(intact(b, SIZE_MAX)); /* a failed realloc leaves the block alone */
        return;
    }
    block old = {moved, b->size};
    REQUIRE(intact(&old, size));
    *b = (block){moved, size};
    fill(b);
}

static void sizes_and_alignments(void) {
    for (int i = 0; i < 300; i++) keep(numalloc((size_t)(i * 37 % 3000)), (size_t)(i * 37 % 3000), false);
    for (int i = 0; i < 20; i++) keep(numalloc((size_t)(8000 + i * 2800)), (size_t)(8000 + i * 2800), false);
    static const size_t large[] = {70000, 300000, 1500000, 2200000};
    for (int i = 0; i < 4; i++) keep(numalloc(large[i]), large[i], false);
    for (size_t align = 32; align <= (size_t)4 << 20; align *= 8) {
        unsigned char *p = numalloc_aligned(align, align * 3 / 2);
        if (p != NULL) REQUIRE((uintptr_t)p % align == 0);
        keep(p, align * 3 / 2, false);
    }
    for (size_t size = 20; size < (size_t)3 << 20; size *= 9) {
        unsigned char *p = numalloc_calloc(3, size / 3);
        for (size_t i = 0; p != NULL && i < size / 3 * 3; i++) REQUIRE(p[i] == 0);
        keep(p, size / 3 * 3, false);
    }
}

static void policies(bool all) {
    static const size_t sizes[] = {40, 3000, 50000, 200000, (size_t)1100 << 10};
    for (int policy = NUMALLOC_LOCAL; all && policy <= NUMALLOC_BLOCKED; policy++)
        for (unsigned flags = 0; flags < 8; flags++)
            for (int s = (int)flags % 2; s < 5; s += 2)
                ask(policy, sizes[s], s == 3 ? 4096 : 0, flags, s == 3 ? 65536 : 0);
    for (int i = 0; i < 60 && count > 0; i++) release(count * 2 / 3); /* some of every kind, for warm and dirty reuse */
    for (unsigned flags = 0; flags < 8; flags += 2)
        for (int s = 2; s < 5; s++) ask(NUMALLOC_INTERLEAVE, sizes[s], 0, flags, 0);
    REQUIRE(numalloc_request(&(numalloc_request_t){.size = 64, .policy = NUMALLOC_ONNODE, .node = 1023}) == NULL);
}

static void reallocation(void) {
    int first = count;
    if (keep(numalloc(100), 100, false) == NULL || keep(numalloc(100), 100, false) == NULL) return;
    for (size_t size = 1000; size < (size_t)3 << 20; size = size * 5 / 2) /* in each other's way: by mremap */
        for (int i = 0; i < 2; i++) grow(first + i, size);
    grow(first, (size_t)2 << 20);
    grow(first + 1, 500);
    for (int i = 0; i < count; i += 17) grow(i, blocks[i].size + blocks[i].size / 2 + 10);
}

static void placement(void) {
    for (int i = count - 1; i >= 0 && i > count - 40; i -= 5) {
        block *b = &blocks[i];
        machine_room = i == count - 1 ? 0 : UINT64_MAX; /* enough for what is there already */
        int error = numalloc_prefault(b->p, b->size);
        machine_room = UINT64_MAX;
        REQUIRE(error == 0 || error == ENOMEM || error == EPERM || error == ENOSYS);
        static numalloc_page_counts_t counts;
        error = numalloc_page_nodes(b->p, b->size, &counts);
        REQUIRE(error == 0 || error == EPERM || error == ENOSYS || error == ENOMEM);
        size_t unmoved;
        error = numalloc_migrate(b->p, b->size, numalloc_node_count() - 1, &unmoved);
        REQUIRE(error == 0 || error == EPERM || error == ENOSYS || error == ENOMEM || error == ENODEV);
        REQUIRE(intact(b, SIZE_MAX));
    }
}

static block handed[200];

static void *makes(void *unused) {
    (void)unused;
    for (int i = 0; i < 200; i++) {
        size_t size = (size_t)(i * 91 % 9000);
        handed[i] = (block){numalloc(size), size};
        if (handed[i].p == NULL) REQUIRE(errno_right(false));
        else fill(&handed[i]);
    }
    for (int i = 0; i < 200; i += 3) {
        numalloc_free(handed[i].p);
        handed[i].p = NULL;
    }
    return NULL;
}

static void *takes(void *from) {
    for (int i = *(int *)from; i < 200; i += 2) {
        if (handed[i].p == NULL) continue;
        REQUIRE(intact(&handed[i], SIZE_MAX));
        numalloc_free(handed[i].p);
        handed[i].p = NULL;
        void *own = numalloc(300);
        if (own == NULL) REQUIRE(errno_right(false));
        numalloc_free(own);
    }
    return NULL;
}

static void threads(void) {
    for (int round = 0; round < 3; round++) {
        pthread_t thread[2];
        int from[2] = {0, 1};
        REQUIRE(pthread_create(&thread[0], NULL, makes, NULL) == 0);
        pthread_join(thread[0], NULL);
        for (int i = 0; i < 2; i++) REQUIRE(pthread_create(&thread[i], NULL, takes, &from[i]) == 0);
        for (int i = 0; i < 2; i++) pthread_join(thread[i], NULL);
    }
    makes(NULL);
    int all = 1;
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, takes, &all) == 0);
    pthread_join(thread, NULL);
    all = 0;
    takes(&all);
}

static void processes(void) {
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(SECONDS);
        while (count > 200) release(count - 1);
        numalloc_release_address_space();
        numalloc_free(numalloc((size_t)90 << 20));
        for (int i = 0; i < 30; i++) keep(numalloc((size_t)i * 5000), (size_t)i * 5000, false);
        while (count > 0) release(count - 1);
        REQUIRE(numalloc_verify() != EINVAL);
        (void)numalloc_purger();
        (void)numalloc_purge();
        _exit(0);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(SECONDS);
        if (freopen("/dev/null", "w", stderr) == NULL) _exit(1);
        void *p = numalloc(100);
        numalloc_free(p);
        numalloc_free(p == NULL ? &child : p); /* aborts */
        _exit(1);
    }
    REQUIRE(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void questions(void) {
    numalloc_stats_t stats;
    static char text[32768];
    int error = numalloc_stats(-1, &stats);
    REQUIRE(error == 0 || error == ENOMEM);
    int mode = -1;
    numalloc_nodemask_t nodes;
    error = numalloc_memory_policy_now(&mode, &nodes);
    REQUIRE(error == 0 || error == EPERM || error == ENOSYS);
    REQUIRE((error == 0) == (mode == 0)); /* MPOL_DEFAULT; untouched by an error */
    REQUIRE(numalloc_stats_json(text, sizeof text) > 0);
    numalloc_limits_t limits;
    error = numalloc_limits(&limits);
    REQUIRE(error == 0 || error == ENOMEM);
    numalloc_node_info_t info;
    for (int i = 0; i < numalloc_node_count(); i++) {
        error = numalloc_node_info(i, &info);
        REQUIRE(error == 0 || error == ENOMEM);
        error = numalloc_memory_policy(NUMALLOC_LOCAL, 0, NULL);
        REQUIRE(error == 0 || error == EPERM || error == ENOSYS || error == ENOMEM);
        error = numalloc_bind_thread(i);
        REQUIRE(error == 0 || error == ENODEV || error == EPERM || error == ENOMEM);
        (void)numalloc_distance(0, i);
        REQUIRE(numalloc_current_node() >= 0);
        keep(numalloc(1000), 1000, false);
    }
    error = numalloc_init((size_t)80 << 20);
    REQUIRE(error == 0 || errno_right(false) || error == ENOMEM || error == EPERM || error == ENOSYS);
    (void)numalloc_can_bind();
    (void)numalloc_can_query();
}

static long resident_kib(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
    if (file != NULL) fclose(file);
    return pages * 4;
}

static int run(void) {
    alarm(SECONDS);
    /* Threads of the C library take memory of their own at first; that is no leak. */
    for (int round = 0; round < 2; round++) {
        sizes_and_alignments();
        policies(round == 0);
        if (round == 0) questions();
        reallocation();
        placement();
        if (round == 0) threads();
        REQUIRE(numalloc_verify() != EINVAL); /* ENOMEM: not even the start was possible */
        for (int i = count - 1; i >= 0; i -= 2) release(i);
        (void)numalloc_purge();
    }
    processes();
    machine_heal();
    if (keep(numalloc(100), 100, false) == NULL) return 1; /* it works again */
    threads();
    while (count > 0) release(count - 1);
    for (int i = 0; i < 2; i++) (void)numalloc_purge();
    REQUIRE(numalloc_verify() == 0);
    numalloc_stats_t stats;
    REQUIRE(numalloc_stats(-1, &stats) == 0);
    REQUIRE(stats.allocated_bytes == 0);
    REQUIRE(stats.large_blocks == 0 && stats.large_bytes == 0 && stats.huge_bytes == 0);
    REQUIRE(stats.cached_bytes == 0);
    REQUIRE(stats.pages == 0);
    const char *text = getenv("TEST_COMMITTED");
    /* Address space that the kernel left in an unusable state is not used again. */
    const char *fault = getenv("MACHINE_FAULT");
    bool lost = fault != NULL && (strncmp(fault, "map_fresh", 9) == 0 || strncmp(fault, "map_hugetlb", 11) == 0);
    uint64_t slack = lost ? (uint64_t)64 << 20 : (uint64_t)256 << 10;
    if (text != NULL) REQUIRE(stats.committed_bytes <= strtoull(text, NULL, 10) + slack);
    text = getenv("TEST_RESIDENT");
    if (text != NULL) REQUIRE(resident_kib() <= atol(text) + 4096);
    fprintf(stderr, "end %llu %ld\n", (unsigned long long)stats.committed_bytes, resident_kib());
    for (int i = 0; i < MACHINE_COUNT; i++)
        fprintf(stderr, "call %s %llu\n", machine_name[i], (unsigned long long)machine_calls((enum machine_call)i));
    return 0;
}

enum { WORKERS = 2 }; /* processes that share the runs */

/* ---- running it ------------------------------------------------------------------------------------------------ */

static const char *self;

static const struct variant {
    const char *name, *environment[4];
} variants[] = {
    {"two-nodes", {"MACHINE_NODES=2"}},
    {"huge-pages", {"MACHINE_NODES=2", "NUMALLOC_HUGEPAGES=2M", "NUMALLOC_PURGE_DELAY=0"}},
    {"as-it-is", {"MACHINE_NODES=1", "NUMALLOC_RESERVE=2G"}},
    {"no-sysfs", {"MACHINE_NODES=0", "NUMALLOC_NODE_LIMIT=4G"}},
};
enum { VARIANTS = sizeof variants / sizeof variants[0] };

static const struct variant *next_variant;
static const char *next_fault;
static void start_anew(void) {
    for (int i = 0; i < 4 && next_variant->environment[i] != NULL; i++)
        putenv((char *)(uintptr_t)next_variant->environment[i]);
    if (next_fault != NULL) setenv("MACHINE_FAULT", next_fault, 1);
    execl(self, self, "--run", next_variant->name, (char *)NULL);
    _exit(127);
}

/* Runs the workload in a new process; what it wrote is in `text`. 0: good. */
static int launch(const struct variant *v, const char *fault, char *text, size_t capacity) {
    next_variant = v;
    next_fault = fault;
    return check_child(start_anew, text, capacity);
}

static char text[65536];
static int runs, failures, worker;
static uint64_t reached[MACHINE_COUNT];

static void try_fault(const struct variant *v, const char *fault) {
    if (runs++ % WORKERS != worker) return;
    int code = launch(v, fault, text, sizeof text);
    if (code == 0) return;
    failures++;
    printf("%s: %s: MACHINE_FAULT=%s %s --run %s\n  %s %d: %.300s\n", v->name, "FAILED", fault, self, v->name,
           code == 256 + SIGALRM ? "hung"
           : code > 256          ? "ended by signal"
                                 : "exit",
           code > 256 ? code - 256 : code, text);
    fflush(stdout);
}

static bool full;
static bool is_chosen(unsigned combination) { return full || combination % 3 == 0; }

static void check_variant(const struct variant *v) {
    const uint64_t at_most = full ? UINT64_MAX : 2;
    uint64_t calls[MACHINE_COUNT] = {0}, committed = 0;
    long resident = 0;
    int code = launch(v, NULL, text, sizeof text);
    if (code != 0) {
        printf("%s: FAILED without a fault: %d %s\n", v->name, code, text);
        failures++;
        return;
    }
    for (char *line = text; line != NULL && *line != '\0'; line = strchr(line, '\n'), line += line != NULL) {
        char name[32];
        unsigned long long number;
        if (sscanf(line, "end %llu %ld", &number, &resident) == 2) committed = number;
        if (sscanf(line, "call %31s %llu", name, &number) != 2) continue;
        for (int i = 0; i < MACHINE_COUNT; i++)
            if (strcmp(name, machine_name[i]) == 0) calls[i] = number;
    }
    char limit[64];
    snprintf(limit, sizeof limit, "%llu", (unsigned long long)committed);
    setenv("TEST_COMMITTED", limit, 1);
    snprintf(limit, sizeof limit, "%ld", resident);
    setenv("TEST_RESIDENT", limit, 1);
    for (int c = 0; c < MACHINE_COUNT; c++) {
        reached[c] += calls[c];
        for (int e = 0; machine_errors[c][e] != 0; e++) {
            uint64_t wanted = calls[c] < at_most ? calls[c] : at_most;
            for (uint64_t i = 0; i < wanted; i++) {
                uint64_t n = i + 1;
                if (wanted == 1) n = (calls[c] + 1) / 2;
                else if (wanted != calls[c]) /* evenly, the first and the last included; each errno at other numbers */
                    n = 1 + (calls[c] - 1) * i / (wanted - 1) + (i != 0 && i + 1 != wanted ? (uint64_t)e : 0);
                char fault[100];
                for (unsigned on = 0; on < 2; on++) {
                    if (!full && i == 1 && on == 1) continue; /* the last call alone is the same */
                    if (!is_chosen((unsigned)(v - variants) + (unsigned)e + 2 * (unsigned)i + on)) continue;
                    snprintf(fault, sizeof fault, "%s:%llu:%llu:%d", machine_name[c], (unsigned long long)n,
                             on ? ~0ULL : (unsigned long long)n, machine_errors[c][e]);
                    try_fault(v, fault);
                }
            }
        }
    }
    unsetenv("TEST_COMMITTED");
    unsetenv("TEST_RESIDENT");
}

/* Called by the modes that watch blocks alone, which the workload leaves off: their failures are looked at in
 * test_leaks, test_profile and test_guard. The last four can't fail. */
static const char *const of_watching[] = {"forbid",        "thread_id",   "process_id", "file_create",
                                          "file_open",     "file_write",  "file_read",  "file_close",
                                          "is_privileged", "policy_name", "nap",        "stay_loaded"};

/* machine.h knows every other function that os.h declares. */
static int check_names(void) {
    FILE *file = fopen(NA_OS_HEADER, "r");
    if (file == NULL) return 1;
    char line[512];
    int missing = 0;
    while (fgets(line, sizeof line, file) != NULL)
        for (char *at = line; (at = strstr(at, "os_")) != NULL; at += 3) {
            size_t length = strspn(at + 3, "abcdefghijklmnopqrstuvwxyz_");
            if (at[3 + length] != '(') continue;
            bool known = false;
            for (int i = 0; i < MACHINE_COUNT; i++)
                known |= strlen(machine_name[i]) == length && strncmp(machine_name[i], at + 3, length) == 0;
            for (size_t i = 0; i < sizeof of_watching / sizeof of_watching[0]; i++)
                known |= strlen(of_watching[i]) == length && strncmp(of_watching[i], at + 3, length) == 0;
            if (!known) {
                printf("os_%.*s of os.h is not in machine.h: FAILED\n", (int)length, at + 3);
                missing++;
            }
        }
    fclose(file);
    return missing;
}

int main(int argc, char **argv) {
    self = "/proc/self/exe";
    if (argc == 3 && strcmp(argv[1], "--run") == 0) return run();
    if (argc == 2 && strcmp(argv[1], "--full") == 0) {
        full = true;
    } else if (argc != 1) {
        fprintf(stderr, "usage: test_faults [--full]\n");
        return 2;
    }
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    failures += check_names();
    fflush(stdout);
    pid_t other = fork();
    worker = other == 0;
    for (int i = 0; i < VARIANTS; i++) check_variant(&variants[i]);
    if (other == 0) _exit(failures > 255 ? 255 : failures);
    int status = 0;
    if (other < 0 || waitpid(other, &status, 0) != other || !WIFEXITED(status)) failures++;
    failures += WEXITSTATUS(status);
    for (int c = 0; c < MACHINE_COUNT; c++)
        if (reached[c] == 0) {
            printf("os_%s is never reached by the workload: FAILED\n", machine_name[c]);
            failures++;
        }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("faults: %d functions of os.h, %d runs with failures injected, %.0f s, %d failed\n", MACHINE_COUNT, runs,
           (double)(end.tv_sec - start.tv_sec), failures);
    return failures == 0 ? 0 : 1;
}
