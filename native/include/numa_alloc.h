/* SPDX-License-Identifier: BSD-3-Clause
 *
 * numa_alloc.h: the public interface of libnumalloc, a NUMA-aware allocator.
 *
 * Placement. Every block has a home, fixed when it is allocated: one NUMA node, or a set of nodes for
 * interleaved and blocked memory. Where its pages are is a matter of kernel policy on the block's
 * addresses, whichever thread touches it first. A freed block goes back to its home's heaps only.
 * On a machine of several nodes a process may inherit a memory policy (numactl, srun --mem-bind).
 * Local memory then follows that policy: its pages are where the policy of the thread that touches them first says. Other
 * requests, and strict ones, are served as they ask.
 *
 * Strictness. By default a home is *preferred*: when the node is full, memory comes from the next node by
 * distance and numalloc_stats() counts it. With NUMALLOC_STRICT the call checks the node's free memory and
 * the cgroup limits, faults the pages in and verifies them before it returns; when the node cannot supply
 * them it fails with ENOMEM. The two are never swapped silently.
 *
 * Threads. Every function may be called from any thread at any time, before main() and in a child of
 * fork() included; none may be called from a signal handler. A block may be freed by any thread. The blocks of a thread
 * that ends stay valid; what was free in its heaps serves later threads of the same node.
 *
 * Blocks. A block is aligned to 16 bytes, or as numalloc_aligned() was told. Only the pointer that an allocation returned
 * may be freed or resized. A freed block is cached: its memory serves the next blocks of its home at once, and goes back to
 * the system after NUMALLOC_PURGE_DELAY, or with numalloc_purge(). All usable bytes (numalloc_usable_size) may be written,
 * but compilers warn, and checks that they build in (_FORTIFY_SOURCE=3) end the program, past the bytes asked for.
 *
 * Errors, one convention. Functions that return a pointer return NULL and set errno; functions that return int return 0 or
 * an errno value and leave errno alone, unless they say that they return something else.
 *   EINVAL   a pointer that may not be NULL, a range around the end of the address space, a bad alignment, flag or policy
 *   ENOMEM   no memory; more than the machine has; a limit of the process, its cgroup or NUMALLOC_NODE_LIMIT
 *   ENODEV   no such node, or one that this process may not use, or (strict) that was taken from it since
 *   ENODATA  a kind of memory, or weights, that the kernel does not tell here
 *   EPERM, ENOSYS   a strict request, or a question, where placement can't be set or asked for; see numalloc_can_bind
 * Freeing a foreign pointer, a block twice, or a pointer into a block writes one line that names call, address and remedy
 * to standard error and aborts; with NUMALLOC_ON_ERROR=warn it writes the line and ignores the call. A pointer into a small
 * block of the calling thread's own node is noticed under NUMALLOC_GUARD and NUMALLOC_SECURE, and by numalloc_verify();
 * without them what follows is undefined, as with free().
 *
 * Versions. Structures may get more fields at their end. The header passes the size that the program was compiled with to
 * functions named ..._sized; other languages call these. Fields that a library does not know must be zero in a request, and
 * are zero in an answer. numalloc_nodemask_t and numalloc_range_t never change. While the first number of the version is 0,
 * libraries whose second number differs are not compatible, by SONAME, by symbol version and for CMake.
 *
 * Environment. NUMALLOC_RESERVE, NUMALLOC_NODE_LIMIT, NUMALLOC_HUGEPAGES, NUMALLOC_PURGE_DELAY, NUMALLOC_PURGER,
 * NUMALLOC_STRICT, NUMALLOC_ON_ERROR, NUMALLOC_VERBOSE, NUMALLOC_STATS, NUMALLOC_LEAKS, NUMALLOC_PROFILE,
 * NUMALLOC_PROFILE_RATE, NUMALLOC_GUARD, NUMALLOC_SECURE, NUMALLOC_QUARANTINE,
 * NUMALLOC_WATCH_LIMIT; see docs/options.md. A value that can't be parsed is reported once on standard error and the
 * default is used. Privileged programs (setuid and the like) read none.
 *
 * Example. An array on the last node, in memory that is there or refused:
 *
 *     #include <numa_alloc.h>
 *     #include <stdio.h>
 *     #include <string.h>
 *
 *     int main(void) {
 *         int ids[NUMALLOC_MAX_NODES], nodes = numalloc_node_ids(ids, NUMALLOC_MAX_NODES);
 *         numalloc_request_t request = {
 *             .size = 1 << 20, .policy = NUMALLOC_ONNODE, .node = ids[nodes - 1], .flags = NUMALLOC_STRICT};
 *         char *array = numalloc_request(&request);
 *         if (array == NULL) {
 *             perror("numalloc_request");
 *             return 1;
 *         }
 *         memset(array, 1, request.size);
 *         printf("on node %d of %d\n", numalloc_node_of(array), nodes);
 *         numalloc_free(array);
 *         return 0;
 *     }
 */
