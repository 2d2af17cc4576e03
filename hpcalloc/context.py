# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc.init``: one rank's place on its host, from the communicator to the arrays, and back on close.

The story in order: find the ranks of this host, gather how each was started, plan (every rank computes the
same plan), pin, agree that all ranks succeeded, and make the plan's placement the policy of arrays made
from now on.

Contexts of a process form a stack; there is one pinning, so a second ``init`` while a context is open must
ask for the same and shares it. The last one to close puts everything back, in whatever order they are
closed.
"""

from __future__ import annotations

import errno
import functools
import inspect
import operator
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, SupportsIndex

import numpy.typing as npt

from . import _native, arrays, comms
from ._native.errors import error_for, name_of
from .binding import Binding, ThreadPool, apply, inherited_memory_policy
from .exceptions import BindingError, ContextClosedError, PlanError, message
from .launcher import Launch, this_launch
from .placement import Placement, placement
from .plan import LauncherBinding, Plan, RankPlan, make_plan
from .policy import Policy, as_policy
from .topology import Topology, format_ids

if TYPE_CHECKING:
    from .blocks import Split
    from .handler import NumpyAllocator
    from .report import Report
    from .report_files import ReportFiles
    from .shared import SharedArray

__all__ = ["Context", "current", "init"]

HUGEPAGES = ("auto", "never", "2M", "1G")

_lock = threading.RLock()  # guards the two below and every open and close
_open: list[Context] = []  # innermost last
_unbound = Policy("local")  # without a context


# ---- what ranks tell each other -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Options:
    """The arguments of init, as given."""

    bind: str
    policy: Policy
    hugepages: str
    strict: bool
    threads: int | str
    share: tuple[int, int] | None

    def __str__(self) -> str:
        return (
            f"bind={self.bind!r}, policy={self.policy}, hugepages={self.hugepages!r}, strict={self.strict}, "
            f"threads={self.threads!r}" + (f", share={self.share}" if self.share else "")
        )


@dataclass(frozen=True)
class _Word:
    """What a rank tells the others of its host."""

    binding: LauncherBinding
    options: _Options | None  # None: it has an error to raise
    nested: bool  # a context is open already


@dataclass
class _Setup:
    """What nested contexts share."""

    options: _Options
    comm: Any
    launch: Launch
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    node_comm: Any = None
    numa_comm: Any = None
    plan: Plan | None = None
    share: RankPlan | None = None
    policy: Policy = _unbound
    binding: Binding | None = None
    notes: list[str] = field(default_factory=list)
    windows: list[Any] = field(default_factory=list)  # of shared arrays, in the order they were made
    files: ReportFiles | None = None  # where this rank's part of a report goes
    users: int = 0
    pid: int = field(default_factory=os.getpid)

    @property
    def left_behind(self) -> bool:
        """Whether this is a forked child: it has the context, but no MPI."""
        return self.pid != os.getpid()


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
    with _lock:
        options: _Options | None = None
        error: Exception | None = None
        try:
            asked = _check(bind, policy, hugepages, strict, threads, share)
            if _open:
                _check_nested(asked, comm)
            options = asked
        except Exception as bad:
            error = bad
        launch = this_launch()
        affinity = frozenset(os.sched_getaffinity(os.getpid()))
        own = _Word(LauncherBinding(affinity, launch.launcher, launch.explicit), options, bool(_open))
        node_comm, words = _neighbours(comm, own)
        setup: _Setup | None = None
        nested = bool(_open)
        try:
            # Where another rank's arguments are bad, its error will be everybody's.
            if options is not None and all(word.options for word in words):
                _check_words(words)
                setup = _open[-1]._setup if nested else _prepare(options, comm, node_comm, launch, words)
                arrays.handler_of(setup.policy)  # NodeError now, not at the first array
        except Exception as bad:
            error = bad
        try:
            comms.agree(comm, error)
        except BaseException:
            if setup is not None and not nested and setup.binding is not None:
                setup.binding.restore()
            comms.free(node_comm)
            raise
        assert setup is not None
        if nested:
            comms.free(node_comm)
        elif comm is not None:
            assert setup.share is not None
            setup.numa_comm = node_comm.Split(setup.share.nodes[0], setup.local_rank)
        return Context(setup)


def current() -> Context | None:
    """Return the innermost open context of the process, None without one."""
    with _lock:
        return _open[-1] if _open else None


def _resolve(comm: Any, share: Any) -> Any:
    """Return the communicator to use; none where `share` takes its place."""
    if share is None:
        return comms.resolve("init", comm)
    if comm is not None:
        raise PlanError(
            message("init", "share= and comm=", "one of them", "leave share out: the communicator tells it")
        )
    return None


def _check(bind: Any, policy: Any, hugepages: Any, strict: Any, threads: Any, share: Any) -> _Options:
    """Check the arguments that no one else will."""
    if share is not None:
        try:
            index, count = (operator.index(number) for number in share)
        except (TypeError, ValueError):
            index, count = -1, 0
        if not 0 <= index < count:
            raise PlanError(
                message(
                    "init",
                    f"share={share!r}",
                    "(i, n) with 0 <= i < n",
                    "pass the worker's index and their number",
                )
            )
        share = (index, count)
    if not isinstance(strict, bool):
        raise TypeError(message("init", f"strict={strict!r}", "True or False", "pass one of these"))
    if hugepages not in HUGEPAGES:
        raise ValueError(message("init", f"hugepages={hugepages!r}", ", ".join(HUGEPAGES), "choose one"))
    wanted = as_policy("init", policy)
    if strict:
        wanted = replace(wanted, strict=True)
    if hugepages != "auto":
        in_force = _native.stats_dict()["options"]["hugepages"]
        if in_force != hugepages:
            raise PlanError(
                message(
                    "init",
                    f"hugepages={hugepages!r}",
                    f"{in_force!r}, which is in force since the allocator was loaded",
                    f"export NUMALLOC_HUGEPAGES={hugepages} before Python starts",
                )
            )
    return _Options(bind, wanted, hugepages, strict, threads, share)


def _check_nested(options: _Options, comm: Any) -> None:
    setup = _open[-1]._setup
    outer = None if setup.left_behind else setup.comm
    same_comm = (comm is None) == (outer is None)
    if same_comm and comm is not None:
        mpi: Any = comms.mpi()
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


def _check_words(words: Sequence[_Word]) -> None:
    """Check that the ranks of this host asked for the same."""
    for i, word in enumerate(words):
        if word.options != words[0].options or word.nested != words[0].nested:
            differs = str(word.options) if word.options != words[0].options else "a context open already"
            raise PlanError(
                message(
                    "init",
                    f"local rank {i} has {differs}, local rank 0 has {words[0].options}",
                    "the same on all ranks of a host",
                    "pass the same arguments everywhere, and open and close contexts on all ranks",
                )
            )


def _neighbours(comm: Any, own: _Word) -> tuple[Any, list[_Word]]:
    """Return a communicator of this host's ranks (None in serial), and what each of them says."""
    if comm is None:
        return None, [own]
    mpi: Any = comms.mpi()
    node_comm = comm.Split_type(mpi.COMM_TYPE_SHARED, comm.Get_rank())
    return node_comm, node_comm.allgather(own)


