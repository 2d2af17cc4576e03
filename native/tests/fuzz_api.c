/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fuzz_api: bytes become a sequence of calls of the public API, on a made-up machine of two nodes whose system calls
 * may be told to fail (machine.h). For libFuzzer; with FUZZ_REPLAY a program of its own:
 *
 *   fuzz_api FILE...                     runs inputs that were found
 *   fuzz_api --seconds S [--seed X]      runs random ones; a wrong one is written to fuzz-input
 *
 * A table of slots shadows every block: its size, home and contents. Blocks are allocated, resized and freed by the
 * thread that runs the input, by a second one that lives on, and by short ones. Everything is freed at an input's end,
 * so one input does not depend on what ran before, but for the state of the warm memory.
 *
 * What is wrong ends the program by abort().
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include <stdio.h>
#include <string.h>

#include "api/api.h"
#include "machine.h"
#include "space/space.h"

int machine_nodes = 2;
bool machine_quiet = true;

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "fuzz_api.c:%d: failed: %s (errno %d)\n", __LINE__, #condition, errno);                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* ---- the input ---------------------------------------------------------------------------------------------------- */

static const uint8_t *input;
static size_t input_left;

static unsigned byte(void) {
    if (input_left == 0) return 0;
    input_left--;
    return *input++;
}
static unsigned two_bytes(void) {
    unsigned low = byte();
    return low | byte() << 8;
}

/* From all 64 bits. What could be had is made short, as strict requests and calloc() would touch it all. */
static size_t any_size(void) {
    size_t size = ((size_t)1 << byte() % 64) + ((size_t)two_bytes() << byte() % 48) - byte() % 3;
    return size <= na_size_max ? size % (4u << 20) : size;
}

