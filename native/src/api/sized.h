/* SPDX-License-Identifier: BSD-3-Clause
 *
 * sized.h: structures that may grow, as programs of any version pass them.
 *
 * All are as they were in version 0.1. A field that is added later goes to the end; a shorter answer is then filled by way
 * of a structure of the library's own.
 */
#ifndef NA_SIZED_H
#define NA_SIZED_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Zeroes an answer, fields that only the program knows included. false: there is none, or it is too short. */
static inline bool na_answer(void *answer, size_t bytes, size_t first_version) {
    if (answer == NULL || bytes < first_version) return false;
    memset(answer, 0, bytes);
    return true;
}

/* Is a request one that the library understands: not too short, and zero in all that only the program knows? */
static inline bool na_question(const void *question, size_t bytes, size_t known) {
    if (question == NULL || bytes < known) return false;
    for (size_t i = known; i < bytes; i++)
        if (((const char *)question)[i] != 0) return false;
    return true;
}

#endif
