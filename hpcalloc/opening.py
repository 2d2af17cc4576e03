# SPDX-License-Identifier: BSD-3-Clause
"""From ``hpcalloc.init`` to the last ``close``: the contexts that are open in this process, and what they share.

The story in order: meet the ranks, gather how each of this host was started, plan and pin (`bind.rank`), agree that
all ranks succeeded, and make the plan's placement the policy of arrays made from now on.

Contexts of a process form a stack; there is one pinning, so a second ``init`` while a context is open must
ask for the same and shares it. The last one to close puts everything back, in whatever order they are
closed. No lock is held while a rank waits for others.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ._native import lib
from .bind import mpi, rank
from .bind.affinity import undo_openmp
from .bind.agreement import Ranks, tell_late
from .bind.rank import InitOptions, RankState
from .discover.launcher import this_launch
from .exceptions import PlanError, message
from .memory import arrays
from .memory.handlers import handler_of
from .plan.ranks import LauncherBinding
from .policy import Policy

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["OpenContext", "Opening", "innermost", "release"]


class OpenContext(Protocol):
    """The state of a context that this module needs."""

    _state: RankState
    _closed: bool

    @property
    def policy(self) -> Policy:
        """Of arrays made without one."""

    def _exit(self, kind: object) -> None: ...  # close it, alone


C = TypeVar("C", bound=OpenContext)

_lock = threading.Lock()  # guards what follows; never held over a wait
_open: list[Any] = []  # contexts, innermost last
_state: RankState | None = None  # what they share
_busy: int | None = None  # thread that makes a state, or takes one back
_free = threading.Condition(_lock)  # _busy is None again
_unbound = Policy("local")  # without a context


def _after_fork() -> None:
    global _lock, _free, _busy, _state
    _lock = threading.Lock()  # its holder may be a thread that the child does not have
    _free = threading.Condition(_lock)
    if _busy not in (None, threading.get_ident()):
        _busy = None
        _state = _open[-1]._state if _open else None


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _at_exit() -> None:
    """Tell the ranks that wait for this one, now or later."""
    if _state is not None:
        _state.leave()
    tell_late()


def innermost() -> Any:
    """Return the innermost open context of the process, None without one."""
    with _lock:
        return _open[-1] if _open else None


class Opening(Generic[C]):
    """One call of `init`, with the steps done so far: an interrupted call can be undone."""

    def __init__(self, comm: MPI.Intracomm | None, make: Callable[[RankState], C]) -> None:
        self.comm = comm
        self.make = make
        self.begun = False
        self.state: RankState | None = None
        self.context: C | None = None

    def run(self, bind: Any, policy: Any, strict: Any, threads: Any, share: Any, near: Any) -> C:
        """Do what `init` does."""
        self.begun = True
        theirs = Ranks(self.comm, ours=False)
        error: Exception | None = None
        options: InitOptions | None = None
        try:
            if share is not None and self.comm is not None:
                remedy = "leave share out: the communicator tells it"
                raise PlanError(message("init", "share= and comm=", "one of them", remedy))
            options = rank.check_options(bind, policy, strict, threads, share, near)
            self.enter(options)
        except Exception as bad:
            error = bad
        # All ranks of all hosts have a context open, or none.
        theirs.meet("init" if self.state is None else "init inside of a context", error)
        assert options is not None
        launch = this_launch()
        ranks = theirs.duplicate("init")
        host, missed = rank.host_of(ranks, launch.local_size)
        affinity, taken = undo_openmp(leave=bind == "off" or self.state is not None)
        binding = LauncherBinding(affinity, launch.launcher, launch.explicit)
        requests = host.allgather("init", rank.request_of(binding, options))
        try:
            rank.check_same(requests)
            if self.state is None:
                self.state = rank.prepare(options, self.comm, ranks, host, missed, launch, requests, taken)
                if os.environ.get("HPCALLOC_REPORT"):
                    from .report import files  # not needed by most

                    files.attach(self.state)
                rank.bind(self.state)
            handler_of(self.state.policy)  # NodeError now, not at the first array
            lib.numalloc_purger()  # a solver computes for long without a call; 0 or ENOTSUP
        except Exception as bad:
            error = bad
        try:
            ranks.meet("init", error)
        except Exception:
            if not ranks.broken:  # all ranks raise, and have no use for these
                mpi.free(host.comm, ranks.comm)
            raise
        state = self.state
        assert state is not None
        if state.ranks is ranks:
            state.make_communicators()
        else:
            mpi.free(host.comm, ranks.comm)
        self.context = self.make(state)
        self.complete(self.context)
        return self.context

    def enter(self, options: InitOptions) -> None:
        """Become a user of the state that is open, or the one that makes it.

        Ranks that wait for each other must not wait for a thread as well: two threads with two communicators could do
        so crosswise. So only a process alone waits for another thread.
        """
        global _busy
        with _lock:
            while _busy not in (None, threading.get_ident()) and self.comm is None:
                _free.wait()
            if _busy is not None:
                raise PlanError(
                    message(
                        "init",
                        f"{'another' if _busy != threading.get_ident() else 'this'} thread opens or closes a context",
                        "one pinning per process at a time",
                        "open the context in one thread, and use it in all: hpcalloc.current()",
                    )
                )
            if _state is None:
                _busy = threading.get_ident()
                return
            _check_nested(_state, options, self.comm)
            _state.users.add(self)
            self.state = _state

    def complete(self, context: C) -> None:
        """Make a context the innermost one."""
        global _busy, _state
        state = context._state
        with _lock:
            state.users.add(context)
            state.users.discard(self)
            _open.append(context)
            arrays.set_current_policy(state.policy)
            rank.set_current(state)
            if _state is not state:
                _state, _busy = state, None
                _free.notify_all()

    def undo(self) -> None:
        """Undo the changes without the other ranks, which may be anywhere. It can be repeated."""
        if (
            self.state is not None
            and not self.state.users - {self, self.context}
            and self.context not in _open
        ):
            self.state.on_close.clear()  # there was no context
        if self.context is not None and self.context in _open:
            self.context._exit(KeyboardInterrupt)
        elif self.context is None or not self.context._closed:
            if self.state is not None:
                self.state.users.discard(self.context)
            release(self.state, self)


def release(state: RankState | None, user: Opening[Any] | OpenContext) -> bool:
    """Take a user from its state, and take the state back if that was the last. Return so. It can be repeated."""
    global _busy, _state
    with _lock:
        if user in _open:
            _open.remove(user)
            arrays.set_current_policy(_open[-1].policy if _open else _unbound)
            rank.set_current(_open[-1]._state if _open else None)
        if state is not None:
            state.users.discard(user)
            if state.users:
                return False
            _busy = threading.get_ident()
    try:
        if state is not None:
            state.restore()
    finally:
        with _lock:
            if _busy == threading.get_ident() and (state is None or state.closed):
                _busy = _state = None
                _free.notify_all()
    return True


def _check_nested(state: RankState, options: InitOptions, comm: MPI.Intracomm | None) -> None:
    outer = None if state.left_behind else state.ranks.comm
    same_comm = (comm is None) == (outer is None)
    if comm is not None and outer is not None:
        module = mpi.library()
        same_comm = module.Comm.Compare(comm, outer) in (module.IDENT, module.CONGRUENT)
    if options != state.options or not same_comm:
        asked = str(options) if options != state.options else "another communicator"
        raise PlanError(
            message(
                "init",
                f"{asked} while a context is open with {state.options}",
                "one pinning per process at a time",
                "close the open context first, or use it: hpcalloc.current()",
            )
        )
