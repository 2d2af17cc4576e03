/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ended.h: heaps whose threads ended.
 */
#ifndef NA_ENDED_H
#define NA_ENDED_H

#include "types.h"

#pragma GCC visibility push(hidden)

void na_ended_add(na_heap *heap);    /* its thread ends; takes the lock */
void na_ended_orphan(na_heap *heap); /* child of fork: the same, without touching its pages; with the lock held */
na_heap *na_ended_adopt(na_region *region); /* NULL: there is none; with the lock held */
/* The pages of one become the heap's, whose cache of the class wanted stays as it is. Takes the lock. false: none. */
bool na_ended_take(na_heap *heap, unsigned wanted);
uint64_t na_ended_oldest(const na_region *region); /* ms when the first of the resting ones ended; UINT64_MAX: none */
void na_ended_due(na_region *region);     /* what is free in those that rest too long goes back; takes the lock */
void na_ended_release(na_region *region); /* of all that rest, however short; takes the lock */
void na_ended_reclaim(na_region *region); /* also of those that rest no more; takes the lock */
bool na_ended_relieve(na_region *region); /* memory is short: their node's and the caller's; false: nothing came */

#pragma GCC visibility pop

#endif
