# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc.init``: one rank's place on its host, from the communicator to the arrays, and back on close.

The story in order: find the ranks of this host, gather how each was started, plan and pin (`rank_setup`), agree
that all ranks succeeded, and make the plan's placement the policy of arrays made from now on.

Contexts of a process form a stack; there is one pinning, so a second ``init`` while a context is open must
ask for the same and shares it. The last one to close puts everything back, in whatever order they are
closed.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Literal, NoReturn, ParamSpec, SupportsIndex

import numpy.typing as npt

from ._native import lib
from .bind import agreement
from .bind.affinity import ThreadPool, undo_openmp
from .bind.rank import Options, Setup, Word, check_options, check_same, neighbours, prepare
from .discover.launcher import this_launch
from .discover.topology import Topology, format_ids
from .exceptions import ContextClosedError, PlanError, message
from .memory import arrays
from .memory.placement import Placement, placement
from .plan.ranks import LauncherBinding, Plan, RankPlan
from .policy import Policy

if TYPE_CHECKING:
    from .memory.numpy_allocator import NumpyAllocator
    from .report.report import Report
    from .shared.array import SharedArray
    from .shared.layout import Split

__all__ = ["Context", "current", "init"]

_lock = threading.RLock()  # guards the two below and every open and close
_open: list[Context] = []  # innermost last
_unbound = Policy("local")  # without a context


# ---- init ---------------------------------------------------------------------------------------------


def init(
    comm: Any = None,
    *,
    bind: Literal["auto", "force", "off"] = "auto",
    policy: Policy | str = "local",
    hugepages: Literal["auto", "never", "2M", "1G"] = "auto",
    strict: bool = False,
    threads: int | Literal["auto"] = "auto",
    share: tuple[int, int] | None = None,
) -> Context:
    """Pin this rank where the plan says and give its arrays that placement.

    Collective over `comm`. An error on one rank is raised on all of them.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        The ranks to plan for. By default ``MPI.COMM_WORLD`` if mpi4py is imported and MPI is up (in a worker of
        mpi4py.futures: its pool); otherwise, and in a forked child, this process alone, at the local rank that its
        launcher's environment tells.
    bind : {"auto", "force", "off"}
        auto: honour a binding that somebody asked for, replace none and unasked defaults; force: replace any,
        within the cgroup's CPUs; off: change no affinity and no thread pool.
    policy : Policy or {"local", "interleave", "blocked"}
        Placement of arrays made without one. local: on the rank's node, interleaved over them where it has
        several. interleave and blocked without nodes: over the rank's nodes.
    hugepages : {"auto", "never", "2M", "1G"}
        auto: whatever NUMALLOC_HUGEPAGES says, which the allocator reads when it is loaded; anything else
        must be what is in force, and is refused otherwise.
    strict : bool
        Arrays are on their nodes before they are returned, or OutOfMemoryError is raised; and it is an error
        where the process may not place memory at all, or not be pinned.
    threads : int or "auto"
        Size of BLAS and OpenMP pools that are loaded already. auto: one per core of the rank, unless a
        variable such as OMP_NUM_THREADS is set.
    share : (int, int), optional
        ``(i, n)``: this is process i of n on the host that no MPI launcher started, such as workers of Dask or
        multiprocessing. They get what n ranks would, inside the CPUs that this process has.

    Returns
    -------
    Context
        Use it as a context manager, or close it, to get the former affinity and pools back. Arrays outlive
        it.

    Raises
    ------
    PlanError
        Arguments that contradict those of other ranks of the host, or of a context that is open; what
        `make_plan` refuses.
    BindingError
        The kernel refuses the affinity; with ``strict`` also where memory can't be placed.
    NodeError
        `policy` names a node that this process may not use.
    TypeError, ValueError, HpcallocError
        A bad argument or communicator, or MPI is not up.
    """
    comm = _resolve(comm, share)
    agreement.meet("init", comm)
    with _lock:
        options: Options | None = None
        error: Exception | None = None
        try:
            asked = check_options(bind, policy, hugepages, strict, threads, share)
            if _open:
                _check_nested(asked, comm)
            options = asked
        except Exception as bad:
            error = bad
        launch = this_launch()
        affinity, taken = undo_openmp(leave=bind == "off" or bool(_open))
        own = Word(LauncherBinding(affinity, launch.launcher, launch.explicit), options, bool(_open))
        node_comm, words, missed = neighbours(comm, own, launch.local_size)
        setup: Setup | None = None
        nested = bool(_open)
        try:
            # Where another rank's arguments are bad, its error will be everybody's.
            if options is not None and all(word.options for word in words):
                check_same(words)
                setup = (
                    _open[-1]._setup
                    if nested
                    else prepare(options, comm, node_comm, launch, words, missed, taken)
                )
                arrays.handler_of(setup.policy)  # NodeError now, not at the first array
                lib.numalloc_purger()  # a solver computes for long without a call; 0 or ENOTSUP
        except Exception as bad:
            error = bad
        try:
            agreement.agree(comm, error)
        except BaseException:
            if setup is not None and not nested and setup.binding is not None:
                setup.binding.restore()
            agreement.free(node_comm)
            raise
        assert setup is not None
        if nested:
            agreement.free(node_comm)
        elif comm is not None:
            setup.numa_comm = node_comm.Split(setup.share.nodes[0], setup.local_rank)
        return Context(setup)