#ifndef NUMA_ALLOC_H
#define NUMA_ALLOC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NUMALLOC_VERSION "0.2.0"
#define NUMALLOC_VERSION_NUMBER 200 /* 10000 * major + 100 * minor + patch */

#if defined(__GNUC__) || defined(__clang__)
#define NUMALLOC_API __attribute__((visibility("default")))
#define NUMALLOC_USED __attribute__((warn_unused_result))
#define NUMALLOC_MALLOC __attribute__((malloc)) NUMALLOC_USED
/* The parameters that give the bytes of the block (their product), and its alignment. */
#define NUMALLOC_SIZE(number) __attribute__((alloc_size(number)))
#define NUMALLOC_SIZES(one, two) __attribute__((alloc_size(one, two)))
#define NUMALLOC_ALIGN(number) __attribute__((alloc_align(number)))
#else
#define NUMALLOC_API
#define NUMALLOC_USED
#define NUMALLOC_MALLOC
#define NUMALLOC_SIZE(number)
#define NUMALLOC_SIZES(one, two)
#define NUMALLOC_ALIGN(number)
#endif

enum {
    NUMALLOC_MAX_NODES = 1024, /* node ids are below this: the kernel's own limit */
    NUMALLOC_NODE_MIXED =
        -1, /* numalloc_node_of: interleaved, weighted or blocked memory, or an inherited policy of several nodes */
    NUMALLOC_NODE_FOREIGN = -2 /* numalloc_node_of: not a live block of this allocator */
};

/* A set of node ids; bit i of word i/64 is node i. Ids may have gaps. */
typedef struct numalloc_nodemask_t {
    uint64_t word[NUMALLOC_MAX_NODES / 64];
} numalloc_nodemask_t;

/* The version of the library that the program runs with, as NUMALLOC_VERSION_NUMBER. */
NUMALLOC_API int numalloc_version(void);

/* ---- life cycle ---------------------------------------------------------------------------------- */

/* Optional. Makes bytes_per_node of address space on each allowed node ready for use, a hint that
 * never becomes a ceiling (see NUMALLOC_NODE_LIMIT for one). Idempotent: a second call with the same
 * value returns 0, with another value EALREADY. ENOMEM if there is not as much address space. */
NUMALLOC_API int numalloc_init(size_t bytes_per_node);

/* Returns the memory of all free blocks to the system and hands pending frees of the calling thread to
 * their owners. Live blocks stay valid and the allocator stays usable. */
NUMALLOC_API void numalloc_cleanup(void);

/* ---- allocation ---------------------------------------------------------------------------------- */

/* At least `size` bytes, aligned to 16, on the node of the calling thread. size 0 gives a unique block. */
NUMALLOC_API NUMALLOC_MALLOC NUMALLOC_SIZE(1) void *numalloc(size_t size);

/* `count` elements of `size` bytes, all zero. An overflowing product is ENOMEM. */
NUMALLOC_API NUMALLOC_MALLOC NUMALLOC_SIZES(1, 2) void *numalloc_calloc(size_t count, size_t size);

/* Resizes, in place where possible; the block keeps its home even when another thread resizes it.
 * NULL ptr allocates; size 0 frees and returns NULL. On failure the old block is untouched. The block is aligned to 16 bytes
 * afterwards: a larger alignment is kept only where it stays in place, which is not said. */
NUMALLOC_API NUMALLOC_USED NUMALLOC_SIZE(2) void *numalloc_realloc(void *ptr, size_t size);

/* `align` is a power of two up to 1 GiB. */
NUMALLOC_API NUMALLOC_MALLOC NUMALLOC_ALIGN(1) NUMALLOC_SIZE(2) void *numalloc_aligned(size_t align, size_t size);

