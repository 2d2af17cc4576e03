# SPDX-License-Identifier: BSD-3-Clause
"""Pins all threads of the process to CPUs, sizes its BLAS and OpenMP pools to match, and puts both back.

Affinity places memory too: a thread that can't leave its node first-touches there, and hpcalloc's arrays have
their own policy. The memory policy of the process (``set_mempolicy``) stays: a thread can set only its own, and
one inherited from ``numactl`` or ``srun --mem-bind`` was set by the user. `inherited_memory_policy` returns it.

If a thread's mask equals the main thread's old one, it is moved. A thread with another mask was pinned on purpose
(an OpenMP runtime under OMP_PLACES, an MPI progress thread) and stays. A thread that is started during the walk
inherits the old or the new mask, so the walk is repeated until it finds no thread to move.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import _native
from .._native.errors import error_for
from ..discover.topology import format_ids
from ..exceptions import BindingError

__all__ = ["Binding", "ThreadPool", "apply", "inherited_memory_policy", "openmp_binding", "undo_openmp"]

# What a user sets to size a pool, by threadpoolctl's internal_api.
_POOL_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "flexiblas": ("FLEXIBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
}
_PASSES = 1000  # walks over the threads; a process that starts threads all the time has no last one


class ThreadPool(NamedTuple):
    """A BLAS or OpenMP thread pool that was resized, or left alone for a reason."""

    library: str  # "openblas", "openmp", "mkl", ...
    before: int  # threads
    after: int
    kept_for: str = ""  # the environment variable that asked for this size, when it was left alone


@dataclass(eq=False)
class Binding:
    """A change of affinity and thread pools: made by `apply`, taken back by `restore`.

    Each change is noted here before it is made: an interrupted `apply` can be taken back, an interrupted `restore`
    repeated.
    """

    after: frozenset[int]
    before: frozenset[int] = field(default_factory=lambda: frozenset(os.sched_getaffinity(os.getpid())))
    moved: list[int] = field(default_factory=list)  # thread ids
    left_alone: int = 0  # threads with a mask of their own
    _pools: list[ThreadPool] = field(default_factory=list, repr=False)
    _resized: list[tuple[Any, int]] = field(
        default_factory=list, repr=False
    )  # libraries with their former sizes
    _bystanders: frozenset[tuple[int, str]] | None = field(
        default=None, repr=False
    )  # None: nothing is moved yet
    _restored: bool = False

    @property
    def pools(self) -> tuple[ThreadPool, ...]:
        """Pools that were resized, or kept for a variable that is set."""
        return tuple(self._pools)

    def apply(self, *, threads: int | None = None, explicit_threads: bool = False) -> None:
        """Pin the threads of the process and size its pools; see `apply`. An error leaves nothing changed."""
        before, wanted = self.before, self.after
        if wanted != before:
            bystanders = frozenset((tid, _birth(tid)) for tid in _threads() if _mask(tid) == wanted)
            self._bystanders = bystanders
            try:
                _move_threads("apply", before, wanted, bystanders, self.moved)
            except BindingError:
                with contextlib.suppress(BindingError):  # the error below says more
                    _move_threads("apply", wanted, before, bystanders, [])
                raise
            self.left_alone = sum(_mask(tid) not in (wanted, None) for tid in _threads())
        # Without a size, a pool has as many threads as there were CPUs when it was loaded.
        if threads is not None and (explicit_threads or threads != len(before)):
            _size_pools(threads, explicit_threads, self._pools, self._resized)

    def restore(self) -> None:
        """Give every thread that still has the new mask the old one, and the pools their size. Idempotent.

        Threads that were started since then are moved as well; one that has changed its mask is left alone.

        Raises
        ------
        BindingError
            The kernel refuses the old mask, for instance because the cpuset has shrunk.
        """
        if self._restored:
            return
        for library, size in self._resized:
            library.set_num_threads(size)
        try:
            if self._bystanders is not None:
                _move_threads("restore", self.after, self.before, self._bystanders, [])
        except BindingError:
            self._restored = True
            raise
        self._restored = True


def apply(cpus: Iterable[int], *, threads: int | None = None, explicit_threads: bool = False) -> Binding:
    """Pin the threads of the process to `cpus` and size its pools.

    Parameters
    ----------
    cpus : iterable of int
        Logical CPUs; those the main thread has already change nothing.
    threads : int, optional
        Size of the BLAS and OpenMP pools; None leaves them alone.
    explicit_threads : bool
        `threads` was asked for in the program and wins over OMP_NUM_THREADS and its like.

    Returns
    -------
    Binding

    Raises
    ------
    BindingError
        The kernel refuses; nothing is changed then.
    """
    wanted = frozenset(cpus)
    if not wanted:
        raise error_for(errno.EINVAL, "apply", "no CPU", "at least one", "name a CPU", kind=BindingError)
    binding = Binding(wanted)
    binding.apply(threads=threads, explicit_threads=explicit_threads)
    return binding


# ---- what an OpenMP runtime took ----------------------------------------------------------------------

_OPENMP = re.compile(r"/lib(gomp|omp|iomp5)\b[^/]*$")


def undo_openmp(leave: bool) -> tuple[frozenset[int], str]:
    """Give the main thread the CPUs back that an OpenMP runtime took; return its CPUs and a note.

    If OMP_PROC_BIND or a similar variable is set, a runtime binds the thread that loads it to its first place. Later
    threads and child processes (joblib, BLAS) inherit that place, though the variable is meant for OpenMP's threads.
    The former CPUs are those of all places of the runtime.

    Parameters
    ----------
    leave : bool
        Change nothing, only return the note.
    """
    mine = frozenset(os.sched_getaffinity(os.getpid()))
    name = openmp_binding(os.environ)
    if name is None:
        return mine, ""
    told = f"{name}={os.environ[name]}: an OpenMP runtime binds the thread that loads it to one place"
    wide = next((cpus for cpus in map(_places, _runtimes()) if cpus > mine), None)
    if wide is None:
        return (
            mine,
            f"{told}, and all threads and children made after that; export OMP_PROC_BIND=false prevents it",
        )
    told += f"; CPUs {format_ids(mine)} were left of {format_ids(wide)}"
    if leave:
        return mine, f"{told} (export OMP_PROC_BIND=false prevents it)"
    try:
        _move_threads("init", mine, wide, frozenset(), [])
    except BindingError as error:
        return mine, f"{told}; {error}"
    return wide, f"{told}: given back"


def openmp_binding(environ: Mapping[str, str]) -> str | None:
    """Return the name of the variable by which OpenMP runtimes bind threads in this environment; None without one."""
    if environ.get("OMP_PROC_BIND", "").strip().lower() == "false":
        return None
    if environ.get("KMP_AFFINITY", "").lower() in ("none", "disabled") and not environ.get("OMP_PROC_BIND"):
        return None
    return next((n for n in ("OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY") if environ.get(n)), None)


def _runtimes() -> list[str]:
    """Return the paths of the OpenMP runtimes that are loaded."""
    try:
        with open("/proc/self/maps", errors="replace") as maps:
            paths = (line.split(None, 5)[5].strip() for line in maps if line.count("/"))
            return sorted({path for path in paths if _OPENMP.search(path)})
    except (OSError, IndexError):
        return []


def _places(path: str) -> frozenset[int]:
    """Return the CPUs of all places of a loaded OpenMP runtime; none where it can't be asked."""
    import ctypes  # takes a while to import

    try:
        runtime = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        cpus: set[int] = set()
        for place in range(runtime.omp_get_num_places()):
            ids = (ctypes.c_int * max(runtime.omp_get_place_num_procs(place), 0))()
            runtime.omp_get_place_proc_ids(place, ids)
            cpus.update(ids)
        return frozenset(cpus)
    except (OSError, AttributeError):
        return frozenset()


