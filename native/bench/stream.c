/* SPDX-License-Identifier: BSD-3-Clause
 *
 * stream.c: the STREAM benchmark after its published rules (J. D. McCalpin, www.cs.virginia.edu/stream): four kernels
 * over three arrays of doubles that are malloc'ed and first touched in parallel, each timed as a whole, the first
 * iteration dropped, the best of the others reported, the result compared with what a scalar program gets. Compiled
 * with -O3 -fopenmp and nothing else. What `hpcalloc bench bandwidth` measures itself against.
 *
 *   stream ELEMENTS [ITERATIONS]     OMP_NUM_THREADS, OMP_PLACES, OMP_PROC_BIND as ever; a JSON line; exit 1 if wrong
 */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum { COPY, SCALE, ADD, TRIAD, KERNELS, ITERATIONS_MAX = 200 /* a grows by 15 each */ };
static const char *const names[KERNELS] = {"copy", "scale", "add", "triad"};
static const double bytes_per_element[KERNELS] = {16, 16, 24, 24};
static const double scalar = 3.0;

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* Mean error of an array against the one value it must have, relative. */
static double error_of(const double *x, ptrdiff_t n, double right) {
    double sum = 0;
    for (ptrdiff_t i = 0; i < n; i++) sum += fabs(x[i] - right);
    return sum / (double)n / fabs(right);
}

int main(int argc, char **argv) {
    ptrdiff_t n = argc > 1 ? atol(argv[1]) : 0;
    int iterations = argc > 2 ? atoi(argv[2]) : 10;
    if (n < 1 || iterations < 2 || iterations > ITERATIONS_MAX) {
        fprintf(stderr, "usage: stream ELEMENTS [ITERATIONS, 2 to %d]\n", ITERATIONS_MAX);
        return 2;
    }
    double *restrict a = malloc((size_t)n * sizeof *a), *restrict b = malloc((size_t)n * sizeof *b);
    double *restrict c = malloc((size_t)n * sizeof *c), *times = malloc(sizeof *times * KERNELS * (size_t)iterations);
    if (a == NULL || b == NULL || c == NULL || times == NULL) {
        fprintf(stderr, "stream: no memory for three arrays of %td doubles\n", n);
        return 1;
    }
    int threads = 1;
#pragma omp parallel
    {
#ifdef _OPENMP
#pragma omp single
        threads = omp_get_num_threads();
#endif
#pragma omp for schedule(static)
        for (ptrdiff_t i = 0; i < n; i++) a[i] = 1.0, b[i] = 2.0, c[i] = 0.0;
    }

    for (int k = 0; k < iterations; k++) {
        double start = seconds_now();
#pragma omp parallel for schedule(static)
        for (ptrdiff_t i = 0; i < n; i++) c[i] = a[i];
        times[COPY * iterations + k] = seconds_now() - start;

        start = seconds_now();
#pragma omp parallel for schedule(static)
        for (ptrdiff_t i = 0; i < n; i++) b[i] = scalar * c[i];
        times[SCALE * iterations + k] = seconds_now() - start;

        start = seconds_now();
#pragma omp parallel for schedule(static)
        for (ptrdiff_t i = 0; i < n; i++) c[i] = a[i] + b[i];
        times[ADD * iterations + k] = seconds_now() - start;

        start = seconds_now();
#pragma omp parallel for schedule(static)
        for (ptrdiff_t i = 0; i < n; i++) a[i] = b[i] + scalar * c[i];
        times[TRIAD * iterations + k] = seconds_now() - start;
    }

    double x = 1.0, y = 2.0, z = 0.0;
    for (int k = 0; k < iterations; k++) {
        z = x;
        y = scalar * z;
        z = x + y;
        x = y + scalar * z;
    }
    double error = fmax(error_of(a, n, x), fmax(error_of(b, n, y), error_of(c, n, z)));
    int good = error < 1e-13;

    printf("{\"elements\": %td, \"threads\": %d, \"iterations\": %d, \"error\": %.1e", n, threads, iterations, error);
    for (int kernel = 0; kernel < KERNELS; kernel++) {
        double *mine = times + kernel * iterations + 1; /* the first is dropped */
        qsort(mine, (size_t)iterations - 1, sizeof *mine, ascending);
        double gigabytes = 1e-9 * bytes_per_element[kernel] * (double)n;
        printf(", \"%s\": {\"best_gb_s\": %.6g, \"median_gb_s\": %.6g}", names[kernel], gigabytes / mine[0],
               gigabytes / mine[(iterations - 1) / 2]);
    }
    printf(", \"good\": %s}\n", good ? "true" : "false");
    free(a), free(b), free(c), free(times);
    return good ? 0 : 1;
}
