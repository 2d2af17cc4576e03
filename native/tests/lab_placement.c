/* SPDX-License-Identifier: BSD-3-Clause
 *
 * lab_placement: where pages are, on a machine with several NUMA nodes (the NUMA lab's kernels; it refuses to run
 * on one node). Memory is always touched first by a thread of another node than its home, so that first touch
 * alone fails. Pages are asked for twice: of move_pages, and of /proc/self/numa_maps.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "heap/heap.h"
#include "lab.h"
#include "os/options.h"

static const char *self;

/* ---- the cases ------------------------------------------------------------------------------------------ */

static const size_t sizes[] = {16,
                               100,
                               2048,
                               8192,
                               65536,
                               200000,
                               262144,
                               (size_t)1 << 20,
                               (size_t)3 << 20,
                               (size_t)6 << 20,
                               (size_t)24 << 20,
                               (size_t)72 << 20};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

/* Without a policy the toucher decides: what every check below must be able to see. */
static void control_first_touch_is_seen_to_fail(void) {
    size_t size = (size_t)4 << 20;
    int wanted = cpu_ids[0], toucher = other_than(wanted);
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    touch_from(toucher, p, size);
    CHECK(!all_on(p, size, wanted));
    size_t all, there = pages_on(p, size, home_of(toucher), &all);
    if (there != all)
        printf("%zu of %zu pages on %d, %zu on %d\n", there, all, home_of(toucher), pages_on(p, size, wanted, &all),
               wanted);
    CHECK(there > all / 2); /* a first touch is only a preference of the kernel's */
    CHECK(!maps_only_on(p, wanted));
    munmap(p, size);
}

static void check_home(void *p, size_t size, int node) {
    CHECK(p != NULL);
    CHECK_EQUAL(numalloc_node_of(p), node);
    touch_from(other_than(node), p, size);
    CHECK(all_on(p, size, node));
    CHECK(maps_only_on(p, node));
}

static void on_node_preferred(void) {
    for (int i = 0; i < nodes; i++)
        for (int s = 0; s < SIZES; s++) {
            void *p = numalloc_onnode(sizes[s], ids[i]);
            check_home(p, sizes[s], ids[i]);
            numalloc_free(p);
        }
}

static void on_node_strict(void) {
    for (int i = 0; i < nodes; i++)
        for (int s = 0; s < SIZES; s++) {
            numalloc_request_t request = {
                .size = sizes[s], .policy = NUMALLOC_ONNODE, .node = ids[i], .flags = NUMALLOC_STRICT};
            void *p = numalloc_request(&request);
            CHECK(p != NULL);
            CHECK(all_on(p, sizes[s], ids[i])); /* before anybody touched it */
            check_home(p, sizes[s], ids[i]);
            numalloc_free(p);
        }
}

static void local_body(task *t) { t->p = numalloc(t->size); }

static void local_is_the_callers_node(void) {
    for (int i = 0; i < cpu_nodes; i++)
        for (int s = 0; s < SIZES; s++) {
            task t = {.node = cpu_ids[i], .body = local_body, .size = sizes[s]};
            on_node(&t);
            check_home(t.p, sizes[s], home_of(cpu_ids[i]));
            numalloc_free(t.p);
        }
}

static void interleaved_pages_alternate(void) {
    static long on[NUMALLOC_MAX_NODES];
    char policy[100];
    for (int strict = 0; strict < 2; strict++)
        for (int s = 0; s < SIZES; s++) {
            if (sizes[s] < 65536) continue; /* below a page per node there is nothing to alternate */
            numalloc_request_t request = {
                .size = sizes[s], .policy = NUMALLOC_INTERLEAVE, .flags = strict ? NUMALLOC_STRICT : 0u};
            char *p = numalloc_request(&request);
            CHECK(p != NULL);
            CHECK_EQUAL(numalloc_node_of(p), NUMALLOC_NODE_MIXED);
            touch_from(cpu_ids[0], p, sizes[s]);
            for (int i = 0; i < nodes; i++) {
                size_t all, there = pages_on(p, sizes[s], ids[i], &all);
                /* Huge pages, which are dealt whole, from eight a node on. */
                size_t unit = sizes[s] >= ((size_t)16 << 20) * (size_t)nodes ? 512 : 1;
                CHECK(there + unit >= all / (size_t)nodes && there <= all / (size_t)nodes + unit);
            }
            CHECK(numa_maps_of(p, policy, on));
            CHECK(strncmp(policy, "interleave:", 11) == 0);
            numalloc_free(p);
        }
    int seen[NUMALLOC_MAX_NODES] = {0};
    void *small[64];
    for (int i = 0; i < 64; i++) {
        small[i] = numalloc_interleaved(100, NULL);
        CHECK(small[i] != NULL);
        seen[numalloc_node_of(small[i])]++;
        check_home(small[i], 100, numalloc_node_of(small[i]));
    }
    for (int i = 0; i < nodes; i++) CHECK(seen[ids[i]] >= 64 / nodes - 1);
    for (int i = 0; i < 64; i++) numalloc_free(small[i]);
}

