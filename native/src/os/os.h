/* SPDX-License-Identifier: BSD-3-Clause
 *
 * os.h: every system call of the library, with its contract. Nothing else calls the kernel.
 *
 * Rule: a function returns 0 or an errno value, leaves errno as it found it, and gives results by pointer.
 * What the kernel or the build lacks is ENOSYS; nothing here reports success without having done the work.
 * Addresses and lengths are multiples of os_page_size() unless a function says otherwise. None of these
 * functions allocates memory through malloc; all may be called before main().
 * munmap and madvise go through libc and not through syscall(): MPI registration caches hook them.
 */
#ifndef NA_OS_H
#define NA_OS_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "numa_alloc.h"

#pragma GCC visibility push(hidden)

typedef numalloc_nodemask_t na_nodeset; /* bit i: node id i */

/* A set of logical CPUs, same layout as the kernel's; CPU numbers below NA_MAX_CPUS. */
enum { NA_MAX_CPUS = 8192 };
typedef struct na_cpuset {
    unsigned long word[NA_MAX_CPUS / (8 * sizeof(unsigned long))];
} na_cpuset;

/* For os/ itself: runs `call`, gives 0 or its errno, and leaves errno as it was. */
#define OS_RESULT(call)                                                                                                \
    ({                                                                                                                 \
        int saved_ = errno;                                                                                            \
        int error_ = (call) == 0 ? 0 : errno;                                                                          \
        errno = saved_;                                                                                                \
        error_;                                                                                                        \
    })

/* ---- address space -------------------------------------------------------------------------------- */

size_t os_page_size(void); /* bytes of a base page; constant */

/* Reserves address space with no access and no memory behind it, not in core files. align: power of two >= page size. */
int os_reserve(size_t bytes, size_t align, void **address);

/* Reserves address space that reads as zeros and costs nothing until os_commit opens parts of it: for
 * tables that any thread may look into at any index. Not in core files until then. */
int os_reserve_readable(size_t bytes, void **address);
int os_release(void *address, size_t bytes); /* gives reserved or committed space back */

/* Opens reserved space for reading and writing. ENOMEM under overcommit limits or max_map_count. */
int os_commit(void *address, size_t bytes);

/* Gives the memory behind committed space back; it stays open and reads as zeros. */
int os_purge(void *address, size_t bytes);

/* Takes all access from committed space, which keeps its contents; os_commit gives it back. */
int os_forbid(void *address, size_t bytes);

/* Fresh, zero, committed memory with no policy where nothing is mapped; EEXIST: something is. */
int os_map_at(void *address, size_t bytes);

/* Private zeroed memory outside any region, for tables. */
int os_map(size_t bytes, void **address);

/* How many bytes of address space may still be mapped under RLIMIT_AS; UINT64_MAX if unlimited. */
uint64_t os_address_space_left(void);
uint64_t os_data_left(void); /* likewise, of memory that may be written, under RLIMIT_DATA */

/* ---- placement ------------------------------------------------------------------------------------ */

enum na_bind_mode {
    NA_BIND_DEFAULT,
    NA_BIND_PREFERRED,
    NA_BIND_STRICT,
    NA_BIND_INTERLEAVE,
    NA_BIND_WEIGHTED,
    NA_BIND_NEAREST
};

/* Sets the policy of a range; pages already there stay. PREFERRED takes exactly one node; WEIGHTED is for kernels that
 * have weights (na_kernel_weight). NEAREST prefers, of several nodes, the nearest to the thread that touches a page (EINVAL before
 * Linux 5.15).
 * EPERM, ENOSYS: not allowed here (see os_can_bind). EINVAL: no node of the set is allowed; the kernel drops
 * those that are not from a set that has others, so the caller compares with the allowed nodes first. */
int os_bind(void *address, size_t bytes, enum na_bind_mode mode, const na_nodeset *nodes);

/* The policy of the calling thread for memory that has none of its own; threads and programs that it starts inherit
 * it. NODES as above; EINVAL also: none of them is allowed. */
int os_set_policy(enum na_bind_mode mode, const na_nodeset *nodes);
/* What it is now: the kernel's MPOL_* number with its flags, and its nodes. */
int os_get_policy(int *mode, na_nodeset *nodes);

/* Node of each of `count` pages, one per os_page_size() from `address`: node id, or a negative errno
 * (-ENOENT: untouched). */
int os_query_pages(const void *address, size_t count, int *status);

/* Moves `count` pages to `node`, those that other processes map too only with CAP_SYS_NICE; status as in
 * os_query_pages, afterwards. why[i] (why may be NULL): errno where a page is there and not on `node`, else 0. */
int os_move_pages(void *address, size_t count, int node, int *status, int *why);

/* How many of the range's bytes are in pages that are in memory, so that touching them takes no more. Makes no call
 * about placement. ENOMEM: not all of it is mapped. */
int os_resident(const void *address, size_t bytes, size_t *resident);

int os_can_bind(void);  /* probed once: 0, or what the kernel answered */
int os_can_query(void); /* likewise */

