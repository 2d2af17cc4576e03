# SPDX-License-Identifier: BSD-3-Clause
"""2-D heat equation with OpenMP threads on several nodes: heat2d.py with blocked arrays and a sweep in C.

    mpirun -n 2 python heat2d_blocked.py [--size 2048] [--steps 200] [--no-hpcalloc | --compare]

The lesson: a rank that has several NUMA nodes cuts its array into one block for each node, as the static schedule cuts the
loop into one part for each thread. Threads that are spread over the nodes (OMP_PROC_BIND=spread OMP_PLACES=cores) then read
and write memory of their own node. ``hpcalloc.interleave()`` instead deals pages in turn: for loops without a fixed part
per thread. ``--compare`` runs the same sweep on NumPy's memory, which the first thread touches.
The equation and its check are in heat2d_common.py; exit 1 if the result is wrong.
"""

import ctypes
import subprocess
import sys
import tempfile
from functools import cache

import numpy as np
from heat2d_common import Heat, main
from heat2d_plain import swap_rows
from mpi4py import MPI

import hpcalloc

KERNEL = """
void sweep(const double *restrict u, double *restrict new, long rows, long columns) {
#pragma omp parallel for schedule(static)
    for (long i = 1; i < rows - 1; i++)
        for (long k = i * columns + 1; k < (i + 1) * columns - 1; k++)
            new[k] = 0.25 * (u[k - columns] + u[k + columns] + u[k - 1] + u[k + 1]);
}
"""


@cache
def compiled() -> ctypes.CDLL:
    """The kernel as a loaded library; a package would build it once."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["cc", "-O3", "-fopenmp", "-shared", "-fPIC", "-x", "c", "-", "-o", f"{folder}/sweep.so"]
        subprocess.run(command, input=KERNEL, text=True, check=True)
        return ctypes.CDLL(f"{folder}/sweep.so")


def iterate(heat: Heat, u: np.ndarray, new: np.ndarray) -> np.ndarray:
    heat.start(u)
    at = {id(a): a.ctypes.data_as(ctypes.c_void_p) for a in (u, new)}
    for _ in heat.sweeps():
        swap_rows(heat, u)
        compiled().sweep(at[id(u)], at[id(new)], *map(ctypes.c_long, heat.shape))
        u, new = new, u
    return u


def solve(heat: Heat) -> dict:
    with hpcalloc.init(MPI.COMM_WORLD) as ctx:
        policy = hpcalloc.blocked(axis=0, nodes=ctx.nodes)
        u, new = ctx.zeros(heat.shape, policy=policy), ctx.zeros(heat.shape, policy=policy)
        return heat.result(iterate(heat, u, new), ctx)


def plain(heat: Heat) -> dict:
    return heat.result(iterate(heat, np.zeros(heat.shape), np.zeros(heat.shape)))


if __name__ == "__main__":
    sys.exit(main(__doc__, solve, plain))
