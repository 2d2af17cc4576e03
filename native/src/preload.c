/* SPDX-License-Identifier: BSD-3-Clause
 *
 * preload.c: malloc and its family on top of the public calls, a library of its own for LD_PRELOAD.
 *
 * Pointers that are not ours (from before the library was in place, or from a library that brings its own
 * allocator) go to the C library. Alignment follows C: every block is aligned to 16.
 */
#include "fast.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The C library's own entry points keep working beside ours. */
extern void __libc_free(void *ptr);
extern void *__libc_realloc(void *ptr, size_t size);

static bool foreign(const void *ptr) { return (uintptr_t)ptr - na_base >= na_reserved; }

NUMALLOC_API void *malloc(size_t size) { return na_alloc_fast(size); }

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

NUMALLOC_API void *aligned_alloc(size_t align, size_t size) { return numalloc_aligned(align, size); }

/* glibc rounds an odd alignment up to a power of two. */
NUMALLOC_API void *memalign(size_t align, size_t size) {
    size_t power = NA_GRANULE;
    while (power < align && power != 0) power <<= 1;
    return numalloc_aligned(power, size);
}

NUMALLOC_API int posix_memalign(void **out, size_t align, size_t size) {
    if (align < sizeof(void *) || (align & (align - 1)) != 0) return EINVAL;
    int saved = errno;
    void *ptr = numalloc_aligned(align, size);
    int error = ptr == NULL ? errno : 0;
    errno = saved;
    if (error == 0) *out = ptr;
    return error;
}

NUMALLOC_API void *valloc(size_t size) { return numalloc_aligned(os_page_size(), size); }

NUMALLOC_API void *pvalloc(size_t size) {
    size_t page = os_page_size();
    if (size > PTRDIFF_MAX) {
        errno = ENOMEM;
        return NULL;
    }
    return numalloc_aligned(page, size == 0 ? page : (size + page - 1) & ~(page - 1));
}

NUMALLOC_API size_t malloc_usable_size(void *ptr) { return numalloc_usable_size(ptr); }

/* 1 if memory went back to the system, as in glibc. */
NUMALLOC_API int malloc_trim(size_t pad) {
    (void)pad; /* a hint how much to keep: nothing is kept */
    return numalloc_purge() != 0;
}
