# SPDX-License-Identifier: BSD-3-Clause
"""STREAM's triad on every rank at once, and GB/s of each NUMA node.

    mpirun -n 2 python stream.py [--size 20000000] [--steps 20] [--json FILE] [--no-hpcalloc | --compare]

a = b + s * c on vectors that no cache holds: what bounds a solver that is limited by memory. Counted as STREAM does,
three times 8 bytes an element: b and c are read, a is written; that a store may first read its cache line is not
counted. NumPy has no fused triad, so it is done in chunks that stay in the core's cache between its two passes. The
best step counts, the first one not. Every element is checked; exit 1 on all ranks if one is wrong.
"""

import argparse
import socket
import sys
import time
from collections import defaultdict
from contextlib import nullcontext

import numpy as np
from mpi4py import MPI

import hpcalloc
from hpcalloc.bench import solver

CHUNK = 16384  # elements: three times 128 KiB
SCALAR = 3.0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=solver.at_least(1), default=20_000_000, help="elements a rank")
    parser.add_argument("--steps", type=solver.at_least(2), default=20, help="repetitions")


def triad(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    for start in range(0, a.size, CHUNK):
        part = slice(start, start + CHUNK)
        np.multiply(c[part], SCALAR, out=a[part])
        np.add(a[part], b[part], out=a[part])


def verified(a: np.ndarray, first: int) -> bool:
    """Whether every element is what `solve` makes it; by chunks, as a second vector would be large."""
    for start in range(0, a.size, CHUNK):
        index = np.arange(first + start, first + min(start + CHUNK, a.size))
        if not np.array_equal(a[start : start + CHUNK], index % 1000 + SCALAR * (index % 17)):
            return False
    return True


def solve(chosen: argparse.Namespace, track: solver.Track) -> solver.Result:
    comm, n = MPI.COMM_WORLD, chosen.size
    # The one difference: a context has NumPy's creation functions.
    with hpcalloc.init(comm) if chosen.hpcalloc else nullcontext(np) as ctx:
        a, b, c = ctx.empty(n), ctx.empty(n), ctx.empty(n)
        first = comm.rank * n
        for start in range(0, n, CHUNK):
            index = np.arange(first + start, first + min(start + CHUNK, n))
            b[start : start + CHUNK] = index % 1000
            c[start : start + CHUNK] = index % 17
        a.fill(-1)

        own, together = [], []  # seconds of each step: this rank's, and from barrier to barrier
        for _ in track(range(chosen.steps)):
            comm.Barrier()
            start_time = time.perf_counter()
            triad(a, b, c)
            own.append(time.perf_counter() - start_time)
            comm.Barrier()
            together.append(time.perf_counter() - start_time)

        node = ctx.nodes if chosen.hpcalloc else None
        rates = comm.gather((socket.gethostname(), node, 24e-9 * n / min(own[1:])))
        # Threads and ranks beside each other: each node's rate is the sum of its ranks'.
        nodes: dict[tuple, list[float]] = defaultdict(list)
        for host, where, rate in rates or []:
            nodes[host, where].append(rate)
        good = comm.allreduce(verified(a, first), MPI.LAND)
        return solver.Result(
            good=good,
            seconds=comm.allreduce(min(together[1:]), MPI.MAX),
            work=24e-9 * n * comm.size,
            unit="GB/s",
            what=f"{n} elements a rank, every one {'right' if good else 'checked and at least one WRONG'}",
            report=ctx.report() if chosen.hpcalloc else None,
            more={
                "nodes": [
                    {"host": host, "nodes": where, "ranks": len(each), "gb_per_s": sum(each)}
                    for (host, where), each in nodes.items()
                ],
                "rank_gb_per_s": [rate for _, _, rate in rates or []],
            },
            lines=[
                f"{host}, {'unplaced' if where is None else 'node ' + ','.join(map(str, where))}: "
                f"{sum(each):.2f} GB/s by {len(each)} ranks"
                for (host, where), each in nodes.items()
            ],
        )


if __name__ == "__main__":
    sys.exit(solver.main(__doc__, options, solve))
