/* SPDX-License-Identifier: BSD-3-Clause
 *
 * queue.h: lists of descriptors, linked both ways.
 */
#ifndef NA_QUEUE_H
#define NA_QUEUE_H

#include "types.h"

static inline void na_queue_push(na_queue *queue, na_span *span) {
    span->prev = NULL;
    span->next = queue->first;
    if (span->next != NULL) span->next->prev = span;
    else queue->last = span;
    queue->first = span;
}

static inline void na_queue_append(na_queue *queue, na_span *span) {
    span->next = NULL;
    span->prev = queue->last;
    if (span->prev != NULL) span->prev->next = span;
    else queue->first = span;
    queue->last = span;
}

static inline void na_queue_remove(na_queue *queue, na_span *span) {
    if (span->prev != NULL) span->prev->next = span->next;
    else queue->first = span->next;
    if (span->next != NULL) span->next->prev = span->prev;
    else queue->last = span->prev;
    span->next = span->prev = NULL;
}

#endif