static void blocked_parts_are_in_order(void) {
    for (int strict = 0; strict < 2; strict++) {
        size_t size = (size_t)16 << 20;
        numalloc_request_t request = {.size = size, .policy = NUMALLOC_BLOCKED, .flags = strict ? NUMALLOC_STRICT : 0u};
        char *p = numalloc_request(&request);
        CHECK(p != NULL);
        touch_from(cpu_ids[cpu_nodes - 1], p, size);
        for (int i = 0; i < nodes; i++) {
            size_t part = size / (size_t)nodes;
            uintptr_t from = ((uintptr_t)p + part * (size_t)i + 4095) & ~(uintptr_t)4095;
            uintptr_t to = ((uintptr_t)p + part * (size_t)(i + 1)) & ~(uintptr_t)4095;
            CHECK(all_on((void *)(from + 4096), to - from - 8192, ids[i]));
        }
        numalloc_free(p);
        /* Stripes: rows of 64 KiB, each split over the nodes. */
        request.stripe = 65536;
        request.size = 8 * 65536;
        p = numalloc_request(&request);
        CHECK(p != NULL);
        touch_from(cpu_ids[0], p, request.size);
        for (int row = 0; row < 8; row++)
            for (int i = 0; i < nodes; i++) CHECK(all_on(p + row * 65536 + 65536 / nodes * i + 4096, 4096, ids[i]));
        numalloc_free(p);
    }
}

static void freed_elsewhere_body(task *t) {
    for (int i = 0; i < t->count; i++) numalloc_free(t->many[i]);
    for (int i = 0; i < t->count; i++) { /* what this thread gets now must not be what it freed */
        void *p = numalloc(t->size);
        if (p == NULL || numalloc_node_of(p) != home_of(t->node)) t->error = EXDEV;
        numalloc_free(p);
    }
}

static void frees_keep_the_home(void) {
    static void *many[5000];
    int home = cpu_ids[0], other = other_than(home);
    static const size_t some[] = {64, 1000, 20000};
    for (int s = 0; s < 3; s++) {
        for (int i = 0; i < 5000; i++) CHECK((many[i] = numalloc_onnode(some[s], home)) != NULL);
        task t = {.node = other, .body = freed_elsewhere_body, .many = many, .count = 5000, .size = some[s]};
        on_node(&t);
        numalloc_stats_t stats;
        numalloc_purge();
        CHECK_EQUAL(numalloc_stats(home, &stats), 0);
        CHECK(stats.remote_frees >= 5000);
        for (int i = 0; i < 100; i++) {
            void *p = numalloc_onnode(some[s], home);
            check_home(p, some[s], home);
            numalloc_free(p);
        }
    }
}

static void leave_body(task *t) {
    for (int i = 0; i < t->count; i++) t->many[i] = numalloc(256);
}
static void reclaim_body(task *t) {
    static void *mine[20000];
    int found = 0;
    for (int i = 0; i < 20000; i++) {
        mine[i] = numalloc(256);
        for (int k = 0; k < t->count; k += 2) found += mine[i] == t->many[k];
    }
    for (int i = 0; i < 20000; i++) numalloc_free(mine[i]);
    t->size = (size_t)found;
}

