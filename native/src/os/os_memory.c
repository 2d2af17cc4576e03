/* SPDX-License-Identifier: BSD-3-Clause
 *
 * os_memory.c: every system call on memory, for Linux; contracts in os.h. The others are in os_process.c, memory limits of
 * cgroups in cgroup.c.
 *
 * Invariants. No function is a cancellation point, so that a thread can't end inside the allocator with a lock
 * held. Stack frames stay below 10 KiB: threads can be small.
 *
 * Threads: stateless but for answers that never change (page size, what the kernel allows), kept in atomics.
 */
#define _GNU_SOURCE
#include "os/os.h"

#include <errno.h>
#include <linux/mempolicy.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4 /* Linux 5.7 */
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

/* ---- address space ---------------------------------------------------------------------------------- */

size_t os_page_size(void) {
    static _Atomic(size_t) known;
    size_t size = atomic_load_explicit(&known, memory_order_relaxed);
    if (size == 0) {
        size = (size_t)getauxval(AT_PAGESZ);
        atomic_store_explicit(&known, size, memory_order_relaxed);
    }
    return size;
}

/* The number behind so many others on the first line of a small file. */
static int read_number(const char *path, int skip, uint64_t *value) {
    char text[256]; /* statm is one long line */
    size_t length;
    int error = os_read_file(path, text, sizeof text, &length);
    if (error != 0) return error;
    const char *c = text;
    for (; skip > 0 && (c = strchr(c, ' ')) != NULL; skip--) c++;
    if (c == NULL || *c < '0' || *c > '9') return EINVAL;
    *value = 0;
    for (; *c >= '0' && *c <= '9'; c++) *value = *value * 10 + (uint64_t)(*c - '0');
    return 0;
}

