/* SPDX-License-Identifier: BSD-3-Clause
 *
 * lab_kinds: kinds of memory and weighted interleaving, on a machine of the NUMA lab that was built with them. The machine is
 * told by arguments, so that nothing here rests on what the allocator reads:
 *   bandwidth=2:attributes   nodes of the kind and how that is known (none: it is not told)
 *   near=bandwidth:0:2       the node of the kind that is nearest to the CPUs of node 0
 *   weights=0:1,2:4          those by bandwidth
 * then names of cases.
 */
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lab.h"

enum { KINDS = 3, NEAR = 32 };
static const char *const kind_name[KINDS] = {"bandwidth", "latency", "capacity"};
static const char *const source_name[] = {"none", "attributes", "tiers", "size"};
static struct {
    numalloc_nodemask_t nodes;
    int source;
    bool given;
} expected[KINDS];
static struct { int kind, from, to; } near[NEAR];
static int near_count;
static numalloc_weights_t weights;
static unsigned weights_sum;

static const size_t sizes[] = {64, 5000, 65536, 300000, (size_t)3 << 20, (size_t)20 << 20};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

/* ---- looking, by system calls of our own ---------------------------------------------------------------------- */

static long on[NUMALLOC_MAX_NODES]; /* pages of the range that was looked at last */

static size_t look(const char *p, size_t size) {
    enum { MANY = 4096 };
    static void *pages[MANY];
    static int status[MANY];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), count = 0, n = 0;
    memset(on, 0, sizeof on);
    for (const char *at = (const char *)((uintptr_t)p & ~(page - 1)); at < p + size; at += page, count++) {
        pages[n++] = (void *)(uintptr_t)at;
        if (n < MANY && at + page < p + size) continue;
        CHECK_EQUAL(syscall(SYS_move_pages, 0, n, pages, NULL, status, 0), 0);
        for (size_t i = 0; i < n; i++) {
            CHECK(status[i] >= 0);
            on[status[i]]++;
        }
        n = 0;
    }
    return count;
}

static void check_on(const char *p, size_t size, int node) {
    size_t count = look(p, size);
    if ((size_t)on[node] != count) printf("%ld of %zu pages on node %d\n", on[node], count, node);
    CHECK_EQUAL(on[node], count);
}

static bool is_told(int k) { return expected[k].given && expected[k].source != NUMALLOC_SOURCE_NONE; }

/* ---- kinds -------------------------------------------------------------------------------------------------------- */

typedef struct kind_task {
    task base;
    int kind;
    unsigned flags;
    numalloc_kind_t answer;
} kind_task;

static void ask_body(task *t) {
    kind_task *k = (kind_task *)t;
    t->error = numalloc_kind(k->kind, &k->answer);
}

static void kinds_are_those_of_the_machine(void) {
    for (int k = 0; k < KINDS; k++) {
        if (!expected[k].given) continue;
        kind_task ask = {.base = {.node = cpu_ids[0], .body = ask_body}, .kind = NUMALLOC_KIND_BANDWIDTH + k};
        pthread_t thread;
        CHECK_EQUAL(pthread_create(&thread, NULL, run_task, &ask), 0);
        pthread_join(thread, NULL);
        CHECK_EQUAL(ask.base.error, is_told(k) ? 0 : ENODATA);
        CHECK_EQUAL(ask.answer.source, expected[k].source);
        CHECK(memcmp(&ask.answer.nodes, &expected[k].nodes, sizeof ask.answer.nodes) == 0);
    }
    for (int i = 0; i < near_count; i++) {
        kind_task ask = {.base = {.node = near[i].from, .body = ask_body},
                         .kind = NUMALLOC_KIND_BANDWIDTH + near[i].kind};
        on_node(&ask.base);
        CHECK_EQUAL(ask.answer.nearest, near[i].to);
    }
}

static void kinds_that_are_not_told_are_refused(void) {
    for (int k = 0; k < KINDS; k++) {
        if (!expected[k].given || is_told(k)) continue;
        errno = 0;
        CHECK(numalloc_onkind(100, NUMALLOC_KIND_BANDWIDTH + k) == NULL);
        CHECK_EQUAL(errno, ENODATA);
        numalloc_request_t request = {.size = 100, .policy = NUMALLOC_KIND_BANDWIDTH + k, .flags = NUMALLOC_STRICT};
        CHECK(numalloc_request(&request) == NULL && errno == ENODATA);
    }
    if (weights_sum != 0) return;
    errno = 0;
    CHECK(numalloc_weighted(100, NULL) == NULL && errno == ENODATA);
}

static void request_body(task *t) {
    kind_task *k = (kind_task *)t;
    numalloc_request_t request = {.size = t->size, .policy = k->kind, .flags = k->flags};
    t->p = numalloc_request(&request);
}

