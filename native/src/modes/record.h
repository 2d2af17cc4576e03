/* SPDX-License-Identifier: BSD-3-Clause
 *
 * record.h: what the modes know of each block.
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
#ifndef NA_RECORD_H
#define NA_RECORD_H

#include "modes/stack.h"
#include "types.h"

#pragma GCC visibility push(hidden)

enum na_record_flag {
    NA_RECORD_SAMPLED = 1,   /* in the heap profile */
    NA_RECORD_GUARDED = 2,   /* has canaries */
    NA_RECORD_PAGE = 4,      /* has a page without access behind it */
    NA_RECORD_FREED = 8,     /* in quarantine */
    NA_RECORD_SEALED = 16,   /* in quarantine without access */
    NA_RECORD_POISONED = 32, /* in quarantine, filled with the pattern of freed blocks */
    NA_RECORD_BLAMED = 64    /* damage was reported */
};

typedef struct na_record {
    struct na_record *next; /* of the same bucket; unused: the next one */
    uintptr_t start;
    size_t size;             /* as asked for */
    na_site *site, *freed;   /* where it was allocated and freed; NULL: not asked for or no memory */
    struct na_record *later; /* quarantine */
    uint32_t thread;         /* that allocated it */
    uint32_t shift;
    int16_t node;
    uint8_t flags;
} na_record;

int na_records_init(void);                   /* 0 or errno */
bool na_record_put(const na_record *record); /* false: no memory; counted */
/* Takes the record out if the user's address fits. */
bool na_record_take(uintptr_t start, uintptr_t user, na_record *record);
bool na_record_look(uintptr_t start, na_record *record); /* a copy */
/* Sets flags and `freed` if none of the flags is set yet and the user's address fits. The record, and as it was
 * before; NULL: there is none. It stays valid until na_record_take, for the one caller that set the flags. */
na_record *na_record_mark(uintptr_t start, uintptr_t user, uint8_t flags, na_site *freed, na_record *before);
/* Calls visit for each record, its stripe locked, until it answers true. */
void na_records_each(bool (*visit)(na_record *record, void *data), void *data);
uint64_t na_records_lost(void);
void na_record_lost(void); /* counts a block that could not be recorded */
void na_record_fork(int step);

#pragma GCC visibility pop

#endif
