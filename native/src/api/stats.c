/* SPDX-License-Identifier: BSD-3-Clause
 *
 * stats.c: statistics, gathered when asked for: the fast paths count in the page's own word only.
 *
 * Threads: each region under its lock. Counts of pages that other threads work on at the moment are read as
 * they stand, hence approximate.
 */
#include "api/api.h"
#include "api/sized.h"
#include "large/large.h"
#include "space/space.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Other threads' pages change while we look; that is what "approximate" means. */
#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread")))
#endif
static void
add_live_pages(const na_region *region, numalloc_stats_t *stats) {
    for (uint32_t i = 0; i < region->span_count; i++) {
        const na_span *span = na_descriptor_at(region, i);
        if (span->kind != NA_PAGE || span->slices == 0) continue;
        uint64_t used = na_page_used(span), waiting = na_remote_count(span);
        if (waiting > used) waiting = used;
        stats->pages++;
        stats->allocations += span->frees + used;
        used -= waiting;
        stats->frees += span->frees + waiting;
        stats->allocated_bytes += used * span->block_size;
    }
}

#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread")))
#endif
static void
add_heaps(const na_region *region, numalloc_stats_t *stats) {
    for (const na_heap *heap = region->all; heap != NULL; heap = heap->all_next) {
        if (atomic_load_explicit(&heap->thread, memory_order_relaxed) != NULL) stats->heaps++;
        stats->remote_frees += heap->remote_frees;
        for (unsigned c = 0; na_secure && c < NA_CLASSES; c++) { /* freed, but used as far as their pages know */
            stats->frees += na_secure_held(heap, c);
            stats->allocated_bytes -= na_secure_held(heap, c) * class_to_size(c);
        }
        stats->allocations += heap->gone_frees;
        stats->frees += heap->gone_frees;
        for (unsigned c = 0; c < NA_CLASSES; c++) { /* what was returned is counted again by its page */
            const na_cache *cache = &heap->cache[c];
            uint64_t waiting = cache->count, frees = cache->frees - heap->returned[c];
            stats->frees += frees;
            stats->allocations += frees - waiting;
            stats->allocated_bytes -= waiting * class_to_size(c);
        }
    }
    stats->abandoned_heaps += region->abandoned_count;
}

static void add_region(na_region *region, numalloc_stats_t *stats) {
    stats->fallbacks += atomic_load_explicit(&region->fallbacks, memory_order_relaxed);
    stats->lost_blocks += atomic_load_explicit(&region->lost_blocks, memory_order_relaxed);
    stats->strict_failures += atomic_load_explicit(&region->strict_failures, memory_order_relaxed);
    if (!atomic_load_explicit(&region->opened, memory_order_acquire)) return;
    pthread_mutex_lock(&region->lock);
    add_live_pages(region, stats);
    add_heaps(region, stats);
    na_span_cache_counts cached = na_span_cache_count(region); /* taken and given without the region's knowledge */
    uint64_t large_bytes = region->large_bytes + cached.taken_bytes - cached.freed_bytes;
    stats->allocations += region->large_allocations + cached.taken;
    stats->frees += region->large_frees + cached.freed;
    stats->allocated_bytes += large_bytes;
    stats->large_blocks += region->large_blocks + cached.taken - cached.freed;
    stats->large_bytes += large_bytes;
    stats->huge_bytes += region->huge_bytes;
    stats->cached_bytes += cached.bytes + region->dirty_bytes;
    stats->committed_bytes += atomic_load_explicit(&region->used_bytes, memory_order_relaxed) + region->dirty_bytes;
    stats->peak_bytes += region->peak_bytes;
    stats->purged_bytes += region->purged_bytes;
    pthread_mutex_unlock(&region->lock);
}

/* Lists as many as there is room for; how many there are. No room: counts alone. */
static size_t list_region(na_region *region, numalloc_range_t *ranges, size_t capacity, uint64_t *bytes) {
    if (!atomic_load_explicit(&region->opened, memory_order_acquire)) return 0;
    size_t count = 0;
    pthread_mutex_lock(&region->lock);
    if (capacity == 0) {
        na_span_cache_counts cached = na_span_cache_count(region);
        count = region->large_blocks + cached.taken - cached.freed;
        *bytes += region->large_bytes + cached.taken_bytes - cached.freed_bytes;
    }
    for (uint32_t i = 0; capacity != 0 && i < region->span_count; i++) {
        const na_span *span = na_descriptor_at(region, i);
        if (na_kind(span) != NA_LARGE || span->slices == 0) continue;
        if (count < capacity) ranges[count] = (numalloc_range_t){(void *)span->start, na_span_bytes(span)};
        *bytes += na_span_bytes(span);
        count++;
    }
    pthread_mutex_unlock(&region->lock);
    return count;
}

size_t numalloc_large_blocks(numalloc_range_t *ranges, size_t capacity, uint64_t *bytes) {
    if (!na_init()) return 0;
    size_t count = 0;
    uint64_t sum = 0;
    for (int i = 0; i < na_region_count; i++) {
        size_t listed = count < capacity ? count : capacity;
        count += list_region(&na_regions[i], ranges + listed, capacity - listed, &sum);
    }
    if (bytes != NULL) *bytes = sum;
    return count;
}

