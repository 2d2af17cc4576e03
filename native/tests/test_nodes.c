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

static const check_case cases[] = {
    {"removed_node", removed_node},
    {"full_node", full_node},
    {"huge_pages_are_dealt_fairly", huge_pages_are_dealt_fairly},
    {"node_limit", node_limit},
    {"room_is_compared_first", room_is_compared_first},
};
CHECK_MAIN(cases)
