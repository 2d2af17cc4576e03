/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thread_buffers: every OpenMP thread has a buffer of its own from numalloc() inside the parallel region, on the
 * node it runs on; the loop's work is shared by schedule(static).
 *
 *   gcc -O2 -fopenmp thread_buffers.c -o thread_buffers $(pkg-config --cflags --libs numalloc)
 *   OMP_PROC_BIND=spread OMP_PLACES=cores ./thread_buffers
 *
 * Exit 1 if the result is wrong or a page is on another node than its thread.
 */
#include <numa_alloc.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

enum { N = 1 << 20, ROWS = 64 };

int main(void) {
    static double result[ROWS];
    int good = 1;
    double begin = omp_get_wtime();

#pragma omp parallel reduction(&& : good)
    {
        /* The node first: a thread that moves between the two lines is told apart from wrong memory. */
        int node = numalloc_current_node();
        double *buffer = numalloc(N * sizeof(double));
        if (buffer == NULL) {
            fprintf(stderr, "thread %d: no memory\n", omp_get_thread_num());
            good = 0;
        }

#pragma omp for schedule(static)
        for (int row = 0; row < ROWS; row++) {
            double sum = 0;
            for (int i = 0; buffer != NULL && i < N; i++) buffer[i] = (double)(row + 1) * (i % 8);
            for (int i = 0; buffer != NULL && i < N; i++) sum += buffer[i];
            result[row] = sum;
        }

        static numalloc_page_counts_t counts;
#pragma omp critical
        {
            int home = numalloc_node_of(buffer), error = numalloc_page_nodes(buffer, N * sizeof(double), &counts);
            if (error != 0) {
                printf("thread %d on node %d: home %d, placement unknown: %s\n", omp_get_thread_num(), node, home,
                       strerror(error));
            } else {
                printf("thread %d on node %d: home %d, %zu of %zu pages there\n", omp_get_thread_num(), node, home,
                       home >= 0 ? counts.on_node[home] : 0, counts.pages);
                /* A thread without rows never touches its buffer. */
                good = good && home >= 0 && counts.on_node[home] + counts.untouched == counts.pages;
            }
        }
        numalloc_free(buffer);
    }

    double seconds = omp_get_wtime() - begin;
    for (int row = 0; row < ROWS; row++) good = good && result[row] == (row + 1) * 3.5 * N;
    numalloc_cleanup();
    printf("thread_buffers %s: %d threads, %d rows, %.2f GB/s\n", good ? "ok" : "FAILED", omp_get_max_threads(), ROWS,
           2e-9 * ROWS * N * sizeof(double) / seconds);
    return good ? 0 : 1;
}