int numalloc_stats_sized(int node, numalloc_stats_t *stats, size_t bytes) {
    if (!na_answer(stats, bytes, sizeof *stats)) return EINVAL;
    if (!na_init()) return errno;
    if (node == -1) {
        for (int i = 0; i < na_region_count; i++) add_region(&na_regions[i], stats);
        return 0;
    }
    if (!nodeset_has(&na_topo.allowed, node)) return ENODEV;
    for (int i = 0; i < na_region_count; i++)
        if (na_regions[i].node == node) add_region(&na_regions[i], stats);
    return 0;
}

/* The same by another name, which the dynamic linker does not look at. */
extern __typeof__(numalloc_stats_sized) own_stats __attribute__((alias("numalloc_stats_sized"), visibility("hidden")));

bool na_serves(void) {
    int (*volatile public)(int, numalloc_stats_t *, size_t) = numalloc_stats_sized;
    int (*volatile own)(int, numalloc_stats_t *, size_t) = own_stats;
    return public == own;
}

/* ---- JSON ------------------------------------------------------------------------------------------- */

typedef struct writer {
    char *buffer;
    size_t capacity, length; /* length may run beyond capacity: what it would take */
} writer;

__attribute__((format(printf, 2, 3))) static void put(writer *out, const char *format, ...) {
    size_t left = out->length < out->capacity ? out->capacity - out->length : 0;
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(left != 0 ? out->buffer + out->length : NULL, left, format, arguments);
    va_end(arguments);
    if (written > 0) out->length += (size_t)written;
}

static void put_stats(writer *out, const numalloc_stats_t *stats) {
#define FIELD(name, comma) put(out, "\"%s\": %llu%s", #name, (unsigned long long)stats->name, comma)
    FIELD(allocated_bytes, ", ");
    FIELD(peak_bytes, ", ");
    FIELD(committed_bytes, ", ");
    FIELD(allocations, ", ");
    FIELD(frees, ", ");
    FIELD(remote_frees, ", ");
    FIELD(fallbacks, ", ");
    FIELD(strict_failures, ", ");
    FIELD(large_blocks, ", ");
    FIELD(large_bytes, ", ");
    FIELD(huge_bytes, ", ");
    FIELD(cached_bytes, ", ");
    FIELD(purged_bytes, ", ");
    FIELD(heaps, ", ");
    FIELD(abandoned_heaps, ", ");
    FIELD(pages, ", ");
    FIELD(lost_blocks, "");
#undef FIELD
}

static void put_node(writer *out, int node, bool first) {
    numalloc_node_info_t info;
    numalloc_stats_t stats;
    if (numalloc_node_info(node, &info) != 0 || numalloc_stats(node, &stats) != 0) return;
    put(out, "%s{\"node\": %d, \"cpus\": %d, \"total_bytes\": %llu, \"free_bytes\": %llu, ", first ? "" : ", ", node,
        info.cpus, (unsigned long long)info.total_bytes, (unsigned long long)info.free_bytes);
    put_stats(out, &stats);
    put(out, "}");
}

size_t numalloc_stats_json(char *buffer, size_t capacity) {
    writer out = {buffer, buffer != NULL ? capacity : 0, 0};
    numalloc_stats_t total;
    if (numalloc_stats(-1, &total) != 0) memset(&total, 0, sizeof total);
    put(&out, "{\"version\": \"%s\", \"options\": {", NUMALLOC_VERSION);
    size_t left = out.length < out.capacity ? out.capacity - out.length : 0;
    out.length += na_options_json(left != 0 ? buffer + out.length : NULL, left);
    char policy[512];
    na_topology_policy_text(policy, sizeof policy);
    put(&out, "}, \"can_bind\": %d, \"can_query\": %d, \"inherited_policy\": \"%s\", ", numalloc_can_bind(),
        na_topo.online_count > 1 ? os_can_query() : 0, policy);
    put(&out, "\"reserved_bytes\": %llu, \"region_bytes\": %llu, \"total\": {", (unsigned long long)na_reserved,
        1ULL << na_shift);
    put_stats(&out, &total);
    put(&out, "}, \"nodes\": [");
    for (int i = 0; i < na_topo.node_count; i++) put_node(&out, na_topo.node_id[i], i == 0);
    put(&out, "]}");
    return out.length;
}

__attribute__((destructor)) static void report_at_exit(void) {
    if (!na_opt.stats_at_exit) return;
    size_t bytes = numalloc_stats_json(NULL, 0) + 4096; /* counters may grow by digits meanwhile */
    void *text;
    bytes = (bytes + os_page_size() - 1) & ~(os_page_size() - 1);
    if (os_map(bytes, &text) != 0) return;
    numalloc_stats_json(text, bytes);
    os_message("%s", (char *)text);
    (void)os_release(text, bytes);
}
