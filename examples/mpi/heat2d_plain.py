# SPDX-License-Identifier: BSD-3-Clause
"""2-D heat equation: heat2d.py without hpcalloc, so that the difference is all there is to it.

    mpirun -n 2 hpcalloc run python heat2d_plain.py [--size 2048] [--steps 200]

With HPCALLOC_REPORT=report.txt (or .html, .json) in front, a report says where its pages were.

u_t = laplace(u) on the unit square, u = 0 on its edge, u(0) = sin(pi x) sin(pi y). With the time step h**2 / 4 the
explicit scheme is Jacobi's: each new value is the mean of four neighbours. The exact solution is
u(t) = exp(-2 pi**2 t) u(0); on the grid, u(0) is an eigenvector that shrinks by cos(pi h) a step. The result is checked
against both; exit 1 on all ranks if it is wrong.

GB/s counts what the four ufuncs of a sweep read and write: three with two operands and a result (24 bytes a cell)
and one in place (16), 88 bytes a cell and sweep. Caches make it more than what memory delivers.
"""

import argparse
import math
import sys
import time

import numpy as np
from mpi4py import MPI
from rich.console import Console
from rich.progress import Progress

BYTES_PER_CELL = 88


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=2048, help="interior points in each direction")
    parser.add_argument("--steps", type=int, default=200, help="most sweeps")
    parser.add_argument("--tolerance", type=float, default=1e-9, help="stop when no value changes by more")
    parser.add_argument("--check-every", type=int, default=20, help="sweeps between convergence tests")
    chosen = parser.parse_args()
    if chosen.size < 1 or chosen.steps < 1 or chosen.check_every < 1:
        parser.error("--size, --steps and --check-every take numbers from 1")
    if not 0 <= chosen.tolerance < np.inf:
        parser.error("--tolerance takes a number from 0")
    return chosen


def halo_exchange(cart: MPI.Cartcomm, u: np.ndarray) -> MPI.Prequest:
    """Persistent requests that fill the four halos of `u` with the neighbours' edges."""
    rows, columns = u.shape
    requests = []

    def edge(at: tuple[int, int], shape: tuple[int, int]) -> list:
        part = MPI.DOUBLE.Create_subarray(u.shape, shape, at).Commit()
        return [u, 1, part]

    for axis in (0, 1):
        low, high = cart.Shift(axis, 1)
        shape = (1, columns - 2) if axis == 0 else (rows - 2, 1)
        last = u.shape[axis]

        def at(index: int, axis: int = axis) -> tuple[int, int]:
            return (index, 1) if axis == 0 else (1, index)

        requests += [
            cart.Recv_init(edge(at(0), shape), low, tag=2 * axis),
            cart.Recv_init(edge(at(last - 1), shape), high, tag=2 * axis + 1),
            cart.Send_init(edge(at(last - 2), shape), high, tag=2 * axis),
            cart.Send_init(edge(at(1), shape), low, tag=2 * axis + 1),
        ]
    return requests


def sweep(u: np.ndarray, new: np.ndarray) -> None:
    """One Jacobi sweep over the interior, in place: no temporaries."""
    inside = new[1:-1, 1:-1]
    np.add(u[:-2, 1:-1], u[2:, 1:-1], out=inside)
    np.add(inside, u[1:-1, :-2], out=inside)
    np.add(inside, u[1:-1, 2:], out=inside)
    np.multiply(inside, 0.25, out=inside)


def main() -> int:
    chosen = options()
    n, h = chosen.size, 1.0 / (chosen.size + 1)
    world = MPI.COMM_WORLD
    dims = MPI.Compute_dims(world.size, 2)
    cart = world.Create_cart(dims)
    mine = [range(c * n // d, (c + 1) * n // d) for c, d in zip(cart.coords, dims, strict=True)]
    if n < max(dims):
        raise SystemExit(f"heat2d: --size {n} is less than the {max(dims)} ranks along an edge")

    shape = tuple(len(part) + 2 for part in mine)
    u, new, work = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    mode = [np.sin(math.pi * h * (np.arange(part.start, part.stop) + 1)) for part in mine]
    np.multiply(mode[0][:, None], mode[1][None, :], out=u[1:-1, 1:-1])
    exchange = {id(a): halo_exchange(cart, a) for a in (u, new)}

    cart.Barrier()
    start, change, step = time.perf_counter(), math.inf, 0
    quiet = world.rank != 0 or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task("sweeps", total=chosen.steps)
        while step < chosen.steps and change > chosen.tolerance:
            MPI.Prequest.Startall(exchange[id(u)])
            MPI.Request.Waitall(exchange[id(u)])
            sweep(u, new)
            u, new = new, u
            step += 1
            if step % chosen.check_every == 0 or step == chosen.steps:
                inside = work[1:-1, 1:-1]
                np.abs(np.subtract(u[1:-1, 1:-1], new[1:-1, 1:-1], out=inside), out=inside)
                change = cart.allreduce(float(inside.max()), MPI.MAX)
                progress.update(task, completed=step)
    cart.Barrier()
    seconds = time.perf_counter() - start

    # Against the exact solution, and against what the scheme must give to rounding.
    np.multiply(mode[0][:, None], mode[1][None, :], out=work[1:-1, 1:-1])
    x = math.pi * h
    errors = []
    for factor in (math.exp(-0.5 * x * x * step), math.cos(x) ** step):
        new[1:-1, 1:-1] = work[1:-1, 1:-1]
        new[1:-1, 1:-1] *= factor
        new[1:-1, 1:-1] -= u[1:-1, 1:-1]
        errors.append(cart.allreduce(float(np.abs(new[1:-1, 1:-1]).max()), MPI.MAX))
    # log(cos x) = -x**2/2 - x**4/12 - ..., so the relative error of `step` sweeps is below step * x**4 / 10
    bounds = (min(1.0, step * x**4 / 10) + 1e-13 * step, 1e-14 * (step + 10))
    good = all(e <= b for e, b in zip(errors, bounds, strict=True))

    if world.rank == 0:
        rate = 1e-9 * BYTES_PER_CELL * n * n * step / seconds
        print(
            f"{n} x {n} points on {dims[0]} x {dims[1]} ranks, {step} sweeps in {seconds:.2f} s, last change {change:.1e}"
        )
        verdict = (
            "ok"
            if good
            else f"FAILED (bounds {bounds[0]:.1e} exact, {bounds[1]:.1e} discrete, got {errors[1]:.1e})"
        )
        print(
            f"demo {verdict}: {world.size} ranks, max error {errors[0]:.1e}, {rate:.1f} GB/s",
            flush=True,
        )
    for requests in exchange.values():
        for request in requests:
            request.Free()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
