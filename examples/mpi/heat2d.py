# SPDX-License-Identifier: BSD-3-Clause
"""2-D heat equation on pinned ranks with node-local arrays: heat2d_plain.py with a context.

    mpirun -n 2 python heat2d.py [--size 2048] [--steps 200] [--no-hpcalloc | --compare]

The lesson: ``hpcalloc.init`` pins the rank, and ``ctx.zeros`` puts an array on the rank's node, whichever thread touches
it first. Three lines differ from heat2d_plain.py, with which ``--compare`` compares.
The equation and its check are in heat2d_common.py; exit 1 if the result is wrong.
"""

import sys

import heat2d_plain
import numpy as np
from heat2d_common import Heat, main
from mpi4py import MPI

import hpcalloc


def swap_rows(heat: Heat, u: np.ndarray) -> None:
    """Fill the halo rows of `u` with the neighbours' edges."""
    heat.line.Sendrecv(u[1], heat.below, recvbuf=u[-1], source=heat.above)
    heat.line.Sendrecv(u[-2], heat.above, recvbuf=u[0], source=heat.below)


def sweep(u: np.ndarray, new: np.ndarray) -> None:
    """One Jacobi sweep over the interior, in place: no temporaries."""
    inside = new[1:-1, 1:-1]
    np.add(u[:-2, 1:-1], u[2:, 1:-1], out=inside)
    np.add(inside, u[1:-1, :-2], out=inside)
    np.add(inside, u[1:-1, 2:], out=inside)
    np.multiply(inside, 0.25, out=inside)


def solve(heat: Heat) -> dict:
    with hpcalloc.init(MPI.COMM_WORLD) as ctx:
        u, new = ctx.zeros(heat.shape), ctx.zeros(heat.shape)
        heat.start(u)
        for _ in heat.sweeps():
            swap_rows(heat, u)
            sweep(u, new)
            u, new = new, u
        return heat.result(u, ctx)


if __name__ == "__main__":
    sys.exit(main(__doc__, solve, heat2d_plain.solve))