static int map(void *at, size_t bytes, int protection, int flags, void **address) {
    int saved = errno;
    void *got = mmap(at, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    int error = got == MAP_FAILED ? errno : 0;
    errno = saved;
    if (error == 0) *address = got;
    return error;
}

/* Core files leave out what is only reserved: debuggers write all that a mapping covers. */
static void in_core_file(void *address, size_t bytes, bool wanted) {
    (void)OS_RESULT(madvise(address, bytes, wanted ? MADV_DODUMP : MADV_DONTDUMP));
}

int os_reserve(size_t bytes, size_t align, void **address) {
    size_t page = os_page_size();
    size_t slack = align > page ? align - page : 0;
    if (bytes > SIZE_MAX - slack) return ENOMEM;
    void *got;
    int error = map(NULL, bytes + slack, PROT_NONE, MAP_NORESERVE, &got);
    if (error != 0) return error;
    uintptr_t start = ((uintptr_t)got + align - 1) & ~(uintptr_t)(align - 1);
    size_t ahead = start - (uintptr_t)got, behind = slack - ahead;
    if (ahead != 0) (void)os_release(got, ahead);
    if (behind != 0) (void)os_release((void *)(start + bytes), behind);
    in_core_file((void *)start, bytes, false);
    *address = (void *)start;
    return 0;
}

int os_reserve_readable(size_t bytes, void **address) {
    int error = map(NULL, bytes, PROT_READ, MAP_NORESERVE, address);
    if (error == 0) in_core_file(*address, bytes, false);
    return error;
}
int os_map(size_t bytes, void **address) { return map(NULL, bytes, PROT_READ | PROT_WRITE, 0, address); }
int os_release(void *address, size_t bytes) { return OS_RESULT(munmap(address, bytes)); }
int os_commit(void *address, size_t bytes) {
    int error = OS_RESULT(mprotect(address, bytes, PROT_READ | PROT_WRITE));
    if (error == 0) in_core_file(address, bytes, true);
    return error;
}
int os_forbid(void *address, size_t bytes) { return OS_RESULT(mprotect(address, bytes, PROT_NONE)); }
int os_purge(void *address, size_t bytes) { return OS_RESULT(madvise(address, bytes, MADV_DONTNEED)); }

int os_map_fresh(void *address, size_t bytes) {
    return map(address, bytes, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_NORESERVE, &address);
}

int os_map_at(void *address, size_t bytes) {
    void *got = NULL;
    int error = map(address, bytes, PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE | MAP_NORESERVE, &got);
    if (error != 0 || got == address) return error;
    (void)os_release(got, bytes); /* before Linux 4.17 the address is a wish */
    return EEXIST;
}

/* /proc/self/statm tells what is used, in pages: the whole program first, its data sixth. */
static uint64_t left_of(int resource, int column) {
    struct rlimit limit;
    if (OS_RESULT(getrlimit((__rlimit_resource_t)resource, &limit)) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    uint64_t pages = 0;
    if (read_number("/proc/self/statm", column - 1, &pages) != 0) return limit.rlim_cur;
    uint64_t used = pages * os_page_size();
    return used < limit.rlim_cur ? limit.rlim_cur - used : 0;
}

uint64_t os_address_space_left(void) { return left_of(RLIMIT_AS, 1); }
uint64_t os_data_left(void) { return left_of(RLIMIT_DATA, 6); }

int os_remap(void *from, size_t bytes, void *to) {
    int saved = errno;
    void *got = mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to);
    int error = got == MAP_FAILED ? errno : 0;
    errno = saved;
    return error == EINVAL ? ENOSYS : error; /* older kernels do not know the flag */
}

/* ---- placement ---------------------------------------------------------------------------------------- */

static const int kernel_mode[] = {MPOL_DEFAULT,
                                  MPOL_PREFERRED,
                                  MPOL_BIND,
                                  MPOL_INTERLEAVE,
                                  6 /* MPOL_WEIGHTED_INTERLEAVE */,
                                  5 /* MPOL_PREFERRED_MANY */};

int os_bind(void *address, size_t bytes, enum na_bind_mode mode, const na_nodeset *nodes) {
    if (mode == NA_BIND_DEFAULT) return OS_RESULT((int)syscall(SYS_mbind, address, bytes, MPOL_DEFAULT, NULL, 0UL, 0U));
    /* The kernel wants the number of bits plus one. */
    return OS_RESULT((int)syscall(SYS_mbind, address, bytes, kernel_mode[mode], nodes->word,
                                  (unsigned long)NUMALLOC_MAX_NODES + 1, 0U));
}

int os_set_policy(enum na_bind_mode mode, const na_nodeset *nodes) {
    if (mode == NA_BIND_DEFAULT) return OS_RESULT((int)syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0UL));
    return OS_RESULT(
        (int)syscall(SYS_set_mempolicy, kernel_mode[mode], nodes->word, (unsigned long)NUMALLOC_MAX_NODES + 1));
}

int os_get_policy(int *mode, na_nodeset *nodes) {
    return OS_RESULT(
        (int)syscall(SYS_get_mempolicy, mode, nodes->word, (unsigned long)NUMALLOC_MAX_NODES + 1, NULL, 0UL));
}

enum { QUERY_BATCH = 128 }; /* pages per system call; pointers and what the kernel says of them are on the stack */

static int query_call(const char *address, size_t count, int *status) {
    void *pages[QUERY_BATCH];
    for (size_t i = 0; i < count; i++) pages[i] = (char *)(uintptr_t)address + i * os_page_size();
    return OS_RESULT((int)syscall(SYS_move_pages, 0, (unsigned long)count, pages, NULL, status, 0));
}

/* Faults pages in to be read, without having them moved to this CPU's node: the kernel's balancing does that where the
 * thread has no policy, and not where it has one. */
static int read_in_place(char *start, size_t pages) {
    int mode;
    na_nodeset nodes;
    int error = os_get_policy(&mode, &nodes);
    if (error == 0) error = OS_RESULT((int)syscall(SYS_set_mempolicy, MPOL_LOCAL, NULL, 0UL));
    if (error != 0) return error;
    error = OS_RESULT(madvise(start, pages * os_page_size(), MADV_POPULATE_READ));
    for (size_t i = 0; error != 0 && i < pages; i++) /* all but those that can't be read */
        (void)OS_RESULT(madvise(start + i * os_page_size(), os_page_size(), MADV_POPULATE_READ));
    bool none = mode == MPOL_DEFAULT || mode == MPOL_LOCAL;
    return OS_RESULT((int)syscall(SYS_set_mempolicy, mode, none ? NULL : nodes.word,
                                  none ? 0UL : (unsigned long)NUMALLOC_MAX_NODES + 1));
}

