/* SPDX-License-Identifier: BSD-3-Clause */
/* region.c, span.c, dirty.c: address space is cut, joined, purged and limited as said. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "api/api.h"
#include "check.h"
#include "space/space.h"

static na_region *fresh_region(void) {
    CHECK(na_init());
    na_region *region = na_region_node(0, false);
    CHECK_EQUAL(na_region_open(region), 0);
    return region;
}

static na_span *take(na_region *region, uint32_t slices, uint32_t align) {
    bool clean;
    na_span *span = na_span_alloc(region, slices, align, NA_LOST, false, &clean);
    CHECK(span != NULL);
    return span;
}

static void dirty_bits_count_ranges(void) {
    na_region *region = fresh_region();
    na_span *span = take(region, 200, 1);
    pthread_mutex_lock(&region->lock);
    uintptr_t start = span->start;
    na_dirty_set(start, 200, 300);
    CHECK_EQUAL(na_dirty_count(start, 200), 200);
    CHECK_EQUAL(na_dirty_age(na_dirty[na_slice_index(start)], 304), 4);
    na_dirty_clear(start + 10 * NA_SLICE, 100);
    CHECK_EQUAL(na_dirty_count(start, 200), 100);
    CHECK_EQUAL(na_dirty_count(start + 10 * NA_SLICE, 100), 0);
    CHECK_EQUAL(na_dirty_count(start + 9 * NA_SLICE, 2), 1);
    na_dirty_set(start, 200, 0);
    CHECK_EQUAL(na_dirty_count(start, 200), 200);
    pthread_mutex_unlock(&region->lock);
    na_span_free(region, span, os_now_ms());
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void spans_are_aligned_and_disjoint(void) {
    na_region *region = fresh_region();
    enum { N = 300 };
    na_span *span[N];
    unsigned r = 1;
    for (int i = 0; i < N; i++) {
        r = r * 1103515245u + 12345u;
        uint32_t align = 1u << (r >> 16) % 7;
        span[i] = take(region, 1 + (r >> 20) % 90, align);
        CHECK_EQUAL((span[i]->start >> NA_SLICE_SHIFT) % align, 0);
        CHECK(na_span_at((char *)span[i]->start + NA_SLICE / 2) == span[i]);
    }
    CHECK_EQUAL(numalloc_verify(), 0);
    for (int i = 0; i < N; i += 2) na_span_free(region, span[i], os_now_ms());
    CHECK_EQUAL(numalloc_verify(), 0);
    for (int i = 1; i < N; i += 2) na_span_free(region, span[i], os_now_ms());
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void extend_and_trim_in_place(void) {
    na_region *region = fresh_region();
    na_span *a = take(region, 20, 1);
    na_span_trim(region, a, 5);
    CHECK_EQUAL(a->slices, 5);
    CHECK_EQUAL(numalloc_verify(), 0);
    CHECK(na_span_extend(region, a, 15));
    CHECK_EQUAL(a->slices, 15);
    CHECK_EQUAL(numalloc_verify(), 0);
    na_span_free(region, a, os_now_ms());
    na_span *b = take(region, 4, 1), *c = take(region, 4, 1);
    na_span *low = b->start < c->start ? b : c;
    if (low->start + 4 * NA_SLICE == (low == b ? c : b)->start) CHECK(!na_span_extend(region, low, 8));
    na_span_free(region, b, os_now_ms());
    na_span_free(region, c, os_now_ms());
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void purge_returns_what_is_free(void) {
    if (os_can_query() != 0) SKIP("move_pages is not permitted");
    size_t bytes = (size_t)32 << 20;
    numalloc_purge();
    char *p = numalloc(bytes);
    CHECK(p != NULL);
    memset(p, 1, bytes);
    numalloc_stats_t before, after;
    CHECK_EQUAL(numalloc_stats(-1, &before), 0);
    numalloc_free(p);
    CHECK(numalloc_purge() > 0);
    CHECK_EQUAL(numalloc_stats(-1, &after), 0);
    CHECK(after.purged_bytes - before.purged_bytes >= bytes);
    int status;
    CHECK_EQUAL(os_query_pages(p, 1, &status), 0);
    CHECK_EQUAL(status, -ENOENT); /* the page is gone */
    CHECK_EQUAL(numalloc_purge(), 0);
}

static void purge_never_keeps(void) {
    na_opt.purge_delay_ms = NA_PURGE_NEVER;
    char *p = numalloc((size_t)8 << 20);
    memset(p, 1, (size_t)8 << 20);
    numalloc_free(p);
    if (numalloc_purge() != 0) _exit(2);
    int status;
    if (os_query_pages(p, 1, &status) == 0 && status < 0) _exit(3);
}

static void decays(void) {
    na_opt.purge_delay_ms = 20;
    size_t bytes = (size_t)32 << 20;
    char *p = numalloc(bytes);
    memset(p, 1, bytes);
    numalloc_free(p);
    struct timespec nap = {0, 100000000};
    nanosleep(&nap, NULL);
    numalloc_free(numalloc(3000000)); /* any work on spans purges what is due */
    numalloc_stats_t stats;
    numalloc_stats(-1, &stats);
    if (stats.purged_bytes < bytes - ((size_t)6 << 20)) _exit(2);
}

