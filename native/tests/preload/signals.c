/* SPDX-License-Identifier: BSD-3-Clause
 *
 * signals.c: signals at 1 kHz by wall clock and by CPU time, on a stack of their own, while threads allocate and
 * system calls are interrupted. The handlers only count, as nothing may allocate in one.
 */
#define _GNU_SOURCE
#include "../check.h"
#include "served.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/time.h>
#include <time.h>

static volatile sig_atomic_t alarms, profs, off_stack;
static char handler_stack[64 << 10];
static _Atomic(int) stop, broken;

static void count(int number) {
    char here;
    if (number == SIGALRM) alarms = alarms + 1;
    else profs = profs + 1;
    /* Only the main thread has given one. */
    if (number == SIGALRM && ((uintptr_t)&here - (uintptr_t)handler_stack) >= sizeof handler_stack) off_stack = 1;
}

static void timers(int microseconds) {
    struct itimerval each = {{0, microseconds}, {0, microseconds}};
    CHECK_EQUAL(setitimer(ITIMER_REAL, &each, NULL), 0);
    CHECK_EQUAL(setitimer(ITIMER_PROF, &each, NULL), 0);
}

/* Small and large blocks, each with a pattern that must hold. */
static void *work(void *number) {
    enum { HELD = 128 };
    unsigned char *held[HELD] = {NULL};
    size_t size[HELD] = {0};
    uint64_t seed = (uintptr_t)number;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        unsigned at = (unsigned)(seed >> 40) % HELD;
        if (held[at] != NULL && (held[at][0] != at || held[at][size[at] - 1] != at)) atomic_store(&broken, 1);
        size[at] = at == 0 ? 3 << 20 : 1 + (size_t)(seed >> 33) % (at % 8 == 0 ? 200000 : 3000);
        held[at] = realloc(held[at], size[at]);
        if (held[at] == NULL) {
            atomic_store(&broken, 1);
            break;
        }
        held[at][0] = held[at][size[at] - 1] = (unsigned char)at;
    }
    for (int i = 0; i < HELD; i++) free(held[i]);
    return NULL;
}

static void allocate_under_fire(void) {
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    CHECK_EQUAL(sigaltstack(&stack, NULL), 0);
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_ONSTACK}; /* without SA_RESTART: EINTR */
    CHECK_EQUAL(sigaction(SIGALRM, &action, NULL), 0);
    CHECK_EQUAL(sigaction(SIGPROF, &action, NULL), 0);
    /* SIGALRM comes to the main thread alone. */
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    CHECK_EQUAL(pthread_sigmask(SIG_BLOCK, &alarm_only, NULL), 0);
    pthread_t threads[3];
    for (uintptr_t i = 0; i < 3; i++) CHECK_EQUAL(pthread_create(&threads[i], NULL, work, (void *)(i + 1)), 0);
    CHECK_EQUAL(pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL), 0);
    timers(1000);
    int interrupted = 0;
    /* A busy machine delivers fewer. ctest ends it if they never come. */
    while (alarms < 1000 || profs < 300 || interrupted < 100) {
        for (int i = 0; i < 200; i++) {
            char *block = calloc(1, (size_t)1 << (i % 22));
            errno = 7;
            block[0] = 1;
            free(block);
            if (errno != 7) atomic_store(&broken, 1);
        }
        struct timespec nap = {0, 3000000};
        interrupted += nanosleep(&nap, NULL) != 0 && errno == EINTR;
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    timers(0);
    CHECK_EQUAL(off_stack, 0);
    CHECK_EQUAL(atomic_load(&broken), 0);
    CHECK_EQUAL(numalloc_verify(), 0);
}

static const check_case cases[] = {{"allocate_under_fire", allocate_under_fire}};

SERVED_MAIN(cases)
