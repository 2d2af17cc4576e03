/* SPDX-License-Identifier: BSD-3-Clause
 *
 * populate.h: faulting memory in, where it belongs, without calling the OOM killer.
 */
#ifndef NA_POPULATE_H
#define NA_POPULATE_H

#include "types.h"

#pragma GCC visibility push(hidden)

/* What is asked of each page once it is there. */
enum na_check {
    NA_UNCHECKED,
    NA_IN_SET,    /* it is on a node of the set */
    NA_DEALT,     /* it is on the node of the set whose turn it is, page by page */
    NA_DEALT_HUGE /* the same, or all pages of a huge page are on the node whose turn the huge page is */
};

/* Faults the pages of a range in. ENOMEM, before anything is faulted in, where the nodes, the cgroup or the machine have no
 * room for the whole of it; ENOMEM where checked pages are elsewhere in the end; ENODEV where that is because a node was
 * taken from this process; EPERM, ENOSYS where placement can't be set or asked for. Gives no memory back: the caller may
 * have the allocator's free memory returned and try once more. `nodes`: NULL for NA_UNCHECKED. */
int na_populate(uintptr_t start, size_t bytes, const na_nodeset *nodes, enum na_check check);

/* Is there room for a range, in equal shares on the nodes (NULL: anywhere)? What is there already needs none. */
bool na_has_room(uintptr_t start, size_t bytes, const na_nodeset *nodes);

uint64_t na_room(void); /* bytes that cgroups grant and the machine has, less a reserve; UINT64_MAX: nothing is known */

/* Is a page of the range known to be on a node outside the set? */
bool na_pages_elsewhere(uintptr_t start, size_t bytes, const na_nodeset *nodes);

/* Writes to each page of a block that is zero. */
void na_touch(void *start, size_t size);

/* Calls visit with the status of some pages at a time (os_query_pages); stops at an error. Both ends are on pages. */
int na_each_status(uintptr_t start, uintptr_t end,
                   void (*visit)(uintptr_t start, const int *status, size_t count, void *context), void *context);

void na_populate_fork_child(void); /* the other threads' demand went with them */

static inline uintptr_t na_page_floor(uintptr_t address) { return address & ~((uintptr_t)os_page_size() - 1); }
static inline uintptr_t na_page_ceil(uintptr_t address) { return na_page_floor(address + os_page_size() - 1); }

#pragma GCC visibility pop

#endif
