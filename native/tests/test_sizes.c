/* SPDX-License-Identifier: BSD-3-Clause */
/* What no block can be: sizes beyond the largest block, addresses of blocks that were never handed out, memory that is
 * only reserved. */
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

#include "check.h"
#include "heap/heap.h"
#include "space/space.h"

static int wrong;

/* No block, and errno says so; or a block as long as was asked for. */
static void must_hold(const char *call, void *block, size_t size, int error) {
    if (block == NULL ? error == ENOMEM : numalloc_usable_size(block) >= size) return;
    printf("%s: %zu bytes: %p, usable %zu, errno %d\n", call, size, block, numalloc_usable_size(block), error);
    wrong++;
}

static void *made(int how, size_t size) {
    numalloc_request_t request = {.size = size, .policy = NUMALLOC_LOCAL, .flags = NUMALLOC_STRICT};
    switch (how) {
    case 0: return numalloc(size);
    case 1: return numalloc_calloc(1, size);
    case 2: return numalloc_calloc(size, 1);
    case 3: return numalloc_aligned(64, size);
    case 4: return numalloc_aligned((size_t)1 << 30, size);
    case 5: return numalloc_onnode(size, numalloc_current_node());
    case 6: return numalloc_interleaved(size, NULL);
    case 7: return numalloc_blocked(size, NULL);
    case 8: return numalloc_request(&request);
    default: return numalloc_realloc(NULL, size);
    }
}
enum { WAYS = 10 };

/* Of each power of two from 2^40 on, with what was lost where a size was cut to 32 bits of slices. */
static void each_size(void (*visit)(size_t size)) {
    static const size_t extra[] = {0, 1, 640 << 10, 5 << 20, (size_t)-1};
    for (int bit = 40; bit < 64; bit++)
        for (size_t i = 0; i < sizeof extra / sizeof extra[0]; i++) visit(((size_t)1 << bit) + extra[i]);
    visit(SIZE_MAX);
    visit(SIZE_MAX - 65535);
}

static void allocate_all_ways(size_t size) {
    for (int how = 0; how < WAYS; how++) {
        char call[16];
        errno = 0;
        void *block = made(how, size);
        snprintf(call, sizeof call, "way %d", how);
        must_hold(call, block, size, errno);
        numalloc_free(block);
    }
}

static void resize_all_ways(size_t size) {
    static const size_t before[] = {100, 100000, 3 << 20};
    for (int how = 0; how < WAYS; how++)
        for (int i = 0; i < 3; i++) {
            char call[32];
            if (how == 4 && i != 0) continue;
            void *block = made(how, before[i]);
            CHECK(block != NULL);
            errno = 0;
            void *moved = numalloc_realloc(block, size);
            snprintf(call, sizeof call, "way %d, realloc of %zu", how, before[i]);
            must_hold(call, moved, size, errno);
            numalloc_free(moved != NULL ? moved : block);
        }
}

static void impossible_sizes(void) {
    wrong = 0;
    each_size(allocate_all_ways);
    CHECK_EQUAL(wrong, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void impossible_reallocs(void) {
    wrong = 0;
    each_size(resize_all_ways);
    CHECK_EQUAL(wrong, 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* As the kernel's own look at a mapping under vm.overcommit_memory=0, which reserved address space escapes. */
static void more_than_the_machine_has(void) {
    if (na_topo.overcommit_bytes == UINT64_MAX) SKIP("vm.overcommit_memory=0");
    size_t most = na_topo.overcommit_bytes;
    void *probe = mmap(NULL, most + ((size_t)1 << 30), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(probe == MAP_FAILED);
    errno = 0;
    CHECK(numalloc_calloc(1, most + ((size_t)1 << 30)) == NULL);
    CHECK_EQUAL(errno, ENOMEM);
    void *block = numalloc(na_size_max / 4);
    CHECK(block != NULL);
    CHECK(numalloc_realloc(block, most + ((size_t)1 << 30)) == NULL);
    numalloc_free(block);
}

/* Ranges that run around the end of the address space. */
static void impossible_ranges(void) {
    static char local[8192];
    numalloc_page_counts_t counts;
    numalloc_migration_t moved;
    numalloc_nodemask_t all = {{1}};
    for (size_t short_of = 0; short_of < 4096; short_of += 1000) {
        size_t length = SIZE_MAX - (uintptr_t)local - short_of;
        CHECK_EQUAL(numalloc_page_nodes(local, length, &counts), EINVAL);
        CHECK_EQUAL(numalloc_migrate_pages(local, length, &all, 0, &moved), EINVAL);
        CHECK_EQUAL(numalloc_prefault(local, length), EINVAL);
    }
}

/* A page's blocks behind those that were ever linked: nobody has them. */
static void never_handed_out(void) {
    static const size_t sizes[] = {48, 1000, 16384};
    for (int i = 0; i < 3; i++) {
        char *block = numalloc(sizes[i]);
        const na_span *page = na_span_at(block);
        CHECK(page->kind == NA_PAGE);
        if (page->carved == page->capacity) continue;
        char *never = (char *)page->start + (size_t)page->carved * page->block_size;
        numalloc_block_info_t info;
        CHECK_EQUAL(numalloc_node_of(never), NUMALLOC_NODE_FOREIGN);
        CHECK_EQUAL(numalloc_usable_size(never), 0);
        CHECK_EQUAL(numalloc_block_info(never + 8, &info), EFAULT);
        CHECK_EQUAL(numalloc_prefault(never, 8), EFAULT);
        numalloc_free(block);
    }
}

/* Bytes of mappings that a core file has, of this process. */
static size_t dumped_bytes(void) {
    FILE *file = fopen("/proc/self/smaps", "r");
    char line[512];
    size_t sum = 0, bytes = 0;
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2 && strchr(line, '-') < strchr(line, ' ')) bytes = to - from;
        if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " dd") == NULL) sum += bytes;
    }
    fclose(file);
    return sum;
}

static void reserved_memory_is_in_no_core_file(void) {
    char *block = numalloc(100000);
    CHECK(block != NULL);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SKIP("an address space without a sanitizer's shadow");
#endif
    CHECK(dumped_bytes() < (size_t)1 << 30);
    numalloc_free(block);
}

/* What was opened is in it. */
static void blocks_are_in_a_core_file(void) {
    size_t before = dumped_bytes();
    char *block = numalloc((size_t)300 << 20);
    CHECK(block != NULL);
    CHECK(dumped_bytes() - before >= (size_t)200 << 20);
    numalloc_free(block);
}

static const check_case cases[] = {
    /* First, as address space once opened stays so. */
    {"reserved_memory_is_in_no_core_file", reserved_memory_is_in_no_core_file},
    {"blocks_are_in_a_core_file", blocks_are_in_a_core_file},
    {"impossible_sizes", impossible_sizes},
    {"impossible_reallocs", impossible_reallocs},
    {"more_than_the_machine_has", more_than_the_machine_has},
    {"impossible_ranges", impossible_ranges},
    {"never_handed_out", never_handed_out},
};
CHECK_MAIN(cases)
