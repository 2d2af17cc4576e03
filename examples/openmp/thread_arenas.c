/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thread_arenas: many threads allocate and free in a loop, with malloc and with numalloc, whose heaps are per thread and
 * node.
 *
 *   gcc -O3 -fopenmp thread_arenas.c -o thread_arenas $(pkg-config --cflags --libs numalloc)
 *   OMP_PROC_BIND=spread OMP_PLACES=cores ./thread_arenas [ROUNDS]
 *
 * Every thread keeps a window of blocks of 16 to 4096 bytes, writes each whole, reads it back and replaces it. Every few
 * rounds a thread takes over its neighbour's window: blocks are then freed by another thread, maybe of another node.
 * malloc gives such a block to whoever frees it; numalloc's goes back to its home node. Both are timed in turns.
 *
 * GB/s counts the bytes written and read. Exit 1 if a block lost its contents, or a numalloc block's page is not on the
 * node of the thread that allocated it.
 */
#include <numa_alloc.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pages.h"

enum { WINDOW = 2048, SMALLEST = 16, LARGEST = 4096, ROUNDS_BEFORE_PASSING = 4, TURNS = 3 };

typedef struct block {
    unsigned char *p;
    size_t size;
    int node; /* of the thread that allocated it */
    unsigned char tag;
} block;

typedef struct allocator {
    const char *name;
    void *(*get)(size_t);
    void (*put)(void *);
    double seconds, operations, bytes; /* over all turns */
    size_t blocks, local;              /* live at the end of a turn; on their thread's node */
    int known;                         /* the kernel tells */
} allocator;

static void *get_numalloc(size_t size) { return numalloc(size); }

/* Replaces every block of a window; number of blocks that lost their contents. */
static size_t one_round(const allocator *use, block *window, uint64_t *random, double *bytes) {
    size_t lost = 0;
    for (int k = 0; k < WINDOW; k++) {
        block *b = &window[k];
        if (b->p != NULL) {
            lost += b->p[0] != b->tag || memcmp(b->p, b->p + 1, b->size - 1) != 0; /* all bytes are the tag */
            use->put(b->p);
        }
        *random ^= *random << 13, *random ^= *random >> 7, *random ^= *random << 17; /* xorshift64 (Marsaglia 2003) */
        b->size = SMALLEST + *random % (LARGEST - SMALLEST + 1);
        b->tag = (unsigned char)(*random >> 40);
        b->node = numalloc_current_node();
        b->p = use->get(b->size);
        if (b->p == NULL) return lost + 1;
        memset(b->p, b->tag, b->size);
        *bytes += 2 * (double)b->size;
    }
    return lost;
}

/* One turn of one allocator on all threads; number of blocks that were damaged or, by policy, misplaced. */
static size_t turn(allocator *use, block *windows, int rounds, int by_policy) {
    size_t bad = 0, live = 0, local = 0;
    double bytes = 0, begin = omp_get_wtime(), end = 0;
    int known = 1;
#pragma omp parallel reduction(+ : bad, bytes, live, local) reduction(&& : known)
    {
        int thread = omp_get_thread_num(), threads = omp_get_num_threads();
        uint64_t random = 88172645463325252U + (uint64_t)thread;
        for (int round = 0; round < rounds; round++) {
            int whose = (thread + round / ROUNDS_BEFORE_PASSING) % threads;
            bad += one_round(use, windows + (size_t)whose * WINDOW, &random, &bytes);
#pragma omp barrier
        }
#pragma omp single
        end = omp_get_wtime();
        block *window = windows + (size_t)((thread + (rounds - 1) / ROUNDS_BEFORE_PASSING) % threads) * WINDOW;
        for (int k = 0; k < WINDOW; k++) {
            if (window[k].p == NULL) continue;
            double share = share_on(window[k].p, window[k].size, window[k].node);
            known = known && share >= 0;
            live++, local += share == 1;
            bad += by_policy && share >= 0 && share < 1;
            use->put(window[k].p);
            window[k].p = NULL;
        }
    }
    use->seconds += end - begin;
    use->operations += (double)rounds * WINDOW * omp_get_max_threads();
    use->bytes += bytes;
    use->blocks += live, use->local += local, use->known = known;
    return bad;
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 40, threads = omp_get_max_threads();
    if (rounds < 1) return fprintf(stderr, "thread_arenas: %s rounds: from 1\n", argv[1]), 2;
    block *windows = calloc((size_t)threads * WINDOW, sizeof *windows);
    if (windows == NULL) return fprintf(stderr, "thread_arenas: no memory\n"), 1;
    allocator both[] = {{.name = "malloc", .get = malloc, .put = free},
                        {.name = "numalloc", .get = get_numalloc, .put = numalloc_free}};
    size_t bad = 0;
    for (int k = 0; k < 2 * TURNS; k++) bad += turn(&both[k % 2], windows, rounds, k % 2);

    for (int k = 0; k < 2; k++) {
        allocator *one = &both[k];
        printf("%-8s %7.2f M blocks/s, %6.2f GB/s, ", one->name, 1e-6 * one->operations / one->seconds,
               1e-9 * one->bytes / one->seconds);
        if (one->known)
            printf("%.1f %% of %zu live blocks on the node of their thread\n",
                   100.0 * (double)one->local / (double)one->blocks, one->blocks);
        else printf("placement unknown\n");
    }
    free(windows);
    printf("thread_arenas %s: %d threads, %d node(s), %zu blocks damaged or misplaced\n", bad ? "FAILED" : "ok",
           threads, numalloc_node_count(), bad);
    return bad ? 1 : 0;
}