/* Frees; NULL is ignored. errno is preserved. */
NUMALLOC_API void numalloc_free(void *ptr);

/* On a given node, preferred. */
NUMALLOC_API NUMALLOC_MALLOC NUMALLOC_SIZE(1) void *numalloc_onnode(size_t size, int node);

/* Pages round-robin over the nodes of the mask (NULL: all allowed nodes): the nodes' shares differ by a page at most.
 * From 8 huge pages (of 2 MiB) a node on, huge pages take turns, and the shares differ by one of these. Blocks below a page
 * are on one node each, in turns. */
NUMALLOC_API NUMALLOC_MALLOC NUMALLOC_SIZE(1) void *numalloc_interleaved(size_t size, const numalloc_nodemask_t *nodes);

/* Split into equal contiguous parts, one per node of the mask in ascending order (NULL: all allowed
 * nodes); boundaries are rounded to pages. */
NUMALLOC_API NUMALLOC_MALLOC NUMALLOC_SIZE(1) void *numalloc_blocked(size_t size, const numalloc_nodemask_t *nodes);

/* On the node of a kind (enum numalloc_policy, NUMALLOC_KIND_*) that is nearest to the calling thread, preferred: when it is
 * full, memory comes from the next node by distance from it. In a request, NUMALLOC_STRICT takes the nodes of the kind
 * alone, the nearest that has room. The node is the block's home. ENODATA: the kernel tells nothing that says which nodes
 * are of the kind; see numalloc_kind(). */
NUMALLOC_API NUMALLOC_MALLOC NUMALLOC_SIZE(1) void *numalloc_onkind(size_t size, int kind);

/* Parts of a node for each weight, 1 to 255; 0: not on this node. */
typedef struct numalloc_weights_t {
    uint8_t of[NUMALLOC_MAX_NODES]; /* by node id */
} numalloc_weights_t;

/* Dealt over nodes in the proportion of their weights; NULL: those of numalloc_weights(). The kernel deals pages where it
 * has the same weights (Linux 6.9); else the block is cut into runs of pages, at most some hundred. NUMALLOC_STRICT: each run
 * is on its node. EINVAL no weight; ENODEV a node that may not be used; ENODATA as numalloc_weights(). */
NUMALLOC_API NUMALLOC_MALLOC NUMALLOC_SIZE(1) void *numalloc_weighted(size_t size, const numalloc_weights_t *weights);

enum numalloc_policy {
    NUMALLOC_LOCAL = 0,          /* the calling thread's node */
    NUMALLOC_ONNODE = 1,         /* request.node */
    NUMALLOC_INTERLEAVE = 2,     /* request.nodes */
    NUMALLOC_BLOCKED = 3,        /* request.nodes, request.stripe */
    NUMALLOC_WEIGHTED = 4,       /* request.weights; if NULL, by bandwidth over request.nodes */
    NUMALLOC_KIND_BANDWIDTH = 5, /* the nearest node of those with the highest bandwidth */
    NUMALLOC_KIND_LATENCY = 6,   /* ... with the lowest latency */
    NUMALLOC_KIND_CAPACITY = 7   /* ... of the lowest memory tier; of the largest, where there is one tier */
};

enum numalloc_flag {
    NUMALLOC_STRICT = 1 << 0,  /* the home or ENOMEM; pages are faulted in and verified */
    NUMALLOC_ZERO = 1 << 1,    /* zeroed memory */
    NUMALLOC_POPULATE = 1 << 2 /* fault the pages in before returning */
};

/* The general form of all the calls above. Zero-initialise it and set what matters. */
typedef struct numalloc_request_t {
    size_t size;                       /* bytes */
    size_t align;                      /* 0 (16 bytes) or a power of two up to 1 GiB */
    int policy;                        /* enum numalloc_policy */
    unsigned flags;                    /* enum numalloc_flag, or-ed */
    int node;                          /* NUMALLOC_ONNODE */
    const numalloc_nodemask_t *nodes;  /* INTERLEAVE, BLOCKED; NULL: all allowed nodes */
    size_t stripe;                     /* BLOCKED: the split repeats every `stripe` bytes; 0: once */
    const numalloc_weights_t *weights; /* WEIGHTED */
} numalloc_request_t;

