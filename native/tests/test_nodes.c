/* SPDX-License-Identifier: BSD-3-Clause */
/* On a made-up machine of two nodes: what is asked of a node that is full, that was taken from this process, or that has
 * a limit. Each case is a child of its own. */
#include <errno.h>
#include <stdint.h>

#include "check.h"
#include "machine.h"
#include "os/options.h"
#include "os/os.h"

int machine_nodes = 2;
bool machine_quiet = true;

enum { MIB = 1 << 20, HUGE = 2 * MIB };

static void in_child(void (*body)(void)) { CHECK_EQUAL(check_child(body, NULL, 0), 0); }

static void *request_of(int policy, unsigned flags, size_t size) {
    numalloc_request_t request = {.size = size, .policy = policy, .flags = flags, .node = 1};
    errno = 0;
    return numalloc_request(&request);
}

static uint64_t fallbacks(void) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(-1, &stats), 0);
    return stats.fallbacks;
}

/* ---- a node that was taken away ---------------------------------------------------------------------------- */

static void preferred_goes_on(void) {
    static const int policies[] = {NUMALLOC_ONNODE, NUMALLOC_INTERLEAVE, NUMALLOC_BLOCKED};
    machine_removed = 1;
    for (int i = 0; i < 3; i++) {
        uint64_t before = fallbacks();
        char *block = request_of(policies[i], 0, 3 * MIB);
        CHECK(block != NULL);
        block[0] = block[3 * MIB - 1] = 1;
        if (policies[i] == NUMALLOC_BLOCKED) CHECK(fallbacks() > before); /* of others the kernel says nothing */
        numalloc_free(block);
    }
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void strict_says_no_such_node(void) {
    static const int policies[] = {NUMALLOC_ONNODE, NUMALLOC_INTERLEAVE, NUMALLOC_BLOCKED};
    static const size_t sizes[] = {5000, 3 * MIB, 40 * MIB};
    void *before = request_of(NUMALLOC_ONNODE, NUMALLOC_STRICT, 100); /* its region is there */
    CHECK(before != NULL);
    machine_removed = 1;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) {
            if (i != 0 && k == 0) continue; /* dealt whole */
            CHECK(request_of(policies[i], NUMALLOC_STRICT, sizes[k]) == NULL);
            CHECK_EQUAL(errno, ENODEV);
        }
    CHECK_EQUAL(numalloc_bind_range((void *)4096, 4096, &(numalloc_nodemask_t){{2}}), ENODEV);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void removed_node(void) {
    in_child(preferred_goes_on);
    in_child(strict_says_no_such_node);
}

/* ---- a full node ------------------------------------------------------------------------------------------- */

/* The kernel puts the node's share on the other one of the set. */
static void strict_is_refused(void) {
    machine_full = 1;
    for (size_t size = 64 << 10; size <= 64 * MIB; size *= 2) {
        CHECK(request_of(NUMALLOC_INTERLEAVE, NUMALLOC_STRICT, size) == NULL);
        CHECK_EQUAL(errno, ENOMEM);
        CHECK(request_of(NUMALLOC_BLOCKED, NUMALLOC_STRICT, size) == NULL);
        CHECK_EQUAL(errno, ENOMEM);
        char *block = request_of(NUMALLOC_INTERLEAVE, 0, size);
        CHECK(block != NULL);
        numalloc_free(block);
    }
    machine_full = -1;
    for (size_t size = 64 << 10; size <= 64 * MIB; size *= 2) {
        void *block = request_of(NUMALLOC_INTERLEAVE, NUMALLOC_STRICT, size);
        CHECK(block != NULL);
        numalloc_free(block);
    }
}

static void full_node(void) { in_child(strict_is_refused); }

/* ---- huge pages -------------------------------------------------------------------------------------------- */

/* Has the mapping around `p` this flag? */
static bool flagged(const void *p, const char *flag) {
    FILE *file = fopen("/proc/self/smaps", "r");
    char line[512];
    bool here = false, found = false;
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) here = from <= (uintptr_t)p && (uintptr_t)p < to;
        if (here && strncmp(line, "VmFlags:", 8) == 0) found = strstr(line, flag) != NULL;
    }
    fclose(file);
    return found;
}

