/* SPDX-License-Identifier: BSD-3-Clause
 *
 * filtered.c: a seccomp filter that ends a process for calls about NUMA placement, as sandboxes and service managers
 * have. On a machine of one node the library makes none of these calls; with several, none after its start, except
 * for memory whose placement the program asks for.
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../check.h"
#include "served.h"

static char *self;

static void forbid_placement(void) {
    static const unsigned calls[] = {SYS_mbind, SYS_get_mempolicy, SYS_set_mempolicy, SYS_move_pages,
                                     SYS_migrate_pages};
    enum { CALLS = sizeof calls / sizeof calls[0] };
    struct sock_filter filter[2 * CALLS + 2] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    for (unsigned i = 0; i < CALLS; i++) {
        filter[2 * i + 1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i], 0, 1);
        filter[2 * i + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    }
    filter[2 * CALLS + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {2 * CALLS + 2, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        SKIP("seccomp filters");
}

/* Blocks of pages and large ones, zeroed, resized and aligned ones. */
static void *work(void *unused) {
    enum { BLOCKS = 64 };
    char *block[BLOCKS];
    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < BLOCKS; i++) {
            size_t size = 16 + (i * 79190u + (unsigned)round * 131u) % 5000000;
            block[i] = i % 3 == 0 ? calloc(1, size) : i % 3 == 1 ? malloc(size) : aligned_alloc(4096, size);
            if (block[i] == NULL) return (void *)1;
            block[i][0] = 1;
        }
        for (unsigned i = 0; i < BLOCKS; i++) {
            block[i] = realloc(block[i], 100000 * (size_t)(i % 7 + 1));
            if (block[i] == NULL) return (void *)1;
        }
        for (unsigned i = 0; i < BLOCKS; i++) free(block[i]);
    }
    return unused;
}

static void work_in_two_threads(void) {
    CHECK(work(NULL) == NULL);
    pthread_t thread;
    void *failed;
    CHECK_EQUAL(pthread_create(&thread, NULL, work, NULL), 0);
    CHECK_EQUAL(pthread_join(thread, &failed), 0);
    CHECK(failed == NULL);
    CHECK(numalloc_stats_json(NULL, 0) > 0);
}

static void set_and_go_on(void) {
    forbid_placement();
    work_in_two_threads();
}

static void set_and_start_a_program(void) {
    forbid_placement();
    setenv("NUMALLOC_STATS", "1", 1); /* the report at exit asks nothing either */
    setenv("NUMALLOC_VERBOSE", "1", 1);
    execl(self, self, "working", (char *)NULL);
    CHECK(!"execl");
}

static void check_end(void (*body)(void)) {
    char said[8192];
    int code = check_child(body, said, sizeof said);
    if (code == 77) SKIP("seccomp filters");
    CHECK_EQUAL(code, 0);
}

static void filter_after_the_start(void) { check_end(set_and_go_on); }

static void filter_before_the_start(void) {
    if (numalloc_node_count() > 1) return; /* its policies are set then, and have to be */
    check_end(set_and_start_a_program);
}

static const check_case cases[] = {{"filter_after_the_start", filter_after_the_start},
                                   {"filter_before_the_start", filter_before_the_start}};

int main(int argc, char **argv) {
    self = argv[0];
    served_or_exit();
    if (argc == 2 && strcmp(argv[1], "working") == 0) {
        static const check_case working[] = {{"working", work_in_two_threads}};
        return check_main(working, 1, 0, argv);
    }
    return check_main(cases, sizeof cases / sizeof cases[0], argc, argv);
}
