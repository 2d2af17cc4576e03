/* SPDX-License-Identifier: BSD-3-Clause
 *
 * bandwidth.c: what `hpcalloc bench bandwidth` and `bench latency` time; a small library that hpcalloc/bench/kernels.py
 * loads. It allocates nothing but the maps of the latency test: the arrays are the caller's, wherever they are.
 *
 *   read   sum += b[i]            8 bytes an element
 *   write  a[i] = s               8
 *   copy   a[i] = b[i]           16
 *   triad  a[i] = b[i] + s*c[i]  24
 *
 * Bytes are counted as STREAM does: what the program names. A store that goes through the caches reads its line first
 * (write-allocate), which is traffic that is not counted; a streaming (non-temporal) store does not.
 *
 * Threads. One call at a time. Each call has its own OpenMP team; every thread of it is put where `team` says, and back
 * when the call ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#define EXPORT __attribute__((visibility("default")))

enum { READ, WRITE, COPY, TRIAD }; /* as KERNELS of kernels.py */

typedef struct bench_team {
    int threads;
    int pinned;      /* thread t on cpus[t % count] alone; else every thread on all of them */
    int count;       /* of cpus */
    const int *cpus; /* logical CPUs */
} bench_team;

struct kernels {
    double (*read)(const double *b, size_t n);
    void (*write)(double *a, size_t n, double s, bool streaming);
    void (*copy)(double *a, const double *b, size_t n, bool streaming);
    void (*triad)(double *a, const double *b, const double *c, size_t n, double s, bool streaming);
};

/* ---- one part, for each instruction set ----------------------------------------------------------------- */

#if defined(__x86_64__)
#define VARIANT _sse2
#define TARGET
#define WIDE __m128d
#define WIDTH 2
#define LOAD(p) _mm_loadu_pd(p)
#define STORE(p, v) _mm_store_pd(p, v)
#define STREAM(p, v) _mm_stream_pd(p, v)
#define ALL(s) _mm_set1_pd(s)
#include "bandwidth_simd.h"

#define VARIANT _avx2
#define TARGET __attribute__((target("avx2")))
#define WIDE __m256d
#define WIDTH 4
#define LOAD(p) _mm256_loadu_pd(p)
#define STORE(p, v) _mm256_store_pd(p, v)
#define STREAM(p, v) _mm256_stream_pd(p, v)
#define ALL(s) _mm256_set1_pd(s)
#include "bandwidth_simd.h"

#define VARIANT _avx512
#define TARGET __attribute__((target("avx512f")))
#define WIDE __m512d
#define WIDTH 8
#define LOAD(p) _mm512_loadu_pd(p)
#define STORE(p, v) _mm512_store_pd(p, v)
#define STREAM(p, v) _mm512_stream_pd(p, v)
#define ALL(s) _mm512_set1_pd(s)
#include "bandwidth_simd.h"

static const struct {
    const char *name;
    const struct kernels *kernels;
} variants[] = {{"avx512f", &kernels_avx512}, {"avx2", &kernels_avx2}, {"sse2", &kernels_sse2}};

static bool runs_here(int variant) {
    __builtin_cpu_init();
    return variant == 0 ? __builtin_cpu_supports("avx512f") : variant == 1 ? __builtin_cpu_supports("avx2") : true;
}
static void fence(void) { _mm_sfence(); }
#else
/* Left to the compiler's vectoriser; no streaming stores. */
#define VARIANT _portable
#define TARGET
#define WIDE double
#define WIDTH 1
#define LOAD(p) (*(p))
#define STORE(p, v) (*(p) = (v))
#define STREAM(p, v) (*(p) = (v))
#define ALL(s) ((double)(s))
#include "bandwidth_simd.h"

static const struct {
    const char *name;
    const struct kernels *kernels;
} variants[] = {{"portable", &kernels_portable}};

static bool runs_here(int variant) { return variant == 0; }
static void fence(void) {}
#endif

enum { VARIANTS = sizeof variants / sizeof *variants };

/* Name of the i-th instruction set of the kernels that runs here, the widest first; NULL: no more. */
EXPORT const char *bench_simd(int i) {
    for (int variant = 0; variant < VARIANTS; variant++)
        if (runs_here(variant) && i-- == 0) return variants[variant].name;
    return NULL;
}

static const struct kernels *kernels_of(const char *simd) {
    for (int variant = 0; variant < VARIANTS; variant++)
        if (strcmp(variants[variant].name, simd) == 0 && runs_here(variant)) return variants[variant].kernels;
    return NULL;
}

/* ---- the machine ---------------------------------------------------------------------------------------- */

/* Version of OpenMP the library was built with, as yyyymm; 0: without. */
EXPORT int bench_openmp(void) {
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}

