# SPDX-License-Identifier: BSD-3-Clause
"""One rank on its host: what the ranks of a host ask for and agree on, and plan and bind from it.

Every rank says how it was started (`RankRequest`), all have the same plan, and each pins itself. What comes out is a
`RankState`: the contexts of a process (`hpcalloc.context`) share it, reports and shared arrays are made of it, and
`release` takes it back.
"""

from __future__ import annotations

import errno
import operator
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from .. import _native
from .._native.errors import error_for, name_of
from ..discover.devices import SLURM, VARIABLES, environment_of, machine_devices, parse_near
from ..discover.kinds import homes_of_kind, with_memory_beside
from ..discover.launcher import Launch
from ..discover.topology import Topology
from ..discover.variables import report_unknown
from ..exceptions import BindingError, HpcallocError, PlanError, message
from ..plan.near import near_of
from ..plan.ranks import Action, Bind, LauncherBinding, Plan, RankPlan, Threads, make_plan
from ..policy import MEMORY_KINDS, Policy, as_policy
from .affinity import Binding, ThreadPool, inherited_memory_policy
from .agreement import Ranks, split_by_host
from .mpi import free, is_up, quiet

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = [
    "InitOptions",
    "RankRequest",
    "RankState",
    "check_options",
    "check_same",
    "current_nodes",
    "prepare",
    "request_of",
    "set_current",
]


# ---- messages between ranks ---------------------------------------------------------------------------


class InitOptions(NamedTuple):
    """The arguments of init, checked."""

    bind: Bind
    policy: Policy
    strict: bool
    threads: Threads
    share: tuple[int, int] | None
    near: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"bind={self.bind!r}, policy={self.policy}, strict={self.strict}, threads={self.threads!r}"
            + (f", share={self.share}" if self.share else "")
            + (f", near={','.join(self.near)!r}" if self.near else "")
        )


class RankRequest(NamedTuple):
    """How a rank of this host was started and what it asks for."""

    binding: LauncherBinding
    options: InitOptions
    visible: dict[str, str] | None = (
        None  # variables that restrict its devices; None: `near` is not asked for
    )


def request_of(binding: LauncherBinding, options: InitOptions) -> RankRequest:
    """What this rank says of itself."""
    names = (*VARIABLES, *SLURM, "ZE_FLAT_DEVICE_HIERARCHY")
    visible = {name: os.environ[name] for name in names if name in os.environ} if options.near else None
    return RankRequest(binding, options, visible)


class Window(Protocol):
    """What a `RankState` has to know of a shared array's window."""

    number: int
    ranks: Ranks

    def free(self) -> None: ...  # collective over the host
    def abandon(self) -> None: ...  # the others don't come


