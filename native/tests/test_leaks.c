/* SPDX-License-Identifier: BSD-3-Clause */
/* hooks.c, record.c, stack.c, leaks.c: what is live is listed, whole and once, with size, home, thread and stack. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "heap/hooks.h"
#include "modes.h"
#include "os/topology.h"

static void *volatile kept[64];

NAMED void *from_here(size_t size) {
    void *p = numalloc(size);
    __asm__ volatile("" : "+r"(p)); /* not a tail call: the frame is to be seen */
    return p;
}

static numalloc_leak_totals_t totals(void) {
    numalloc_leak_totals_t t;
    CHECK_EQUAL(numalloc_leak_report(NULL, &t), 0);
    return t;
}

#define CHECK_LIVE(count, sum)                                                                                         \
    do {                                                                                                               \
        numalloc_leak_totals_t t_ = totals();                                                                          \
        CHECK_EQUAL(t_.blocks, count);                                                                                 \
        CHECK_EQUAL(t_.bytes, sum);                                                                                    \
        CHECK_EQUAL(t_.unrecorded, 0);                                                                                 \
    } while (0)

/* ---- bodies --------------------------------------------------------------------------------------------- */

static void off(void) {
    numalloc_leak_totals_t t;
    CHECK_EQUAL(numalloc_leak_report("stderr", &t), ENOTSUP);
    CHECK(!na_hooked);
}

