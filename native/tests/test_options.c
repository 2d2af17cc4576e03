/* SPDX-License-Identifier: BSD-3-Clause */
/* options.c: every variable, garbage, unknown names; and docs/options.md names them all. */
#include <stdint.h>
#include <stdlib.h>

#include "check.h"
#include "options.h"

static const char *const names[] = {"RESERVE", "NODE_LIMIT", "HUGEPAGES", "PURGE_DELAY",
                                    "STRICT",  "ON_ERROR",   "VERBOSE",   "STATS"};
enum { NAMES = sizeof names / sizeof names[0] };

static char text[8192];
static const char *set_name, *set_value;

/* Reads the environment with one variable set; what was written to standard error is in `text`. */
static void read_it(void) {
    setenv(set_name, set_value, 1);
    na_options_init();
}

static void with(const char *name, const char *value) {
    set_name = name;
    set_value = value;
    CHECK_EQUAL(check_child(read_it, text, sizeof text), 0);
    for (int i = 0; i < NAMES; i++) {
        char full[64];
        snprintf(full, sizeof full, "NUMALLOC_%s", names[i]);
        unsetenv(full);
    }
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
    with("NUMALLOC_STRICT", "1");
    CHECK(na_opt.strict);
    with("NUMALLOC_ON_ERROR", "warn");
    CHECK_EQUAL(na_opt.on_error, NA_ON_ERROR_WARN);
    with("NUMALLOC_VERBOSE", "1");
    CHECK_EQUAL(na_opt.verbose, 1);
    with("NUMALLOC_STATS", "1");
    CHECK(na_opt.stats_at_exit);
    CHECK(text[0] == '\0');
}

static void garbage_gives_a_message_and_the_default(void) {
    static const char *const bad[] = {"",     "x",  "-1", "12Q", "1e9", "99999999999999999999", "9000000000T",
                                      "0x10", " 1", "1 "};
    for (int n = 0; n < NAMES; n++)
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            char name[64];
            snprintf(name, sizeof name, "NUMALLOC_%s", names[n]);
            with(name, bad[i]);
            CHECK(strstr(text, name) != NULL);
            CHECK(strstr(text, "it takes") != NULL && strstr(text, "default") != NULL);
            CHECK(na_opt.reserve == 0 && na_opt.node_limit == UINT64_MAX && na_opt.huge == NA_HUGE_AUTO);
            CHECK(na_opt.purge_delay_ms == 1000 && !na_opt.strict && na_opt.on_error == NA_ON_ERROR_ABORT);
            CHECK(na_opt.verbose == 0 && !na_opt.stats_at_exit);
        }
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
}

static void the_document_names_every_option(void) {
    FILE *file = fopen(NA_OPTIONS_DOC, "r");
    CHECK(file != NULL);
    static char document[65536];
    size_t length = fread(document, 1, sizeof document - 1, file);
    fclose(file);
    document[length] = '\0';
    for (int n = 0; n < NAMES; n++) {
        char name[64];
        snprintf(name, sizeof name, "`NUMALLOC_%s`", names[n]);
        if (strstr(document, name) == NULL) printf("missing: %s\n", name);
        CHECK(strstr(document, name) != NULL);
    }
}

static const check_case cases[] = {
    {"good_values", good_values},
    {"garbage_gives_a_message_and_the_default", garbage_gives_a_message_and_the_default},
    {"unknown_names_are_reported", unknown_names_are_reported},
    {"json_members", json_members},
    {"the_document_names_every_option", the_document_names_every_option},
};
CHECK_MAIN(cases)
