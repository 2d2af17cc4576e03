# SPDX-License-Identifier: BSD-3-Clause
"""One array over the ranks of a host, each rank's block in memory of that rank's node.

The memory is an MPI-3 shared window. Its pages are placed before anybody touches them: each rank gives its own
a policy, faults them in and, in a strict context, checks where they are. All of it is checked collectively first,
so that a rank that can't take part makes all ranks raise and none wait.

Synchronisation is MPI's for the unified memory model: the window stays in a passive-target epoch
(``MPI_Win_lock_all``), `SharedArray.sync` is ``MPI_Win_sync``, `SharedArray.barrier` is the same with a barrier.
"""

from __future__ import annotations

import contextlib
import math
import operator
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._native import _handler
from ..bind import mpi
from ..bind.rank import RankState
from ..exceptions import ContextClosedError, HpcallocError, message
from ..memory.placement import Placement, placement, range_placement
from .arguments import Arguments
from .layout import Blocks
from .window import Window

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["SLOT", "Array", "SharedArray"]

Array = npt.NDArray[Any]

SLOT = 64  # bytes of a lock's word, a cache line
_FREE, _NOT_SWAPPED = 0, -1  # in a lock's word, else the rank that has it plus 1; never in one


class SharedArray(_handler.Scope, np.lib.mixins.NDArrayOperatorsMixin):
    """One array over the ranks of a host; made by `Context.shared_empty` and `Context.shared_zeros`.

    Views are ordinary arrays. They stay valid whatever is freed, closed or finalised: they keep the memory, which
    goes back when the last view of the last rank is gone. `barrier`, `sync`, `lock` and `win` end with `free` or with
    the context.

    To NumPy it is the array `whole`: ``np.sum(a)`` and ``a + 1`` read all of it. What would write through it
    (``a += 1``, ``out=a``) is a TypeError, since every rank would do so: name `mine`, or rows of `whole`.

    Memory is ordered as MPI's unified model says: what a rank stores, others see for certain after both have called
    `barrier`; or after the one called `sync` and then told the other (a message, a `lock`), and that one called `sync`.
    Between two barriers a row may be written by one rank or read by many, not both.

    Attributes
    ----------
    whole, mine : numpy.ndarray
        All of it; this rank's block.
    whole_with_halo, mine_with_halo : numpy.ndarray
        The same and `halo` rows more on both sides along `axis`. Inside the host these are the neighbours' rows
        themselves. The rows before the first block and after the last are the array's own: boundary values, or what
        comes from other hosts.
    shape, dtype, axis, halo
        As asked for; `shape` is that of `whole`.
    rank, size : int
        Among the ranks of the host.
    bounds : tuple of (int, int)
        First row and the one after the last of each rank's block; start, stop : those of this rank's.
    own_pages, straddling : int
        Pages that are this rank's, and pages of the array in which blocks meet.
    win : mpi4py.MPI.Win or None
        The window; None where the host has one rank. Rank r's block begins at displacement `win_offset` of rank r's
        memory, in bytes.
    win_offset : int
        0 unless the MPI library's windows begin inside a page.
    closed : bool
    """

    def __init__(
        self,
        state: RankState,
        arguments: Arguments,
        blocks: Blocks,
        stored: Array,
        window: Window | None,
    ) -> None:
        self._arguments = arguments
        self._blocks = blocks
        self._stored: Array | None = stored
        self._window = window
        self._state = state
        self.rank: int = state.local_rank if window is not None else 0
        self.nodes: tuple[int, ...] = state.nodes
        self._held: dict[int, int] = {}  # lock -> thread of this process that has it
        self._mutex = threading.Lock()  # in place of a word in a window, where there is none

    # ---- what it is -----------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `whole`."""
        return self._arguments.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self._arguments.dtype

    @property
    def axis(self) -> int:
        """The axis that is split, 0 or more."""
        return self._arguments.axis

    @property
    def halo(self) -> int:
        """Rows of the halo on each side."""
        return self._arguments.halo

    @property
    def size(self) -> int:
        """Ranks of the host."""
        return self._blocks.ranks

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """First row and the one after the last of each rank's block."""
        return self._blocks.bounds

    @property
    def start(self) -> int:
        """First row of this rank's block."""
        return self.bounds[self.rank][0]

    @property
    def stop(self) -> int:
        """Row after the last of this rank's block."""
        return self.bounds[self.rank][1]

    @property
    def own_pages(self) -> int:
        """Pages that are this rank's."""
        return self._blocks.own_pages(self.rank)[1] // self._blocks.page

    @property
    def straddling(self) -> int:
        """Pages of the array in which blocks meet; each is on the node of the rank that has more of it."""
        return self._blocks.straddling

    @property
    def nbytes(self) -> int:
        """Bytes of the array and its halo."""
        return self._blocks.nbytes

    @property
    def closed(self) -> bool:
        """Whether `free` was called."""
        return self._stored is None

    def __repr__(self) -> str:
        state = " freed" if self.closed else ""
        return (
            f"<hpcalloc.SharedArray{state} {self._arguments}: rows {self.start} to {self.stop} are those of local "
            f"rank {self.rank} of {self.size}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            message(
                "SharedArray.__reduce__",
                "a shared array",
                "the ranks that made it",
                "pickle a copy of a view: a.whole.copy()",
            )
        )

    # ---- views ----------------------------------------------------------------------------------------

    def _rows(self, call: str, begin: int, end: int) -> Array:
        if self._stored is None:
            raise ContextClosedError(
                message(
                    f"SharedArray.{call}", "the array is freed", "before free()", "keep a view made before"
                )
            )
        return np.moveaxis(self._stored[begin:end], 0, self.axis)

    @property
    def whole(self) -> Array:
        """All of it, without the halo."""
        return self._rows("whole", self.halo, self.halo + self.shape[self.axis])

    @property
    def whole_with_halo(self) -> Array:
        """All of it and the rows of the halo at both ends."""
        return self._rows("whole_with_halo", 0, self.shape[self.axis] + 2 * self.halo)

    @property
    def mine(self) -> Array:
        """Block of this rank."""
        return self._rows("mine", self.start + self.halo, self.stop + self.halo)

    @property
    def mine_with_halo(self) -> Array:
        """Block of this rank and `halo` rows more on both sides."""
        return self._rows("mine_with_halo", self.start, self.stop + 2 * self.halo)

    def block(self, rank: int) -> Array:
        """Return the block of a rank of the host.

        Raises
        ------
        ValueError
            No such rank.
        """
        begin, end = self.bounds[self._checked_rank("block", rank)]
        return self._rows("block", begin + self.halo, end + self.halo)

    def placement(self) -> Placement:
        """Ask the kernel where this rank's pages are; `local_fraction` counts those on its nodes.

        Pages of other ranks' blocks count as untouched in this process until it has read them.
        """
        rows = self._rows("placement", 0, self.shape[self.axis] + 2 * self.halo)
        if self._window is None:
            return placement(rows, local_nodes=self.nodes)
        assert self._stored is not None
        offset, length = self._blocks.own_pages(self.rank)
        start = self._stored.__array_interface__["data"][0] + offset
        return range_placement(start, length, self.nodes, self.nodes)

    # ---- synchronisation ------------------------------------------------------------------------------

    @property
    def win(self) -> MPI.Win | None:
        """The MPI window, None where the host has one rank."""
        window = self._usable("win")
        return window.win if window is not None else None

    @property
    def win_offset(self) -> int:
        """Displacement of each rank's block in that rank's memory of `win`."""
        return self._window.offset if self._window is not None else 0

    def sync(self) -> None:
        """Order this rank's loads and stores before and after it with those of others: ``MPI_Win_sync``.

        Not collective, and no barrier.

        Raises
        ------
        ContextClosedError
            The array is freed, or its context closed.
        HpcallocError
            MPI is finalised, or not to be called from this thread or process.
        """
        window = self._usable("sync")
        if window is not None:
            window.win.Sync()

    def barrier(self) -> None:
        """Wait for all ranks of the host, and see what they stored before; collective over the host.

        ``MPI_Win_sync``, a barrier, ``MPI_Win_sync``. The window stays in its passive-target epoch.

        Raises
        ------
        HpcallocError
            A rank has left or did not come within HPCALLOC_TIMEOUT seconds; another thread is in a barrier of this
            array (below MPI_THREAD_MULTIPLE in any collective call). Others as of `sync`.
        """
        window = self._usable("barrier")
        if window is not None:
            call = f"SharedArray.barrier of array {window.number}"
            with window.ranks.one_call(call):
                window.win.Sync()
                window.ranks.meet(call)
                window.win.Sync()

    @contextlib.contextmanager
    def lock(self, rank: int | None = None, timeout: float | None = None) -> Iterator[None]:
        """Exclude others that lock the same block, and see what the last holder stored.

        A mutex per block, advisory and not re-entrant, taken by ``MPI_Compare_and_swap`` and given back by
        ``MPI_Fetch_and_op``, with ``MPI_Win_sync`` inside at both ends. It waits by polling.

        Parameters
        ----------
        rank : int, optional
            Whose block, by rank of the host; by default this rank's.
        timeout : float, optional
            Seconds to wait.

        Raises
        ------
        TimeoutError
            Another rank held it all the time.
        ValueError
            No such rank.
        HpcallocError
            This thread has it already. Others as of `sync`.
        """
        target = self._checked_rank("lock", self.rank if rank is None else rank)
        window = self._usable("lock")
        if self._held.get(target) == threading.get_ident():
            raise HpcallocError(
                message(
                    "SharedArray.lock",
                    f"block {target} is locked by this thread already",
                    "not re-entrant",
                    "leave the outer lock first",
                )
            )
        with self._among_threads(timeout) if window is None else self._among_ranks(window, target, timeout):
            try:
                self._held[target] = threading.get_ident()
                yield
            finally:
                self._held.pop(target, None)

    @contextlib.contextmanager
    def _among_threads(self, timeout: float | None) -> Iterator[None]:
        """Exclude the other threads of the only rank."""
        if not self._mutex.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise _locked(0, "another thread", timeout)
        try:
            yield
        finally:
            self._mutex.release()

    @contextlib.contextmanager
    def _among_ranks(self, window: Window, target: int, timeout: float | None) -> Iterator[None]:
        """Exclude the other ranks of the host, and other threads of this one, by the lock's word in the window."""
        # What was in the word when it was swapped. MPI writes it with the swap itself: whether the lock was taken is
        # known even if an interrupt (Ctrl-C) is the next thing that happens.
        found = np.array([_NOT_SWAPPED], np.int64)
        try:
            self._acquire(window, target, timeout, found)
            yield
        finally:
            if found[0] == _NOT_SWAPPED:
                window.win.Flush(self.size - 1)  # a swap that is under way
            if found[0] == _FREE:
                self._release(window, target)

    def _acquire(self, window: Window, target: int, timeout: float | None, found: Array) -> None:
        wanted, free = (np.array([value], np.int64) for value in (self.rank + 1, _FREE))
        last, at = self.size - 1, self._lock_offset(target)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        pause = 1e-6
        while True:
            found[0] = _NOT_SWAPPED
            window.win.Compare_and_swap(wanted, free, found, last, at)
            window.win.Flush(last)
            if found[0] == _FREE:
                break
            if time.monotonic() >= deadline:
                raise _locked(target, f"local rank {found[0] - 1}", timeout)
            time.sleep(pause)
            pause = min(2 * pause, 1e-3)
        window.win.Sync()

    def _release(self, window: Window, target: int) -> None:
        module = mpi.library()
        window.win.Sync()
        free, found = np.array([_FREE], np.int64), np.zeros(1, np.int64)
        last = self.size - 1
        window.win.Fetch_and_op(free, found, last, self._lock_offset(target), module.REPLACE)
        window.win.Flush(last)

    def _lock_offset(self, target: int) -> int:
        """Byte of a lock's word in the last rank's memory, behind its block."""
        locks = -(-self._blocks.nbytes // SLOT) * SLOT
        return self.win_offset + locks + SLOT * target - self._blocks.segments[-2]

    # ---- its end --------------------------------------------------------------------------------------

    def free(self) -> None:
        """Free the window; collective over the host, idempotent. Views that were taken stay valid.

        Where MPI is finalised already, or the context closed, there is nothing left to free.

        Raises
        ------
        HpcallocError
            MPI is not to be called from this thread: the array stays. A rank did not come within HPCALLOC_TIMEOUT
            seconds, has left, or frees another array: the window stays until MPI_Finalize.
        """
        window = self._window
        if window is None or not window.usable():
            self._stored = None
            return
        mpi.check_thread("SharedArray.free")
        with self._state.ranks.one_call("SharedArray.free"):
            self._stored = None
            window.free()
            if window in self._state.windows:
                self._state.windows.remove(window)

    def _enter(self) -> None:
        self._rows("__enter__", 0, 0)

    def _exit(self, kind: object) -> None:
        # When an exception unwinds this rank, the others may not be on their way to a collective call.
        if kind is None:
            self.free()

    # ---- as an array ----------------------------------------------------------------------------------

    __hash__ = object.__hash__  # of the object, although == is of the elements

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is None:
            return np.asarray(self.whole, dtype)
        return np.array(self.whole, dtype, copy=copy)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        written = [*keywords.get("out", ()), *(inputs[:1] if method == "at" else ())]
        if any(isinstance(array, SharedArray) for array in written):
            raise self._ambiguous(f"numpy.{ufunc.__name__} into it")
        read = [array.whole if isinstance(array, SharedArray) else array for array in inputs]
        return getattr(ufunc, method)(*read, **keywords)

    def __getitem__(self, key: object) -> NoReturn:
        raise self._ambiguous("an index")

    def __setitem__(self, key: object, value: object) -> NoReturn:
        raise self._ambiguous("an index")

    def __len__(self) -> NoReturn:
        raise self._ambiguous("len()")

    def _ambiguous(self, use: str) -> TypeError:
        limit = "a.whole (all ranks' rows) and a.mine (this rank's) are NumPy arrays"
        return TypeError(message("SharedArray", use, limit, "say which of the two is meant"))

    # ---- checks ---------------------------------------------------------------------------------------

    def _checked_rank(self, call: str, rank: SupportsIndex) -> int:
        try:
            rank = operator.index(rank)
        except TypeError:
            raise TypeError(message(f"SharedArray.{call}", f"rank={rank!r}", "an integer")) from None
        if not 0 <= rank < self.size:
            raise ValueError(
                message(
                    f"SharedArray.{call}",
                    f"rank={rank}",
                    f"ranks of this host, 0 to {self.size - 1}",
                )
            )
        return rank

    def _usable(self, name: str) -> Window | None:
        call = f"SharedArray.{name}"
        self._rows(name, 0, 0)
        window = self._window
        if window is None:
            return None
        if window.freed:
            raise ContextClosedError(
                message(
                    call,
                    "the context is closed",
                    "an open context; views stay valid",
                    "close it after the last use",
                )
            )
        if window.pid != os.getpid():
            raise HpcallocError(
                message(call, "a forked child", "the process that called MPI_Init", "use the views alone")
            )
        mpi.check_usable(call)
        return window


def _locked(target: int, holder: str, timeout: float | None) -> TimeoutError:
    return TimeoutError(
        message(
            "SharedArray.lock",
            f"block {target} is locked by {holder}",
            f"timeout={timeout} s",
            "wait longer, or look for a lock that is not left",
        )
    )