/* Few huge pages can't be dealt fairly. */
static void few_are_not_dealt(void) {
    enum na_thp_mode mode;
    if (os_thp_mode(&mode) != 0) SKIP("transparent huge pages");
    static const struct {
        size_t size;
        bool huge;
    } blocks[] = {{3 * MIB, false}, {8 * MIB, false}, {31 * MIB, false}, {32 * MIB, true}, {70 * MIB, true}};
    for (int i = 0; i < 5; i++) {
        char *block = request_of(NUMALLOC_INTERLEAVE, 0, blocks[i].size), *middle = block + blocks[i].size / 2;
        CHECK(block != NULL);
        CHECK(flagged(middle, blocks[i].huge ? " hg" : " nh"));
        numalloc_free(block);
        (void)numalloc_purge(); /* another block may have them there */
        CHECK(flagged(middle, " hg"));
    }
}

static void huge_pages_are_dealt_fairly(void) {
    int code = check_child(few_are_not_dealt, NULL, 0);
    if (code == 77) SKIP("transparent huge pages");
    CHECK_EQUAL(code, 0);
}

/* ---- NUMALLOC_NODE_LIMIT ----------------------------------------------------------------------------------- */

enum { LIMIT = 64 * MIB };

static uint64_t committed(void) {
    numalloc_stats_t stats;
    CHECK_EQUAL(numalloc_stats(1, &stats), 0);
    return stats.committed_bytes;
}

/* Strict memory and other memory of a node have regions of their own, and one limit. */
static void all_regions_count(void) {
    na_opt.node_limit = LIMIT;
    for (int round = 0; round < 4; round++) {
        void *block = request_of(NUMALLOC_ONNODE, round % 2 != 0 ? NUMALLOC_STRICT : 0, 40 * MIB);
        CHECK(block != NULL && numalloc_node_of(block) == 1);
        CHECK(committed() <= LIMIT);
        numalloc_free(block);
        CHECK(committed() <= LIMIT);
    }
    void *live = request_of(NUMALLOC_ONNODE, 0, 40 * MIB);
    CHECK(live != NULL);
    CHECK(request_of(NUMALLOC_ONNODE, NUMALLOC_STRICT, 40 * MIB) == NULL);
    CHECK_EQUAL(errno, ENOMEM);
    numalloc_free(live);
}

/* Each node has its share of interleaved and blocked memory, and of what rests of it. */
static void mixed_memory_counts(void) {
    na_opt.node_limit = LIMIT;
    for (int policy = NUMALLOC_INTERLEAVE; policy <= NUMALLOC_BLOCKED; policy++) {
        CHECK(request_of(policy, 0, 2 * LIMIT + 2 * MIB) == NULL);
        CHECK_EQUAL(errno, ENOMEM);
        void *mixed = request_of(policy, 0, 80 * MIB);
        CHECK(mixed != NULL);
        CHECK(request_of(NUMALLOC_ONNODE, NUMALLOC_STRICT, 40 * MIB) == NULL);
        CHECK_EQUAL(errno, ENOMEM);
        CHECK(request_of(policy, 0, 80 * MIB) == NULL);
        numalloc_free(mixed);
        void *block = request_of(NUMALLOC_ONNODE, NUMALLOC_STRICT, 40 * MIB); /* what rested went */
        CHECK(block != NULL);
        CHECK(request_of(policy, 0, 80 * MIB) == NULL);
        numalloc_free(block);
        numalloc_free(request_of(policy, 0, 80 * MIB));
    }
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void node_limit(void) {
    in_child(all_regions_count);
    in_child(mixed_memory_counts);
}

/* ---- room -------------------------------------------------------------------------------------------------- */

/* What does not fit as a whole is refused before its first page is faulted in. */
static void nothing_is_faulted_in(void) {
    static const int policies[] = {NUMALLOC_LOCAL, NUMALLOC_ONNODE, NUMALLOC_INTERLEAVE, NUMALLOC_BLOCKED};
    static const unsigned flags[] = {NUMALLOC_STRICT, NUMALLOC_POPULATE};
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 2; k++) {
            numalloc_free(request_of(policies[i], flags[k], 100 * MIB)); /* regions are open */
            (void)numalloc_purge();                                      /* what is there already needs no room */
            machine_room = 128 * MIB;
            uint64_t before = machine_calls(MACHINE_populate);
            CHECK(request_of(policies[i], flags[k], 200 * MIB) == NULL);
            CHECK_EQUAL(errno, ENOMEM);
            CHECK_EQUAL(machine_calls(MACHINE_populate), before);
            void *fits = request_of(policies[i], flags[k], 100 * MIB);
            CHECK(fits != NULL);
            machine_room = UINT64_MAX;
            numalloc_free(fits);
        }
    (void)numalloc_purge();
    void *block = numalloc(200 * MIB);
    CHECK(block != NULL);
    machine_room = 128 * MIB;
    uint64_t before = machine_calls(MACHINE_populate);
    CHECK_EQUAL(numalloc_prefault(block, 200 * MIB), ENOMEM);
    CHECK_EQUAL(machine_calls(MACHINE_populate), before);
    CHECK_EQUAL(numalloc_prefault(block, 100 * MIB), 0);
    numalloc_free(block);
}