NUMALLOC_API NUMALLOC_MALLOC void *numalloc_request_sized(const numalloc_request_t *request, size_t bytes);
static inline NUMALLOC_MALLOC void *numalloc_request(const numalloc_request_t *request) {
    return numalloc_request_sized(request, sizeof *request);
}

/* ---- queries about blocks ------------------------------------------------------------------------ */

/* Usable bytes of a live block, at least what was asked for; 0 for NULL or a foreign pointer. */
NUMALLOC_API size_t numalloc_usable_size(const void *ptr);

/* Home by policy: a node id, NUMALLOC_NODE_MIXED or NUMALLOC_NODE_FOREIGN. No system call. `ptr` may
 * point anywhere into a block. */
NUMALLOC_API int numalloc_node_of(const void *ptr);

typedef struct numalloc_block_info_t {
    void *start;      /* first byte of the block */
    size_t size;      /* usable bytes */
    int size_class;   /* index of the size class, -1 for a large block */
    int numa_node;    /* as numalloc_node_of */
    int policy;       /* enum numalloc_policy; small LOCAL blocks report ONNODE, their home */
    unsigned flags;   /* NUMALLOC_STRICT if the block is strict */
    size_t huge_page; /* bytes of an explicit huge page backing the block, else 0 */
} numalloc_block_info_t;

/* `ptr` may point anywhere into a live block. EFAULT: foreign or free. */
NUMALLOC_API int numalloc_block_info_sized(const void *ptr, numalloc_block_info_t *info, size_t bytes);
static inline int numalloc_block_info(const void *ptr, numalloc_block_info_t *info) {
    return numalloc_block_info_sized(ptr, info, sizeof *info);
}

typedef struct numalloc_page_counts_t {
    size_t page_size;                   /* bytes per counted page (base pages) */
    size_t pages;                       /* pages that [ptr, ptr+len) touches */
    size_t untouched;                   /* not yet backed by memory */
    size_t failed;                      /* the kernel gave an error for the page */
    size_t on_node[NUMALLOC_MAX_NODES]; /* pages per node id */
} numalloc_page_counts_t;

/* Asks the kernel where the pages of any mapped range are (not only our blocks). EPERM or ENOSYS where
 * that is not allowed, as in many containers. len 0 counts nothing. */
NUMALLOC_API int numalloc_page_nodes_sized(const void *ptr, size_t len, numalloc_page_counts_t *counts, size_t bytes);
static inline int numalloc_page_nodes(const void *ptr, size_t len, numalloc_page_counts_t *counts) {
    return numalloc_page_nodes_sized(ptr, len, counts, sizeof *counts);
}

/* ---- placement of existing memory ---------------------------------------------------------------- */

/* Faults in every page of [ptr, ptr+len), within one live block or memory of others, without changing its contents.
 * ENOMEM instead of an OOM kill when the homes, the cgroup or the machine can't supply it, also for what is not mapped;
 * EACCES where memory of others can't be written (found out from Linux 5.14 on; it must not be passed before); EFAULT
 * when the range is in the allocator's memory and not within one live block. */
NUMALLOC_API int numalloc_prefault(void *ptr, size_t len);

/* Bytes that can be faulted in now without calling the OOM killer: what the cgroups grant and the machine has,
 * free memory that the allocator keeps included; UINT64_MAX where nothing is known. */
NUMALLOC_API uint64_t numalloc_room(void);

/* What bounds the memory of this process now, each in bytes that are left; UINT64_MAX: no bound, or unknown. */
typedef struct numalloc_limits_t {
    uint64_t machine;       /* memory and swap that can be given, but for a reserve of 1/64 of the memory */
    uint64_t cgroup;        /* of the process' memory cgroup and those above it */
    uint64_t data;          /* RLIMIT_DATA: of memory that may be written, touched or not */
    uint64_t address_space; /* RLIMIT_AS: of addresses, used or not */
    uint64_t block;         /* the largest block there can be: vm.overcommit_memory=0, or the reserved addresses */
} numalloc_limits_t;

NUMALLOC_API int numalloc_limits_sized(numalloc_limits_t *limits, size_t bytes);
static inline int numalloc_limits(numalloc_limits_t *limits) { return numalloc_limits_sized(limits, sizeof *limits); }

/* Sets where pages of [ptr, ptr+len) that are not there yet will come from, whichever thread touches them first: preferably
 * `nodes` if that is one, else round-robin over them. For mappings of others that the caller owns, shared ones included;
 * both ends on pages, EINVAL otherwise and for the allocator's own memory, whose homes are fixed. ENODEV no node, or
 * one that may not be used; EPERM, ENOSYS: see numalloc_can_bind. */