def _prepare(options: _Options, comm: Any, node_comm: Any, launch: Launch, words: Sequence[_Word]) -> _Setup:
    """Plan and pin; nothing is left behind by an error."""
    setup = _Setup(options, comm, launch, node_comm=node_comm)
    bindings = [word.binding for word in words]
    if comm is None:
        topology = Topology.from_machine()
        bindings = _alone(setup, bindings[0], topology, launch)
        plan = _make_plan(topology, options, bindings)
        share = plan.ranks[setup.local_rank if len(bindings) > 1 else 0]
    else:
        setup.rank, setup.size = comm.Get_rank(), comm.Get_size()
        setup.local_rank, setup.local_size = node_comm.Get_rank(), node_comm.Get_size()
        plan = _plan_together(node_comm, options, bindings)
        share = plan.ranks[setup.local_rank]
    setup.plan, setup.share = plan, share
    setup.policy = _effective_policy(options.policy, share)
    if os.environ.get("HPCALLOC_REPORT"):
        setup.files = _report_files(setup.rank, setup.size)
    _check_capabilities(setup)
    _bind(setup)
    return setup


def _report_files(rank: int, size: int) -> ReportFiles | None:
    """Return where the report at exit goes, and see to it that this process is counted then."""
    from .launcher import find_launcher_process, rank_variable
    from .report_files import files_of, watch

    variable = rank_variable(os.environ)
    ancestor = find_launcher_process(os.getppid(), variable, os.environ[variable]) if variable else None
    files = files_of(os.environ, ancestor, rank, size)
    if files is not None:
        watch(files)
    return files


def _plan_together(node_comm: Any, options: _Options, bindings: Sequence[LauncherBinding]) -> Plan:
    """Plan on local rank 0 for all: one rank reads the machine, and all have the same plan or the same error."""
    word: Plan | Exception | None = None
    if node_comm.Get_rank() == 0:
        try:
            topology = Topology.from_machine()
            # Where a launcher gives each rank a cpuset of its own, the host's ranks may use all of these.
            theirs = frozenset().union(*(binding.cpus for binding in bindings))
            topology = replace(topology, allowed_cpus=topology.allowed_cpus | theirs)
            word = _make_plan(topology, options, bindings)
        except Exception as error:
            word = error
    word = node_comm.bcast(word, root=0)
    if isinstance(word, Plan):
        return word
    assert word is not None
    raise word


