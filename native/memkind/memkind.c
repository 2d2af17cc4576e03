/* SPDX-License-Identifier: BSD-3-Clause
 *
 * memkind.c: memkind's calls for programs that still use them, on the public calls of libnumalloc.
 *
 * Threads: the policy of hbw_* is set once, atomically; kinds are constant.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hbwmalloc.h"
#include "memkind.h"
#include "numa_alloc.h"

/* ---- kinds ------------------------------------------------------------------------------------------------------ */

struct memkind {
    int policy;      /* enum numalloc_policy */
    unsigned flags;  /* NUMALLOC_STRICT */
    bool interleave; /* over the nodes of the kind `policy` */
    bool tier_only;  /* of nodes without CPUs that are a tier */
};

#define KIND(name, ...)                                                                                                \
    static struct memkind of_##name = {__VA_ARGS__};                                                                   \
    NUMALLOC_API memkind_t MEMKIND_##name = &of_##name
#define STRICT .flags = NUMALLOC_STRICT

KIND(DEFAULT, .policy = NUMALLOC_LOCAL);
KIND(REGULAR, .policy = NUMALLOC_LOCAL);
KIND(INTERLEAVE, .policy = NUMALLOC_INTERLEAVE);
KIND(HBW, .policy = NUMALLOC_KIND_BANDWIDTH, STRICT);
KIND(HBW_ALL, .policy = NUMALLOC_KIND_BANDWIDTH, STRICT);
KIND(HBW_PREFERRED, .policy = NUMALLOC_KIND_BANDWIDTH);
KIND(HBW_INTERLEAVE, .policy = NUMALLOC_KIND_BANDWIDTH, STRICT, .interleave = true);
KIND(DAX_KMEM, .policy = NUMALLOC_KIND_CAPACITY, STRICT, .tier_only = true);
KIND(DAX_KMEM_ALL, .policy = NUMALLOC_KIND_CAPACITY, STRICT, .tier_only = true);
KIND(DAX_KMEM_PREFERRED, .policy = NUMALLOC_KIND_CAPACITY, .tier_only = true);
KIND(DAX_KMEM_INTERLEAVE, .policy = NUMALLOC_KIND_CAPACITY, STRICT, .interleave = true, .tier_only = true);
KIND(HIGHEST_CAPACITY, .policy = NUMALLOC_KIND_CAPACITY, STRICT);
KIND(HIGHEST_CAPACITY_PREFERRED, .policy = NUMALLOC_KIND_CAPACITY);
KIND(HIGHEST_CAPACITY_LOCAL, .policy = NUMALLOC_KIND_CAPACITY, STRICT);
KIND(HIGHEST_CAPACITY_LOCAL_PREFERRED, .policy = NUMALLOC_KIND_CAPACITY);
KIND(LOWEST_LATENCY_LOCAL, .policy = NUMALLOC_KIND_LATENCY, STRICT);
KIND(LOWEST_LATENCY_LOCAL_PREFERRED, .policy = NUMALLOC_KIND_LATENCY);
KIND(HIGHEST_BANDWIDTH_LOCAL, .policy = NUMALLOC_KIND_BANDWIDTH, STRICT);
KIND(HIGHEST_BANDWIDTH_LOCAL_PREFERRED, .policy = NUMALLOC_KIND_BANDWIDTH);

static bool has_node(const numalloc_nodemask_t *nodes, int node) {
    return (nodes->word[node / 64] >> (node % 64) & 1) != 0;
}

/* Is every node of the kind without CPUs? `others`: is there a node that is not of the kind? */
static bool without_cpus(const numalloc_nodemask_t *nodes, bool *others) {
    static int ids[NUMALLOC_MAX_NODES]; /* threads write the same */
    bool none = true;
    *others = false;
    for (int i = 0, count = numalloc_node_ids(ids, NUMALLOC_MAX_NODES); i < count; i++) {
        numalloc_node_info_t info;
        if (!has_node(nodes, ids[i])) *others = true;
        else if (numalloc_node_info(ids[i], &info) != 0 || info.cpus != 0) none = false;
    }
    return none;
}

