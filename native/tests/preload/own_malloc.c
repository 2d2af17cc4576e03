/* SPDX-License-Identifier: BSD-3-Clause
 *
 * own_malloc.c: a library that carries an allocator of its own, names hidden, as a static jemalloc would be; and
 * that finds the C library's malloc behind all others. Linked by foreign.c and dlopened by loading.c.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HIDDEN __attribute__((visibility("hidden")))

/* Carves from a mapping; the size is in front of the block. */
HIDDEN void *malloc(size_t size) {
    static char *at, *end;
    size_t bytes = (size + 31) & ~(size_t)15;
    if ((size_t)(end - at) < bytes) {
        size_t chunk = bytes > 1 << 20 ? bytes : 1 << 20;
        at = mmap(NULL, chunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) abort();
        end = at + chunk;
    }
    size_t *head = (size_t *)at;
    *head = size;
    at += bytes;
    return head + 2;
}
HIDDEN size_t freed;
HIDDEN void free(void *ptr) {
    if (ptr != NULL) freed += ((size_t *)ptr)[-2];
}

char *own_copy(const char *text) { return strcpy(malloc(strlen(text) + 1), text); }
size_t own_free(char *text) {
    free(text);
    return freed;
}

/* The C library's strdup allocates with the program's malloc; its block goes to the program. */
char *own_strdup(const char *text) { return strdup(text); }

void *next_malloc(size_t size) {
    void *(*next)(size_t) = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    return next != NULL ? next(size) : NULL;
}
void next_free(void *ptr) {
    void (*next)(void *) = (void (*)(void *))dlsym(RTLD_NEXT, "free");
    if (next != NULL) next(ptr);
}
