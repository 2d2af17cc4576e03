/* SPDX-License-Identifier: BSD-3-Clause
 *
 * os_process.c: every system call on threads, CPUs, time and files, for Linux; contracts in os.h.
 *
 * Invariants. No function is a cancellation point, so that a thread can't end inside the allocator with a lock
 * held: files are read and written through syscall() and not libc, which also keeps clear of I/O tracers that
 * interpose open and read and allocate in them. Stack frames stay below 10 KiB: threads can be small.
 *
 * Threads: stateless but for answers that never change, kept in atomics.
 */
#define _GNU_SOURCE
#include "os/os.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* glibc 2.35 and later registers a restartable-sequence area for each thread and says where it is. Weak, and
 * without <sys/rseq.h>, so that a build against an older libc uses them where it runs, and the reverse. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));
enum { RSEQ_CPU_ID = 4 }; /* byte offset of cpu_id in the kernel's struct rseq */

/* ---- threads and CPUs --------------------------------------------------------------------------------- */

ptrdiff_t os_cpu_offset;

__attribute__((constructor)) static void find_rseq(void) {
    if (&__rseq_size != NULL && __rseq_size != 0) os_cpu_offset = __rseq_offset + RSEQ_CPU_ID;
}

int os_current_cpu(void) {
    if (os_cpu_offset != 0) {
        int cpu = OS_RSEQ_CPU;
        if (cpu >= 0) return cpu; /* negative: registration failed for this thread */
    }
    return sched_getcpu();
}

int os_current_node(int *cpu) {
    unsigned on = 0, node = 0;
    /* By its number: glibc has a function for it since 2.29, and wheels run on older ones. */
    if (OS_RESULT(syscall(SYS_getcpu, &on, &node, NULL)) != 0) return -1;
    if (cpu != NULL) *cpu = (int)on;
    return (int)node;
}

int os_get_affinity(na_cpuset *cpus) {
    memset(cpus, 0, sizeof *cpus);
    return OS_RESULT(sched_getaffinity(0, sizeof *cpus, (cpu_set_t *)cpus));
}

int os_set_affinity(const na_cpuset *cpus) {
    return OS_RESULT(sched_setaffinity(0, sizeof *cpus, (const cpu_set_t *)cpus));
}

void os_stay_loaded(void) {
    int saved = errno;
    Dl_info self;
    if (dladdr((const void *)(uintptr_t)os_stay_loaded, &self) != 0)
        (void)dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
    errno = saved;
}

/* What the latest thread is to do; it has read this before another is started. */
static uint64_t ticker_first_ms;
static uint64_t (*ticker_tick)(void);

static void *ticker(void *unused) {
    (void)unused;
    (void)prctl(PR_SET_NAME, "numalloc-purger");
    uint64_t wait = ticker_first_ms, (*tick)(void) = ticker_tick;
    while (wait != 0) {
        struct timespec left = {.tv_sec = (time_t)(wait / 1000), .tv_nsec = (long)(wait % 1000) * 1000000};
        while (syscall(SYS_nanosleep, &left, &left) != 0 && errno == EINTR) {}
        wait = tick();
    }
    return NULL;
}

int os_ticker_start(uint64_t first_ms, uint64_t (*tick)(void)) {
    enum { STACK = 256 * 1024 }; /* thread-local storage included */
    ticker_first_ms = first_ms;
    ticker_tick = tick;
    sigset_t all, before;
    (void)sigfillset(&all);
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error != 0) return error;
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attributes, STACK);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    error = pthread_create(&thread, &attributes, ticker, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return error == EINVAL || error == EPERM ? EAGAIN : error; /* EINVAL: the stack is too small for the storage */
}

void os_nap(void) {
    int saved = errno;
    const struct timespec nap = {0, 100000};
    (void)syscall(SYS_nanosleep, &nap, NULL); /* the C library's nanosleep is a cancellation point */
    errno = saved;
}

uint32_t os_thread_id(void) { return (uint32_t)syscall(SYS_gettid); }
uint32_t os_process_id(void) { return (uint32_t)syscall(SYS_getpid); }

bool os_is_privileged(void) { return getauxval(AT_SECURE) != 0; }

uint64_t os_now_ms(void) {
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC_COARSE, &now) != 0) return 0;
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t os_random(void) {
    uint64_t value = 0;
    int saved = errno;
    if (syscall(SYS_getrandom, &value, sizeof value, GRND_NONBLOCK) != (long)sizeof value) {
        struct timespec now = {0, 0};
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        value = (uint64_t)(uintptr_t)&value * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)now.tv_nsec << 20 ^
                (uint64_t)getpid();
    }
    errno = saved;
    return value;
}

