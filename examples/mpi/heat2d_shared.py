# SPDX-License-Identifier: BSD-3-Clause
"""The heat equation of heat2d.py with one array per host: ranks read their neighbours' rows where these are.

    mpirun -n 2 python heat2d_shared.py [--size 2048] [--steps 200] [--no-hpcalloc | --compare]

Each rank has a slab of rows. Ranks of one host share an array whose blocks are on their own nodes, so a rank's halo
is its neighbour's edge itself: no message, no copy, one fence per sweep. Only where two hosts meet are rows sent.
With --no-hpcalloc every rank has arrays of its own and all halos are messages: what is compared is sharing against
sending, on NumPy's memory.

Checked as in heat2d.py, against the exact solution and against what the scheme must give to rounding; exit 1 on all
ranks if it is wrong.
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

BYTES_PER_CELL = 88  # what the four ufuncs of a sweep read and write


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=solver.at_least(1), default=2048, help="interior points each way")
    parser.add_argument("--steps", type=solver.at_least(1), default=200, help="sweeps")


def line_up(comm: MPI.Intracomm, host: MPI.Intracomm) -> MPI.Intracomm:
    """All ranks host by host, so that those of one host have adjoining slabs."""
    return comm.Split(0, key=host.bcast(comm.rank) * comm.size + host.rank)


def swap_rows(line: MPI.Intracomm, below: int, above: int, u: np.ndarray) -> None:
    """Fill the halo rows of `u` by messages from `below` and `above`, which may be PROC_NULL."""
    line.Sendrecv(u[1], below, recvbuf=u[-1], source=above)
    line.Sendrecv(u[-2], above, recvbuf=u[0], source=below)


def sweep(u: np.ndarray, new: np.ndarray) -> None:
    """One Jacobi sweep over the interior, in place: no temporaries."""
    inside = new[1:-1, 1:-1]
    np.add(u[:-2, 1:-1], u[2:, 1:-1], out=inside)
    np.add(inside, u[1:-1, :-2], out=inside)
    np.add(inside, u[1:-1, 2:], out=inside)
    np.multiply(inside, 0.25, out=inside)


def solve(chosen: argparse.Namespace, track: solver.Track) -> solver.Result:
    comm, n, h = MPI.COMM_WORLD, chosen.size, 1.0 / (chosen.size + 1)
    if n < comm.size:
        raise SystemExit(f"heat2d_shared: --size {n} is less than the {comm.size} ranks")
    with hpcalloc.init(comm) if chosen.hpcalloc else nullcontext() as ctx:
        host = ctx.node_comm if ctx else comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank)
        line = line_up(comm, host)
        first, beyond = line.rank * n // comm.size, (line.rank + 1) * n // comm.size
        below = line.rank - 1 if line.rank > 0 else MPI.PROC_NULL
        above = line.rank + 1 if line.rank + 1 < line.size else MPI.PROC_NULL
        if ctx:
            counts = host.allgather(beyond - first)
            shared = [ctx.shared_zeros((sum(counts), n + 2), halo=1, split=counts) for _ in range(2)]
            u, new = (a.mine_with_halo for a in shared)
            # Neighbours of this host need no messages.
            below = below if host.rank == 0 else MPI.PROC_NULL
            above = above if host.rank + 1 == host.size else MPI.PROC_NULL
        else:
            u, new = (np.zeros((beyond - first + 2, n + 2)) for _ in range(2))

        mode_y = np.sin(math.pi * h * np.arange(first + 1, beyond + 1))[:, None]
        mode_x = np.sin(math.pi * h * np.arange(1, n + 1))
        np.multiply(mode_y, mode_x, out=u[1:-1, 1:-1])
        comm.Barrier()
        start = time.perf_counter()
        for step in track(range(chosen.steps)):
            swap_rows(line, below, above, u)
            if ctx:
                shared[step % 2].barrier()  # rows that neighbours read are written
            sweep(u, new)
            u, new = new, u
        comm.Barrier()
        seconds = time.perf_counter() - start

        x = math.pi * h
        start_value = mode_y * mode_x
        errors = [
            comm.allreduce(float(np.abs(factor * start_value - u[1:-1, 1:-1]).max()), MPI.MAX)
            for factor in (math.exp(-0.5 * x * x * chosen.steps), math.cos(x) ** chosen.steps)
        ]
        # log(cos x) = -x**2/2 - x**4/12 - ..., so the relative error of `steps` sweeps is below steps * x**4 / 10
        bounds = (
            min(1.0, chosen.steps * x**4 / 10) + 1e-13 * chosen.steps,
            1e-14 * (chosen.steps + 10),
        )
        good = all(e <= b for e, b in zip(errors, bounds, strict=True))
        # The report counts arrays that one rank has; these are of all ranks of a host.
        places = [a.placement() for a in shared] if ctx else []
        local = comm.allreduce(sum(p.local_pages for p in places))
        touched = comm.allreduce(sum(p.touched_pages for p in places))
        result = solver.Result(
            good=good,
            seconds=seconds,
            work=1e-9 * BYTES_PER_CELL * n * n * chosen.steps,
            unit="GB/s",
            what=f"{n} x {n} points, {chosen.steps} sweeps, error {errors[0]:.1e} (bound {bounds[0]:.1e}), "
            f"discrete {errors[1]:.1e} (bound {bounds[1]:.1e})",
            report=ctx.report() if ctx else None,
            pages=(local, touched),
        )
        line.Free()
        if not ctx:
            host.Free()
        return result


if __name__ == "__main__":
    sys.exit(solver.main(__doc__, options, solve))
