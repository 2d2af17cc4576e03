/* SPDX-License-Identifier: BSD-3-Clause
 *
 * audit.c: libnumalloc_audit.so, which `hpcalloc run` preloads to report on programs that can't be asked: where the pages
 * of the live large blocks, and of the whole process, were when most of them were in use. It knows the allocator by its
 * public calls alone, and runs without one as well.
 *
 *   HPCALLOC_REPORT_RANKS    directory for the result: absolute, the caller's own, closed to others
 *   HPCALLOC_REPORT_RANK     PID:RANK:SIZE:STAMP of the rank that `run` started
 *   HPCALLOC_REPORT_PYTHON, HPCALLOC_REPORT_SCRIPT    run by the rank's own process afterwards; they count it as done
 *
 * At exit each process writes rank-RANK.PID.STAMP.audit.json. If one of the first two variables is missing or malformed,
 * or the process has more rights than its caller, the library does nothing.
 *
 * Most arrays are gone when a program ends. So the pages are also looked at when a large block is about to be freed: at
 * most every INTERVAL_MS and for at most a SHARE-th of the time, and at once if a quarter more is in use than at any look
 * before. The look with the most touched pages is kept.
 *
 * Threads: `looking` is held by the thread that looks; others go on without a look. A look is part of free(), so it
 * calls nothing that allocates or takes a lock of the C library.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "numa_alloc.h"

#pragma weak numalloc_stats_json
#pragma weak numalloc_large_blocks
#pragma weak numalloc_before_large_free
#pragma weak numalloc_page_nodes_sized
#pragma weak numalloc_block_info_sized

enum { INTERVAL_MS = 10, SHARE = 100, PATH = 4096 };

typedef struct look {
    uint64_t blocks, bytes;               /* live large blocks */
    uint64_t unlisted;                    /* blocks that came while the list was made; not in the counts below */
    uint64_t pages, untouched, failed;    /* of them, base pages */
    uint64_t on_node[NUMALLOC_MAX_NODES]; /* pages */
    uint64_t huge_page;                   /* bytes of the largest explicit huge page behind one */
    uint64_t in_memory, in_huge;          /* bytes of the mappings that hold them: resident, and in huge pages */
    int error;                            /* of the query, errno; counts are 0 then */
    uint64_t resident, huge;              /* bytes of the process, and in huge pages of any kind */
    uint64_t process[NUMALLOC_MAX_NODES]; /* bytes of the process by node */
    int process_error;                    /* errno of /proc/self/numa_maps */
} look;

static atomic_flag looking = ATOMIC_FLAG_INIT; /* guards all below */
static look best, now;
static bool taken;
static _Atomic(uint64_t) next_ms; /* no look before, unless more is in use than */
static _Atomic(uint64_t) enough;  /* bytes */

static char directory[PATH], stamp[64];
static long rank_pid, rank;

