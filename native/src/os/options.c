/* SPDX-License-Identifier: BSD-3-Clause
 *
 * options.c: the NUMALLOC_* environment variables, read once. One table drives parsing, messages and JSON;
 * docs/options.md says the same in prose, and a test compares it with the table.
 *
 * Invariants. na_opt holds a valid value for every option after na_options_init, whatever the environment is.
 * Nothing is reported twice.
 *
 * Threads: written once under the caller's lock, read-only afterwards.
 */
#include "os/options.h"
#include "os/os.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static na_path leaks, profile;
na_options na_opt = {.leaks = leaks, .profile = profile};

extern char **environ;

enum kind {
    SIZE,
    POSITIVE,
    LIMIT,
    DURATION,
    FLAG,
    NUMBER, /* an enumeration, or int, by the list of names: a number in JSON */
    NAME,   /* the same: a string in JSON */
    DESTINATION
}; /* the type behind option.value */

static const char *const huge_names[] = {"auto", "never", "2M", "1G", NULL};
static const char *const error_names[] = {"abort", "warn", NULL};
static const char *const guard_names[] = {"0", "1", "2", NULL};
static const char *const purger_names[] = {"0", "1", "auto", NULL};
static const char *const flag_names[] = {"0", "1", NULL};

#define WHERE "off, 0, stderr, 1 (the same), or a file name with a / or . in it"

static const struct option {
    const char *name; /* after NUMALLOC_ */
    const char *json; /* name in the JSON of the statistics */
    enum kind kind;
    const char *accepted; /* for the message about a bad value */
    const char *standard; /* the default, in the same notation */
    void *value;
    const char *const *names; /* of the values 0, 1, ... */
} table[] = {
    /* bytes of address space per node; 0: four times the memory of the largest node, at least 256 GiB; under
     * ulimit -v not reserved */
    {"RESERVE", "reserve", SIZE, "a size such as 64G, or 0", "0", &na_opt.reserve, NULL},
    /* most bytes of memory the allocator may hold on one node, free but unreturned memory included */
    {"NODE_LIMIT", "node_limit", LIMIT, "a size such as 8G, or none", "none", &na_opt.node_limit, NULL},
    /* what large blocks are made of; if the kernel has none, the next smaller serves */
    {"HUGEPAGES", "hugepages", NAME, "auto, never, 2M or 1G", "auto", &na_opt.huge, huge_names},
    /* milliseconds after which the memory of free blocks goes back to the system */
    {"PURGE_DELAY", "purge_delay_ms", DURATION, "milliseconds, or never", "1000", &na_opt.purge_delay_ms, NULL},
    /* a thread returns it while the program makes no calls; auto: if the program asks by numalloc_purger() */
    {"PURGER", "purger", NAME, "0, 1 or auto", "auto", &na_opt.purger, purger_names},
    /* every request behaves as with the flag NUMALLOC_STRICT */
    {"STRICT", "strict", FLAG, "0 or 1", "0", &na_opt.strict, flag_names},
    /* what an invalid free does */
    {"ON_ERROR", "on_error", NAME, "abort or warn", "abort", &na_opt.on_error, error_names},
    /* prints what was discovered and decided at start, on standard error */
    {"VERBOSE", "verbose", NUMBER, "0 or 1", "0", &na_opt.verbose, flag_names},
    /* prints the statistics as JSON on standard error at exit */
    {"STATS", "stats", FLAG, "0 or 1", "0", &na_opt.stats_at_exit, flag_names},
    /* every live block is recorded; those left at exit are listed by call stack */
    {"LEAKS", "leaks", DESTINATION, WHERE, "off", leaks, NULL},
    /* blocks are sampled; the heap profile is written at exit */
    {"PROFILE", "profile", DESTINATION, WHERE, "off", profile, NULL},
    /* mean bytes allocated between two samples of the heap profile; 1: every block */
    {"PROFILE_RATE", "profile_rate", POSITIVE, "a size such as 512K, at least 1", "512K", &na_opt.profile_rate, NULL},
    /* 1: canaries, patterns, quarantine; 2: also pages without access behind blocks */
    {"GUARD", "guard", NUMBER, "0, 1 or 2", "0", &na_opt.guard, guard_names},
    /* sealed free lists, random order, certain detection of double and invalid frees */
    {"SECURE", "secure", FLAG, "0 or 1", "0", &na_opt.secure, flag_names},
    /* most bytes of freed blocks that guard mode keeps back */
    {"QUARANTINE", "quarantine", SIZE, "a size such as 16M, or 0", "16M", &na_opt.quarantine, NULL},
    /* most bytes of memory for what the modes above write down */
    {"WATCH_LIMIT", "watch_limit", POSITIVE, "a size such as 1G, at least 1", "1G", &na_opt.watch_limit, NULL},
};

