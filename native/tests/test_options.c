/* SPDX-License-Identifier: BSD-3-Clause */
/* options.c: every variable, garbage, unknown names; and docs/options.md names them all. */
#include <stdint.h>
#include <stdlib.h>

#include "check.h"
#include "os/options.h"

static char text[8192];
static const char *set_name, *set_value;

/* "NUMALLOC_..." of row `index` of the table; NULL behind the last. */
static const char *full_name(int index) {
    static char full[64];
    const char *name, *accepted, *standard;
    if (!na_option_describe(index, &name, &accepted, &standard)) return NULL;
    snprintf(full, sizeof full, "NUMALLOC_%s", name);
    return full;
}

/* Reads the environment with one variable set; what was written to standard error is in `text`. */
static void read_it(void) {
    setenv(set_name, set_value, 1);
    na_options_reread();
}

static void with(const char *name, const char *value) {
    set_name = name;
    set_value = value;
    CHECK_EQUAL(check_child(read_it, text, sizeof text), 0);
    for (int i = 0; full_name(i) != NULL; i++) unsetenv(full_name(i));
    setenv(name, value, 1);
    int keep = dup(2);
    CHECK(freopen("/dev/null", "w", stderr) != NULL);
    na_options_init();
    dup2(keep, 2);
    close(keep);
    unsetenv(name);
}

static void good_values(void) {
    with("NUMALLOC_RESERVE", "64G");
    CHECK_EQUAL(na_opt.reserve, 64LL << 30);
    CHECK(text[0] == '\0');
    with("NUMALLOC_RESERVE", "4096");
    CHECK_EQUAL(na_opt.reserve, 4096);
    with("NUMALLOC_NODE_LIMIT", "512m");
    CHECK_EQUAL(na_opt.node_limit, 512LL << 20);
    with("NUMALLOC_NODE_LIMIT", "none");
    CHECK(na_opt.node_limit == UINT64_MAX);
    with("NUMALLOC_HUGEPAGES", "2M");
    CHECK_EQUAL(na_opt.huge, NA_HUGE_2M);
    with("NUMALLOC_HUGEPAGES", "never");
    CHECK_EQUAL(na_opt.huge, NA_HUGE_NEVER);
    with("NUMALLOC_PURGE_DELAY", "never");
    CHECK(na_opt.purge_delay_ms == NA_PURGE_NEVER);
    with("NUMALLOC_PURGE_DELAY", "0");
    CHECK_EQUAL(na_opt.purge_delay_ms, 0);
    with("NUMALLOC_SECURE", "1");
    CHECK(na_opt.secure);
    with("NUMALLOC_STRICT", "1");
    CHECK(na_opt.strict);
    with("NUMALLOC_ON_ERROR", "warn");
    CHECK_EQUAL(na_opt.on_error, NA_ON_ERROR_WARN);
    with("NUMALLOC_VERBOSE", "1");
    CHECK_EQUAL(na_opt.verbose, 1);
    with("NUMALLOC_STATS", "1");
    CHECK(na_opt.stats_at_exit);
    with("NUMALLOC_LEAKS", "1");
    CHECK(strcmp(na_opt.leaks, NA_STANDARD_ERROR) == 0);
    with("NUMALLOC_LEAKS", "off");
    CHECK(na_opt.leaks[0] == '\0');
    with("NUMALLOC_LEAKS", "./leaks.%p.json");
    CHECK(strcmp(na_opt.leaks, "./leaks.%p.json") == 0);
    with("NUMALLOC_PROFILE", "/tmp/a b");
    CHECK(strcmp(na_opt.profile, "/tmp/a b") == 0);
    with("NUMALLOC_PROFILE_RATE", "64K");
    CHECK_EQUAL(na_opt.profile_rate, 65536);
    with("NUMALLOC_GUARD", "2");
    CHECK_EQUAL(na_opt.guard, NA_GUARD_PAGES);
    with("NUMALLOC_QUARANTINE", "0");
    CHECK_EQUAL(na_opt.quarantine, 0);
    with("NUMALLOC_WATCH_LIMIT", "2G");
    CHECK_EQUAL(na_opt.watch_limit, 2LL << 30);
    CHECK(text[0] == '\0');
}