static void room_is_compared_first(void) { in_child(nothing_is_faulted_in); }

/* ---- kinds and weights ------------------------------------------------------------------------------------- */

static int node_of_kind(int kind, unsigned flags) {
    void *block = request_of(kind, flags, 3 * MIB);
    CHECK(block != NULL);
    int node = numalloc_node_of(block);
    numalloc_free(block);
    return node;
}

/* Node 1 has three times the bandwidth and half as much latency again. */
static void each_kind_has_its_node(void) {
    numalloc_kind_t kind;
    for (unsigned strict = 0; strict < 2; strict++) {
        CHECK_EQUAL(node_of_kind(NUMALLOC_KIND_BANDWIDTH, strict * NUMALLOC_STRICT), 1);
        CHECK_EQUAL(node_of_kind(NUMALLOC_KIND_LATENCY, strict * NUMALLOC_STRICT), 0);
    }
    CHECK_EQUAL(node_of_kind(NUMALLOC_KIND_CAPACITY, 0), numalloc_current_node()); /* both are */
    void *small = numalloc_onkind(50, NUMALLOC_KIND_BANDWIDTH);
    CHECK_EQUAL(numalloc_node_of(small), 1);
    numalloc_free(small);
    CHECK_EQUAL(numalloc_kind(NUMALLOC_KIND_BANDWIDTH, &kind), 0);
    CHECK(kind.source == NUMALLOC_SOURCE_ATTRIBUTES && kind.nearest == 1 && kind.nodes.word[0] == 2);
    CHECK_EQUAL(numalloc_kind(NUMALLOC_KIND_CAPACITY, &kind), 0);
    CHECK(kind.source == NUMALLOC_SOURCE_SIZE && kind.nodes.word[0] == 3);
    CHECK_EQUAL(numalloc_kind(NUMALLOC_WEIGHTED, &kind), EINVAL);
    numalloc_node_info_t info;
    CHECK_EQUAL(numalloc_node_info(1, &info), 0);
    CHECK(info.read_bandwidth == 40000 && info.write_latency == 150 && info.tier == -1);
    char text[200];
    CHECK(numalloc_kind_text(text, sizeof text) < sizeof text);
    CHECK(strstr(text, "node 1: 8 CPUs, 8192 MiB, 30000 MB/s, 150 ns, no tier told") != NULL);
    errno = 0;
    CHECK(numalloc_onkind(50, NUMALLOC_LOCAL) == NULL && errno == EINVAL);
    machine_full = 1;
    CHECK(request_of(NUMALLOC_KIND_BANDWIDTH, NUMALLOC_STRICT, 3 * MIB) == NULL && errno == ENOMEM);
    machine_full = -1;
}

static void kinds(void) { in_child(each_kind_has_its_node); }

static void check_shares(const void *block, size_t size, unsigned a, unsigned b) {
    numalloc_page_counts_t counts;
    CHECK_EQUAL(numalloc_prefault((void *)(uintptr_t)block, size), 0);
    CHECK_EQUAL(numalloc_page_nodes(block, size, &counts), 0);
    size_t sum = a + b, exact = counts.pages * a, got = counts.on_node[0] * sum;
    CHECK_EQUAL(counts.on_node[0] + counts.on_node[1], counts.pages);
    /* Boundaries are on pages, and a huge page is not cut. */
    size_t may = (exact / sum / 128 + 1) * sum;
    if (got + may < exact || got > exact + may)
        printf("%zu bytes, %u:%u: %zu of %zu\n", size, a, b, counts.on_node[0], counts.pages);
    CHECK(got + may >= exact && got <= exact + may);
}

