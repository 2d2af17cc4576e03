# SPDX-License-Identifier: BSD-3-Clause
"""An OpenMP kernel in C, called from Python through cffi on blocked arrays.

    OMP_PROC_BIND=spread OMP_PLACES=cores python cffi_triad.py [--size 8000000] [--steps 10]

The kernel is compiled by ``cc -O3 -fopenmp`` into a folder that is deleted at the end; a package would build it once,
in cffi's API mode. ``hpcalloc.blocked()`` deals the array's pages over the NUMA nodes in equal parts, as the static
schedule deals the loop over the threads, so threads that are spread over the nodes read and write their own.

GB/s counts 24 bytes an element, as STREAM does. Every element is checked; exit 1 if one is wrong or a page is not in its
part.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import cffi
import numpy as np

import hpcalloc

KERNEL = """
#include <stddef.h>
#include <omp.h>
int threads(void) { return omp_get_max_threads(); }
void triad(double *restrict a, const double *restrict b, const double *restrict c, double s, ptrdiff_t n) {
#pragma omp parallel for schedule(static)
    for (ptrdiff_t i = 0; i < n; i++) a[i] = b[i] + s * c[i];
}
"""
SCALAR = 3.0


def compiled(folder: str, ffi: cffi.FFI) -> object:
    """The kernel as a loaded library."""
    source, library = pathlib.Path(folder, "triad.c"), pathlib.Path(folder, "libtriad.so")
    source.write_text(KERNEL)
    subprocess.run(["cc", "-O3", "-fopenmp", "-shared", "-fPIC", source, "-o", library], check=True)
    ffi.cdef(
        "int threads(void); void triad(double *a, const double *b, const double *c, double s, ptrdiff_t n);"
    )
    return ffi.dlopen(str(library))


def parts_are_placed(a: np.ndarray) -> bool:
    """Whether each node has its part; the page at a boundary may be its neighbour's."""
    nodes = hpcalloc.placement(a).home_nodes
    page = 4096 // a.itemsize
    for k, node in enumerate(nodes):
        part = a[a.size * k // len(nodes) + page : a.size * (k + 1) // len(nodes) - page]
        where = hpcalloc.placement(part, local_nodes=[node])
        if not where.unknown and where.local_fraction not in (None, 1.0):
            return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=8_000_000, help="elements")
    parser.add_argument("--steps", type=int, default=10, help="repetitions; the first is not counted")
    chosen = parser.parse_args()
    if chosen.size < 1 or chosen.steps < 2:
        parser.error("--size takes numbers from 1, --steps from 2")
    n, ffi = chosen.size, cffi.FFI()
    a, b, c = (hpcalloc.zeros(n, policy=hpcalloc.blocked()) for _ in range(3))
    index = np.arange(n)
    np.copyto(b, index % 1021)
    np.copyto(c, index % 509)
    with tempfile.TemporaryDirectory() as folder:
        kernel = compiled(folder, ffi)
        pointers = [ffi.cast("double *", x.ctypes.data) for x in (a, b, c)]
        times = []
        for _ in range(chosen.steps):
            begin = time.perf_counter()
            kernel.triad(*pointers, SCALAR, n)  # without the GIL
            times.append(time.perf_counter() - begin)
        threads = kernel.threads()
    good = np.array_equal(a, b + SCALAR * c) and parts_are_placed(a)
    print(f"a: {hpcalloc.placement(a)}")
    rate = 24e-9 * n / min(times[1:])
    print(f"cffi_triad {'ok' if good else 'FAILED'}: {threads} threads, {n} elements, {rate:.2f} GB/s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