static void garbage_gives_a_message_and_the_default(void) {
    static const char *const bad[] = {"",     "x",  "-1", "12Q", "1e9", "99999999999999999999", "9000000000T",
                                      "0x10", " 1", "1 "};
    for (int n = 0; full_name(n) != NULL; n++)
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            char name[64];
            snprintf(name, sizeof name, "%s", full_name(n));
            with(name, bad[i]);
            CHECK(strstr(text, name) != NULL);
            CHECK(strstr(text, "it takes") != NULL && strstr(text, "default") != NULL);
            CHECK(na_opt.reserve == 0 && na_opt.node_limit == UINT64_MAX && na_opt.huge == NA_HUGE_AUTO);
            CHECK(na_opt.purge_delay_ms == 1000 && !na_opt.strict && na_opt.on_error == NA_ON_ERROR_ABORT);
            CHECK(na_opt.verbose == 0 && !na_opt.stats_at_exit);
            CHECK(na_opt.leaks[0] == '\0' && na_opt.profile[0] == '\0' && na_opt.profile_rate == 512 << 10);
            CHECK(na_opt.guard == NA_GUARD_OFF && na_opt.quarantine == 16 << 20 && na_opt.watch_limit == 1 << 30);
        }
}

static void words_are_not_file_names(void) {
    static const char *const words[] = {"on", "yes", "true", "leaks"};
    for (int i = 0; i < 4; i++) {
        with("NUMALLOC_LEAKS", words[i]);
        CHECK(strstr(text, "it takes off, 0, stderr") != NULL);
        CHECK(na_opt.leaks[0] == '\0');
    }
    static char longer[3000];
    memset(longer, '/', sizeof longer - 1);
    with("NUMALLOC_LEAKS", longer);
    CHECK(strstr(text, "can't be used") != NULL && na_opt.leaks[0] == '\0');
    with("NUMALLOC_PROFILE_RATE", "0");
    CHECK(strstr(text, "can't be used") != NULL && na_opt.profile_rate == 512 << 10);
}

static void a_limit_of_nothing_is_refused(void) {
    with("NUMALLOC_NODE_LIMIT", "0");
    CHECK(strstr(text, "NUMALLOC_NODE_LIMIT=0 ") != NULL);
    CHECK(na_opt.node_limit == UINT64_MAX);
}

static void unknown_names_are_reported(void) {
    with("NUMALLOC_HUGEPAGE", "2M");
    CHECK(strstr(text, "NUMALLOC_HUGEPAGE ") != NULL && strstr(text, "unknown") != NULL);
    with("NUMALLOC_", "1");
    CHECK(strstr(text, "unknown") != NULL);
    with("NUMALLOCATOR", "1");
    CHECK(text[0] == '\0');
}

static void json_members(void) {
    with("NUMALLOC_PURGE_DELAY", "never");
    char json[1024];
    size_t length = na_options_json(json, sizeof json);
    CHECK(length == strlen(json));
    CHECK(strstr(json, "\"purge_delay_ms\": null") != NULL);
    CHECK(strstr(json, "\"hugepages\": \"auto\"") != NULL);
    with("NUMALLOC_LEAKS", "/a\"b\\c\n");
    (void)na_options_json(json, sizeof json);
    CHECK(strstr(json, "\"leaks\": \"/a\\u0022b\\u005cc\\u000a\"") != NULL);
}

static void the_document_names_every_option(void) {
    FILE *file = fopen(NA_OPTIONS_DOC, "r");
    CHECK(file != NULL);
    static char document[65536];
    size_t length = fread(document, 1, sizeof document - 1, file);
    fclose(file);
    document[length] = '\0';
    int rows = 0, options = 0;
    const char *name, *accepted, *standard;
    for (; na_option_describe(options, &name, &accepted, &standard); options++) {
        char start[64], column[64];
        snprintf(start, sizeof start, "\n| `NUMALLOC_%s` |", name);
        snprintf(column, sizeof column, "| %s |", standard);
        const char *row = strstr(document, start);
        if (row == NULL) printf("missing: NUMALLOC_%s\n", name);
        CHECK(row != NULL);
        const char *end = strchr(row + 1, '\n'), *found = strstr(row, column);
        if (found == NULL || end == NULL || found >= end) printf("NUMALLOC_%s: default is not %s\n", name, standard);
        CHECK(found != NULL && end != NULL && found < end);
    }
    for (const char *at = document; (at = strstr(at, "\n| `NUMALLOC_")) != NULL; at++) rows++;
    CHECK_EQUAL(rows, options); /* nor any that is gone */
}