/* Mostly small; also around powers of two and classes, large, and impossible. */
static size_t some_size(void) {
    unsigned kind = byte();
    switch (kind % 8) {
    case 0:
    case 1: return byte();
    case 2: return byte() * (size_t)16 + byte() % 3 - 1;
    case 3: return two_bytes();
    case 4: return ((size_t)1 << byte() % 23) + byte() % 3 - 1;
    case 5: return (size_t)two_bytes() << 6;
    case 6: return ((size_t)(byte() % 64) << 16) + byte() % 3 - 1;
    default:
        if (kind < 240) return class_to_size(byte() % NA_CLASSES) + byte() % 3 - 1;
        return any_size();
    }
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

enum { SLOTS = 64, LIVE_MAX = 96 << 20 };
static struct slot {
    unsigned char *p;
    size_t size;
    uint8_t seed;
    bool helpers; /* allocated by another thread */
} slots[SLOTS];
static size_t live;   /* bytes asked for */
static bool may_fail; /* a system call was told to, or there is a limit */
static uint8_t seed_next;

static size_t stride(size_t size) { return size > 8192 ? 1021 : 1; }
static unsigned char pattern(uint8_t seed, size_t i) { return (unsigned char)(seed * 31 + i); }

static void check_range(const struct slot *s, const unsigned char *p, size_t size) {
    for (size_t i = 0; i < size; i += stride(s->size)) REQUIRE(p[i] == pattern(s->seed, i));
    if (size == s->size && size != 0) REQUIRE(p[size - 1] == pattern(s->seed, size - 1));
}
static void check_slot(const struct slot *s) {
    if (s->p == NULL) return;
    check_range(s, s->p, s->size);
    REQUIRE(numalloc_usable_size(s->p) >= s->size);
    numalloc_block_info_t info;
    REQUIRE(numalloc_block_info(s->p + s->size / 2, &info) == 0);
    REQUIRE(info.start == s->p && info.size >= s->size);
}

static void set_slot(struct slot *s, unsigned char *p, size_t size) {
    s->p = p;
    s->size = size;
    s->seed = seed_next++;
    for (size_t i = 0; i < size; i += stride(size)) p[i] = pattern(s->seed, i);
    if (size != 0) p[size - 1] = pattern(s->seed, size - 1);
    live += size;
}

/* The result of an allocation; `good` are the errnos it may have beside ENOMEM. */
static void take(struct slot *s, void *p, size_t size, size_t align, bool strict) {
    if (p == NULL) {
        REQUIRE(errno == ENOMEM || errno == ENODEV || (strict && (errno == EPERM || errno == ENOSYS)));
        REQUIRE(may_fail || size > na_size_max || size + align > (size_t)1 << (na_shift - 1));
        return;
    }
    REQUIRE(size <= PTRDIFF_MAX && (uintptr_t)p % (align > 16 ? align : 16) == 0);
    if (live + size > LIVE_MAX) { /* kept no longer than this */
        numalloc_free(p);
        return;
    }
    set_slot(s, p, size);
}

static void free_slot(struct slot *s) {
    if (s->p == NULL) return;
    check_slot(s);
    live -= s->size;
    numalloc_free(s->p);
    s->p = NULL;
}

/* ---- other threads ------------------------------------------------------------------------------------------------- */

static sem_t wanted, done;
static void *to_free[SLOTS];
static int to_free_count;
static size_t to_allocate;
static void *allocated;
static int allocate_errno;
static bool to_purge;

static void do_work(void) {
    for (int i = 0; i < to_free_count; i++) numalloc_free(to_free[i]);
    to_free_count = 0;
    if (to_purge) (void)numalloc_purge();
    to_purge = false;
    if (to_allocate == 0) return;
    allocated = numalloc(to_allocate - 1);
    allocate_errno = errno;
    to_allocate = 0;
}

static void *short_thread(void *unused) {
    do_work();
    return unused;
}

static void *helper(void *unused) {
    for (;;) {
        while (sem_wait(&wanted) != 0) {}
        do_work();
        sem_post(&done);
    }
    return unused;
}

/* Lets another thread free the blocks of some slots and allocate one. */
static void elsewhere(struct slot *s, bool in_short_thread) {
    to_free_count = 0;
    unsigned step = byte() % 7 + 1, from = byte();
    for (unsigned i = from % SLOTS; i < SLOTS && to_free_count < (int)(from % 13); i += step) {
        if (slots[i].p == NULL) continue;
        check_slot(&slots[i]);
        live -= slots[i].size;
        to_free[to_free_count++] = slots[i].p;
        slots[i].p = NULL;
    }
    size_t size = 0;
    if (s->p == NULL) to_allocate = (size = two_bytes()) + 1;
    allocated = NULL;
    bool asked = to_allocate != 0;
    if (in_short_thread) {
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, short_thread, NULL) == 0);
        pthread_join(thread, NULL);
    } else {
        static bool running;
        if (!running) {
            pthread_t thread;
            sem_init(&wanted, 0, 0);
            sem_init(&done, 0, 0);
            REQUIRE(pthread_create(&thread, NULL, helper, NULL) == 0);
            pthread_detach(thread);
            running = true;
        }
        sem_post(&wanted);
        while (sem_wait(&done) != 0) {}
    }
    errno = allocate_errno;
    if (asked) take(s, allocated, size, 0, na_opt.strict);
}

/* ---- the calls ------------------------------------------------------------------------------------------------------ */

static void request(struct slot *s) {
    unsigned flags = byte(), shape = byte();
    numalloc_nodemask_t mask = {{1 + flags / 8 % 3}};
    numalloc_request_t r = {.policy = (int)(shape % 8), .flags = flags % 8, .node = (int)(flags / 64 % 2)};
    r.size = some_size();
    if (r.flags != 0 && r.size > (4u << 20) && r.size <= na_size_max) r.size %= 4u << 20; /* they touch it all */
    if (shape & 8) r.align = (size_t)1 << byte() % 24;
    if (shape & 16) r.nodes = &mask;
    if (shape & 32) r.stripe = two_bytes() * (size_t)64;
    bool strict = (r.flags & NUMALLOC_STRICT) != 0 || na_opt.strict;
    if (shape >= 250) { /* not to be had */
        if (shape & 1) r.policy = NUMALLOC_KIND_CAPACITY + 1 + (int)byte();
        else r.flags |= 8u << byte() % 8;
        void *p = numalloc_request(&r);
        REQUIRE(p == NULL && (errno == EINVAL || errno == ENOMEM));
        return;
    }
    unsigned char *p = numalloc_request(&r);
    if (p == NULL && errno == EINVAL) {
        REQUIRE(r.policy == NUMALLOC_BLOCKED && r.stripe != 0); /* too many pieces */
        return;
    }
    if (p == NULL && errno == ENODATA) {
        REQUIRE(r.policy >= NUMALLOC_WEIGHTED); /* the machine tells nothing of its nodes */
        return;
    }
    if (p != NULL && r.size <= LIVE_MAX) {
        if ((r.flags & NUMALLOC_ZERO) != 0)
            for (size_t i = 0; i < r.size; i += i < 64 ? 1 : stride(r.size)) REQUIRE(p[i] == 0);
        if (r.policy == NUMALLOC_ONNODE && !may_fail) REQUIRE(numalloc_node_of(p) == r.node);
        numalloc_block_info_t info;
        REQUIRE(numalloc_block_info(p, &info) == 0 && (info.flags == NUMALLOC_STRICT) == strict);
    }
    take(s, p, r.size, r.align, strict);
}