NUMALLOC_API int numalloc_bind_range(void *ptr, size_t len, const numalloc_nodemask_t *nodes);

enum { NUMALLOC_ERRNO_MAX = 134 }; /* errno values of page moves are below this */

typedef struct numalloc_migration_t {
    size_t page_size;                   /* bytes per counted page (base pages) */
    size_t pages;                       /* pages that [ptr, ptr+len) touches */
    size_t untouched;                   /* not backed by memory: nothing to move */
    size_t stayed;                      /* were on their node already */
    size_t moved;                       /* came from elsewhere, are on their node now */
    size_t refused[NUMALLOC_ERRNO_MAX]; /* are elsewhere still, by errno: EBUSY pinned or in use; EACCES mapped by
                                         * other processes too, and no CAP_SYS_NICE; ENOMEM their node is full; EFAULT */
} numalloc_migration_t;

/* Moves the pages of [ptr, ptr+len), any memory of this process: to the node of `nodes`, or round-robin over
 * them in units of `granule` bytes (0: a page; a transparent huge page moves whole). A block's home for later reuse
 * and for pages not touched yet stays what it was. EINVAL no range, or a granule that is not a multiple of the page
 * size; ENODEV no node, or one that may not be used; EPERM not allowed here, nothing was moved then. */
NUMALLOC_API int numalloc_migrate_pages_sized(void *ptr, size_t len, const numalloc_nodemask_t *nodes, size_t granule,
                                              numalloc_migration_t *result, size_t bytes);
static inline int numalloc_migrate_pages(void *ptr, size_t len, const numalloc_nodemask_t *nodes, size_t granule,
                                         numalloc_migration_t *result) {
    return numalloc_migrate_pages_sized(ptr, len, nodes, granule, result, sizeof *result);
}

/* The same for one node; *unmoved (may be NULL) gets the pages that would not go. */
NUMALLOC_API int numalloc_migrate(void *ptr, size_t len, int node, size_t *unmoved);

/* Returns all free memory to the system now; gives the bytes returned, 0 under NUMALLOC_PURGE_DELAY=never. */
NUMALLOC_API size_t numalloc_purge(void);

/* Free memory goes back as calls pass by. From now on a thread of the allocator's own may return it also while the program
 * makes none: it is started when larger blocks are freed, and ends when nothing is left. ENOTSUP: NUMALLOC_PURGER=0
 * forbids it. Without this call, or NUMALLOC_PURGER=1, the library never starts a thread. */
NUMALLOC_API int numalloc_purger(void);

/* Gives address space back that is only reserved and counts against RLIMIT_AS: for a program that is about to limit
 * itself. libnumalloc_preload.so calls it in setrlimit() and prlimit(); a limit that was set in other ways is noticed when
 * the allocator next opens memory. */
NUMALLOC_API void numalloc_release_address_space(void);

/* ---- machine ------------------------------------------------------------------------------------- */

typedef struct numalloc_node_info_t {
    int node;             /* id */
    int cpus;             /* logical CPUs (PUs) of the node that are online; 0: memory-only */
    int allowed;          /* 1: this process may allocate here (Mems_allowed) */
    uint64_t total_bytes; /* memory of the node */
    uint64_t free_bytes;  /* free now */
    /* What the kernel tells of the node's memory, seen from the CPUs next to it (nodeN/access1, else access0). 0: nothing. */
    uint32_t read_bandwidth, write_bandwidth; /* MB/s */
    uint32_t read_latency, write_latency;     /* ns */
    int tier; /* number of its memory tier, the fastest has the smallest; -1: none told */
} numalloc_node_info_t;

NUMALLOC_API int numalloc_node_count(void);                 /* allowed nodes with memory, at least 1 */
NUMALLOC_API int numalloc_node_ids(int *ids, int capacity); /* fills ascending ids (NULL: none), returns the count */
NUMALLOC_API int numalloc_node_info_sized(int node, numalloc_node_info_t *info, size_t bytes);
static inline int numalloc_node_info(int node, numalloc_node_info_t *info) {
    return numalloc_node_info_sized(node, info, sizeof *info);
}