def current() -> Context | None:
    """Return the innermost open context of the process, None without one."""
    with _lock:
        return _open[-1] if _open else None


def _resolve(comm: Any, share: Any) -> Any:
    """Return the communicator to use; none where `share` takes its place."""
    if share is None:
        return agreement.resolve("init", comm)
    if comm is not None:
        raise PlanError(
            message("init", "share= and comm=", "one of them", "leave share out: the communicator tells it")
        )
    return None


def _check_nested(options: Options, comm: Any) -> None:
    setup = _open[-1]._setup
    outer = None if setup.left_behind else setup.comm
    same_comm = (comm is None) == (outer is None)
    if same_comm and comm is not None:
        mpi: Any = agreement.mpi()
        same_comm = mpi.Comm.Compare(comm, outer) in (mpi.IDENT, mpi.CONGRUENT)
    if options != setup.options or not same_comm:
        asked = str(options) if options != setup.options else "another communicator"
        raise PlanError(
            message(
                "init",
                f"{asked} while a context is open with {setup.options}",
                "one pinning per process at a time",
                "close the open context first, or use it: hpcalloc.current()",
            )
        )


# ---- Context ------------------------------------------------------------------------------------------

P = ParamSpec("P")


def _method(make: Callable[P, arrays.Array]) -> Callable[Concatenate[Context, P], arrays.Array]:
    """Make a method of a creation function.

    Contexts that are open at the same time have the same policy, and it is the current one.
    """

    def method(self: Context, /, *args: P.args, **kwargs: P.kwargs) -> arrays.Array:
        if self._closed:
            raise self._closed_error(make.__name__)
        return make(*args, **kwargs)

    functools.update_wrapper(method, make)
    signature = inspect.signature(make)
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__signature__ = signature.replace(parameters=[me, *signature.parameters.values()])  # type: ignore[attr-defined]
    return arrays.shortcut(method, closed="_closed")


