# SPDX-License-Identifier: BSD-3-Clause
"""Distributed matrix product C = A B by SUMMA, with as many BLAS threads as each rank has cores.

    mpirun -n 2 python summa.py [--size 2048] [--panel 256] [--no-hpcalloc | --compare]

The ranks form a grid, and each has one block of A, of B and of C. For each panel of the inner dimension the owners
send their columns of A along the grid's rows and their rows of B along its columns, and every rank adds the product
of the two (R. van de Geijn, J. Watts, Concurrency: Pract. Exper. 9, 1997, 255-274).

The product itself is BLAS's and compute-bound. What is to be gained is its threads: Open MPI binds one or two ranks
to one core each, and a BLAS that is loaded there has one thread however many cores the rank might use. hpcalloc
widens the binding and the pool, which the last lines show; it matters with fewer ranks than cores.

Checked by C x = A (B x) for a random x, which a wrong C passes with probability zero (R. Freivalds, 1977). Exit 1 on
all ranks if it is wrong.
"""

import argparse
import itertools
import os
import sys
import time
from contextlib import nullcontext

import numpy as np
from mpi4py import MPI
from threadpoolctl import threadpool_info

import hpcalloc
from hpcalloc.bench import solver


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=solver.at_least(1), default=2048, help="rows and columns")
    parser.add_argument(
        "--panel", type=solver.at_least(1), default=256, help="most columns of A sent at once"
    )


def blocks(n: int, parts: int) -> list[range]:
    return [range(i * n // parts, (i + 1) * n // parts) for i in range(parts)]


def panels(n: int, across: list[range], down: list[range], width: int) -> list[range]:
    """The inner dimension in pieces of one owner each, in A's columns and in B's rows."""
    cuts = sorted({0, n, *range(0, n, width), *(block.start for block in across + down)})
    return [range(a, b) for a, b in itertools.pairwise(cuts)]


def owner(blocks: list[range], index: int) -> int:
    return next(i for i, block in enumerate(blocks) if index in block)


def multiply(cart: MPI.Cartcomm, a, b, c, across, down, width, track) -> None:
    """Add A B to C, all three in blocks: A's columns are split as `across`, B's rows as `down`."""
    row, column = cart.Sub([False, True]), cart.Sub([True, False])
    for panel in track(panels(across[-1].stop, across, down, width)):
        has_a, has_b = owner(across, panel.start), owner(down, panel.start)
        a_panel = np.empty((a.shape[0], len(panel)))
        b_panel = np.empty((len(panel), b.shape[1]))
        if row.rank == has_a:
            at = panel.start - across[has_a].start
            a_panel[...] = a[:, at : at + len(panel)]
        if column.rank == has_b:
            at = panel.start - down[has_b].start
            b_panel[...] = b[at : at + len(panel)]
        row.Bcast(a_panel, root=has_a)
        column.Bcast(b_panel, root=has_b)
        c += a_panel @ b_panel
    row.Free()
    column.Free()


def apply(cart: MPI.Cartcomm, block: np.ndarray, rows: range, columns: range, x: np.ndarray) -> np.ndarray:
    """The distributed matrix times a vector that every rank has."""
    y = np.zeros_like(x)
    y[rows.start : rows.stop] = block @ x[columns.start : columns.stop]
    return cart.allreduce(y)


def solve(chosen: argparse.Namespace, track: solver.Track) -> solver.Result:
    comm, n = MPI.COMM_WORLD, chosen.size
    dims = MPI.Compute_dims(comm.size, 2)
    if n < max(dims):
        raise SystemExit(f"summa: --size {n} is less than the {max(dims)} ranks along an edge")

    # All that differs: a context has NumPy's creation functions, and serves temporaries when asked.
    with hpcalloc.init(comm) if chosen.hpcalloc else nullcontext(np) as ctx:
        if chosen.hpcalloc:
            ctx.install_numpy_allocator()
        cart = comm.Create_cart(dims)
        down, across = blocks(n, dims[0]), blocks(n, dims[1])
        rows, columns = down[cart.coords[0]], across[cart.coords[1]]
        shape = (len(rows), len(columns))
        a, b, c = ctx.empty(shape), ctx.empty(shape), ctx.zeros(shape)
        random = np.random.default_rng(cart.rank)
        for matrix in (a, b):
            random.random(out=matrix)

        cart.Barrier()
        start = time.perf_counter()
        multiply(cart, a, b, c, across, down, chosen.panel, track)
        cart.Barrier()
        seconds = time.perf_counter() - start

        x = np.random.default_rng(7).random(n)
        expected = apply(cart, a, rows, columns, apply(cart, b, rows, columns, x))
        error = float((np.abs(apply(cart, c, rows, columns, x) - expected) / expected).max())
        good = error < 1e-13
        cart.Free()

        blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        threads = comm.gather((max(blas, default=1), sorted(os.sched_getaffinity(0))))
        return solver.Result(
            good=good,
            seconds=seconds,
            work=2e-9 * n**3,
            unit="GFlop/s",
            what=f"{n} x {n} on {dims[0]} x {dims[1]} ranks, relative error {error:.1e} (bound 1.0e-13)",
            report=ctx.report() if chosen.hpcalloc else None,
            more={"blas_threads": [count for count, _ in threads or []]},
            lines=[
                f"rank {i}: {count} BLAS thread{'s' * (count > 1)} on CPUs {', '.join(map(str, cpus))}"
                for i, (count, cpus) in enumerate(threads or [])
            ],
        )


if __name__ == "__main__":
    sys.exit(solver.main(__doc__, options, solve))
