/* SPDX-License-Identifier: BSD-3-Clause
 *
 * hybrid: MPI between NUMA nodes, OpenMP inside them; with fewer ranks than nodes a team for each node of the rank
 * (nested).
 *
 *   mpicc -O3 -fopenmp hybrid.c -o hybrid $(pkg-config --cflags --libs numalloc)
 *   OMP_NUM_THREADS=2 mpirun --bind-to none -n 2 ./hybrid [MIB per array]
 *
 * The ranks of a host share its nodes: rank r of R has the nodes from r*N/R to (r+1)*N/R, or with more ranks than
 * nodes one of them. OMP_NUM_THREADS counts the threads of a rank. An outer team has one thread for each node; it binds
 * itself there, allocates there, and leads an inner team whose threads bind themselves to the same node. Only the main
 * thread calls MPI (MPI_THREAD_FUNNELED).
 *
 * The triad's GB/s counts 24 bytes an element. Exit 1 if a result is wrong or a page is not on its team's node.
 */
#include <mpi.h>
#include <numa_alloc.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "pages.h"

enum { STEPS = 10 };
static const double scalar = 3.0;

/* A node's team: allocates, computes, checks; its best rate in GB/s, 0 if something is wrong. */
static double node_team(int node, ptrdiff_t n, int threads, char *pages, size_t capacity) {
    size_t bytes = (size_t)n * sizeof(double);
    int error = numalloc_bind_thread(node), wrong = 0;
    if (error != 0) fprintf(stderr, "hybrid: not bound to node %d: %s\n", node, strerror(error));
    double *a = numalloc_onnode(bytes, node), *b = numalloc_onnode(bytes, node), *c = numalloc_onnode(bytes, node);
    double begin = 0, best = 1e30;
    if (a == NULL || b == NULL || c == NULL) {
        snprintf(pages, capacity, "no memory");
        wrong = 1;
    } else {
#pragma omp parallel num_threads(threads) reduction(+ : wrong)
        {
            numalloc_bind_thread(node); /* an inner thread is new and has its creator's CPUs, or OMP_PLACES' */
#pragma omp for schedule(static)
            for (ptrdiff_t i = 0; i < n; i++) a[i] = -1, b[i] = (double)(i % 1021), c[i] = (double)(i % 509);
            for (int step = 0; step <= STEPS; step++) {
#pragma omp single
                begin = omp_get_wtime();
#pragma omp for schedule(static)
                for (ptrdiff_t i = 0; i < n; i++) a[i] = b[i] + scalar * c[i];
#pragma omp single
                if (step > 0 && omp_get_wtime() - begin < best) best = omp_get_wtime() - begin;
            }
#pragma omp for schedule(static)
            for (ptrdiff_t i = 0; i < n; i++) wrong += a[i] != (double)(i % 1021) + scalar * (double)(i % 509);
        }
        describe_pages(a, bytes, pages, capacity);
        wrong += !pages_are_on(a, bytes, node) + !pages_are_on(b, bytes, node) + !pages_are_on(c, bytes, node);
    }
    numalloc_free(a), numalloc_free(b), numalloc_free(c);
    return wrong ? 0 : 24e-9 * (double)n / best;
}

int main(int argc, char **argv) {
    int level, rank, ranks, local_rank, local_ranks;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Comm host;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    MPI_Comm_rank(host, &local_rank);
    MPI_Comm_size(host, &local_ranks);
    long mib = argc > 1 ? atol(argv[1]) : 16;
    if (level < MPI_THREAD_FUNNELED || mib < 1) {
        if (rank == 0) fprintf(stderr, "hybrid: needs MPI_THREAD_FUNNELED and MIB from 1\n");
        MPI_Finalize();
        return 2;
    }

    static int ids[NUMALLOC_MAX_NODES];
    int nodes = numalloc_node_ids(ids, NUMALLOC_MAX_NODES);
    int first = local_rank * nodes / local_ranks, mine = (local_rank + 1) * nodes / local_ranks - first;
    if (mine < 1) mine = 1; /* more ranks than nodes: first is the node already */
    int threads = omp_get_max_threads() / mine, failed = 0;
    if (threads < 1) threads = 1;
    double sum = 0, total = 0;
    omp_set_max_active_levels(2);

#pragma omp parallel num_threads(mine) reduction(+ : sum, failed)
    {
        char pages[512];
        int node = ids[first + omp_get_thread_num()];
        double rate = node_team(node, mib * (1L << 20) / (long)sizeof(double), threads, pages, sizeof pages);
        printf("rank %d (local %d of %d), team on node %d, %d threads: %.2f GB/s, %s\n", rank, local_rank, local_ranks,
               node, threads, rate, pages);
        failed = rate == 0;
        sum = rate;
    }
    if (omp_get_max_threads() < mine)
        fprintf(stderr, "hybrid: rank %d has %d nodes and OMP_NUM_THREADS=%d\n", rank, mine, omp_get_max_threads());

    int any;
    fflush(stdout);
    MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    MPI_Reduce(&sum, &total, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("hybrid %s: %d ranks x %d threads, %.2f GB/s in sum\n", any ? "FAILED" : "ok", ranks,
               omp_get_max_threads(), total);
    MPI_Comm_free(&host);
    MPI_Finalize();
    return any ? 1 : 0;
}