class Context:
    """A rank's place on its host, made by `init`; a context manager.

    Attributes
    ----------
    rank, size : int
        In the communicator; 0 and 1 in serial.
    local_rank, local_size : int
        Among the ranks of this host.
    nodes : tuple of int
        NUMA nodes that are home to this rank's memory.
    cpus : tuple of int
        CPUs this rank may run on, one of each core before siblings.
    threads : int
        Planned threads per rank.
    plan : Plan
        Of all ranks of this host.
    policy : Policy
        Placement of arrays made without one.
    topology : Topology
    launcher : str
        What started the process.
    notes : tuple of str
        What could not be done as usual on this machine.
    pools : tuple of ThreadPool
        BLAS and OpenMP pools that were resized, or kept for a variable that is set.
    closed : bool
    """

    def __init__(self, setup: Setup) -> None:
        """Open a context; call `init` instead."""
        self._setup = setup
        self._closed = False
        self._allocators: list[NumpyAllocator] = []  # installed through this context
        self.plan: Plan = setup.plan
        self._share: RankPlan = setup.share
        arrays.set_current_policy(setup.policy)
        setup.users += 1
        _open.append(self)

    # ---- what is --------------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """Rank in the communicator."""
        return self._setup.rank

    @property
    def size(self) -> int:
        """Ranks of the communicator."""
        return self._setup.size

    @property
    def local_rank(self) -> int:
        """Rank among those of this host."""
        return self._setup.local_rank

    @property
    def local_size(self) -> int:
        """Ranks of this host."""
        return self._setup.local_size

    @property
    def nodes(self) -> tuple[int, ...]:
        """NUMA nodes that are home to this rank's memory."""
        return self._share.nodes

    @property
    def cpus(self) -> tuple[int, ...]:
        """CPUs this rank may run on, one of each core before siblings."""
        return self._share.cpus

    @property
    def threads(self) -> int:
        """Planned threads per rank."""
        return self._share.threads

    @property
    def action(self) -> str:
        """What was done about the affinity: "bind", "widen", "honour" or "none"."""
        bound = self._setup.binding is not None or self._share.action == "none"
        return self._share.action if bound else "failed"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the rank is where it is."""
        return (*self.plan.reasons, *self._share.reasons)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be done as usual on this machine."""
        return self._setup.notes

    @property
    def pools(self) -> tuple[ThreadPool, ...]:
        """BLAS and OpenMP pools that were resized, or kept for a variable that is set."""
        return self._setup.binding.pools if self._setup.binding is not None else ()

    @property
    def policy(self) -> Policy:
        """Placement of arrays made without one."""
        return self._setup.policy

    @property
    def topology(self) -> Topology:
        """The machine."""
        return self.plan.topology

    @property
    def launcher(self) -> str:
        """What started the process."""
        return self._setup.launch.launcher

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def comm(self) -> Any:
        """The communicator that was given, None in serial and in a forked child."""
        return self._of_mpi("comm", self._setup.comm)

    @property
    def node_comm(self) -> Any:
        """The ranks of this host, in the order of the communicator; None in serial and in a forked child."""
        return self._of_mpi("node_comm", self._setup.node_comm)

    @property
    def numa_comm(self) -> Any:
        """The ranks of this host whose first node is this rank's; None in serial and in a forked child."""
        return self._of_mpi("numa_comm", self._setup.numa_comm)

    def _of_mpi(self, name: str, comm: Any) -> Any:
        self._checked(name)
        return None if self._setup.left_behind else comm

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return (
            f"<hpcalloc.Context{state} rank {self.rank} of {self.size}: nodes {format_ids(self.nodes)}, "
            f"cpus {format_ids(self.cpus)}, {self.policy}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            message(
                "Context",
                "pickled or copied",
                "one process, which it pins",
                "send arrays; hpcalloc.current() finds it, hpcalloc.init(share=(i, n)) makes a worker's own",
            )
        )

    def _closed_error(self, name: str) -> ContextClosedError:
        return ContextClosedError(
            message(
                f"Context.{name}", "the context is closed", "an open context", "call hpcalloc.init() again"
            )
        )

    def _checked(self, name: str) -> Context:
        if self._closed:
            raise self._closed_error(name)
        return self

    # ---- what it does -----------------------------------------------------------------------------------

    empty = _method(arrays.empty)
    zeros = _method(arrays.zeros)
    ones = _method(arrays.ones)
    full = _method(arrays.full)
    empty_like = _method(arrays.empty_like)
    zeros_like = _method(arrays.zeros_like)
    ones_like = _method(arrays.ones_like)
    full_like = _method(arrays.full_like)
    array = _method(arrays.array)
    asarray = _method(arrays.asarray)

    def shared_empty(
        self,
        shape: arrays.Shape,
        dtype: npt.DTypeLike = float,
        axis: SupportsIndex = 0,
        halo: SupportsIndex = 0,
        *,
        split: Split = "auto",
    ) -> SharedArray:
        """Make one array over the ranks of this host, each rank's block on that rank's nodes.

        Collective over the context's communicator; there is one array per host, over `node_comm`, and hosts may ask
        for different ones. Arguments must be the same on all ranks of a host. All pages are faulted in before it
        returns, so that none can be missing later. Without a communicator, or with one rank on the host, it is an
        array like any other.

        Parameters
        ----------
        shape : int or sequence of int
            Of the whole, without the halo; at least one axis.
        dtype : dtype-like, default float64
            Any but those that hold Python objects.
        axis : int
            The axis that is split. It is the slowest in memory: with axis 0 the array is in C order.
        halo : int
            Rows more before the first block and after the last, see `SharedArray`.
        split : {"auto", "even", "page"} or sequence of int
            even: as many rows for each rank, to within one. page: every block begins on a page, at the row nearest
            to that. auto: page where no block gets more than 5 % larger than an even one, else even. A sequence:
            rows of each rank of the host. Where blocks meet in a page, it is on the node of the rank that has more of
            it.

        Returns
        -------
        SharedArray

        Raises
        ------
        OutOfMemoryError
            /dev/shm, a cgroup, a ulimit or the machine has no room; in a strict context also a node.
        ValueError, TypeError
            A bad argument, or different ones on ranks of a host.
        PlacementError
            The kernel refuses to place or map the memory.
        HpcallocError
            MPI is finalised, or not to be called from this thread.
        ContextClosedError
            The context is closed.

        An error on one rank is raised on all ranks of the communicator.
        """
        from .shared.array import create

        return create(self._checked("shared_empty"), "shared_empty", shape, dtype, axis, halo, split)

    def shared_zeros(
        self,
        shape: arrays.Shape,
        dtype: npt.DTypeLike = float,
        axis: SupportsIndex = 0,
        halo: SupportsIndex = 0,
        *,
        split: Split = "auto",
    ) -> SharedArray:
        """As `shared_empty`, and zero: shared memory is when it is new, so that it costs no more."""
        from .shared.array import create

        return create(self._checked("shared_zeros"), "shared_zeros", shape, dtype, axis, halo, split)

    def placement(self, a: npt.NDArray[Any]) -> Placement:
        """Ask the kernel where an array's pages are; `local_fraction` counts those on this rank's nodes."""
        return placement(a, local_nodes=self._checked("placement").nodes)

    def install_numpy_allocator(
        self, policy: Policy | str | None = None, *, threads: Literal["context", "all"] = "context"
    ) -> NumpyAllocator:
        """Let NumPy's own arrays be placed like those of this context, until `close` or ``remove()``.

        Parameters
        ----------
        policy : Policy or {"local", "interleave"}, optional
            By default that of this context.
        threads : {"context", "all"}
            As of `numpy_allocator`.

        Returns
        -------
        NumpyAllocator
            Its ``remove()`` takes it out earlier. `close` in another thread or ``contextvars`` context than this
            call's can't reach the handler there: it stays, and new threads have it no more.

        Raises
        ------
        ValueError, TypeError, NodeError
            As of `numpy_allocator`.
        """
        from .memory.numpy_allocator import numpy_allocator  # not needed by most

        self._checked("install_numpy_allocator")
        allocator = numpy_allocator(self.policy if policy is None else policy, threads=threads)
        allocator.install()
        self._allocators.append(allocator)
        return allocator

    def report(self) -> Report:
        """Gather a report of all ranks; collective.

        Returns
        -------
        Report
            On rank 0 of all ranks, on the others of themselves.
        """
        from .report.report import gather  # not needed by most

        return gather(self._checked("report"))

    def close(self) -> None:
        """Put affinity and thread pools back, and free communicators made by `init` and shared arrays' windows.

        Collective where there is a communicator; idempotent. Arrays stay as they are.

        Raises
        ------
        BindingError
            The former affinity is refused, for instance because the cpuset has shrunk.
        HpcallocError
            MPI is not to be called from this thread; the context stays open.
        """
        self._close(free=True)

    def _close(self, free: bool) -> None:
        with _lock:
            if self._closed:
                return
            if free and self._setup.comm is not None and not self._setup.left_behind and agreement.is_up():
                agreement.check_thread("Context.close")
            self._closed = True
            for allocator in reversed(self._allocators):
                allocator._close()
            _open.remove(self)
            arrays.set_current_policy(_open[-1].policy if _open else _unbound)
            setup = self._setup
            setup.users -= 1
            if setup.users:
                return
            self._leave_record()
            try:
                if setup.binding is not None:
                    setup.binding.restore()
            finally:
                windows, setup.windows = setup.windows, []
                node_comm, numa_comm = setup.node_comm, setup.numa_comm
                setup.node_comm = setup.numa_comm = None
                if free and not setup.left_behind:
                    for window in windows:
                        window.free()
                    agreement.free(numa_comm, node_comm)

    def _leave_record(self) -> None:
        """Write this rank's part of the report that HPCALLOC_REPORT asks for."""
        setup = self._setup
        if setup.files is None or setup.pid != os.getpid():
            return
        from .report.files import finish

        finish(self, setup.files)

    def __enter__(self) -> Context:
        return self._checked("__enter__")

    def __exit__(self, kind: object, *_: object) -> None:
        # When an exception unwinds this rank, the others may not be on their way to a collective call.
        self._close(free=kind is None)
