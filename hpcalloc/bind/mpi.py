# SPDX-License-Identifier: BSD-3-Clause
"""MPI as it is in this process: imported or not, up or not, and whether a communicator may be used here.

mpi4py is never imported here: where it is not imported yet, there is no communicator. A forked child of a process in
which MPI is up has MPI's memory and none of its connections: it has no communicator either.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from ..exceptions import HpcallocError, message

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = [
    "check_comm",
    "check_thread",
    "check_usable",
    "free",
    "is_up",
    "library",
    "quiet",
    "world_size",
]

_forked = False  # from a process in which MPI was up


def library() -> Any:
    """Return ``mpi4py.MPI`` if it is imported, else None."""
    return sys.modules.get("mpi4py.MPI")


def is_up() -> bool:
    """Whether MPI can be called by this process: initialised, not finalised, not a forked child."""
    module = library()
    return not _forked and module is not None and module.Is_initialized() and not module.Is_finalized()


def world_size() -> int:
    """Ranks of this MPI job; 1 where MPI is not up."""
    return int(library().COMM_WORLD.Get_size()) if is_up() else 1


def _after_fork() -> None:
    global _forked
    _forked = is_up() or _forked


os.register_at_fork(after_in_child=_after_fork)


def check_comm(call: str, comm: MPI.Comm) -> None:
    """Check that a communicator can be used here.

    Raises
    ------
    HpcallocError
        MPI is not initialised, or finalised, or not to be called from this thread or process.
    TypeError, ValueError
        Not an mpi4py communicator; an intercommunicator or ``COMM_NULL``.
    """
    module = library()
    if module is None or not isinstance(comm, module.Comm):
        limit = "an mpi4py communicator or None"
        raise TypeError(message(call, f"comm= a {type(comm).__name__}", limit, "pass MPI.COMM_WORLD"))
    check_usable(call)
    if comm == module.COMM_NULL:
        raise ValueError(
            message(call, "comm is COMM_NULL", "an intracommunicator", "make no such call on this rank")
        )
    if comm.Is_inter():
        limit, remedy = "an intracommunicator", "pass comm.Merge(), or the local group"
        raise ValueError(message(call, "comm is an intercommunicator", limit, remedy))


def check_usable(call: str) -> None:
    """Raise HpcallocError unless MPI may be called now, by this process and thread."""
    module = library()
    if _forked:
        limit = "the process that called MPI_Init"
        remedy = "leave comm out, or start the process with multiprocessing's spawn"
        raise HpcallocError(message(call, "a communicator in a forked child", limit, remedy))
    if module is None or not module.Is_initialized() or module.Is_finalized():
        finalised = module is not None and module.Is_finalized()
        state = "finalised" if finalised else "not initialised"
        remedy = "call it earlier" if finalised else "call MPI.Init() first"
        raise HpcallocError(message(call, f"MPI is {state}", "between MPI.Init and MPI.Finalize", remedy))
    check_thread(call)


def check_thread(call: str) -> None:
    """Raise HpcallocError unless this thread may call MPI, which must be up."""
    module = library()
    level = module.Query_thread()
    if level < module.THREAD_SERIALIZED and not module.Is_thread_main():
        name = "MPI_THREAD_SINGLE" if level == module.THREAD_SINGLE else "MPI_THREAD_FUNNELED"
        remedy = "call it there, or set mpi4py.rc.thread_level = 'multiple' before MPI is imported"
        raise HpcallocError(
            message(
                call,
                f"called from a thread that is not MPI's main one, under {name}",
                "the main thread",
                remedy,
            )
        )


def free(*comms: MPI.Comm | None) -> None:
    """Free communicators, on which all ranks must have met; nothing after MPI_Finalize."""
    if is_up():
        for comm in comms:
            if comm is not None and comm != library().COMM_NULL:
                comm.Free()


def quiet(comm: MPI.Comm) -> MPI.Comm:
    """Let an error on a communicator be an exception, not the end of the process, whatever its parent says."""
    comm.Set_errhandler(library().ERRORS_RETURN)
    return comm