/* Which nodes a kind means here, and how that is known. */
enum numalloc_source {
    NUMALLOC_SOURCE_NONE = 0,       /* it is not known */
    NUMALLOC_SOURCE_ATTRIBUTES = 1, /* the kernel's bandwidths or latencies; nodes within 10 % of the best count */
    NUMALLOC_SOURCE_TIERS = 2,      /* the kernel's memory tiers, of which it has several */
    NUMALLOC_SOURCE_SIZE = 3        /* sizes of nodes, within 10 % of the largest: of KIND_CAPACITY only */
};
typedef struct numalloc_kind_t {
    int source;                /* enum numalloc_source */
    int nearest;               /* of `nodes`, to the calling thread; -1: none */
    numalloc_nodemask_t nodes; /* of that kind, allowed ones */
} numalloc_kind_t;

/* Nodes count that this process may use; the kernel's numbers, if it tells them of all of these, else its tiers. Nodes that
 * are all alike are all of the kind. EINVAL no kind; ENODATA not known: numalloc_kind_text() says what is. */
NUMALLOC_API int numalloc_kind_sized(int kind, numalloc_kind_t *answer, size_t bytes);
static inline int numalloc_kind(int kind, numalloc_kind_t *answer) {
    return numalloc_kind_sized(kind, answer, sizeof *answer);
}

/* What the machine has, for messages, a node a part: "node 0: 8 CPUs, 1024 MiB, 51200 MB/s, 80 ns, tier 4; node 1: ...".
 * Returns the length without the NUL, like snprintf. */
NUMALLOC_API size_t numalloc_kind_text(char *buffer, size_t capacity);

/* Weights in the proportion of the bandwidths of `nodes` (NULL: all allowed nodes), the lower of read and write; at most
 * 32. ENODATA: the kernel does not tell the bandwidth of one of them; ENODEV as in requests. */
NUMALLOC_API int numalloc_weights(const numalloc_nodemask_t *nodes, numalloc_weights_t *weights);

NUMALLOC_API int numalloc_distance(int from, int to); /* SLIT, 10 = local; -1 unknown node */
NUMALLOC_API int numalloc_current_node(void);         /* node of the CPU the caller runs on */

/* Binds the calling thread to the allowed CPUs of `node`. ENODEV no such node or it has no CPU that this
 * process may use; the affinity is then unchanged. */
NUMALLOC_API int numalloc_bind_thread(int node);

/* Sets the memory policy of the calling thread, which threads and programs that it starts inherit, for memory that is
 * not this library's: the stack, static data, mmap, other allocators. LOCAL: where it is first touched, `nodes` is
 * ignored; with NUMALLOC_STRICT on `nodes` alone, and what does not fit there ends in the kernel's OOM killer.
 * ONNODE: `nodes` are preferred, of several the nearest to each thread first (ENOSYS before Linux 5.15). INTERLEAVE: dealt
 * over `nodes`. NULL: all allowed nodes.
 * EINVAL another policy, another flag, or STRICT with one of the latter two; ENODEV a node that is not allowed;
 * EPERM, ENOSYS not permitted here. */
NUMALLOC_API int numalloc_memory_policy(int policy, unsigned flags, const numalloc_nodemask_t *nodes);

/* Tells it: the kernel's number of the policy with its flags (MPOL_* of <linux/mempolicy.h>), and its nodes. 0 or errno. */
NUMALLOC_API int numalloc_memory_policy_now(int *mode, numalloc_nodemask_t *nodes);

/* 0 when the kernel lets this process set (bind) and ask for (query) placement, else the errno it
 * answered, typically EPERM in a container. Without bind, placement rests on first touch. On a machine of one
 * node bind is 0: there the kernel is never told where memory is to be. */
NUMALLOC_API int numalloc_can_bind(void);
NUMALLOC_API int numalloc_can_query(void);

/* ---- statistics ---------------------------------------------------------------------------------- */

