/* SPDX-License-Identifier: BSD-3-Clause
 *
 * remote.h: frees by threads that do not own the page.
 */
#ifndef NA_REMOTE_H
#define NA_REMOTE_H

#include "types.h"

#pragma GCC visibility push(hidden)

void na_remote_free(na_span *page, na_block *block);
void na_remote_flush(na_thread *thread);
/* Puts a page into heap->pending. Returns the pages that the caller has to send on: `rest`, and if the page has moved
 * meanwhile what else was there. */
na_span *na_remote_route(na_heap *heap, na_span *page, na_span *rest);
void na_remote_send(na_span *list); /* each page of the list to its heap */
na_block *na_remote_take(na_span *page, uint32_t *count);
uint32_t na_remote_count(const na_span *page); /* frees that wait; for statistics */

#pragma GCC visibility pop

#endif
