# SPDX-License-Identifier: BSD-3-Clause
"""Distributed matrix product C = A B by SUMMA, with as many BLAS threads as each rank has cores.

    mpirun -n 2 python summa.py [--size 2048] [--panel 256] [--no-hpcalloc | --compare]

The lesson: threads. Open MPI binds one or two ranks to one core each, and a BLAS that is loaded there has one thread however
many cores the rank might use; hpcalloc widens the binding and the pool, which the last lines show. The ranks form a grid,
and each has one block of A, of B and of C. For each panel of the inner dimension the owners send their columns of A along
the grid's rows and their rows of B along its columns, and every rank adds the product of the two (R. van de Geijn,
J. Watts, Concurrency: Pract. Exper. 9, 1997, 255-274).
Checked (checks.py) by C x = A (B x) for a random x; exit 1 on all ranks if it is wrong.
"""

import itertools
import os
import sys

import checks
import numpy as np
from mpi4py import MPI
from threadpoolctl import threadpool_info

from hpcalloc.bench.solver import Option, Result, Run, main

OPTIONS = {"size": Option(2048, "rows and columns"), "panel": Option(256, "most columns of A sent at once")}


def blocks(n: int, parts: int) -> list[range]:
    return [range(i * n // parts, (i + 1) * n // parts) for i in range(parts)]


def panels(n: int, across: list[range], down: list[range], width: int) -> list[range]:
    """The inner dimension in pieces of one owner each, in A's columns and in B's rows."""
    cuts = sorted({0, n, *range(0, n, width), *(block.start for block in across + down)})
    return [range(a, b) for a, b in itertools.pairwise(cuts)]


def owner(blocks: list[range], index: int) -> int:
    return next(i for i, block in enumerate(blocks) if index in block)


def solve(run: Run) -> Result:
    n, dims = run.options.size, MPI.Compute_dims(run.comm.size, 2)
    if n < max(dims):
        raise SystemExit(f"summa: --size {n} is less than the {max(dims)} ranks along an edge")
    cart = run.comm.Create_cart(dims)
    row, column = cart.Sub([False, True]), cart.Sub([True, False])
    down, across = blocks(n, dims[0]), blocks(n, dims[1])
    rows, columns = down[cart.coords[0]], across[cart.coords[1]]
    with run.memory(temporaries=True) as ctx:
        random = np.random.default_rng(cart.rank)
        a, b, c = (ctx.zeros((len(rows), len(columns))) for _ in range(3))
        random.random(out=a)
        random.random(out=b)
        for panel in run.steps(panels(n, across, down, run.options.panel)):
            has_a, has_b = owner(across, panel.start), owner(down, panel.start)
            a_panel = np.empty((len(rows), len(panel)))
            b_panel = np.empty((len(panel), len(columns)))
            if row.rank == has_a:
                at = panel.start - across[has_a].start
                a_panel[...] = a[:, at : at + len(panel)]
            if column.rank == has_b:
                at = panel.start - down[has_b].start
                b_panel[...] = b[at : at + len(panel)]
            row.Bcast(a_panel, root=has_a)
            column.Bcast(b_panel, root=has_b)
            c += a_panel @ b_panel

        good, what = checks.product(cart, n, rows, columns, a, b, c)
        for comm in (row, column, cart):
            comm.Free()
        blas = max(
            (pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1
        )
        threads = run.comm.allgather((blas, sorted(os.sched_getaffinity(0))))
        return run.result(
            good,
            2e-9 * n**3,
            "GFlop/s",
            f"{n} x {n} on {dims[0]} x {dims[1]} ranks, {what}",
            more={"blas_threads": [count for count, _ in threads]},
            lines=[
                f"rank {i}: {count} BLAS threads on CPUs {cpus}" for i, (count, cpus) in enumerate(threads)
            ],
        )


if __name__ == "__main__":
    sys.exit(main(__doc__, OPTIONS, solve))
