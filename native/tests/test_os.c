/* SPDX-License-Identifier: BSD-3-Clause */
/* os_linux.c, cgroup.c: each call does what its contract says and leaves errno alone. */
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "check.h"
#include "os.h"

static void reserve_commit_purge_release(void) {
    size_t page = os_page_size(), bytes = 64 * page;
    void *p;
    CHECK_EQUAL(os_reserve(bytes, (size_t)1 << 30, &p), 0);
    CHECK_EQUAL((uintptr_t)p % ((size_t)1 << 30), 0);
    CHECK_EQUAL(os_commit(p, bytes), 0);
    memset(p, 1, bytes);
    CHECK_EQUAL(os_purge(p, bytes), 0);
    for (size_t i = 0; i < bytes; i++) CHECK_EQUAL(((char *)p)[i], 0);
    CHECK_EQUAL(os_release(p, bytes), 0);
    errno = 1234;
    CHECK_EQUAL(os_commit(p, bytes), ENOMEM);
    CHECK_EQUAL(errno, 1234);
    CHECK_EQUAL(os_reserve(SIZE_MAX - page, page, &p), ENOMEM);
    CHECK_EQUAL(os_reserve((size_t)1 << 62, page, &p), ENOMEM);
}

static void reserved_is_inaccessible_body(void) {
    void *p;
    if (os_reserve(1 << 20, 1 << 20, &p) == 0) *(volatile char *)p = 1;
}
static void reserved_is_inaccessible(void) { CHECK(check_child(reserved_is_inaccessible_body, NULL, 0) != 0); }

static void readable_reservation_reads_zero(void) {
    char *p;
    CHECK_EQUAL(os_reserve_readable((size_t)1 << 32, (void **)&p), 0);
    CHECK_EQUAL(p[0], 0);
    CHECK_EQUAL(p[((size_t)1 << 32) - 1], 0);
    CHECK_EQUAL(os_commit(p, os_page_size()), 0);
    p[0] = 1;
    CHECK_EQUAL(os_release(p, (size_t)1 << 32), 0);
}

static void populate_keeps_contents(void) {
    size_t bytes = 32 * os_page_size();
    char *p;
    CHECK_EQUAL(os_map(bytes, (void **)&p), 0);
    p[5] = 7;
    CHECK_EQUAL(os_populate(p, bytes), 0);
    CHECK_EQUAL(p[5], 7);
    if (os_can_query() == 0) {
        int status[32];
        CHECK_EQUAL(os_query_pages(p, 32, status), 0);
        for (int i = 0; i < 32; i++) CHECK(status[i] >= 0);
    }
    os_release(p, bytes);
}

static void query_tells_untouched_pages(void) {
    if (os_can_query() != 0) SKIP("move_pages is not permitted");
    char *p;
    CHECK_EQUAL(os_map(3 * os_page_size(), (void **)&p), 0);
    p[os_page_size()] = 1;
    int status[3];
    CHECK_EQUAL(os_query_pages(p, 3, status), 0);
    CHECK_EQUAL(status[0], -ENOENT);
    CHECK(status[1] >= 0);
    CHECK_EQUAL(status[2], -ENOENT);
    os_release(p, 3 * os_page_size());
}

static void binding_to_an_absent_node_is_refused(void) {
    if (os_can_bind() != 0) SKIP("mbind is not permitted");
    void *p;
    na_nodeset absent = {{0}};
    absent.word[15] = UINT64_C(1) << 63;
    CHECK_EQUAL(os_map(os_page_size(), &p), 0);
    CHECK_EQUAL(os_bind(p, os_page_size(), NA_BIND_STRICT, &absent), EINVAL);
    CHECK_EQUAL(os_bind(p, os_page_size(), NA_BIND_DEFAULT, NULL), 0);
    os_release(p, os_page_size());
}

static void remap_moves_pages(void) {
    size_t bytes = 16 * os_page_size();
    char *from, *to;
    CHECK_EQUAL(os_map(bytes, (void **)&from), 0);
    CHECK_EQUAL(os_map(bytes, (void **)&to), 0);
    memset(from, 9, bytes);
    int error = os_remap(from, bytes, to);
    if (error == ENOSYS) SKIP("mremap knows no MREMAP_DONTUNMAP (Linux before 5.7)");
    CHECK_EQUAL(error, 0);
    for (size_t i = 0; i < bytes; i++) CHECK(to[i] == 9 && from[i] == 0);
    from[0] = 1; /* still there */
    os_release(from, bytes);
    os_release(to, bytes);
}