/* 1 where streaming stores are more than the ordinary ones under another name. */
EXPORT int bench_can_stream(void) {
#if defined(__x86_64__)
    return 1;
#else
    return 0;
#endif
}

/* Signature of the hypervisor, 12 characters; "" on bare metal and where that can't be told. */
EXPORT void bench_hypervisor(char signature[13]) {
    memset(signature, 0, 13);
#if defined(__x86_64__)
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & (1U << 31)) == 0) return;
    __cpuid(0x40000000, a, b, c, d);
    memcpy(signature, &b, 4), memcpy(signature + 4, &c, 4), memcpy(signature + 8, &d, 4);
#endif
}

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- teams ---------------------------------------------------------------------------------------------- */

enum { CPUS_MAX = 8192 }; /* the kernel's own limit (NR_CPUS) */
typedef unsigned long cpu_mask[CPUS_MAX / (8 * sizeof(unsigned long))];

/* The system calls: those of glibc take a cpu_set_t of 1024. */
static int get_mask(cpu_mask mask) {
    memset(mask, 0, sizeof(cpu_mask));
    return syscall(SYS_sched_getaffinity, 0, sizeof(cpu_mask), mask) < 0 ? errno : 0;
}
static int set_mask(const cpu_mask mask) {
    return syscall(SYS_sched_setaffinity, 0, sizeof(cpu_mask), mask) < 0 ? errno : 0;
}

static int move_to(const bench_team *team, int thread) {
    cpu_mask mask = {0};
    int first = team->pinned ? thread % team->count : 0, last = team->pinned ? first : team->count - 1;
    for (int i = first; i <= last; i++) {
        int cpu = team->cpus[i], bits = 8 * (int)sizeof(unsigned long);
        if (cpu < 0 || cpu >= CPUS_MAX) return EINVAL;
        mask[cpu / bits] |= 1UL << cpu % bits;
    }
    return set_mask(mask);
}

static int thread_number(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}
static int team_size(void) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

/* A thread's part begins and ends at multiples of a cache line of doubles. */
static size_t part_begin(size_t n, int thread, int threads) {
    if (thread == threads) return n;
    return (size_t)((unsigned __int128)n * (unsigned)thread / (unsigned)threads) & ~(size_t)7;
}

static int check_team(const bench_team *team) {
    if (team->threads < 1 || team->count < 1) return EINVAL;
    return team->threads > 1 && bench_openmp() == 0 ? ENOTSUP : 0;
}

/* ---- kernels ---------------------------------------------------------------------------------------------- */

/* Runs a kernel `iterations` times; seconds[k] is what the k-th took from barrier to barrier, result[k] for read the
 * sum. EINVAL: bad team, kernel or instruction set, or a CPU that may not be used; EAGAIN: OpenMP gave fewer threads;
 * ENOTSUP: more than one thread without OpenMP. */
EXPORT int bench_run(int kernel, const char *simd, int streaming, double *a, const double *b, const double *c, size_t n,
                     double s, const bench_team *team, int iterations, double *seconds, double *result) {
    const struct kernels *use = kernels_of(simd);
    int error = check_team(team), sick = 0;
    if (error != 0) return error;
    if (use == NULL || kernel < READ || kernel > TRIAD) return EINVAL;
    double *sums = calloc((size_t)team->threads * 8, sizeof *sums), begin = 0; /* a cache line each */
    if (sums == NULL) return ENOMEM;

#pragma omp parallel num_threads(team->threads) shared(begin, sick)
    {
        int thread = thread_number(), code = team_size() == team->threads ? 0 : EAGAIN;
        cpu_mask before;
        int saved = get_mask(before);
        if (code == 0) code = saved;
        if (code == 0) code = move_to(team, thread);
        if (code != 0) {
#pragma omp atomic write
            sick = code;
        }
        size_t first = part_begin(n, thread, team->threads), count = part_begin(n, thread + 1, team->threads) - first;
        for (int k = 0; k < iterations; k++) {
#pragma omp barrier
            if (sick != 0) break; /* set before the first barrier, so all threads see the same */
            if (thread == 0) begin = seconds_now();
            switch (kernel) {
            case READ: sums[8 * thread] = use->read(b + first, count); break;
            case WRITE: use->write(a + first, count, s, streaming != 0); break;
            case COPY: use->copy(a + first, b + first, count, streaming != 0); break;
            default: use->triad(a + first, b + first, c + first, count, s, streaming != 0); break;
            }
            if (streaming) fence();
#pragma omp barrier
            if (thread == 0) {
                seconds[k] = seconds_now() - begin;
                result[k] = 0;
                for (int t = 0; t < team->threads; t++) result[k] += sums[8 * t];
            }
        }
        if (saved == 0) set_mask(before);
    }
    free(sums);
    return sick;
}

