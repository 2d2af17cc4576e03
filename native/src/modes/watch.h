/* SPDX-License-Identifier: BSD-3-Clause
 *
 * watch.h: what the modes that see every block share: NUMALLOC_LEAKS, NUMALLOC_PROFILE, NUMALLOC_GUARD.
 *
 * watch.h: what the modes that see every block share: NUMALLOC_LEAKS, NUMALLOC_PROFILE, NUMALLOC_GUARD.
 *
 *   raw      a block as the rest of the allocator knows it; `start` is its first byte. Guard mode hands out an
 *            address inside it, `start + shift`
 *   record   what is known of one raw block: record.c
 *   site     a home and a call stack, kept once however many blocks came from there: stack.c
 *   startup  a site of the dynamic linker, or from before stacks could be walked: see leaks.c
 *
 * Locks, all leaves (nothing is taken while one is held, and none is held while a block is allocated or freed, a
 * stack walked or a symbol looked up): the stripes of the table of records, sites, quarantine, the arena below
 * them all. fork holds all of them. The lock of the leak report is none: leaks.c.
 */
#ifndef NA_WATCH_H
#define NA_WATCH_H

#include "types.h"

#pragma GCC visibility push(hidden)

/* While one of these is set, na_self.heap is na_empty_heap, so that both fast paths miss. Constant after na_init. */
extern bool na_watched;
extern bool na_secure;     /* secure.c: sealed lists, random order; secure.h has the rest */
int na_watch_init(void);   /* 0 or errno */
void na_watch_start(void); /* when constructors run */
void *na_watch_here(size_t size, size_t align, unsigned flags); /* NUMALLOC_LOCAL */
void *na_watch_alloc(const numalloc_request_t *request);
void *na_watch_realloc(void *ptr, size_t size);
void na_watch_free(void *ptr, const char *call);
bool na_watch_describe(numalloc_block_info_t *info); /* raw block to what the user has; false: it was freed */
bool na_watch_verify(void);                          /* false: damage, reported */
void na_watch_cleanup(bool report);
void na_watch_fork(int step);

extern _Thread_local bool na_watch_busy __attribute__((tls_model("initial-exec"))); /* see watch.c */

#pragma GCC visibility pop

#endif