static void the_dead_are_inherited_on_their_node_only(void) {
    static void *many[500];
    int home = cpu_ids[0], other = other_than(home);
    task leave = {.node = home, .body = leave_body, .many = many, .count = 500};
    on_node(&leave);
    for (int k = 0; k < 500; k += 2) numalloc_free(many[k]);
    na_remote_flush(na_thread_get());
    task stranger = {.node = other, .body = reclaim_body, .many = many, .count = 500};
    on_node(&stranger);
    CHECK_EQUAL(stranger.size, 0);
    task heir = {.node = home, .body = reclaim_body, .many = many, .count = 500};
    on_node(&heir);
    CHECK(heir.size >= 200);
    for (int k = 1; k < 500; k += 2) numalloc_free(many[k]);
    numalloc_cleanup();
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void migrate_body(task *t) {
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < cpu_nodes; i++) {
            if ((t->error = numalloc_bind_thread(cpu_ids[i])) != 0) return;
            for (int s = 0; s < SIZES; s++) {
                void *p = numalloc(sizes[s]);
                if (p == NULL || numalloc_node_of(p) != home_of(cpu_ids[i]) || numalloc_current_node() != cpu_ids[i])
                    t->error = EXDEV;
                numalloc_free(p);
            }
        }
}

static void a_migrating_thread_allocates_where_it_is(void) {
    task t = {.node = cpu_ids[0], .body = migrate_body};
    on_node(&t);
}

