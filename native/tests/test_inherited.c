/* SPDX-License-Identifier: BSD-3-Clause
 *
 * test_inherited: a memory policy that somebody chose before the process started (numactl, srun --mem-bind) decides
 * where local memory is; what the program asks for by node or over nodes is where it asks. On a made-up machine of two
 * nodes. Each case is a process of its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/mempolicy.h>
#include <sched.h>

#include "check.h"
#include "machine.h"
#include "numa_alloc.h"

static char json[1 << 16];

/* Blocks of pages, and large ones from each part of a region. */
static const size_t sizes[] = {100, 20000, 200000, 5000000};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static void run_on(size_t cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus) != 0) SKIP("CPUs 0 and 1");
}

static void check_local(void *block, bool bound, int node, int policy) {
    numalloc_block_info_t info;
    CHECK(block != NULL);
    CHECK_EQUAL(machine_bound(block), bound);
    CHECK_EQUAL(numalloc_node_of(block), node);
    CHECK_EQUAL(numalloc_block_info(block, &info), 0);
    CHECK_EQUAL(info.policy, policy);
}

/* Whatever the caller's CPU; `node`: -2, that of the CPU. */
static void local_memory(bool bound, int node, int policy) {
    for (int cpu = 0; cpu < 2; cpu++) {
        run_on((size_t)cpu);
        int home = node == -2 ? cpu : node;
        for (int i = 0; i < SIZES; i++) {
            void *block = numalloc(sizes[i]);
            check_local(block, bound, home, policy);
            numalloc_free(block);
            check_local(block = numalloc_calloc(1, sizes[i]), bound, home, policy);
            check_local(block = numalloc_realloc(block, 3 * sizes[i]), bound, home, policy);
            numalloc_free(block);
            numalloc_request_t request = {.size = sizes[i], .policy = NUMALLOC_LOCAL, .flags = NUMALLOC_POPULATE};
            check_local(block = numalloc_request(&request), bound, home, policy);
            numalloc_free(block);
        }
    }
    (void)numalloc_purge();
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void explicit_requests(void) {
    for (int i = 0; i < SIZES; i++) {
        for (int node = 0; node < 2; node++) {
            void *block = numalloc_onnode(sizes[i], node);
            check_local(block, true, node, NUMALLOC_ONNODE);
            check_local(block = numalloc_realloc(block, 3 * sizes[i]), true, node, NUMALLOC_ONNODE);
            numalloc_free(block);
        }
        numalloc_request_t strict = {.size = sizes[i], .policy = NUMALLOC_LOCAL, .flags = NUMALLOC_STRICT};
        run_on(0);
        void *block = numalloc_request(&strict);
        check_local(block, true, 0, NUMALLOC_ONNODE);
        numalloc_free(block);
    }
    void *block = numalloc_interleaved(1 << 20, NULL);
    check_local(block, true, NUMALLOC_NODE_MIXED, NUMALLOC_INTERLEAVE);
    numalloc_free(block);
}

/* NUMALLOC_NODE_LIMIT=64M. What the policy puts on node 1 counts there, from whichever CPU it was asked for. */
static void limited_body(void) {
    enum { MIB = 1 << 20 };
    run_on(0);
    void *first = numalloc(40 * MIB);
    CHECK(first != NULL);
    run_on(1);
    CHECK(numalloc(40 * MIB) == NULL);
    CHECK_EQUAL(errno, ENOMEM);
    void *other = numalloc_onnode(40 * MIB, 0);
    CHECK_EQUAL(numalloc_node_of(other), 0);
    numalloc_free(first);
    CHECK((first = numalloc(40 * MIB)) != NULL); /* the free memory of the other CPU's region gives way */
    numalloc_free(first);
    numalloc_free(other);
}

static void check_json(const char *policy) {
    char field[80];
    snprintf(field, sizeof field, "\"inherited_policy\": \"%s\"", policy);
    CHECK(numalloc_stats_json(json, sizeof json) < sizeof json);
    CHECK(strstr(json, field) != NULL);
}

static void bound_body(void) {
    local_memory(false, 1, NUMALLOC_LOCAL);
    explicit_requests();
    numalloc_stats_t before, after;
    CHECK_EQUAL(numalloc_stats(1, &before), 0);
    void *block = numalloc(sizes[3]);
    CHECK_EQUAL(numalloc_stats(1, &after), 0); /* the policy's only node */
    CHECK(after.allocated_bytes >= before.allocated_bytes + sizes[3]);
    numalloc_free(block);
    check_json("bind:1");
}

static void spread_body(void) {
    local_memory(false, NUMALLOC_NODE_MIXED, NUMALLOC_LOCAL);
    explicit_requests();
    check_json("interleave:0-1");
}

static void nobodys_body(void) {
    local_memory(true, -2, NUMALLOC_ONNODE);
    check_json("");
}

/* The policies of local memory are set at the start, before a program may forbid itself the calls for that. */
static void set_once_body(void) {
    uint64_t before = machine_calls(MACHINE_bind), probed = machine_calls(MACHINE_query_pages);
    CHECK(before > 0);
    for (size_t cpu = 0; cpu < 2; cpu++) {
        run_on(cpu);
        for (int i = 0; i < SIZES; i++) numalloc_free(numalloc(sizes[i]));
    }
    CHECK_EQUAL(machine_calls(MACHINE_bind), before);
    CHECK_EQUAL(machine_calls(MACHINE_query_pages), probed);
}

#define IN(policy) "MACHINE_NODES=2 MACHINE_POLICY=" policy

static void numactl_membind(void) { check_start(IN("2:2"), "bound_body"); }
static void numactl_preferred(void) {
    check_start(IN("1:2"), "preferred_body");
    check_start(IN("1:2") " NUMALLOC_VERBOSE=1", "preferred_body 2>&1 | grep -q 'memory policy prefer:1'");
}
static void limits_of_nodes(void) { check_start("NUMALLOC_NODE_LIMIT=64M " IN("2:2"), "limited_body"); }
static void numactl_interleave(void) { check_start(IN("3:3"), "spread_body"); }
static void numactl_interleave_static_nodes(void) { check_start(IN("32771:3"), "flags_body"); }
static void numactl_localalloc(void) { check_start(IN("4:0"), "nobodys_body"); }
static void localalloc_of_older_kernels(void) { check_start(IN("1:0"), "nobodys_body"); }
static void no_policy(void) { check_start(IN("0:0"), "nobodys_body"); }
static void policies_are_set_at_the_start(void) { check_start("MACHINE_NODES=2", "set_once_body"); }
static void not_on_one_node(void) { check_start("MACHINE_NODES=0", "one_node_body"); }

static void flags_body(void) {
    CHECK_EQUAL(MPOL_INTERLEAVE | MPOL_F_STATIC_NODES, 32771);
    local_memory(false, NUMALLOC_NODE_MIXED, NUMALLOC_LOCAL);
    check_json("interleave:0-1");
}

static void preferred_body(void) { local_memory(false, 1, NUMALLOC_LOCAL); }

static void one_node_body(void) {
    numalloc_free(numalloc(sizes[3]));
    CHECK_EQUAL(machine_calls(MACHINE_get_policy), 0);
    check_json("");
}

static const check_case cases[] = {
    {"numactl_membind", numactl_membind},
    {"limits_of_nodes", limits_of_nodes},
    {"numactl_preferred", numactl_preferred},
    {"numactl_interleave", numactl_interleave},
    {"numactl_interleave_static_nodes", numactl_interleave_static_nodes},
    {"numactl_localalloc", numactl_localalloc},
    {"localalloc_of_older_kernels", localalloc_of_older_kernels},
    {"no_policy", no_policy},
    {"policies_are_set_at_the_start", policies_are_set_at_the_start},
    {"not_on_one_node", not_on_one_node},
};
static const check_case bodies[] = {
    {"bound_body", bound_body},       {"spread_body", spread_body},       {"nobodys_body", nobodys_body},
    {"flags_body", flags_body},       {"preferred_body", preferred_body}, {"set_once_body", set_once_body},
    {"one_node_body", one_node_body}, {"limited_body", limited_body},
};
CHECK_MAIN_OF_BODIES(cases, bodies)
