# SPDX-License-Identifier: BSD-3-Clause
"""Serves NumPy's own allocations, temporaries included, from hpcalloc's heaps: a data handler (NEP 49).

NumPy keeps the active handler in a context variable: it belongs to a thread, and within it to a
``contextvars`` context (an asyncio task has one of its own, begun as a copy). A new thread starts with NumPy's
own handler. Three consequences:

- An installed handler is a *layer* on a stack in a context variable, so that handler and stack are copied
  together. If a layer is taken out from between others (by a generator that is finished late, say), the active
  handler stays, and the layer above restores the handler below.
- A layer can be taken out only in the context that has it.
- For new threads ``threading.Thread.start`` is wrapped as long as a layer wants that; the wrapper puts the layer in.

An array is freed and resized by the handler that made it, whichever is active: an array may outlive its layer.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .._native import _handler, lib
from ..exceptions import HandlerError, message
from ..policy import Policy, as_policy
from . import arrays
from .handlers import handler_of

__all__ = ["NumpyAllocator", "numpy_allocator"]


# ---- layers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Layer:
    owner: object  # a NumpyAllocator, or a thread's
    handler: object
    before: object = field(default_factory=_handler.get_handler)  # handler to restore
    handle: object = field(default_factory=object)  # what stays when `before` is mended


_layers: contextvars.ContextVar[tuple[_Layer, ...]] = contextvars.ContextVar("hpcalloc_layers", default=())


def _put_in(layer: _Layer) -> None:
    """Put a layer on top. If it is interrupted, `_take_out` restores the former state."""
    _layers.set((*_layers.get(), layer))
    _handler.set_handler(layer.handler)


def _innermost(owner: object) -> _Layer | None:
    """Return the innermost layer of `owner` in this context; None without one."""
    mine = [layer for layer in _layers.get() if layer.owner is owner]
    return mine[-1] if mine else None


def _take_out(layer: _Layer) -> None:
    """If a layer is there, take it out. It can be repeated."""
    layers = list(_layers.get())
    found = [i for i, other in enumerate(layers) if other.handle is layer.handle]
    if not found:
        return
    (index,) = found
    layer = layers.pop(index)
    if index == len(layers):
        _handler.set_handler(layer.before)
    elif layers[index].before is layer.handler:
        layers[index] = replace(layers[index], before=layer.before)
    _layers.set(tuple(layers))


# ---- new threads --------------------------------------------------------------------------------------

_lock = threading.Lock()  # guards changes of the two below
_for_threads: tuple[tuple[NumpyAllocator, _Layer], ...] = ()  # the last one's handler is for new threads
_wrapped: Callable[[threading.Thread], None] | None = None  # Thread.start as this module set it


def _wrap(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """Make a ``Thread.start`` that gives the thread a layer of its own.

    It keeps the `start` that it replaces: another package may have wrapped an earlier wrapper.
    """

    @functools.wraps(start)
    def start_with_handler(thread: threading.Thread) -> None:
        serving = _for_threads
        if not serving:
            return start(thread)
        chosen = serving[-1][1].handler
        run = thread.run
        own = thread.__dict__.get("run")  # not the class's

        def put_back() -> None:
            if own is not None:
                thread.run = own  # type: ignore[method-assign]
            else:
                thread.__dict__.pop("run", None)

        def run_with_handler() -> None:
            put_back()
            layer = _Layer(object(), chosen)  # an owner of its own: only this wrapper takes it out
            _put_in(layer)
            try:
                run()
            finally:  # the context may be the user's (Python 3.14: Thread(context=...)) and live on
                _take_out(layer)

        thread.run = run_with_handler  # type: ignore[method-assign]
        try:
            return start(thread)
        except BaseException:
            put_back()
            raise

    return start_with_handler


def _serve_threads(owner: NumpyAllocator, layer: _Layer) -> None:
    global _for_threads, _wrapped
    with _lock:
        _for_threads = (*_for_threads, (owner, layer))
        if _wrapped is None or threading.Thread.start is not _wrapped:
            _wrapped = _wrap(threading.Thread.start)
            threading.Thread.start = _wrapped  # type: ignore[method-assign,assignment]


def _leave_threads(owner: NumpyAllocator, layer: _Layer | None = None) -> None:
    """Serve threads no longer for a layer, or for the last one of `owner`."""
    global _for_threads, _wrapped
    with _lock:
        found = [
            i
            for i, (other, theirs) in enumerate(_for_threads)
            if other is owner and (layer is None or theirs.handle is layer.handle)
        ]
        if found:
            _for_threads = _for_threads[: found[-1]] + _for_threads[found[-1] + 1 :]
        # If another package has wrapped this wrapper, it stays and does nothing.
        if not _for_threads and _wrapped is not None and threading.Thread.start is _wrapped:
            threading.Thread.start = _wrapped.__wrapped__  # type: ignore[method-assign,attr-defined]
            _wrapped = None


def _fork_child() -> None:
    global _lock
    _lock = threading.Lock()  # its holder may be a thread that does not exist in the child


os.register_at_fork(after_in_child=_fork_child)


# ---- what the user has --------------------------------------------------------------------------------


class NumpyAllocator(_handler.Scope, contextlib.ContextDecorator):
    """Placement of what NumPy allocates; made by `numpy_allocator` or ``ctx.install_numpy_allocator()``.

    A context manager and a decorator of functions, both of which may be used again, within themselves, and by
    several threads or tasks at a time; or `install` and `remove`.

    Attributes
    ----------
    policy : Policy or None
        None: `current_policy()` at the time it is installed.
    new_threads : bool
    """

    def __init__(self, policy: Policy | None, new_threads: bool) -> None:
        """Check nothing and install nothing; call `numpy_allocator`."""
        self.policy = policy
        self.new_threads = new_threads

    def __repr__(self) -> str:
        state = " installed" if _innermost(self) is not None else ""
        return f"<hpcalloc.NumpyAllocator{state}: {self.policy or 'current policy'}, new_threads={self.new_threads}>"

    def install(self) -> None:
        """Make it NumPy's allocator in this thread and context, above what is there.

        Raises
        ------
        ValueError
            A blocked policy: NumPy tells sizes, not shapes.
        NodeError
            A node that this process may not use.
        """
        layer = _Layer(self, _handler_for("install", self.policy or arrays.current_policy()))
        undo = functools.partial(self._remove, layer)
        try:
            _put_in(layer)
            lib.numalloc_purger()  # a program computes for long without a call; 0 or ENOTSUP
            if self.new_threads:
                _serve_threads(self, layer)
        except BaseException:  # an interrupt
            _handler.insist(undo)
            raise

    def remove(self) -> None:
        """Put back the handler that was active when it was installed. Arrays stay as they are.

        Raises
        ------
        HandlerError
            It is not installed in this thread and context, as when it is removed twice; or a handler of another
            package was put in after it, and is active.
        """
        layer = self._installed("remove")
        if layer is _layers.get()[-1] and _handler.get_handler() is not layer.handler:
            raise HandlerError(
                message(
                    "NumpyAllocator.remove",
                    "another package's handler was put in later and is active",
                    "the one on top goes first",
                    "remove that one first",
                )
            )
        self._remove(layer)

    def _installed(self, call: str) -> _Layer:
        layer = _innermost(self)
        if layer is None:
            raise HandlerError(
                message(
                    f"NumpyAllocator.{call}",
                    f"{self!r} is not installed in this context",
                    "once for each time it was installed, in the same thread and contextvars context",
                    "call it once, where install() was called",
                )
            )
        return layer

    def _remove(self, layer: _Layer) -> None:
        if self.new_threads:
            _leave_threads(self, layer)
        _take_out(layer)

    def _close(self) -> None:
        """Remove it as far as that can be done from here."""
        if self.new_threads:
            _leave_threads(self)
        layer = _innermost(self)
        if layer is not None:
            _take_out(layer)

    def __enter__(self) -> NumpyAllocator:
        self.install()
        return self

    def _exit(self, kind: object) -> None:
        try:
            layer = self._installed("__exit__")
        except HandlerError:
            if self.new_threads:
                _leave_threads(self)
            raise
        _handler.insist(functools.partial(self._remove, layer))


def _handler_for(call: str, policy: Policy) -> object:
    if policy.kind == "blocked":
        raise ValueError(
            message(
                f"numpy_allocator: {call}",
                f"policy {policy}",
                "any but blocked: NumPy tells the size of an array, not its shape",
                f"take interleave(), or make the arrays that count by hpcalloc.empty(..., policy={policy})",
            )
        )
    return handler_of(policy)


def numpy_allocator(policy: Policy | str | None = None, *, new_threads: bool = False) -> NumpyAllocator:
    """Allocate NumPy's own arrays, temporaries included, as hpcalloc's are.

    Use it in a ``with`` statement, as a decorator, or by ``install()`` and ``remove()``. At the end the former
    handler is back, also another package's. Arrays may outlive it.

    Parameters
    ----------
    policy : Policy or {"local", "interleave", "weighted", "bandwidth", "latency", "capacity"}, optional
        Placement; by default `current_policy()` at the time it is installed.
    new_threads : bool
        False: the calling thread, in its present ``contextvars`` context, and asyncio tasks created
        meanwhile (they begin with a copy). True: also every thread that is started meanwhile through
        ``threading.Thread`` (thread pools, timers), until the thread ends; not threads that run already, nor those
        started by ``_thread`` or by C code. Where Python itself lets threads inherit the context
        (``sys.flags.thread_inherit_context``: free-threaded builds), False includes them too.

    Returns
    -------
    NumpyAllocator

    Raises
    ------
    ValueError, TypeError
        A bad argument, a blocked policy.
    NodeError
        A node that this process may not use.
    """
    if not isinstance(new_threads, bool):
        raise TypeError(message("numpy_allocator", f"new_threads={new_threads!r}", "True or False"))
    chosen = None if policy is None else as_policy("numpy_allocator", policy)
    if chosen is not None:
        _handler_for("policy", chosen)
    return NumpyAllocator(chosen, new_threads)
