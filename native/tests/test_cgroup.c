/* SPDX-License-Identifier: BSD-3-Clause */
/* cgroup.c on made-up machines: what it reads comes from a table. It is included, so that it calls the functions
 * below instead of os_memory.c's. */
#include "check.h"
#include "os/cgroup.c"

#include <stdlib.h>

#include <errno.h>

static const char *const *files; /* name, contents, name, contents, ..., NULL */

int os_read_file(const char *path, char *buffer, size_t capacity, size_t *length) {
    for (int i = 0; files[i] != NULL; i += 2) {
        if (strcmp(files[i], path) != 0) continue;
        size_t bytes = strlen(files[i + 1]);
        if (bytes >= capacity) return EFBIG;
        memcpy(buffer, files[i + 1], bytes + 1);
        *length = bytes;
        return 0;
    }
    return ENOENT;
}

int os_map(size_t bytes, void **memory) {
    *memory = calloc(1, bytes);
    return *memory == NULL ? ENOMEM : 0;
}

int os_release(void *memory, size_t bytes) {
    (void)bytes;
    free(memory);
    return 0;
}

size_t os_page_size(void) { return 4096; }

static uint64_t wanted;
static void compare(void) {
    uint64_t got = os_cgroup_room();
    if (got == wanted) return;
    fprintf(stderr, "%llu instead of %llu", (unsigned long long)got, (unsigned long long)wanted);
    _exit(1);
}

/* In a child, since paths are looked up once per process. */
static void room_is(uint64_t room, const char *const *machine) {
    char text[128];
    files = machine;
    wanted = room;
    int code = check_child(compare, text, sizeof text);
    if (code != 0) printf("%s\n", text);
    CHECK_EQUAL(code, 0);
}

#define MOUNT2 "31 23 0:28 / /cg rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
#define MACHINE(...) ((const char *const[]){__VA_ARGS__, NULL})

static void an_ancestors_limit_counts(void) {
    room_is(500, MACHINE("/proc/self/mountinfo", MOUNT2, "/proc/self/cgroup", "0::/a/b\n", "/cg/a/b/memory.max",
                         "max\n", "/cg/a/memory.max", "1000\n", "/cg/a/memory.current", "700\n", "/cg/a/memory.stat",
                         "anon 1\ninactive_file 200\n"));
}

static void unlimited(void) {
    room_is(UINT64_MAX,
            MACHINE("/proc/self/mountinfo", MOUNT2, "/proc/self/cgroup", "0::/a\n", "/cg/a/memory.max", "max\n"));
    room_is(UINT64_MAX, MACHINE("/proc/self/mountinfo", "", "/proc/self/cgroup", ""));
    room_is(UINT64_MAX, MACHINE("/nothing", ""));
}

static void a_full_group_has_no_room(void) {
    room_is(0, MACHINE("/proc/self/mountinfo", MOUNT2, "/proc/self/cgroup", "0::/a\n", "/cg/a/memory.max", "1000\n",
                       "/cg/a/memory.current", "1200\n"));
}

static void a_mount_that_shows_a_subtree(void) {
    room_is(100, MACHINE("/proc/self/mountinfo", "31 23 0:28 /docker/x /cg rw - cgroup2 cgroup2 rw\n",
                         "/proc/self/cgroup", "0::/docker/x/sub\n", "/cg/sub/memory.max", "1000\n",
                         "/cg/sub/memory.current", "900\n", "/cg/memory.max", "5000\n", "/cg/memory.current", "900\n"));
}

static void version_one(void) {
    room_is(100, MACHINE("/proc/self/mountinfo", "31 23 0:28 /docker/x /cg rw - cgroup cgroup rw,memory\n",
                         "/proc/self/cgroup", "4:memory:/docker/x\n", "/cg/memory.limit_in_bytes", "1000\n",
                         "/cg/memory.usage_in_bytes", "900\n"));
}

static void both_versions(void) {
    room_is(150, MACHINE("/proc/self/mountinfo",
                         "31 23 0:28 / /u rw - cgroup2 cgroup2 rw\n32 23 0:29 / /m rw - cgroup cgroup rw,cpu,memory\n",
                         "/proc/self/cgroup", "4:cpu,memory:/j\n0::/\n", "/m/j/memory.limit_in_bytes", "1000\n",
                         "/m/j/memory.usage_in_bytes", "900\n", "/m/j/memory.stat",
                         "cache 1\ninactive_file 5\ntotal_inactive_file 50\n"));
}

static void names_with_blanks(void) {
    room_is(100,
            MACHINE("/proc/self/mountinfo", "31 23 0:28 / /my\\040cg rw - cgroup2 cgroup2 rw\n", "/proc/self/cgroup",
                    "0::/a b\n", "/my cg/a b/memory.max", "1000\n", "/my cg/a b/memory.current", "900\n"));
}

static void many_mounts(void) {
    static char mounts[200000];
    size_t length = 0;
    for (int i = 0; i < 1500; i++)
        length += (size_t)snprintf(mounts + length, sizeof mounts - length,
                                   "%d 1 0:1 / /mnt/a_rather_long_mount_point/%d rw - ext4 /dev/x rw\n", i + 100, i);
    snprintf(mounts + length, sizeof mounts - length, "%s", MOUNT2);
    room_is(100, MACHINE("/proc/self/mountinfo", mounts, "/proc/self/cgroup", "0::/a\n", "/cg/a/memory.max", "1000\n",
                         "/cg/a/memory.current", "900\n"));
}

static void the_first_line_of_memory_stat(void) {
    room_is(160, MACHINE("/proc/self/mountinfo", MOUNT2, "/proc/self/cgroup", "0::/a\n", "/cg/a/memory.max", "1000\n",
                         "/cg/a/memory.current", "900\n", "/cg/a/memory.stat", "inactive_file 60\nanon 5\n"));
}

static const check_case cases[] = {
    {"an_ancestors_limit_counts", an_ancestors_limit_counts},
    {"unlimited", unlimited},
    {"a_full_group_has_no_room", a_full_group_has_no_room},
    {"a_mount_that_shows_a_subtree", a_mount_that_shows_a_subtree},
    {"version_one", version_one},
    {"both_versions", both_versions},
    {"names_with_blanks", names_with_blanks},
    {"many_mounts", many_mounts},
    {"the_first_line_of_memory_stat", the_first_line_of_memory_stat},
};
CHECK_MAIN(cases)
