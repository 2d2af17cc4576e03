# SPDX-License-Identifier: BSD-3-Clause
"""STREAM's triad on every rank at once, and GB/s of each NUMA node.

    mpirun -n 2 python stream.py [--size 20000000] [--steps 20] [--json FILE] [--no-hpcalloc | --compare]

The lesson: what bounds a solver that is limited by memory is the sum over the nodes, which only ranks with local memory
reach. a = b + s * c on vectors that no cache holds; NumPy has no fused triad, so it is done in chunks that stay in the
core's cache between its two passes. Counted as STREAM does, 24 bytes an element; the best step counts, the first one not.
Every element is checked (checks.py); exit 1 on all ranks if one is wrong.
"""

import socket
import sys
import time
from collections import defaultdict

import checks
import numpy as np
from mpi4py import MPI

from hpcalloc.bench.solver import Option, Result, Run, main

CHUNK = 16384  # elements: three times 128 KiB
SCALAR = 3.0
OPTIONS = {"size": Option(20_000_000, "elements a rank"), "steps": Option(20, "repetitions", 2)}


def triad(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    for start in range(0, a.size, CHUNK):
        part = slice(start, start + CHUNK)
        np.multiply(c[part], SCALAR, out=a[part])
        np.add(a[part], b[part], out=a[part])


def solve(run: Run) -> Result:
    comm, n = run.comm, run.options.size
    with run.memory() as ctx:
        a, b, c = ctx.empty(n), ctx.empty(n), ctx.empty(n)
        first = comm.rank * n
        for start in range(0, n, CHUNK):
            index = np.arange(first + start, first + min(start + CHUNK, n))
            b[start : start + CHUNK] = index % 1000
            c[start : start + CHUNK] = index % 17
        a.fill(-1)

        own, together = [], []  # seconds of each step: this rank's, and from barrier to barrier
        for _ in run.steps(range(run.options.steps)):
            comm.Barrier()
            begin = time.perf_counter()
            triad(a, b, c)
            own.append(time.perf_counter() - begin)
            comm.Barrier()
            together.append(time.perf_counter() - begin)

        node = ctx.nodes if run.options.hpcalloc else None
        nodes: dict[tuple, list[float]] = defaultdict(list)  # a node's rate is the sum of its ranks'
        for host, where, rate in comm.allgather((socket.gethostname(), node, 24e-9 * n / min(own[1:]))):
            nodes[host, where].append(rate)
        good, what = checks.stream(comm, a, first, SCALAR, CHUNK)
        return run.result(
            good,
            24e-9 * n * comm.size,
            "GB/s",
            f"{n} elements a rank, {what}",
            seconds=comm.allreduce(min(together[1:]), MPI.MAX),
            more={
                "nodes": [
                    {"host": host, "nodes": where, "ranks": len(each), "gb_per_s": sum(each)}
                    for (host, where), each in nodes.items()
                ]
            },
            lines=[
                f"{host}, {'unplaced' if where is None else f'nodes {where}'}: {sum(each):.2f} GB/s by {len(each)} ranks"
                for (host, where), each in nodes.items()
            ],
        )


if __name__ == "__main__":
    sys.exit(main(__doc__, OPTIONS, solve))
