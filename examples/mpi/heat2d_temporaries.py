# SPDX-License-Identifier: BSD-3-Clause
"""2-D heat equation written as on paper: heat2d.py with temporaries, which hpcalloc serves.

    mpirun -n 2 python heat2d_temporaries.py [--size 2048] [--steps 200] [--no-hpcalloc | --compare]

The lesson: an expression makes arrays that nobody names. NumPy returns large ones to the kernel and has them faulted in
again in each sweep. ``ctx.install_numpy_allocator()`` serves all of NumPy's arrays, so the next temporary gets the memory
of the last one, on the rank's node and without a page fault. ``--compare`` counts the faults.
The equation and its check are in heat2d_common.py; exit 1 if the result is wrong.
"""

import sys

import numpy as np
from heat2d_common import Heat, main
from mpi4py import MPI

import hpcalloc


def swap_rows(heat: Heat, u: np.ndarray) -> None:
    """Fill the halo rows of `u` with the neighbours' edges."""
    heat.line.Sendrecv(u[1], heat.below, recvbuf=u[-1], source=heat.above)
    heat.line.Sendrecv(u[-2], heat.above, recvbuf=u[0], source=heat.below)


def sweep(u: np.ndarray) -> None:
    """One Jacobi sweep over the interior; each operation makes an array."""
    u[1:-1, 1:-1] = 0.25 * ((u[:-2, 1:-1] + u[2:, 1:-1]) + (u[1:-1, :-2] + u[1:-1, 2:]))


def iterate(heat: Heat) -> np.ndarray:
    u = np.zeros(heat.shape)
    heat.start(u)
    for _ in heat.sweeps():
        swap_rows(heat, u)
        sweep(u)
    return u


def solve(heat: Heat) -> dict:
    with hpcalloc.init(MPI.COMM_WORLD) as ctx:
        ctx.install_numpy_allocator()
        u = iterate(heat)
        return heat.result(u, ctx)


def plain(heat: Heat) -> dict:
    return heat.result(iterate(heat))


if __name__ == "__main__":
    sys.exit(main(__doc__, solve, plain))
