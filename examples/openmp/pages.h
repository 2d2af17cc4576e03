/* SPDX-License-Identifier: BSD-3-Clause
 *
 * pages.h: what the OpenMP examples say of pages.
 */
#ifndef PAGES_H
#define PAGES_H

#include <numa_alloc.h>
#include <stdio.h>
#include <string.h>

/* "4096 on node 0, 4096 on node 1", or why the kernel does not tell. */
static inline void describe_pages(const void *p, size_t bytes, char *text, size_t capacity) {
    numalloc_page_counts_t counts;
    int error = numalloc_page_nodes(p, bytes, &counts);
    size_t used = 0;
    text[0] = '\0';
    if (error != 0) snprintf(text, capacity, "placement unknown: %s", strerror(error));
    for (int node = 0; error == 0 && node < NUMALLOC_MAX_NODES && used < capacity; node++)
        if (counts.on_node[node] > 0)
            used += (size_t)snprintf(text + used, capacity - used, "%s%zu pages on node %d", used ? ", " : "",
                                     counts.on_node[node], node);
}

/* 1: every page of [p, p+bytes) that somebody touched is on `node`, or the kernel does not tell; 0: one is not. */
static inline int pages_are_on(const void *p, size_t bytes, int node) {
    numalloc_page_counts_t counts;
    if (numalloc_page_nodes(p, bytes, &counts) != 0) return 1;
    return node >= 0 && counts.on_node[node] + counts.untouched == counts.pages;
}

/* Share of the pages of [p, p+bytes) that are on `node`, 0 to 1; -1 if the kernel does not tell. */
static inline double share_on(const void *p, size_t bytes, int node) {
    numalloc_page_counts_t counts;
    if (numalloc_page_nodes(p, bytes, &counts) != 0 || counts.pages == 0) return -1;
    return (double)counts.on_node[node] / (double)counts.pages;
}

#endif
