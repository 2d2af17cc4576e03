/* SPDX-License-Identifier: BSD-3-Clause
 *
 * preload.c: malloc and its family on top of the public calls, a library of its own for LD_PRELOAD. The set is
 * what glibc 2.31 to 2.42 has, and C23's free_sized; C++'s operators are in preload_cxx.c.
 *
 * Invariant: a pointer of another allocator (from before the library was in place, from __libc_malloc, or from a
 * library that found glibc's malloc with dlsym) goes to glibc; it is never an error here. Where glibc's versions
 * differ, the newest is followed.
 *
 * Threads: as the public calls; state of its own is what dlsym found, an atomic.
 *
 * <malloc.h> is not included: which of these it declares, and with which types, depends on glibc's version.
 */
#define _GNU_SOURCE
#include "api/api.h"
#include "preload/preload.h"
#include "space/space.h"

#include <errno.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The C library's own entry points keep working. */
extern void __libc_free(void *ptr);
extern void *__libc_realloc(void *ptr, size_t size);

static bool foreign(const void *ptr) { return !na_is_ours(ptr); }

NUMALLOC_API void *malloc(size_t size) { return na_alloc_any(size); }

static __attribute__((noinline)) void free_rest(na_span *span, void *ptr) {
    if (foreign(ptr)) __libc_free(ptr);
    else na_free_slow(span, ptr, "free");
}

NUMALLOC_API void free(void *ptr) {
    na_span *span = na_span_at(ptr);
    if (!na_free_fast(span, ptr) && ptr != NULL) free_rest(span, ptr);
}

NUMALLOC_API void cfree(void *ptr) { free(ptr); }

NUMALLOC_API void *calloc(size_t count, size_t size) { return numalloc_calloc(count, size); }

NUMALLOC_API void *realloc(void *ptr, size_t size) {
    if (ptr != NULL && foreign(ptr)) return __libc_realloc(ptr, size);
    return numalloc_realloc(ptr, size);
}

NUMALLOC_API void *reallocarray(void *ptr, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(ptr, bytes);
}

/* C23. That the size is the one asked for is not checked. */
NUMALLOC_API void free_sized(void *ptr, size_t size) {
    (void)size;
    free(ptr);
}

NUMALLOC_API void free_aligned_sized(void *ptr, size_t align, size_t size) {
    (void)align;
    (void)size;
    free(ptr);
}

/* ---- aligned ----------------------------------------------------------------------------------------- */

static bool power_of_two(size_t value) { return value != 0 && (value & (value - 1)) == 0; }

/* numalloc_aligned calls a power of two beyond its limit invalid; for C it is ENOMEM. */
static void *aligned(size_t align, size_t size) {
    void *ptr = numalloc_aligned(align, size);
    if (NA_UNLIKELY(ptr == NULL) && errno == EINVAL) errno = ENOMEM;
    return ptr;
}

/* As glibc from 2.38 on, and C: an alignment that is no power of two is invalid. Before, glibc rounded it up. */
NUMALLOC_API void *aligned_alloc(size_t align, size_t size) {
    if (!power_of_two(align)) {
        errno = EINVAL;
        return NULL;
    }
    return aligned(align, size);
}

/* The older call: glibc rounds an odd alignment up to a power of two, unless there is none. */
NUMALLOC_API void *memalign(size_t align, size_t size) {
    if (align > SIZE_MAX / 2 + 1) {
        errno = EINVAL;
        return NULL;
    }
    size_t power = NA_GRANULE;
    while (power < align) power <<= 1;
    return aligned(power, size);
}

/* Not inline, so that the fast path saves no registers. Leaves errno and, on failure, *out alone. */
static __attribute__((noinline)) int posix_memalign_rest(void **out, size_t align, size_t size) {
    int saved = errno;
    void *ptr = aligned(align, size);
    int error = ptr == NULL ? errno : 0;
    errno = saved;
    if (error == 0) *out = ptr;
    return error;
}

NUMALLOC_API int posix_memalign(void **out, size_t align, size_t size) {
    if (align % sizeof(void *) != 0 || !power_of_two(align)) return EINVAL;
    void *ptr = na_aligned_fast(align, size);
    if (NA_UNLIKELY(ptr == NULL)) return posix_memalign_rest(out, align, size);
    *out = ptr;
    return 0;
}

NUMALLOC_API void *valloc(size_t size) { return aligned(os_page_size(), size); }

