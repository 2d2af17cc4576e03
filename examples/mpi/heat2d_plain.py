# SPDX-License-Identifier: BSD-3-Clause
"""2-D heat equation with NumPy and mpi4py: what the other variants of heat2d begin with.

    mpirun -n 2 python heat2d_plain.py [--size 2048] [--steps 200]

Started by ``mpirun -n 2 hpcalloc run python heat2d_plain.py`` its ranks are pinned and their memory is on their nodes,
without a change. With HPCALLOC_REPORT=report.html in front, a report says where the pages were.
The equation and its check are in heat2d_common.py; exit 1 if the result is wrong.
"""

import sys

import numpy as np
from heat2d_common import Heat, main


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
    u, new = np.zeros(heat.shape), np.zeros(heat.shape)
    heat.start(u)
    for _ in heat.sweeps():
        swap_rows(heat, u)
        sweep(u, new)
        u, new = new, u
    return heat.result(u)


if __name__ == "__main__":
    sys.exit(main(__doc__, solve))
