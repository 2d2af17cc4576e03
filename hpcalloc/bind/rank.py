# SPDX-License-Identifier: BSD-3-Clause
"""One rank's setup on its host: what the ranks of a host ask for and agree on, and discover, plan and bind from it.

Every rank gathers how each rank of its host was started, all have the same plan, and each pins itself. What comes
out is a `Setup`, which the contexts of the process (`hpcalloc.context`) share and give back.
"""

from __future__ import annotations

import errno
import operator
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _native
from .._native.errors import error_for, name_of
from ..discover.launcher import Launch
from ..discover.topology import Topology
from ..discover.variables import report_unknown
from ..exceptions import BindingError, PlanError, message
from ..plan.ranks import LauncherBinding, Plan, RankPlan, make_plan
from ..policy import Policy, as_policy
from . import agreement
from .affinity import Binding, apply, inherited_memory_policy

if TYPE_CHECKING:
    from ..report.files import ReportFiles

__all__ = ["Options", "Setup", "Word", "check_options", "check_same", "neighbours", "prepare"]

HUGEPAGES = ("auto", "never", "2M", "1G")


# ---- what ranks tell each other -----------------------------------------------------------------------


class Options(NamedTuple):
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


class Word(NamedTuple):
    """What a rank tells the others of its host."""

    binding: LauncherBinding
    options: Options | None  # None: it has an error to raise
    nested: bool  # a context is open already


@dataclass(eq=False, repr=False)
class Setup:
    """What nested contexts share."""

    options: Options
    comm: Any
    launch: Launch
    rank: int
    size: int
    local_rank: int
    local_size: int
    plan: Plan
    share: RankPlan
    policy: Policy
    files: ReportFiles | None  # where this rank's part of a report goes
    binding: Binding | None
    notes: tuple[str, ...]
    mpi_misses: bool = False  # MPI does not see all ranks of this host
    node_comm: Any = None
    numa_comm: Any = None
    windows: list[Any] = field(default_factory=list)  # of shared arrays, in the order they were made
    users: int = 0
    pid: int = field(default_factory=os.getpid)

    @property
    def left_behind(self) -> bool:
        """Whether this is a forked child: it has the context, but no MPI."""
        return self.pid != os.getpid()


# ---- what is asked for ----------------------------------------------------------------------------------


def check_options(bind: Any, policy: Any, hugepages: Any, strict: Any, threads: Any, share: Any) -> Options:
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
    return Options(bind, wanted, hugepages, strict, threads, share)


def check_same(words: Sequence[Word]) -> None:
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


def neighbours(comm: Any, own: Word, told: int | None) -> tuple[Any, list[Word], bool]:
    """Return a communicator of this host's ranks (None in serial), what each says, and if MPI misses some of them."""
    if comm is None:
        return None, [own], False
    node_comm, missed = agreement.split_by_host(comm, told)
    return node_comm, node_comm.allgather(own), missed


# ---- discover, plan, bind -------------------------------------------------------------------------------


def prepare(
    options: Options,
    comm: Any,
    node_comm: Any,
    launch: Launch,
    words: Sequence[Word],
    missed: bool,
    taken: str,
) -> Setup:
    """Plan and pin; nothing is left behind by an error.

    `missed`: MPI does not see all ranks of this host. `taken`: what `undo_openmp` has to say.
    """
    bindings = [word.binding for word in words]
    notes: list[str] = [*filter(None, (taken, launch.note))]
    if missed:
        notes.append(
            f"MPI does not know that {len(words)} ranks share this host, which {launch.launcher} and the kernel say: "
            "no shared memory between them (hpcalloc doctor has a remedy)"
        )
    if comm is None:
        rank, size = 0, 1
        topology = Topology.from_machine()
        local_rank, local_size, bindings = _alone(options.share, bindings[0], topology, launch, notes)
        plan = _make_plan(topology, options, bindings)
        share = plan.ranks[local_rank if len(bindings) > 1 else 0]
    else:
        rank, size = comm.Get_rank(), comm.Get_size()
        local_rank, local_size = node_comm.Get_rank(), node_comm.Get_size()
        plan = _plan_together(node_comm, options, bindings)
        share = plan.ranks[local_rank]
    if rank == 0 and not launch.rank and "HPCALLOC_RUN" not in os.environ:  # `hpcalloc run` has done it
        report_unknown(os.environ)
    policy = _effective_policy(options.policy, share)
    files = _report_files(rank, size) if os.environ.get("HPCALLOC_REPORT") else None
    _check_capabilities(options, notes)
    binding = _bind(share, options, notes)
    return Setup(
        options=options,
        comm=comm,
        node_comm=node_comm,
        launch=launch,
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        plan=plan,
        share=share,
        policy=policy,
        files=files,
        binding=binding,
        notes=tuple(notes),
        mpi_misses=missed,
    )


