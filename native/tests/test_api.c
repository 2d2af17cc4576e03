/* SPDX-License-Identifier: BSD-3-Clause */
/* api.c, large.c, mixed.c, placement.c through the public calls: what each gives, keeps and refuses. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "check.h"
#include "numa_alloc.h"

static numalloc_stats_t total(void) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    return stats;
}

static int all_bytes_are(const unsigned char *p, unsigned char value, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (p[i] != value) return 0;
    return 1;
}

static void sizes_from_zero_to_megabytes(void) {
    for (size_t size = 0; size < (size_t)8 << 20; size = size * 5 / 4 + 1) {
        char *p = numalloc(size);
        CHECK(p != NULL);
        CHECK_EQUAL((uintptr_t)p % 16, 0);
        CHECK(numalloc_usable_size(p) >= size);
        memset(p, 0x5a, numalloc_usable_size(p));
        numalloc_free(p);
    }
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void zero_size_blocks_are_distinct(void) {
    void *a = numalloc(0), *b = numalloc(0);
    CHECK(a != NULL && b != NULL && a != b);
    numalloc_free(a);
    numalloc_free(b);
    numalloc_free(NULL);
}

static void live_blocks_do_not_overlap(void) {
    enum { N = 3000 };
    static unsigned char *block[N];
    static size_t size[N];
    for (int i = 0; i < N; i++) {
        size[i] = (size_t)(i * 37 % 5000) + (i % 100 == 0 ? 200000 : 1);
        block[i] = numalloc(size[i]);
        CHECK(block[i] != NULL);
        memset(block[i], i & 0xff, size[i]);
    }
    for (int i = 0; i < N; i++) CHECK(all_bytes_are(block[i], (unsigned char)(i & 0xff), size[i]));
    for (int i = 0; i < N; i++) numalloc_free(block[i]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void calloc_is_zero_on_used_memory(void) {
    for (int round = 0; round < 3; round++) {
        for (size_t size = 1; size < (size_t)4 << 20; size = size * 3 / 2 + 1) {
            unsigned char *p = numalloc_calloc(1, size);
            CHECK(p != NULL);
            CHECK(all_bytes_are(p, 0, size));
            memset(p, 0xff, numalloc_usable_size(p));
            numalloc_free(p);
        }
    }
}

/* Rather a freed block of one of the next classes than new memory, as all of it is written to; not so malloc. The first
 * case: no others are free. Secure mode holds blocks back. */
static void calloc_takes_freed_blocks_of_next_classes(void) {
    const char *secure = getenv("NUMALLOC_SECURE");
    if (secure != NULL && secure[0] == '1') return;
    char *longer = numalloc(40000);
    memset(longer, 1, 40000);
    numalloc_free(longer);
    char *other = numalloc(30000), *zero = numalloc_calloc(1, 30000);
    CHECK(other != longer && zero == longer);
    CHECK(all_bytes_are((unsigned char *)zero, 0, 30000));
    CHECK(numalloc_realloc(zero, 30000) == zero);
    numalloc_free(zero);
    numalloc_free(other);
}

/* A large block of partly dirty slices: only the dirty ones need clearing, all must read as zero. */
static void calloc_over_mixed_dirty_memory(void) {
    numalloc_purge();
    unsigned char *a = numalloc((size_t)2 << 20), *b = numalloc((size_t)2 << 20);
    CHECK(a != NULL && b != NULL);
    memset(a, 0xff, (size_t)2 << 20);
    memset(b + 65536, 0xff, 65536);
    numalloc_free(a);
    numalloc_free(b);
    unsigned char *c = numalloc_calloc(1, (size_t)6 << 20);
    CHECK(c != NULL);
    CHECK(all_bytes_are(c, 0, (size_t)6 << 20));
    numalloc_free(c);
}

