# SPDX-License-Identifier: BSD-3-Clause
"""Communicators of a host and of a NUMA node: reduce near first, then far.

    mpirun -n 2 python numa_comm.py

``ctx.node_comm`` has the ranks of this host, ``ctx.numa_comm`` those of this rank's NUMA node. Split_type with
COMM_TYPE_HW_GUIDED should give the latter and does not in all MPI libraries.
"""

import numpy as np
from mpi4py import MPI

import hpcalloc

comm = MPI.COMM_WORLD
with hpcalloc.init(comm) as ctx:
    near = ctx.numa_comm
    mine, node_sum, total = ctx.full(4, comm.rank + 1.0), ctx.zeros(4), np.zeros(4)
    near.Reduce(mine, node_sum)  # through memory that all of them reach fast
    leaders = comm.Split(0 if near.rank == 0 else MPI.UNDEFINED, comm.rank)
    if leaders != MPI.COMM_NULL:
        leaders.Allreduce(node_sum, total)
        leaders.Free()
    near.Bcast(total)
    assert (total == comm.size * (comm.size + 1) / 2).all()
    print(
        f"rank {comm.rank}: nodes {ctx.nodes}, {near.size} ranks there, {ctx.node_comm.size} on the host, sum {total[0]:g}"
    )
