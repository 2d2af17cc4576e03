# SPDX-License-Identifier: BSD-3-Clause
"""Every collective call: ranks meet, agree on one outcome, and say which rank did not come.

A collective call of hpcalloc begins with `Ranks.meet`, a non-blocking reduction that each rank waits for by polling,
no longer than HPCALLOC_TIMEOUT seconds and without a lock. It tells all ranks whether one has an error, is in another
call, or has left. All that follows waits in the same way. A blocking call of MPI (a split, a window) is made only
after two meetings in a row (`Ranks.together`). If a rank gives up in the first meeting, it is not in the second, so no
rank passes the second. A rank that has passed the first makes the call, even if a signal handler raises in between.

Collective calls on one communicator must have the same order on all ranks, which two threads would not keep: each call
that users make is inside `Ranks.one_call`, which refuses a second one.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .. import exceptions
from .._native import _handler
from ..exceptions import HpcallocError, message
from .mpi import check_thread, check_usable, is_up, library, quiet

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["OneCall", "Ranks", "seconds_to_wait", "split_by_host", "tell_late"]

T = TypeVar("T")

TIMEOUT = "HPCALLOC_TIMEOUT"
_SECONDS = 600.0  # of it when it is not set
_SPIN = 2e-4  # seconds of polling before the first sleep
_HERE, _ANSWER = 32761, 32762  # tags of the roll call; MPI has at least 32767
_WHO = -1  # in place of the number of missing ranks: rank 0 asks which ranks are here
_PATIENCE = 1.0  # seconds in which ranks that wait answer rank 0
_LOOK = 0.01  # seconds of waiting before a rank looks for rank 0's question
_NAMED = 16  # ranks that a message names


def seconds_to_wait(call: str) -> float:
    """Return the time limit of collective calls; HpcallocError if HPCALLOC_TIMEOUT is not one."""
    text = os.environ.get(TIMEOUT, "")
    if not text:
        return _SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise HpcallocError(message(call, f"{TIMEOUT}={text!r}", "seconds; 0: no limit"))
    return seconds or math.inf


# ---- one call at a time -----------------------------------------------------------------------------------

Calls = dict[int, "OneCall"]  # the call that is under way, by process: a forked child is in none


class _Thread(threading.local):
    def __init__(self) -> None:
        self.under_way: Calls = {}


_thread = _Thread()
_process: Calls = {}


class OneCall(_handler.Scope):
    """A collective call. While it runs it refuses a second one: by this thread, in a signal handler, or as `under_way` says.

    Raises
    ------
    HpcallocError
        On entering: another call is under way.
    """

    def __init__(self, call: str, *under_way: Calls) -> None:
        self._call, self._under_way = call, (_thread.under_way, *under_way)

    def _enter(self) -> None:
        for calls in self._under_way:
            other = calls.setdefault(os.getpid(), self)  # at once, whatever thread or handler comes
            if other is self:
                continue
            here = calls is _thread.under_way
            value = (
                f"inside of {other._call}, in a signal's handler"
                if here
                else f"another thread is in {other._call}"
            )
            remedy = (
                "let the handler set a flag, and call it later" if here else "let one thread make these calls"
            )
            raise HpcallocError(message(self._call, value, "one collective call at a time", remedy))

    def _exit(self, kind: object) -> None:
        for calls in self._under_way:
            if calls.get(os.getpid()) is self:
                del calls[os.getpid()]


# ---- ranks that meet --------------------------------------------------------------------------------------


class Ranks:
    """The ranks of a communicator, and every way in which they wait for each other; without one, this process alone.

    Attributes
    ----------
    comm : mpi4py.MPI.Intracomm or None
    ours : bool
        Only hpcalloc uses `comm`. Otherwise messages do not name a rank that is missing.
    rank, size : int
    broken : str
        Why no further meeting is possible: a rank did not come, or left; "" if one is.
    left : bool
        Whether `broken` is because a rank has left.
    """

    def __init__(self, comm: MPI.Comm | None, ours: bool = True) -> None:
        """Use a communicator; on one that is not `ours` no message is sent, since the user might receive it."""
        self.comm = comm
        self.ours = ours
        self.rank: int = comm.Get_rank() if comm is not None else 0
        self.size: int = comm.Get_size() if comm is not None else 1
        self.broken = ""
        self.left = False
        self._pid = os.getpid()
        self._all = np.zeros(4, np.int64)  # what the last meeting came to
        self._posted: list[MPI.Request] = []  # the meeting that is under way
        self._seconds: float | None = None  # in place of HPCALLOC_TIMEOUT
        self._under_way: Calls = {}
        self._number = 0  # of waits, to tell the messages of one roll call from those of another

    @property
    def alone(self) -> bool:
        """Whether there is no rank to wait for: one rank, or a forked child."""
        return self.comm is None or self.size == 1 or self._pid != os.getpid()

    def one_call(self, call: str) -> OneCall:
        """Return a context manager for a collective call that users make."""
        level = library().Query_thread() if not self.alone and is_up() else None
        serialized = level is not None and level < library().THREAD_MULTIPLE
        return OneCall(call, _process if serialized else self._under_way)

    def meet(self, call: str, error: Exception | None = None) -> None:
        """Wait until all ranks are in this call, and raise on all of them if one has an error; collective.

        Raises
        ------
        Exception
            The rank's own error, or that of the lowest rank that has one, of the same class and with its rank in the
            message.
        HpcallocError
            MPI may not be called here. Not all ranks have come within HPCALLOC_TIMEOUT seconds, one has left its
            context by an exception, or is in another call.
        """
        if self.comm is not None and self._pid == os.getpid():
            self._check(call)
        if self.alone:
            if error is not None:
                raise error
            return
        self._post(call, error is not None, False)
        failed, left, key, negative = self._all.tolist()
        if left < self.size:
            self.left = True
            self.broken = f"rank {left} of {self.size} has left its context or ended"
            raise error or HpcallocError(message(call, self.broken, "all ranks in the same call"))
        if key != -negative:
            self.broken = self._different(call)
            raise HpcallocError(message(call, self.broken, "the same calls in the same order on all ranks"))
        if failed == self.size:
            return
        told = (type(error).__name__, str(error), getattr(error, "errno", None)) if error else None
        name, text, code = self._bcast(call, told, failed)
        raise error or _as_here(name, f"on rank {failed} of {self.size}: {text}", code)

    def together(self, call: str, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function of MPI that waits for all ranks without a limit; collective.

        `function` must be in C: no signal's handler runs between its return and the place where its result is kept.
        """
        if self.alone:
            return function(*arguments)
        made: list[T] = []
        work = functools.partial(made.extend, itertools.starmap(function, [arguments]))
        self.meet(call)
        self._posted.clear()
        end = time.monotonic() + seconds_to_wait(call)
        try:
            self.meet(call)
        except BaseException:
            # All have passed the first meeting. If this rank is in the second, they will be in the call.
            _handler.insist(functools.partial(self._keep_word, end, call, work))
            raise
        _handler.insist(work)
        return made[0]

    def _keep_word(self, end: float, call: str, work: Callable[[], object]) -> None:
        if not self._posted or self.left:
            return
        while not self._posted[-1].Test():
            if time.monotonic() > end:
                return
            time.sleep(1e-3)
        failed, left, key, negative = self._all.tolist()
        if failed == left == self.size and key == -negative:
            work()

    def leave(self) -> None:
        """Tell the other ranks that this one takes part in no further collective call. They may be in any."""
        if self.alone or self.broken or not is_up():
            return
        self.broken = f"rank {self.rank} of {self.size} has left its context"
        try:
            check_thread("leave")
        except HpcallocError:
            _to_tell.append(self)  # by the main thread, at its end
            return
        self._tell_leaving()

    def _tell_leaving(self) -> None:
        with contextlib.suppress(Exception):  # the others have the time limit
            self._post("leave", False, True)

    def allgather(self, call: str, value: T) -> list[T]:
        """Return what each rank says; collective, after a meeting."""
        if self.alone:
            return [value]
        self._check(call)
        assert self.comm is not None
        data = np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), np.uint8)
        sizes = np.empty(self.size, np.int64)
        self._wait(call, functools.partial(self.comm.Iallgather, np.array([data.size]), sizes))
        everything = np.empty(int(sizes.sum()), np.uint8)
        self._wait(call, functools.partial(self.comm.Iallgatherv, data, [everything, sizes]))
        return _split(everything, sizes)

    def gather(self, call: str, value: T) -> list[T] | None:
        """Return what each rank says on rank 0, None elsewhere; collective. It begins with a meeting."""
        self.meet(call)
        if self.alone:
            return [value]
        assert self.comm is not None
        data = np.frombuffer(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), np.uint8)
        sizes = np.zeros(self.size if self.rank == 0 else 0, np.int64)
        self._wait(call, functools.partial(self.comm.Igather, np.array([data.size]), sizes))
        everything = np.empty(int(sizes.sum()), np.uint8)
        target = [everything, sizes] if self.rank == 0 else None
        self._wait(call, functools.partial(self.comm.Igatherv, data, target))
        return _split(everything, sizes) if self.rank == 0 else None

    def any(self, call: str, mine: bool) -> bool:
        """Return whether one of the ranks says so; collective, after a meeting."""
        if self.alone:
            return mine
        self._check(call)
        assert self.comm is not None
        said, least = np.array([not mine], np.int64), np.empty(1, np.int64)
        self._wait(call, functools.partial(self.comm.Iallreduce, said, least, library().MIN))
        return not least[0]

    def bcast(self, call: str, value: T | None) -> T:
        """Return what rank 0 says; collective, after a meeting."""
        result: T = value if self.alone else self._bcast(call, value, 0)  # type: ignore[assignment]
        return result

    def duplicate(self, call: str) -> Ranks:
        """Return the same ranks with a communicator of their own; collective, after a meeting."""
        if self.comm is None:
            return self
        # Not Idup: one that a rank does not come to would keep Open MPI from making any communicator after it.
        return Ranks(quiet(self.together(call, self.comm.Dup)))

    # ---- how it is done ---------------------------------------------------------------------------------

    def _check(self, call: str) -> None:
        check_usable(call)
        if self.broken:
            raise HpcallocError(message(call, self.broken, "all ranks in the same call"))

    def _post(self, call: str, failing: bool, leaving: bool) -> None:
        """Reduce what each rank has to say; wait for it unless this rank is leaving."""
        assert self.comm is not None
        import zlib  # not needed without MPI

        key, nobody = zlib.crc32(call.encode()), self.size
        mine = np.array(
            [self.rank if failing else nobody, self.rank if leaving else nobody, key, -key], np.int64
        )
        everyone = np.zeros(4, np.int64)
        post = functools.partial(self.comm.Iallreduce, mine, everyone, library().MIN)
        if leaving:
            _handler.keep_for_ever(post)  # its buffers, as in _wait
            _handler.keep_for_ever(post())
        else:
            self._posted.clear()
            self._all = everyone
            self._wait(call, post, self._posted)

    def _bcast(self, call: str, value: Any, root: int) -> Any:
        self._check(call)
        assert self.comm is not None
        data = np.empty(0, np.uint8)
        if self.rank == root:
            data = np.frombuffer(bytearray(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)), np.uint8)
        size = np.array([data.size], np.int64)
        self._wait(call, functools.partial(self.comm.Ibcast, size, root))
        if self.rank != root:
            data = np.empty(int(size[0]), np.uint8)
        self._wait(call, functools.partial(self.comm.Ibcast, data, root))
        return value if self.rank == root else pickle.loads(data.tobytes())

    def _different(self, call: str) -> str:
        """Say which rank is in which call, if the others answer: they may have given up the meeting."""
        self._seconds = min(_PATIENCE, seconds_to_wait(call))
        try:
            calls = self.allgather(call, call)
        except HpcallocError:
            return f"rank {self.rank} of {self.size} is in {call}, another rank is not, or has given up"
        finally:
            self._seconds = None
        other = next((rank for rank, theirs in enumerate(calls) if theirs != call), self.rank)
        return f"rank {self.rank} is in {call}, rank {other} in {calls[other]}"

    def _wait(
        self, call: str, post: Callable[[], MPI.Request], posted: list[MPI.Request] | None = None
    ) -> None:
        """Post a request, note it in `posted`, and poll until it is done, for at most HPCALLOC_TIMEOUT seconds."""
        assert self.comm is not None
        posted = [] if posted is None else posted
        self._number += 1
        done = False
        try:
            # In C, so that no signal handler runs between posting the request and noting it.
            posted.extend(itertools.starmap(post, [()]))
            request = posted[-1]
            seconds = seconds_to_wait(call) if self._seconds is None else self._seconds
            patience = min(_PATIENCE, seconds / 4)
            start, pause, roll = time.monotonic(), 1e-5, None
            while not request.Test():
                waited = time.monotonic() - start
                if waited < _SPIN:
                    os.sched_yield()
                    continue
                if not self.ours and waited > seconds:
                    raise HpcallocError(self._too_late(call, waited, seconds, ()))
                if self.ours and waited > _LOOK:
                    roll = roll or _RollCall(self)
                    missing = roll.missing(waited - seconds, patience)
                    if missing is not None:
                        raise HpcallocError(self._too_late(call, waited, seconds, missing))
                time.sleep(pause)
                pause = min(1.5 * pause, 1e-3)
            done = True
        finally:
            if posted and not done:
                self.broken = self.broken or f"an earlier call on rank {self.rank} of {self.size} gave up"
                # MPI may write to the buffers until MPI_Finalize, which comes after the end of the interpreter.
                _handler.keep_for_ever((post, *posted))

    def _too_late(self, call: str, waited: float, seconds: float, missing: tuple[int, ...]) -> str:
        ranks = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
        who = f"rank {ranks} has" if len(missing) == 1 else f"ranks {ranks} have"
        who = who if missing else "a rank has"
        self.broken = f"{who} not come to {call}"
        return message(
            call,
            f"rank {self.rank} of {self.size} waited {waited:.0f} s and {who} not come",
            f"{TIMEOUT}={seconds:g} s",
            "see what the missing rank says: it has ended, or failed, or may not call MPI where it is; "
            f"if it is only late, export {TIMEOUT}=SECONDS (0: no limit)",
        )


