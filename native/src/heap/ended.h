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
uint64_t na_ended_oldest(const na_region *region); /* ms when the first of the resting ones ended; NA_NO_TIME: none */
/* What is free in heaps that rest since before a time in ms goes back; takes the lock. */
void na_ended_release(na_region *region, uint64_t before);
void na_ended_reclaim(na_region *region); /* of all that rest, and of those that rest no more; takes the lock */

#pragma GCC visibility pop

#endif