static void alignments_up_to_a_gigabyte(void) {
    for (size_t align = 1; align <= (size_t)1 << 30; align *= 2) {
        static const size_t sizes[] = {1, 24, 100, 4096, 70000, 3000000};
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            char *p = numalloc_aligned(align, sizes[i]);
            CHECK(p != NULL);
            CHECK_EQUAL((uintptr_t)p % align, 0);
            memset(p, 1, sizes[i]);
            numalloc_free(p);
        }
    }
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void bad_alignments_are_refused(void) {
    static const size_t bad[] = {0, 3, 24, (size_t)1 << 31, SIZE_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        errno = 0;
        CHECK(numalloc_aligned(bad[i], 64) == NULL);
        CHECK_EQUAL(errno, EINVAL);
    }
}

static void huge_sizes_are_enomem(void) {
    static const size_t sizes[] = {
        SIZE_MAX, SIZE_MAX - 15, SIZE_MAX - 65536, (size_t)PTRDIFF_MAX, (size_t)PTRDIFF_MAX + 1, (size_t)1 << 60};
    void *small = numalloc(100), *large = numalloc(1000000);
    memset(small, 7, 100);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t size = sizes[i];
        errno = 0;
        CHECK(numalloc(size) == NULL);
        CHECK_EQUAL(errno, ENOMEM);
        errno = 0;
        CHECK(numalloc_calloc(size, 3) == NULL);
        CHECK_EQUAL(errno, ENOMEM);
        errno = 0;
        CHECK(numalloc_aligned(4096, size) == NULL);
        CHECK_EQUAL(errno, ENOMEM);
        errno = 0;
        CHECK(numalloc_interleaved(size, NULL) == NULL);
        CHECK_EQUAL(errno, ENOMEM);
        errno = 0;
        CHECK(numalloc_realloc(small, size) == NULL);
        CHECK_EQUAL(errno, ENOMEM);
        errno = 0;
        CHECK(numalloc_realloc(large, size) == NULL);
        CHECK_EQUAL(errno, ENOMEM);
    }
    CHECK(all_bytes_are(small, 7, 100)); /* a failed realloc leaves the block alone */
    numalloc_free(small);
    numalloc_free(large);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void realloc_keeps_contents(void) {
    unsigned char *p = NULL;
    size_t before = 0;
    for (size_t size = 1; size < (size_t)64 << 20; size = size * 2 + 3) {
        p = numalloc_realloc(p, size);
        CHECK(p != NULL);
        CHECK(all_bytes_are(p, 0x11, before));
        memset(p, 0x11, size);
        before = size;
    }
    for (size_t size = before; size > 1; size /= 3) {
        p = numalloc_realloc(p, size);
        CHECK(p != NULL);
        CHECK(all_bytes_are(p, 0x11, size));
    }
    CHECK(numalloc_realloc(p, 0) == NULL);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* Two growing blocks block each other's way, so growth must move (mremap for large ones). */
static void realloc_of_neighbours_moves(void) {
    unsigned char *a = NULL, *b = NULL;
    for (size_t size = (size_t)1 << 20; size <= (size_t)32 << 20; size += (size_t)1 << 20) {
        a = numalloc_realloc(a, size);
        b = numalloc_realloc(b, size);
        CHECK(a != NULL && b != NULL);
        size_t old = size - ((size_t)1 << 20);
        CHECK(all_bytes_are(a, 0xaa, old) && all_bytes_are(b, 0xbb, old));
        memset(a + old, 0xaa, size - old);
        memset(b + old, 0xbb, size - old);
    }
    numalloc_free(a);
    numalloc_free(b);
    unsigned char *zero = numalloc_calloc(1, (size_t)64 << 20);
    CHECK(zero != NULL && all_bytes_are(zero, 0, (size_t)64 << 20));
    numalloc_free(zero);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* What coalescing is for: fragments, freed, make one large block of the same memory. */
static void free_spans_coalesce(void) {
    enum { N = 64 };
    numalloc_purge();
    void *fragment[N];
    for (int i = 0; i < N; i++) CHECK((fragment[i] = numalloc((size_t)2 << 20)) != NULL);
    uintptr_t low = UINTPTR_MAX, high = 0;
    for (int i = 0; i < N; i++) {
        if ((uintptr_t)fragment[i] < low) low = (uintptr_t)fragment[i];
        if ((uintptr_t)fragment[i] > high) high = (uintptr_t)fragment[i];
    }
    for (int i = 0; i < N; i += 2) numalloc_free(fragment[i]);
    for (int i = 1; i < N; i += 2) numalloc_free(fragment[i]);
    char *whole = numalloc((size_t)64 << 20);
    CHECK(whole != NULL);
    CHECK((uintptr_t)whole >= low && (uintptr_t)whole <= high);
    numalloc_free(whole);
}

static void nothing_is_lost(void) {
    numalloc_purge();
    numalloc_stats_t before = total();
    for (int round = 0; round < 20; round++) {
        void *p[200];
        for (int i = 0; i < 200; i++) p[i] = numalloc((size_t)(i * 997 % 150000));
        for (int i = 0; i < 200; i++) numalloc_free(p[i]);
    }
    numalloc_cleanup();
    numalloc_stats_t after = total();
    CHECK_EQUAL(after.allocated_bytes, before.allocated_bytes);
    CHECK_EQUAL(after.allocations - before.allocations, 4000);
    CHECK_EQUAL(after.frees - before.frees, 4000);
    CHECK_EQUAL(after.cached_bytes, 0);
}

static void block_info_describes_blocks(void) {
    numalloc_block_info_t info;
    char *small = numalloc(100), *large = numalloc(1000000);
    CHECK_EQUAL(numalloc_block_info(small + 50, &info), 0);
    CHECK(info.start == small && info.size >= 100 && info.size_class >= 0);
    CHECK_EQUAL(info.numa_node, numalloc_node_of(small));
    CHECK_EQUAL(numalloc_block_info(large + 999999, &info), 0);
    CHECK(info.start == large && info.size >= 1000000);
    CHECK_EQUAL(info.size_class, -1);
    int local = 0;
    CHECK_EQUAL(numalloc_block_info(&local, &info), EFAULT);
    CHECK_EQUAL(numalloc_node_of(&local), NUMALLOC_NODE_FOREIGN);
    CHECK_EQUAL(numalloc_usable_size(&local), 0);
    CHECK_EQUAL(numalloc_usable_size(NULL), 0);
    numalloc_free(small);
    CHECK_EQUAL(numalloc_block_info(small, &info), EFAULT);
    numalloc_free(large);
    CHECK_EQUAL(numalloc_block_info(large, &info), EFAULT);
}

static void every_policy_gives_memory(void) {
    int node;
    CHECK(numalloc_node_ids(&node, 1) >= 1);
    static const size_t sizes[] = {16, 2048, 8192, 200000, (size_t)5 << 20};
    for (int policy = NUMALLOC_LOCAL; policy <= NUMALLOC_BLOCKED; policy++)
        for (int strict = 0; strict < 2; strict++)
            for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
                numalloc_request_t request = {.size = sizes[i],
                                              .policy = policy,
                                              .node = node,
                                              .align = 64,
                                              .flags = NUMALLOC_ZERO | (strict ? NUMALLOC_STRICT : 0u)};
                unsigned char *p = numalloc_request(&request);
                CHECK(p != NULL);
                CHECK_EQUAL((uintptr_t)p % 64, 0);
                CHECK(all_bytes_are(p, 0, sizes[i]));
                numalloc_block_info_t info;
                CHECK_EQUAL(numalloc_block_info(p, &info), 0);
                CHECK_EQUAL(info.flags & NUMALLOC_STRICT, strict ? NUMALLOC_STRICT : 0);
                memset(p, 0xee, sizes[i]);
                p = numalloc_realloc(p, sizes[i] * 2);
                CHECK(p != NULL && all_bytes_are(p, 0xee, sizes[i]));
                CHECK_EQUAL(numalloc_block_info(p, &info), 0);
                CHECK_EQUAL(info.flags & NUMALLOC_STRICT, strict ? NUMALLOC_STRICT : 0);
                numalloc_free(p);
            }
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void strict_memory_is_there_at_once(void) {
    if (numalloc_can_query() != 0) SKIP("move_pages is not permitted");
    numalloc_request_t request = {.size = (size_t)3 << 20, .flags = NUMALLOC_STRICT};
    void *p = numalloc_request(&request);
    CHECK(p != NULL);
    numalloc_page_counts_t counts;
    CHECK_EQUAL(numalloc_page_nodes(p, request.size, &counts), 0);
    CHECK_EQUAL(counts.untouched, 0);
    CHECK_EQUAL(counts.on_node[numalloc_node_of(p)], counts.pages);
    numalloc_free(p);
}

static void bad_requests_are_refused(void) {
    numalloc_nodemask_t empty = {{0}}, absent = {{0}};
    absent.word[NUMALLOC_MAX_NODES / 64 - 1] = UINT64_C(1) << 63;
    const struct {
        numalloc_request_t request;
        int error;
    } bad[] = {
        {{.size = 64, .policy = 99}, EINVAL},
        {{.size = 64, .policy = -1}, EINVAL},
        {{.size = 64, .flags = 1u << 20}, EINVAL},
        {{.size = 64, .align = 48}, EINVAL},
        {{.size = 64, .policy = NUMALLOC_ONNODE, .node = 1023}, ENODEV},
        {{.size = 64, .policy = NUMALLOC_ONNODE, .node = -1}, ENODEV},
        {{.size = 64, .policy = NUMALLOC_ONNODE, .node = 5000000}, ENODEV},
        {{.size = 64, .policy = NUMALLOC_INTERLEAVE, .nodes = &empty}, EINVAL},
        {{.size = 64, .policy = NUMALLOC_INTERLEAVE, .nodes = &absent}, ENODEV},
        {{.size = 1 << 20, .policy = NUMALLOC_BLOCKED, .nodes = &absent}, ENODEV},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        errno = 0;
        CHECK(numalloc_request(&bad[i].request) == NULL);
        CHECK_EQUAL(errno, bad[i].error);
    }
    errno = 0;
    CHECK(numalloc_request(NULL) == NULL);
    CHECK_EQUAL(errno, EINVAL);
    CHECK_EQUAL(numalloc_bind_thread(1023), ENODEV);
    CHECK_EQUAL(numalloc_bind_thread(-1), ENODEV);
    CHECK_EQUAL(numalloc_memory_policy(NUMALLOC_BLOCKED, 0, NULL), EINVAL);
    CHECK_EQUAL(numalloc_memory_policy(NUMALLOC_LOCAL, NUMALLOC_ZERO, NULL), EINVAL);
    CHECK_EQUAL(numalloc_memory_policy(NUMALLOC_INTERLEAVE, NUMALLOC_STRICT, NULL), EINVAL);
    CHECK_EQUAL(numalloc_memory_policy(NUMALLOC_ONNODE, 0, &empty), ENODEV);
    CHECK_EQUAL(numalloc_memory_policy(NUMALLOC_INTERLEAVE, 0, &absent), ENODEV);
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(1023, &stats), ENODEV);
    CHECK_EQUAL(numalloc_stats(-7, &stats), ENODEV);
}

static void prefault_and_page_query(void) {
    if (numalloc_can_query() != 0) SKIP("move_pages is not permitted");
    size_t bytes = (size_t)1 << 20;
    numalloc_purge();
    char *p = numalloc(bytes);
    numalloc_page_counts_t counts;
    CHECK_EQUAL(numalloc_prefault(p, bytes), 0);
    CHECK_EQUAL(numalloc_page_nodes(p, bytes, &counts), 0);
    CHECK_EQUAL(counts.pages * counts.page_size, bytes);
    CHECK_EQUAL(counts.untouched + counts.failed, 0);
    CHECK_EQUAL(numalloc_page_nodes(p, 0, &counts), 0);
    CHECK_EQUAL(counts.pages, 0);
    int local = 0;
    CHECK_EQUAL(numalloc_prefault(&local, sizeof local), 0); /* memory of others */
    CHECK_EQUAL(numalloc_prefault(p, numalloc_usable_size(p) + 1), EFAULT);
    size_t unmoved = 1;
    CHECK_EQUAL(numalloc_migrate(p, bytes, numalloc_node_of(p), &unmoved), 0);
    CHECK_EQUAL(unmoved, 0);
    CHECK_EQUAL(numalloc_migrate(p, bytes, 1023, NULL), ENODEV);
    numalloc_free(p);
}

/* A mapping that the allocator knows nothing of. */
static char *mapping_of_others(size_t bytes, int protection, int flags) {
    char *memory = mmap(NULL, bytes, protection, MAP_ANONYMOUS | flags, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static void memory_of_others(void) {
    if (numalloc_can_query() != 0 || numalloc_can_bind() != 0) SKIP("placement is not permitted");
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = 256 * page;
    int ids[NUMALLOC_MAX_NODES];
    CHECK(numalloc_node_ids(ids, NUMALLOC_MAX_NODES) >= 1);
    numalloc_nodemask_t first = {{0}}, none = {{0}}, absent = {{0}};
    first.word[ids[0] / 64] |= UINT64_C(1) << (ids[0] % 64);
    absent.word[15] = UINT64_C(1) << 63;
    for (int shared = 0; shared < 2; shared++) {
        char *p = mapping_of_others(bytes, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE);
        CHECK(p != NULL);
        CHECK_EQUAL(numalloc_bind_range(p, bytes, &first), 0);
        CHECK_EQUAL(numalloc_bind_range(p, 0, &first), 0);
        CHECK_EQUAL(numalloc_bind_range(p + 1, page, &first), EINVAL);
        CHECK_EQUAL(numalloc_bind_range(p, page + 1, &first), EINVAL);
        CHECK_EQUAL(numalloc_bind_range(p, page, NULL), EINVAL);
        CHECK_EQUAL(numalloc_bind_range(p, page, &none), ENODEV);
        CHECK_EQUAL(numalloc_bind_range(p, page, &absent), ENODEV);

        numalloc_migration_t moved;
        CHECK_EQUAL(numalloc_migrate_pages(p, bytes, &first, 0, &moved), 0);
        CHECK_EQUAL(moved.pages, 256);
        CHECK_EQUAL(moved.untouched, 256);
        p[5 * page] = 7;
        CHECK_EQUAL(numalloc_prefault(p + 1, bytes - 1), 0);
        CHECK_EQUAL(p[5 * page], 7);
        numalloc_page_counts_t counts;
        CHECK_EQUAL(numalloc_page_nodes(p, bytes, &counts), 0);
        CHECK_EQUAL(counts.on_node[ids[0]], 256);
        CHECK_EQUAL(numalloc_migrate_pages(p, bytes, &first, 4 * page, &moved), 0);
        CHECK_EQUAL(moved.stayed, 256);
        CHECK_EQUAL(moved.moved + moved.untouched, 0);
        CHECK_EQUAL(numalloc_migrate_pages(p, bytes, &first, page + 1, &moved), EINVAL);
        CHECK_EQUAL(numalloc_migrate_pages(p, bytes, &absent, 0, &moved), ENODEV);
        CHECK_EQUAL(numalloc_migrate_pages(p, bytes, NULL, 0, &moved), EINVAL);
        CHECK_EQUAL(numalloc_migrate_pages(NULL, bytes, &first, 0, &moved), EINVAL);
        CHECK_EQUAL(numalloc_migrate_pages(p, 0, &first, 0, &moved), 0);
        CHECK_EQUAL(munmap(p, bytes), 0);
    }
    char *block = numalloc(bytes);
    CHECK_EQUAL(numalloc_bind_range((void *)((uintptr_t)block & ~(page - 1)), page, &first), EINVAL);
    numalloc_free(block);

    char *unwritable = mapping_of_others(bytes, PROT_READ, MAP_PRIVATE);
    CHECK(unwritable != NULL);
    int error = madvise(unwritable, 0, 23 /* MADV_POPULATE_WRITE */);
    if (error == 0) CHECK_EQUAL(numalloc_prefault(unwritable, bytes), EACCES); /* older kernels can't tell */
    CHECK_EQUAL(munmap(unwritable, bytes), 0);
    CHECK_EQUAL(numalloc_prefault(NULL, 1), EINVAL);
    CHECK_EQUAL(numalloc_prefault(NULL, 0), 0);
    CHECK(numalloc_room() > 0);
}

static void init_is_idempotent(void) {
    CHECK_EQUAL(numalloc_init((size_t)1 << 30), 0);
    CHECK_EQUAL(numalloc_init((size_t)1 << 30), 0);
    CHECK_EQUAL(numalloc_init((size_t)1 << 29), EALREADY);
    void *beyond = numalloc(((size_t)1 << 30) + ((size_t)1 << 29)); /* a hint, not a ceiling */
    CHECK(beyond != NULL);
    numalloc_free(beyond);
    numalloc_cleanup();
    void *after = numalloc(100);
    CHECK(after != NULL);
    numalloc_free(after);
}

static void json_grows_with_the_buffer(void) {
    static char text[16384];
    size_t length = numalloc_stats_json(text, sizeof text);
    CHECK(length > 100 && length < sizeof text);
    CHECK(text[0] == '{' && text[length - 1] == '}' && strlen(text) == length);
    char small[10];
    CHECK(numalloc_stats_json(small, sizeof small) > 100); /* would have taken that much */
    CHECK_EQUAL(strlen(small), 9);
    CHECK(numalloc_stats_json(NULL, 0) > 100);
}

static void mixed_cache_interleaved_spans_are_reused(void) {
    numalloc_nodemask_t nodes = {{0}};
    int id[2];
    if (numalloc_node_ids(id, 2) < 2) {
        /* One node: interleaving over it is its own memory. */
        void *p = numalloc_interleaved((size_t)1 << 20, NULL);
        CHECK_EQUAL(numalloc_node_of(p), id[0]);
        numalloc_free(p);
        return;
    }
    nodes.word[id[0] / 64] |= UINT64_C(1) << (id[0] % 64);
    nodes.word[id[1] / 64] |= UINT64_C(1) << (id[1] % 64);
    void *p = numalloc_interleaved((size_t)1 << 20, &nodes);
    CHECK_EQUAL(numalloc_node_of(p), NUMALLOC_NODE_MIXED);
    numalloc_free(p);
    void *again = numalloc_interleaved((size_t)1 << 20, &nodes);
    CHECK(again == p);
    numalloc_free(again);
}

/* Arrays of a loop that goes through all of them: their lines of a core's first cache, 64 in a 4 KiB page. */
static void arrays_do_not_meet_in_one_set(void) {
    enum { ARRAYS = 28 };
    static const size_t sizes[] = {16384, 20480, 32768, 40960, 65536};
    for (int s = 0; s < 5; s++) {
        int met[64] = {0}, most = 0;
        void *array[ARRAYS];
        for (int i = 0; i < ARRAYS; i++) {
            CHECK((array[i] = numalloc(sizes[s])) != NULL);
            int *set = &met[(uintptr_t)array[i] % 4096 / 64];
            if (++*set > most) most = *set;
        }
        printf("%zu bytes: at most %d of %d arrays begin alike\n", sizes[s], most, ARRAYS);
        CHECK(most <= ARRAYS / 4);
        for (int i = 0; i < ARRAYS; i++) {
            CHECK((uintptr_t)array[i] % 64 == 0); /* what vectors want */
            numalloc_free(array[i]);
        }
    }
}

/* Whatever was freed before: plain and aligned blocks of a size take turns. */
static void every_size_has_every_alignment(void) {
    for (size_t align = 16; align <= 65536; align *= 2)
        for (size_t size = 8; size <= 70000; size += size < 1000 ? 24 : size / 5) {
            void *plain[3], *aligned[3];
            for (int i = 0; i < 3; i++) {
                CHECK((plain[i] = numalloc(size)) != NULL);
                CHECK((aligned[i] = numalloc_aligned(align, size)) != NULL);
                CHECK_EQUAL((uintptr_t)aligned[i] % align, 0);
                CHECK((uintptr_t)plain[i] % 16 == 0);
                CHECK(numalloc_usable_size(aligned[i]) >= size && numalloc_usable_size(plain[i]) >= size);
                memset(plain[i], 1, size);
                memset(aligned[i], 2, numalloc_usable_size(aligned[i]));
            }
            for (int i = 0; i < 3; i++) {
                CHECK(((char *)plain[i])[0] == 1 && ((char *)plain[i])[size - 1] == 1);
                numalloc_free(aligned[i]);
                numalloc_free(plain[i]);
            }
        }
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* As a program would that was compiled with a newer or an older header, and by pointers that may not be NULL. */
static void structures_of_other_versions(void) {
    struct {
        numalloc_stats_t known;
        uint64_t newer[4];
    } stats;
    memset(&stats, 0xff, sizeof stats);
    CHECK_EQUAL(numalloc_stats_sized(-1, &stats.known, sizeof stats), 0);
    for (int i = 0; i < 4; i++) CHECK_EQUAL(stats.newer[i], 0);
    CHECK(stats.known.committed_bytes != UINT64_MAX);
    CHECK_EQUAL(numalloc_stats_sized(-1, &stats.known, sizeof stats.known - 1), EINVAL);
    struct {
        numalloc_request_t known;
        int newer;
    } request = {.known.size = 100};
    void *block = numalloc_request_sized(&request.known, sizeof request);
    CHECK(block != NULL);
    numalloc_free(block);
    /* Programs of version 0.1.0: without weights, and without what the kernel tells of memory. */
    block = numalloc_request_sized(&request.known, offsetof(numalloc_request_t, weights));
    CHECK(block != NULL);
    numalloc_free(block);
    int ids[1];
    numalloc_node_info_t info;
    memset(&info, 0x55, sizeof info);
    (void)numalloc_node_ids(ids, 1);
    CHECK_EQUAL(numalloc_node_info_sized(ids[0], &info, offsetof(numalloc_node_info_t, read_bandwidth)), 0);
    CHECK(info.node == ids[0] && info.total_bytes != 0 && info.read_bandwidth == 0x55555555);
    request.newer = 1; /* asks for something that this library does not know */
    CHECK(numalloc_request_sized(&request.known, sizeof request) == NULL);
    CHECK_EQUAL(errno, EINVAL);
    CHECK(numalloc_request_sized(&request.known, 8) == NULL);
    CHECK_EQUAL(numalloc_version(), NUMALLOC_VERSION_NUMBER);
    int major, minor, patch;
    CHECK_EQUAL(sscanf(NUMALLOC_VERSION, "%d.%d.%d", &major, &minor, &patch), 3);
    CHECK_EQUAL(NUMALLOC_VERSION_NUMBER, 10000 * major + 100 * minor + patch);
}

static void null_pointers_are_einval(void) {
    static char page[4096];
    numalloc_nodemask_t nodes;
    int mode;
    CHECK(numalloc_request(NULL) == NULL);
    CHECK_EQUAL(errno, EINVAL);
    CHECK_EQUAL(numalloc_block_info(page, NULL), EINVAL);
    CHECK_EQUAL(numalloc_page_nodes(page, 1, NULL), EINVAL);
    CHECK_EQUAL(numalloc_migrate_pages(page, 1, NULL, 0, &(numalloc_migration_t){0}), EINVAL);
    CHECK_EQUAL(numalloc_migrate_pages(page, 1, &(numalloc_nodemask_t){{1}}, 0, NULL), EINVAL);
    CHECK_EQUAL(numalloc_migrate_pages(NULL, 1, &(numalloc_nodemask_t){{1}}, 0, &(numalloc_migration_t){0}), EINVAL);
    CHECK_EQUAL(numalloc_prefault(NULL, 1), EINVAL);
    CHECK_EQUAL(numalloc_bind_range(NULL, 4096, &(numalloc_nodemask_t){{1}}), EINVAL);
    CHECK_EQUAL(numalloc_node_info(0, NULL), EINVAL);
    CHECK_EQUAL(numalloc_stats(-1, NULL), EINVAL);
    CHECK_EQUAL(numalloc_limits(NULL), EINVAL);
    CHECK_EQUAL(numalloc_memory_policy_now(NULL, &nodes), EINVAL);
    CHECK_EQUAL(numalloc_memory_policy_now(&mode, NULL), EINVAL);
    /* These may be. */
    CHECK_EQUAL(numalloc_node_ids(NULL, 8), numalloc_node_count());
    CHECK(numalloc_stats_json(NULL, 8) > 0);
    CHECK_EQUAL(numalloc_usable_size(NULL), 0);
    CHECK_EQUAL(numalloc_migrate(page, 0, 0, NULL), 0);
}

static void limits_are_told(void) {
    numalloc_limits_t limits;
    CHECK_EQUAL(numalloc_limits(&limits), 0);
    CHECK(limits.machine > 0 && limits.block >= (size_t)1 << 25);
    struct rlimit before, data;
    CHECK_EQUAL(getrlimit(RLIMIT_DATA, &before), 0);
    data = before;
    data.rlim_cur = (rlim_t)64 << 30;
    if (setrlimit(RLIMIT_DATA, &data) != 0) SKIP("a limit on data");
    CHECK_EQUAL(numalloc_limits(&limits), 0);
    CHECK(limits.data < (uint64_t)64 << 30);
    CHECK_EQUAL(setrlimit(RLIMIT_DATA, &before), 0);
}

static const check_case cases[] = {
    {"calloc_takes_freed_blocks_of_next_classes", calloc_takes_freed_blocks_of_next_classes}, /* first */
    {"structures_of_other_versions", structures_of_other_versions},
    {"null_pointers_are_einval", null_pointers_are_einval},
    {"limits_are_told", limits_are_told},
    {"arrays_do_not_meet_in_one_set", arrays_do_not_meet_in_one_set},
    {"every_size_has_every_alignment", every_size_has_every_alignment},
    {"sizes_from_zero_to_megabytes", sizes_from_zero_to_megabytes},
    {"zero_size_blocks_are_distinct", zero_size_blocks_are_distinct},
    {"live_blocks_do_not_overlap", live_blocks_do_not_overlap},
    {"calloc_is_zero_on_used_memory", calloc_is_zero_on_used_memory},
    {"calloc_over_mixed_dirty_memory", calloc_over_mixed_dirty_memory},
    {"alignments_up_to_a_gigabyte", alignments_up_to_a_gigabyte},
    {"bad_alignments_are_refused", bad_alignments_are_refused},
    {"huge_sizes_are_enomem", huge_sizes_are_enomem},
    {"realloc_keeps_contents", realloc_keeps_contents},
    {"realloc_of_neighbours_moves", realloc_of_neighbours_moves},
    {"free_spans_coalesce", free_spans_coalesce},
    {"nothing_is_lost", nothing_is_lost},
    {"block_info_describes_blocks", block_info_describes_blocks},
    {"every_policy_gives_memory", every_policy_gives_memory},
    {"strict_memory_is_there_at_once", strict_memory_is_there_at_once},
    {"bad_requests_are_refused", bad_requests_are_refused},
    {"prefault_and_page_query", prefault_and_page_query},
    {"memory_of_others", memory_of_others},
    {"init_is_idempotent", init_is_idempotent},
    {"json_grows_with_the_buffer", json_grows_with_the_buffer},
    {"mixed_cache_interleaved_spans_are_reused", mixed_cache_interleaved_spans_are_reused},
};
CHECK_MAIN(cases)
