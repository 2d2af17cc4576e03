/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cgroup.c: how much memory the cgroups of this process still grant, for version 2, 1 and both mounted at once.
 *
 * The kernel answers a full memory cgroup with the OOM killer, MADV_POPULATE_WRITE included, so the limits of
 * the process' cgroup and of all its ancestors are compared before memory is faulted in.
 *
 * Invariants. Paths are looked up once and published whole, so that neither a race nor a fork in the midst of it
 * leaves half of them. Stack frames stay small, as in os_memory.c.
 *
 * Threads: no locks; threads that race look the paths up twice and one result is kept.
 */
#include "os/os.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { PATH = 1024, FILE_NAME = 32, TEXT = 65536, TEXT_MAX = 1 << 24 };

struct hierarchy {
    const char *limit, *current, *reclaimable; /* file names, key in memory.stat */
    char directory[2 * PATH];                  /* of our group, "" if the hierarchy is not there */
    size_t mount;                              /* length of the mount point within it */
};

struct hierarchies {
    struct hierarchy two, one;
};

/* A whole file in its own mapping, which the caller releases; NULL if it can't be read. */
static char *read_all(const char *path, size_t *mapped) {
    for (size_t size = TEXT; size <= TEXT_MAX; size *= 2) {
        void *text;
        size_t length;
        if (os_map(size, &text) != 0) return NULL;
        int error = os_read_file(path, text, size, &length);
        *mapped = size;
        if (error == 0) return text;
        (void)os_release(text, size);
        if (error != EFBIG) return NULL;
    }
    return NULL;
}

static bool is_octal(char c) { return c >= '0' && c <= '7'; }

/* Copies up to `end` or the end of the line; `escapes`: \040 and the like stand for a character, as in mountinfo.
 * false: does not fit. */
static bool copy_field(char *to, const char *from, char end, bool escapes) {
    size_t n = 0;
    while (*from != '\0' && *from != '\n' && *from != end) {
        char c = *from++;
        if (escapes && c == '\\' && is_octal(from[0]) && is_octal(from[1]) && is_octal(from[2])) {
            c = (char)((from[0] - '0') * 64 + (from[1] - '0') * 8 + (from[2] - '0'));
            from += 3;
        }
        if (n == PATH - 1) return false;
        to[n++] = c;
    }
    to[n] = '\0';
    return true;
}

/* Has [line, end) the word "memory" between commas, colons or blanks? */
static bool names_memory(const char *line, const char *end) {
    for (const char *at = line; (at = strstr(at, "memory")) != NULL && at < end; at += 6)
        if (strchr(",: ", at[-1]) != NULL && (at[6] == '\0' || strchr(",:\n", at[6]) != NULL)) return true;
    return false;
}

/* Lines: hierarchy-id:controllers:path; version 2 has id 0 and no controllers. "" if there is no such line. */
static void find_group(const char *text, bool two, char *group) {
    group[0] = '\0';
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *first = strchr(line, ':');
        const char *second = first != NULL ? strchr(first + 1, ':') : NULL;
        if (second == NULL) return;
        if (two ? second == first + 1 : names_memory(first, second + 1)) {
            if (!copy_field(group, second + 1, '\n', false)) group[0] = '\0';
            return;
        }
        line = strchr(second, '\n');
        if (line != NULL) line++;
    }
}

/* Lines: id parent major:minor root mount-point options [tags] - type source super-options. A mount shows the
 * groups from `root` on: it has this process's group if that path begins with `root`. */
static void find_directory(const char *text, bool two, const char *group, struct hierarchy *h) {
    for (const char *line = text; *line != '\0' && h->directory[0] == '\0' && group[0] != '\0';) {
        const char *end = strchr(line, '\n');
        if (end == NULL) end = line + strlen(line);
        const char *type = strstr(line, " - cgroup");
        bool right = type != NULL && type < end &&
                     (two ? strncmp(type + 9, "2 ", 2) == 0 : type[9] == ' ' && names_memory(type, end));
        const char *field = line;
        for (int i = 0; i < 3 && field != NULL; i++) {
            field = strchr(field, ' ');
            if (field != NULL) field++;
        }
        const char *mount = right && field != NULL ? strchr(field, ' ') : NULL;
        if (mount != NULL && copy_field(h->directory, field, ' ', true)) {
            size_t root = strcmp(h->directory, "/") == 0 ? 0 : strlen(h->directory);
            bool ours = strncmp(group, h->directory, root) == 0 && (group[root] == '/' || group[root] == '\0');
            h->directory[0] = '\0';
            if (ours && copy_field(h->directory, mount + 1, ' ', true)) {
                h->mount = strlen(h->directory);
                const char *below = strcmp(group + root, "/") == 0 ? "" : group + root;
                memcpy(h->directory + h->mount, below, strlen(below) + 1);
            }
        }
        line = *end == '\0' ? end : end + 1;
    }
}

