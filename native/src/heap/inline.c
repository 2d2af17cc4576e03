/* SPDX-License-Identifier: BSD-3-Clause
 *
 * inline.c: owns what a thread shows to code compiled with numa_alloc_inline.h.
 *
 * Invariants. `layout` is NUMALLOC_INLINE_LAYOUT exactly while na_self.heap is a heap and the rest belongs to it. A change
 * of anything that the header knows, in form or meaning, needs another number: the assertions see the form. The fast
 * paths of fast.h and those of the header mean the same.
 *
 * Our own name for the variable is hidden: where another libnumalloc comes first in the process, programs use its
 * functions and its variable, and this library must not write there.
 *
 * Threads: its own.
 */

#include "heap/heap.h"
#include "numa_alloc_inline.h"
#include "space/space.h"

#define SAME(type, field, theirs, their_field)                                                                         \
    _Static_assert(offsetof(type, field) == offsetof(theirs, their_field) &&                                           \
                       sizeof(((type *)0)->field) == sizeof(((theirs *)0)->their_field),                               \
                   "numa_alloc_inline.h has another layout: raise NUMALLOC_INLINE_LAYOUT with it")
SAME(na_cache, top, numalloc_inline_cache_t, top);
SAME(na_cache, frees, numalloc_inline_cache_t, frees);
SAME(na_cache, count, numalloc_inline_cache_t, count);
SAME(na_cache, limit, numalloc_inline_cache_t, limit);
SAME(na_span, tag, numalloc_inline_span_t, tag);
SAME(na_block, below, numalloc_inline_block_t, below);
SAME(na_block, key, numalloc_inline_block_t, key);
_Static_assert(sizeof(na_cache) == sizeof(numalloc_inline_cache_t), "");
_Static_assert((int)NUMALLOC_INLINE_BLOCK_MAX == (int)NA_BLOCK_MAX, "");
_Static_assert((int)NUMALLOC_INLINE_SLICE_SHIFT == (int)NA_SLICE_SHIFT, "");
_Static_assert((int)NUMALLOC_INLINE_COUNT_BITS == NA_LIST_BITS, "");

_Thread_local numalloc_inline_thread_t na_inline_self
    __attribute__((tls_model("initial-exec"), visibility("hidden"))) = {.layout = 0};
extern _Thread_local numalloc_inline_thread_t numalloc_inline_self
    __attribute__((alias("na_inline_self"), tls_model("initial-exec"), visibility("default")));

void na_inline_show(na_heap *heap, int cpu) {
    na_inline_self.layout = 0;
    const volatile int *cpu_now = na_many_nodes && os_cpu_offset != 0 ? OS_RSEQ_CPU_AT : NULL;
    if (na_many_nodes && cpu_now == NULL) return; /* there is no cheap way to read the CPU */
    na_inline_self = (numalloc_inline_thread_t){
        .layout = NUMALLOC_INLINE_LAYOUT,
        .tag_of_pages = heap->tag_of_pages,
        .cache = (numalloc_inline_cache_t *)(void *)heap->cache,
        .base = na_base,
        .reserved = na_reserved,
        .map = (numalloc_inline_span_t *const *)(void *)na_map,
        .secret = na_secret,
        .cpu_now = (const volatile uint32_t *)cpu_now,
        .cpu = (uint32_t)cpu,
    };
}

void na_inline_hide(void) { na_inline_self.layout = 0; }
