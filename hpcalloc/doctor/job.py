# SPDX-License-Identifier: BSD-3-Clause
"""Examine the whole job: start MPI if it can work, bring each rank's facts to rank 0, and never wait for ever.

All ranks that MPI connects end with one exit code, that of rank 0, and only after rank 0 has said what it found: a
launcher ends the job when one rank exits with another code than 0.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ..bind.agreement import split_by_host
from ..discover.launcher import Launch, expects_mpi, launcher_of, this_launch
from ..exceptions import HpcallocError, message
from .facts import HostFacts, RankFacts, gather_host, gather_rank, loaded_libraries
from .host import Host

__all__ = ["FAILED", "belongs_together", "examine_job", "gather", "report_together"]

FAILED = 2  # exit code where the check itself failed
Reporter = Callable[[tuple[Host, ...]], int]


def belongs_together(launcher: str, library: str) -> bool:
    """Whether ranks that `launcher` starts find each other by this MPI library, as far as can be told."""
    row = launcher_of(launcher)
    return row is None or not row.libraries or any(word in library for word in row.libraries)


def examine_job(mpi: bool | None, timeout: float, report: Reporter) -> int:
    """Gather all ranks and their hosts on rank 0, which reports; the exit code, the same on all ranks.

    Without MPI, or where it knows of this process alone, every rank reports on itself.

    Parameters
    ----------
    mpi : bool or None
        Use MPI; None: where a launcher is seen and mpi4py is installed.
    timeout : float
        Seconds to wait for the other ranks.
    report : callable
        Says what is wrong with these hosts and returns the exit code.

    Raises
    ------
    HpcallocError
        ``mpi=True`` without mpi4py; MPI does not answer in time.
    """
    launch = this_launch()
    before = loaded_libraries()
    mpi_error = ""
    if expects_mpi(launch, os.environ) if mpi is None else mpi:
        if importlib.util.find_spec("mpi4py") is not None:
            try:
                return _in_child(lambda: _with_mpi(launch, before, report), timeout)
            except ChildProcessError as error:
                mpi_error = str(error)
        elif mpi:
            raise HpcallocError(
                message(
                    "doctor", "--mpi", "mpi4py, which is not installed", "pip install mpi4py, or --no-mpi"
                )
            )
    mine = gather_rank(os.environ, launch=launch, before=before, mpi_error=mpi_error)
    return report((Host(gather_host(), (mine,)),))


def report_together(comm: Any, launch: Launch, before: tuple[str, ...], report: Reporter) -> int:
    """Gather, report on rank 0, and return its exit code on all ranks; collective."""
    code = FAILED
    try:
        hosts = gather(comm, launch, before)
        code = report(hosts) if hosts else 0
    except HpcallocError as error:
        sys.stderr.write(f"Error: {error}\n")
    except Exception:  # the other ranks wait for the exit code
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return int(comm.bcast(code, root=0))


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


def _with_mpi(launch: Launch, before: tuple[str, ...], report: Reporter) -> int:
    """Load MPI, and start it unless it belongs to another launcher: some libraries end the process then."""
    import mpi4py

    mpi4py.rc.initialize = False
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ChildProcessError(f"mpi4py: {error}") from error
    library = _first_line(MPI.Get_library_version())
    if not belongs_together(launch.launcher, library):
        return report(
            (Host(gather_host(), (gather_rank(os.environ, launch=launch, before=before, mpi=library),)),)
        )
    MPI.Init_thread()
    try:
        return report_together(MPI.COMM_WORLD, launch, before, report)
    finally:
        MPI.Finalize()


def _first_line(version: str) -> str:
    return version.replace("\0", "\n").split("\n")[0].strip()


def _in_child(work: Callable[[], int], seconds: float) -> int:
    """Run `work` in a child process: MPI_Init can wait for ever with the interpreter locked, or end the process.

    Raises
    ------
    ChildProcessError
        The child could not load MPI, or ended without a result.
    HpcallocError
        It took too long.
    """
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(work, writing), daemon=True)
    child.start()
    writing.close()
    try:
        if not reading.poll(seconds):
            raise HpcallocError(
                message(
                    "doctor",
                    "MPI did not answer",
                    f"{seconds:g} s (--timeout)",
                    "--no-mpi checks each rank alone",
                )
            )
        answer = reading.recv()
    except EOFError:
        child.join()
        status = child.exitcode or 0
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        raise ChildProcessError(f"the process ended in MPI_Init: {how}") from None
    finally:
        child.kill()
        child.join()
    if isinstance(answer, Exception):
        raise answer
    return int(answer)


def _answer(work: Callable[[], int], writing: Connection) -> None:
    _die_with_parent()
    answer: int | Exception
    try:
        answer = work()
        sys.stdout.flush()
    except (ChildProcessError, HpcallocError) as error:
        answer = error
    except Exception:
        answer = RuntimeError(traceback.format_exc())
    writing.send(answer)


def _die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
