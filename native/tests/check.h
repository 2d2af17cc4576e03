/* SPDX-License-Identifier: BSD-3-Clause
 *
 * check.h: a test program is a list of named cases; run all of them or those named on the command line.
 * CHECK stops the case at the first condition that fails, in a child too; only in the thread that runs the case.
 * A case that can't run here says SKIP("what is missing").
 */
#ifndef NA_TESTS_CHECK_H
#define NA_TESTS_CHECK_H

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct check_case {
    const char *name;
    void (*run)(void);
} check_case;

static jmp_buf check_out;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                             \
            longjmp(check_out, 1);                                                                                     \
        }                                                                                                              \
    } while (0)

#define CHECK_EQUAL(a, b)                                                                                              \
    do {                                                                                                               \
        long long a_ = (long long)(a), b_ = (long long)(b);                                                            \
        if (a_ != b_) {                                                                                                \
            printf("%s:%d: failed: %s is %lld, not %s = %lld\n", __FILE__, __LINE__, #a, a_, #b, b_);                  \
            longjmp(check_out, 1);                                                                                     \
        }                                                                                                              \
    } while (0)

#define SKIP(missing)                                                                                                  \
    do {                                                                                                               \
        printf("skipped: missing capability: %s\n", missing);                                                          \
        longjmp(check_out, 2);                                                                                         \
    } while (0)

/* Runs `body` in a child; its exit code (1: a CHECK failed, 77: it said SKIP), or 256 + the signal that ended it. What it wrote to standard error
 * is in `text`. */
static inline int check_child(void (*body)(void), char *text, size_t capacity) {
    int ends[2];
    if (pipe(ends) != 0) return -1;
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) return -1;
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        int how = setjmp(check_out); /* a failed CHECK must not run the parent's other cases here */
        if (how == 0) body();
        fflush(stdout);
        _exit(how == 0 ? 0 : how == 1 ? 1 : 77);
    }
    close(ends[1]);
    size_t have = 0;
    char scrap[512];
    for (ssize_t got; (got = read(ends[0], scrap, sizeof scrap)) > 0;)
        for (ssize_t i = 0; i < got; i++)
            if (text != NULL && have + 1 < capacity) text[have++] = scrap[i];
    if (text != NULL && capacity != 0) text[have] = '\0';
    close(ends[0]);
    int status;
    while (waitpid(child, &status, 0) < 0) {}
    return WIFSIGNALED(status) ? 256 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int check_one(const check_case *c) {
    int how = setjmp(check_out);
    if (how == 0) {
        c->run();
        printf("%s: ok\n", c->name);
        fflush(stdout);
        return 0;
    }
    printf("%s: %s\n", c->name, how == 1 ? "FAILED" : "skipped");
    fflush(stdout);
    return how;
}

/* Exit code: 0 all passed, 1 some failed, 2 a case named that does not exist, 77 none failed but some were skipped (ctest's SKIP_RETURN_CODE). */
static inline int check_main(const check_case *cases, int count, int argc, char **argv) {
    int passed = 0, failed = 0, skipped = 0;
    for (int a = 1; a < argc; a++) {
        int known = 0;
        for (int i = 0; i < count; i++) known |= strcmp(argv[a], cases[i].name) == 0;
        if (known) continue;
        printf("%s: no such case\n", argv[a]);
        return 2;
    }
    for (int i = 0; i < count; i++) {
        int wanted = argc < 2;
        for (int a = 1; a < argc; a++) wanted |= strcmp(argv[a], cases[i].name) == 0;
        if (!wanted) continue;
        int how = check_one(&cases[i]);
        passed += how == 0;
        failed += how == 1;
        skipped += how == 2;
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0 ? 1 : skipped != 0 ? 77 : 0;
}

#define CHECK_MAIN(cases)                                                                                              \
    int main(int argc, char **argv) { return check_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv); }

/* CHECK_EMULATOR: what runs programs of another machine.
 * Programs whose cases each start one of the `bodies` in a new process, with shell text before it. */
static inline void check_start(const char *environment, const char *body) {
    char command[512];
    snprintf(command, sizeof command, "%s ${CHECK_EMULATOR-} \"$CHECK_SELF\" --body %s", environment, body);
    fflush(stdout);
    CHECK_EQUAL(system(command), 0);
}
#define CHECK_MAIN_OF_BODIES(cases, bodies)                                                                            \
    int main(int argc, char **argv) {                                                                                  \
        if (argc == 3 && strcmp(argv[1], "--body") == 0)                                                               \
            return check_main(bodies, sizeof(bodies) / sizeof(bodies[0]), argc - 1, argv + 1);                         \
        setenv("CHECK_SELF", argv[0], 1);                                                                              \
        return check_main(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);                                        \
    }

#endif
