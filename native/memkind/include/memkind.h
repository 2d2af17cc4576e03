/* SPDX-License-Identifier: BSD-3-Clause
 *
 * memkind.h: memkind's calls with static kinds, on libnumalloc (libnumalloc_memkind.so), compatible in source and in binary
 * form. Kinds that a program makes itself, explicit huge pages and files are not here: such programs do not link.
 *
 * Kinds. HBW and HIGHEST_BANDWIDTH are NUMALLOC_KIND_BANDWIDTH, LOWEST_LATENCY is _LATENCY, HIGHEST_CAPACITY is _CAPACITY, and
 * DAX_KMEM is _CAPACITY where its nodes are a memory tier without CPUs. Those named PREFERRED may spill to other nodes by
 * distance; the others give NULL instead. ALL is the same, as nodes of the kind are tried by distance anyway. DEFAULT and
 * REGULAR are the calling thread's node, INTERLEAVE all nodes.
 */
#ifndef NUMALLOC_MEMKIND_H
#define NUMALLOC_MEMKIND_H

#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct memkind *memkind_t;

enum { MEMKIND_ERROR_MESSAGE_SIZE = 128 }; /* enough for any text of memkind_error_message but a list of many nodes */
enum {
    MEMKIND_SUCCESS = 0,
    MEMKIND_ERROR_UNAVAILABLE = -1, /* the machine has no memory of that kind, or does not tell */
    MEMKIND_ERROR_MALLOC = -6,
    MEMKIND_ERROR_INVALID = -13,
    MEMKIND_ERROR_MEMTYPE_NOT_AVAILABLE = -20,
    MEMKIND_ERROR_OPERATION_FAILED = -21,
    MEMKIND_ERROR_RUNTIME = -255
};

extern memkind_t MEMKIND_DEFAULT, MEMKIND_REGULAR, MEMKIND_INTERLEAVE;
extern memkind_t MEMKIND_HBW, MEMKIND_HBW_ALL, MEMKIND_HBW_PREFERRED, MEMKIND_HBW_INTERLEAVE;
extern memkind_t MEMKIND_DAX_KMEM, MEMKIND_DAX_KMEM_ALL, MEMKIND_DAX_KMEM_PREFERRED, MEMKIND_DAX_KMEM_INTERLEAVE;
extern memkind_t MEMKIND_HIGHEST_CAPACITY, MEMKIND_HIGHEST_CAPACITY_PREFERRED, MEMKIND_HIGHEST_CAPACITY_LOCAL,
    MEMKIND_HIGHEST_CAPACITY_LOCAL_PREFERRED;
extern memkind_t MEMKIND_LOWEST_LATENCY_LOCAL, MEMKIND_LOWEST_LATENCY_LOCAL_PREFERRED;
extern memkind_t MEMKIND_HIGHEST_BANDWIDTH_LOCAL, MEMKIND_HIGHEST_BANDWIDTH_LOCAL_PREFERRED;

int memkind_get_version(void); /* of memkind's interface: 1014000 is 1.14.0 */
void memkind_error_message(int err, char *msg, size_t size);
int memkind_check_available(memkind_t kind); /* 0 or MEMKIND_ERROR_... */

void *memkind_malloc(memkind_t kind, size_t size); /* NULL for size 0 as well */
void *memkind_calloc(memkind_t kind, size_t num, size_t size);
void *memkind_realloc(memkind_t kind, void *ptr, size_t size);                            /* keeps the block's home */
int memkind_posix_memalign(memkind_t kind, void **memptr, size_t alignment, size_t size); /* 0, EINVAL, ENOMEM */
void memkind_free(memkind_t kind, void *ptr);                                             /* any kind, also NULL */
size_t memkind_malloc_usable_size(memkind_t kind, void *ptr);

#ifdef __cplusplus
}
#endif
#endif