static void missing_huge_pages_leave_normal_memory(void) {
    size_t huge = (size_t)2 << 20;
    char *p;
    CHECK_EQUAL(os_reserve(huge, huge, (void **)&p), 0);
    CHECK_EQUAL(os_commit(p, huge), 0);
    int error = os_map_hugetlb(p, huge, huge, 0);
    CHECK(error == 0 || error == ENOMEM || error == ENOSYS);
    memset(p, 1, huge);
    os_release(p, huge);
}

static void affinity_round_trips(void) {
    na_cpuset before, after;
    CHECK_EQUAL(os_get_affinity(&before), 0);
    CHECK_EQUAL(os_set_affinity(&before), 0);
    CHECK_EQUAL(os_get_affinity(&after), 0);
    CHECK_EQUAL(memcmp(&before, &after, sizeof before), 0);
    na_cpuset none;
    memset(&none, 0, sizeof none);
    errno = 77;
    CHECK_EQUAL(os_set_affinity(&none), EINVAL);
    CHECK_EQUAL(errno, 77);
    int cpu = os_current_cpu();
    CHECK(cpu >= 0 && (before.word[cpu / 64] >> (cpu % 64) & 1));
}

static void files(void) {
    char text[64];
    size_t length;
    CHECK_EQUAL(os_read_file("/proc/self/nonexistent", text, sizeof text, &length), ENOENT);
    CHECK_EQUAL(os_read_file("/proc/self/status", text, sizeof text, &length), EFBIG);
    CHECK_EQUAL(os_read_file("/proc/sys/vm/overcommit_memory", text, sizeof text, &length), 0);
    CHECK(length >= 2 && text[length] == '\0');
}

static void count_id(int id, void *sum) { *(long *)sum += 1000 + id; }
static void numbered_entries(void) {
    char directory[] = "/tmp/numallocXXXXXX", command[400];
    CHECK(mkdtemp(directory) != NULL);
    snprintf(command, sizeof command, "cd %s && mkdir node0 node12 nodex node3y other5 node", directory);
    CHECK_EQUAL(system(command), 0);
    long sum = 0;
    CHECK_EQUAL(os_list_numbered(directory, "node", count_id, &sum), 0);
    CHECK_EQUAL(sum, 2012);
    snprintf(command, sizeof command, "rm -r %s", directory);
    CHECK_EQUAL(system(command), 0);
    CHECK_EQUAL(os_list_numbered(directory, "node", count_id, &sum), ENOENT);
}

static void says(void) { os_message("x%d", 5); }
static void messages_are_lines(void) {
    char text[64];
    CHECK_EQUAL(check_child(says, text, sizeof text), 0);
    CHECK(strcmp(text, "x5\n") == 0);
}

static void clocks_random_limits(void) {
    uint64_t a = os_now_ms();
    CHECK(os_now_ms() >= a);
    CHECK(os_random() != os_random());
    CHECK(os_cgroup_room() > 0);
    CHECK(os_address_space_left() > 0);
    CHECK(os_page_size() >= 4096);
}

static const check_case cases[] = {
    {"reserve_commit_purge_release", reserve_commit_purge_release},
    {"reserved_is_inaccessible", reserved_is_inaccessible},
    {"readable_reservation_reads_zero", readable_reservation_reads_zero},
    {"populate_keeps_contents", populate_keeps_contents},
    {"query_tells_untouched_pages", query_tells_untouched_pages},
    {"binding_to_an_absent_node_is_refused", binding_to_an_absent_node_is_refused},
    {"remap_moves_pages", remap_moves_pages},
    {"missing_huge_pages_leave_normal_memory", missing_huge_pages_leave_normal_memory},
    {"affinity_round_trips", affinity_round_trips},
    {"files", files},
    {"numbered_entries", numbered_entries},
    {"messages_are_lines", messages_are_lines},
    {"clocks_random_limits", clocks_random_limits},
};
CHECK_MAIN(cases)