static void reallocate(struct slot *s) {
    size_t size = some_size();
    if (s->p == NULL) {
        take(s, numalloc_realloc(NULL, size), size, 0, na_opt.strict);
        return;
    }
    check_slot(s);
    if (live + size > LIVE_MAX && size <= na_size_max) size %= 100000;
    unsigned char *moved = numalloc_realloc(s->p, size);
    if (size == 0) {
        REQUIRE(moved == NULL);
        live -= s->size;
        s->p = NULL;
    } else if (moved == NULL) {
        REQUIRE(errno == ENOMEM || errno == ENODEV || errno == EPERM || errno == ENOSYS);
        check_slot(s);
    } else {
        REQUIRE(numalloc_usable_size(moved) >= size);
        check_range(s, moved, size < s->size ? size : s->size);
        live -= s->size;
        set_slot(s, moved, size);
    }
}

static void reads_zero(struct slot *s) {
    size_t count = byte() % 5 == 0 ? some_size() : 1, size = some_size(), bytes;
    if (!__builtin_mul_overflow(count, size, &bytes) && bytes > LIVE_MAX / 8) count = 1;
    unsigned char *p = numalloc_calloc(count, size);
    if (__builtin_mul_overflow(count, size, &bytes)) {
        REQUIRE(p == NULL && errno == ENOMEM);
        return;
    }
    if (p != NULL && bytes <= LIVE_MAX)
        for (size_t i = 0; i < bytes; i += i < 64 ? 1 : stride(bytes)) REQUIRE(p[i] == 0);
    take(s, p, bytes, 0, na_opt.strict);
}

/* Frees that are none: each is one message, and changes nothing. */
static void misuse(struct slot *s) {
    static char foreign[64];
    char local[64];
    void *bad = NULL;
    switch (byte() % 6) {
    case 0: bad = local + byte() % 64; break;
    case 1: bad = foreign + byte() % 64; break;
    case 2: /* twice, at once */
        if (s->p == NULL) return;
        bad = s->p;
        free_slot(s);
        break;
    case 3: /* within a large block */
        if (s->p == NULL || s->size <= NA_BLOCK_MAX) return;
        bad = s->p + 1 + two_bytes();
        break;
    case 4: bad = (void *)(na_regions[byte() % (unsigned)na_region_count].base + two_bytes()); break;
    default: bad = (void *)(na_regions[byte() % (unsigned)na_region_count].part[1].limit - 1 - two_bytes());
    }
    uint64_t before = machine_calls(MACHINE_message);
    if (byte() % 4 == 0) {
        void *p = numalloc_realloc(bad, 100);
        REQUIRE(p == NULL && errno == EINVAL);
    } else {
        errno = 77;
        numalloc_free(bad);
        REQUIRE(errno == 77);
    }
    REQUIRE(machine_calls(MACHINE_message) == before + 1);
    REQUIRE(numalloc_usable_size(bad) == 0 || s->p != NULL);
}

