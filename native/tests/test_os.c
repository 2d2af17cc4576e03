/* SPDX-License-Identifier: BSD-3-Clause */
/* os_memory.c, os_process.c, cgroup.c: each call does what its contract says and leaves errno alone. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "check.h"
#include "os/os.h"

/* What a container or an older kernel does: from now on `call` gives `error`, whatever its arguments or, with
 * `third`, only for that third one. */
static bool refuse(unsigned call, int third, unsigned error) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)third, 0, third < 0 ? 0 : 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* These come before anything else asks os_can_bind or os_can_query, whose answers are kept. */
static void a_container_is_noticed_body(void) {
    if (!refuse(SYS_mbind, -1, EPERM) || !refuse(SYS_move_pages, -1, ENOSYS)) SKIP("seccomp filters are not permitted");
    errno = 55;
    CHECK_EQUAL(os_can_bind(), EPERM);
    CHECK_EQUAL(os_can_query(), ENOSYS);
    CHECK_EQUAL(os_can_bind(), EPERM);
    CHECK_EQUAL(errno, 55);
    void *p;
    CHECK_EQUAL(os_map(os_page_size(), &p), 0);
    CHECK_EQUAL(os_bind(p, os_page_size(), NA_BIND_DEFAULT, NULL), EPERM);
}

static void in_child(void (*body)(void)) {
    int code = check_child(body, NULL, 0);
    if (code == 77) SKIP("seccomp filters are not permitted");
    CHECK_EQUAL(code, 0);
}

static void a_container_is_noticed(void) { in_child(a_container_is_noticed_body); }

/* Faults that writing to each page takes; a page that was only read still has one to come. */
static long faults_of_writing(char *address, size_t pages) {
    struct rusage before, after;
    CHECK_EQUAL(getrusage(RUSAGE_THREAD, &before), 0);
    for (size_t i = 0; i < pages; i++) ((volatile char *)address)[i * os_page_size() + 1] = 1;
    CHECK_EQUAL(getrusage(RUSAGE_THREAD, &after), 0);
    return after.ru_minflt - before.ru_minflt;
}

static void populate_by_hand_body(void) {
    char *p;
    size_t bytes = 64 * os_page_size();
    CHECK_EQUAL(os_map(bytes, (void **)&p), 0);
    (void)os_advise_huge(p, bytes, false);
    p[5 * os_page_size()] = 42;
    if (!refuse(SYS_madvise, 23, EINVAL)) SKIP("seccomp filters are not permitted");
    errno = 56;
    CHECK_EQUAL(os_populate(p, bytes), 0);
    CHECK_EQUAL(errno, 56);
    CHECK_EQUAL(p[5 * os_page_size()], 42);
    CHECK_EQUAL(p[6 * os_page_size()], 0);
    CHECK(faults_of_writing(p, 64) < 8);
    CHECK_EQUAL(os_purge(p, bytes), 0);
    CHECK(faults_of_writing(p, 64) >= 64); /* the count does count */
}
static void resident_pages_are_counted(void) {
    size_t page = os_page_size(), bytes = 1500 * page, resident;
    void *p;
    CHECK_EQUAL(os_map(bytes, &p), 0);
    (void)os_advise_huge(p, bytes, false);
    CHECK_EQUAL(os_resident(p, bytes, &resident), 0);
    CHECK_EQUAL(resident, 0);
    for (size_t i = 0; i < 1500; i += 100) ((volatile char *)p)[i * page] = 1;
    CHECK_EQUAL(os_resident(p, bytes, &resident), 0);
    CHECK_EQUAL(resident, 15 * page);
    CHECK_EQUAL(os_purge(p, bytes), 0);
    CHECK_EQUAL(os_resident(p, bytes, &resident), 0);
    CHECK_EQUAL(resident, 0);
    CHECK_EQUAL(os_release(p, bytes), 0);
    CHECK_EQUAL(os_resident(p, bytes, &resident), ENOMEM);
}

