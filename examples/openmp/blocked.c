/* SPDX-License-Identifier: BSD-3-Clause
 *
 * blocked: a heat equation on one grid whose rows are dealt over the NUMA nodes, each part swept by its node's threads.
 *
 *   gcc -O3 -fopenmp blocked.c -o blocked $(pkg-config --cflags --libs numalloc) -lm
 *   ./blocked [ROWS] [SWEEPS]
 *
 * numalloc_blocked() splits the array into one part per node. Thread t of T binds itself to node t*N/T, so the static
 * schedule, which deals rows in the same order, gives every thread rows of its own node; only the rows at a boundary
 * are read across. The main thread initialises everything: placement does not depend on it.
 *
 * With u(0) = sin(pi x) sin(pi y) each sweep of Jacobi's method shrinks u by cos(pi h), against which the result is
 * checked. GB/s counts 16 bytes a point and sweep. Exit 1 if it is wrong or pages are not in equal parts on the nodes.
 */
#include <math.h>
#include <numa_alloc.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "pages.h"

static void bind_by_turns(const int *ids, int nodes) {
#pragma omp parallel
    {
        int node = ids[omp_get_thread_num() * nodes / omp_get_num_threads()], error = numalloc_bind_thread(node);
        if (error != 0)
            fprintf(stderr, "thread %d is not bound to node %d: %s\n", omp_get_thread_num(), node, strerror(error));
    }
}

static void sweep(const double *restrict u, double *restrict new, long n) {
    long width = n + 2;
#pragma omp parallel for schedule(static)
    for (long i = 1; i <= n; i++)
        for (long j = 1; j <= n; j++) {
            const double *at = u + i * width + j;
            new[i * width + j] = 0.25 * (at[-width] + at[width] + at[-1] + at[1]);
        }
}

int main(int argc, char **argv) {
    long n = argc > 1 ? atol(argv[1]) : 1022, sweeps = argc > 2 ? atol(argv[2]) : 100, width = n + 2;
    if (n < 1 || n > 1000000 || sweeps < 1) return fprintf(stderr, "usage: blocked [ROWS] [SWEEPS], both from 1\n"), 2;
    static int ids[NUMALLOC_MAX_NODES];
    int nodes = numalloc_node_ids(ids, NUMALLOC_MAX_NODES), good = 1;
    size_t bytes = (size_t)(width * width) * sizeof(double);
    double *u = numalloc_blocked(bytes, NULL), *new = numalloc_blocked(bytes, NULL);
    if (u == NULL || new == NULL) return perror("blocked: numalloc_blocked"), 1;
    const double pi = acos(-1.0), h = 1.0 / (double)(n + 1);
    bind_by_turns(ids, nodes);

    for (long i = 0; i < width; i++)
        for (long j = 0; j < width; j++) {
            u[i * width + j] =
                i % (n + 1) == 0 || j % (n + 1) == 0 ? 0.0 : sin(pi * h * (double)i) * sin(pi * h * (double)j);
            new[i * width + j] = 0.0;
        }
    double begin = omp_get_wtime();
    for (long k = 0; k < sweeps; k++) {
        sweep(u, new, n);
        double *swap = u;
        u = new, new = swap;
    }
    double seconds = omp_get_wtime() - begin, error = 0, factor = pow(cos(pi * h), (double)sweeps);
    for (long i = 0; i < width; i++)
        for (long j = 0; j < width; j++) {
            double right =
                i % (n + 1) == 0 || j % (n + 1) == 0 ? 0.0 : factor * sin(pi * h * (double)i) * sin(pi * h * (double)j);
            error = fmax(error, fabs(u[i * width + j] - right));
        }
    good &= error < 1e-14 * (double)(sweeps + 10);

    char pages[512];
    describe_pages(u, bytes, pages, sizeof pages);
    for (int k = 0; k < nodes; k++) {
        size_t page = 4096, first = bytes * (size_t)k / (size_t)nodes + page,
               last = bytes * ((size_t)k + 1) / (size_t)nodes;
        if (first + page < last) good &= pages_are_on((char *)u + first, last - page - first, ids[k]);
    }
    printf("%ld x %ld points, %ld sweeps in %.3f s, %.2f GB/s: %s\n", n, n, sweeps, seconds,
           16e-9 * (double)(n * n) * (double)sweeps / seconds, pages);
    printf("blocked %s: %d threads, %d node(s), max error %.1e\n", good ? "ok" : "FAILED", omp_get_max_threads(), nodes,
           error);
    numalloc_free(u), numalloc_free(new);
    return good ? 0 : 1;
}