static void ask_machine(void) {
    int ids[4], node = (int)(byte() % 4);
    numalloc_node_info_t info;
    numalloc_stats_t stats;
    static char text[20000];
    REQUIRE(numalloc_node_count() == 2 && numalloc_node_ids(ids, 4) == 2);
    int error = numalloc_node_info(node, &info);
    REQUIRE((error == 0) == (node < 2) || may_fail);
    REQUIRE((numalloc_distance(0, node) > 0) == (node < 2));
    REQUIRE((numalloc_stats(node, &stats) == 0) == (node < 2));
    REQUIRE(numalloc_stats(-1, &stats) == 0 && stats.allocated_bytes >= live);
    size_t length = numalloc_stats_json(text, sizeof text), some = byte() * (size_t)8;
    REQUIRE(length < sizeof text && text[length - 1] == '}');
    text[some] = 'x';
    (void)numalloc_stats_json(text, some);
    REQUIRE(text[some] == 'x');
    REQUIRE(numalloc_current_node() < 2);
    error = numalloc_bind_thread(node);
    REQUIRE(error == 0 || error == ENODEV || may_fail);
    REQUIRE((numalloc_can_bind() == 0 && numalloc_can_query() == 0) || may_fail);
    (void)numalloc_init((size_t)1 << 24);
}

static void ask_about(struct slot *s) {
    if (s->p == NULL) return;
    static numalloc_page_counts_t counts;
    size_t from = s->size == 0 ? 0 : two_bytes() % s->size, length = s->size - from, unmoved;
    if (length > 2u << 20) length = 2u << 20;
    int error = numalloc_page_nodes(s->p + from, length, &counts);
    REQUIRE(error == 0 || may_fail);
    error = numalloc_prefault(s->p + from, length);
    REQUIRE(error == 0 || may_fail);
    error = numalloc_migrate(s->p + from, length, (int)(byte() % 3), &unmoved);
    REQUIRE(error == 0 || error == ENODEV || may_fail);
    int node = numalloc_node_of(s->p);
    REQUIRE(node == 0 || node == 1 || node == NUMALLOC_NODE_MIXED);
    check_slot(s);
}

static void fail_soon(void) {
    enum machine_call call = (enum machine_call)(byte() % MACHINE_COUNT);
    unsigned number = byte() % 16 + 1, which = byte();
    int errors = 0;
    while (machine_errors[call][errors] != 0) errors++;
    if (errors == 0 || call == MACHINE_random) return;
    may_fail = true;
    machine_arm(call, number, machine_errors[call][which % (unsigned)errors]);
}

static void set_options(unsigned choice) {
    static const int64_t delays[] = {1000, 0, NA_PURGE_NEVER, 1};
    static const enum na_huge_mode huge[] = {NA_HUGE_AUTO, NA_HUGE_2M, NA_HUGE_NEVER, NA_HUGE_AUTO};
    na_opt.purge_delay_ms = delays[choice % 4];
    na_opt.huge = huge[choice / 4 % 4];
    na_opt.strict = choice / 16 % 8 == 7;
    na_opt.node_limit = choice >= 224 ? (uint64_t)48 << 20 : UINT64_MAX;
    may_fail = choice >= 224;
}

