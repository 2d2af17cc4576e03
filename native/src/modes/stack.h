/* SPDX-License-Identifier: BSD-3-Clause
 *
 * stack.h: call stacks, kept once.
 */
#ifndef NA_STACK_H
#define NA_STACK_H

#include "modes/out.h"
#include "types.h"

#pragma GCC visibility push(hidden)

enum { NA_FRAMES = 32, NA_FRAMES_OWN = 6 /* room for our own functions at the inner end */ };

struct na_tally; /* profile.c: the samples of a site and size class */

typedef struct na_site {
    struct na_site *next;     /* of the same bucket */
    struct na_site *all_next; /* of all, youngest first */
    uint64_t hash;
    int16_t node; /* id of the home, or NUMALLOC_NODE_MIXED */
    uint16_t depth;
    _Atomic(struct na_tally *) tallies; /* profile.c */
    /* leaks.c, under its lock while a report is made */
    uint64_t blocks, bytes, largest;
    uintptr_t largest_at;
    uint32_t thread; /* of the largest */
    uintptr_t frame[];
} na_site;

void na_stack_init(void);                   /* loads the unwinder; allocates, so not before constructors run */
na_site *na_site_here(int node);            /* of the caller; NULL: no memory for it */
na_site *na_sites(void);                    /* the youngest */
unsigned na_site_skip(const na_site *site); /* frames at the inner end that are ours */
bool na_site_startup(const na_site *site);  /* made by the dynamic linker, or before the unwinder was loaded */
void na_site_fork(int step);

typedef struct na_symbol {
    const char *function; /* NULL: not known */
    const char *module;   /* its file; NULL: not known */
    uintptr_t offset;     /* from the function's start */
    uintptr_t address;    /* as addr2line wants it for that module */
} na_symbol;

/* Of a return address: what is said is about the call before it. */
void na_symbol_at(uintptr_t frame, na_symbol *symbol);
void na_site_print(na_out *out, const na_site *site, const char *indent); /* one line a frame */

#pragma GCC visibility pop

#endif