def _make_plan(topology: Topology, options: _Options, bindings: Sequence[LauncherBinding]) -> Plan:
    return make_plan(
        topology,
        len(bindings),
        threads=options.threads,  # type: ignore[arg-type]  # make_plan checks it
        bind=options.bind,  # type: ignore[arg-type]
        policy="interleave" if options.policy.kind == "interleave" else "local",
        bindings=bindings,
    )


def _alone(setup: _Setup, own: LauncherBinding, topology: Topology, launch: Launch) -> list[LauncherBinding]:
    """Put a process without a communicator where its launcher says; return how its peers were started."""
    if setup.options.share is not None:
        setup.local_rank, setup.local_size = setup.options.share
        # Whoever bound this process, its peers have been given the same.
        return [replace(own, launcher="none", explicit=None)] * setup.local_size
    rank, size = launch.local_rank, launch.local_size
    if rank is None or size is None or not 0 <= rank < size or size == 1:
        return [own]
    setup.local_rank, setup.local_size = rank, size
    if own.explicit is False or own.cpus >= topology.allowed_cpus:
        setup.notes.append(f"no communicator: local rank {rank} of {size} is what {launch.launcher} says")
        return [own] * size
    # The others' bindings are not known: keep to one's own.
    setup.notes.append(f"no communicator: the binding by {launch.launcher} is kept")
    return [replace(own, explicit=True)]


def _effective_policy(asked: Policy, share: RankPlan) -> Policy:
    """Fill in the nodes that the policy leaves to the plan."""
    if asked.nodes:
        return asked
    if asked.kind == "local" and len(share.nodes) > 1:
        return replace(asked, kind="interleave", nodes=share.nodes)
    if asked.kind in ("interleave", "blocked"):
        return replace(asked, nodes=share.nodes)
    return asked


def _check_capabilities(setup: _Setup) -> None:
    code = _native.can_bind()
    if code != 0:
        if setup.options.strict:
            raise error_for(
                code, "init", "strict=True without placement", "what the kernel allows", kind=BindingError
            )
        setup.notes.append(
            f"memory can't be placed (mbind: {name_of(code)}): pages are where they are first touched"
        )
    code = _native.can_query()
    if code != 0:
        setup.notes.append(
            f"placement can't be asked for (move_pages: {name_of(code)}): it is reported as unknown"
        )
    inherited = inherited_memory_policy()
    if inherited not in ("", "default"):
        setup.notes.append(
            f"the process has the memory policy {inherited}: kept; hpcalloc's arrays have their own"
        )


def _bind(setup: _Setup) -> None:
    share, options = setup.share, setup.options
    assert share is not None
    if share.action == "none":
        return
    cpus: Iterable[int] = (
        share.cpus if share.action in ("bind", "widen") else os.sched_getaffinity(os.getpid())
    )
    try:
        setup.binding = apply(cpus, threads=share.threads, explicit_threads=options.threads != "auto")
    except BindingError as error:
        if options.strict or options.bind == "force" or error.errno not in (errno.EPERM, errno.ENOSYS):
            raise
        setup.notes.append(f"not pinned: {error}")
    numba: Any = sys.modules.get("numba")
    pool = numba.config.NUMBA_NUM_THREADS if numba is not None else share.threads
    if pool != share.threads:
        setup.notes.append(
            f"numba was imported before and keeps {pool} threads, planned are "
            f"{share.threads}: import it after hpcalloc.init, or export NUMBA_NUM_THREADS={share.threads}"
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
    return method


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

    def __init__(self, setup: _Setup) -> None:
        """Open a context; call `init` instead."""
        self._setup = setup
        self._closed = False
        self._allocators: list[NumpyAllocator] = []  # installed through this context
        assert setup.plan is not None
        assert setup.share is not None
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
        return tuple(self._setup.notes)

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
        from .shared import create

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
        from .shared import create

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
        from .handler import numpy_allocator  # not needed by most

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
        from .report import gather  # not needed by most

        return gather(self._checked("report"))

    def close(self) -> None:
        """Put affinity and thread pools back, and free communicators made by `init` and shared arrays' windows.

        Collective where there is a communicator; idempotent. Arrays stay as they are.

        Raises
        ------
        BindingError
            The former affinity is refused, for instance because the cpuset has shrunk.
        """
        self._close(free=True)

    def _close(self, free: bool) -> None:
        with _lock:
            if self._closed:
                return
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
                    comms.free(numa_comm, node_comm)

    def _leave_record(self) -> None:
        """Write this rank's part of the report that HPCALLOC_REPORT asks for."""
        setup = self._setup
        if setup.files is None or setup.pid != os.getpid():
            return
        from .report_files import finish

        finish(self, setup.files)

    def __enter__(self) -> Context:
        return self._checked("__enter__")

    def __exit__(self, kind: object, *_: object) -> None:
        # When an exception unwinds this rank, the others may not be on their way to a collective call.
        self._close(free=kind is None)