static const struct hierarchies *look_up(void) {
    static _Atomic(struct hierarchies *) known;
    struct hierarchies *found = atomic_load_explicit(&known, memory_order_acquire);
    if (found != NULL) return found;
    void *memory;
    size_t bytes = (sizeof *found + os_page_size() - 1) & ~(os_page_size() - 1), mounts_size, groups_size;
    if (os_map(bytes, &memory) != 0) return NULL;
    found = memory;
    found->two.limit = "memory.max";
    found->two.current = "memory.current";
    found->two.reclaimable = "inactive_file ";
    found->one.limit = "memory.limit_in_bytes";
    found->one.current = "memory.usage_in_bytes";
    found->one.reclaimable = "total_inactive_file ";
    char *groups = read_all("/proc/self/cgroup", &groups_size);
    char *mounts = groups != NULL ? read_all("/proc/self/mountinfo", &mounts_size) : NULL;
    if (mounts != NULL) {
        char group[PATH];
        find_group(groups, true, group);
        find_directory(mounts, true, group, &found->two);
        find_group(groups, false, group);
        find_directory(mounts, false, group, &found->one);
        (void)os_release(mounts, mounts_size);
    }
    if (groups != NULL) (void)os_release(groups, groups_size);
    struct hierarchies *other = NULL;
    if (atomic_compare_exchange_strong(&known, &other, found)) return found;
    (void)os_release(memory, bytes);
    return other;
}

/* The number in a file of the group, or behind `key` at the start of one of its lines. UINT64_MAX for "max" or
 * none. `path` is the group's directory, of `length`, with room for a file name. */
static uint64_t number_in(char *path, size_t length, const char *file, const char *key) {
    char text[4096];
    size_t bytes;
    (void)snprintf(path + length, FILE_NAME, "/%s", file);
    int error = os_read_file(path, text, sizeof text, &bytes);
    path[length] = '\0';
    if (error != 0) return UINT64_MAX;
    const char *at = text;
    while (key != NULL && strncmp(at, key, strlen(key)) != 0) {
        at = strchr(at, '\n');
        if (at == NULL) return UINT64_MAX;
        at++;
    }
    if (key != NULL) at += strlen(key);
    if (*at < '0' || *at > '9') return UINT64_MAX;
    uint64_t value = 0;
    while (*at >= '0' && *at <= '9') value = value * 10 + (uint64_t)(*at++ - '0');
    return value;
}

static uint64_t room_in(const struct hierarchy *h) {
    uint64_t room = UINT64_MAX;
    char path[2 * PATH + FILE_NAME];
    size_t length = strlen(h->directory);
    memcpy(path, h->directory, length + 1);
    while (length != 0) {
        uint64_t limit = number_in(path, length, h->limit, NULL);
        uint64_t used = limit != UINT64_MAX ? number_in(path, length, h->current, NULL) : UINT64_MAX;
        if (limit != UINT64_MAX && used != UINT64_MAX) {
            uint64_t cache = number_in(path, length, "memory.stat", h->reclaimable);
            if (cache == UINT64_MAX) cache = 0;
            used = cache < used ? used - cache : 0;
            uint64_t left = used < limit ? limit - used : 0;
            if (left < room) room = left;
        }
        const char *slash = strrchr(path, '/');
        if (slash == NULL || (size_t)(slash - path) < h->mount) break;
        length = (size_t)(slash - path);
        path[length] = '\0';
    }
    return room;
}

uint64_t os_cgroup_room(void) {
    const struct hierarchies *found = look_up();
    if (found == NULL) return UINT64_MAX;
    uint64_t two = room_in(&found->two), one = room_in(&found->one);
    return two < one ? two : one;
}
