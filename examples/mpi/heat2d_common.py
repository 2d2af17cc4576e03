# SPDX-License-Identifier: BSD-3-Clause
"""What the variants of heat2d have in common: options, the part of a rank, timing, and whether the result is right.

u_t = laplace(u) on the unit square, u = 0 on its edge, u(0) = sin(pi x) sin(pi y). With the time step h**2 / 4 the
explicit scheme is Jacobi's: each new value is the mean of its four neighbours. On the grid u(0) is an eigenvector of a
sweep, which shrinks it by cos(pi h); the exact solution is exp(-2 pi**2 t) u(0). The result is checked against both.

A variant is a function ``solve(heat)`` that all ranks call. Each rank has a slab of rows and one halo row on either side.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from mpi4py import MPI

BYTES_PER_CELL = 88  # operands of the four ufuncs of a sweep: three of 24 bytes, one in place of 16


class Heat:
    """The problem, and this rank's part of it.

    Attributes
    ----------
    line : MPI.Intracomm
        The ranks in the order of their slabs.
    below, above : int
        Neighbours in `line`, or PROC_NULL.
    shape : (int, int)
        Of this rank's array, halos included.
    """

    def __init__(self, comm: MPI.Intracomm, chosen: argparse.Namespace, track: Callable = iter):
        self.comm, self.n, self.steps, self._track = comm, chosen.size, chosen.steps, track
        self.h, self.seconds = 1.0 / (self.n + 1), 0.0
        if self.n < comm.size or self.steps < 1:
            raise SystemExit(
                f"heat2d: --size {self.n} --steps {self.steps}; limit: a row for each of the {comm.size} ranks, a step"
            )
        self.order(comm)

    def order(self, line: MPI.Intracomm) -> None:
        """Deal the rows out in the order of `line`'s ranks."""
        rank, size = line.rank, line.size
        self.line = line
        self.rows = range(rank * self.n // size, (rank + 1) * self.n // size)
        self.below = rank - 1 if rank > 0 else MPI.PROC_NULL
        self.above = rank + 1 if rank + 1 < size else MPI.PROC_NULL
        self.shape = (len(self.rows) + 2, self.n + 2)

    def _mode(self) -> np.ndarray:
        y, x = np.arange(self.rows.start, self.rows.stop) + 1, np.arange(self.n) + 1
        return np.sin(math.pi * self.h * y)[:, None] * np.sin(math.pi * self.h * x)

    def start(self, u: np.ndarray) -> None:
        """Set the interior of `u` to u(0)."""
        u[1:-1, 1:-1] = self._mode()

    def sweeps(self) -> Iterator[int]:
        """Give the sweeps' numbers, and time them from barrier to barrier."""
        self.comm.Barrier()
        begin = time.perf_counter()
        yield from self._track(range(self.steps))
        self.comm.Barrier()
        self.seconds = time.perf_counter() - begin

    def result(self, u: np.ndarray, ctx: object = None, pages: tuple[int, int] = (0, 0)) -> dict:
        """Check `u`, collectively.

        Parameters
        ----------
        u : numpy.ndarray
            This rank's part after the last sweep.
        ctx : hpcalloc.Context, optional
            Whose report is shown.
        pages : (int, int)
            Local and touched pages of arrays that the report does not count: shared ones.
        """
        x, mode = math.pi * self.h, self._mode()
        # log(cos x) = -x**2/2 - x**4/12 - ..., so the relative error of `steps` sweeps is below steps * x**4 / 10
        checks = {
            "error": (
                math.exp(-0.5 * x * x * self.steps),
                min(1.0, self.steps * x**4 / 10) + 1e-13 * self.steps,
            ),
            "discrete": (math.cos(x) ** self.steps, 1e-14 * (self.steps + 10)),
        }
        good, words = True, []
        for name, (factor, bound) in checks.items():
            mine = float(np.abs(factor * mode - u[1:-1, 1:-1]).max())
            error = self.comm.allreduce(mine, MPI.MAX)
            good = good and error <= bound
            words.append(f"{name} {error:.1e} (bound {bound:.1e})")
        return {
            "good": good,
            "seconds": self.seconds,
            "work": 1e-9 * BYTES_PER_CELL * self.n**2 * self.steps,
            "unit": "GB/s",
            "what": f"{self.n} x {self.n} points, {self.steps} sweeps, {', '.join(words)}",
            "report": ctx.report() if ctx else None,
            "pages": pages,
        }


OPTIONS = {"size": (2048, "interior points in each direction"), "steps": (200, "sweeps")}


def main(description: str, solve: Callable[[Heat], dict], plain: Callable[[Heat], dict] | None = None) -> int:
    """Run a variant as the command line says; exit code 1 on all ranks if the result is wrong.

    Parameters
    ----------
    description : str
        The variant's docstring.
    solve : callable
        The variant.
    plain : callable, optional
        What ``--no-hpcalloc`` runs and ``--compare`` compares with. Without it hpcalloc is not imported.
    """
    comm = MPI.COMM_WORLD
    if plain is not None:
        from hpcalloc.bench import solver

        def either(run: solver.Run) -> solver.Result:
            return solver.Result(
                **(solve if run.options.hpcalloc else plain)(Heat(comm, run.options, run.track))
            )

        return solver.main(
            description, {name: solver.Option(*each) for name, each in OPTIONS.items()}, either
        )
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, (default, text) in OPTIONS.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    result = solve(Heat(comm, parser.parse_args()))
    seconds = comm.allreduce(result["seconds"], MPI.MAX)
    if comm.rank == 0:
        verdict = "ok" if result["good"] else "FAILED"
        print(f"{seconds:.3f} s, {result['work'] / seconds:.2f} {result['unit']}")
        print(f"{Path(sys.argv[0]).stem} {verdict}: {comm.size} ranks, {result['what']}", flush=True)
    return 0 if result["good"] else 1
