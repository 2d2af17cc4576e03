/* SPDX-License-Identifier: BSD-3-Clause
 *
 * 2-D heat equation in C++ with OpenMP threads: std::vector whose memory is split over the nodes.
 *
 *     OMP_NUM_THREADS=8 OMP_PROC_BIND=close OMP_PLACES=cores ./heat2d_cpp [points along an edge] [sweeps]
 *
 * Threads get the rows in contiguous parts, in order (schedule(static)), and so do the nodes (blocked): each thread's rows are
 * on its node, although the constructor of the vector writes them all with one thread. With std::vector alone all pages
 * would be on that thread's node.
 *
 * u(0) = sin(pi x) sin(pi y) is an eigenvector of the sweep (the mean of four neighbours), which shrinks it by cos(pi h).
 * The result is checked against that; exit 1 if it is wrong.
 */
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <numa_alloc.hpp>

using grid = std::vector<double, numa_alloc::allocator<double>>;

static void sweep(const grid &u, grid &next, std::size_t n) {
    const std::size_t row = n + 2;
#pragma omp parallel for schedule(static)
    for (std::size_t i = 1; i <= n; i++)
        for (std::size_t at = i * row + 1; at <= i * row + n; at++)
            next[at] = 0.25 * (u[at - row] + u[at + row] + u[at - 1] + u[at + 1]);
}

static void print_pages(const grid &u) {
    static numalloc_page_counts_t counts;
    int error = numalloc_page_nodes(u.data(), u.size() * sizeof(double), &counts);
    if (error != 0) std::printf("placement unknown (errno %d)\n", error);
    for (int node = 0; error == 0 && node < NUMALLOC_MAX_NODES; node++)
        if (counts.on_node[node] != 0)
            std::printf("node %d: %zu of %zu pages\n", node, counts.on_node[node], counts.pages);
}

int main(int argc, char **argv) {
    const long points = argc > 1 ? std::atol(argv[1]) : 1024, sweeps = argc > 2 ? std::atol(argv[2]) : 100;
    if (points < 1 || points > 100000 || sweeps < 1) {
        std::fprintf(stderr, "heat2d_cpp: points are 1 to 100000 and sweeps at least 1\n");
        return 2;
    }
    const std::size_t n = static_cast<std::size_t>(points), row = n + 2;
    const double step = std::acos(-1.0) / static_cast<double>(n + 1);
    grid u(row * row, 0.0, numa_alloc::blocked()), next(u); /* a copy has the same placement */
    for (std::size_t i = 1; i <= n; i++)
        for (std::size_t j = 1; j <= n; j++)
            u[i * row + j] = std::sin(step * static_cast<double>(i)) * std::sin(step * static_cast<double>(j));
    const grid start(u);

    const auto began = std::chrono::steady_clock::now();
    for (long s = 0; s < sweeps; s++) {
        sweep(u, next, n);
        swap(u, next); /* memory and placement */
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;

    const double shrunk = std::pow(std::cos(step), static_cast<double>(sweeps));
    double worst = 0;
    for (std::size_t at = 0; at < u.size(); at++) worst = std::max(worst, std::fabs(u[at] - shrunk * start[at]));
    const bool good = worst <= 1e-14 * static_cast<double>(sweeps + 10);
    print_pages(u);
    std::printf("heat2d_cpp %s: %zu x %zu points, %ld sweeps in %.3f s, max error %.1e\n", good ? "ok" : "FAILED", n, n,
                sweeps, took.count(), worst);
    return good ? 0 : 1;
}