enum { OPTIONS = sizeof table / sizeof table[0] };

_Static_assert(sizeof(enum na_huge_mode) == sizeof(int) && sizeof(enum na_error_mode) == sizeof(int) &&
                   sizeof(enum na_guard_mode) == sizeof(int) && sizeof(enum na_purger_mode) == sizeof(int),
               "a choice is as long as an int");

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

/* Defaults are in place: writing them again would touch pages. */
static void set_text(char *value, const char *text) {
    if (strcmp(value, text) != 0) memcpy(value, text, strlen(text) + 1);
}

/* A name needs a / or . in it, so that "yes" or "on" is noticed and no file of that name appears. */
static bool assign_destination(char *path, const char *text) {
    if (strcmp(text, "off") == 0 || strcmp(text, "0") == 0) text = "";
    else if (strcmp(text, NA_STANDARD_ERROR) == 0 || strcmp(text, "1") == 0) text = NA_STANDARD_ERROR;
    else if (strpbrk(text, "/.") == NULL || strlen(text) >= NA_PATH_MAX) return false;
    set_text(path, text);
    return true;
}

static bool assign(const struct option *option, const char *text) {
    uint64_t number;
    int index;
    switch (option->kind) {
    case SIZE:
    case POSITIVE:
        if (!parse_number(text, true, &number) || number > SIZE_MAX) return false;
        if (option->kind == POSITIVE && number == 0) return false;
        *(size_t *)option->value = (size_t)number;
        return true;
    case LIMIT:
        if (strcmp(text, "none") == 0) number = UINT64_MAX;
        else if (!parse_number(text, true, &number) || number == 0) return false;
        *(uint64_t *)option->value = number;
        return true;
    case DURATION:
        if (strcmp(text, "never") == 0) number = NA_PURGE_NEVER;
        else if (!parse_number(text, false, &number)) return false;
        *(int64_t *)option->value = (int64_t)number;
        return true;
    case FLAG:
        if ((index = choice(text, option->names)) < 0) return false;
        *(bool *)option->value = index != 0;
        return true;
    case NUMBER:
    case NAME:
        if ((index = choice(text, option->names)) < 0) return false;
        memcpy(option->value, &index, sizeof index);
        return true;
    case DESTINATION: return assign_destination(option->value, text);
    }
    return false;
}

static bool reported; /* the first reading reports; a start that failed later and is tried again does not */

/* NAME=value */
static void read_entry(const char *entry) {
    static const char prefix[] = "NUMALLOC_";
    enum { PREFIX = sizeof prefix - 1 };
    if (strncmp(entry, prefix, PREFIX) != 0) return;
    const char *name = entry + PREFIX, *equals = strchr(name, '=');
    if (equals == NULL) return;
    const struct option *found = NULL;
    for (int i = 0; i < OPTIONS && found == NULL; i++)
        if (strlen(table[i].name) == (size_t)(equals - name) &&
            strncmp(name, table[i].name, (size_t)(equals - name)) == 0)
            found = &table[i];
    if (found == NULL && !reported) {
        os_message("numalloc: unknown environment variable NUMALLOC_%.*s is ignored; see docs/options.md for the "
                   "known ones\n",
                   (int)(equals - name), name);
    } else if (found != NULL && !assign(found, equals + 1) && !reported) {
        os_message("numalloc: NUMALLOC_%s=%.200s can't be used: it takes %s; the default %s is used\n", found->name,
                   equals + 1, found->accepted, found->standard);
    }
}

