# SPDX-License-Identifier: BSD-3-Clause
"""Poisson's equation in three dimensions by conjugate gradients, without a matrix.

    mpirun -n 2 python cg_poisson3d.py [--size 128] [--tolerance 1e-4] [--no-hpcalloc | --compare]

-laplace(u) = f on the unit cube, u = 0 on its faces, by the operator of seven points. Each rank has a slab of planes
and swaps one plane with either neighbour in each iteration. The vector updates are written as one writes them in
NumPy, `x += alpha * p`, which makes a temporary of the vector's size each time.

Second differences of a cubic are exact, so u = (x - x**3) (y - y**2) (z - z**3) solves the equations of the grid too,
and the error is bounded by the residual over the operator's least eigenvalue. Checked against that; up to 20 points
also against scipy's direct solver, where scipy is installed. Exit 1 on all ranks if it is wrong.

Counted are the 8 bytes of each operand that a ufunc reads or writes, once: 320 a point and iteration.
"""

import argparse
import math
import sys
import time
from contextlib import nullcontext

import numpy as np
from mpi4py import MPI

import hpcalloc
from hpcalloc.bench import solver

# The operator 2 + 6 * 3 + 2 operands, two dot products 2 + 1, u and r 5 each, p 2 + 3.
BYTES_PER_POINT = 8 * 40


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", type=solver.at_least(1), default=128, help="interior points in each direction"
    )
    parser.add_argument("--tolerance", type=solver.at_least(0, float), default=1e-4, help="of the residual")
    parser.add_argument("--steps", type=solver.at_least(1), default=2000, help="most iterations")


def problem(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The solution u and the right side f at these points."""
    u_z, u_y, u_x = z - z**3, y - y**2, x - x**3
    return u_z * u_y * u_x, 6 * z * u_y * u_x + u_z * 2 * u_x + u_z * u_y * 6 * x


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


def solve(chosen: argparse.Namespace, track: solver.Track) -> solver.Result:
    comm, n, h = MPI.COMM_WORLD, chosen.size, 1.0 / (chosen.size + 1)
    if n < comm.size:
        raise SystemExit(f"cg_poisson3d: --size {n} is less than the {comm.size} ranks")
    mine = range(comm.rank * n // comm.size, (comm.rank + 1) * n // comm.size)

    # All that differs: a context has NumPy's creation functions, and serves temporaries when asked.
    with hpcalloc.init(comm) if chosen.hpcalloc else nullcontext(np) as ctx:
        if chosen.hpcalloc:
            ctx.install_numpy_allocator()
        t = np.arange(1, n + 1) * h
        z, y, x = t[mine.start : mine.stop, None, None], t[:, None], t
        exact, right = problem(z, y, x)
        b = ctx.empty((len(mine), n, n))
        b[...] = right

        comm.Barrier()
        start = time.perf_counter()
        u, r, q = ctx.zeros(b.shape), ctx.empty(b.shape), ctx.empty(b.shape)
        halo = ctx.zeros((len(mine) + 2, n + 2, n + 2))
        p = halo[1:-1, 1:-1, 1:-1]
        r[...] = b
        p[...] = r
        rr = first = dot(comm, r, r)
        step = 0
        for _ in track(range(chosen.steps)):
            step += 1
            swap_halos(comm, halo)
            laplace(halo, q, h)
            alpha = rr / dot(comm, p, q)
            u += alpha * p
            r -= alpha * q
            rr, before = dot(comm, r, r), rr
            if rr <= chosen.tolerance**2 * first:
                break
            p *= rr / before
            p += r
        comm.Barrier()
        seconds = time.perf_counter() - start

        # The residual that really is, and the error that it allows.
        p[...] = u
        swap_halos(comm, halo)
        laplace(halo, q, h)
        q -= b
        residual = math.sqrt(dot(comm, q, q))
        least_eigenvalue = 12 / h**2 * math.sin(math.pi * h / 2) ** 2
        r[...] = u
        r -= exact
        error = math.sqrt(dot(comm, r, r))
        bound = residual / least_eigenvalue + 1e-12 * math.sqrt(n**3)
        converged = residual <= 1.01 * chosen.tolerance * math.sqrt(first) + 1e-12 * math.sqrt(first)
        good, against = converged and error <= bound, ""
        if n <= 20:
            gathered = comm.gather(u)
            if comm.rank == 0:
                distance, against = scipy_distance(np.concatenate(gathered), n, h)
                good = good and distance <= bound
            good, against = comm.bcast((good, against))
        return solver.Result(
            good=good,
            seconds=seconds,
            work=1e-9 * BYTES_PER_POINT * n**3 * step,
            unit="GB/s",
            what=f"{n}^3 points, {step} iterations, residual {residual / math.sqrt(first):.1e}, "
            f"error {error / math.sqrt(n**3):.1e} (bound {bound / math.sqrt(n**3):.1e}{against})",
            report=ctx.report() if chosen.hpcalloc else None,
            more={"iterations": step, "error": error, "bound": bound},
        )


def scipy_distance(u: np.ndarray, n: int, h: float) -> tuple[float, str]:
    """How far `u` is from the solution by scipy's sparse LU factors."""
    try:
        from scipy import sparse
        from scipy.sparse.linalg import spsolve
    except ImportError:
        return 0.0, "; scipy is not installed"
    one, line = sparse.identity(n), sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n)) / h**2
    matrix = sum(
        sparse.kron(sparse.kron(a, b), c)
        for a, b, c in ((line, one, one), (one, line, one), (one, one, line))
    )
    t = np.arange(1, n + 1) * h
    z, y, x = t[:, None, None], t[:, None], t
    direct = spsolve(matrix.tocsc(), problem(z, y, x)[1].ravel())
    distance = float(np.linalg.norm(direct - u.ravel()))
    return distance, f"; from scipy {distance / math.sqrt(n**3):.1e}"


if __name__ == "__main__":
    sys.exit(solver.main(__doc__, options, solve))
