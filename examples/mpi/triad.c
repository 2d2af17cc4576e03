/* SPDX-License-Identifier: BSD-3-Clause
 *
 * triad: STREAM's triad on all ranks at once, each on its own node's memory and, where there is another node, on remote
 * memory on purpose.
 *
 *   mpicc -O3 triad.c -o triad $(pkg-config --cflags --libs numalloc)
 *   mpirun --bind-to none -n 2 ./triad [MIB per array]
 *
 * Every step begins at a barrier; the sum is all ranks' bytes over the slowest rank's time, 24 bytes an element. Exit 1
 * if a result is wrong or a page is not on the node that was asked for.
 */
#include <mpi.h>
#include <numa_alloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 10 };
static const double scalar = 3.0;

/* 1: all pages of p are on `node`, or the kernel does not tell. */
static int is_on(const void *p, size_t bytes, int node, size_t *pages) {
    static numalloc_page_counts_t counts;
    if (numalloc_page_nodes(p, bytes, &counts) != 0) return 1;
    *pages += counts.on_node[node];
    return counts.on_node[node] == counts.pages;
}

/* The triad on `node`'s memory: best rate of this rank, and *sum that of all ranks; 0 if something is wrong. */
static double triad(int node, size_t n, size_t *pages, double *sum) {
    size_t bytes = n * sizeof(double), wrong = 0;
    int ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    double *a = numalloc_onnode(bytes, node), *b = numalloc_onnode(bytes, node), *c = numalloc_onnode(bytes, node);
    if (a == NULL || b == NULL || c == NULL) {
        perror("triad: numalloc_onnode");
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    for (size_t i = 0; i < n; i++) a[i] = -1, b[i] = (double)(i % 1021), c[i] = (double)(i % 509);
    double best = 1e30, best_of_slowest = 1e30;
    for (int step = 0; step <= STEPS; step++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double begin = MPI_Wtime();
        for (size_t i = 0; i < n; i++) a[i] = b[i] + scalar * c[i];
        double seconds = MPI_Wtime() - begin, slowest;
        MPI_Allreduce(&seconds, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        if (step == 0) continue; /* not counted */
        if (seconds < best) best = seconds;
        if (slowest < best_of_slowest) best_of_slowest = slowest;
    }
    for (size_t i = 0; i < n; i++) wrong += a[i] != (double)(i % 1021) + scalar * (double)(i % 509);
    int there = is_on(a, bytes, node, pages) & is_on(b, bytes, node, pages) & is_on(c, bytes, node, pages);
    numalloc_free(a), numalloc_free(b), numalloc_free(c);
    *sum = 24e-9 * (double)n * ranks / best_of_slowest;
    return wrong == 0 && there ? 24e-9 * (double)n / best : 0;
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    int rank, ranks, local_rank;
    MPI_Comm host;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    MPI_Comm_rank(host, &local_rank);
    MPI_Comm_free(&host);
    long mib = argc > 1 ? atol(argv[1]) : 16;
    if (mib < 1) {
        if (rank == 0) fprintf(stderr, "triad: %s MiB: from 1\n", argv[1]);
        MPI_Finalize();
        return 2;
    }

    static int ids[NUMALLOC_MAX_NODES];
    int nodes = numalloc_node_ids(ids, NUMALLOC_MAX_NODES), good = 1;
    int error = numalloc_bind_thread(ids[local_rank % nodes]);
    if (error != 0) fprintf(stderr, "rank %d: not bound: %s\n", rank, strerror(error));
    double sums[2] = {0, 0};
    int several; /* all ranks take part in the remote round or none */
    MPI_Allreduce(&nodes, &several, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    for (int remote = 0; remote <= (several > 1); remote++) {
        int node = ids[(local_rank + remote * (nodes / 2)) % nodes];
        size_t pages = 0;
        double rate = triad(node, (size_t)mib * (1UL << 20) / sizeof(double), &pages, &sums[remote]);
        good &= rate > 0;
        printf("rank %d on node %d, %s memory: %.2f GB/s, %zu pages on node %d\n", rank, numalloc_current_node(),
               remote ? "remote" : "local", rate, pages, node);
    }
    fflush(stdout);
    int all_good;
    MPI_Allreduce(&good, &all_good, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (rank == 0) {
        printf("triad %s: %d ranks, %.2f GB/s in sum on local memory", all_good ? "ok" : "FAILED", ranks, sums[0]);
        if (several > 1) printf(", %.2f on remote\n", sums[1]);
        else printf("; 1 NUMA node: no remote memory to compare with\n");
    }
    MPI_Finalize();
    return all_good ? 0 : 1;
}
