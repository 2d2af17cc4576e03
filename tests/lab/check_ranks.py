"""Four ranks on four nodes: blocks of shared arrays on their ranks' nodes, page by page, and a control; bench bandwidth.

mpirun -n 4 python check_ranks.py
"""

# SPDX-License-Identifier: BSD-3-Clause
import os
import subprocess
import sys

import numpy as np
from mpi4py import MPI

import hpcalloc
from hpcalloc._native import node_ids, page_counts
from hpcalloc.bench import bandwidth, ranks
from hpcalloc.shared import window

COMM = MPI.COMM_WORLD


def say(what):
    """One line for the lab to count, if no rank has failed on the way."""
    COMM.Barrier()
    if COMM.rank == 0:
        print(f"{what}: ok", flush=True)


def read(array):
    """Touch every page of an array in C order."""
    return int(array.reshape(-1).view(np.uint8)[::4096].sum())


def nodes_of_blocks(a, homes):
    """From one rank's view, after it has read everything: for each rank the pages by node of those that are its."""
    read(a._stored)  # a page counts as untouched for a process that has not touched it
    start = a._stored.__array_interface__["data"][0]
    found = []
    for rank in range(len(homes)):
        offset, length = a._blocks.own_pages(rank)
        counts = page_counts(start + offset, length)
        assert counts.untouched == counts.failed == 0, (rank, counts)
        found.append(counts.on_node)
    return found


def blocks(ctx, homes):
    for shape, axis, halo, dtype in (
        ((2048, 512), 0, 0, float),  # blocks of whole pages
        ((1001, 1001), 0, 1, float),  # blocks that meet within pages
        ((300, 4000), 1, 2, "f4"),
        (1_000_003, 0, 0, "i2"),
        ((7, 3), 0, 1, "u1"),  # all in a page
    ):
        a = ctx.shared_zeros(shape, dtype, axis, halo)
        own = a.placement()
        assert own.untouched == 0, own
        assert own.pages == 0 or set(own.pages_per_node) == {homes[ctx.rank]}, (ctx.rank, own)
        # Whoever writes first: rank 0 everything, the others nothing.
        if ctx.rank == 0:
            a.whole_with_halo[...] = 1
        a.barrier()
        for rank, found in enumerate(nodes_of_blocks(a, homes)):
            assert set(found) <= {homes[rank]}, (shape, rank, found)
        assert sum(ctx.node_comm.allgather(a.own_pages)) == -(-a.nbytes // 4096)
        a.free()
    say("shared arrays on 4 ranks, block by block on the right node")


def control(homes):
    """A plain window that rank 0 initialises, as programs do: blocks are not on their ranks' nodes, and it is seen."""
    with window.without_noise(MPI):
        win = MPI.Win.Allocate_shared(1 << 20, 1, MPI.INFO_NULL, COMM)
    memory, _ = win.Shared_query(MPI.PROC_NULL)
    whole = np.frombuffer(memory, np.uint8, 1 << 20) if COMM.rank == 0 else None
    if whole is not None:
        for rank in range(COMM.size):
            part, _ = win.Shared_query(rank)
            np.frombuffer(part, np.uint8)[...] = 1
    COMM.Barrier()
    mine, _ = win.Shared_query(COMM.rank)
    view = np.frombuffer(mine, np.uint8)
    read(view)
    where = hpcalloc.placement(view, local_nodes=[homes[COMM.rank]])
    assert (where.local_fraction > 0.9) == (COMM.rank == 0), (COMM.rank, where)
    COMM.Barrier()
    del view, mine, whole, memory
    win.Free()
    say("a plain window is on rank 0's node, and seen to be")


def moves(ctx, homes):
    """Another rank's pages can be moved with the capability, and are said to be refused without."""
    a = ctx.shared_zeros((2048, 512))
    a.mine[...] = ctx.rank
    a.barrier()
    if ctx.rank == 0:
        block = a.block(3)
        read(block)
        child = os.fork()
        if child == 0:
            read(block)
            os.setuid(65534)
            result = hpcalloc.migrate(block, hpcalloc.on_node(homes[0]))
            good = result.refused == {"EACCES": 512} and result.moved == 0
            print("" if good else f"without the capability: {result}", flush=True)
            os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0
        result = hpcalloc.migrate(block, hpcalloc.on_node(homes[0], strict=True))
        assert (result.moved, result.unmoved) == (512, 0), result
    a.barrier()
    if ctx.rank == 3:
        assert set(a.placement().pages_per_node) == {homes[0]}, a.placement()
        assert hpcalloc.migrate(a.mine, "local").moved == 512
        assert a.placement().local_fraction == 1.0
        assert (a.mine == 3).all()
    a.barrier()
    a.free()
    say("blocks of shared arrays migrate, EACCES without CAP_SYS_NICE")


def report(ctx):
    kept = ctx.shared_zeros((1000, 1000), halo=1)
    made = ctx.report()
    if ctx.rank == 0:
        assert made.summary["local_fraction"] == 1.0, made.summary
        assert [r["arrays"]["shared"] for r in made.ranks] == [1] * 4
        assert made.summary["pages"] >= kept.nbytes // 4096
    kept.free()
    say("reports count shared blocks, 100.0 % local")


def local_remote_interleaved():
    """Memory of `hpcalloc bench bandwidth` under mpirun. The nodes are emulated: figures of speed are not looked at."""
    nodes = node_ids()
    result = ranks.measure(COMM, bandwidth.Options(small=True, iterations=1, repeats=1))
    if COMM.rank == 0:
        assert result["good"]
        assert sorted(rank["nodes"] for rank in result["ranks"]) == [[node] for node in nodes], result
        for rank in result["ranks"]:
            pages = {name: set(map(int, place["pages"])) for name, place in rank["placements"].items()}
            assert pages["local"] == set(rank["nodes"]), rank
            assert len(pages["remote"]) == 1, rank
            assert not pages["remote"] & pages["local"], rank
            assert pages["interleaved"] == set(nodes), rank
            assert "unplaced" in pages, rank  # wherever they are
    say("bench bandwidth of 4 ranks, local and remote pages")


def too_small(ctx):
    """A /dev/shm of 64 MiB: all ranks raise, none waits, none gets a SIGBUS."""
    ctx.comm.Barrier()
    if ctx.rank == 0:
        subprocess.run(["mount", "-o", "remount,size=64M", "/dev/shm"], check=True)
    ctx.comm.Barrier()
    error = None
    try:
        ctx.shared_zeros(100 << 20, "u1")
    except hpcalloc.HpcallocError as raised:
        error = raised
    assert isinstance(error, hpcalloc.OutOfMemoryError), error
    assert "/dev/shm has" in str(error), error
    ctx.shared_zeros(1 << 20, "u1").free()
    say("a small /dev/shm is an error on all ranks")


def main() -> int:
    """Any assertion ends the job."""
    local_remote_interleaved()
    with hpcalloc.init(COMM, strict=True) as ctx:
        homes = ctx.node_comm.allgather(ctx.nodes[0])
        assert sorted(homes) == [0, 1, 2, 3], homes
        blocks(ctx, homes)
        control(homes)
        moves(ctx, homes)
        report(ctx)
        too_small(ctx)
    return 0


if __name__ == "__main__":
    sys.exit(main())