/* A program that allocates before the C library's constructor ran (in .preinit_array, or the dynamic linker's
 * hooks) is there before environ is; the kernel has the same strings. */
static void read_kernel_entries(void) {
    enum { MOST = 4 << 20 }; /* bytes; what exec takes under an ordinary stack limit is less */
    void *text;
    size_t length;
    if (os_map(MOST, &text) != 0) return;
    if (os_read_file("/proc/self/environ", text, MOST, &length) == 0)
        for (const char *entry = text; entry < (const char *)text + length; entry += strlen(entry) + 1)
            read_entry(entry);
    (void)os_release(text, MOST);
}

void na_options_init(void) {
    for (int i = 0; i < OPTIONS; i++) (void)assign(&table[i], table[i].standard);
    if (!os_is_privileged()) { /* options name files to write and a command to run */
        if (environ == NULL) read_kernel_entries();
        for (char **entry = environ; entry != NULL && *entry != NULL; entry++) read_entry(*entry);
    }
    reported = true;
}

void na_options_reread(void) {
    reported = false;
    na_options_init();
}

bool na_option_describe(int index, const char **name, const char **accepted, const char **standard) {
    if (index < 0 || index >= OPTIONS) return false;
    *name = table[index].name;
    *accepted = table[index].accepted;
    *standard = table[index].standard;
    return true;
}

/* A file name as a JSON string; bytes that JSON wants escaped become \u00xx. */
static void path_as_json(const char *path, char *text, size_t capacity) {
    size_t length = 0;
    text[length++] = '"';
    for (; *path != '\0' && length + 8 < capacity; path++) {
        unsigned char c = (unsigned char)*path;
        if (c < 0x20 || c == '"' || c == '\\')
            length += (size_t)snprintf(text + length, capacity - length, "\\u%04x", c);
        else text[length++] = (char)c;
    }
    text[length++] = '"';
    text[length] = '\0';
}

/* The value of an option as JSON; "none", "never" and "off" are null. */
static void value_as_json(const struct option *option, char *text, size_t capacity) {
    int index;
    switch (option->kind) {
    case SIZE:
    case POSITIVE: (void)snprintf(text, capacity, "%zu", *(const size_t *)option->value); return;
    case LIMIT:
        if (*(const uint64_t *)option->value == UINT64_MAX) break;
        (void)snprintf(text, capacity, "%llu", (unsigned long long)*(const uint64_t *)option->value);
        return;
    case DURATION:
        if (*(const int64_t *)option->value == NA_PURGE_NEVER) break;
        (void)snprintf(text, capacity, "%lld", (long long)*(const int64_t *)option->value);
        return;
    case FLAG: (void)snprintf(text, capacity, "%s", *(const bool *)option->value ? "true" : "false"); return;
    case NUMBER:
    case NAME:
        memcpy(&index, option->value, sizeof index);
        (void)snprintf(text, capacity, option->kind == NAME ? "\"%s\"" : "%s", option->names[index]);
        return;
    case DESTINATION:
        if (*(const char *)option->value == '\0') break;
        path_as_json(option->value, text, capacity);
        return;
    }
    (void)snprintf(text, capacity, "null");
}

size_t na_options_json(char *buffer, size_t capacity) {
    size_t length = 0;
    for (int i = 0; i < OPTIONS; i++) {
        char value[6 * NA_PATH_MAX + 16];
        value_as_json(&table[i], value, sizeof value);
        size_t left = length < capacity ? capacity - length : 0;
        int added = snprintf(left != 0 ? buffer + length : NULL, left, "%s\"%s\": %s", i == 0 ? "" : ", ",
                             table[i].json, value);
        if (added > 0) length += (size_t)added;
    }
    return length;
}