typedef struct numalloc_stats_t {
    uint64_t allocated_bytes; /* in live blocks, usable size; approximate while other threads run */
    uint64_t peak_bytes;      /* highest committed_bytes so far */
    uint64_t committed_bytes; /* address space of the node opened for use and not returned */
    uint64_t allocations;     /* blocks ever handed out */
    uint64_t frees;           /* blocks ever freed */
    uint64_t remote_frees;    /* of these, handed to the thread that owns the block's heap; a few a thread keeps for
                                 * its own next blocks of the same node */
    uint64_t fallbacks;       /* preferred requests for this node served by another, as far as seen: the
                                 * kernel's own fall-back shows only in blocks that are populated at birth */
    uint64_t strict_failures; /* strict requests refused with ENOMEM */
    uint64_t large_blocks;    /* live large blocks */
    uint64_t large_bytes;     /* their bytes */
    uint64_t huge_bytes;      /* of these, backed by explicit huge pages */
    uint64_t cached_bytes;    /* free but still committed memory */
    uint64_t purged_bytes;    /* ever returned to the system */
    uint64_t heaps;           /* heaps of the node in use by live threads */
    uint64_t abandoned_heaps; /* heaps of dead threads waiting for adoption */
    uint64_t pages;           /* pages (runs of one size class) in use */
    uint64_t lost_blocks;     /* free blocks never used again, as their free list was damaged by the program */
} numalloc_stats_t;

/* Of one node; node -1 sums all nodes. ENODEV. */
NUMALLOC_API int numalloc_stats_sized(int node, numalloc_stats_t *stats, size_t bytes);
static inline int numalloc_stats(int node, numalloc_stats_t *stats) {
    return numalloc_stats_sized(node, stats, sizeof *stats);
}

/* All statistics, options in force and topology as one JSON object. Returns the length without the NUL;
 * writes at most capacity bytes with NUL (truncated when the return value >= capacity), like snprintf. */
NUMALLOC_API size_t numalloc_stats_json(char *buffer, size_t capacity);

/* Walks every structure and checks the invariants; for tests and bug reports. 0, or EINVAL after writing
 * what is wrong to standard error. Other threads must not be in the allocator meanwhile. */
NUMALLOC_API int numalloc_verify(void);

/* ---- for reports ---------------------------------------------------------------------------------------- */

typedef struct numalloc_range_t {
    void *start;
    size_t size; /* bytes */
} numalloc_range_t;

/* Lists up to `capacity` live blocks that fill whole slices (those over 64 KiB). Returns how many there are, and their
 * bytes in *bytes if that is not NULL; others may come and go meanwhile. capacity 0: counts alone, at little cost. */
NUMALLOC_API size_t numalloc_large_blocks(numalloc_range_t *ranges, size_t capacity, uint64_t *bytes);

/* Has `look` called before each of these is freed, by the thread that frees it; NULL: no more. One for the process. It
 * may allocate, and leaves errno alone. */
NUMALLOC_API void numalloc_before_large_free(void (*look)(void));

/* ---- modes that see every block (docs/options.md) -------------------------------------------------- */

typedef struct numalloc_leak_totals_t {
    uint64_t blocks, bytes;                 /* live, sizes as asked for */
    uint64_t startup_blocks, startup_bytes; /* live, of the dynamic linker and libraries' constructors; not above */
    uint64_t unrecorded;                    /* times there was no memory for a record: the rest is incomplete */
} numalloc_leak_totals_t;

/* Lists the live blocks by call stack, largest sum first, as NUMALLOC_LEAKS does at exit and numalloc_cleanup().
 * Blocks that are still in use are listed as well. `path`: a file, emptied first, %p in its name is the process id,
 * as JSON if it ends in .json; "stderr"; NULL: no list. `totals` may be NULL.
 * ENOTSUP NUMALLOC_LEAKS is off; EINVAL the path is empty or too long; ENOMEM; else what opening or writing gave.
 * The totals are set only where 0 is returned. */
NUMALLOC_API int numalloc_leak_report_sized(const char *path, numalloc_leak_totals_t *totals, size_t bytes);
static inline int numalloc_leak_report(const char *path, numalloc_leak_totals_t *totals) {
    return numalloc_leak_report_sized(path, totals, sizeof *totals);
}

/* Writes the sampled heap profile, live and cumulative, as NUMALLOC_PROFILE does at exit and numalloc_cleanup().
 * `path` as above, NULL: the one of NUMALLOC_PROFILE. In pprof's text format; if it ends in .collapsed, one line per
 * stack of live bytes, in .allocated.collapsed of all bytes ever allocated. ENOTSUP NUMALLOC_PROFILE is off; else as
 * above. */
NUMALLOC_API int numalloc_profile_dump(const char *path);

#ifdef __cplusplus
}
#endif
#endif
