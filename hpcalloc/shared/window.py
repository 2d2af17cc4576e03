# SPDX-License-Identifier: BSD-3-Clause
"""MPI's side of a shared array: a window of contiguous memory, from its making to its freeing."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

from ..bind import agreement
from .layout import Blocks

__all__ = ["Window", "without_noise"]


class Window:
    """A shared window in a passive-target epoch, and a communicator of its own."""

    def __init__(self, node_comm: Any, blocks: Blocks, extra: int) -> None:
        module: Any = agreement.mpi()
        self.pid = os.getpid()
        self.freed = False
        self.win: Any = None
        self.comm = node_comm.Dup()
        info: Any = module.INFO_NULL
        try:
            # Whatever the communicator was told: an error here is an exception, not the end of the process.
            self.comm.Set_errhandler(module.ERRORS_RETURN)
            rank = self.comm.Get_rank()
            size = blocks.segments[rank + 1] - blocks.segments[rank]
            if rank == blocks.ranks - 1:
                size += extra
            info = module.Info.Create()
            info.Set("mpi_minimum_memory_alignment", str(blocks.page))
            with without_noise(module):
                self.win = module.Win.Allocate_shared(size, 1, info, self.comm)
            self.win.Lock_all(module.MODE_NOCHECK)
        except BaseException:
            self.abandon()
            raise
        finally:
            if info != module.INFO_NULL:
                info.Free()

    def address(self) -> int:
        """Where the first rank's memory begins in this process."""
        module: Any = agreement.mpi()
        memory, _ = self.win.Shared_query(module.PROC_NULL)  # of the first rank that has any
        return int(memory.address)

    def usable(self) -> bool:
        """Whether MPI can still be called on it, by this process."""
        module = agreement.mpi()
        return not self.freed and self.pid == os.getpid() and module is not None and not module.Is_finalized()

    def free(self) -> None:
        """Free it; collective. Does nothing twice, after MPI_Finalize or in a forked child."""
        if self.usable():
            self.win.Unlock_all()
            self.win.Free()
            self.comm.Free()
        self.freed = True

    def abandon(self) -> None:
        """Free what does not need the other ranks' windows, where a rank has none: the communicator."""
        if self.usable():
            self.comm.Free()
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
