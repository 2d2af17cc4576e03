/* SPDX-License-Identifier: BSD-3-Clause
 *
 * options.h: what NUMALLOC_* environment variables set. Read once, immutable afterwards but for purge_delay_ms,
 * which mallopt(M_TRIM_THRESHOLD, -1) turns off in a program under the preload library.
 */
#ifndef NA_OPTIONS_H
#define NA_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum na_huge_mode {
    NA_HUGE_AUTO,  /* transparent huge pages on large blocks where the kernel lets us ask */
    NA_HUGE_NEVER, /* base pages */
    NA_HUGE_2M,    /* explicit 2 MiB pages where they are there, then transparent, then base */
    NA_HUGE_1G     /* explicit 1 GiB pages, then 2 MiB, then transparent, then base */
};
enum na_error_mode { NA_ON_ERROR_ABORT, NA_ON_ERROR_WARN };

enum na_purger_mode {
    NA_PURGER_NEVER, /* never a purger thread */
    NA_PURGER_EVER,  /* whenever freed memory is retained */
    NA_PURGER_AUTO   /* after numalloc_purger() */
};
enum na_guard_mode { NA_GUARD_OFF, NA_GUARD_CANARY, NA_GUARD_PAGES };

#define NA_PURGE_NEVER INT64_MAX
#define NA_STANDARD_ERROR "stderr" /* a file name that means standard error */

/* Where a report goes: "" nowhere, NA_STANDARD_ERROR, or a file name. A copy, since the environment may change. */
enum { NA_PATH_MAX = 1024 };
typedef char na_path[NA_PATH_MAX]; /* separate: a process that sets none has no pages for them */

typedef struct na_options {
    size_t reserve;              /* NUMALLOC_RESERVE: bytes of address space per node, 0 = by itself */
    uint64_t node_limit;         /* NUMALLOC_NODE_LIMIT: most bytes committed per node, UINT64_MAX = none */
    enum na_huge_mode huge;      /* NUMALLOC_HUGEPAGES: auto|never|2M|1G */
    int64_t purge_delay_ms;      /* NUMALLOC_PURGE_DELAY: ms before free memory goes back; "never" */
    enum na_purger_mode purger;  /* NUMALLOC_PURGER: a thread returns it while the program makes no calls */
    bool strict;                 /* NUMALLOC_STRICT: every request is strict */
    bool secure;                 /* NUMALLOC_SECURE: sealed free lists, random order */
    enum na_error_mode on_error; /* NUMALLOC_ON_ERROR: abort|warn */
    int verbose;                 /* NUMALLOC_VERBOSE: 0|1 */
    bool stats_at_exit;          /* NUMALLOC_STATS: JSON statistics on standard error at exit */
    char *leaks;                 /* NUMALLOC_LEAKS: where live blocks are listed at exit */
    char *profile;               /* NUMALLOC_PROFILE: where the heap profile goes at exit */
    size_t profile_rate;         /* NUMALLOC_PROFILE_RATE: mean bytes between samples, at least 1 */
    enum na_guard_mode guard;    /* NUMALLOC_GUARD: 0|1|2 */
    size_t quarantine;           /* NUMALLOC_QUARANTINE: most bytes of freed blocks that guard mode keeps back */
    size_t watch_limit;          /* NUMALLOC_WATCH_LIMIT: most bytes for records of blocks and stacks */
} na_options;

extern na_options na_opt; /* valid after na_options_init() */

/* Reads the environment without allocating (it runs before main). Unknown NUMALLOC_ names and values that
 * can't be parsed are reported by the first call. */
void na_options_init(void);

/* For tests: reads the environment as if for the first time, with reports. */
void na_options_reread(void);

/* Row `index` of the table of options: name after NUMALLOC_, values accepted, default. false: no such row. */
bool na_option_describe(int index, const char **name, const char **accepted, const char **standard);

/* The options in force as JSON members ("reserve": ..., ...), snprintf-like. */
size_t na_options_json(char *buffer, size_t capacity);

#endif
