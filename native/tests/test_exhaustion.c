/* SPDX-License-Identifier: BSD-3-Clause */
/* When the system, a limit or a node gives no more: calls say ENOMEM or work, blocks that are live stay whole, frees
 * work, and what was freed can be had again. Each case is a process of its own, started under its limit. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "check.h"
#include "machine.h"
#include "os/options.h"
#include "os/topology.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 }; /* its own mappings and shadow are far beyond the limits here */
#else
enum { SANITIZED = 0 };
#endif

enum { MIB = 1 << 20 };

/* ---- filling ------------------------------------------------------------------------------------------------------ */

enum { PIECES = 200000 };
static unsigned char *pieces[PIECES];
static uint32_t piece_size[PIECES];
static int piece_count;

static void put(unsigned char *p, size_t size) {
    CHECK(piece_count < PIECES);
    piece_size[piece_count] = (uint32_t)size;
    pieces[piece_count++] = p;
    for (size_t i = 0; i < size; i += 4096) p[i] = (unsigned char)(size + i / 4096);
}

static void check_pieces(void) {
    for (int k = 0; k < piece_count; k++)
        for (size_t i = 0; i < piece_size[k]; i += 4096)
            CHECK_EQUAL(pieces[k][i], (unsigned char)(piece_size[k] + i / 4096));
}