/* Rounded up to pages; glibc gives a page for 0 bytes from its minimum size, we do so by rule. */
NUMALLOC_API void *pvalloc(size_t size) {
    size_t page = os_page_size();
    if (size > PTRDIFF_MAX) {
        errno = ENOMEM;
        return NULL;
    }
    return aligned(page, size == 0 ? page : na_round_up(size, page));
}

/* ---- foreign pointers ---------------------------------------------------------------------------------- */

void *na_preload_next(const char *name) {
    int saved = errno;
    void *found = dlsym(RTLD_NEXT, name);
    errno = saved;
    return found;
}

uintptr_t na_preload_next_known(_Atomic(uintptr_t) *known, const char *name) {
    uintptr_t next = atomic_load_explicit(known, memory_order_relaxed);
    if (next == 0) {
        next = (uintptr_t)na_preload_next(name);
        atomic_store_explicit(known, next, memory_order_relaxed);
    }
    return next;
}

/* The next allocator in line knows its own blocks. 0, a block without any room, when there is none. */
static size_t foreign_usable_size(void *ptr) {
    static _Atomic(uintptr_t) known;
    uintptr_t next = na_preload_next_known(&known, "malloc_usable_size");
    return next != 0 ? ((size_t(*)(void *))next)(ptr) : 0;
}

NUMALLOC_API size_t malloc_usable_size(void *ptr) {
    if (ptr == NULL) return 0;
    return foreign(ptr) ? foreign_usable_size(ptr) : numalloc_usable_size(ptr);
}

/* ---- statistics and tuning ----------------------------------------------------------------------------- */

/* 1 if memory went back to the system, as in glibc. */
NUMALLOC_API int malloc_trim(size_t pad) {
    (void)pad; /* a hint how much to keep: nothing is kept */
    return numalloc_purge() != 0;
}

/* numalloc's figures in glibc's terms: its arenas are our pages, its mmapped chunks our large blocks. */
struct usage {
    size_t arena;         /* bytes held for blocks in pages, free ones included */
    size_t uordblks;      /* of these, in live blocks */
    size_t fordblks;      /* and not */
    size_t hblks, hblkhd; /* live large blocks, and their bytes */
    size_t keepcost;      /* what malloc_trim could give back at most */
};

/* Other threads go on: a difference may be below zero. */
static size_t less(uint64_t whole, uint64_t part) { return whole > part ? (size_t)(whole - part) : 0; }

static struct usage usage_of(int node) {
    numalloc_stats_t stats;
    if (numalloc_stats(node, &stats) != 0) return (struct usage){0};
    struct usage usage = {
        .arena = less(stats.committed_bytes, stats.large_bytes),
        .uordblks = less(stats.allocated_bytes, stats.large_bytes),
        .hblks = (size_t)stats.large_blocks,
        .hblkhd = (size_t)stats.large_bytes,
        .keepcost = (size_t)stats.cached_bytes,
    };
    if (usage.uordblks > usage.arena) usage.uordblks = usage.arena;
    usage.fordblks = usage.arena - usage.uordblks;
    return usage;
}

/* The layouts are glibc's ABI. Free chunks are not counted (ordblks); smblks, usmblks and fsmblks have no
 * counterpart; they are 0. */
