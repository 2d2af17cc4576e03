/* SPDX-License-Identifier: BSD-3-Clause
 *
 * machine.h: every call of os.h goes through here (the linker's --wrap), in programs that link machine.c. So a test
 * counts the calls, makes a given one fail, and runs the allocator on a made-up machine of two nodes; the objects of
 * the library are the shipped ones. Calls inside os/ are not seen: os.h is the boundary.
 *
 * The environment says what to do, since the library starts before main():
 *   MACHINE_NODES=2   two nodes, even CPUs on node 0, CPU 1 came online after the start; policies are noted down and page queries answer by them,
 *                     explicit huge pages are made of others
 *   MACHINE_POLICY=mode:nodes   with two nodes: the policy that the thread has at the start, as the kernel's number and
 *                     the first word of its set
 *   MACHINE_NODES=0   one node without sysfs, CPUs by affinity
 *   otherwise         the machine as it is
 *   MACHINE_FAULT=name:first:last:error   calls first..last (from 1) of os_name fail with that errno
 *
 * Threads: any; counters are atomic and shared with children of fork.
 */
#ifndef NA_TESTS_MACHINE_H
#define NA_TESTS_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

/* Every function of os.h, with the errnos that its contract allows. MISPLACED: pages are on another node than their
 * policy says. Those with BAD fail by giving a value that is no answer. The last two never return an error. */
enum { MISPLACED = 1000, BAD = 1001 };
#define MACHINE_CALLS(X)                                                                                               \
    X(reserve, ENOMEM)                                                                                                 \
    X(reserve_readable, ENOMEM)                                                                                        \
    X(release, ENOMEM)                                                                                                 \
    X(commit, ENOMEM)                                                                                                  \
    X(purge, EINVAL, ENOMEM)                                                                                           \
    X(map_at, ENOMEM, EEXIST)                                                                                          \
    X(map, ENOMEM)                                                                                                     \
    X(address_space_left, BAD)                                                                                         \
    X(data_left, BAD)                                                                                                  \
    X(bind, EPERM, ENOSYS, EINVAL, ENOMEM)                                                                             \
    X(query_pages, EPERM, ENOSYS, ENOMEM, MISPLACED)                                                                   \
    X(move_pages, EPERM, ENOSYS, ENOMEM, MISPLACED)                                                                    \
    X(resident, ENOMEM)                                                                                                \
    X(can_bind, EPERM, ENOSYS)                                                                                         \
    X(can_query, EPERM, ENOSYS)                                                                                        \
    X(populate, ENOMEM)                                                                                                \
    X(cgroup_room, BAD)                                                                                                \
    X(advise_huge, ENOSYS, ENOMEM)                                                                                     \
    X(thp_mode, ENOSYS, EACCES)                                                                                        \
    X(map_hugetlb, ENOMEM, ENOSYS)                                                                                     \
    X(map_fresh, ENOMEM)                                                                                               \
    X(remap, ENOSYS, ENOMEM)                                                                                           \
    X(current_cpu, BAD)                                                                                                \
    X(current_node, BAD)                                                                                               \
    X(ticker_start, EAGAIN, ENOMEM)                                                                                    \
    X(get_affinity, EINVAL)                                                                                            \
    X(set_affinity, EINVAL, EPERM)                                                                                     \
    X(set_policy, EPERM, ENOSYS)                                                                                       \
    X(get_policy, EPERM, ENOSYS)                                                                                       \
    X(now_ms, BAD)                                                                                                     \
    X(random, BAD)                                                                                                     \
    X(list, ENOENT, EACCES)                                                                                            \
    X(read_file, ENOENT, EACCES, EFBIG)                                                                                \
    X(page_size, 0)                                                                                                    \
    X(message, 0)                                                                                                      \
    X(abort, 0)

enum machine_call {
#define X(name, ...) MACHINE_##name,
    MACHINE_CALLS(X)
#undef X
        MACHINE_COUNT
};

extern const char *const machine_name[MACHINE_COUNT];
extern const int machine_errors[MACHINE_COUNT][8]; /* ends with 0 */

/* What a program wants when the environment says nothing; it may define them itself. */
extern int machine_nodes;                       /* 1: the machine as it is */
extern void (*machine_hook)(enum machine_call); /* is called before each call; NULL: nothing is */
extern int machine_full;                        /* of two nodes, the one whose pages come from the other; -1: none */
extern int machine_removed;                     /* of two nodes, the one that was taken from this process; -1: none */
extern char machine_weights[8];                 /* of two nodes, the kernel's for weighted interleaving, each 4 bytes of
                                                   text; "": it has none */
extern uint64_t machine_room;                   /* no cgroup has more room than this many bytes */
extern bool machine_quiet;                      /* os_message writes nothing */

bool machine_bound(const void *address); /* two nodes: has its page a policy of its own? */

void machine_arm(enum machine_call call, uint64_t number, int error); /* the number-th call from now on fails, once */

uint64_t machine_calls(enum machine_call call); /* so far, children of fork included */
void machine_heal(void);                        /* nothing fails from now on */
bool machine_failed(void);                      /* the call that was to fail was made */

#endif