static void free_pieces(void) {
    check_pieces();
    while (piece_count > 0) numalloc_free(pieces[--piece_count]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* Allocates blocks of `size` until there are no more, or `most` bytes are had; gives the bytes. */
static size_t fill(size_t size, unsigned flags, size_t most) {
    size_t have = 0;
    numalloc_request_t request = {.size = size, .flags = flags};
    while (have < most) {
        errno = 0;
        unsigned char *p = numalloc_request(&request);
        if (p == NULL) {
            CHECK_EQUAL(errno, ENOMEM);
            break;
        }
        put(p, size);
        have += size;
    }
    return have;
}

/* One of each kind of call: each works or says ENOMEM. */
static void try_everything(void) {
    static const size_t sizes[] = {24, 5000, 60000, 300000, 3 * MIB};
    for (int i = 0; i < 5; i++)
        for (int policy = NUMALLOC_LOCAL; policy <= NUMALLOC_BLOCKED; policy++)
            for (unsigned flags = 0; flags < 8; flags++) {
                numalloc_request_t request = {
                    .size = sizes[i], .policy = policy, .flags = flags, .node = na_topo.node_id[0]};
                errno = 0;
                unsigned char *p = numalloc_request(&request);
                CHECK(p != NULL || errno == ENOMEM);
                if (p == NULL) continue;
                memset(p, 1, sizes[i]);
                unsigned char *moved = numalloc_realloc(p, sizes[i] * 2);
                CHECK(moved != NULL || errno == ENOMEM);
                if (moved != NULL) p = moved;
                CHECK(p[0] == 1 && p[sizes[i] - 1] == 1);
                numalloc_free(p);
            }
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* ---- the cases in their processes -------------------------------------------------------------------------------------- */

static void fills_and_recovers(void) {
    size_t first = fill(MIB, 0, (size_t)4 << 30);
    printf("%zu MiB in large blocks\n", first >> 20);
    try_everything();
    CHECK(numalloc_usable_size(pieces[0]) >= MIB || piece_count == 0);
    free_pieces();
    CHECK(fill(2000, 0, first / 2) >= first / 2); /* the same memory in other pieces; takes coalescing */
    free_pieces();
    size_t again = fill(MIB, 0, (size_t)4 << 30);
    CHECK(again + 16 * MIB >= first);
    free_pieces();
    try_everything();
}

/* Blocks of `size` until there are no more, first and last word written; all are freed again. Gives the bytes. */
static size_t fill_and_free(size_t size) {
    struct block {
        struct block *next;
    } *all = NULL, *block;
    size_t have = 0;
    while ((block = numalloc(size)) != NULL) {
        block->next = all;
        all = block;
        ((uint64_t *)block)[size / 8 - 1] = size;
        have += size;
    }
    CHECK_EQUAL(errno, ENOMEM);
    while ((block = all) != NULL) {
        CHECK_EQUAL(((uint64_t *)block)[size / 8 - 1], size);
        all = block->next;
        numalloc_free(block);
    }
    CHECK_EQUAL(numalloc_verify(), 0);
    return have;
}

/* Of a limit on address space a node's blocks have most, whatever was allocated and freed before. */
static void most_of_it(void) {
    static const size_t sizes[] = {64, 26 * MIB, 130000, 26 * MIB, 1000};
    struct rlimit limit;
    CHECK_EQUAL(getrlimit(RLIMIT_AS, &limit), 0);
    for (int i = 0; i < 5; i++) {
        size_t have = fill_and_free(sizes[i]);
        printf("%zu MiB in blocks of %zu\n", have >> 20, sizes[i]);
        CHECK(have >= limit.rlim_cur / 4 * 3);
    }
    /* Of another region. One of two nodes has what was freed: each is asked. */
    numalloc_request_t request = {.size = limit.rlim_cur / 2, .flags = NUMALLOC_STRICT, .policy = NUMALLOC_ONNODE};
    int ids[2], nodes = numalloc_node_ids(ids, 2);
    for (int i = 0; i < nodes && i < 2; i++) {
        request.node = ids[i];
        (void)fill_and_free(1000);
        void *block = numalloc_request(&request);
        CHECK(block != NULL || errno == ENOSYS || errno == EPERM);
        numalloc_free(block);
    }
    for (int policy = NUMALLOC_LOCAL; policy <= NUMALLOC_BLOCKED; policy++) {
        request.policy = policy;
        void *block = numalloc_request(&request);
        CHECK(block != NULL || errno == ENOSYS || errno == EPERM);
        numalloc_free(block);
    }
}

/* Limits on address space that come after the start. */
static void address_space_body(void) {
    struct rlimit limit;
    CHECK_EQUAL(getrlimit(RLIMIT_AS, &limit), 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 1; /* no new mapping at all; what was open may be used */
    CHECK_EQUAL(setrlimit(RLIMIT_AS, &limit), 0);
    CHECK(fill(MIB, 0, (size_t)4 << 30) <= 128 * MIB);
    try_everything();
    free_pieces();
    limit.rlim_cur = before;
    CHECK_EQUAL(setrlimit(RLIMIT_AS, &limit), 0);
    CHECK(fill(MIB, 0, 256 * MIB) == 256 * MIB);
    free_pieces();
}

static void data_body(void) {
    struct rlimit limit = {96 * MIB, 96 * MIB};
    CHECK_EQUAL(setrlimit(RLIMIT_DATA, &limit), 0);
    size_t had = fill(MIB, 0, (size_t)4 << 30);
    CHECK(had >= 40 * MIB && had <= 96 * MIB); /* opening by large steps must not waste half of it */
    fills_and_recovers();
    (void)numalloc_purge();
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    CHECK(stats.purged_bytes > 0);
}

/* A thread that had large blocks only has small ones of their memory, when there is no other. */
static void small_after_large_body(void) {
    struct rlimit nothing_more = {MIB, 96 * MIB};
    CHECK(fill(4 * MIB, 0, 64 * MIB) == 64 * MIB);
    CHECK_EQUAL(setrlimit(RLIMIT_DATA, &nothing_more), 0);
    free_pieces();
    CHECK(fill(2000, 0, 8 * MIB) >= 8 * MIB);
    free_pieces();
}

/* MACHINE_NODES=2. What is kept warm for one size is in the way of another, or of another policy. */
static void spread_data_body(void) {
    struct rlimit limit = {160 * MIB, 160 * MIB};
    void *p = numalloc_interleaved(70 * MIB, NULL);
    CHECK(p != NULL);
    CHECK_EQUAL(setrlimit(RLIMIT_DATA, &limit), 0);
    for (size_t size = 80 * MIB; size <= 110 * MIB; size += 10 * MIB) {
        numalloc_free(p);
        CHECK((p = numalloc_interleaved(size, NULL)) != NULL);
        numalloc_free(p);
        CHECK((p = numalloc_blocked(size, NULL)) != NULL);
    }
    numalloc_free(p);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* The commit limit (vm.overcommit_memory=2) is the machine's: only where the test has it for itself. */
static void commit_limit_body(void) {
    size_t had = fill(4 * MIB, 0, (size_t)64 << 30);
    printf("%zu MiB under the commit limit\n", had >> 20);
    CHECK(had >= 64 * MIB);
    int ids[2]; /* all of it is on the first node; now the thread is on another, of which nothing can be opened */
    if (numalloc_node_ids(ids, 2) > 1) CHECK_EQUAL(numalloc_bind_thread(ids[numalloc_current_node() == ids[0]]), 0);
    fills_and_recovers();
}

/* No mapping is left: neither a split nor a new one is possible. */
static void mappings_body(void) {
    for (int used_before = 0; used_before < 2; used_before++) {
        size_t page = os_page_size();
        enum { MOST = 1 << 20 };
        static void *filler[MOST];
        int n = 0;
        if (used_before) {
            try_everything();
            CHECK(fill(100, 0, MIB) == MIB / 100 * 100 + 100 && fill(700000, 0, 8 * MIB) >= 8 * MIB);
        }
        for (; n < MOST; n++) { /* neighbours differ, so that the kernel can't merge them */
            filler[n] = mmap(NULL, page, n % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (filler[n] == MAP_FAILED) break;
        }
        if (n == MOST) SKIP("a limit on the number of mappings (vm.max_map_count)");
        CHECK_EQUAL(errno, ENOMEM);
        try_everything();
        (void)fill(100, 0, 2 * MIB);
        (void)fill(200000, 0, 4 * MIB);
        (void)numalloc_purge();
        check_pieces();
        for (int k = 0; k < piece_count; k += 2) { /* every other, to leave holes */
            numalloc_free(pieces[k]);
            pieces[k] = NULL;
        }
        int kept = 0;
        for (int k = 0; k < piece_count; k++)
            if (pieces[k] != NULL) {
                pieces[kept] = pieces[k];
                piece_size[kept++] = piece_size[k];
            }
        piece_count = kept;
        CHECK_EQUAL(numalloc_verify(), 0);
        while (n-- > 0) munmap(filler[n], page);
        free_pieces();
        try_everything();
        CHECK(fill(MIB, 0, 64 * MIB) == 64 * MIB);
        free_pieces();
    }
}

static void no_huge_pages_body(void) {
    CHECK_EQUAL(na_opt.huge, NA_HUGE_2M);
    for (unsigned flags = 0; flags < 8; flags++) {
        numalloc_request_t request = {.size = 6 * MIB + 5, .flags = flags};
        unsigned char *p = numalloc_request(&request);
        CHECK(p != NULL);
        memset(p, 1, request.size);
        numalloc_block_info_t info;
        CHECK_EQUAL(numalloc_block_info(p, &info), 0);
        CHECK_EQUAL(info.huge_page, 0); /* this is where it is reported */
        numalloc_stats_t stats;
        CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
        CHECK_EQUAL(stats.huge_bytes, 0);
        numalloc_free(p);
    }
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* In a cgroup of 128 MiB: strict and populated requests are refused before the OOM killer is asked. */
static void cgroup_body(void) {
    CHECK(os_cgroup_room() <= 128 * MIB);
    size_t strict = fill(8 * MIB, NUMALLOC_STRICT, (size_t)1 << 30);
    CHECK(strict >= 48 * MIB && strict <= 128 * MIB);
    free_pieces();
    (void)numalloc_purge();
    size_t populated = fill(8 * MIB, NUMALLOC_POPULATE, (size_t)1 << 30);
    CHECK(populated >= 48 * MIB && populated <= 128 * MIB);
    free_pieces();
    (void)numalloc_purge();
    void *p = numalloc(512 * MIB);
    CHECK(p != NULL);
    CHECK_EQUAL(numalloc_prefault(p, 512 * MIB), ENOMEM);
    numalloc_free(p);
    (void)numalloc_purge();
    char *others = mmap(NULL, 512 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(others != MAP_FAILED);
    CHECK(numalloc_room() < 128 * MIB);
    /* CPUs hand back what they hold of the group's charge in their own time: seen once in six starts with 8 CPUs. */
    for (int tries = 0; tries < 100 && numalloc_room() < 104 * MIB; tries++) usleep(50000);
    CHECK_EQUAL(numalloc_prefault(others, 104 * MIB), 0);
    CHECK_EQUAL(numalloc_prefault(others, 104 * MIB), 0); /* what is there needs no room */
    CHECK_EQUAL(numalloc_prefault(others, 512 * MIB), ENOMEM);
    CHECK_EQUAL(munmap(others, 512 * MIB), 0);
    CHECK(fill(8 * MIB, NUMALLOC_STRICT, 32 * MIB) == 32 * MIB);
    free_pieces();
}

enum { AT_ONCE = 24 };
static pthread_barrier_t all_have;

static void *takes_small(void *unused) {
    void **list = NULL;
    for (int i = 0; i < 3500; i++) {
        void **p = numalloc(1000);
        if (p == NULL) break;
        memset(p, 1, 1000);
        *p = list;
        list = p;
    }
    pthread_barrier_wait(&all_have);
    for (void **next; list != NULL; list = next) {
        next = *list;
        numalloc_free(list);
    }
    return unused;
}

/* In the same: what rests gives way to memory that is faulted in. */
static void cgroup_rests_body(void) {
    pthread_t thread[AT_ONCE];
    pthread_barrier_init(&all_have, NULL, AT_ONCE);
    for (int i = 0; i < AT_ONCE; i++) CHECK_EQUAL(pthread_create(&thread[i], NULL, takes_small, NULL), 0);
    for (int i = 0; i < AT_ONCE; i++) pthread_join(thread[i], NULL);
    void *p = numalloc(90 * MIB);
    CHECK(p != NULL);
    CHECK_EQUAL(numalloc_prefault(p, 90 * MIB), 0);
    numalloc_free(p);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static uint64_t committed(int node) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(node, &stats), 0);
    return stats.committed_bytes;
}

static uint64_t fallbacks(int node) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(node, &stats), 0);
    return stats.fallbacks;
}

/* NUMALLOC_NODE_LIMIT=64M on two nodes. */
static void node_limit_body(void) {
    CHECK_EQUAL(numalloc_node_count(), 2);
    numalloc_request_t request = {.size = MIB, .policy = NUMALLOC_ONNODE, .node = 1, .flags = NUMALLOC_STRICT};
    for (int round = 0; round < 3; round++) {
        int n = 0;
        static void *block[200];
        while (n < 200 && (block[n] = numalloc_request(&request)) != NULL) {
            CHECK_EQUAL(numalloc_node_of(block[n]), 1);
            CHECK(committed(1) <= 64 * MIB);
            n++;
        }
        CHECK_EQUAL(errno, ENOMEM);
        CHECK(n >= 60 && n < 65);
        request.flags = 0;
        uint64_t before = fallbacks(1);
        void *other = numalloc_request(&request); /* preferred: the next node, counted */
        CHECK(other != NULL);
        CHECK_EQUAL(numalloc_node_of(other), 0);
        CHECK_EQUAL(fallbacks(1), before + 1);
        numalloc_free(other);
        request.size = 100; /* no page is to be had either, but those that are there serve */
        other = numalloc_request(&request);
        CHECK(other != NULL);
        numalloc_free(other);
        request.size = MIB;
        size_t rest = 0; /* until the other node is full as well */
        static void *more[200];
        while (rest < 200 && (more[rest] = numalloc_request(&request)) != NULL) {
            CHECK(committed(0) <= 64 * MIB && committed(1) <= 64 * MIB);
            rest++;
        }
        CHECK_EQUAL(errno, ENOMEM);
        CHECK(rest >= 56 && rest < 65);
        while (rest > 0) numalloc_free(more[--rest]);
        while (n > 0) numalloc_free(block[--n]);
        request.flags = NUMALLOC_STRICT;
        CHECK_EQUAL(numalloc_verify(), 0);
    }
}

/* A strict block whose pages the kernel put elsewhere, on a made-up machine. */
enum { STRICT_BYTES = 32 << 20 };
static void *misplaced_block(void) {
    numalloc_request_t request = {.size = STRICT_BYTES, .policy = NUMALLOC_ONNODE, .flags = NUMALLOC_STRICT};
    void *block = numalloc_request(&request);
    CHECK(block != NULL);
    CHECK_EQUAL(machine_calls(MACHINE_move_pages), 0);
    numalloc_free(block);
    na_nodeset other = {{2}};
    CHECK_EQUAL(os_bind(block, STRICT_BYTES, NA_BIND_PREFERRED, &other), 0);
    return numalloc_request(&request);
}

/* None goes home since there is no room: that is found out by few calls, as each is dear. */
static void no_room_at_home_body(void) {
    CHECK(misplaced_block() == NULL);
    CHECK_EQUAL(errno, ENOMEM);
    uint64_t calls = machine_calls(MACHINE_move_pages);
    CHECK(calls >= 2 && calls <= 4);
}

/* They go, in bulk; some perhaps at the second attempt only, as they were in use. */
static void pages_go_home_body(void) {
    void *block = misplaced_block();
    CHECK(block != NULL);
    uint64_t calls = machine_calls(MACHINE_move_pages);
    CHECK(calls > 0 && calls <= STRICT_BYTES / 4096 / 64 + 2);
    numalloc_page_counts_t counts;
    CHECK_EQUAL(numalloc_page_nodes(block, STRICT_BYTES, &counts), 0);
    CHECK_EQUAL(counts.on_node[0], counts.pages);
    numalloc_free(block);
}

static const struct check_case bodies[] = {
    {"fills_and_recovers", fills_and_recovers},    {"most_of_it", most_of_it},
    {"address_space", address_space_body},         {"data", data_body},
    {"small_after_large", small_after_large_body}, {"spread_data", spread_data_body},
    {"commit_limit", commit_limit_body},           {"mappings", mappings_body},
    {"no_huge_pages", no_huge_pages_body},         {"cgroup", cgroup_body},
    {"cgroup_rests", cgroup_rests_body},           {"node_limit", node_limit_body},
    {"no_room_at_home", no_room_at_home_body},     {"pages_go_home", pages_go_home_body},
};

/* ---- starting them -------------------------------------------------------------------------------------------------- */

/* Runs a body in a new process; `prefix` is shell text before it. Its exit code as of check.h. */
static void starts(const char *prefix, const char *body) {
    char command[4096];
    snprintf(command, sizeof command, "%s \"$CHECK_SELF\" --body %s", prefix, body);
    fflush(stdout);
    int status = system(command), code = WIFEXITED(status) ? WEXITSTATUS(status) : 256;
    if (code == 77) SKIP("what the line above says");
    if (code != 0) printf("%s: exit %d\n", command, code);
    CHECK_EQUAL(code, 0);
}

static void misplaced_pages(void) {
    starts("MACHINE_NODES=2 MACHINE_FAULT=move_pages:1:1000000:12", "no_room_at_home"); /* ENOMEM */
    starts("MACHINE_NODES=2", "pages_go_home");
    starts("MACHINE_NODES=2 MACHINE_FAULT=move_pages:1:2:1000", "pages_go_home"); /* MISPLACED: EBUSY for each page */
}

static void small_address_space(void) {
    if (SANITIZED) return;
    starts("ulimit -v 400000;", "fills_and_recovers");
    starts("ulimit -v 200000;", "fills_and_recovers");
    starts("ulimit -v 300000;", "most_of_it");
    starts("ulimit -v 300000; NUMALLOC_SECURE=1", "most_of_it");
    starts("ulimit -v 300000; MACHINE_NODES=2", "most_of_it");
    starts("", "address_space");
}

static void small_data(void) {
    if (!SANITIZED) starts("", "data");
    if (!SANITIZED) starts("", "small_after_large");
    if (!SANITIZED) starts("MACHINE_NODES=2", "spread_data");
}

static void no_mappings_left(void) {
    if (!SANITIZED) starts("", "mappings");
}

static void no_huge_pages(void) {
    char text[64] = "1";
    size_t length;
    int error = os_read_file("/proc/sys/vm/nr_hugepages", text, sizeof text, &length);
    if (error != ENOENT && atoi(text) != 0) SKIP("an empty pool of huge pages");
    starts("NUMALLOC_HUGEPAGES=2M", "no_huge_pages");
}

static void node_limit(void) { starts("MACHINE_NODES=2 NUMALLOC_NODE_LIMIT=64M", "node_limit"); }

static bool write_file(const char *directory, const char *name, const char *text) {
    char path[1200];
    int written = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (written < 0 || (size_t)written >= sizeof path) return false;
    FILE *file = fopen(path, "w");
    if (file == NULL) return false;
    bool good = fputs(text, file) >= 0;
    return fclose(file) == 0 && good;
}

/* A new group below the process' own, with a limit; version 1 or 2. */
static bool make_group(char *directory, size_t capacity) {
    static char text[8192];
    size_t length;
    const char *const kinds[][4] = {{":memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", ""},
                                    {"0::", "/sys/fs/cgroup", "memory.max", "cgroup.subtree_control"},
                                    {"0::", "/sys/fs/cgroup/unified", "memory.max", "cgroup.subtree_control"}};
    if (os_read_file("/proc/self/cgroup", text, sizeof text, &length) != 0) return false;
    for (int i = 0; i < 3; i++) {
        char *at = strstr(text, kinds[i][0]);
        if (at == NULL) continue;
        at += strlen(kinds[i][0]);
        int name = (int)strcspn(at, "\n");
        snprintf(directory, capacity, "%s%.*s", kinds[i][1], name, at);
        if (kinds[i][3][0] != '\0') (void)write_file(directory, kinds[i][3], "+memory");
        int written = snprintf(directory, capacity, "%s%.*s/numalloc-test-%d", kinds[i][1], name, at, (int)getpid());
        if (written < 0 || (size_t)written >= capacity) continue;
        if (mkdir(directory, 0755) != 0) continue;
        if (write_file(directory, kinds[i][2], "134217728")) return true;
        (void)rmdir(directory);
    }
    return false;
}

static char group_made[1024];
static void remove_group(void) { (void)rmdir(group_made); }

static void cgroup_limit(void) {
    if (SANITIZED) return; /* their shadow counts as well */
    char *directory = group_made, prefix[1200];
    if (!make_group(directory, sizeof group_made)) SKIP("making a memory cgroup");
    (void)atexit(remove_group);
    snprintf(prefix, sizeof prefix, "echo $$ >'%s'/cgroup.procs && exec", directory);
    starts(prefix, "cgroup");
    starts(prefix, "cgroup_rests");
}

/* Named on the command line only: it changes the machine, which the NUMA lab's kernels have for themselves. */
static void commit_limit(void) {
    if (!write_file("/proc/sys/vm", "overcommit_memory", "2")) SKIP("setting vm.overcommit_memory");
    int status = system("\"$CHECK_SELF\" --body commit_limit");
    CHECK(write_file("/proc/sys/vm", "overcommit_memory", "0"));
    CHECK_EQUAL(status, 0);
}

static const check_case cases[] = {
    {"small_address_space", small_address_space},
    {"small_data", small_data},
    {"no_mappings_left", no_mappings_left},
    {"no_huge_pages", no_huge_pages},
    {"node_limit", node_limit},
    {"misplaced_pages", misplaced_pages},
    {"cgroup_limit", cgroup_limit},
    {"commit_limit", commit_limit}, /* last, see main */
};
enum { CASES = sizeof cases / sizeof cases[0] };

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--body") == 0)
        return check_main(bodies, sizeof bodies / sizeof bodies[0], argc - 1, argv + 1);
    setenv("CHECK_SELF", argv[0], 1);
    return check_main(cases, argc > 1 ? CASES : CASES - 1, argc, argv);
}