_to_tell: list[Ranks] = []  # that this rank has left them, in a thread that may not call MPI


def tell_late() -> None:
    """In the main thread, tell the ranks that this one has left; another thread could not."""
    while _to_tell:
        ranks = _to_tell.pop()
        if is_up() and not ranks.alone:
            ranks._tell_leaving()


class _RollCall:
    """Finds the missing ranks when the time of one is up; a healthy program sends nothing.

    That rank tells rank 0, which asks all. Ranks that wait answer, and rank 0 tells them which ranks are missing.
    """

    def __init__(self, ranks: Ranks) -> None:
        assert ranks.comm is not None
        self._ranks, self._comm = ranks, ranks.comm
        self._present = {0}
        self._told = False  # rank 0: has asked; others: have said that they are here
        self._end = 0.0  # of rank 0's waiting for answers

    def missing(self, late: float, patience: float) -> tuple[int, ...] | None:
        """If this rank is to give up, return the ranks that have not come; None if it is to wait on.

        `late`: seconds since its time was up. `patience`: seconds in which ranks answer.
        """
        if self._ranks.rank == 0:
            return self._at_the_root(late >= 0, patience)
        return self._elsewhere(late >= 0, late > 2 * patience)

    def _at_the_root(self, late: bool, patience: float) -> tuple[int, ...] | None:
        word, status = np.empty(1, np.int64), library().Status()
        while self._comm.Iprobe(source=library().ANY_SOURCE, tag=_HERE, status=status):
            self._comm.Recv(word, source=status.Get_source(), tag=_HERE)
            if word[0] == self._ranks._number:
                self._present.add(status.Get_source())
        if not self._told:
            if late or len(self._present) > 1:
                self._told, self._end = True, time.monotonic() + patience
                self._tell(range(1, self._ranks.size), _WHO)
            return None
        if time.monotonic() < self._end:
            return None
        absent = [rank for rank in range(self._ranks.size) if rank not in self._present]
        self._tell(self._present - {0}, len(absent), absent[:_NAMED])
        return tuple(absent)

    def _elsewhere(self, late: bool, over: bool) -> tuple[int, ...] | None:
        words = np.empty(2 + _NAMED, np.int64)
        asked = late
        while self._comm.Iprobe(source=0, tag=_ANSWER):
            self._comm.Recv(words, source=0, tag=_ANSWER)
            if words[0] != self._ranks._number:
                continue
            if words[1] != _WHO:
                named = words[2 : 2 + min(int(words[1]), _NAMED)].tolist()
                return (*named, *([-1] if words[1] > _NAMED else []))
            asked = True
        if asked and not self._told:
            self._told = True
            self._send(0, _HERE, np.array([self._ranks._number], np.int64))
        return (0,) if over else None  # rank 0 does not answer: it is not here

    def _tell(self, to: Iterable[int], count: int, absent: Sequence[int] = ()) -> None:
        words = np.full(2 + _NAMED, -1, np.int64)
        words[:2] = self._ranks._number, count
        words[2 : 2 + len(absent)] = absent
        for rank in to:
            self._send(rank, _ANSWER, words)

    def _send(self, to: int, tag: int, words: Any) -> None:
        _handler.keep_for_ever(words)
        _handler.keep_for_ever(self._comm.Isend(words, to, tag))