/* Faults a range in for writing without changing contents: MADV_POPULATE_WRITE, or by hand where the
 * kernel lacks it. ENOMEM when memory is short; EACCES where writing is not allowed, if the kernel tells. Does no check
 * of limits before: see os_cgroup_room. */
int os_populate(void *address, size_t bytes);

/* Bytes that this process' memory cgroup and all its ancestors (v1 and v2) can still grant, page cache
 * that can be dropped counted as free; UINT64_MAX if unlimited or unknown. */
uint64_t os_cgroup_room(void);

/* ---- huge pages ----------------------------------------------------------------------------------- */

int os_advise_huge(void *address, size_t bytes, bool want); /* MADV_HUGEPAGE / MADV_NOHUGEPAGE */
enum na_thp_mode { NA_THP_NEVER, NA_THP_MADVISE, NA_THP_ALWAYS };
int os_thp_mode(enum na_thp_mode *mode);

/* Replaces a committed range by explicit huge pages of `page` bytes (2 MiB or 1 GiB; address and bytes
 * multiples of it) on `node` (-1: on any), populated; on failure the range is normal committed memory again, with policy
 * lost (caller binds again). ENOMEM: the node's pool is short. ENOTRECOVERABLE: it can't be made normal again and
 * must not be touched. */
int os_map_hugetlb(void *address, size_t bytes, size_t page, int node);

/* Replaces a range by fresh, zero, committed normal memory with no policy. On failure it may be unmapped. */
int os_map_fresh(void *address, size_t bytes);

/* Moves the pages of [from, from+bytes) to committed space at `to` without copying; `from` stays
 * committed and reads as zeros. ENOSYS before Linux 5.7, nothing is changed then; on other errors `to` may be
 * unmapped. Policy travels with the pages. */
int os_remap(void *from, size_t bytes, void *to);

/* ---- threads and CPUs ----------------------------------------------------------------------------- */

/* CPU the caller runs on (may change at once). Cheapest way there is: rseq's cpu_id where glibc
 * registered it, else sched_getcpu(). */
int os_current_cpu(void);

/* Node id of that CPU by the kernel, -1: it does not tell. *cpu (may be NULL) gets the CPU. */
int os_current_node(int *cpu);

/* The CPU by one load, no system call: valid where os_cpu_offset, that of rseq's cpu_id from the thread pointer, is not
 * 0; else no CPU number. */
extern ptrdiff_t os_cpu_offset;
#if defined(__has_builtin)
#if __has_builtin(__builtin_thread_pointer)
#define OS_RSEQ_CPU_AT ((const volatile int *)((const char *)__builtin_thread_pointer() + os_cpu_offset))
#define OS_RSEQ_CPU (*OS_RSEQ_CPU_AT)
#endif
#endif
#ifndef OS_RSEQ_CPU
#define OS_RSEQ_CPU_AT ((const volatile int *)NULL)
#define OS_RSEQ_CPU (-2)
#endif

int os_get_affinity(na_cpuset *cpus); /* calling thread */
int os_set_affinity(const na_cpuset *cpus);

/* Starts a thread, detached and with all signals blocked, that calls `tick` after `first_ms` and then again and again,
 * each time after the milliseconds that it gave; 0 ends it. EAGAIN, ENOMEM. It allocates: no lock may be held. */
int os_ticker_start(uint64_t first_ms, uint64_t (*tick)(void));

/* Keeps the library that this code is in loaded for good, as a thread of it may run when a program closes it. May wait for
 * threads that load libraries: not from within a free. */
void os_stay_loaded(void);

void os_nap(void); /* waits a tenth of a millisecond for another thread */

uint32_t os_thread_id(void);  /* of the calling thread, as the kernel and debuggers name it */
uint32_t os_process_id(void); /* asked anew on each call: children of fork have their own */
bool os_is_privileged(void);  /* setuid, setgid, file capabilities: the environment is not trusted */

uint64_t os_now_ms(void); /* monotonic, coarse */
uint64_t os_random(void); /* from the kernel; never fails, falls back to address and clock bits */

/* ---- files ----------------------------------------------------------------------------------------- */

/* Reads a whole small file into buffer (NUL-terminated); *length without the NUL. EFBIG if it doesn't fit. */
int os_read_file(const char *path, char *buffer, size_t capacity, size_t *length);

/* Calls visit for the name of each entry of a directory. ENOENT, EACCES: it can't be read. */
int os_list(const char *path, void (*visit)(const char *name, void *context), void *context);

/* Files read and written piece by piece. os_file_create empties or makes the file; NULL is standard error, which
 * os_file_close leaves open. os_file_write writes all of it or fails. *length 0: the end. */
int os_file_create(const char *path, int *file);
int os_file_open(const char *path, int *file);
int os_file_write(int file, const char *text, size_t length);
int os_file_read(int file, char *buffer, size_t capacity, size_t *length);
int os_file_close(int file);

/* Writes one line to standard error in one write(2); no malloc. printf formats. */
void os_message(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void os_abort(void);

#pragma GCC visibility pop

#endif
