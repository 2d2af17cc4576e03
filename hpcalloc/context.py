# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc.init`` and what it returns: one rank's place on its host, from the communicator to the arrays (`opening`)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Literal, NoReturn, ParamSpec, SupportsIndex, TypeVar

from ._native import _handler
from .bind import mpi
from .bind.affinity import ThreadPool
from .bind.agreement import OneCall
from .bind.rank import RankState
from .discover.topology import Topology, format_ids
from .exceptions import BindingError, ContextClosedError, PlanError, message
from .memory import arrays
from .memory.placement import Placement, placement
from .opening import Opening, innermost, release
from .plan.ranks import Action, Plan
from .policy import Policy

if TYPE_CHECKING:
    import numpy.typing as npt
    from mpi4py import MPI

    from .discover.devices import Device
    from .memory.numpy_allocator import NumpyAllocator
    from .report.report import Report
    from .shared.array import SharedArray
    from .shared.layout import Split

__all__ = ["Context", "current", "init"]

# ---- init ---------------------------------------------------------------------------------------------


def init(
    comm: MPI.Intracomm | None = None,
    *,
    bind: Literal["auto", "force", "off"] = "auto",
    policy: Policy | str = "local",
    strict: bool = False,
    threads: int | Literal["auto"] = "auto",
    share: tuple[int, int] | None = None,
    near: Literal["gpu", "nic", "gpu,nic"] | None = None,
) -> Context:
    """Pin this rank where the plan says and give its arrays that placement.

    With `comm` the call is collective, and an error on one rank is raised on all of them. Without `comm` it is for this
    process alone and never collective.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        The ranks to plan for. None: this process alone, with the local rank of its launcher's environment. In an
        MPI program of several ranks None is refused, unless `share` is given or this is a forked child.
    bind : {"auto", "force", "off"}
        auto: keep a binding that the user asked the launcher for; replace no binding and launcher defaults. force:
        replace any binding, within the cgroup's CPUs. off: change no affinity and no thread pool.
    policy : Policy or {"local", "interleave", "blocked", "weighted", "bandwidth", "latency", "capacity"}
        Placement of arrays made without one. local: on the rank's node, interleaved over them where it has
        several. interleave and blocked without nodes: over the rank's nodes; weighted: and the nodes without CPUs
        (HBM, CXL) next to them. A kind of memory, as of `kind`: on that kind's node next to the thread, which counts as
        local in reports.
    strict : bool
        Arrays are on their nodes before they are returned, or OutOfMemoryError is raised; and it is an error
        where the process may not place memory at all, or not be pinned.
    threads : int or "auto"
        Threads that each rank is planned for: the size of BLAS and OpenMP pools that are loaded already. auto: one per
        core of the rank, unless a variable such as OMP_NUM_THREADS is set.
    share : (int, int), optional
        ``(i, n)``: this is process i of n on the host that no MPI launcher started, such as workers of Dask or
        multiprocessing. They get what n ranks would, inside the CPUs that this process has.
    near : {"gpu", "nic", "gpu,nic"}, optional
        Put each rank on the node of its GPU or NIC, and show the program these alone: CUDA_VISIBLE_DEVICES,
        ROCR_VISIBLE_DEVICES, ZE_AFFINITY_MASK, UCX_NET_DEVICES, unless one is set already. Their libraries read
        these when they start: call `init` before.

    Returns
    -------
    Context
        Leaving it (`with`) or `close` restores the former affinity and pools. Arrays outlive it.

    Raises
    ------
    PlanError
        Arguments that contradict those of other ranks of the host, or of a context that is open; another thread is
        in ``init(comm)``; several MPI ranks and no `comm`; what `make_plan` refuses.
    BindingError
        The kernel refuses the affinity; with ``strict`` also where memory can't be placed.
    NodeError
        `policy` names a node that this process may not use, or a kind of memory that the machine does not tell.
    TypeError, ValueError, HpcallocError
        A bad argument or communicator; MPI is not up; a rank did not come within HPCALLOC_TIMEOUT seconds.
    """
    if comm is not None:
        mpi.check_comm("init", comm)
    elif share is None and mpi.world_size() > 1:
        raise PlanError(
            message(
                "init",
                f"no communicator in an MPI program of {mpi.world_size()} ranks",
                "comm= or share=",
                "hpcalloc.init(MPI.COMM_WORLD), on all ranks; or share=(i, n) for this process alone",
            )
        )
    opening = Opening(comm, Context)
    try:
        with OneCall("init"):
            return opening.run(bind, policy, strict, threads, share, near)
    except BaseException:
        if opening.begun:
            _handler.insist(opening.undo)  # whatever interrupts it
        raise


def current() -> Context | None:
    """Return the innermost open context of the process, None without one."""
    context: Context | None = innermost()
    return context


# ---- Context ------------------------------------------------------------------------------------------

P = ParamSpec("P")
C = TypeVar("C")


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