static uint64_t now_ms(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

/* ---- the live large blocks ------------------------------------------------------------------------------- */

static void ask_for_pages(const numalloc_range_t *range) {
    static numalloc_page_counts_t counts; /* too large for a small stack */
    numalloc_block_info_t info;
    if (numalloc_block_info(range->start, &info) == 0 && info.huge_page > now.huge_page) now.huge_page = info.huge_page;
    now.error = numalloc_page_nodes(range->start, range->size, &counts);
    if (now.error != 0) return;
    now.pages += counts.pages;
    now.untouched += counts.untouched;
    now.failed += counts.failed;
    for (int node = 0; node < NUMALLOC_MAX_NODES; node++) now.on_node[node] += counts.on_node[node];
}

static numalloc_range_t *list; /* of the blocks, while a look is taken */
static size_t list_size, list_count;

static void ask_for_blocks(void) {
    uint64_t bytes = 0;
    size_t capacity = numalloc_large_blocks(NULL, 0, &bytes) + 64;
    list_size = capacity * sizeof(numalloc_range_t);
    list = mmap(NULL, list_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (list == MAP_FAILED) {
        now.error = ENOMEM;
        return;
    }
    now.blocks = numalloc_large_blocks(list, capacity, &now.bytes);
    list_count = now.blocks < capacity ? (size_t)now.blocks : capacity;
    now.unlisted = now.blocks - list_count;
    for (size_t i = 0; i < list_count && now.error == 0; i++) ask_for_pages(&list[i]);
}

static void forget_blocks(void) {
    if (list_size != 0 && list != MAP_FAILED) (void)munmap(list, list_size);
    list_size = list_count = 0;
}

/* ---- the process ----------------------------------------------------------------------------------------- */

static uint64_t number_at(const char *text) {
    uint64_t value = 0;
    for (; isdigit((unsigned char)*text); text++) value = 10 * value + (uint64_t)(*text - '0');
    return value;
}

/* ADDRESS POLICY ... N0=5 N1=3 kernelpagesize_kB=4 */
static void add_mapping(char *line) {
    const char *size = strstr(line, "kernelpagesize_kB=");
    uint64_t page = size != NULL ? number_at(size + 18) << 10 : (uint64_t)sysconf(_SC_PAGESIZE);
    for (char *at = line; (at = strstr(at, " N")) != NULL; at += 2) {
        uint64_t node = number_at(at + 2);
        const char *equals = at + 2 + strspn(at + 2, "0123456789");
        if (equals != at + 2 && *equals == '=' && node < NUMALLOC_MAX_NODES)
            now.process[node] += page * number_at(equals + 1);
    }
}

/* Whether a mapping, the first line of one in smaps, holds large blocks. */
static bool holds_blocks(const char *line) {
    char *dash;
    uintptr_t start = strtoul(line, &dash, 16), end = *dash == '-' ? strtoul(dash + 1, NULL, 16) : 0;
    for (size_t i = 0; i < list_count; i++)
        if ((uintptr_t)list[i].start >= start && (uintptr_t)list[i].start < end) return true;
    return false;
}

/* smaps: a line with the addresses, then "Name: NUMBER kB" lines. */
static void add_size(char *line) {
    static const char *const huge[] = {
        "AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:", "Private_Hugetlb:", "Shared_Hugetlb:"};
    static bool inside; /* of a mapping that holds blocks */
    if (!isupper((unsigned char)line[0])) {
        inside = holds_blocks(line);
        return;
    }
    const char *value = strchr(line, ':');
    if (value == NULL) return;
    uint64_t bytes = number_at(value + 1 + strspn(value + 1, " ")) << 10, resident = 0, in_huge = 0;
    if (strncmp(line, "Rss:", 4) == 0) resident = bytes;
    for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++)
        if (strncmp(line, huge[i], strlen(huge[i])) == 0) {
            in_huge = bytes;
            if (i >= 3) resident = bytes; /* not in Rss */
        }
    now.resident += resident;
    now.huge += in_huge;
    if (!inside) return;
    now.in_memory += resident;
    now.in_huge += in_huge;
}

/* Calls `use` for each line; one that is longer than the buffer comes in pieces. 0 or errno. */
static int read_lines(const char *path, void (*use)(char *line)) {
    static char text[PATH];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return errno;
    size_t length = 0;
    for (ssize_t more; (more = read(file, text + length, sizeof text - 1 - length)) > 0 || length != 0;) {
        if (more > 0) length += (size_t)more;
        char *end = memchr(text, '\n', length);
        if (end == NULL && (more <= 0 || length == sizeof text - 1)) end = text + length;
        char *line = text;
        for (; end != NULL; line = end + 1, end = memchr(line, '\n', length - (size_t)(line - text))) {
            *end = '\0';
            use(line);
            if (end == text + length) {
                line = end;
                break;
            }
        }
        length -= (size_t)(line - text);
        memmove(text, line, length);
    }
    (void)close(file);
    return 0;
}

/* ---- looks ----------------------------------------------------------------------------------------------- */

static uint64_t touched(const look *l) { return l->pages - l->untouched; }

static void take(void) {
    uint64_t start = now_ms();
    memset(&now, 0, sizeof now);
    if (numalloc_large_blocks != NULL) ask_for_blocks();
    now.process_error = read_lines("/proc/self/numa_maps", add_mapping);
    (void)read_lines("/proc/self/smaps", add_size);
    forget_blocks();
    if (now.bytes + now.bytes / 4 > atomic_load(&enough)) atomic_store(&enough, now.bytes + now.bytes / 4);
    if (!taken || touched(&now) >= touched(&best)) best = now;
    taken = true;
    uint64_t end = now_ms(), rest = (end - start) * SHARE;
    atomic_store(&next_ms, end + (rest > INTERVAL_MS ? rest : INTERVAL_MS));
}

static void before_free(void) {
    int saved = errno;
    uint64_t bytes = 0;
    bool due = now_ms() >= atomic_load(&next_ms);
    if (!due) (void)numalloc_large_blocks(NULL, 0, &bytes);
    if ((due || bytes > atomic_load(&enough)) && !atomic_flag_test_and_set(&looking)) {
        take();
        atomic_flag_clear(&looking);
    }
    errno = saved;
}

static void child_of_fork(void) {
    atomic_flag_clear(&looking);
    taken = false;
    atomic_store(&enough, 0);
}

/* ---- writing --------------------------------------------------------------------------------------------- */

static void put_nodes(FILE *out, const char *name, const uint64_t *of_node) {
    bool first = true;
    fprintf(out, "\"%s\": {", name);
    for (int node = 0; node < NUMALLOC_MAX_NODES; node++) {
        if (of_node[node] == 0) continue;
        fprintf(out, "%s\"%d\": %" PRIu64, first ? "" : ", ", node, of_node[node]);
        first = false;
    }
    fprintf(out, "}");
}

static void put_allocator(FILE *out) {
    size_t size =
        numalloc_stats_json != NULL ? numalloc_stats_json(NULL, 0) + 4096 : 0; /* counters may grow meanwhile */
    char *text = size != 0 ? malloc(size) : NULL;
    if (text != NULL) (void)numalloc_stats_json(text, size);
    fprintf(out, "%s", text != NULL ? text : "null");
    free(text);
}

static void write_all(FILE *out) {
#define NUMBER(name, value) fprintf(out, "\"%s\": %" PRIu64 ", ", name, (uint64_t)(value))
    fprintf(out, "{\"pid\": %d, \"page_size\": %ld, \"arrays\": {", (int)getpid(), sysconf(_SC_PAGESIZE));
    NUMBER("count", best.blocks);
    NUMBER("nbytes", best.bytes);
    NUMBER("untracked", best.unlisted);
    NUMBER("pages", best.pages);
    NUMBER("untouched", best.untouched);
    NUMBER("failed", best.failed);
    NUMBER("huge_page", best.huge_page);
    NUMBER("resident", best.in_memory);
    NUMBER("huge", best.in_huge);
    NUMBER("errno", best.error);
    put_nodes(out, "pages_per_node", best.on_node);
    fprintf(out, "}, \"memory\": {");
    NUMBER("resident", best.resident);
    NUMBER("huge", best.huge);
    NUMBER("errno", best.process_error);
    put_nodes(out, "per_node", best.process);
    fprintf(out, "}, \"allocator\": ");
#undef NUMBER
    put_allocator(out);
    fprintf(out, "}\n");
}

/* In the directory, which nobody else may write to. 0 or errno. */
static int write_file(void) {
    char name[PATH];
    struct stat status;
    int folder = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0) return errno;
    int error = fstat(folder, &status) != 0                                 ? errno
                : status.st_uid != geteuid() || (status.st_mode & 077) != 0 ? EPERM
                                                                            : 0;
    (void)snprintf(name, sizeof name, "rank-%06ld.%d.%s.audit.json", rank, (int)getpid(), stamp);
    if (error == 0 && unlinkat(folder, name, 0) != 0 && errno != ENOENT) error = errno;
    int file = error == 0 ? openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600) : -1;
    if (error == 0 && file < 0) error = errno;
    (void)close(folder);
    if (error != 0) return error;
    FILE *out = fdopen(file, "w");
    if (out == NULL) {
        (void)close(file);
        return ENOMEM;
    }
    write_all(out);
    error = ferror(out) ? EIO : 0;
    return fclose(out) != 0 && error == 0 ? errno : error;
}

