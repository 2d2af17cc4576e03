/* SPDX-License-Identifier: BSD-3-Clause */
/* Where pages are, for programs that know nothing of libnumalloc: by move_pages, and by the policy in numa_maps. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (condition) break;                                                                                          \
        printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                                 \
        exit(1);                                                                                                       \
    } while (0)

/* Node -1: anywhere. */
static bool all_on(const char *p, size_t size, int node) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (node < 0) return true;
    for (uintptr_t at = (uintptr_t)p & ~(page - 1); at < (uintptr_t)p + size; at += page) {
        void *pages[1] = {(void *)at};
        int status = -1;
        if (syscall(SYS_move_pages, 0, 1UL, pages, NULL, &status, 0) != 0 || status != node) return false;
    }
    FILE *maps = fopen("/proc/self/numa_maps", "r");
    static char line[8192];
    char found[8192] = "", elsewhere[] = " N0=";
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL && strtoull(line, NULL, 16) <= (uintptr_t)p)
        strcpy(found, line);
    if (maps != NULL) fclose(maps);
    for (int other = 0; other < 10; other++) {
        elsewhere[2] = (char)('0' + other);
        if ((strstr(found, elsewhere) != NULL) != (other == node)) return false;
    }
    return true;
}
