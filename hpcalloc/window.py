# SPDX-License-Identifier: BSD-3-Clause
"""MPI's side of a shared array: a window of contiguous memory, from its making to its freeing."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from . import comms
from .blocks import Blocks

__all__ = ["Window", "without_noise"]


class Window:
    """A shared window in a passive-target epoch, and a communicator of its own."""

    def __init__(self, node_comm: Any, blocks: Blocks, extra: int) -> None:
        module: Any = comms.mpi()
        self.pid = os.getpid()
        self.freed = False
        self.comm = node_comm.Dup()
        rank = self.comm.Get_rank()
        size = blocks.segments[rank + 1] - blocks.segments[rank]
        if rank == blocks.ranks - 1:
            size += extra
        info = module.Info.Create()
        info.Set("mpi_minimum_memory_alignment", str(blocks.page))
        with without_noise(module):
            self.win = module.Win.Allocate_shared(size, 1, info, self.comm)
        info.Free()
        self.win.Lock_all(module.MODE_NOCHECK)

    def address(self) -> int:
        """Where the first rank's memory begins in this process."""
        module: Any = comms.mpi()
        memory, _ = self.win.Shared_query(module.PROC_NULL)  # of the first rank that has any
        return int(memory.address)

    def usable(self) -> bool:
        """Whether MPI can still be called on it, by this process."""
        module = comms.mpi()
        return not self.freed and self.pid == os.getpid() and module is not None and not module.Is_finalized()

    def free(self) -> None:
        """Free it; collective. Does nothing twice, after MPI_Finalize or in a forked child."""
        if self.usable():
            self.win.Unlock_all()
            self.win.Free()
            self.comm.Free()
        self.freed = True


@contextlib.contextmanager
def without_noise(module: Any) -> Iterator[None]:
    """Keep one line of Open MPI's off standard error.

    Its UCX one-sided component, where it has no device to use, reports an error of its own query for each window;
    the window is made by another component. Everything else that is written meanwhile follows after.
    """
    if module.get_vendor()[0] != "Open MPI" or "OMPI_MCA_osc" in os.environ:
        yield
        return
    try:
        kept, saved = os.memfd_create("stderr"), os.dup(2)
    except OSError:  # closed, or no more descriptors: this is no reason to keep the other ranks waiting
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    os.dup2(kept, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        with open(kept, "rb") as file:
            file.seek(0)
            lines = file.read().splitlines(keepends=True)
        noisy = [b"osc_ucx_component" in line for line in lines]
        rest = [
            line
            for i, line in enumerate(lines)
            if not noisy[i] and not (i and noisy[i - 1] and not line.strip())
        ]
        if rest:
            with contextlib.suppress(OSError):
                os.write(2, b"".join(rest))