struct mallinfo {
    int arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
struct mallinfo2 {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};

NUMALLOC_API struct mallinfo2 mallinfo2(void) {
    struct usage usage = usage_of(-1);
    return (struct mallinfo2){
        .arena = usage.arena,
        .hblks = usage.hblks,
        .hblkhd = usage.hblkhd,
        .uordblks = usage.uordblks,
        .fordblks = usage.fordblks,
        .keepcost = usage.keepcost,
    };
}

/* glibc lets the ints wrap; a figure at its limit can be told from a true one. */
static int saturated(size_t value) { return value < INT32_MAX ? (int)value : INT32_MAX; }

NUMALLOC_API struct mallinfo mallinfo(void) {
    struct usage usage = usage_of(-1);
    return (struct mallinfo){
        .arena = saturated(usage.arena),
        .hblks = saturated(usage.hblks),
        .hblkhd = saturated(usage.hblkhd),
        .uordblks = saturated(usage.uordblks),
        .fordblks = saturated(usage.fordblks),
        .keepcost = saturated(usage.keepcost),
    };
}

/* On standard error, as glibc; a node takes an arena's place. */
NUMALLOC_API void malloc_stats(void) {
    int count = numalloc_node_count();
    for (int i = 0; i < count; i++) {
        struct usage usage = usage_of(na_topo.node_id[i]);
        os_message("Node %d:\nsystem bytes     = %10zu\nin use bytes     = %10zu\n", na_topo.node_id[i], usage.arena,
                   usage.uordblks);
    }
    struct usage usage = usage_of(-1);
    os_message("Total (incl. large blocks):\nsystem bytes     = %10zu\nin use bytes     = %10zu\n"
               "large blocks     = %10zu\nlarge bytes      = %10zu\n",
               usage.arena + usage.hblkhd, usage.uordblks + usage.hblkhd, usage.hblks, usage.hblkhd);
}

static void usage_as_xml(FILE *out, const struct usage *usage) {
    fprintf(out,
            "<total type=\"rest\" count=\"0\" size=\"%zu\"/>\n<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n"
            "<system type=\"current\" size=\"%zu\"/>\n",
            usage->fordblks, usage->hblks, usage->hblkhd, usage->arena);
}

/* glibc's elements; a heap is a node. 0 or errno. */
NUMALLOC_API int malloc_info(int options, FILE *out) {
    if (options != 0) return EINVAL;
    fputs("<malloc version=\"1\">\n", out);
    int count = numalloc_node_count();
    for (int i = 0; i < count; i++) {
        struct usage usage = usage_of(na_topo.node_id[i]);
        fprintf(out, "<heap nr=\"%d\">\n", na_topo.node_id[i]);
        usage_as_xml(out, &usage);
        fputs("</heap>\n", out);
    }
    struct usage usage = usage_of(-1);
    usage_as_xml(out, &usage);
    fputs("</malloc>\n", out);
    return 0;
}

enum mallopt_parameter {
    OPT_MXFAST = 1,
    OPT_NLBLKS = 2,
    OPT_GRAIN = 3,
    OPT_KEEP = 4,
    OPT_TRIM_THRESHOLD = -1,
    OPT_TOP_PAD = -2,
    OPT_MMAP_THRESHOLD = -3,
    OPT_MMAP_MAX = -4,
    OPT_CHECK_ACTION = -5,
    OPT_PERTURB = -6,
    OPT_ARENA_TEST = -7,
    OPT_ARENA_MAX = -8
};

/* When free memory goes back is the one thing that mallopt can turn: off, and back to what the environment said.
 * Readers see the old value or the new one. */
static void purge(bool never) {
    static _Atomic(int64_t) environment = -1;
    int64_t unset = -1;
    (void)atomic_compare_exchange_strong(&environment, &unset, na_opt.purge_delay_ms);
    int64_t delay = never ? NA_PURGE_NEVER : atomic_load(&environment);
    __atomic_store_n(&na_opt.purge_delay_ms, delay, __ATOMIC_RELAXED);
}

/* 1: done, or advice on speed that needs nothing here; 0: refused, as the caller could tell that it was not done. */
NUMALLOC_API int mallopt(int parameter, int value) {
    if (!na_init()) return 0;
    switch (parameter) {
    case OPT_TRIM_THRESHOLD: /* -1 undertakes to keep all memory; other values are advice, we go by time */
        purge(value == -1);
        return 1;
    case OPT_MXFAST: /* every size is fast; glibc refuses the same values */
        return value >= 0 && (size_t)value <= 80 * sizeof(size_t) / 4;
    case OPT_NLBLKS: /* these three do nothing in glibc either */
    case OPT_GRAIN:
    case OPT_KEEP:
    case OPT_TOP_PAD:        /* address space is opened in large steps in any case */
    case OPT_MMAP_THRESHOLD: /* the border between page blocks and large ones is fixed */
    case OPT_MMAP_MAX:       /* large blocks take no mapping of their own */
    case OPT_ARENA_TEST:     /* heaps belong to threads: there is nothing to limit */
    case OPT_ARENA_MAX: return 1;
    case OPT_PERTURB: return value == 0; /* blocks are not filled; 0 asks for that */
    case OPT_CHECK_ACTION: return 0;     /* NUMALLOC_ON_ERROR says it, before the start */
    default: return 0;                   /* glibc says 1 to what it does not know */
    }
}

/* ---- fork ------------------------------------------------------------------------------------------------ */

typedef int register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *object);

/* What pthread_atfork() calls. Handlers registered before ours would run while fork() holds our locks: such a
 * handler could not allocate, nor wait for a thread that does. So ours come first. */
NUMALLOC_API int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *object) {
    static _Atomic(uintptr_t) known;
    uintptr_t next = na_preload_next_known(&known, "__register_atfork");
    if (next == 0) return ENOSYS;
    (void)na_init(); /* comes back here with our own */
    return ((register_atfork *)next)(prepare, parent, child, object);
}