def _split(everything: Any, sizes: Any) -> list[Any]:
    ends = np.cumsum(sizes).tolist()
    data = everything.tobytes()
    return [pickle.loads(data[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def _as_here(name: str, text: str, code: int | None) -> Exception:
    known: dict[str, type[Exception]] = {"TypeError": TypeError, "ValueError": ValueError}
    known |= {n: getattr(exceptions, n) for n in exceptions.__all__ if n.endswith("Error")}
    kind = known.get(name)
    if kind is None:
        return HpcallocError(f"{text} ({name})")
    return kind(code, text) if issubclass(kind, OSError) and code is not None else kind(text)


# ---- ranks of a host --------------------------------------------------------------------------------------


def split_by_host(comm: MPI.Comm, told: int | None) -> tuple[MPI.Comm, bool]:
    """Split a communicator by host, ranks in their order; collective, after a meeting.

    By default by ``MPI_COMM_TYPE_SHARED``. If a library does not understand its launcher (Open MPI's wheel under Slurm's
    pmix plugin), every rank is alone there and would plan for the whole host. If the launcher has started more ranks
    here than MPI finds, ranks with the same kernel identity are of one host.

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
    ranks = Ranks(comm, ours=False)
    rank = ranks.rank
    node: MPI.Comm = ranks.together("split", comm.Split_type, library().COMM_TYPE_SHARED, rank)
    seen = node.Get_size()
    if not ranks.any("split", seen < min(told or 1, ranks.size)):
        return node, False
    node.Free()
    # A colour has 31 bits: two splits, each by half of the 62.
    key = _host_key()
    half = ranks.together("split", comm.Split, key >> 31 & 0x7FFFFFFF, rank)
    node = Ranks(half).together("split", half.Split, key & 0x7FFFFFFF, rank)
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