static bool seems_absent(int status) { return status == -EFAULT || status == -ENOENT; }

/* Pages that NUMA balancing has marked, to see which CPU uses them next, are absent for some kernels' move_pages
 * (Linux 6.1 says EFAULT for all of a huge page). They are in the page tables, as bit 63 of `pagemap` says, and a fault
 * removes the mark. */
static void tell_marked(const char *address, size_t count, int *status, int pagemap) {
    uint64_t entry[QUERY_BATCH];
    long at = (long)((uintptr_t)address / os_page_size() * sizeof *entry);
    int saved = errno;
    bool told = syscall(SYS_pread64, pagemap, entry, count * sizeof *entry, at) == (long)(count * sizeof *entry);
    errno = saved;
    for (size_t first = 0, end; told && first < count; first = end) {
        for (end = first; end < count && seems_absent(status[end]) && entry[end] >> 63 != 0;) end++;
        char *start = (char *)(uintptr_t)address + first * os_page_size();
        if (end == first) end++; /* not of these */
        else if (read_in_place(start, end - first) == 0) (void)query_call(start, end - first, status + first);
    }
}

/* Before Linux 6.2 or so the kernel answers EFAULT both for what is not mapped and for pages of a mapping that
 * were never written (page tables missing, or the shared zero page); mincore knows what is mapped. */
static void tell_untouched(const char *address, size_t count, int *status) {
    size_t page = os_page_size();
    unsigned char resident;
    for (size_t i = 0; i < count; i++)
        if (status[i] == -EFAULT && OS_RESULT(mincore((char *)(uintptr_t)address + i * page, page, &resident)) == 0)
            status[i] = -ENOENT;
}

int os_query_pages(const void *address, size_t count, int *status) {
    int error = 0, pagemap = -1;
    bool asked = false;
    for (size_t done = 0, now; done < count; done += now) {
        now = count - done < QUERY_BATCH ? count - done : QUERY_BATCH;
        const char *batch = (const char *)address + done * os_page_size();
        error = query_call(batch, now, status + done);
        if (error != 0) break;
        bool absent = false;
        for (size_t i = done; i < done + now; i++) absent = absent || seems_absent(status[i]);
        if (!absent) continue;
        /* Not "self", which is the first thread and may have ended. */
        if (!asked && os_file_open("/proc/thread-self/pagemap", &pagemap) != 0) pagemap = -1;
        asked = true;
        if (pagemap >= 0) tell_marked(batch, now, status + done, pagemap);
        tell_untouched(batch, now, status + done);
    }
    if (pagemap >= 0) (void)os_file_close(pagemap);
    return error;
}

int os_resident(const void *address, size_t bytes, size_t *resident) {
    enum { AT_ONCE = 1024 };
    unsigned char in_memory[AT_ONCE];
    size_t page = os_page_size();
    *resident = 0;
    for (size_t done = 0, now; done < bytes; done += now) {
        now = bytes - done < AT_ONCE * page ? bytes - done : AT_ONCE * page;
        int error = OS_RESULT(mincore((char *)(uintptr_t)address + done, now, in_memory));
        if (error != 0) return error;
        for (size_t i = 0; i < now / page; i++) *resident += (in_memory[i] & 1) * page;
    }
    return 0;
}

enum { MOVE_BATCH = 512 }; /* larger, since each call is dear */