static void a_second_reading_is_silent_body(void) {
    setenv("NUMALLOC_TYPO", "1", 1);
    setenv("NUMALLOC_STRICT", "maybe", 1);
    na_options_reread();
    na_options_init();
}

static void a_second_reading_is_silent(void) {
    CHECK_EQUAL(check_child(a_second_reading_is_silent_body, text, sizeof text), 0);
    const char *typo = strstr(text, "NUMALLOC_TYPO"), *strict = strstr(text, "NUMALLOC_STRICT");
    CHECK(typo != NULL && strict != NULL);
    CHECK(strstr(typo + 1, "NUMALLOC_TYPO") == NULL && strstr(strict + 1, "NUMALLOC_STRICT") == NULL);
}

static void json_is_cut_like_snprintf(void) {
    with("NUMALLOC_NODE_LIMIT", "3K");
    static const char whole[] =
        "\"reserve\": 0, \"node_limit\": 3072, \"hugepages\": \"auto\", \"purge_delay_ms\": 1000, \"purger\": "
        "\"auto\", "
        "\"strict\": false, \"on_error\": \"abort\", \"verbose\": 0, \"stats\": false, \"leaks\": null, \"profile\": "
        "null, "
        "\"profile_rate\": 524288, \"guard\": 0, \"secure\": false, "
        "\"quarantine\": 16777216, \"watch_limit\": 1073741824";
    char json[sizeof whole + 8];
    for (size_t capacity = 0; capacity <= sizeof whole; capacity++) {
        memset(json, '#', sizeof json);
        CHECK_EQUAL(na_options_json(capacity == 0 ? NULL : json, capacity), sizeof whole - 1);
        CHECK(json[capacity] == '#');
        if (capacity == 0) continue;
        CHECK(strncmp(json, whole, capacity - 1) == 0 && json[capacity - 1] == '\0');
    }
}

/* The list of the public header is whole, and names no other. */
static void header_names_every_option(void) {
    static char header[1 << 16];
    FILE *file = fopen(NA_HEADER, "r");
    CHECK(file != NULL);
    header[fread(header, 1, sizeof header - 1, file)] = '\0';
    fclose(file);
    char *list = strstr(header, "* Environment. "), *end = list != NULL ? strchr(list, ';') : NULL;
    CHECK(end != NULL);
    *end = '\0';
    int listed = 0, known = 0;
    for (char *at = list; (at = strstr(at, "NUMALLOC_")) != NULL; at++) listed++;
    for (; full_name(known) != NULL; known++) {
        const char *at = list;
        size_t length = strlen(full_name(known));
        while ((at = strstr(at, full_name(known))) != NULL && strchr(", ;\n", at[length]) == NULL) at++;
        if (at == NULL) printf("numa_alloc.h does not name %s\n", full_name(known));
        CHECK(at != NULL);
    }
    CHECK_EQUAL(listed, known);
}

static const check_case cases[] = {
    {"header_names_every_option", header_names_every_option},
    {"good_values", good_values},
    {"garbage_gives_a_message_and_the_default", garbage_gives_a_message_and_the_default},
    {"words_are_not_file_names", words_are_not_file_names},
    {"a_limit_of_nothing_is_refused", a_limit_of_nothing_is_refused},
    {"unknown_names_are_reported", unknown_names_are_reported},
    {"a_second_reading_is_silent", a_second_reading_is_silent},
    {"json_members", json_members},
    {"json_is_cut_like_snprintf", json_is_cut_like_snprintf},
    {"the_document_names_every_option", the_document_names_every_option},
};
CHECK_MAIN(cases)
