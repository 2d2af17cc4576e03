# SPDX-License-Identifier: BSD-3-Clause
"""Communicators: which one to use, and errors that every rank of it raises when one does.

mpi4py is never imported here: where it is not imported yet, there is no communicator to use. A forked child of a
process in which MPI is up has MPI's memory and none of its connections: it has no communicator either.
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any

from .. import exceptions
from ..exceptions import HpcallocError, message

__all__ = [
    "agree",
    "check_thread",
    "check_usable",
    "free",
    "is_up",
    "meet",
    "mpi",
    "resolve",
    "split_by_host",
]

TIMEOUT = "HPCALLOC_TIMEOUT"
_SECONDS = 600.0  # of it when it is not set
_SPIN = 2e-4  # seconds of polling before the first sleep

_forked = False  # from a process in which MPI was up


def mpi() -> Any:
    """Return ``mpi4py.MPI`` if it is imported, else None."""
    return sys.modules.get("mpi4py.MPI")


def is_up() -> bool:
    """Whether MPI is initialised and not finalised."""
    module = mpi()
    return module is not None and module.Is_initialized() and not module.Is_finalized()


def _after_fork() -> None:
    global _forked
    _forked = _forked or is_up()


os.register_at_fork(after_in_child=_after_fork)


def _default() -> Any:
    """Return the ranks that run the same program.

    In a worker of mpi4py.futures that is its pool: COMM_WORLD has the master as well, who would never join.
    """
    futures: Any = sys.modules.get("mpi4py.futures")
    if futures is not None:
        try:
            return futures.get_comm_workers()
        except RuntimeError:  # no worker
            pass
    return mpi().COMM_WORLD


def resolve(call: str, comm: Any) -> Any:
    """Return the communicator to use, None for none.

    Parameters
    ----------
    call : str
        For messages.
    comm : mpi4py.MPI.Intracomm or None
        None: ``MPI.COMM_WORLD`` if mpi4py is imported and MPI is up, in a worker of mpi4py.futures its pool; else,
        and in a forked child, none.

    Raises
    ------
    HpcallocError
        MPI is not initialised, or finalised, or not to be called from this thread.
    TypeError, ValueError
        Not an mpi4py communicator; an intercommunicator or ``COMM_NULL``.
    """
    module = mpi()
    if comm is None:
        if _forked or not is_up():
            return None
        comm = _default()
        check_usable(call, comm)
        return comm
    if module is None or not isinstance(comm, module.Comm):
        raise TypeError(
            message(
                call,
                f"comm= a {type(comm).__name__}",
                "an mpi4py communicator or None",
                "pass MPI.COMM_WORLD",
            )
        )
    check_usable(call, comm)
    if comm == module.COMM_NULL:
        raise ValueError(message(call, "comm is COMM_NULL", "an intracommunicator", "leave this rank out"))
    if comm.Is_inter():
        raise ValueError(
            message(
                call,
                "comm is an intercommunicator",
                "an intracommunicator",
                "pass comm.Merge(), or the local group",
            )
        )
    return comm


def split_by_host(comm: Any, told: int | None) -> tuple[Any, bool]:
    """Split a communicator by host, ranks in their order; collective.

    MPI's word is ``MPI_COMM_TYPE_SHARED``. A library that does not understand its launcher (Open MPI's wheel under
    Slurm's pmix plugin) has every rank alone there, and ranks that think so would all plan for the whole host. Where
    the launcher started more of them here, the kernel's own identity decides.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    told : int or None
        Ranks of this host as the launcher tells them.

    Returns
    -------
    mpi4py.MPI.Intracomm
        The ranks of this host.
    bool
        Whether MPI misses some of them: it has no shared memory between them then.
    """
    rank, size = comm.Get_rank(), comm.Get_size()
    node: Any = comm.Split_type(mpi().COMM_TYPE_SHARED, rank)
    seen = node.Get_size()
    if not comm.allreduce(int(seen < min(told or 1, size)), op=mpi().MAX):
        return node, False
    node.Free()
    # A colour has 31 bits; of two in turn, two hosts of any cluster have one that differs.
    key = _host_key()
    half = comm.Split(key >> 31 & 0x7FFFFFFF, rank)
    node = half.Split(key & 0x7FFFFFFF, rank)
    half.Free()
    return node, bool(node.Get_size() > seen)


def _host_key() -> int:
    """62 bits that the processes of a running kernel have in common."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            identity = int(file.read().replace("-", ""), 16)
    except (OSError, ValueError):
        import hashlib  # hardly ever

        identity = int.from_bytes(hashlib.sha256(os.uname().nodename.encode()).digest(), "big")
    return identity & (1 << 62) - 1