/* ---- files ---------------------------------------------------------------------------------------------- */

static int open_to_read(const char *path) { return (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0); }

int os_read_file(const char *path, char *buffer, size_t capacity, size_t *length) {
    int saved = errno, error = 0;
    size_t have = 0;
    int file = open_to_read(path);
    if (file < 0) error = errno;
    while (error == 0) {
        if (have == capacity) {
            error = EFBIG;
            break;
        }
        long got = syscall(SYS_read, file, buffer + have, capacity - have);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) error = errno;
        if (got <= 0) break;
        have += (size_t)got;
    }
    if (file >= 0) (void)syscall(SYS_close, file);
    if (error == 0 && have == capacity) error = EFBIG;
    if (error == 0) {
        buffer[have] = '\0';
        *length = have;
    }
    errno = saved;
    return error;
}

int os_list(const char *path, void (*visit)(const char *name, void *context), void *context) {
    struct entry { /* as the kernel writes them */
        uint64_t inode, offset;
        uint16_t length;
        uint8_t type;
        char name[];
    };
    _Alignas(struct entry) char entries[4096];
    int saved = errno, error = 0;
    int directory = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (directory < 0) error = errno;
    while (error == 0) {
        long got = syscall(SYS_getdents64, directory, entries, sizeof entries);
        if (got < 0) error = errno;
        if (got <= 0) break;
        for (long at = 0; at < got; at += ((struct entry *)(void *)(entries + at))->length)
            visit(((struct entry *)(void *)(entries + at))->name, context);
    }
    if (directory >= 0) (void)syscall(SYS_close, directory);
    errno = saved;
    return error;
}

/* A descriptor other than standard error's, which the program may have closed, or an errno value; errno stays. */
static int open_file(const char *path, int flags, int *file) {
    int saved = errno;
    long got = syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0666);
    int error = got < 0 ? errno : 0;
    if (got == STDERR_FILENO) {
        got = syscall(SYS_fcntl, STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        error = got < 0 ? errno : 0;
        (void)syscall(SYS_close, STDERR_FILENO);
    }
    errno = saved;
    if (error == 0) *file = (int)got;
    return error;
}

int os_file_create(const char *path, int *file) {
    if (path != NULL) return open_file(path, O_WRONLY | O_CREAT | O_TRUNC, file);
    *file = STDERR_FILENO;
    return 0;
}

int os_file_open(const char *path, int *file) { return open_file(path, O_RDONLY, file); }

int os_file_write(int file, const char *text, size_t length) {
    int saved = errno, error = 0;
    for (size_t done = 0; done < length && error == 0;) {
        long written = syscall(SYS_write, file, text + done, length - done);
        if (written >= 0) done += (size_t)written;
        else if (errno != EINTR) error = errno;
    }
    errno = saved;
    return error;
}

int os_file_read(int file, char *buffer, size_t capacity, size_t *length) {
    int saved = errno, error;
    long got;
    do {
        got = syscall(SYS_read, file, buffer, capacity);
        error = got < 0 ? errno : 0;
    } while (error == EINTR);
    errno = saved;
    if (error == 0) *length = (size_t)got;
    return error;
}

int os_file_close(int file) { return file == STDERR_FILENO ? 0 : OS_RESULT((int)syscall(SYS_close, file)); }

void os_message(const char *format, ...) {
    char few[1024];
    char *text = few;
    int saved = errno;
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(few, sizeof few - 1, format, arguments);
    va_end(arguments);
    size_t length = wanted < 0 ? 0 : (size_t)wanted, mapped = 0;
    if (length > sizeof few - 2) { /* a long one gets pages of its own, or is cut */
        void *pages;
        mapped = (length + 2 + os_page_size() - 1) & ~(os_page_size() - 1);
        if (os_map(mapped, &pages) == 0) {
            text = pages;
            va_start(arguments, format);
            (void)vsnprintf(text, length + 1, format, arguments);
            va_end(arguments);
        } else {
            length = sizeof few - 2;
        }
    }
    if (length == 0 || text[length - 1] != '\n') text[length++] = '\n';
    (void)os_file_write(STDERR_FILENO, text, length);
    if (text != few) (void)os_release(text, mapped);
    errno = saved;
}

_Noreturn void os_abort(void) { abort(); }