/* The rank is done: who counts is told, and waited for. */
static void tell(void) {
    char *python = getenv("HPCALLOC_REPORT_PYTHON"), *script = getenv("HPCALLOC_REPORT_SCRIPT");
    if (getpid() != rank_pid || python == NULL || script == NULL) return;
    size_t count = 0, kept = 0;
    while (environ[count] != NULL) count++;
    char **variables = calloc(count + 1, sizeof *variables);
    if (variables == NULL) return;
    for (size_t i = 0; i < count; i++)
        if (strncmp(environ[i], "LD_PRELOAD=", 11) != 0 && strncmp(environ[i], "NUMALLOC_", 9) != 0)
            variables[kept++] = environ[i];
    pid_t child;
    int error = posix_spawn(&child, python, NULL, NULL, (char *[]){python, "-I", script, NULL}, variables);
    if (error != 0)
        dprintf(STDERR_FILENO, "numalloc: the report can't be finished by %s: %s\n", python, strerror(error));
    else
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
    free(variables);
}

/* The two variables, checked. false: there is nothing to do. */
static bool read_environment(void) {
    const char *ranks = secure_getenv("HPCALLOC_REPORT_RANKS"), *own = secure_getenv("HPCALLOC_REPORT_RANK");
    long size;
    int end = 0;
    if (ranks == NULL || own == NULL || ranks[0] != '/' || strlen(ranks) >= sizeof directory) return false;
    if (sscanf(own, "%ld:%ld:%ld:%63[0-9a-f]%n", &rank_pid, &rank, &size, stamp, &end) != 4 || own[end] != '\0')
        return false;
    if (rank < 0 || rank >= size) return false;
    strcpy(directory, ranks);
    return true;
}

__attribute__((constructor)) static void begin(void) {
    if (!read_environment()) return;
    (void)pthread_atfork(NULL, NULL, child_of_fork);
    if (numalloc_before_large_free != NULL) numalloc_before_large_free(before_free);
}

__attribute__((destructor)) static void end(void) {
    if (directory[0] == '\0' || atomic_flag_test_and_set(&looking))
        return; /* a thread goes on while the process ends */
    take();
    int error = write_file();
    if (error != 0)
        dprintf(STDERR_FILENO, "numalloc: no report of this process in %s: %s\n", directory, strerror(error));
    tell();
}
