# SPDX-License-Identifier: BSD-3-Clause
"""MPI's side of a shared array: a window of contiguous memory, from its making to its freeing."""

from __future__ import annotations

import contextlib
import ctypes
import operator
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..bind import mpi
from ..bind.agreement import Ranks
from ..exceptions import PlacementError, message
from .layout import Blocks

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["Window", "without_noise"]


class Window:
    """A shared window in a passive-target epoch, over the ranks of a host.

    Attributes
    ----------
    ranks : Ranks
        Those of the host once more: a barrier of one array does not disturb another's.
    number : int
        Of the windows that these ranks have made.
    win : mpi4py.MPI.Win
    origin : int
        Address of the first byte that is used in this process: on a page, while MPI's memory may begin inside of one.
    offset : int
        Bytes between where MPI's memory begins and `origin`.
    freed : bool
    """

    def __init__(self, call: str, host: Ranks, ranks: Ranks, number: int, blocks: Blocks, extra: int) -> None:
        module = mpi.library()
        self._host = host
        self.ranks = ranks
        self.number = number
        self.freed = False
        self.pid = os.getpid()
        self.origin = self.offset = 0
        rank = host.rank
        size = blocks.segments[rank + 1] - blocks.segments[rank]
        if rank == blocks.ranks - 1:
            size += extra + blocks.page  # one more than there is, to begin on a page
        info = module.Info.Create()
        try:
            info.Set("mpi_minimum_memory_alignment", str(blocks.page))
            with without_noise(module):
                allocate = module.Win.Allocate_shared
                self.win: MPI.Win = host.together(call, allocate, size, 1, info, host.comm)
            self.win.Lock_all(module.MODE_NOCHECK)
        finally:
            info.Free()

    def locate(self, call: str, blocks: Blocks) -> None:
        """Find where the memory is in this process; PlacementError unless it is one run."""
        module = mpi.library()
        first, _ = self.win.Shared_query(module.PROC_NULL)  # of the first rank that has any
        begin = int(first.address)
        for rank in range(blocks.ranks):
            memory, _ = self.win.Shared_query(rank)
            if memory.nbytes and memory.address != begin + blocks.segments[rank]:
                raise PlacementError(
                    message(
                        call,
                        f"MPI's window is not one run of memory: rank {rank}'s is {memory.address - begin} bytes "
                        f"from the first, not {blocks.segments[rank]}",
                        "contiguous windows, as MPI makes them unless alloc_shared_noncontig is set",
                    )
                )
        self.offset = -begin % blocks.page
        self.origin = begin + self.offset

    def usable(self) -> bool:
        """Whether MPI can still be called on it, by this process."""
        return not self.freed and self.pid == os.getpid() and mpi.is_up()

    def free(self) -> None:
        """Free it; collective. Does nothing twice, after MPI_Finalize or in a forked child."""
        if self.usable():
            self.freed = True
            self.win.Unlock_all()
            call = f"SharedArray.free of array {self.number}"
            self._host.together(call, operator.methodcaller("Free"), self.win)
            mpi.free(self.ranks.comm)

    def abandon(self) -> None:
        """Leave it to MPI_Finalize: the other ranks don't come to free it."""
        self.freed = True


@contextlib.contextmanager
def without_noise(module: Any) -> Iterator[None]:
    """Keep one line of Open MPI's off standard error.

    Its UCX one-sided component, where it has no device to use, reports an error of its own query for each window;
    the window is made by another component. The tools interface turns this component's messages off meanwhile;
    where it has no such variable, the line is shown.
    """
    if module.get_vendor()[0] != "Open MPI" or "OMPI_MCA_osc" in os.environ:
        yield
        return
    tools = ctypes.CDLL(module.__file__)  # whatever MPI library that is linked to
    # Open MPI takes the level that is asked for here for that of all of MPI: it must stay as it is.
    level, index, count = ctypes.c_int(0), ctypes.c_int(), ctypes.c_int()
    handle = ctypes.c_void_p()
    if tools.MPI_T_init_thread(module.Query_thread(), ctypes.byref(count)) != 0:
        yield
        return
    try:
        changed = (
            tools.MPI_T_cvar_get_index(b"opal_common_ucx_verbose", ctypes.byref(index)) == 0
            and tools.MPI_T_cvar_handle_alloc(index, None, ctypes.byref(handle), ctypes.byref(count)) == 0
            and tools.MPI_T_cvar_read(handle, ctypes.byref(level)) == 0
            and tools.MPI_T_cvar_write(handle, ctypes.byref(ctypes.c_int(-1))) == 0
        )
        try:
            yield
        finally:
            if changed:
                tools.MPI_T_cvar_write(handle, ctypes.byref(level))
    finally:
        if handle:
            tools.MPI_T_cvar_handle_free(ctypes.byref(handle))
        tools.MPI_T_finalize()