@dataclass(eq=False, repr=False)
class RankState:
    """What a rank was given, shared by the contexts that are open."""

    options: InitOptions
    comm: MPI.Intracomm | None  # the caller's; None in serial
    ranks: Ranks  # the same ranks, by a communicator of our own
    host: Ranks  # those of this host, likewise
    launch: Launch
    local_rank: int
    local_size: int
    plan: Plan
    share: RankPlan
    policy: Policy
    notes: list[str]
    mpi_misses: bool = False  # MPI does not see all ranks of this host
    binding: Binding | None = None
    node_comm: MPI.Comm | None = None
    numa_comm: MPI.Comm | None = None
    windows: list[Window] = field(default_factory=list)  # of shared arrays, in the order they were made
    windows_made: int = 0
    environment: dict[str, str | None] = field(default_factory=dict)  # variables as they were
    on_close: list[Callable[[RankState], None]] = field(default_factory=list)  # before the affinity goes back
    users: set[object] = field(default_factory=set)  # contexts that are open, and calls that are making one
    closed: bool = False
    pid: int = field(default_factory=os.getpid)

    @property
    def left_behind(self) -> bool:
        """Whether this is a forked child: it has the context, but no MPI."""
        return self.pid != os.getpid()

    @property
    def rank(self) -> int:
        """Rank in the communicator."""
        return self.ranks.rank

    @property
    def size(self) -> int:
        """Ranks of the communicator."""
        return self.ranks.size

    @property
    def nodes(self) -> tuple[int, ...]:
        """NUMA nodes that are home to this rank, and to its memory unless the policy says otherwise."""
        return self.share.nodes

    @property
    def home_nodes(self) -> tuple[int, ...]:
        """NUMA nodes whose pages count as local: the rank's, the nearest of its policy's kind, those with a weight."""
        kind = self.policy.kind
        more = homes_of_kind(self.topology, kind, self.nodes) if kind in MEMORY_KINDS else ()
        return tuple(sorted({*self.nodes, *more, *(self.policy.nodes if kind == "weighted" else ())}))

    @property
    def cpus(self) -> tuple[int, ...]:
        """CPUs this rank may run on, one of each core before siblings."""
        return self.share.cpus

    @property
    def threads(self) -> int:
        """Planned threads per rank."""
        return self.share.threads

    @property
    def launcher(self) -> str:
        """What started the process."""
        return self.launch.launcher

    @property
    def topology(self) -> Topology:
        """The machine."""
        return self.plan.topology

    @property
    def action(self) -> Action | Literal["failed"]:
        """What was done about the affinity: "bind", "widen", "honour", "none", or "failed"."""
        bound = self.binding is not None or self.share.action == "none"
        return self.share.action if bound else "failed"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the rank is where it is."""
        return (*self.plan.reasons, *self.share.reasons)

    @property
    def pools(self) -> tuple[ThreadPool, ...]:
        """BLAS and OpenMP pools that were resized, or kept for a variable that is set."""
        return self.binding.pools if self.binding is not None else ()

    def make_communicators(self) -> None:
        """Make the communicators that the user gets; collective, after all ranks have agreed."""
        if self.comm is not None and self.host.comm is not None:
            split = self.host.comm.Split
            self.numa_comm = self.host.together("init", split, self.nodes[0], self.local_rank)
            self.node_comm = self.host.duplicate("init").comm

    def restore(self) -> None:
        """Run the hooks and put the affinity back; local. If it is interrupted, it can be repeated."""
        if self.closed:
            return
        while self.on_close and not self.left_behind:
            try:
                self.on_close[-1](self)
            except Exception as error:
                sys.stderr.write(f"hpcalloc: close: {error}\n")
            self.on_close.pop()
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        try:
            if self.binding is not None:
                self.binding.restore()
        except BindingError:
            self.closed = True  # a second try would get the same answer
            raise
        self.closed = True

    def leave(self) -> None:
        """Tell the other ranks that this one takes part in no further collective call; wait for none."""
        if not self.left_behind:
            for ranks in (*(window.ranks for window in self.windows), self.host, self.ranks):
                ranks.leave()

    def free(self) -> None:
        """Free windows and communicators; collective. Without the other ranks they stay until MPI_Finalize."""
        if self.comm is None or self.left_behind or not is_up():
            return
        windows, self.windows = self.windows, []
        node_comm, numa_comm = self.node_comm, self.numa_comm
        self.node_comm = self.numa_comm = None
        # If a rank does not have the windows of the others, or can't free them, no rank frees its windows.
        error: HpcallocError | None = None
        try:
            try:
                self.host.meet(f"Context.close with arrays {[window.number for window in windows]}")
            except HpcallocError as bad:
                error = bad
            self.ranks.meet("Context.close", error)
            for window in windows:
                window.free()
        except BaseException:
            for window in windows:
                window.abandon()
            if not self.ranks.left:
                raise
            return
        free(numa_comm, node_comm, self.host.comm, self.ranks.comm)


# ---- options --------------------------------------------------------------------------------------------


def check_options(
    bind: Any, policy: Any, strict: Any, threads: Any, share: Any, near: Any = None
) -> InitOptions:
    """Check the arguments of `init` that no later step checks."""
    if share is not None:
        try:
            index, count = (operator.index(number) for number in share)
        except (TypeError, ValueError):
            index, count = -1, 0
        if not 0 <= index < count:
            remedy = "pass the worker's index and their number"
            raise PlanError(message("init", f"share={share!r}", "(i, n) with 0 <= i < n", remedy))
        share = (index, count)
    if not isinstance(strict, bool):
        raise TypeError(message("init", f"strict={strict!r}", "True or False"))
    wanted = as_policy("init", policy)
    if strict:
        wanted = replace(wanted, strict=True)
    kinds = parse_near(near) if near is not None else ()
    return InitOptions(bind, wanted, strict, threads, share, kinds)


def check_same(requests: Sequence[RankRequest]) -> None:
    """Check that the ranks of this host asked for the same."""
    first = requests[0]
    for i, request in enumerate(requests):
        if request.options != first.options:
            raise PlanError(
                message(
                    "init",
                    f"local rank {i} has {request.options}, local rank 0 has {first.options}",
                    "the same on all ranks of a host",
                )
            )


# ---- discover, plan -----------------------------------------------------------------------------------------


def prepare(
    options: InitOptions,
    comm: MPI.Intracomm | None,
    ranks: Ranks,
    host: Ranks,
    missed: bool,
    launch: Launch,
    requests: Sequence[RankRequest],
    taken: str,
) -> RankState:
    """Plan for the ranks of this host; change nothing.

    `missed`: MPI does not see all of them. `taken`: the note of `undo_openmp`.
    """
    bindings = [request.binding for request in requests]
    notes: list[str] = [*filter(None, (taken, launch.note))]
    if missed:
        notes.append(
            f"MPI does not know that {len(requests)} ranks share this host, which {launch.launcher} and the kernel "
            "say: no shared memory between them (hpcalloc doctor has a remedy)"
        )
    if comm is None:
        topology = Topology.from_machine()
        local_rank, local_size, bindings = _alone(options.share, bindings[0], topology, launch, notes)
        asked = options
        if options.share is None and options.bind == "auto" and _is_unknown(launch):
            notes.append(
                f"no communicator, and {launch.launcher} does not tell the ranks of this host: not pinned"
            )
            if bindings[0].cpus >= topology.allowed_cpus:  # to all CPUs, as the other ranks would be
                asked = options._replace(bind="off")
        plan = _make_plan(topology, asked, bindings, [requests[0].visible or {}])
        share = plan.ranks[local_rank if len(bindings) > 1 else 0]
    else:
        local_rank, local_size = host.rank, host.size
        plan = _plan_together(host, options, requests)
        share = plan.ranks[local_rank]
    if ranks.rank == 0 and not launch.rank and "HPCALLOC_RUN" not in os.environ:  # `hpcalloc run` has done it
        report_unknown(os.environ)
    policy = _effective_policy(options.policy, share, plan.topology)
    _check_capabilities(options, notes)
    return RankState(
        options, comm, ranks, host, launch, local_rank, local_size, plan, share, policy, notes, missed
    )


def host_of(ranks: Ranks, told: int | None) -> tuple[Ranks, bool]:
    """Return the ranks of this host, and whether MPI misses some of them; collective, after a meeting."""
    if ranks.comm is None:
        return ranks, False
    comm, missed = split_by_host(ranks.comm, told)
    return Ranks(quiet(comm)), missed


def _plan_together(host: Ranks, options: InitOptions, requests: Sequence[RankRequest]) -> Plan:
    """Plan on local rank 0 for all: all ranks get the same plan or the same error."""
    answer: Plan | Exception | None = None
    if host.rank == 0:
        try:
            topology = Topology.from_machine()
            bindings = [request.binding for request in requests]
            # If the launcher gives each rank its own cpuset, the plan is for the union.
            theirs = frozenset().union(*(binding.cpus for binding in bindings))
            topology = replace(topology, allowed_cpus=topology.allowed_cpus | theirs)
            answer = _make_plan(topology, options, bindings, [request.visible or {} for request in requests])
        except Exception as error:
            answer = error
    agreed: object = host.bcast("init", answer)
    if isinstance(agreed, Exception):
        raise agreed
    assert isinstance(agreed, Plan)
    return agreed


def _make_plan(
    topology: Topology,
    options: InitOptions,
    bindings: Sequence[LauncherBinding],
    environs: Sequence[Mapping[str, str]],
) -> Plan:
    devices = machine_devices(topology) if options.near else ()
    near = near_of("init", devices, options.near, environs, len(bindings)) if options.near else None
    return make_plan(
        topology,
        len(bindings),
        threads=options.threads,
        bind=options.bind,
        policy="interleave" if options.policy.kind == "interleave" else "local",
        bindings=bindings,
        near=near,
    )


def _is_unknown(launch: Launch) -> bool:
    """Whether a launcher has started ranks here but does not say which one this is, or how many there are."""
    return launch.launcher != "none" and (launch.local_rank is None or launch.local_size is None)


def _alone(
    share: tuple[int, int] | None,
    own: LauncherBinding,
    topology: Topology,
    launch: Launch,
    notes: list[str],
) -> tuple[int, int, list[LauncherBinding]]:
    """Place a process without a communicator by what its launcher says.

    Returns its local rank, the number of ranks of the host, and a binding for each rank to plan for.
    """
    if share is not None:
        # The peers are taken to have the same binding.
        return *share, [own._replace(launcher="none", explicit=None)] * share[1]
    rank, size = launch.local_rank, launch.local_size
    if rank is None or size is None or size == 1:
        return 0, 1, [own]
    if own.explicit is False or own.cpus >= topology.allowed_cpus:
        notes.append(f"no communicator: local rank {rank} of {size} is what {launch.launcher} says")
        return rank, size, [own] * size
    # The bindings of the other ranks are not known: plan for this rank alone, on its CPUs.
    notes.append(f"no communicator: the binding by {launch.launcher} is kept")
    return rank, size, [own._replace(explicit=True)]


def _effective_policy(asked: Policy, share: RankPlan, topology: Topology) -> Policy:
    """Fill in the nodes that the policy leaves to the plan."""
    if asked.nodes:
        return asked
    chosen = inherited_memory_policy() not in ("", "default", "local")  # local memory follows it
    if asked.kind == "local" and len(share.nodes) > 1 and not chosen:
        return replace(asked, kind="interleave", nodes=share.nodes)
    if asked.kind in ("interleave", "blocked"):
        return replace(asked, nodes=share.nodes)
    if asked.kind == "weighted":
        return replace(asked, nodes=with_memory_beside(topology, share.nodes))
    return asked


def _check_capabilities(options: InitOptions, notes: list[str]) -> None:
    code = _native.can_bind()
    if code != 0:
        if options.strict:
            raise error_for(
                code, "init", "strict=True without placement", "what the kernel allows", kind=BindingError
            )
        notes.append(
            f"memory can't be placed (mbind: {name_of(code)}): pages are where they are first touched"
        )
    code = _native.can_query()
    if code != 0:
        notes.append(f"placement can't be asked for (move_pages: {name_of(code)}): it is reported as unknown")
    inherited = inherited_memory_policy()
    if inherited not in ("", "default"):
        notes.append(f"the process has the memory policy {inherited}: kept; local arrays follow it")


# ---- bind -----------------------------------------------------------------------------------------------


def bind(state: RankState) -> None:
    """Pin this rank unless the plan leaves its affinity. Each change is noted in `state` before it is made."""
    share, options = state.share, state.options
    if share.devices:
        wanted, kept = environment_of(share.devices, os.environ)
        state.environment |= {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        state.notes += [f"{name}={value} was set already: kept" for name, value in kept.items()]
    if share.action == "none":
        return
    state.binding = Binding(frozenset(share.cpus))
    try:
        state.binding.apply(threads=share.threads, explicit_threads=options.threads != "auto")
    except BindingError as error:
        if options.strict or options.bind == "force" or error.errno not in (errno.EPERM, errno.ENOSYS):
            raise
        state.binding = None
        state.notes.append(f"not pinned: {error}")
    numba: Any = sys.modules.get("numba")
    pool = numba.config.NUMBA_NUM_THREADS if numba is not None else share.threads
    if pool != share.threads:
        state.notes.append(
            f"numba was imported before and keeps {pool} threads, planned are "
            f"{share.threads}: import it after hpcalloc.init, or export NUMBA_NUM_THREADS={share.threads}"
        )


# ---- the process ----------------------------------------------------------------------------------------

_current: RankState | None = None


def set_current(state: RankState | None) -> None:
    """Set the state that all open contexts share; None: no context is open."""
    global _current
    _current = state


def current_nodes() -> tuple[int, ...]:
    """Home nodes of the context that is open; without one the node that the calling thread is on."""
    state = _current
    return state.nodes if state is not None else (_native.current_node(),)
