/* SPDX-License-Identifier: BSD-3-Clause
 *
 * modes.h: tests of modes that are chosen before main. run_watched starts this program anew with the given
 * environment to run one body; WATCHED_MAIN knows bodies and cases.
 */
#ifndef NA_TESTS_WATCHED_H
#define NA_TESTS_WATCHED_H

#include <stdlib.h>

#include "check.h"

static char said[1 << 18]; /* what the last child wrote to standard error */
static const char *const *next_environment;
static const char *next_body;

static inline void start_anew(void) {
    for (const char *const *e = next_environment; *e != NULL; e++) putenv((char *)(size_t)*e);
    execl("/proc/self/exe", "child", "--body", next_body, (char *)NULL);
    _exit(127);
}

/* Exit code of the body, or 256 + signal; what it wrote is in `said`. */
static inline int run_watched(const char *body, const char *const *environment) {
    next_body = body;
    next_environment = environment;
    return check_child(start_anew, said, sizeof said);
}

#define ENVIRONMENT(...) ((const char *const[]){__VA_ARGS__, NULL})

#define RUN(expected, body, ...)                                                                                       \
    do {                                                                                                               \
        int code_ = run_watched(body, ENVIRONMENT(__VA_ARGS__));                                                       \
        if (code_ != (expected)) printf("%s: code %d: %.3000s\n", body, code_, said);                                  \
        CHECK_EQUAL(code_, expected);                                                                                  \
    } while (0)

#define SAID(text_)                                                                                                    \
    do {                                                                                                               \
        if (strstr(said, text_) == NULL) printf("not said: %s; but: %.3000s\n", text_, said);                          \
        CHECK(strstr(said, text_) != NULL);                                                                            \
    } while (0)

static inline int watched_main(const check_case *cases, int count, const check_case *bodies, int body_count, int argc,
                               char **argv) {
    if (argc != 3 || strcmp(argv[1], "--body") != 0) return check_main(cases, count, argc, argv);
    for (int i = 0; i < body_count; i++) {
        if (strcmp(argv[2], bodies[i].name) != 0) continue;
        int how = setjmp(check_out);
        if (how == 0) bodies[i].run();
        return how;
    }
    return 126;
}

#define WATCHED_MAIN(cases, bodies)                                                                                    \
    int main(int argc, char **argv) {                                                                                  \
        return watched_main(cases, sizeof(cases) / sizeof(cases[0]), bodies, sizeof(bodies) / sizeof(bodies[0]), argc, \
                            argv);                                                                                     \
    }

/* Kept out of line, whole and exported, so that stacks show them by name. */
#if defined(__has_attribute)
#if __has_attribute(noipa)
#define NAMED __attribute__((noipa, visibility("default")))
#endif
#endif
#ifndef NAMED
#define NAMED __attribute__((noinline, visibility("default")))
#endif

#endif
