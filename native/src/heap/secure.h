/* SPDX-License-Identifier: BSD-3-Clause
 *
 * secure.h: what the slow paths ask of secure.c while na_secure is set.
 */
#ifndef NA_SECURE_H
#define NA_SECURE_H

#include "heap/heap.h"
#include "types.h"

#pragma GCC visibility push(hidden)

void na_secure_init(void);                         /* after the options are read */
void na_secure_fork(void);                         /* child: other random numbers than the parent's */
size_t na_secure_heap_bytes(void);                 /* what each heap needs beside itself; 0: the mode is off */
void na_secure_equip(na_heap *heap, void *memory); /* zeroed, of that size */

/* ---- lists ------------------------------------------------------------------------------------------------- */

void na_seal(na_block *block, uint64_t link);
bool na_unseal(const na_block *block, uint64_t *link); /* false: damaged; the link is not to be followed */

void na_secure_carve(na_span *page);
void *na_secure_take(na_span *page); /* NULL: the page's list was damaged, and is empty now */
void na_secure_take_remote(na_heap *heap, na_span *page);
void na_secure_unlink_all(const na_span *page);      /* the page goes, all its blocks are free; damage is reported */
void na_secure_free(na_span *page, na_block *block); /* after na_live_claim */
void na_secure_release(na_heap *heap);                  /* what is held back goes home; owner only */
uint32_t na_secure_held(const na_heap *heap, unsigned class_index);
const na_block *na_secure_damaged(const na_heap *heap); /* of those held back; NULL: none */

#pragma GCC visibility pop

#endif
