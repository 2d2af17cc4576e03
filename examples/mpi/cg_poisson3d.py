# SPDX-License-Identifier: BSD-3-Clause
"""Poisson's equation in three dimensions by conjugate gradients, without a matrix.

    mpirun -n 2 python cg_poisson3d.py [--size 128] [--tolerance 1e-4] [--no-hpcalloc | --compare]

The lesson: vector updates written as in the textbook, `x += a * p`, make a temporary of the vector's size each time,
and these come back without a page fault. -laplace(u) = f on the unit cube, u = 0 on its faces, by the operator of seven
points; each rank has a slab of planes and swaps one plane with either neighbour in each iteration. Counted are the 8 bytes
of each operand that a ufunc reads or writes, once. Checked (checks.py) against a solution that is exact on the grid, and up
to 20 points against scipy; exit 1 on all ranks if it is wrong.
"""

import math
import sys

import checks
import numpy as np
from mpi4py import MPI

from hpcalloc.bench.solver import Option, Result, Run, main

# The operator 2 + 6 * 3 + 2 operands, two dot products 2 + 1, u and r 5 each, p 2 + 3.
BYTES_PER_POINT = 8 * 40
OPTIONS = {
    "size": Option(128, "interior points in each direction"),
    "tolerance": Option(1e-4, "of the residual", 0),
    "steps": Option(2000, "most iterations"),
}


def swap_halos(comm: MPI.Intracomm, u: np.ndarray) -> None:
    """Fill the first and last plane of `u` with the neighbours' outermost ones."""
    below = comm.rank - 1 if comm.rank > 0 else MPI.PROC_NULL
    above = comm.rank + 1 if comm.rank + 1 < comm.size else MPI.PROC_NULL
    comm.Sendrecv(u[1], below, recvbuf=u[-1], source=above)
    comm.Sendrecv(u[-2], above, recvbuf=u[0], source=below)


def laplace(p: np.ndarray, q: np.ndarray, h: float) -> None:
    """Set q to -laplace(p); `p` has halos, `q` has none."""
    np.multiply(p[1:-1, 1:-1, 1:-1], 6.0, out=q)
    for axis in range(3):
        for shift in (slice(None, -2), slice(2, None)):
            part = [slice(1, -1)] * 3
            part[axis] = shift
            np.subtract(q, p[tuple(part)], out=q)
    np.multiply(q, 1 / h**2, out=q)


def dot(comm: MPI.Intracomm, a: np.ndarray, b: np.ndarray) -> float:
    return comm.allreduce(float(np.einsum("ijk,ijk->", a, b)))


def solve(run: Run) -> Result:
    comm, n, tolerance = run.comm, run.options.size, run.options.tolerance
    if n < comm.size:
        raise SystemExit(f"cg_poisson3d: --size {n} is less than the {comm.size} ranks")
    first, beyond = comm.rank * n // comm.size, (comm.rank + 1) * n // comm.size
    h, t = 1.0 / (n + 1), np.arange(1, n + 1) / (n + 1)
    with run.memory(temporaries=True) as ctx:
        exact, b = checks.poisson_problem(t[first:beyond, None, None], t[:, None], t)
        u, r, q = ctx.zeros(b.shape), ctx.array(b), ctx.empty(b.shape)
        halo = ctx.zeros((beyond - first + 2, n + 2, n + 2))
        p = halo[1:-1, 1:-1, 1:-1]
        p[...] = r
        rr = at_start = dot(comm, r, r)
        step = 0
        for _ in run.steps(range(run.options.steps)):
            step += 1
            swap_halos(comm, halo)
            laplace(halo, q, h)
            alpha = rr / dot(comm, p, q)
            u += alpha * p
            r -= alpha * q
            rr, before = dot(comm, r, r), rr
            if rr <= tolerance**2 * at_start:
                break
            p *= rr / before
            p += r

        p[...] = u  # the residual that really is
        swap_halos(comm, halo)
        laplace(halo, q, h)
        good, what, figures = checks.poisson(comm, n, u, exact, q - b, tolerance, math.sqrt(at_start))
        return run.result(
            good,
            1e-9 * BYTES_PER_POINT * n**3 * step,
            "GB/s",
            f"{n}^3 points, {step} iterations, {what}",
            more={"iterations": step, **figures},
        )


if __name__ == "__main__":
    sys.exit(main(__doc__, OPTIONS, solve))
