/* SPDX-License-Identifier: BSD-3-Clause
 *
 * audit.h: where pages were while the program ran; only under NUMALLOC_AUDIT.
 */
#ifndef NA_AUDIT_H
#define NA_AUDIT_H

#include "types.h"

#pragma GCC visibility push(hidden)

void na_audit_look(void); /* before a large block goes; no more often than its budget allows */
void na_audit_fork_child(void);

#pragma GCC visibility pop

#endif