# ---- threads ----------------------------------------------------------------------------------------


def _threads() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:  # no /proc: the calling thread is all that can be reached
        return [threading.get_native_id()]


def _mask(tid: int) -> frozenset[int] | None:
    try:
        return frozenset(os.sched_getaffinity(tid))
    except OSError:  # ended
        return None


def _birth(tid: int) -> str:
    """Return the thread's start time, which tells it from a later thread of the same id."""
    try:
        with open(f"/proc/self/task/{tid}/stat", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _move_threads(
    call: str,
    old: frozenset[int],
    new: frozenset[int],
    bystanders: frozenset[tuple[int, str]],
    moved: list[int],
) -> None:
    """Give the mask `new` to all threads that have `old`, and note them in `moved`."""
    spared = dict(bystanders)
    for _ in range(_PASSES):
        found = False
        for tid in _threads():
            if _mask(tid) != old or (tid in spared and spared[tid] == _birth(tid)):
                continue
            try:
                os.sched_setaffinity(tid, new)
            except ProcessLookupError:
                continue  # ended
            except OSError as error:
                raise _refused(call, tid, new, error.errno or errno.EPERM) from error
            if _mask(tid) not in (new, None):  # the kernel cuts a mask down to the cpuset without a word
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(tid, old)
                raise _refused(call, tid, new, errno.EINVAL)
            found = True
            moved.append(tid)
        if not found:
            return
    raise error_for(
        errno.EAGAIN,
        call,
        f"{len(moved)} threads moved to CPUs {format_ids(new)}",
        f"{_PASSES} passes, each of which found new threads",
        "call it while no other thread starts threads",
        kind=BindingError,
    )


def _refused(call: str, tid: int, cpus: frozenset[int], code: int) -> Exception:
    allowed = ""
    try:
        with open("/proc/self/status", errors="replace") as status:
            allowed = next(line.split()[1] for line in status if line.startswith("Cpus_allowed_list:"))
    except (OSError, StopIteration):
        pass
    return error_for(
        code,
        call,
        f"sched_setaffinity of thread {tid} to CPUs {format_ids(cpus)}",
        f"the CPUs of the process's cpuset (now {allowed or 'unknown'})",
        "ask the launcher for these CPUs, or pass bind='off'",
        kind=BindingError,
    )


# ---- pools ------------------------------------------------------------------------------------------


def _size_pools(
    threads: int, explicit: bool, pools: list[ThreadPool], resized: list[tuple[Any, int]]
) -> None:
    """Resize the loaded pools; note former sizes in `resized`, and what a report says in `pools`."""
    had = "KMP_DUPLICATE_LIB_OK" in os.environ
    import threadpoolctl  # imported here: it is slow, and sets that variable, which children would inherit

    if not had:
        os.environ.pop("KMP_DUPLICATE_LIB_OK", None)
    for library in threadpoolctl.ThreadpoolController().lib_controllers:
        before = library.num_threads
        name = str(library.internal_api)
        if before is None or before == threads:
            continue
        asked = next((v for v in _POOL_VARIABLES.get(name, ("OMP_NUM_THREADS",)) if os.environ.get(v)), "")
        if asked and not explicit:
            pools.append(ThreadPool(name, before, before, asked))
            continue
        resized.append((library, before))
        library.set_num_threads(threads)
        pools.append(ThreadPool(name, before, library.num_threads))


# ---- memory policy ------------------------------------------------------------------------------------


# The kernel's numbers (MPOL_* of linux/mempolicy.h) and flags, with the words of /proc/PID/numa_maps for them.
_MODES = ("default", "prefer", "bind", "interleave", "local", "prefer (many)", "weighted interleave")
_MODE_FLAGS = {1 << 15: "static", 1 << 14: "relative", 1 << 13: "balancing"}


def inherited_memory_policy() -> str:
    """Return the calling thread's memory policy, ``default`` if none is set; "" if it can't be read.

    In the words of ``/proc/PID/numa_maps``, such as ``bind:0-1``. (Reading that file would walk all pages.)
    """
    policy = _native.memory_policy()
    if isinstance(policy, int):
        return ""
    number, nodes = policy
    flags = [word for flag, word in _MODE_FLAGS.items() if number & flag]
    number &= ~sum(_MODE_FLAGS)
    name = _MODES[number] if number < len(_MODES) else f"policy {number}"
    return name + (f"={'|'.join(flags)}" if flags else "") + (f":{format_ids(nodes)}" if nodes else "")
