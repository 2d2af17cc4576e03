/* SPDX-License-Identifier: BSD-3-Clause
 *
 * deep.c: a library that deepbind.c opens with RTLD_DEEPBIND, as php opens its modules.
 */
#include <stdlib.h>

void deep_free(void *ptr);
void deep_free(void *ptr) { free(ptr); }

void *deep_malloc(size_t size);
void *deep_malloc(size_t size) { return malloc(size); }