static void memory_of_a_kind(unsigned flags) {
    for (int i = 0; i < near_count; i++)
        for (int s = 0; s < SIZES; s++) {
            int to = near[i].to;
            kind_task ask = {.base = {.node = near[i].from, .body = request_body, .size = sizes[s]},
                             .kind = NUMALLOC_KIND_BANDWIDTH + near[i].kind,
                             .flags = flags};
            on_node(&ask.base);
            CHECK(ask.base.p != NULL);
            CHECK_EQUAL(numalloc_node_of(ask.base.p), to);
            if (flags != 0) check_on(ask.base.p, sizes[s], to); /* before anybody touched it */
            touch_from(other_than(to), ask.base.p, sizes[s]);
            check_on(ask.base.p, sizes[s], to);
            CHECK(maps_only_on(ask.base.p, to));
            char *grown = numalloc_realloc(ask.base.p, 3 * sizes[s]);
            CHECK(grown != NULL);
            touch_from(other_than(to), grown, 3 * sizes[s]);
            check_on(grown, 3 * sizes[s], to);
            numalloc_free(grown);
        }
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void preferred_memory_of_a_kind(void) { memory_of_a_kind(0); }
static void strict_memory_of_a_kind(void) { memory_of_a_kind(NUMALLOC_STRICT); }

/* Strict memory until the nodes of the kind are full; then preferred memory is elsewhere, and counted. */
static void a_full_kind(void) {
    for (int k = 0; k < KINDS; k++) {
        if (!is_told(k)) continue;
        enum { PIECE = 32 << 20, PIECES = 512 };
        static void *piece[PIECES];
        int n = 0, all_nodes = 0, of_kind = 0;
        for (int i = 0; i < nodes; i++) {
            all_nodes++;
            of_kind += (int)(expected[k].nodes.word[ids[i] / 64] >> (ids[i] % 64) & 1);
        }
        if (of_kind == all_nodes) continue;
        numalloc_request_t request = {.size = PIECE, .policy = NUMALLOC_KIND_BANDWIDTH + k, .flags = NUMALLOC_STRICT};
        static int used[NUMALLOC_MAX_NODES];
        memset(used, 0, sizeof used);
        while (n < PIECES && (piece[n] = numalloc_request(&request)) != NULL) {
            int node = numalloc_node_of(piece[n]);
            CHECK((expected[k].nodes.word[node / 64] >> (node % 64) & 1) != 0);
            check_on(piece[n], PIECE, node);
            used[node] = 1;
            n++;
        }
        CHECK(n > 0 && n < PIECES);
        CHECK_EQUAL(errno, ENOMEM);
        for (int i = 0; i < nodes; i++)
            if ((expected[k].nodes.word[ids[i] / 64] >> (ids[i] % 64) & 1) != 0) CHECK(used[ids[i]]);
        request.flags = 0;
        request.size = (size_t)96 << 20;
        char *spill = numalloc_request(&request);
        CHECK(spill != NULL);
        memset(spill, 1, request.size);
        size_t count = look(spill, request.size), inside = 0;
        for (int i = 0; i < nodes; i++)
            if ((expected[k].nodes.word[ids[i] / 64] >> (ids[i] % 64) & 1) != 0) inside += (size_t)on[ids[i]];
        CHECK(inside < count);
        numalloc_free(spill);
        for (int i = 0; i < n; i++) numalloc_free(piece[i]);
        numalloc_cleanup();
    }
}

/* ---- weights ------------------------------------------------------------------------------------------------------ */

static void check_shares(char *p, size_t size, const numalloc_weights_t *asked, bool exactly) {
    unsigned sum = 0;
    for (int i = 0; i < nodes; i++) sum += asked->of[ids[i]];
    touch_from(cpu_ids[0], p, size);
    size_t count = look(p, size);
    for (int i = 0; i < nodes; i++) {
        size_t share = count * asked->of[ids[i]] / sum, got = (size_t)on[ids[i]];
        size_t may = exactly ? 1 + share / 64 : 1 + share / 6;
        if (got + may < share || got > share + may)
            printf("%zu bytes: %zu of %zu pages on node %d, not %zu\n", size, got, count, ids[i], share);
        CHECK(got + may >= share && got <= share + may);
    }
}

static numalloc_weights_t uneven(void) { /* 1, 2, 3, 1, ... */
    numalloc_weights_t asked = {{0}};
    for (int i = 0; i < nodes; i++) asked.of[ids[i]] = (uint8_t)(1 + i % 3);
    return asked;
}

static void weighted(bool strict, const numalloc_weights_t *asked, const numalloc_weights_t *shares) {
    for (int s = 2; s < SIZES; s++) {
        numalloc_request_t request = {
            .size = sizes[s], .policy = NUMALLOC_WEIGHTED, .weights = asked, .flags = strict ? NUMALLOC_STRICT : 0u};
        char *p = numalloc_request(&request);
        CHECK(p != NULL);
        CHECK_EQUAL(numalloc_node_of(p), NUMALLOC_NODE_MIXED);
        if (strict) CHECK_EQUAL(look(p, sizes[s]) != 0, 1);
        check_shares(p, sizes[s], shares, strict);
        numalloc_free(p);
    }
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void weights_of_the_caller(void) {
    numalloc_weights_t asked = uneven();
    weighted(false, &asked, &asked);
    weighted(true, &asked, &asked);
}

static void weights_by_bandwidth(void) {
    if (weights_sum == 0) {
        numalloc_weights_t none;
        CHECK_EQUAL(numalloc_weights(NULL, &none), ENODATA);
        return;
    }
    weighted(false, NULL, &weights);
    weighted(true, NULL, &weights);
}

static bool set_kernel_weight(int node, unsigned weight) {
    char path[100];
    snprintf(path, sizeof path, "/sys/kernel/mm/mempolicy/weighted_interleave/node%d", node);
    FILE *file = fopen(path, "w");
    if (file == NULL) return false;
    bool good = fprintf(file, "%u", weight) > 0;
    return fclose(file) == 0 && good;
}

/* The kernel's weights are used where they are in our proportion, and only there: its policy is in numa_maps. */
static void weights_of_the_kernel(void) {
    static long pages[NUMALLOC_MAX_NODES];
    char policy[100];
    numalloc_weights_t asked = uneven();
    bool known = true;
    for (int i = 0; i < nodes; i++) known = known && set_kernel_weight(ids[i], 2u * asked.of[ids[i]]);
    size_t size = (size_t)6 << 20;
    char *p = numalloc_weighted(size, &asked);
    CHECK(p != NULL);
    check_shares(p, size, &asked, false);
    CHECK(numa_maps_of(p, policy, pages));
    CHECK_EQUAL(strncmp(policy, "weighted", 8) == 0, known);
    numalloc_free(p);
    numalloc_purge();
    if (known) CHECK(set_kernel_weight(ids[0], 7));
    p = numalloc_weighted(size, &asked);
    check_shares(p, size, &asked, true);
    CHECK(numa_maps_of(p, policy, pages));
    CHECK(strncmp(policy, "prefer:", 7) == 0);
    numalloc_free(p);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static const check_case cases[] = {
    {"kinds_are_those_of_the_machine", kinds_are_those_of_the_machine},
    {"kinds_that_are_not_told_are_refused", kinds_that_are_not_told_are_refused},
    {"preferred_memory_of_a_kind", preferred_memory_of_a_kind},
    {"strict_memory_of_a_kind", strict_memory_of_a_kind},
    {"a_full_kind", a_full_kind},
    {"weights_of_the_caller", weights_of_the_caller},
    {"weights_by_bandwidth", weights_by_bandwidth},
    {"weights_of_the_kernel", weights_of_the_kernel},
};

/* ---- the machine ---------------------------------------------------------------------------------------------- */

static int kind_number(const char *text) {
    for (int k = 0; k < KINDS; k++)
        if (strncmp(text, kind_name[k], strlen(kind_name[k])) == 0) return k;
    fprintf(stderr, "lab_kinds: no kind: %s\n", text);
    exit(2);
}

static void parse(char *text) {
    char *value = strchr(text, '=') + 1;
    if (strncmp(text, "weights=", 8) == 0) {
        for (char *at = strtok(value, ","); at != NULL; at = strtok(NULL, ",")) {
            int node;
            unsigned weight;
            if (sscanf(at, "%d:%u", &node, &weight) != 2) exit(2);
            weights.of[node] = (uint8_t)weight;
            weights_sum += weight;
        }
    } else if (strncmp(text, "near=", 5) == 0) {
        int k = near[near_count].kind = kind_number(value);
        if (sscanf(value + strlen(kind_name[k]), ":%d:%d", &near[near_count].from, &near[near_count].to) != 2) exit(2);
        near_count++;
    } else {
        int k = kind_number(text);
        expected[k].given = true;
        char *source = strchr(value, ':');
        for (int i = 0; i < 4; i++)
            if (strcmp(source != NULL ? source + 1 : value, source_name[i]) == 0) expected[k].source = i;
        if (source == NULL) return;
        *source = '\0';
        for (char *at = strtok(value, ","); at != NULL; at = strtok(NULL, ",")) {
            int node = atoi(at);
            expected[k].nodes.word[node / 64] |= UINT64_C(1) << (node % 64);
        }
    }
}

int main(int argc, char **argv) {
    int left = 1;
    for (int i = 1; i < argc; i++)
        if (strchr(argv[i], '=') != NULL) parse(argv[i]);
        else argv[left++] = argv[i];
    if (!lab_nodes("lab_kinds")) return 2;
    return check_main(cases, sizeof cases / sizeof cases[0], left, argv);
}
