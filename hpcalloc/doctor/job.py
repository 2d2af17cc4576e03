# SPDX-License-Identifier: BSD-3-Clause
"""Gather the whole job on rank 0: start MPI if it can work, collect each rank's facts, and never wait for ever."""

from __future__ import annotations

import importlib.util
import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ..bind.agreement import split_by_host
from ..discover.launcher import Launch, this_launch
from ..exceptions import HpcallocError, message
from .facts import HostFacts, RankFacts, gather_host, gather_rank, loaded_libraries
from .host import Host

__all__ = ["belongs_together", "examine_job", "gather"]

_FAMILY: Mapping[str, tuple[str, ...]] = {  # launcher -> words that its MPI library has in its version
    "openmpi": ("Open MPI",),
    "mpich": ("MPICH", "Intel", "MVAPICH"),
    "intel": ("Intel",),
    "mvapich": ("MVAPICH",),
    "pals": ("MPICH", "CRAY"),
}


def belongs_together(launcher: str, library: str) -> bool:
    """Whether ranks that `launcher` starts find each other by this MPI library, as far as can be told."""
    words = _FAMILY.get(launcher)
    return words is None or any(word in library for word in words)


def examine_job(mpi: bool | None, timeout: float) -> tuple[Host, ...]:
    """Gather all ranks and their hosts on rank 0; the other ranks get nothing.

    Without MPI, or where it knows of this process alone, every rank gets itself.

    Parameters
    ----------
    mpi : bool or None
        Use MPI; None: where a launcher is seen and mpi4py is installed.
    timeout : float
        Seconds to wait for the other ranks.

    Raises
    ------
    HpcallocError
        ``mpi=True`` without mpi4py; MPI does not answer in time; a rank could not be examined.
    """
    launch = this_launch()
    before = loaded_libraries()
    launched = (
        launch.launcher not in ("none", "slurm") or "PMI_SIZE" in os.environ or "PMIX_RANK" in os.environ
    )
    mpi_error = ""
    if launched if mpi is None else mpi:
        if importlib.util.find_spec("mpi4py") is not None:
            try:
                return _in_child(lambda: _with_mpi(launch, before), timeout)
            except ChildProcessError as error:
                mpi_error = str(error)
        elif mpi:
            raise HpcallocError(
                message(
                    "doctor", "--mpi", "mpi4py, which is not installed", "pip install mpi4py, or --no-mpi"
                )
            )
    return (
        Host(gather_host(), (gather_rank(os.environ, launch=launch, before=before, mpi_error=mpi_error),)),
    )


def gather(comm: Any, launch: Launch, before: tuple[str, ...] = ()) -> tuple[Host, ...]:
    """Bring each rank's facts, and those of each host from one of its ranks, to rank 0; collective."""
    from mpi4py import MPI

    node, missed = split_by_host(comm, launch.local_size)
    leader = node.bcast(comm.Get_rank())  # stands for the host: two may have one name
    library = _first_line(MPI.Get_library_version())
    word: tuple[int, RankFacts, HostFacts | None] | str
    try:
        host = gather_host() if node.Get_rank() == 0 else None
        word = (
            leader,
            gather_rank(os.environ, launch=launch, before=before, comm=comm, mpi=library, missed=missed),
            host,
        )
    except Exception:
        word = traceback.format_exc()  # the others are in the gather already
    node.Free()
    words = comm.gather(word, root=0)
    ranks: dict[int, list[RankFacts]] = {}
    facts: dict[int, HostFacts] = {}
    for number, told in enumerate(words or ()):
        if isinstance(told, str):
            raise HpcallocError(
                message("doctor", f"rank {number} failed:\n{told}", "facts of every rank", "report this")
            )
        ranks.setdefault(told[0], []).append(told[1])
        if told[2] is not None:
            facts[told[0]] = told[2]
    return tuple(Host(facts[key], tuple(members)) for key, members in ranks.items())


def _with_mpi(launch: Launch, before: tuple[str, ...]) -> tuple[Host, ...]:
    """Load MPI, and start it unless it belongs to another launcher: some libraries end the process then."""
    import mpi4py

    mpi4py.rc.initialize = False
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ChildProcessError(f"mpi4py: {error}") from error
    library = _first_line(MPI.Get_library_version())
    if not belongs_together(launch.launcher, library):
        mine = gather_rank(os.environ, launch=launch, before=before, mpi=library)
        return (Host(gather_host(), (mine,)),)
    MPI.Init_thread()
    try:
        return gather(MPI.COMM_WORLD, launch, before)
    finally:
        MPI.Finalize()  # together, before rank 0's exit code makes the launcher end the others


def _first_line(version: str) -> str:
    return version.replace("\0", "\n").split("\n")[0].strip()


def _in_child(work: Callable[[], tuple[Host, ...]], seconds: float) -> tuple[Host, ...]:
    """Run `work` in a child process: MPI_Init can wait for ever with the interpreter locked, or end the process.

    Raises
    ------
    ChildProcessError
        The child could not load MPI, or ended without a result.
    HpcallocError
        It took too long.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _die_with_parent()
        word: Any
        try:
            word = work()
        except (ChildProcessError, HpcallocError) as error:
            word = error
        except BaseException:
            word = RuntimeError(traceback.format_exc())
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(word, pipe)
        os._exit(0)
    os.close(writing)
    told, end = b"", time.monotonic() + seconds
    try:
        while select.select([reading], [], [], max(end - time.monotonic(), 0))[0]:
            part = os.read(reading, 1 << 20)
            if not part:
                break
            told += part
        else:
            os.kill(child, signal.SIGKILL)
            raise HpcallocError(
                message(
                    "doctor",
                    "MPI did not answer",
                    f"{seconds:g} s (--timeout)",
                    "--no-mpi checks each rank alone",
                )
            )
    finally:
        os.close(reading)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not told:
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        raise ChildProcessError(f"the process ended in MPI_Init: {how}")
    word = pickle.loads(told)
    if isinstance(word, BaseException):
        raise word
    hosts: tuple[Host, ...] = word
    return hosts


def _die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
