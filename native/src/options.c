/* SPDX-License-Identifier: BSD-3-Clause
 *
 * options.c: the NUMALLOC_* environment variables, read once. docs/options.md says the same in prose; a test
 * compares the names.
 *
 * Threads: written once under the caller's lock, read-only afterwards.
 */
#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "os.h"

na_options na_opt;

extern char **environ;

enum kind { SIZE, DURATION, FLAG, HUGE_MODE, ERROR_MODE };

static const struct option {
    const char *name; /* after NUMALLOC_ */
    enum kind kind;
    const char *accepted; /* for the message about a bad value */
    const char *standard; /* the default, in the same notation */
    void *value;
} table[] = {
    /* bytes of address space per node; 0: four times the memory of the largest node, at least 256 GiB, less
     * under ulimit -v */
    {"RESERVE", SIZE, "a size such as 64G, or 0", "0", &na_opt.reserve},
    /* most bytes of memory the allocator may hold on one node, free but unreturned memory included */
    {"NODE_LIMIT", SIZE, "a size such as 8G, or none", "none", &na_opt.node_limit},
    /* what large blocks are made of; what can't be had falls back to the next smaller */
    {"HUGEPAGES", HUGE_MODE, "auto, never, 2M or 1G", "auto", &na_opt.huge},
    /* milliseconds after which the memory of free blocks goes back to the system */
    {"PURGE_DELAY", DURATION, "milliseconds, or never", "1000", &na_opt.purge_delay_ms},
    /* every request behaves as with the flag NUMALLOC_STRICT */
    {"STRICT", FLAG, "0 or 1", "0", &na_opt.strict},
    /* what an invalid free does */
    {"ON_ERROR", ERROR_MODE, "abort or warn", "abort", &na_opt.on_error},
    /* prints what was discovered and decided at start, on standard error */
    {"VERBOSE", FLAG, "0 or 1", "0", &na_opt.verbose},
    /* prints the statistics as JSON on standard error at exit */
    {"STATS", FLAG, "0 or 1", "0", &na_opt.stats_at_exit},
};

enum { OPTIONS = sizeof table / sizeof table[0] };

static bool parse_number(const char *text, bool suffix, uint64_t *value) {
    uint64_t result = 0;
    const char *c = text;
    if (*c < '0' || *c > '9') return false;
    for (; *c >= '0' && *c <= '9'; c++)
        if (__builtin_mul_overflow(result, 10u, &result) ||
            __builtin_add_overflow(result, (uint64_t)(*c - '0'), &result))
            return false;
    unsigned shift = 0;
    if (suffix && *c != '\0') {
        static const char units[] = "KMGT";
        const char *unit = strchr(units, *c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
        if (unit == NULL) return false;
        shift = 10 * (unsigned)(unit - units + 1);
        c++;
    }
    if (*c != '\0' || (result << shift) >> shift != result) return false;
    *value = result << shift;
    return *value <= INT64_MAX;
}

/* Index of `text` in a NULL-terminated list, or -1. */
static int choice(const char *text, const char *const *list) {
    for (int i = 0; list[i] != NULL; i++)
        if (strcmp(text, list[i]) == 0) return i;
    return -1;
}

static const char *const huge_names[] = {"auto", "never", "2M", "1G", NULL};
static const char *const error_names[] = {"abort", "warn", NULL};
static const char *const flag_names[] = {"0", "1", NULL};

static bool assign(const struct option *option, const char *text) {
    uint64_t number;
    int index;
    switch (option->kind) {
    case SIZE:
        if (option->value == &na_opt.node_limit) {
            if (strcmp(text, "none") == 0) na_opt.node_limit = UINT64_MAX;
            else if (parse_number(text, true, &number) && number != 0) na_opt.node_limit = number;
            else return false;
            return true;
        }
        if (!parse_number(text, true, &number)) return false;
        na_opt.reserve = (size_t)number;
        return true;
    case DURATION:
        if (strcmp(text, "never") == 0) na_opt.purge_delay_ms = NA_PURGE_NEVER;
        else if (parse_number(text, false, &number)) na_opt.purge_delay_ms = (int64_t)number;
        else return false;
        return true;
    case FLAG:
        if ((index = choice(text, flag_names)) < 0) return false;
        if (option->value == &na_opt.verbose) na_opt.verbose = index;
        else *(bool *)option->value = index != 0;
        return true;
    case HUGE_MODE:
        if ((index = choice(text, huge_names)) < 0) return false;
        na_opt.huge = (enum na_huge_mode)index;
        return true;
    case ERROR_MODE:
        if ((index = choice(text, error_names)) < 0) return false;
        na_opt.on_error = (enum na_error_mode)index;
        return true;
    }
    return false;
}

void na_options_init(void) {
    static const char prefix[] = "NUMALLOC_";
    enum { PREFIX = sizeof prefix - 1 };
    for (int i = 0; i < OPTIONS; i++) (void)assign(&table[i], table[i].standard);
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++) {
        if (strncmp(*entry, prefix, PREFIX) != 0) continue;
        const char *name = *entry + PREFIX, *equals = strchr(name, '=');
        if (equals == NULL) continue;
        const struct option *found = NULL;
        for (int i = 0; i < OPTIONS && found == NULL; i++)
            if (strlen(table[i].name) == (size_t)(equals - name) &&
                strncmp(name, table[i].name, (size_t)(equals - name)) == 0)
                found = &table[i];
        if (found == NULL) {
            os_message("numalloc: unknown environment variable NUMALLOC_%.*s is ignored; see docs/options.md for the "
                       "known ones\n",
                       (int)(equals - name), name);
        } else if (!assign(found, equals + 1)) {
            os_message("numalloc: NUMALLOC_%s=%.200s can't be used: it takes %s; the default %s is used\n", found->name,
                       equals + 1, found->accepted, found->standard);
        }
    }
}

size_t na_options_json(char *buffer, size_t capacity) {
    char limit[32] = "null", delay[32] = "null";
    if (na_opt.node_limit != UINT64_MAX)
        (void)snprintf(limit, sizeof limit, "%llu", (unsigned long long)na_opt.node_limit);
    if (na_opt.purge_delay_ms != NA_PURGE_NEVER)
        (void)snprintf(delay, sizeof delay, "%lld", (long long)na_opt.purge_delay_ms);
    int length = snprintf(buffer, capacity,
                          "\"reserve\": %llu, \"node_limit\": %s, \"hugepages\": \"%s\", \"purge_delay_ms\": %s, "
                          "\"strict\": %s, \"on_error\": \"%s\", \"verbose\": %d, \"stats\": %s",
                          (unsigned long long)na_opt.reserve, limit, huge_names[na_opt.huge], delay,
                          na_opt.strict ? "true" : "false", error_names[na_opt.on_error], na_opt.verbose,
                          na_opt.stats_at_exit ? "true" : "false");
    return length < 0 ? 0 : (size_t)length;
}