/* ---- contents ----------------------------------------------------------------------------------------------- */

/* Small integers that differ from element to element, so that sums and triads are exact and a shifted index shows. */
static double content(size_t i, size_t period) { return (double)(i % period); }

/* p[i] = i % period; period 0: -1, which is no kernel's result. First touch is by the thread that will use the part. */
EXPORT int bench_fill(double *p, size_t n, size_t period, const bench_team *team) {
    int error = check_team(team), sick = 0;
    if (error != 0) return error;
#pragma omp parallel num_threads(team->threads) shared(sick)
    {
        int thread = thread_number(), threads = team_size();
        cpu_mask before;
        int code = get_mask(before), moved = code == 0 ? move_to(team, thread) : code;
        if (moved != 0) {
#pragma omp atomic write
            sick = moved;
        }
        for (size_t i = part_begin(n, thread, threads), end = part_begin(n, thread + 1, threads); i < end; i++)
            p[i] = period == 0 ? -1.0 : content(i, period);
        if (code == 0) set_mask(before);
    }
    return sick;
}

/* Elements of `a` that are not what the kernel must give for b[i] = i % b_period and c[i] = i % c_period. */
EXPORT size_t bench_wrong(int kernel, const double *a, size_t n, double s, size_t b_period, size_t c_period) {
    size_t wrong = 0;
#pragma omp parallel for schedule(static) reduction(+ : wrong)
    for (size_t i = 0; i < n; i++) {
        double right = kernel == WRITE   ? s
                       : kernel == COPY  ? content(i, b_period)
                       : kernel == TRIAD ? content(i, b_period) + s * content(i, c_period)
                                         : -1.0;
        wrong += a[i] != right;
    }
    return wrong;
}

/* ---- latency ------------------------------------------------------------------------------------------------ */

enum { LINE = 64, HUGE_PAGE = 2 << 20, MPOL_PREFERRED = 1, NODES_MAX = 1024 };

/* A private map on `node` by policy (-1: none), advised to be in huge pages or not; NULL and errno. *bind_error: what
 * mbind answered, 0 if it did its work. */
EXPORT void *bench_map(size_t bytes, int node, int huge, int *bind_error) {
    size_t room = bytes + HUGE_PAGE;
    char *raw = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) return NULL;
    size_t head = (size_t)(-(uintptr_t)raw % HUGE_PAGE);
    char *p = raw + head;
    if (head > 0) munmap(raw, head);
    if (HUGE_PAGE - head > 0) munmap(p + bytes, HUGE_PAGE - head);
    *bind_error = 0;
    if (node >= 0 && node < NODES_MAX) {
        unsigned long nodes[NODES_MAX / (8 * sizeof(unsigned long))] = {0};
        nodes[node / (8 * (int)sizeof(unsigned long))] = 1UL << node % (8 * (int)sizeof(unsigned long));
        if (syscall(SYS_mbind, p, bytes, MPOL_PREFERRED, nodes, (unsigned long)NODES_MAX + 1, 0) != 0)
            *bind_error = errno;
    }
    madvise(p, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); /* what came of it is read from smaps */
    return p;
}

EXPORT void bench_unmap(void *p, size_t bytes) { munmap(p, bytes); }

/* Links the lines of [p, p+bytes) to one cycle in random order (Sattolo 1986), so that neither a prefetcher nor two
 * loads at a time help. `bytes` is a multiple of 64. */
EXPORT void bench_chase_link(void *p, size_t bytes, uint64_t seed) {
    size_t lines = bytes / LINE;
    char *base = p;
    for (size_t i = 0; i < lines; i++) *(void **)(base + i * LINE) = base + i * LINE;
    for (size_t i = lines - 1; i > 0; i--) {
        seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27; /* xorshift64* (Vigna 2016) */
        size_t j = (size_t)((unsigned __int128)(seed * UINT64_C(2685821657736338717)) * i >> 64);
        void **x = (void **)(base + i * LINE), **y = (void **)(base + j * LINE), *swap = *x;
        *x = *y, *y = swap;
    }
}

/* Steps from the first line back to it: the number of lines, if the links are one cycle. Gives up beyond. */
EXPORT size_t bench_chase_length(const void *p, size_t bytes) {
    size_t steps = 0;
    const void *at = p;
    do at = *(void *const *)at;
    while (++steps <= bytes / LINE && at != p);
    return steps;
}

/* Follows the links `steps` times and gives the seconds; *end is where it arrived. */
EXPORT double bench_chase(const void *p, size_t steps, const void **end) {
    const void *at = p;
    double begin = seconds_now();
    for (size_t i = 0; i < steps; i++) at = *(void *const *)at;
    __asm__ volatile("" ::"r"(at) : "memory");
    double seconds = seconds_now() - begin;
    *end = at;
    return seconds;
}