static void node_limit_is_enomem(void) {
    numalloc_purge();
    na_opt.node_limit = (uint64_t)64 << 20;
    void *p = numalloc((size_t)40 << 20);
    if (p == NULL) _exit(2);
    errno = 0;
    if (numalloc((size_t)40 << 20) != NULL || errno != ENOMEM) _exit(3);
    numalloc_free(p);
    p = numalloc((size_t)40 << 20); /* freed memory counts until it is purged, which the limit does */
    if (p == NULL) _exit(4);
    numalloc_free(p);
    int n = 0;
    static void *small[2000000];
    while (n < 2000000 && (small[n] = numalloc(1000)) != NULL) n++;
    if (n < 50000 || n == 2000000 || errno != ENOMEM) _exit(5);
    while (n-- > 0) numalloc_free(small[n]);
    if (numalloc_verify() != 0) _exit(6);
}

static void small_address_space(void) {
    /* Opening more than the limit leaves fails with ENOMEM, nothing dies, and what was there stays usable. */
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = (rlim_t)1 << 30; /* below what is reserved already */
    setrlimit(RLIMIT_AS, &limit);
    void *p = numalloc(1000);
    if (p == NULL) _exit(2);
    numalloc_free(p);
    if (numalloc_verify() != 0) _exit(3);
}

static int in_child(void (*body)(void)) {
    static char text[4096];
    int code = check_child(body, text, sizeof text);
    if (code != 0) printf("code %d: %s\n", code, text);
    return code;
}

static void memory_returns(void) {
    CHECK_EQUAL(in_child(purge_never_keeps), 0);
    CHECK_EQUAL(in_child(decays), 0);
}

static void limits_hold(void) {
    CHECK_EQUAL(in_child(node_limit_is_enomem), 0);
    CHECK_EQUAL(in_child(small_address_space), 0);
}

/* Started under ulimit -v the reservation is small; started with a size, it has that. */
static void reservation_fits_the_process(void) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* their shadow alone is terabytes */
    CHECK_EQUAL(system("(ulimit -v 2000000; \"$CHECK_SELF\" allocates_some) >/dev/null"), 0);
#endif
    CHECK_EQUAL(system("NUMALLOC_RESERVE=1G \"$CHECK_SELF\" allocates_some >/dev/null"), 0);
}

static void allocates_some(void) {
    void *p[100];
    for (int i = 0; i < 100; i++) {
        CHECK((p[i] = numalloc((size_t)i * 20000)) != NULL);
        memset(p[i], 1, (size_t)i * 20000);
    }
    for (int i = 0; i < 100; i++) numalloc_free(p[i]);
    CHECK_EQUAL(numalloc_verify(), 0);
    if (na_opt.reserve != 0) {
        CHECK_EQUAL((size_t)1 << na_shift, na_opt.reserve);
        errno = 0;
        CHECK(numalloc((size_t)2 << 30) == NULL);
        CHECK_EQUAL(errno, ENOMEM);
    }
}

/* Address space was let go, and somebody else's mappings fill what is not reserved of the metadata, and a place far up in the
 * small part. */
static void others_move_in_body(void) {
    enum { BLOCKS = 1000 };
    static char *block[BLOCKS];
    na_region *region = na_region_node(0, na_use_local(false));
    numalloc_free(numalloc(100000));
    CHECK(na_regions_let_go((uint64_t)16 << 30));
    uintptr_t hole = region->kept_low, end = region->kept_high, page = region->part[0].limit - NA_SLICE;
    CHECK(hole - region->base >= (((uintptr_t)1 << 30) >> NA_SLICE_SHIFT) * sizeof(na_span));
    CHECK_EQUAL(os_map_at((void *)region->descriptors_end, NA_SLICE), EEXIST);
    CHECK_EQUAL(os_map_at((void *)(region->meta_opened - NA_SLICE), NA_SLICE), EEXIST);
    CHECK_EQUAL(os_map_at((void *)hole, end - hole), 0);
    CHECK_EQUAL(os_map_at((void *)page, NA_SLICE), 0);
    for (int i = 0; i < BLOCKS; i++) {
        CHECK((block[i] = numalloc(i % 2 == 0 ? 70000 : 600000)) != NULL);
        block[i][0] = 1;
    }
    CHECK(na_is_ours(block[0]) && na_is_ours((void *)region->base) && na_is_ours((void *)(end + 1)));
    CHECK(!na_is_ours((void *)hole) && !na_is_ours((void *)page));
    numalloc_nodemask_t node = nodeset_single(na_topo.node_id[0]);
    CHECK_EQUAL(numalloc_prefault((void *)page, NA_SLICE), 0);
    CHECK_EQUAL(numalloc_bind_range((void *)page, NA_SLICE, &node), 0);
    CHECK_EQUAL(numalloc_prefault(block[0] + 100, NA_SLICE * 3), EFAULT); /* beyond one of its blocks */
    for (int i = 0; i < BLOCKS; i++) numalloc_free(block[i]);
    CHECK_EQUAL(numalloc_verify(), 0);
}
static void others_move_in(void) { CHECK_EQUAL(check_child(others_move_in_body, NULL, 0), 0); }

static const check_case cases[] = {
    {"dirty_bits_count_ranges", dirty_bits_count_ranges},
    {"spans_are_aligned_and_disjoint", spans_are_aligned_and_disjoint},
    {"extend_and_trim_in_place", extend_and_trim_in_place},
    {"purge_returns_what_is_free", purge_returns_what_is_free},
    {"memory_returns", memory_returns},
    {"limits_hold", limits_hold},
    {"allocates_some", allocates_some},
    {"others_move_in", others_move_in},
    {"reservation_fits_the_process", reservation_fits_the_process},
};

int main(int argc, char **argv) {
    setenv("CHECK_SELF", argv[0], 1);
    return check_main(cases, sizeof cases / sizeof cases[0], argc, argv);
}