def check_usable(call: str, comm: Any) -> None:
    """Raise HpcallocError unless MPI may be called now, by this thread; nothing is checked without a `comm`."""
    module = mpi()
    if comm is None or module is None:
        return
    if _forked:
        raise HpcallocError(
            message(
                call,
                "a communicator in a forked child",
                "the process that called MPI_Init",
                "leave comm out, or start the process with multiprocessing's spawn",
            )
        )
    if not module.Is_initialized() or module.Is_finalized():
        finalised = module.Is_finalized()
        raise HpcallocError(
            message(
                call,
                f"MPI is {'finalised' if finalised else 'not initialised'}",
                "between MPI.Init and MPI.Finalize",
                "call it earlier" if finalised else "call MPI.Init() first",
            )
        )
    check_thread(call)


def check_thread(call: str) -> None:
    """Raise HpcallocError unless this thread may call MPI, which must be up."""
    module: Any = mpi()
    level = module.Query_thread()
    if level < module.THREAD_SERIALIZED and not module.Is_thread_main():
        name = "MPI_THREAD_SINGLE" if level == module.THREAD_SINGLE else "MPI_THREAD_FUNNELED"
        raise HpcallocError(
            message(
                call,
                f"called from a thread that is not MPI's main one, under {name}",
                "the main thread",
                "call it there, or set mpi4py.rc.thread_level = 'multiple' before MPI is imported",
            )
        )


def meet(call: str, comm: Any) -> None:
    """Wait until all ranks of `comm` are in this call, but not for ever; collective.

    A rank may never come: it has died or left, or may not call MPI where it is, and so can't tell the others.

    Raises
    ------
    HpcallocError
        MPI may not be called here. Or not all have come within HPCALLOC_TIMEOUT seconds (600; 0: no limit): no
        collective call on `comm` can follow, as this rank's part in the meeting can't be taken back.
    """
    check_usable(call, comm)
    if comm is None or comm.Get_size() == 1:
        return
    seconds = _timeout(call)
    arrived = comm.Ibarrier()
    start, pause = time.monotonic(), 1e-5
    while not arrived.Test():
        waited = time.monotonic() - start
        if waited > seconds:
            raise HpcallocError(
                message(
                    call,
                    f"rank {comm.Get_rank()} of {comm.Get_size()} waited {waited:.0f} s and not all the others came",
                    f"{TIMEOUT}={seconds:g} s",
                    "see what the others say: one has ended, or failed, or calls from a thread that may not; "
                    f"if they are only late, export {TIMEOUT}=SECONDS (0: no limit)",
                )
            )
        if waited < _SPIN:
            os.sched_yield()
        else:
            time.sleep(pause)
            pause = min(1.5 * pause, 1e-3)


def _timeout(call: str) -> float:
    text = os.environ.get(TIMEOUT, "")
    if not text:
        return _SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise HpcallocError(message(call, f"{TIMEOUT}={text!r}", "seconds, 0 or more", "correct or unset it"))
    return seconds or math.inf


def agree(comm: Any, error: Exception | None) -> None:
    """Raise on every rank of `comm` if any rank has an error; collective. One reduction when there is none.

    Raises
    ------
    Exception
        The rank's own error, or that of the lowest rank that has one, of the same class and with its rank
        in the message.
    """
    if comm is None or comm.Get_size() == 1:
        if error is not None:
            raise error
        return
    rank, size = comm.Get_rank(), comm.Get_size()
    failed = comm.allreduce(size if error is None else rank, op=mpi().MIN)
    if failed == size:
        return
    word = (type(error).__name__, str(error), getattr(error, "errno", None)) if rank == failed else None
    name, text, code = comm.bcast(word, root=failed)
    if error is not None:
        raise error
    raise _as_here(name, f"on rank {failed} of {size}: {text}", code)


def _as_here(name: str, text: str, code: int | None) -> Exception:
    known: dict[str, type[Exception]] = {"TypeError": TypeError, "ValueError": ValueError}
    known |= {n: getattr(exceptions, n) for n in exceptions.__all__ if n.endswith("Error")}
    kind = known.get(name)
    if kind is None:
        return HpcallocError(f"{text} ({name})")
    return kind(code, text) if issubclass(kind, OSError) and code is not None else kind(text)


def free(*comms: Any) -> None:
    """Free communicators, unless MPI is finalised already."""
    module = mpi()
    if module is None or module.Is_finalized():
        return
    for comm in comms:
        if comm is not None and comm != module.COMM_NULL:
            comm.Free()