class Context(_handler.Scope):
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
    devices : tuple of Device
        GPUs and NICs that this rank is to use; none without ``near``.
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

    def __init__(self, state: RankState) -> None:
        """Make a context; call `init` instead."""
        self._state = state
        self._closed = False
        self._last = False  # of those that shared the state, once closed
        self._allocators: list[NumpyAllocator] = []  # installed through this context
        self.plan: Plan = state.plan

    # ---- what is --------------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """Rank in the communicator."""
        return self._state.rank

    @property
    def size(self) -> int:
        """Ranks of the communicator."""
        return self._state.size

    @property
    def local_rank(self) -> int:
        """Rank among those of this host."""
        return self._state.local_rank

    @property
    def local_size(self) -> int:
        """Ranks of this host."""
        return self._state.local_size

    @property
    def nodes(self) -> tuple[int, ...]:
        """NUMA nodes that are home to this rank's memory."""
        return self._state.nodes

    @property
    def cpus(self) -> tuple[int, ...]:
        """CPUs this rank may run on, one of each core before siblings."""
        return self._state.cpus

    @property
    def threads(self) -> int:
        """Planned threads per rank."""
        return self._state.threads

    @property
    def devices(self) -> tuple[Device, ...]:
        """GPUs and NICs that this rank is to use; none without ``near``."""
        return self._state.share.devices

    @property
    def action(self) -> Action | Literal["failed"]:
        """What was done about the affinity: "bind", "widen", "honour", "none" or "failed"."""
        return self._state.action

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons for the rank's CPUs and nodes."""
        return self._state.reasons

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on what this machine does not allow."""
        return tuple(self._state.notes)

    @property
    def pools(self) -> tuple[ThreadPool, ...]:
        """BLAS and OpenMP pools that were resized, or kept for a variable that is set."""
        return self._state.pools

    @property
    def policy(self) -> Policy:
        """Placement of arrays made without one."""
        return self._state.policy

    @property
    def topology(self) -> Topology:
        """The machine."""
        return self.plan.topology

    @property
    def launcher(self) -> str:
        """What started the process."""
        return self._state.launcher

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def comm(self) -> MPI.Intracomm | None:
        """The communicator that was given, None in serial and in a forked child."""
        return self._of_mpi("comm", self._state.comm)

    @property
    def node_comm(self) -> MPI.Comm | None:
        """The ranks of this host, in the order of the communicator; None in serial and in a forked child."""
        return self._of_mpi("node_comm", self._state.node_comm)

    @property
    def numa_comm(self) -> MPI.Comm | None:
        """The ranks of this host whose first node is this rank's; None in serial and in a forked child."""
        return self._of_mpi("numa_comm", self._state.numa_comm)

    def _of_mpi(self, name: str, comm: C | None) -> C | None:
        self._checked(name)
        return None if self._state.left_behind else comm

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
    asarray = _method(arrays.asarray)
    array = _method(arrays.array)

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
        from .shared.create import create

        return create(self._checked("shared_empty")._state, "shared_empty", shape, dtype, axis, halo, split)

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
        from .shared.create import create

        return create(self._checked("shared_zeros")._state, "shared_zeros", shape, dtype, axis, halo, split)

    def placement(self, a: npt.NDArray[Any]) -> Placement:
        """Ask the kernel where an array's pages are; `local_fraction` counts those on this rank's nodes, and its policy's."""
        return placement(a, local_nodes=self._checked("placement")._state.home_nodes)

    def install_numpy_allocator(
        self, policy: Policy | str | None = None, *, new_threads: bool = False
    ) -> NumpyAllocator:
        """Let NumPy's own arrays be placed like those of this context, until `close` or ``remove()``.

        Parameters
        ----------
        policy : Policy or str, optional
            As of `numpy_allocator`; by default that of this context.
        new_threads : bool
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
        allocator = numpy_allocator(self.policy if policy is None else policy, new_threads=new_threads)
        self._allocators.append(allocator)  # before: an interrupt may come in between
        allocator.install()
        return allocator

    def report(self) -> Report:
        """Gather a report of all ranks; collective.

        Returns
        -------
        Report
            On rank 0 of all ranks, on the others of themselves.
        """
        from .report.report import gather  # not needed by most

        return gather(self._checked("report")._state)

    def close(self) -> None:
        """Put affinity and thread pools back, and free communicators made by `init` and shared arrays' windows.

        Collective where there is a communicator; idempotent. Arrays stay as they are. If another rank has left its
        context by an exception, windows and communicators stay until MPI_Finalize.

        Raises
        ------
        BindingError
            The former affinity is refused, for instance because the cpuset has shrunk.
        HpcallocError
            MPI is not to be called from this thread, or another thread is in a collective call of the context: it stays
            open. Not all ranks come within
            HPCALLOC_TIMEOUT seconds: it is closed.
        """
        self._close(True)

    def _enter(self) -> None:
        self._checked("__enter__")

    def _exit(self, kind: object) -> None:
        # When an exception unwinds this rank, the others may not be on their way to a collective call. An interrupt may
        # have come inside of one: to post another then would not be understood, and the others have the time limit.
        self._close(kind is None, kind is not KeyboardInterrupt)

    def _close(self, together: bool, tell: bool = True) -> None:
        state = self._state
        if self._closed:
            return
        if together:
            with state.ranks.one_call("Context.close"):
                self._close_now(True, tell)
        else:
            self._close_now(False, tell)

    def _close_now(self, together: bool, tell: bool) -> None:
        state = self._state
        with_others = state.comm is not None and not state.left_behind and mpi.is_up()
        if together and with_others:
            mpi.check_thread("Context.close")
        refused: BindingError | None = None
        try:
            _handler.insist(self._release)  # also where a signal's handler raises in the middle of it
        except BindingError as error:
            refused = error
        except BaseException:
            together = False
            raise
        finally:
            if self._last and with_others and tell and not together:
                state.leave()
        if self._last and together:
            state.free()
        if refused is not None:
            raise refused

    def _release(self) -> None:
        while self._allocators:
            self._allocators[-1]._close()
            self._allocators.pop()
        self._last = release(self._state, self)
        self._closed = True