/* One call for the pages `which` of a batch; whatever it says of each is noted in `why`. */
static int move_call(char *address, const short *which, size_t count, int node, int flags, int *why) {
    void *pages[MOVE_BATCH];
    int nodes[MOVE_BATCH], said[MOVE_BATCH];
    for (size_t i = 0; i < count; i++) {
        pages[i] = address + (size_t)which[i] * os_page_size();
        nodes[i] = node;
        said[i] = 0;
    }
    int saved = errno;
    long result = syscall(SYS_move_pages, 0, (unsigned long)count, pages, nodes, said, flags);
    int error = result < 0 ? errno : 0; /* > 0: so many did not move, or were not tried after one that did not */
    errno = saved;
    for (size_t i = 0; i < count; i++)
        if (said[i] < 0) why[which[i]] = -said[i];
    return error == ENOENT ? 0 : error; /* ENOENT: all were gone or in place */
}

/* Pages that are elsewhere and for which `why` has `reason`. */
static size_t pages_left(const int *status, const int *why, size_t count, int node, int reason, short *which) {
    size_t left = 0;
    for (size_t i = 0; i < count; i++)
        if (status[i] >= 0 && status[i] != node && why[i] == reason) which[left++] = (short)i;
    return left;
}

/* Moves the pages with a `reason` (0: none yet), and gives each that stays another. The kernel has an errno for each page
 * that it can't isolate. At an isolated page that does not move it stops, without a status for it or for later pages. So
 * calls are repeated as long as pages move; pages left then were isolated and did not move. A call is expensive: it drains
 * the caches of all CPUs. */
static int move_those(char *address, size_t count, int node, int flags, int reason, int *status, int *why) {
    short which[MOVE_BATCH];
    size_t left = pages_left(status, why, count, node, reason, which), before = SIZE_MAX;
    for (size_t i = 0; i < left; i++) why[which[i]] = 0;
    int stuck = EBUSY;
    while (left != 0 && left < before) {
        before = left;
        int error = move_call(address, which, left, node, flags, why);
        if (error == ENOMEM) stuck = ENOMEM;
        else if (error != 0) return error;
        error = os_query_pages(address, count, status);
        if (error != 0) return error;
        left = pages_left(status, why, count, node, 0, which);
    }
    for (size_t i = 0; i < left; i++) why[which[i]] = stuck;
    return 0;
}

static int move_batch(char *address, size_t count, int node, int *status, int *why) {
    int error = os_query_pages(address, count, status);
    if (error == 0) error = move_those(address, count, node, MPOL_MF_MOVE, 0, status, why);
    /* Once more: the kernel may have had them in hand for a moment. */
    if (error == 0) error = move_those(address, count, node, MPOL_MF_MOVE, EBUSY, status, why);
    if (error != 0) return error;
    int kept[MOVE_BATCH];
    for (size_t i = 0; i < count; i++) kept[i] = why[i];
    error = move_those(address, count, node, MPOL_MF_MOVE_ALL, EACCES, status, why);
    if (error != EPERM) return error;
    for (size_t i = 0; i < count; i++) why[i] = kept[i]; /* no capability for it: they stay EACCES */
    return 0;
}

int os_move_pages(void *address, size_t count, int node, int *status, int *why) {
    int reasons[MOVE_BATCH];
    for (size_t done = 0; done < count; done += MOVE_BATCH) {
        size_t now = count - done < MOVE_BATCH ? count - done : MOVE_BATCH;
        for (size_t i = 0; i < now; i++) reasons[i] = 0;
        int error = move_batch((char *)address + done * os_page_size(), now, node, status + done, reasons);
        if (error != 0) return error;
        for (size_t i = 0; i < now && why != NULL; i++) {
            int at = status[done + i];
            why[done + i] = at == node || at == -ENOENT ? 0 : at < 0 ? -at : reasons[i] != 0 ? reasons[i] : EBUSY;
        }
    }
    return 0;
}

/* On a page of our own. Seccomp filters look at the call and not at its arguments, so the default policy will do. */
static int probe_bind(void) {
    void *page;
    int error = map(NULL, os_page_size(), PROT_READ | PROT_WRITE, 0, &page);
    if (error != 0) return error;
    error = os_bind(page, os_page_size(), NA_BIND_DEFAULT, NULL);
    (void)os_release(page, os_page_size());
    return error;
}

