# SPDX-License-Identifier: BSD-3-Clause
"""2-D heat equation with one array per host: heat2d.py without messages between the ranks of a host.

    mpirun -n 2 python heat2d_shared.py [--size 2048] [--steps 200] [--no-hpcalloc | --compare]

The lesson: ``ctx.shared_zeros`` makes one array for all ranks of a host, each block on its rank's node. A rank's halo row
is its neighbour's edge itself: no message, no copy, one barrier per sweep. Rows are sent only where two hosts meet.
``--compare`` compares with heat2d_plain.py, that is, sharing with sending.
The equation and its check are in heat2d_common.py; exit 1 if the result is wrong.
"""

import sys

import heat2d_plain
import numpy as np
from heat2d_common import Heat, main
from mpi4py import MPI

import hpcalloc


def swap_rows(heat: Heat, host: MPI.Intracomm, u: np.ndarray) -> None:
    """Fill the halo rows of `u` where the neighbour is on another host."""
    below = heat.below if host.rank == 0 else MPI.PROC_NULL
    above = heat.above if host.rank + 1 == host.size else MPI.PROC_NULL
    heat.line.Sendrecv(u[1], below, recvbuf=u[-1], source=above)
    heat.line.Sendrecv(u[-2], above, recvbuf=u[0], source=below)


def sweep(u: np.ndarray, new: np.ndarray) -> None:
    """One Jacobi sweep over the interior, in place: no temporaries."""
    inside = new[1:-1, 1:-1]
    np.add(u[:-2, 1:-1], u[2:, 1:-1], out=inside)
    np.add(inside, u[1:-1, :-2], out=inside)
    np.add(inside, u[1:-1, 2:], out=inside)
    np.multiply(inside, 0.25, out=inside)


def solve(heat: Heat) -> dict:
    with hpcalloc.init(MPI.COMM_WORLD) as ctx:
        host = ctx.node_comm
        # Host by host, so that the ranks of a host have adjoining slabs.
        heat.order(heat.comm.Split(0, key=host.bcast(heat.comm.rank) * heat.comm.size + host.rank))
        counts = host.allgather(len(heat.rows))
        shared = [ctx.shared_zeros((sum(counts), heat.n + 2), halo=1, split=counts) for _ in range(2)]
        u, new = (a.mine_with_halo for a in shared)
        heat.start(u)
        for step in heat.sweeps():
            swap_rows(heat, host, u)
            shared[step % 2].barrier()  # the rows that neighbours read are written
            sweep(u, new)
            u, new = new, u
        places = [a.placement() for a in shared]
        local = heat.comm.allreduce(sum(p.local_pages for p in places))
        touched = heat.comm.allreduce(sum(p.touched_pages for p in places))
        heat.line.Free()
        return heat.result(u, ctx, (local, touched))


if __name__ == "__main__":
    sys.exit(main(__doc__, solve, heat2d_plain.solve))
