/* SPDX-License-Identifier: BSD-3-Clause
 *
 * placement.h: free memory that makes room for what is faulted in.
 */
#ifndef NA_PLACEMENT_H
#define NA_PLACEMENT_H

#include "types.h"

#pragma GCC visibility push(hidden)

/* Of all regions: free memory counts against the limits like any other. false: none may go back (NUMALLOC_PURGE_DELAY). */

#pragma GCC visibility pop

#endif
