/* SPDX-License-Identifier: BSD-3-Clause
 *
 * early.c: a library whose constructor runs before the preloaded one's, as the constructors of all libraries that
 * a program links do. It allocates, takes a key and registers fork handlers that allocate, first of all.
 */
#include "early.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *early_block, *early_large;
int early_forks[3];
pthread_key_t early_key;

/* Blocks that end in new pages, large ones included: each handler needs the locks. */
void early_allocate(void) {
    enum { COUNT = 64 };
    void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        size_t size = (size_t)1 << (4 + i % 18);
        blocks[i] = malloc(size);
        if (blocks[i] == NULL) _exit(90);
        memset(blocks[i], i, size < 4096 ? size : 4096);
    }
    for (int i = 0; i < COUNT; i++) free(blocks[i]);
}

static void count(int which) {
    early_allocate();
    early_forks[which]++;
}
static void prepare(void) { count(0); }
static void parent(void) { count(1); }
static void child(void) { count(2); }

/* A key older than the allocator's: its destructor runs before. */
static void (*volatile at_thread_end)(void *);
void early_at_thread_end(void (*function)(void *)) { at_thread_end = function; }
static void thread_end(void *value) {
    if (at_thread_end != NULL) at_thread_end(value);
}

__attribute__((constructor(101))) static void first(void) {
    if (pthread_key_create(&early_key, thread_end) != 0 || pthread_atfork(prepare, parent, child) != 0) abort();
    early_block = malloc(100);
    early_large = calloc(1, 1 << 20);
    strcpy(early_block, "early");
    early_allocate();
}
