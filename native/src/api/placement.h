/* SPDX-License-Identifier: BSD-3-Clause
 *
 * placement.h: where pages are.
 */
#ifndef NA_PLACEMENT_H
#define NA_PLACEMENT_H

#include "types.h"

#pragma GCC visibility push(hidden)

/* Faults the pages of a range in and, where `strict`, checks that each page is on a node of the set. ENOMEM, or EPERM
 * where placement can't be set or asked for. */
int na_populate(uintptr_t start, size_t bytes, const na_nodeset *nodes, bool strict);

/* Writes to each page of a block that is zero. */
void na_touch(void *start, size_t size);

/* Is a page of the range known to be on a node outside the set? */
bool na_pages_elsewhere(uintptr_t start, size_t bytes, const na_nodeset *nodes);

void na_placement_fork_child(void); /* the other threads' demand went with them */

#pragma GCC visibility pop

#endif
