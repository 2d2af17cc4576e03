/* SPDX-License-Identifier: BSD-3-Clause
 *
 * numa_alloc_inline.h: numalloc() and numalloc_free() with their small paths compiled into the caller. Include it in
 * place of numa_alloc.h. The names stay those of functions: `&numalloc` and members of that name are as without. Where the
 * compiler does not inline a call, it is a call. For programs that link libnumalloc, shared or static, in C or C++, by GCC
 * or Clang for Linux.
 *
 * A header of its own, because it shows how the library works inside: numa_alloc.h alone is free of that.
 *
 * What it knows of the inside is numbered: NUMALLOC_INLINE_LAYOUT. A thread's `layout` has the library's number while
 * the thread has a heap that may be used from here, and 0 when it has none: before its first call, at its end, and in
 * the modes NUMALLOC_SECURE, NUMALLOC_LEAKS, NUMALLOC_PROFILE and NUMALLOC_GUARD. One comparison so covers both: with
 * another library than it was compiled for, and in those modes, a program calls the functions. The library's own
 * structures are compared with these when it is compiled (src/heap/inline.c).
 */
#ifndef NUMA_ALLOC_INLINE_H
#define NUMA_ALLOC_INLINE_H

#include "numa_alloc.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NUMALLOC_INLINE_LAYOUT 2

enum {
    NUMALLOC_INLINE_BLOCK_MAX = 65536, /* bytes: the largest block taken inline */
    NUMALLOC_INLINE_SLICE_SHIFT = 16,  /* an entry of `map` covers 64 KiB */
    NUMALLOC_INLINE_COUNT_BITS = 16    /* below: address of the next block << 16 | number of blocks */
};

/* Blocks are read and written here that the caller has as other types. */
typedef uint64_t __attribute__((may_alias)) numalloc_inline_word_t;

typedef struct numalloc_inline_block { /* a free one */
    numalloc_inline_word_t below;      /* the list below it */
    numalloc_inline_word_t key;        /* its address xor `secret`, so that a second free is noticed */
} __attribute__((may_alias)) numalloc_inline_block_t;

typedef struct numalloc_inline_cache { /* free blocks of one size class */
    numalloc_inline_block_t *top;
    uint64_t frees, virgin;
    uint32_t count, limit;
} numalloc_inline_cache_t;

typedef struct numalloc_inline_span { /* what a slice belongs to */
    unsigned char unknown[36];
    uint32_t tag; /* region, kind, and in the highest byte the size class */
} numalloc_inline_span_t;

typedef struct numalloc_inline_thread {
    uint32_t layout;                    /* all below holds only if this is NUMALLOC_INLINE_LAYOUT */
    uint32_t tag_of_pages;              /* of the thread's node, class 0 */
    numalloc_inline_cache_t *cache;     /* by class */
    uintptr_t base, reserved;           /* all of the library's addresses, bytes */
    numalloc_inline_span_t *const *map; /* by slice */
    uint64_t secret;
    const volatile uint32_t *cpu_now; /* the CPU the thread runs on; NULL: all CPUs are of one node */
    uint32_t cpu;                     /* the one for whose node the cache is */
} numalloc_inline_thread_t;

__extension__ extern NUMALLOC_API __thread numalloc_inline_thread_t numalloc_inline_self
    __attribute__((tls_model("initial-exec")));

/* Below it is read by its name each time: GCC's check for null pointers goes wrong on the address of a thread-local
 * variable that the linker moves to the program. */

/* Size class of 1..NUMALLOC_INLINE_BLOCK_MAX bytes: 16-byte steps up to 128, then four a doubling. */
extern unsigned numalloc_inline_class(size_t size);
extern inline __attribute__((gnu_inline, always_inline)) unsigned numalloc_inline_class(size_t size) {
    unsigned top;
    if (size <= 128) return (unsigned)((size - 1) >> 4);
    top = 63u - (unsigned)__builtin_clzl(size - 1);
    return 8u + (top - 7u) * 4u + (unsigned)(((size - 1) >> (top - 2)) & 3u);
}

/* The library's functions, by names that are never inline. */
extern NUMALLOC_API NUMALLOC_MALLOC NUMALLOC_SIZE(1) void *numalloc_called(size_t size) __asm__("numalloc");
extern NUMALLOC_API void numalloc_free_called(void *ptr) __asm__("numalloc_free");

extern inline __attribute__((gnu_inline)) void *numalloc(size_t size) {
    if (size - 1 < (size_t)NUMALLOC_INLINE_BLOCK_MAX &&
        __builtin_expect(
            numalloc_inline_self.layout == NUMALLOC_INLINE_LAYOUT &&
                (numalloc_inline_self.cpu_now == NULL || *numalloc_inline_self.cpu_now == numalloc_inline_self.cpu),
            1)) {
        numalloc_inline_cache_t *cache = &numalloc_inline_self.cache[numalloc_inline_class(size)];
        numalloc_inline_block_t *block = cache->top;
        if (__builtin_expect(block != NULL, 1)) {
            uint64_t below = block->below;
            cache->count = (uint32_t)(below & ((1u << NUMALLOC_INLINE_COUNT_BITS) - 1u));
            cache->top = (numalloc_inline_block_t *)(uintptr_t)(below >> NUMALLOC_INLINE_COUNT_BITS);
            block->key = 0;
            return block;
        }
    }
    return numalloc_called(size);
}

extern inline __attribute__((gnu_inline)) void numalloc_free(void *ptr) {
    if (__builtin_expect(numalloc_inline_self.layout == NUMALLOC_INLINE_LAYOUT, 1)) {
        uintptr_t offset = (uintptr_t)ptr - numalloc_inline_self.base;
        const numalloc_inline_span_t *span = offset < numalloc_inline_self.reserved
                                                 ? numalloc_inline_self.map[offset >> NUMALLOC_INLINE_SLICE_SHIFT]
                                                 : NULL;
        if (__builtin_expect(span != NULL, 1)) {
            numalloc_inline_block_t *block = (numalloc_inline_block_t *)ptr;
            uint64_t key = numalloc_inline_self.secret ^ (uint64_t)(uintptr_t)ptr;
            uint32_t tag = span->tag;
            if (__builtin_expect((tag ^ numalloc_inline_self.tag_of_pages) << 8 == 0 && block->key != key, 1)) {
                numalloc_inline_cache_t *cache = &numalloc_inline_self.cache[tag >> 24];
                if (__builtin_expect(cache->count < cache->limit, 1)) {
                    block->key = key;
                    block->below = ((uint64_t)(uintptr_t)cache->top << NUMALLOC_INLINE_COUNT_BITS) + cache->count;
                    cache->frees++;
                    cache->count++;
                    __atomic_signal_fence(__ATOMIC_RELEASE); /* a child of fork may see what lies between */
                    cache->top = block;
                    return;
                }
            }
        }
    }
    numalloc_free_called(ptr);
}

#ifdef __cplusplus
}
#endif
#endif
