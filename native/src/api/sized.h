/* SPDX-License-Identifier: BSD-3-Clause
 *
 * sized.h: structures that may grow, as programs of any version pass them.
 *
 * A field that is added goes to the end; a shorter answer is then filled by way of a structure of the library's own.
 * `first_version` is the size in version 0.1.
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

/* Copies a request into one of the library's, zero in what only the library knows. false: the library does not understand
 * it, as it is too short, or not zero in what only the program knows. */
static inline bool na_question(const void *question, size_t bytes, size_t first_version, void *own, size_t known) {
    if (question == NULL || bytes < first_version) return false;
    for (size_t i = known; i < bytes; i++)
        if (((const char *)question)[i] != 0) return false;
    memset(own, 0, known);
    memcpy(own, question, bytes < known ? bytes : known);
    return true;
}

#endif
