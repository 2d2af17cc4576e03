/* SPDX-License-Identifier: BSD-3-Clause
 *
 * numa_rank: each MPI rank binds itself to a NUMA node by its local rank, allocates there, computes, and shows
 * where its pages are.
 *
 *   mpicc -O2 numa_rank.c -o numa_rank $(pkg-config --cflags --libs numalloc) -lm
 *   mpirun --bind-to none -n 4 ./numa_rank
 *
 * Exit 1 if the result is wrong or a page is on another node.
 */
#include <math.h>
#include <mpi.h>
#include <numa_alloc.h>
#include <stdio.h>
#include <string.h>

enum { N = 4 << 20 /* doubles: 32 MiB */ };

/* "100.0 % of 8192 pages on node 0", or why that can't be told; 0 when a page is known to be elsewhere. */
static int describe_pages(const void *p, size_t bytes, int node, char *text, size_t capacity) {
    static numalloc_page_counts_t counts;
    int error = numalloc_page_nodes(p, bytes, &counts);
    if (error != 0) {
        snprintf(text, capacity, "placement unknown: %s", strerror(error));
        return 1;
    }
    double share = 100.0 * (double)counts.on_node[node] / (double)counts.pages;
    snprintf(text, capacity, "%.1f %% of %zu pages on node %d", share, counts.pages, node);
    return counts.on_node[node] == counts.pages;
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    int rank, ranks, local_rank;
    MPI_Comm host;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    MPI_Comm_rank(host, &local_rank);

    /* Ids may have gaps, and not every node may be ours: ask instead of counting. */
    static int ids[NUMALLOC_MAX_NODES];
    int nodes = numalloc_node_ids(ids, NUMALLOC_MAX_NODES);
    int node = ids[local_rank % nodes];
    int good = 1, error = numalloc_bind_thread(node);
    if (error != 0) fprintf(stderr, "rank %d: not bound to node %d: %s\n", rank, node, strerror(error));

    if ((error = numalloc_init(1UL << 30)) != 0) {
        fprintf(stderr, "rank %d: numalloc_init: %s\n", rank, strerror(error));
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    double *data = numalloc(N * sizeof(double));
    if (data == NULL) {
        fprintf(stderr, "rank %d: no memory for %zu bytes\n", rank, N * sizeof(double));
        MPI_Abort(MPI_COMM_WORLD, 1);
    }

    /* sum of 1/(i+1)^2 over all ranks' parts tends to pi^2/6 */
    double begin = MPI_Wtime(), sum = 0, total = 0;
    for (long i = 0; i < N; i++) {
        double x = (double)(rank + ranks * i + 1);
        data[i] = 1.0 / (x * x);
    }
    for (long i = N - 1; i >= 0; i--) sum += data[i];
    double seconds = MPI_Wtime() - begin;
    MPI_Allreduce(&sum, &total, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    double exact = M_PI * M_PI / 6, rest = 1.0 / ((double)N * ranks); /* the tail is below the integral */
    if (fabs(exact - total) > rest + 1e-12) good = 0;

    char pages[128];
    good &= describe_pages(data, N * sizeof(double), numalloc_node_of(data), pages, sizeof pages);
    printf("rank %d (local %d) on node %d: home %d, %s, %.3f s\n", rank, local_rank, numalloc_current_node(),
           numalloc_node_of(data), pages, seconds);

    numalloc_free(data);
    numalloc_cleanup();
    int all_good;
    MPI_Allreduce(&good, &all_good, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (rank == 0)
        printf("numa_rank %s: %d ranks, sum %.9f, error %.1e\n", all_good ? "ok" : "FAILED", ranks, total,
               exact - total);
    MPI_Comm_free(&host);
    MPI_Finalize();
    return all_good ? 0 : 1;
}