static void every_call(void) {
    CHECK_LIVE(0, 0);
    void *p[12];
    int n = 0;
    CHECK((p[n++] = numalloc(1)) != NULL);
    CHECK((p[n++] = numalloc(100000)) != NULL);
    CHECK((p[n++] = numalloc_calloc(7, 11)) != NULL);
    CHECK((p[n++] = numalloc_calloc(7, 11000)) != NULL);
    CHECK((p[n++] = numalloc_aligned(4096, 5)) != NULL);
    CHECK((p[n++] = numalloc_aligned(16, 6)) != NULL);
    CHECK((p[n++] = numalloc_onnode(9, na_topo.node_id[0])) != NULL);
    CHECK((p[n++] = numalloc_interleaved(300000, NULL)) != NULL);
    CHECK((p[n++] = numalloc_interleaved(30, NULL)) != NULL);
    CHECK((p[n++] = numalloc_blocked(500000, NULL)) != NULL);
    numalloc_request_t request = {.size = 77, .flags = NUMALLOC_POPULATE | NUMALLOC_ZERO};
    CHECK((p[n++] = numalloc_request(&request)) != NULL);
    CHECK((p[n++] = numalloc_realloc(NULL, 13)) != NULL);
    uint64_t sum = 1 + 100000 + 77 + 77000 + 5 + 6 + 9 + 300000 + 30 + 500000 + 77 + 13;
    CHECK_LIVE(n, sum);
    CHECK((p[0] = numalloc_realloc(p[0], 2)) != NULL); /* in place: still one block */
    CHECK((p[1] = numalloc_realloc(p[1], 3000000)) != NULL);
    CHECK((p[2] = numalloc_realloc(p[2], 9000)) != NULL);
    sum += 1 + 2900000 + 9000 - 77;
    CHECK_LIVE(n, sum);
    CHECK(numalloc_realloc(p[2], SIZE_MAX) == NULL && errno == ENOMEM); /* refused: the old one stays */
    CHECK_LIVE(n, sum);
    void *volatile none = numalloc_realloc(p[2], 0);
    CHECK(none == NULL);
    CHECK_LIVE(n - 1, sum - 9000);
    p[2] = NULL;
    for (int i = 0; i < n; i++) numalloc_free(p[i]);
    CHECK_LIVE(0, 0);
    na_unhooked = true; /* what the modes' own tools allocate is not seen, what they free is */
    p[0] = numalloc(50);
    na_unhooked = false;
    CHECK_LIVE(0, 0);
    p[1] = numalloc(60);
    na_unhooked = true;
    numalloc_free(p[1]);
    na_unhooked = false;
    CHECK_LIVE(0, 0);
    numalloc_free(p[0]);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static void leaks_some(void) {
    for (int i = 0; i < 4; i++) kept[i] = from_here(1000);
    kept[4] = numalloc(200000);
    kept[5] = from_here(50);
    numalloc_free(kept[5]);
}

static void cleans_up(void) {
    leaks_some();
    numalloc_cleanup();
    _exit(0); /* without the report at exit */
}

static void bad_paths(void) {
    CHECK_EQUAL(numalloc_leak_report("/no-such-directory/file", NULL), ENOENT);
    CHECK_EQUAL(numalloc_leak_report("", NULL), EINVAL);
    char longer[5000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    CHECK_EQUAL(numalloc_leak_report(longer, NULL), EINVAL);
    CHECK_EQUAL(numalloc_leak_report("/dev/full", NULL), ENOSPC);
    CHECK_EQUAL(numalloc_leak_report(NULL, NULL), 0);
}

enum { THREADS = 4, EACH = 500 };
static void *handed[THREADS][EACH];

static void *allocates_and_ends(void *argument) {
    void **mine = argument;
    for (int i = 0; i < EACH; i++) mine[i] = numalloc((size_t)(100 + i));
    return NULL;
}

static void threads_hand_over(void) {
    pthread_t thread[THREADS];
    for (int round = 0; round < 3; round++) {
        for (int t = 0; t < THREADS; t++)
            CHECK_EQUAL(pthread_create(&thread[t], NULL, allocates_and_ends, handed[t]), 0);
        for (int t = 0; t < THREADS; t++) pthread_join(thread[t], NULL);
        CHECK_LIVE(THREADS * EACH, THREADS * (100 * EACH + EACH * (EACH - 1) / 2));
        for (int t = 0; t < THREADS; t++)
            for (int i = 0; i < EACH; i++) numalloc_free(handed[t][i]); /* remote */
        CHECK_LIVE(0, 0);
    }
}

static atomic_bool done;

static void *keeps_busy(void *argument) {
    (void)argument;
    while (!atomic_load(&done)) {
        void *p = from_here(300), *q = numalloc(70000);
        p = numalloc_realloc(p, 3000);
        numalloc_free(p);
        numalloc_free(q);
    }
    return NULL;
}

static void forks(void) {
    pthread_t thread[2];
    for (int t = 0; t < 2; t++) CHECK_EQUAL(pthread_create(&thread[t], NULL, keeps_busy, NULL), 0);
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(60); /* a lock that was left behind would wait for ever */
            numalloc_leak_totals_t before, after;
            if (numalloc_leak_report(NULL, &before) != 0) _exit(2);
            void *p = from_here(12345);
            if (numalloc_leak_report(NULL, &after) != 0) _exit(3);
            if (after.bytes != before.bytes + 12345 || after.blocks != before.blocks + 1) _exit(4);
            numalloc_free(p);
            _exit(0);
        }
        int status;
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    atomic_store(&done, true);
    for (int t = 0; t < 2; t++) pthread_join(thread[t], NULL);
    CHECK_LIVE(0, 0);
}

static void too_many(void) {
    enum { MANY = 200000 };
    static void *p[MANY];
    for (int i = 0; i < MANY; i++) p[i] = numalloc(16);
    numalloc_leak_totals_t t = totals();
    CHECK(t.unrecorded > 0);
    CHECK(t.blocks > 1000);
    CHECK_EQUAL(t.blocks + t.unrecorded, MANY);
    for (int i = 0; i < MANY; i++) numalloc_free(p[i]);
    CHECK_EQUAL(totals().blocks, 0);
}

/* ---- cases ---------------------------------------------------------------------------------------------- */

static void off_by_default(void) {
    RUN(0, "off", "NUMALLOC_VERBOSE=0");
    CHECK(said[0] == '\0');
}
static void each_call_is_recorded_once(void) { RUN(0, "every_call", "NUMALLOC_LEAKS=/dev/null"); }
static void with_guards_too(void) { RUN(0, "every_call", "NUMALLOC_LEAKS=/dev/null", "NUMALLOC_GUARD=1"); }
static void with_guard_pages_too(void) { RUN(0, "every_call", "NUMALLOC_LEAKS=/dev/null", "NUMALLOC_GUARD=2"); }

static void the_exit_lists_what_is_left(void) {
    RUN(0, "leaks_some", "NUMALLOC_LEAKS=1");
    SAID("has 5 blocks of 204000 bytes allocated, from 2 places");
    SAID("\n200000 bytes in 1 block on node ");
    SAID("\n4000 bytes in 4 blocks on node ");
    CHECK(strstr(said, "200000 bytes in") < strstr(said, "4000 bytes in 4"));
    const char *group = strstr(said, "4000 bytes in 4"), *first = strstr(group, "#0 "), *second = strstr(group, "#1 ");
    const char *name = strstr(group, "from_here");
    CHECK(name != NULL && first < name && name < second); /* our own functions are not shown */
    CHECK(strstr(said, "incomplete") == NULL);
}

static void cleanup_lists_too(void) {
    RUN(0, "cleans_up", "NUMALLOC_LEAKS=stderr");
    SAID("has 5 blocks of 204000 bytes");
}

static void json_goes_to_a_file_per_process(void) {
    char directory[] = "/tmp/numalloc-test-XXXXXX", setting[100], command[200];
    CHECK(mkdtemp(directory) != NULL);
    snprintf(setting, sizeof setting, "NUMALLOC_LEAKS=%s/%%p.json", directory);
    RUN(0, "leaks_some", setting);
    CHECK(said[0] == '\0');
    snprintf(command, sizeof command, "cat %s/[0-9]*.json", directory);
    static char text[100000];
    FILE *file = popen(command, "r");
    CHECK(file != NULL);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    CHECK_EQUAL(pclose(file), 0);
    snprintf(command, sizeof command, "rm -r %s", directory);
    CHECK_EQUAL(system(command), 0);
    CHECK(strstr(text, "\"blocks\": 5, \"bytes\": 204000,") != NULL);
    CHECK(strstr(text, "{\"bytes\": 4000, \"blocks\": 4, \"node\": ") != NULL);
    CHECK(strstr(text, "\"function\": \"from_here\"") != NULL);
}

static void errors_are_told(void) {
    RUN(0, "bad_paths", "NUMALLOC_LEAKS=/dev/null");
    RUN(0, "leaks_some", "NUMALLOC_LEAKS=/no-such-directory/x");
    SAID("can't be written to /no-such-directory/x");
}

static void blocks_pass_between_threads(void) { RUN(0, "threads_hand_over", "NUMALLOC_LEAKS=/dev/null"); }
static void a_child_goes_on(void) { RUN(0, "forks", "NUMALLOC_LEAKS=/dev/null"); }

static void what_is_not_recorded_is_counted(void) {
    RUN(0, "too_many", "NUMALLOC_LEAKS=1", "NUMALLOC_WATCH_LIMIT=4M");
    SAID("incomplete: ");
}

static const check_case bodies[] = {
    {"off", off},
    {"every_call", every_call},
    {"leaks_some", leaks_some},
    {"cleans_up", cleans_up},
    {"bad_paths", bad_paths},
    {"threads_hand_over", threads_hand_over},
    {"forks", forks},
    {"too_many", too_many},
};

static const check_case cases[] = {
    {"off_by_default", off_by_default},
    {"each_call_is_recorded_once", each_call_is_recorded_once},
    {"with_guards_too", with_guards_too},
    {"with_guard_pages_too", with_guard_pages_too},
    {"the_exit_lists_what_is_left", the_exit_lists_what_is_left},
    {"cleanup_lists_too", cleanup_lists_too},
    {"json_goes_to_a_file_per_process", json_goes_to_a_file_per_process},
    {"errors_are_told", errors_are_told},
    {"blocks_pass_between_threads", blocks_pass_between_threads},
    {"a_child_goes_on", a_child_goes_on},
    {"what_is_not_recorded_is_counted", what_is_not_recorded_is_counted},
};
WATCHED_MAIN(cases, bodies)