static int probe_query(void) {
    void *page;
    int error = map(NULL, os_page_size(), PROT_READ | PROT_WRITE, 0, &page);
    if (error != 0) return error;
    *(volatile char *)page = 1;
    int status = -ENOENT;
    error = os_query_pages(page, 1, &status);
    if (error == 0 && status < 0) error = -status;
    (void)os_release(page, os_page_size());
    return error;
}

static int probed(_Atomic(int) *known, int (*probe)(void)) {
    int answer = atomic_load_explicit(known, memory_order_relaxed);
    if (answer == 0) {
        answer = probe() + 1;
        atomic_store_explicit(known, answer, memory_order_relaxed);
    }
    return answer - 1;
}

int os_can_bind(void) {
    static _Atomic(int) known;
    return probed(&known, probe_bind);
}

int os_can_query(void) {
    static _Atomic(int) known;
    return probed(&known, probe_query);
}

/* Does the kernel know MADV_POPULATE_WRITE? EINVAL then means memory that can't be written. */
static int probe_populate(void) {
    void *page;
    int error = map(NULL, os_page_size(), PROT_READ | PROT_WRITE, 0, &page);
    if (error != 0) return EINVAL;
    error = OS_RESULT(madvise(page, os_page_size(), MADV_POPULATE_WRITE));
    (void)os_release(page, os_page_size());
    return error;
}

static bool knows_populate(void) {
    static _Atomic(int) known;
    return probed(&known, probe_populate) != EINVAL;
}

int os_populate(void *address, size_t bytes) {
    int error = OS_RESULT(madvise(address, bytes, MADV_POPULATE_WRITE));
    if (error == 0) return 0;
    if (error != EINVAL) return error == EFAULT || error == EAGAIN || error == EHWPOISON ? ENOMEM : error;
    if (knows_populate()) return EACCES;
    /* Before Linux 5.14: nothing or-ed into the first byte of each page. volatile, as a compiler may drop an
     * operation that changes nothing. */
    for (size_t at = 0; at < bytes; at += os_page_size())
        atomic_fetch_or_explicit((volatile _Atomic(unsigned char) *)((char *)address + at), 0, memory_order_relaxed);
    return 0;
}

/* ---- huge pages --------------------------------------------------------------------------------------- */

int os_advise_huge(void *address, size_t bytes, bool want) {
    int error = OS_RESULT(madvise(address, bytes, want ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
    return error == EINVAL ? ENOSYS : error; /* a kernel without transparent huge pages */
}

int os_thp_mode(enum na_thp_mode *mode) {
    char text[128];
    size_t length;
    int error = os_read_file("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof text, &length);
    if (error != 0) return error == ENOENT ? ENOSYS : error;
    if (strstr(text, "[always]") != NULL) *mode = NA_THP_ALWAYS;
    else if (strstr(text, "[madvise]") != NULL) *mode = NA_THP_MADVISE;
    else *mode = NA_THP_NEVER;
    return 0;
}

int os_map_hugetlb(void *address, size_t bytes, size_t page, int node) {
    int shift = __builtin_ctzl(page);
    void *got;
    int error = map(address, bytes, PROT_READ | PROT_WRITE,
                    MAP_FIXED | MAP_HUGETLB | (int)((unsigned)shift << MAP_HUGE_SHIFT), &got);
    if (error == 0) {
        na_nodeset home = {{0}};
        if (node >= 0) home.word[node >> 6] |= (uint64_t)1 << (node & 63);
        error = node >= 0 && os_can_bind() == 0 ? os_bind(address, bytes, NA_BIND_STRICT, &home) : 0;
        /* A pool short of pages on this node would raise SIGBUS at the touch; populating tells now. Without
         * MADV_POPULATE_WRITE there is no safe way to find out. */
        if (error == 0) error = OS_RESULT(madvise(address, bytes, MADV_POPULATE_WRITE));
        if (error == 0) return 0;
    }
    int again = os_map_fresh(address, bytes);
    return again != 0 ? ENOTRECOVERABLE : error == EINVAL ? ENOSYS : ENOMEM;
}
