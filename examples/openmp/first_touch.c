/* SPDX-License-Identifier: BSD-3-Clause
 *
 * first_touch: the same triad on arrays that were initialised wrong, right, and by policy.
 *
 *   gcc -O3 -fopenmp first_touch.c -o first_touch $(pkg-config --cflags --libs numalloc)
 *   OMP_PROC_BIND=spread OMP_PLACES=cores ./first_touch [MIB per array]
 *
 * A page of malloc'ed memory comes to the node of the thread that writes it first. When the main thread initialises, all
 * pages are on its node and every other node's threads compute on remote memory (wrong). When the threads initialise
 * with the schedule of the loop that computes, each has its part (right). numalloc_blocked places the parts by policy,
 * whoever initialises. On one NUMA node the three are the same.
 *
 * GB/s counts 24 bytes an element, as STREAM does. Exit 1 if a result is wrong or a page is not where policy put it.
 */
#include <numa_alloc.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "pages.h"

enum { STEPS = 10, ARRAYS = 3 };
static const double scalar = 3.0;

static void set(double *a, double *b, double *c, ptrdiff_t i) {
    a[i] = -1;
    b[i] = (double)(i % 1021);
    c[i] = (double)(i % 509);
}

/* Each thread's share of its own part that is on its node, in percent, mean over the threads; -1 unknown. */
static double local_percent(const double *a, ptrdiff_t n) {
    double sum = 0;
    int known = 1;
#pragma omp parallel reduction(+ : sum) reduction(&& : known)
    {
        ptrdiff_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        ptrdiff_t first = n * thread / threads, last = n * (thread + 1) / threads;
        double share = share_on(a + first, (size_t)(last - first) * sizeof *a, numalloc_current_node());
        known = share >= 0;
        sum = share / (double)threads;
    }
    return known ? 100 * sum : -1;
}

static int run(const char *name, double *array[ARRAYS], ptrdiff_t n, int by_main_thread) {
    double *a = array[0], *b = array[1], *c = array[2], best = 1e30;
    if (by_main_thread) {
        for (ptrdiff_t i = 0; i < n; i++) set(a, b, c, i);
    } else {
#pragma omp parallel for schedule(static)
        for (ptrdiff_t i = 0; i < n; i++) set(a, b, c, i);
    }

    for (int step = 0; step <= STEPS; step++) {
        double begin = omp_get_wtime();
#pragma omp parallel for schedule(static)
        for (ptrdiff_t i = 0; i < n; i++) a[i] = b[i] + scalar * c[i];
        double seconds = omp_get_wtime() - begin;
        if (step > 0 && seconds < best) best = seconds; /* the first is not counted */
    }

    ptrdiff_t wrong = 0;
#pragma omp parallel for schedule(static) reduction(+ : wrong)
    for (ptrdiff_t i = 0; i < n; i++) wrong += a[i] != (double)(i % 1021) + scalar * (double)(i % 509);

    char pages[512];
    describe_pages(a, (size_t)n * sizeof *a, pages, sizeof pages);
    printf("%-28s %7.2f GB/s, %5.1f %% local to its thread: %s%s\n", name, 24e-9 * (double)n / best,
           local_percent(a, n), pages, wrong ? ", WRONG" : "");
    return wrong == 0;
}

int main(int argc, char **argv) {
    long mib = argc > 1 ? atol(argv[1]) : 32;
    ptrdiff_t n = mib * (1L << 20) / (long)sizeof(double);
    double *array[ARRAYS];
    size_t bytes = (size_t)n * sizeof(double);
    int good = 1;
    if (mib < 1) {
        fprintf(stderr, "first_touch: %s MiB: from 1\n", argv[1]);
        return 2;
    }

    for (int by_main_thread = 1; by_main_thread >= 0; by_main_thread--) {
        for (int k = 0; k < ARRAYS; k++)
            if ((array[k] = malloc(bytes)) == NULL) return fprintf(stderr, "first_touch: no memory\n"), 1;
        good &=
            run(by_main_thread ? "wrong: malloc, main thread" : "right: malloc, own thread", array, n, by_main_thread);
        for (int k = 0; k < ARRAYS; k++) free(array[k]);
    }

    for (int k = 0; k < ARRAYS; k++)
        if ((array[k] = numalloc_blocked(bytes, NULL)) == NULL) return perror("first_touch: numalloc_blocked"), 1;
    good &= run("policy: blocked, main thread", array, n, 1);
    static int ids[NUMALLOC_MAX_NODES];
    size_t nodes = (size_t)numalloc_node_ids(ids, NUMALLOC_MAX_NODES), page = 4096;
    for (size_t k = 0; k < nodes; k++) { /* a page at each boundary may be the neighbour's */
        size_t first = bytes * k / nodes + page, last = bytes * (k + 1) / nodes - page;
        good &= pages_are_on((char *)array[0] + first, last - first, ids[k]);
    }
    for (int k = 0; k < ARRAYS; k++) numalloc_free(array[k]);

    printf("first_touch %s: %d threads, %zu node(s)\n", good ? "ok" : "FAILED", omp_get_max_threads(), nodes);
    return good ? 0 : 1;
}