static void populate_by_hand(void) { in_child(populate_by_hand_body); }

static unsigned populate_error;
static void populate_out_of_memory_body(void) {
    void *p;
    CHECK_EQUAL(os_map(os_page_size(), &p), 0);
    if (!refuse(SYS_madvise, 23, populate_error)) SKIP("seccomp filters are not permitted");
    CHECK_EQUAL(os_populate(p, os_page_size()), ENOMEM);
}
static void populate_out_of_memory(void) {
    static const unsigned errors[] = {ENOMEM, EFAULT, EHWPOISON, EAGAIN};
    for (size_t i = 0; i < 4; i++) {
        populate_error = errors[i];
        in_child(populate_out_of_memory_body);
    }
}

/* A thread that is being cancelled must come back from the allocator, which may hold a lock. */
static void *while_cancelled(void *came_back) {
    char text[64];
    size_t length = 0;
    (void)pthread_cancel(pthread_self());
    (void)os_read_file("/proc/sys/vm/overcommit_memory", text, sizeof text, &length);
    (void)os_random();
    os_nap();
    os_message("still here");
    *(int *)came_back = length > 0;
    pthread_testcancel();
    return NULL;
}

static void no_cancellation_points_body(void) {
    pthread_t thread;
    int came_back = 0;
    CHECK_EQUAL(pthread_create(&thread, NULL, while_cancelled, &came_back), 0);
    void *result;
    CHECK_EQUAL(pthread_join(thread, &result), 0);
    CHECK_EQUAL(came_back, 1);
    CHECK(result == PTHREAD_CANCELED);
}
static void no_cancellation_points(void) { CHECK_EQUAL(check_child(no_cancellation_points_body, NULL, 0), 0); }

/* The stack of a small thread, with something below it that must stay as it is. */
static void *speak(void *text) {
    os_message("%s", (const char *)text);
    return NULL;
}

static void messages_need_little_stack(void) {
    enum { STACK = 24 << 10, BELOW = 256 << 10 };
    char *memory;
    CHECK_EQUAL(os_map(BELOW + STACK, (void **)&memory), 0);
    memset(memory, 0x5a, BELOW);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    CHECK_EQUAL(pthread_attr_setstack(&attributes, memory + BELOW, STACK), 0);
    pthread_t thread;
    int keep = dup(2), none = open("/dev/null", O_WRONLY);
    dup2(none, 2);
    int error = pthread_create(&thread, &attributes, speak, "small");
    if (error == 0) pthread_join(thread, NULL);
    dup2(keep, 2);
    close(keep);
    close(none);
    if (error != 0) SKIP("threads of 24 KiB");
    for (size_t i = 0; i < BELOW; i++) CHECK_EQUAL(memory[i], 0x5a);
    os_release(memory, BELOW + STACK);
}

static void says_much(void) {
    static char much[50001];
    memset(much, 'y', sizeof much - 1);
    os_message("<%s>", much);
}
static void long_messages_are_whole(void) {
    static char text[60000];
    CHECK_EQUAL(check_child(says_much, text, sizeof text), 0);
    CHECK_EQUAL(strlen(text), 50003);
    CHECK(text[0] == '<' && text[50001] == '>' && text[50002] == '\n');
}

static void current_cpu_follows_the_thread(void) {
    na_cpuset before, one;
    CHECK_EQUAL(os_get_affinity(&before), 0);
    for (int cpu = 0; cpu < NA_MAX_CPUS; cpu++) {
        if ((before.word[cpu / 64] >> (cpu % 64) & 1) == 0) continue;
        memset(&one, 0, sizeof one);
        one.word[cpu / 64] = 1UL << (cpu % 64);
        CHECK_EQUAL(os_set_affinity(&one), 0);
        CHECK_EQUAL(os_current_cpu(), cpu);
        CHECK_EQUAL(os_current_cpu(), sched_getcpu());
    }
    CHECK_EQUAL(os_set_affinity(&before), 0);
}

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

