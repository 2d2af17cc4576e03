/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cgroup.c: how much memory the cgroups of this process still grant, for version 2, 1 and both mounted at once.
 *
 * The kernel answers a full memory cgroup with the OOM killer, MADV_POPULATE_WRITE included, so the limits of
 * the process' cgroup and of all its ancestors are compared before memory is faulted in.
 *
 * Threads: the paths are looked up once; losing a race just looks them up twice.
 */
#include "os.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { PATH = 1024, TEXT = 65536 };

struct hierarchy {
    bool found;
    char mount[PATH];                          /* where it is mounted */
    char group[PATH];                          /* our group below it, "" for the root */
    const char *limit, *current, *reclaimable; /* file names, key in memory.stat */
};

static struct hierarchy version2 = {
    .limit = "memory.max", .current = "memory.current", .reclaimable = "\ninactive_file "};
static struct hierarchy version1 = {
    .limit = "memory.limit_in_bytes", .current = "memory.usage_in_bytes", .reclaimable = "\ntotal_inactive_file "};

/* Copies up to `end` or white space. */
static void copy_field(char *to, const char *from, char end) {
    size_t n = 0;
    while (from[n] != '\0' && from[n] != ' ' && from[n] != '\n' && from[n] != end && n < PATH - 1) {
        to[n] = from[n];
        n++;
    }
    to[n] = '\0';
}

/* Has `options`, the last field of a mountinfo line, the word "memory"? */
static bool names_memory(const char *line, const char *end) {
    for (const char *at = line; (at = strstr(at, "memory")) != NULL && at < end; at += 6)
        if ((at[-1] == ',' || at[-1] == ' ') && (at[6] == ',' || at[6] == '\n' || at[6] == '\0')) return true;
    return false;
}

/* Lines: id parent major:minor root mount-point options [tags] - type source super-options */
static void find_mounts(char *text) {
    for (char *line = text; *line != '\0';) {
        char *end = strchr(line, '\n');
        if (end == NULL) end = line + strlen(line);
        char *dash = strstr(line, " - cgroup");
        if (dash != NULL && dash < end) {
            bool two = strncmp(dash + 9, "2 ", 2) == 0;
            struct hierarchy *h = two ? &version2 : &version1;
            if ((two || names_memory(dash, end)) && h->mount[0] == '\0') {
                const char *field = line;
                for (int i = 0; i < 4 && field != NULL; i++) {
                    field = strchr(field, ' ');
                    if (field != NULL) field++;
                }
                if (field != NULL) copy_field(h->mount, field, ' ');
            }
        }
        line = *end == '\0' ? end : end + 1;
    }
}

/* Lines: hierarchy-id:controllers:path; version 2 has id 0 and no controllers. */
static void find_groups(const char *text) {
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *first = strchr(line, ':');
        const char *second = first != NULL ? strchr(first + 1, ':') : NULL;
        if (second == NULL) break;
        struct hierarchy *h = NULL;
        if (second == first + 1) {
            h = &version2;
        } else {
            for (const char *at = first; (at = strstr(at, "memory")) != NULL && at < second; at += 6)
                if ((at[-1] == ',' || at[-1] == ':') && (at[6] == ',' || at[6] == ':')) h = &version1;
        }
        if (h != NULL && h->mount[0] != '\0') {
            h->found = true;
            if (strncmp(second + 1, "/\n", 2) == 0) h->group[0] = '\0';
            else copy_field(h->group, second + 1, '\n');
        }
        line = strchr(second, '\n');
        if (line != NULL) line++;
    }
}

static void look_up(void) {
    static _Atomic(int) done;
    static char text[TEXT];
    static _Atomic(bool) busy;
    if (atomic_load_explicit(&done, memory_order_acquire)) return;
    if (atomic_exchange(&busy, true)) return; /* another thread is at it: this time without limits */
    size_t length;
    if (os_read_file("/proc/self/mountinfo", text, sizeof text, &length) == 0) find_mounts(text);
    if (os_read_file("/proc/self/cgroup", text, sizeof text, &length) == 0) find_groups(text);
    atomic_store_explicit(&done, 1, memory_order_release);
}

/* A number in `file` of the group: UINT64_MAX for "max" or no such file. */
static uint64_t number_in(const char *directory, const char *file, const char *key) {
    char path[2 * PATH + 64], text[16384];
    size_t length;
    (void)snprintf(path, sizeof path, "%s/%s", directory, file);
    if (os_read_file(path, text, sizeof text, &length) != 0) return UINT64_MAX;
    const char *at = text;
    if (key != NULL) {
        at = strstr(text, key);
        if (at == NULL) return UINT64_MAX;
        at += strlen(key);
    }
    if (*at < '0' || *at > '9') return UINT64_MAX;
    uint64_t value = 0;
    while (*at >= '0' && *at <= '9') value = value * 10 + (uint64_t)(*at++ - '0');
    return value;
}

static uint64_t room_in(const struct hierarchy *h) {
    uint64_t room = UINT64_MAX;
    char directory[2 * PATH];
    if (!h->found) return room;
    (void)snprintf(directory, sizeof directory, "%s%s", h->mount, h->group);
    size_t mount = strlen(h->mount);
    for (;;) {
        uint64_t limit = number_in(directory, h->limit, NULL);
        uint64_t used = limit != UINT64_MAX ? number_in(directory, h->current, NULL) : UINT64_MAX;
        if (limit != UINT64_MAX && used != UINT64_MAX) {
            uint64_t cache = number_in(directory, "memory.stat", h->reclaimable);
            if (cache == UINT64_MAX) cache = 0;
            used = cache < used ? used - cache : 0;
            uint64_t left = used < limit ? limit - used : 0;
            if (left < room) room = left;
        }
        char *slash = strrchr(directory, '/');
        if (slash == NULL || (size_t)(slash - directory) < mount) break;
        *slash = '\0';
    }
    return room;
}

uint64_t os_cgroup_room(void) {
    look_up();
    uint64_t two = room_in(&version2), one = room_in(&version1);
    return two < one ? two : one;
}