/* High bandwidth is that of some nodes and not of others, as memkind has it. */
static bool available(memkind_t kind, numalloc_nodemask_t *nodes) {
    numalloc_kind_t known;
    bool others, none;
    if (kind->policy < NUMALLOC_KIND_BANDWIDTH) return true;
    if (numalloc_kind(kind->policy, &known) != 0) return false;
    *nodes = known.nodes;
    none = without_cpus(&known.nodes, &others);
    if (kind->tier_only) return known.source == NUMALLOC_SOURCE_TIERS && none;
    return kind->policy != NUMALLOC_KIND_BANDWIDTH || others;
}

static void *allocate(memkind_t kind, size_t size, size_t align, unsigned flags) {
    numalloc_nodemask_t nodes;
    numalloc_request_t request = {.size = size, .align = align, .policy = kind->policy, .flags = kind->flags | flags};
    if (size == 0) return NULL;
    if (kind->policy >= NUMALLOC_KIND_BANDWIDTH && !available(kind, &nodes)) {
        errno = ENODATA;
        return NULL;
    }
    if (kind->interleave) {
        request.policy = NUMALLOC_INTERLEAVE;
        request.nodes = &nodes;
    }
    return numalloc_request(&request);
}

static void *allocate_zero(memkind_t kind, size_t num, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(num, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return allocate(kind, bytes, 0, NUMALLOC_ZERO);
}

static void *resize(memkind_t kind, void *ptr, size_t size) {
    return ptr != NULL ? numalloc_realloc(ptr, size) : allocate(kind, size, 0, 0);
}

static int allocate_aligned(memkind_t kind, void **memptr, size_t align, size_t size) {
    int saved = errno;
    *memptr = NULL;
    if (align < sizeof(void *) || (align & (align - 1)) != 0) return EINVAL;
    if (size != 0) *memptr = allocate(kind, size, align, 0);
    int error = *memptr != NULL || size == 0 ? 0 : errno == EINVAL ? EINVAL : ENOMEM;
    errno = saved;
    return error;
}

/* ---- memkind_* -------------------------------------------------------------------------------------------------- */

NUMALLOC_API int memkind_get_version(void) { return 1014000; }

NUMALLOC_API int memkind_check_available(memkind_t kind) {
    numalloc_nodemask_t nodes;
    if (kind == NULL) return MEMKIND_ERROR_INVALID;
    return available(kind, &nodes) ? MEMKIND_SUCCESS : MEMKIND_ERROR_UNAVAILABLE;
}

NUMALLOC_API void memkind_error_message(int err, char *msg, size_t size) {
    if (msg == NULL || size == 0) return;
    const char *text = NULL;
    switch (err) {
    case MEMKIND_SUCCESS: text = "memkind: no error"; break;
    case MEMKIND_ERROR_MALLOC: text = "memkind: no memory"; break;
    case MEMKIND_ERROR_INVALID:
    case EINVAL: text = "memkind: invalid argument"; break;
    case ENOMEM: text = "memkind: no memory of that kind"; break;
    case MEMKIND_ERROR_UNAVAILABLE:
    case MEMKIND_ERROR_MEMTYPE_NOT_AVAILABLE: {
        int length = snprintf(msg, size, "memkind: no such memory here: ");
        if (length > 0 && (size_t)length < size) (void)numalloc_kind_text(msg + length, size - (size_t)length);
        return;
    }
    default: break;
    }
    if (text != NULL) (void)snprintf(msg, size, "%s", text);
    else (void)snprintf(msg, size, "memkind: error %d", err);
}

NUMALLOC_API void *memkind_malloc(memkind_t kind, size_t size) { return allocate(kind, size, 0, 0); }
NUMALLOC_API void *memkind_calloc(memkind_t kind, size_t num, size_t size) { return allocate_zero(kind, num, size); }
NUMALLOC_API void *memkind_realloc(memkind_t kind, void *ptr, size_t size) { return resize(kind, ptr, size); }
NUMALLOC_API int memkind_posix_memalign(memkind_t kind, void **memptr, size_t alignment, size_t size) {
    return allocate_aligned(kind, memptr, alignment, size);
}
NUMALLOC_API void memkind_free(memkind_t kind, void *ptr) {
    (void)kind;
    numalloc_free(ptr);
}
NUMALLOC_API size_t memkind_malloc_usable_size(memkind_t kind, void *ptr) {
    (void)kind;
    return numalloc_usable_size(ptr);
}

/* ---- hbw_* ------------------------------------------------------------------------------------------------------ */

enum { SET = 16, USED = 32 }; /* beside the policy: it may not be set any more */
static _Atomic(int) policy = HBW_POLICY_PREFERRED;

NUMALLOC_API hbw_policy_t hbw_get_policy(void) { return (hbw_policy_t)(atomic_load(&policy) & (SET - 1)); }

NUMALLOC_API int hbw_set_policy(hbw_policy_t mode) {
    int unset = HBW_POLICY_PREFERRED;
    if (mode < HBW_POLICY_BIND || mode > HBW_POLICY_BIND_ALL) return EINVAL;
    return atomic_compare_exchange_strong(&policy, &unset, (int)mode | SET) ? 0 : EPERM;
}

NUMALLOC_API int hbw_check_available(void) { return memkind_check_available(MEMKIND_HBW) == 0 ? 0 : ENODEV; }

/* The kind of the policy, which can't be set any more. */
static memkind_t hbw_kind(void) {
    int now = atomic_load_explicit(&policy, memory_order_relaxed);
    if ((now & (SET | USED)) == 0) now = atomic_fetch_or(&policy, USED);
    switch (now & (SET - 1)) {
    case HBW_POLICY_BIND: return MEMKIND_HBW;
    case HBW_POLICY_BIND_ALL: return MEMKIND_HBW_ALL;
    case HBW_POLICY_INTERLEAVE: return MEMKIND_HBW_INTERLEAVE;
    default: return hbw_check_available() == 0 ? MEMKIND_HBW_PREFERRED : MEMKIND_DEFAULT;
    }
}

NUMALLOC_API void *hbw_malloc(size_t size) { return allocate(hbw_kind(), size, 0, 0); }
NUMALLOC_API void *hbw_calloc(size_t num, size_t size) { return allocate_zero(hbw_kind(), num, size); }
NUMALLOC_API void *hbw_realloc(void *ptr, size_t size) { return resize(hbw_kind(), ptr, size); }
NUMALLOC_API void hbw_free(void *ptr) { numalloc_free(ptr); }
NUMALLOC_API size_t hbw_malloc_usable_size(void *ptr) { return numalloc_usable_size(ptr); }
NUMALLOC_API int hbw_posix_memalign(void **memptr, size_t alignment, size_t size) {
    return allocate_aligned(hbw_kind(), memptr, alignment, size);
}

NUMALLOC_API int hbw_verify_memory_region(void *addr, size_t size, int flags) {
    numalloc_nodemask_t nodes;
    numalloc_page_counts_t counts;
    if (addr == NULL || size == 0 || (flags & ~HBW_TOUCH_PAGES) != 0) return EINVAL;
    if ((flags & HBW_TOUCH_PAGES) != 0) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        for (char *at = addr, *end = at + size; at < end; at = (char *)(((uintptr_t)at | (page - 1)) + 1)) {
            volatile char *byte = at;
            *byte = *byte;
        }
    }
    if (numalloc_page_nodes(addr, size, &counts) != 0 || counts.failed != 0) return EFAULT;
    if (!available(MEMKIND_HBW, &nodes)) return -1;
    size_t there = 0;
    for (int node = 0; node < NUMALLOC_MAX_NODES; node++)
        if (has_node(&nodes, node)) there += counts.on_node[node];
    return there == counts.pages ? 0 : -1;
}