static void operate(void) {
    unsigned op = byte();
    struct slot *s = &slots[byte() % SLOTS];
    size_t size, align;
    bool keeps = op % 32 < 14 && op % 32 != 6;
    if (keeps) free_slot(s);
    switch (op % 32) {
    case 0:
    case 1:
    case 2:
    case 3:
        size = some_size();
        take(s, numalloc(size), size, 0, na_opt.strict);
        break;
    case 4:
    case 5: reads_zero(s); break;
    case 6: reallocate(s); break;
    case 7:
        align = (size_t)1 << byte() % 31;
        size = some_size();
        take(s, numalloc_aligned(align, size), size, align, na_opt.strict);
        break;
    case 8:
        size = some_size();
        take(s, numalloc_onnode(size, (int)(op / 32 % 2)), size, 0, na_opt.strict);
        break;
    case 9:
        size = some_size();
        take(s, numalloc_interleaved(size, NULL), size, 0, na_opt.strict);
        break;
    case 10:
        size = some_size();
        take(s, numalloc_blocked(size, NULL), size, 0, na_opt.strict);
        break;
    case 11:
    case 12:
    case 13: request(s); break;
    case 14:
    case 15:
    case 16:
    case 17: free_slot(s); break;
    case 18: reallocate(s); break;
    case 19:
    case 20: elsewhere(s, false); break;
    case 21: elsewhere(s, true); break;
    case 22: misuse(s); break;
    case 23: ask_machine(); break;
    case 24: ask_about(s); break;
    case 25:
        if (na_opt.purge_delay_ms == NA_PURGE_NEVER) REQUIRE(numalloc_purge() == 0);
        else (void)numalloc_purge();
        break;
    case 26: numalloc_cleanup(); break;
    case 27: fail_soon(); break;
    case 28: /* many of one size, so that pages fill and empty */
        size = some_size() % 3000;
        for (unsigned i = 0, n = byte() % SLOTS; i < n; i++) {
            free_slot(&slots[i]);
            take(&slots[i], numalloc(size), size, 0, na_opt.strict);
        }
        break;
    case 29:
        for (unsigned i = byte() % SLOTS; i < SLOTS; i += 1 + op / 64) free_slot(&slots[i]);
        break;
    case 30:
        for (int i = 0; i < SLOTS; i++) check_slot(&slots[i]);
        break;
    default: REQUIRE(numalloc_verify() == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static unsigned inputs;
    if (!na_init()) abort();
    na_opt.on_error = NA_ON_ERROR_WARN;
    input = data;
    input_left = size;
    set_options(byte());
    for (int i = 0; i < 400 && input_left != 0; i++) operate();
    machine_heal();
    for (int i = 0; i < SLOTS; i++) free_slot(&slots[i]);
    REQUIRE(live == 0);
    if (inputs++ % 8 == 0) REQUIRE(numalloc_verify() == 0);
    if (inputs % 16 != 0) return 0;
    /* Nothing is lost: when each thread has sent off and taken in the frees of the other, all are accounted for. */
    na_opt.purge_delay_ms = 0;
    (void)numalloc_purge();
    to_purge = true;
    elsewhere(&slots[0], false);
    free_slot(&slots[0]);
    (void)numalloc_purge();
    numalloc_stats_t stats;
    REQUIRE(numalloc_stats(-1, &stats) == 0 && stats.allocated_bytes == 0 && stats.large_blocks == 0);
    return 0;
}

#ifdef FUZZ_REPLAY
static uint64_t next(uint64_t *state) { /* splitmix64 (Steele, Lea, Flood 2014) */
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint8_t random_input[4096];
static size_t random_size;

static void on_abort(int signal_number) {
    FILE *file = fopen("fuzz-input", "wb"); /* the program is ending anyway */
    if (file != NULL) {
        fwrite(random_input, 1, random_size, file);
        fclose(file);
    }
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

int main(int argc, char **argv) {
    uint64_t seconds = 0, seed = 1;
    for (int i = 1; i < argc; i++) {
        if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0) {
            seconds = strtoull(argv[++i], NULL, 10);
        } else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0) {
            seed = strtoull(argv[++i], NULL, 10);
        } else {
            FILE *file = fopen(argv[i], "rb");
            if (file == NULL) {
                perror(argv[i]);
                return 2;
            }
            random_size = fread(random_input, 1, sizeof random_input, file);
            fclose(file);
            LLVMFuzzerTestOneInput(random_input, random_size);
        }
    }
    if (seconds == 0) return 0;
    signal(SIGABRT, on_abort);
    signal(SIGSEGV, on_abort);
    signal(SIGBUS, on_abort);
    uint64_t state = seed, inputs = 0, calls = 0;
    time_t end = time(NULL) + (time_t)seconds;
    while (time(NULL) < end) {
        random_size = next(&state) % sizeof random_input;
        for (size_t i = 0; i < random_size; i++) random_input[i] = (uint8_t)next(&state);
        LLVMFuzzerTestOneInput(random_input, random_size);
        inputs++;
        calls += random_size / 5;
    }
    printf("fuzz: %llu random inputs, about %llu calls, %llu s, nothing wrong\n", (unsigned long long)inputs,
           (unsigned long long)calls, (unsigned long long)seconds);
    return 0;
}
#endif
