/* SPDX-License-Identifier: BSD-3-Clause
 *
 * modes.h: what the modes share that see every block.
 */
#ifndef NA_MODES_H
#define NA_MODES_H

#include "types.h"

#pragma GCC visibility push(hidden)

/* ---- out.c: text to a file without allocating ---- */

typedef struct na_out {
    char text[2048];
    size_t length;
    int file;
    int error; /* the first one; what comes after it is dropped */
} na_out;

/* Opens `name` with %p replaced by the process id (%% is %); NA_STANDARD_ERROR is standard error. 0 or errno. */
int na_out_open(na_out *out, const char *name);
void na_out_put(na_out *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
void na_out_string(na_out *out, const char *text); /* escaped for JSON, with its quotes */
void na_out_copy(na_out *out, const char *path);   /* a whole file */
int na_out_close(na_out *out);                     /* 0 or the first error */
bool na_name_ends(const char *name, const char *suffix);

/* ---- bump.c: memory of records and sites ---- */

void *na_bump_alloc(size_t bytes); /* zeroed, 16-aligned, never given back; NULL at NUMALLOC_WATCH_LIMIT */
size_t na_bump_bytes(void);        /* mapped so far */
void na_bump_fork(int step);

/* ---- stack.c: call stacks, kept once ---- */

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
unsigned na_site_skip(const na_site *site); /* frames of the allocator at the inner end */
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

/* ---- record.c: what the modes know of each block ----
 *
 *   raw      a block as the rest of the allocator knows it; `start` is its first byte. Guard mode hands out an
 *            address inside it, `start + shift`
 *   record   what is known of one raw block: record.c
 *   site     a home and a call stack, kept once however many blocks came from there: stack.c
 *   startup  a site of the dynamic linker, or from before stacks could be walked: see leaks.c
 *
 * Locks, all leaves (nothing is taken while one is held, and none is held while a block is allocated or freed, a
 * stack walked or a symbol looked up): the stripes of the table of records, sites, quarantine, the bump allocator below
 * them all. fork holds all of them. The lock of the leak report is none: leaks.c. */

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

/* ---- profile.c: the heap profile ---- */

bool na_profile_pick(size_t size);                /* is this block a sample? */
bool na_profile_made(na_site *site, size_t size); /* false: no memory */
void na_profile_gone(na_site *site, size_t size);
void na_profile_exit(void);
void na_profile_fork(void);

/* Exposed for tests. */
double na_exp_minus(double x);         /* e^-x, x >= 0 */
double na_log(double x);               /* x > 0 */
double na_profile_weight(size_t size); /* 1 / probability of being picked */

/* ---- leaks.c: the leak report ---- */

void na_leaks_exit(void);
void na_leaks_fork(void);

/* ---- guard.c: guard mode ---- */

/* The user's address; puts the layout into the record. NULL with errno. A record without NA_RECORD_GUARDED is an
 * ordinary block. */
void *na_guard_alloc(const numalloc_request_t *request, na_record *record);
void na_guard_undo(const na_record *record); /* gives a block back that could not be recorded */
void na_guard_free(uintptr_t start, void *ptr, const char *call);
void *na_guard_realloc(uintptr_t start, void *ptr, size_t size);
bool na_guard_check(const char *call, bool fatal); /* every block; false: damage, reported */
void na_guard_drain(void);                         /* empties the quarantine */
void na_guard_fork(int step);

#pragma GCC visibility pop

#endif
