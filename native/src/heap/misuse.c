/* SPDX-License-Identifier: BSD-3-Clause
 *
 * misuse.c: owns what happens when the caller's mistake is noticed: a message, and the end unless NUMALLOC_ON_ERROR=warn.
 *
 * Threads: any; no state.
 */
#include "heap/heap.h"
#include "space/space.h"

#include <errno.h>
#include <stdio.h>

void na_misuse_more(const char *call, const void *address, const char *what, const char *remedy,
                    void (*more)(const void *data), const void *data) {
    int saved = errno;
    os_message("numalloc: %s(%p): the address %s; remedy: %s\n", call, address, what, remedy);
    if (more != NULL) more(data);
    if (na_opt.on_error == NA_ON_ERROR_ABORT) os_abort();
    errno = saved;
}

void na_misuse(const char *call, const void *address, const char *what, const char *remedy) {
    na_misuse_more(call, address, what, remedy, NULL, NULL);
}

void na_list_damaged(const na_span *page, const na_block *block, uint32_t lost, const char *where) {
    atomic_fetch_add_explicit(&na_regions[page->region].lost_blocks, lost, memory_order_relaxed);
    char what[240];
    (void)snprintf(what, sizeof what,
                   "is a free block of %u bytes whose link was overwritten, in %s of the page at %p; free blocks given "
                   "up: %u",
                   page->block_size, where, (void *)page->start, lost);
    na_misuse("numalloc", block, what,
              "do not write to a block after it is freed; NUMALLOC_GUARD=1 or -fsanitize=address finds where");
}
