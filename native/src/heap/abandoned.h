/* SPDX-License-Identifier: BSD-3-Clause
 *
 * abandoned.h: heaps whose threads ended.
 */
#ifndef NA_ABANDONED_H
#define NA_ABANDONED_H

#include "types.h"

#pragma GCC visibility push(hidden)

void na_heap_abandon(na_heap *heap);    /* its thread ends; takes the lock */
void na_heap_orphan(na_heap *heap); /* child of fork: the same, without touching its pages; with the lock held */
na_heap *na_heap_adopt(na_region *region); /* NULL: there is none; with the lock held */
/* The pages of one become the heap's, whose cache of the class wanted stays as it is. Takes the lock. false: none. */
bool na_heap_adopt_pages(na_heap *heap, unsigned wanted);
uint64_t na_abandoned_oldest(const na_region *region); /* ms when the first of the resting ones ended; NA_NO_TIME: none */
/* What is free in heaps that rest since before a time in ms goes back; takes the lock. */
void na_abandoned_release(na_region *region, uint64_t before);
void na_abandoned_reclaim(na_region *region); /* of all that rest, and of those that rest no more; takes the lock */

#pragma GCC visibility pop

#endif
