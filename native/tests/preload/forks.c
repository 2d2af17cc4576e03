/* SPDX-License-Identifier: BSD-3-Clause
 *
 * forks.c: fork and vfork while threads allocate as hard as they can; handlers of pthread_atfork that allocate,
 * registered before the allocator's own (early.c) and after.
 */
#define _GNU_SOURCE
#include "../check.h"
#include "early.h"
#include "served.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>

enum { THREADS = 4, SHARED = 256 };
extern char **environ;

static _Atomic(int) stop;
static _Atomic(char *) shared[SHARED]; /* blocks on their way between threads, and to the children */

static size_t some_size(uint64_t *seed) {
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    unsigned roll = (unsigned)(*seed >> 33);
    return roll % 64 == 0 ? 1 + roll % 400000 : 1 + roll % 2000;
}

static void *work(void *number) {
    uint64_t seed = (uintptr_t)number;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        size_t size = some_size(&seed);
        char *block = malloc(size);
        if (block == NULL) _exit(92);
        block[0] = block[size - 1] = (char)size;
        free(atomic_exchange(&shared[seed % SHARED], block));
    }
    return NULL;
}

static pthread_t threads[THREADS];
static void start(void) {
    atomic_store(&stop, 0);
    for (uintptr_t i = 0; i < THREADS; i++) CHECK_EQUAL(pthread_create(&threads[i], NULL, work, (void *)(i + 1)), 0);
}
static void finish(void) {
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < SHARED; i++) free(atomic_exchange(&shared[i], NULL));
}

/* In a child: what the parent's threads allocated can be freed, and everything can be allocated. */
static void use_all(void) {
    for (int i = 0; i < SHARED; i++) free(atomic_exchange(&shared[i], NULL));
    early_allocate();
    char *block = realloc(malloc(10), 3 << 20);
    if (block == NULL) _exit(93);
    free(block);
}

static int status_of(pid_t child) {
    int status;
    while (waitpid(child, &status, 0) < 0) {}
    return status;
}

static void threads_and_forks(void) {
    const char *asked = getenv("FORKS");
    int forks = asked != NULL ? atoi(asked) : 120;
    CHECK(forks > 0);
    start();
    char *mine = malloc(100);
    for (int i = 0; i < forks; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(20);
            free(mine);
            use_all();
            _exit(0);
        }
        CHECK_EQUAL(status_of(child), 0);
    }
    finish();
    free(mine);
    CHECK_EQUAL(numalloc_verify(), 0);
}

/* The child of a child, and threads in it. Not verified: what a vanished thread was about stays half done. */
static void forks_of_forks(void) {
    start();
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            use_all();
            start();
            pid_t grandchild = fork();
            if (grandchild == 0) {
                alarm(20);
                use_all();
                _exit(0);
            }
            int status = status_of(grandchild);
            finish();
            _exit(status != 0 ? 94 : 0);
        }
        CHECK_EQUAL(status_of(child), 0);
    }
    finish();
}

static void vforks(void) {
    start();
    for (int i = 0; i < 100; i++) {
        char *volatile block = malloc(100);
        pid_t child = vfork();
        if (child == 0) {
            execl("/bin/true", "true", (char *)NULL);
            _exit(96);
        }
        CHECK(child > 0);
        CHECK_EQUAL(status_of(child), 0);
        free(block);
        char *arguments[] = {(char *)"true", NULL};
        CHECK_EQUAL(posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ), 0);
        CHECK_EQUAL(status_of(child), 0);
    }
    finish();
}

/* A handler that waits for a thread, which allocates meanwhile: with our locks held it would wait for ever. */
static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;
static int late_forks[3];
static void lock_table(void) {
    early_allocate();
    pthread_mutex_lock(&table);
    late_forks[0]++;
}
static void unlock_table(void) {
    early_allocate();
    pthread_mutex_unlock(&table);
    late_forks[1]++;
}
static void renew_table(void) {
    early_allocate();
    pthread_mutex_init(&table, NULL);
    late_forks[2]++;
}

static void *change_table(void *unused) {
    while (!atomic_load(&stop)) {
        pthread_mutex_lock(&table);
        early_allocate();
        pthread_mutex_unlock(&table);
    }
    return unused;
}

static void handlers_that_allocate(void) {
    CHECK_EQUAL(pthread_atfork(lock_table, unlock_table, renew_table), 0);
    start();
    pthread_t other;
    CHECK_EQUAL(pthread_create(&other, NULL, change_table, NULL), 0);
    int before = early_forks[0];
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(20);
            use_all();
            _exit(early_forks[2] == 1 && late_forks[2] == 1 ? 0 : 97);
        }
        CHECK_EQUAL(status_of(child), 0);
    }
    finish();
    pthread_join(other, NULL);
    CHECK_EQUAL(early_forks[0] - before, 50);
    CHECK_EQUAL(early_forks[1], early_forks[0]);
    CHECK_EQUAL(late_forks[0], 50);
    CHECK_EQUAL(late_forks[1], 50);
}

/* A user namespace is for processes of one thread. */
static int unshares(size_t bytes) {
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 4; i++) {
            void *block = malloc(bytes);
            if (block == NULL) _exit(2);
            memset(block, 1, bytes);
            free(block);
        }
        _exit(unshare(CLONE_NEWUSER) == 0 ? 0 : errno == EINVAL ? 1 : 77); /* EINVAL: there are several */
    }
    return status_of(child);
}
static void no_thread_is_in_the_way(void) {
    int status = unshares(100000);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) SKIP("unshare(CLONE_NEWUSER)");
    CHECK_EQUAL(status, 0);
    CHECK_EQUAL(unshares(8 << 20), 0);
}

static const check_case cases[] = {
    {"no_thread_is_in_the_way", no_thread_is_in_the_way},
    {"threads_and_forks", threads_and_forks},
    {"forks_of_forks", forks_of_forks},
    {"vforks", vforks},
    {"handlers_that_allocate", handlers_that_allocate},
};

SERVED_MAIN(cases)
