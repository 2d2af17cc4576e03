# SPDX-License-Identifier: BSD-3-Clause
"""Numba's prange on blocked arrays.

    NUMBA_THREADING_LAYER=omp OMP_PROC_BIND=spread OMP_PLACES=cores python numba_triad.py [--size 8000000] [--steps 10]

``prange`` deals the loop over the threads in contiguous parts, and ``hpcalloc.blocked()`` the pages over the NUMA nodes
in the same order. With Numba's OpenMP layer the variables of OpenMP bind the threads; its other layers leave them free
to wander between the nodes.

GB/s counts 24 bytes an element, as STREAM does. Every element is checked; exit 1 if one is wrong or a page is not in its
part.
"""

import argparse
import sys
import time

import numpy as np

import hpcalloc

try:
    import numba
except ImportError:
    sys.exit("numba_triad: Numba is missing; pip install numba")

SCALAR = 3.0


@numba.njit(parallel=True)
def triad(a: np.ndarray, b: np.ndarray, c: np.ndarray, s: float) -> None:
    for i in numba.prange(a.size):
        a[i] = b[i] + s * c[i]


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
    n = chosen.size
    a, b, c = (hpcalloc.zeros(n, policy=hpcalloc.blocked()) for _ in range(3))
    index = np.arange(n)
    np.copyto(b, index % 1021)
    np.copyto(c, index % 509)
    times = []
    for _ in range(chosen.steps):
        begin = time.perf_counter()
        triad(a, b, c, SCALAR)  # the first compiles, too
        times.append(time.perf_counter() - begin)
    good = np.array_equal(a, b + SCALAR * c) and parts_are_placed(a)
    print(f"a: {hpcalloc.placement(a)}")
    threads = f"{numba.get_num_threads()} threads of layer {numba.threading_layer()}"
    rate = 24e-9 * n / min(times[1:])
    print(f"numba_triad {'ok' if good else 'FAILED'}: {threads}, {n} elements, {rate:.2f} GB/s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
