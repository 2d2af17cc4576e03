/* SPDX-License-Identifier: BSD-3-Clause
 *
 * out.h: text to a file without allocating.
 */
#ifndef NA_OUT_H
#define NA_OUT_H

#include "types.h"

#pragma GCC visibility push(hidden)

typedef struct na_out {
    char text[2048];
    size_t length;
    int file;
    int error; /* the first one; what comes after it is dropped */
} na_out;

/* Opens `name` with %p replaced by the process id (%% is %); NA_STANDARD_ERROR is standard error. 0 or errno. */
int na_out_open(na_out *out, const char *name);
void na_out_put(na_out *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
void na_out_string(na_out *out, const char *text); /* escaped for JSON, with its quotes */
void na_out_copy(na_out *out, const char *path);   /* a whole file */
int na_out_close(na_out *out);                     /* 0 or the first error */
bool na_name_ends(const char *name, const char *suffix);

#pragma GCC visibility pop

#endif