/* Every third page written, every third read; of what is left each second is not mapped. */
static void query_is_right_page_by_page(void) {
    if (os_can_query() != 0) SKIP("move_pages is not permitted");
    enum { PAGES = 600 };
    char *p;
    size_t page = os_page_size();
    static int status[PAGES];
    CHECK_EQUAL(os_map(PAGES * page, (void **)&p), 0);
    (void)os_advise_huge(p, PAGES * page, false);
    for (size_t i = 0; i < PAGES; i++) {
        if (i % 3 == 0) p[i * page] = 1;
        if (i % 3 == 1) CHECK_EQUAL(*(volatile char *)(p + i * page), 0);
        if (i % 6 == 5) CHECK_EQUAL(os_release(p + i * page, page), 0);
    }
    errno = 57;
    CHECK_EQUAL(os_query_pages(p, PAGES, status), 0);
    CHECK_EQUAL(errno, 57);
    for (size_t i = 0; i < PAGES; i++)
        CHECK(i % 3 == 0 ? status[i] >= 0 : status[i] == (i % 6 == 5 ? -EFAULT : -ENOENT));
    for (size_t i = 0; i < PAGES; i++)
        if (i % 6 != 5) os_release(p + i * page, page);
}

/* It is changed for a moment, since a page that was read seems absent and is in the page tables. */
static void query_keeps_the_threads_policy_body(void) {
    static const int modes[] = {0, 1, 2, 3, 4}; /* default, preferred, bind, interleave, local */
    char *p;
    CHECK_EQUAL(os_map(os_page_size(), (void **)&p), 0);
    CHECK_EQUAL(*(volatile char *)p, 0);
    unsigned long allowed[16] = {0};
    if (syscall(SYS_get_mempolicy, NULL, allowed, 1024UL + 1, NULL, 4UL /* MPOL_F_MEMS_ALLOWED */) != 0)
        SKIP("get_mempolicy is not permitted");
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        bool no_nodes = modes[i] == 0 || modes[i] == 4;
        if (syscall(SYS_set_mempolicy, modes[i], no_nodes ? NULL : allowed, no_nodes ? 0UL : 1024UL + 1) != 0)
            SKIP("set_mempolicy is not permitted");
        na_nodeset before = {{0}}, after = {{0}};
        int mode_before = -1, mode_after = -2, status;
        CHECK_EQUAL(os_get_policy(&mode_before, &before), 0);
        CHECK_EQUAL(os_query_pages(p, 1, &status), 0);
        CHECK_EQUAL(status, -ENOENT);
        CHECK_EQUAL(os_get_policy(&mode_after, &after), 0);
        CHECK_EQUAL(mode_after, mode_before);
        CHECK_EQUAL(memcmp(&before, &after, sizeof before), 0);
    }
    if (!refuse(SYS_set_mempolicy, -1, EPERM)) SKIP("seccomp filters are not permitted");
    int status;
    CHECK_EQUAL(os_query_pages(p, 1, &status), 0);
    CHECK_EQUAL(status, -ENOENT);
}
static void query_keeps_the_threads_policy(void) {
    if (os_can_query() != 0) SKIP("move_pages is not permitted");
    in_child(query_keeps_the_threads_policy_body);
}