static void shares_are_as_the_weights(void) {
    static const unsigned weights[][2] = {{1, 1}, {1, 3}, {9, 3}, {2, 5}, {1, 32}, {255, 254}, {255, 1}, {24, 1}};
    for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++)
        for (unsigned strict = 0; strict < 2; strict++)
            for (size_t size = 10000; size < 200 * MIB; size = size * 3 + 1000) {
                numalloc_weights_t asked = {{(uint8_t)weights[i][0], (uint8_t)weights[i][1]}};
                numalloc_request_t request = {
                    .size = size, .policy = NUMALLOC_WEIGHTED, .weights = &asked, .flags = strict * NUMALLOC_STRICT};
                uint64_t before = machine_calls(MACHINE_bind);
                void *block = numalloc_request(&request);
                CHECK(block != NULL && numalloc_node_of(block) == NUMALLOC_NODE_MIXED);
                CHECK(machine_calls(MACHINE_bind) - before < 300);
                check_shares(block, size, weights[i][0], weights[i][1]);
                numalloc_free(block);
            }
    (void)numalloc_purge();
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* The kernel's weights 3:9 are ours, 1:3, and others are not. */
static void by_the_kernel(void) {
    const numalloc_weights_t same = {{1, 3}}, other = {{3, 1}};
    strcpy(machine_weights, "3");
    strcpy(machine_weights + 4, "9");
    uint64_t before = machine_calls(MACHINE_bind);
    void *block = numalloc_weighted(8 * MIB, &same);
    CHECK_EQUAL(machine_calls(MACHINE_bind) - before, 1);
    check_shares(block, 8 * MIB, 1, 3);
    void *few = numalloc_weighted(64 << 10, &same), *ours = numalloc_weighted(8 * MIB, &other);
    check_shares(few, 64 << 10, 1, 3);
    check_shares(ours, 8 * MIB, 3, 1);
    numalloc_free(few);
    numalloc_free(ours);
    before = machine_calls(MACHINE_bind);
    numalloc_free(block);
    CHECK(numalloc_weighted(8 * MIB, &same) == block); /* with its policy */
    CHECK_EQUAL(machine_calls(MACHINE_bind), before);
    block = numalloc_realloc(block, 40 * MIB);
    check_shares(block, 40 * MIB, 1, 3);
    numalloc_free(block);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void without_weights_by_bandwidth(void) {
    numalloc_weights_t weights;
    numalloc_nodemask_t one = {{2}};
    CHECK_EQUAL(numalloc_weights(NULL, &weights), 0);
    CHECK(weights.of[0] == 1 && weights.of[1] == 3 && weights.of[2] == 0); /* 10000 and 30000 MB/s */
    void *block = numalloc_weighted(8 * MIB, NULL);
    check_shares(block, 8 * MIB, 1, 3);
    numalloc_free(block);
    int seen[2] = {0, 0};
    for (int i = 0; i < 40; i++) seen[numalloc_node_of(numalloc_weighted(100, NULL))]++;
    CHECK(seen[0] == 10 && seen[1] == 30);
    numalloc_request_t request = {.size = MIB, .policy = NUMALLOC_WEIGHTED, .nodes = &one};
    CHECK_EQUAL(numalloc_node_of(numalloc_request(&request)), 1);
    request.weights = &weights; /* of more nodes */
    errno = 0;
    CHECK(numalloc_request(&request) == NULL && errno == EINVAL);
    const numalloc_weights_t none = {{0}}, absent = {{1, 1, 1}};
    CHECK(numalloc_weighted(MIB, &none) == NULL && errno == EINVAL);
    CHECK(numalloc_weighted(MIB, &absent) == NULL && errno == ENODEV);
    CHECK_EQUAL(numalloc_weights(&one, NULL), EINVAL);
    machine_full = 1;
    request.nodes = NULL;
    request.flags = NUMALLOC_STRICT;
    errno = 0;
    CHECK(numalloc_request(&request) == NULL && errno == ENOMEM);
    machine_full = -1;
}

static void weighted(void) {
    in_child(shares_are_as_the_weights);
    in_child(by_the_kernel);
    in_child(without_weights_by_bandwidth);
}

static const check_case cases[] = {
    {"kinds", kinds},
    {"weighted", weighted},
    {"removed_node", removed_node},
    {"full_node", full_node},
    {"huge_pages_are_dealt_fairly", huge_pages_are_dealt_fairly},
    {"node_limit", node_limit},
    {"room_is_compared_first", room_is_compared_first},
};
CHECK_MAIN(cases)