static void realloc_keeps_the_home(void) {
    int home = home_of(cpu_ids[cpu_nodes - 1]), other = other_than(home);
    CHECK_EQUAL(numalloc_bind_thread(other), 0);
    char *p = numalloc_onnode(100, home), *q = numalloc_onnode((size_t)1 << 20, home);
    for (size_t size = 1000; size < (size_t)24 << 20; size *= 3) {
        p = numalloc_realloc(p, size);
        CHECK(p != NULL);
        check_home(p, size, home);
        if (size > (size_t)1 << 20) { /* in the other's way, so that large blocks move by mremap */
            q = numalloc_realloc(q, size);
            check_home(q, size, home);
        }
    }
    numalloc_free(p);
    numalloc_free(q);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static uint64_t free_on(int node) {
    numalloc_node_info_t info;
    CHECK_EQUAL(numalloc_node_info(node, &info), 0);
    return info.free_bytes;
}

static void strict_on_a_full_node_is_enomem(void) {
    int node = ids[nodes - 1];
    numalloc_node_info_t info;
    CHECK_EQUAL(numalloc_node_info(node, &info), 0);
    numalloc_stats_t before, after;
    numalloc_stats(node, &before);
    numalloc_request_t request = {
        .size = info.total_bytes + (64u << 20), .policy = NUMALLOC_ONNODE, .node = node, .flags = NUMALLOC_STRICT};
    errno = 0;
    CHECK(numalloc_request(&request) == NULL);
    CHECK_EQUAL(errno, ENOMEM);
    /* Piece by piece until it is full: every piece that was given is there, the next is refused. */
    enum { PIECE = 32 << 20, PIECES = 512 };
    static void *piece[PIECES];
    int n = 0;
    request.size = PIECE;
    while (n < PIECES && (piece[n] = numalloc_request(&request)) != NULL) {
        CHECK(all_on(piece[n], PIECE, node));
        n++;
    }
    CHECK(n < PIECES);
    CHECK_EQUAL(errno, ENOMEM);
    CHECK((uint64_t)n * PIECE > free_on(node)); /* it did fill most of it */
    numalloc_stats(node, &after);
    CHECK_EQUAL(after.strict_failures - before.strict_failures, 2);

    /* Spread over all nodes, its share does not fit either, though the others have room for all of it. */
    numalloc_request_t spread = {
        .size = (free_on(node) + (64u << 20)) * (size_t)nodes, .policy = NUMALLOC_INTERLEAVE, .flags = NUMALLOC_STRICT};
    errno = 0;
    CHECK(numalloc_request(&spread) == NULL);
    CHECK_EQUAL(errno, ENOMEM);

    /* The same node, preferred: served by another, and counted. */
    request.flags = NUMALLOC_POPULATE;
    request.size = (size_t)free_on(node) + ((size_t)64 << 20);
    void *spill = numalloc_request(&request);
    CHECK(spill != NULL);
    CHECK(!all_on(spill, request.size, node));
    /* What does not fit goes to the nearest node, but for a few pages that are free on the home all the time. */
    size_t all, home = pages_on(spill, request.size, node, &all), near = 0;
    for (int i = 0; i < nodes; i++) /* of several that are as near, the kernel chooses */
        if (ids[i] != node && numalloc_distance(node, ids[i]) == numalloc_distance(node, nearest_to(node, 0)))
            near += pages_on(spill, request.size, ids[i], &all);
    CHECK(home + near >= all - all / 50);
    CHECK(near >= all / 10);
    numalloc_stats(node, &after);
    CHECK(after.fallbacks > before.fallbacks);
    numalloc_free(spill);
    for (int i = 0; i < n; i++) numalloc_free(piece[i]);
    numalloc_cleanup();
}

/* One node after the other is at its limit: blocks go on by distance, each counted at its home, until none is left. */
static void limited_nodes_fall_by_distance(void) {
    int home = ids[0];
    enum { LIMIT = 96 << 20, PIECE = 8 << 20, PIECES = 512 };
    numalloc_cleanup();
    numalloc_stats_t before, after;
    numalloc_stats(home, &before);
    na_opt.node_limit = LIMIT;
    static void *piece[PIECES];
    int n = 0, rank = -1, falls = 0;
    while (n < PIECES && (piece[n] = numalloc_onnode(PIECE, home)) != NULL) {
        int node = numalloc_node_of(piece[n++]);
        if (node != (rank < 0 ? home : nearest_to(home, rank))) rank++; /* the last one is full: the next */
        if (node != (rank < 0 ? home : nearest_to(home, rank))) break;
        falls += node != home;
    }
    int error = errno;
    na_opt.node_limit = UINT64_MAX;
    numalloc_stats(home, &after);
    for (int i = 0; i < n; i++) numalloc_free(piece[i]);
    numalloc_cleanup();
    CHECK(n < PIECES);
    CHECK_EQUAL(error, ENOMEM);
    CHECK_EQUAL(rank, nodes - 2); /* all were used, in order */
    CHECK(n >= nodes * (LIMIT / PIECE - 2));
    CHECK_EQUAL(after.fallbacks - before.fallbacks, falls);
}

static void absent_nodes_are_refused(void) {
    int absent = ids[nodes - 1] + 1;
    errno = 0;
    CHECK(numalloc_onnode(64, absent) == NULL);
    CHECK_EQUAL(errno, ENODEV);
    CHECK_EQUAL(numalloc_bind_thread(absent), ENODEV);
    numalloc_nodemask_t mask = {{0}};
    mask.word[absent / 64] |= UINT64_C(1) << (absent % 64);
    errno = 0;
    CHECK(numalloc_interleaved(1 << 20, &mask) == NULL);
    CHECK_EQUAL(errno, ENODEV);
}

/* Writes one line to a file below the group. */
static bool tell(const char *group, const char *file, const char *text) {
    char path[100];
    snprintf(path, sizeof path, "%s/%s", group, file);
    FILE *out = fopen(path, "w");
    if (out == NULL) return false;
    bool good = fputs(text, out) >= 0;
    return fclose(out) == 0 && good;
}

/* Nodes are read once, at the start. Later the cpuset loses one: preferred memory of it is elsewhere then, strict memory is
 * ENODEV, whatever the policy. */
static void nodes_are_taken_away(void) {
    static const int policies[] = {NUMALLOC_ONNODE, NUMALLOC_INTERLEAVE, NUMALLOC_BLOCKED};
    char text[32];
    (void)mkdir("/tmp/cpusets", 0700);
    if (mount("none", "/tmp/cpusets", "cgroup2", 0, NULL) != 0) SKIP("a cgroup2 mount");
    (void)mkdir("/tmp/cpusets/shrinks", 0700);
    CHECK(tell("/tmp/cpusets", "cgroup.subtree_control", "+cpuset"));
    snprintf(text, sizeof text, "%d", (int)getpid());
    CHECK(tell("/tmp/cpusets/shrinks", "cgroup.procs", text));
    numalloc_request_t request = {.size = (size_t)3 << 20, .node = ids[nodes - 1]};
    for (int i = 0; i < 3; i++) {
        request.policy = policies[i];
        numalloc_free(numalloc_request(&request));
    }
    (void)numalloc_purge();
    char first[32];
    snprintf(first, sizeof first, "%d", ids[0]);
    CHECK(tell("/tmp/cpusets/shrinks", "cpuset.mems", first));
    for (int i = 0; i < 3; i++) {
        request.policy = policies[i];
        request.flags = 0;
        char *p = numalloc_request(&request);
        CHECK(p != NULL);
        memset(p, 1, request.size);
        CHECK(all_on(p, request.size, ids[0]));
        numalloc_free(p);
        request.flags = NUMALLOC_STRICT;
        errno = 0;
        CHECK(numalloc_request(&request) == NULL);
        CHECK_EQUAL(errno, ENODEV);
    }
    size_t unmoved;
    static char page[8192];
    page[0] = page[4096] = 1;
    CHECK_EQUAL(numalloc_migrate(page, sizeof page, ids[nodes - 1], &unmoved), ENODEV);
    CHECK(tell("/tmp/cpusets", "cgroup.procs", text));
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void pages_migrate(void) {
    int from = cpu_ids[0], to = home_of(other_than(from));
    size_t size = (size_t)2 << 20, unmoved = 99;
    char *p = numalloc_onnode(size, from);
    touch_from(from, p, size);
    CHECK(all_on(p, size, from));
    CHECK_EQUAL(numalloc_migrate(p, size, to, &unmoved), 0);
    CHECK_EQUAL(unmoved, 0);
    CHECK(all_on(p, size, to));
    numalloc_free(p);
    numalloc_cleanup();
}

static void prefault_places(void) {
    int home = home_of(cpu_ids[cpu_nodes - 1]);
    CHECK_EQUAL(numalloc_bind_thread(other_than(home)), 0);
    char *p = numalloc_onnode((size_t)6 << 20, home);
    CHECK_EQUAL(numalloc_prefault(p, (size_t)6 << 20), 0);
    CHECK(all_on(p, (size_t)6 << 20, home));
    numalloc_free(p);
}

/* In a process of its own, whose NUMALLOC_HUGEPAGES is 2M. */
static void with_explicit_huge_pages(void) {
    if (na_opt.huge != NA_HUGE_2M) return;
    int node = ids[nodes - 1];
    char *p = numalloc_onnode((size_t)8 << 20, node);
    CHECK(p != NULL);
    numalloc_block_info_t info;
    CHECK_EQUAL(numalloc_block_info(p, &info), 0);
    CHECK_EQUAL(info.huge_page, (size_t)2 << 20);
    touch_from(other_than(node), p, (size_t)8 << 20);
    CHECK(all_on(p, (size_t)8 << 20, node));
    /* More than the pool: falls back to other pages on the same node instead of SIGBUS. */
    char *q = numalloc_onnode((size_t)64 << 20, node);
    CHECK(q != NULL);
    CHECK_EQUAL(numalloc_block_info(q, &info), 0);
    CHECK_EQUAL(info.huge_page, 0);
    touch_from(other_than(node), q, (size_t)64 << 20);
    CHECK(all_on(q, (size_t)64 << 20, node));
    numalloc_free(p);
    p = numalloc_onnode((size_t)8 << 20, node); /* the pool has its pages back */
    CHECK_EQUAL(numalloc_block_info(p, &info), 0);
    CHECK_EQUAL(info.huge_page, (size_t)2 << 20);
    numalloc_free(p);
    numalloc_free(q);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void explicit_huge_pages_of_one_node(void) {
    char path[200], command[400];
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages",
             ids[nodes - 1]);
    FILE *pool = fopen(path, "w");
    if (pool == NULL || fprintf(pool, "8") < 0 || fclose(pool) != 0)
        SKIP("the huge page pool can't be set (not root?)");
    snprintf(command, sizeof command, "NUMALLOC_HUGEPAGES=2M '%s' with_explicit_huge_pages", self);
    int code = system(command);
    pool = fopen(path, "w");
    if (pool != NULL) {
        fprintf(pool, "0");
        fclose(pool);
    }
    CHECK_EQUAL(code, 0);
}

/* The kernel marks memory without a policy of its own, huge pages above all, of who has used CPU for a second or so;
 * Linux 6.1's move_pages takes marked pages for absent. Who asks for them must not draw them to his node. A kernel whose
 * answers are always right ends this by time. */
static void pages_that_the_kernel_balances_are_seen(void) {
    char text[16] = "";
    size_t length;
    if (os_read_file("/proc/sys/kernel/numa_balancing", text, sizeof text, &length) != 0 || text[0] != '1')
        SKIP("NUMA balancing by the kernel");
    enum { HUGE = 2 << 20, PAGES = 4096 };
    static void *page[PAGES];
    static int answer[PAGES];
    static numalloc_page_counts_t counts;
    size_t bytes = PAGES * os_page_size();
    int here = cpu_ids[0], there = other_than(here);
    char *reserved;
    CHECK_EQUAL(os_map(bytes + HUGE, (void **)&reserved), 0);
    char *p = (char *)(((uintptr_t)reserved + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    (void)os_advise_huge(p, bytes, true);
    touch_from(there, p, bytes);
    there = home_of(there);
    CHECK_EQUAL(numalloc_bind_thread(here), 0);
    for (size_t i = 0; i < PAGES; i++) page[i] = p + i * os_page_size();
    struct utsname kernel;
    CHECK_EQUAL(uname(&kernel), 0);
    bool known_wrong = strncmp(kernel.release, "6.1.", 4) == 0;
    int seen = 0;
    for (uint64_t start = os_now_ms(); seen < 3 && os_now_ms() - start < (known_wrong ? 60000 : 10000);) {
        for (volatile long i = 0; i < 10000000; i++) continue;
        CHECK_EQUAL(syscall(SYS_move_pages, 0, (unsigned long)PAGES, page, NULL, answer, 0), 0);
        bool wrong = false;
        for (size_t i = 0; i < PAGES; i++) wrong = wrong || answer[i] < 0;
        seen += wrong;
        CHECK_EQUAL(numalloc_page_nodes(p, bytes, &counts), 0);
        CHECK_EQUAL(counts.pages, PAGES);
        CHECK_EQUAL(counts.on_node[there], PAGES);
    }
    CHECK(seen > 0 || !known_wrong);
    CHECK_EQUAL(os_release(reserved, bytes + HUGE), 0);
}

static const check_case cases[] = {
    {"control_first_touch_is_seen_to_fail", control_first_touch_is_seen_to_fail},
    {"on_node_preferred", on_node_preferred},
    {"on_node_strict", on_node_strict},
    {"local_is_the_callers_node", local_is_the_callers_node},
    {"interleaved_pages_alternate", interleaved_pages_alternate},
    {"blocked_parts_are_in_order", blocked_parts_are_in_order},
    {"frees_keep_the_home", frees_keep_the_home},
    {"the_dead_are_inherited_on_their_node_only", the_dead_are_inherited_on_their_node_only},
    {"a_migrating_thread_allocates_where_it_is", a_migrating_thread_allocates_where_it_is},
    {"realloc_keeps_the_home", realloc_keeps_the_home},
    {"limited_nodes_fall_by_distance", limited_nodes_fall_by_distance},
    {"absent_nodes_are_refused", absent_nodes_are_refused},
    {"pages_migrate", pages_migrate},
    {"pages_that_the_kernel_balances_are_seen", pages_that_the_kernel_balances_are_seen},
    {"prefault_places", prefault_places},
    {"explicit_huge_pages_of_one_node", explicit_huge_pages_of_one_node},
    {"with_explicit_huge_pages", with_explicit_huge_pages},
    {"nodes_are_taken_away", nodes_are_taken_away},
    {"strict_on_a_full_node_is_enomem", strict_on_a_full_node_is_enomem},
};

int main(int argc, char **argv) {
    self = argv[0];
    if (!lab_nodes("lab_placement")) return 2;
    return check_main(cases, sizeof cases / sizeof cases[0], argc, argv);
}