def _report_files(rank: int, size: int) -> ReportFiles | None:
    """Return where the report at exit goes, and see to it that this process is counted then."""
    from ..discover.launcher import launcher_process
    from ..report.files import files_of, watch

    files = files_of(os.environ, launcher_process(), rank, size)
    if files is not None:
        watch(files)
    return files


def _plan_together(node_comm: Any, options: Options, bindings: Sequence[LauncherBinding]) -> Plan:
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


def _make_plan(topology: Topology, options: Options, bindings: Sequence[LauncherBinding]) -> Plan:
    return make_plan(
        topology,
        len(bindings),
        threads=options.threads,  # type: ignore[arg-type]  # make_plan checks it
        bind=options.bind,  # type: ignore[arg-type]
        policy="interleave" if options.policy.kind == "interleave" else "local",
        bindings=bindings,
    )


def _alone(
    share: tuple[int, int] | None,
    own: LauncherBinding,
    topology: Topology,
    launch: Launch,
    notes: list[str],
) -> tuple[int, int, list[LauncherBinding]]:
    """Put a process without a communicator where its launcher says.

    Returns its local rank, the number of ranks of the host, and how those to plan for were started.
    """
    if share is not None:
        # Whoever bound this process, its peers have been given the same.
        return *share, [own._replace(launcher="none", explicit=None)] * share[1]
    rank, size = launch.local_rank, launch.local_size
    if launch.launcher != "none" and (rank is None or size is None):
        notes.append(
            f"no communicator, and {launch.launcher} does not tell the ranks of this host: planned as if alone"
        )
    if rank is None or size is None or size == 1:
        return 0, 1, [own]
    if own.explicit is False or own.cpus >= topology.allowed_cpus:
        notes.append(f"no communicator: local rank {rank} of {size} is what {launch.launcher} says")
        return rank, size, [own] * size
    # The others' bindings are not known: keep to one's own.
    notes.append(f"no communicator: the binding by {launch.launcher} is kept")
    return rank, size, [own._replace(explicit=True)]


def _effective_policy(asked: Policy, share: RankPlan) -> Policy:
    """Fill in the nodes that the policy leaves to the plan."""
    if asked.nodes:
        return asked
    if asked.kind == "local" and len(share.nodes) > 1:
        return replace(asked, kind="interleave", nodes=share.nodes)
    if asked.kind in ("interleave", "blocked"):
        return replace(asked, nodes=share.nodes)
    return asked


def _check_capabilities(options: Options, notes: list[str]) -> None:
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
        notes.append(f"the process has the memory policy {inherited}: kept; hpcalloc's arrays have their own")


def _bind(share: RankPlan, options: Options, notes: list[str]) -> Binding | None:
    """Pin, unless the plan says to leave it; None if nothing was pinned."""
    if share.action == "none":
        return None
    binding: Binding | None = None
    try:
        binding = apply(share.cpus, threads=share.threads, explicit_threads=options.threads != "auto")
    except BindingError as error:
        if options.strict or options.bind == "force" or error.errno not in (errno.EPERM, errno.ENOSYS):
            raise
        notes.append(f"not pinned: {error}")
    numba: Any = sys.modules.get("numba")
    pool = numba.config.NUMBA_NUM_THREADS if numba is not None else share.threads
    if pool != share.threads:
        notes.append(
            f"numba was imported before and keeps {pool} threads, planned are "
            f"{share.threads}: import it after hpcalloc.init, or export NUMBA_NUM_THREADS={share.threads}"
        )
    return binding
