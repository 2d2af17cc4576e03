/* SPDX-License-Identifier: BSD-3-Clause
 *
 * guard.h: guard mode.
 */
#ifndef NA_GUARD_H
#define NA_GUARD_H

#include "modes/record.h"
#include "types.h"

#pragma GCC visibility push(hidden)

/* The user's address; puts the layout into the record. NULL with errno. A record without NA_RECORD_GUARDED is an
 * ordinary block. */
void *na_guard_alloc(const numalloc_request_t *request, na_record *record);
void na_guard_undo(const na_record *record); /* gives a block back that could not be recorded */
void na_guard_free(uintptr_t start, void *ptr, const char *call);
void *na_guard_realloc(uintptr_t start, void *ptr, size_t size);
bool na_guard_check(const char *call, bool fatal); /* every block; false: damage, reported */
void na_guard_drain(void);                         /* empties the quarantine */
void na_guard_fork(int step);

#pragma GCC visibility pop

#endif