static void query_without_descriptors_body(void) {
    char *p;
    int status[2];
    CHECK_EQUAL(os_map(2 * os_page_size(), (void **)&p), 0);
    *p = 1;
    CHECK_EQUAL(close(STDERR_FILENO), 0);
    CHECK_EQUAL(os_query_pages(p, 2, status), 0);
    CHECK(status[0] >= 0 && status[1] == -ENOENT);
    CHECK_EQUAL(fcntl(STDERR_FILENO, F_GETFD), -1); /* nothing of ours is left there */
    struct rlimit none = {0, 0};
    CHECK_EQUAL(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK_EQUAL(os_query_pages(p, 2, status), 0);
    CHECK(status[0] >= 0 && status[1] == -ENOENT);
}
static void query_without_descriptors(void) {
    if (os_can_query() != 0) SKIP("move_pages is not permitted");
    in_child(query_without_descriptors_body);
}

static void binding_is_kept(void) {
    if (os_can_bind() != 0) SKIP("mbind is not permitted");
    static const struct {
        enum na_bind_mode mode;
        int kernel;
    } modes[] = {{NA_BIND_PREFERRED, 1}, {NA_BIND_STRICT, 2}, {NA_BIND_INTERLEAVE, 3}, {NA_BIND_DEFAULT, 0}};
    na_nodeset allowed = {{0}}, home = {{0}};
    if (syscall(SYS_get_mempolicy, NULL, allowed.word, 1024UL + 1, NULL, 4UL /* MPOL_F_MEMS_ALLOWED */) != 0)
        SKIP("get_mempolicy is not permitted");
    int node = -1;
    for (int i = 0; i < NUMALLOC_MAX_NODES && node < 0; i++)
        if (allowed.word[i / 64] >> (i % 64) & 1) node = i;
    home.word[node / 64] = UINT64_C(1) << (node % 64);
    void *p;
    CHECK_EQUAL(os_map(os_page_size(), &p), 0);
    for (size_t i = 0; i < 4; i++) {
        na_nodeset got = {{0}};
        int mode = -1;
        CHECK_EQUAL(os_bind(p, os_page_size(), modes[i].mode, &home), 0);
        CHECK_EQUAL(syscall(SYS_get_mempolicy, &mode, got.word, 1024UL + 1, p, 2UL /* MPOL_F_ADDR */), 0);
        CHECK_EQUAL(mode, modes[i].kernel);
        CHECK_EQUAL(got.word[node / 64], modes[i].mode == NA_BIND_DEFAULT ? 0 : home.word[node / 64]);
    }
    os_release(p, os_page_size());
}

/* A page that was only read is the shared zero page: it is on no node yet. What is not mapped is an error. */
static void query_tells_read_pages_from_unmapped_ones(void) {
    if (os_can_query() != 0) SKIP("move_pages is not permitted");
    char *p;
    size_t page = os_page_size();
    int status[2];
    CHECK_EQUAL(os_map(2 * page, (void **)&p), 0);
    CHECK_EQUAL(*(volatile char *)p, 0);
    CHECK_EQUAL(os_release(p + page, page), 0);
    CHECK_EQUAL(os_query_pages(p, 2, status), 0);
    CHECK_EQUAL(status[0], -ENOENT);
    CHECK_EQUAL(status[1], -EFAULT);
    os_release(p, page);
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

static void pieces_of_files(void) {
    char path[] = "/tmp/numalloc-test-XXXXXX", text[16];
    int made = mkstemp(path), file = -1;
    size_t length = 99;
    CHECK(made >= 0);
    close(made);
    errno = 55;
    CHECK_EQUAL(os_file_create(path, &file), 0);
    CHECK_EQUAL(os_file_write(file, "one", 3), 0);
    CHECK_EQUAL(os_file_write(file, "two", 3), 0);
    CHECK_EQUAL(os_file_close(file), 0);
    CHECK_EQUAL(os_file_open(path, &file), 0);
    CHECK_EQUAL(os_file_read(file, text, 4, &length), 0);
    CHECK(length == 4 && memcmp(text, "onet", 4) == 0);
    CHECK_EQUAL(os_file_read(file, text, sizeof text, &length), 0);
    CHECK(length == 2 && memcmp(text, "wo", 2) == 0);
    CHECK_EQUAL(os_file_read(file, text, sizeof text, &length), 0);
    CHECK_EQUAL(length, 0);
    CHECK_EQUAL(os_file_write(file, "x", 1), EBADF); /* open for reading */
    CHECK_EQUAL(os_file_close(file), 0);
    CHECK_EQUAL(os_file_create(path, &file), 0); /* empties it */
    CHECK_EQUAL(os_file_close(file), 0);
    CHECK_EQUAL(os_read_file(path, text, sizeof text, &length), 0);
    CHECK_EQUAL(length, 0);
    CHECK_EQUAL(os_file_create("/no-such-directory/x", &file), ENOENT);
    CHECK_EQUAL(os_file_create("/dev/full", &file), 0);
    CHECK_EQUAL(os_file_write(file, "x", 1), ENOSPC);
    CHECK_EQUAL(os_file_close(file), 0);
    CHECK_EQUAL(os_file_create(NULL, &file), 0);
    CHECK_EQUAL(os_file_close(file), 0);
    CHECK_EQUAL(fcntl(STDERR_FILENO, F_GETFD), 0); /* still open */
    CHECK_EQUAL(errno, 55);
    unlink(path);
}

static char *forbidden;
static void reads_forbidden(void) { (void)*(volatile char *)forbidden; }

static void forbidden_memory_keeps_its_contents(void) {
    void *pages;
    size_t page = os_page_size();
    CHECK_EQUAL(os_map(2 * page, &pages), 0);
    forbidden = (char *)pages + page;
    forbidden[0] = 7;
    CHECK_EQUAL(os_forbid(forbidden, page), 0);
    CHECK(check_child(reads_forbidden, NULL, 0) != 0);
    ((char *)pages)[page - 1] = 1;
    CHECK_EQUAL(os_commit(forbidden, page), 0);
    CHECK_EQUAL(forbidden[0], 7);
    CHECK_EQUAL(os_release(pages, 2 * page), 0);
}

static void ids(void) {
    CHECK_EQUAL(os_process_id(), getpid());
    CHECK_EQUAL(os_thread_id(), getpid()); /* the first thread */
}

static const check_case cases[] = {
    {"a_container_is_noticed", a_container_is_noticed},
    {"populate_by_hand", populate_by_hand},
    {"resident_pages_are_counted", resident_pages_are_counted},
    {"populate_out_of_memory", populate_out_of_memory},
    {"no_cancellation_points", no_cancellation_points},
    {"messages_need_little_stack", messages_need_little_stack},
    {"long_messages_are_whole", long_messages_are_whole},
    {"current_cpu_follows_the_thread", current_cpu_follows_the_thread},
    {"reserve_commit_purge_release", reserve_commit_purge_release},
    {"reserved_is_inaccessible", reserved_is_inaccessible},
    {"readable_reservation_reads_zero", readable_reservation_reads_zero},
    {"populate_keeps_contents", populate_keeps_contents},
    {"query_tells_untouched_pages", query_tells_untouched_pages},
    {"query_tells_read_pages_from_unmapped_ones", query_tells_read_pages_from_unmapped_ones},
    {"query_is_right_page_by_page", query_is_right_page_by_page},
    {"query_keeps_the_threads_policy", query_keeps_the_threads_policy},
    {"query_without_descriptors", query_without_descriptors},
    {"binding_is_kept", binding_is_kept},
    {"binding_to_an_absent_node_is_refused", binding_to_an_absent_node_is_refused},
    {"remap_moves_pages", remap_moves_pages},
    {"missing_huge_pages_leave_normal_memory", missing_huge_pages_leave_normal_memory},
    {"affinity_round_trips", affinity_round_trips},
    {"files", files},
    {"pieces_of_files", pieces_of_files},
    {"forbidden_memory_keeps_its_contents", forbidden_memory_keeps_its_contents},
    {"ids", ids},
    {"messages_are_lines", messages_are_lines},
    {"clocks_random_limits", clocks_random_limits},
};
CHECK_MAIN(cases)
