# SPDX-License-Identifier: BSD-3-Clause
"""Checks of where the ranks of a host may run, and of how many threads they start there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ..discover.kinds import with_memory_beside
from ..discover.neighbours import on_same_cpus
from ..discover.topology import format_ids
from .facts import RankFacts
from .finding import Finding
from .host import Host
from .remedies import launch_lines, threads_line

__all__ = ["CHECKS"]

_POOL_LIMIT = 64  # NumPy's OpenBLAS is built for so many threads: fewer than cores is no fault then
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
)


def _cpus(ranks: Iterable[RankFacts]) -> frozenset[int]:
    """CPUs of some ranks together."""
    return frozenset[int]().union(*(rank.cpus for rank in ranks))


def _sets(ranks: tuple[RankFacts, ...]) -> list[str]:
    lines = [f"rank {rank.rank}: CPUs {format_ids(rank.cpus)}" for rank in ranks[:4]]
    if len(ranks) > 4:
        lines.append(f"and {len(ranks) - 4} more ranks")
    return lines


def _sets_in_job(host: Host, ranks: tuple[RankFacts, ...]) -> list[str]:
    return [*_sets(ranks), f"CPUs of the job here: {format_ids(host.available)}"]


def _crowd(host: Host) -> tuple[RankFacts, ...]:
    """The largest group of ranks that are more than the cores they share."""
    over = [g for g in host.groups if len(g) > len(host.cores(_cpus(g)))]
    return max(over, key=len, default=())


def crowded_core(host: Host) -> Iterator[Finding]:
    """Ranks that are more than the cores they may run on, while others are idle, or in all."""
    crowd = _crowd(host)
    if not crowd:
        return
    cpus = _cpus(crowd)
    mine, all_cores = host.cores(cpus), host.cores(host.available)
    idle = len(all_cores) - len(host.cores(_cpus(host.ranks)))
    seen = _sets_in_job(host, crowd)
    effect = f"{len(crowd)} ranks take turns on {len(mine)} core{'s' if len(mine) > 1 else ''}"
    if len(host.ranks) > len(all_cores):
        yield host.finding(
            "more-ranks-than-cores",
            "warning",
            f"{len(host.ranks)} ranks on {len(all_cores)} core{'s' if len(all_cores) > 1 else ''}",
            seen=seen,
            effect=effect + "; a rank that waits for a message keeps another from computing it",
            mend=(*launch_lines(host, len(all_cores)), *_more_hosts(host, len(all_cores))),
            ranks=crowd,
        )
    else:
        yield host.finding(
            "ranks-on-one-core" if len(mine) == 1 else "crowded-cores",
            "error",
            f"{len(crowd)} ranks are bound to the same {'core' if len(mine) == 1 else f'{len(mine)} cores'}, "
            + (f"{idle} core{'s are' if idle > 1 else ' is'} idle" if idle else "others have cores to spare"),
            seen=seen,
            effect=effect,
            mend=(*launch_lines(host), *_inherited(host, cpus)),
            ranks=crowd,
        )


def _more_hosts(host: Host, cores: int) -> tuple[str, ...]:
    if host.launcher != "slurm" and not host.managed:
        return ()
    return (f"#SBATCH --nodes={-(-host.ranks[0].size // cores)} --ntasks-per-node={cores}",)


def _inherited(host: Host, cpus: frozenset[int]) -> tuple[str, ...]:
    if any(rank.cpus != cpus for rank in host.ranks):
        return ()
    return (f"taskset -c {format_ids(host.available)} mpirun ..., if it was inherited from the shell",)


def one_core_default(host: Host) -> Iterator[Finding]:
    """Open MPI binds one or two ranks to a core each unless told otherwise."""
    used = len(host.cores(_cpus(host.ranks)))
    if not host.complete:
        used *= host.local_ranks  # as many more like this one
    idle = len(host.cores(host.available)) - used
    default = all(
        rank.launch.launcher == "openmpi"
        and rank.launch.explicit is not True
        and len(host.cores(rank.cpus)) == 1
        for rank in host.ranks
    )
    if not default or idle <= 0 or _crowd(host):
        return
    yield host.finding(
        "openmpi-one-core",
        "warning",
        f"Open MPI bound each rank to one core, its default; {idle} core{'s are' if idle > 1 else ' is'} idle",
        seen=_sets_in_job(host, host.ranks),
        effect="BLAS and OpenMP start one thread, and pools started later stay on that core",
        mend=launch_lines(host),
        ranks=host.ranks,
    )


def idle_cores(host: Host) -> Iterator[Finding]:
    """Cores of the job that no rank may run on, where that binding was asked for or inherited."""
    if _crowd(host) or not host.complete or any(True for _ in one_core_default(host)):
        return
    used = _cpus(host.ranks)
    idle = host.cores(host.available) - host.cores(used)
    if not idle:
        return
    yield host.finding(
        "idle-cores",
        "note",
        f"{len(idle)} of {len(host.cores(host.available))} cores are in no rank's binding",
        seen=_sets_in_job(host, host.ranks),
        effect="they stay idle; fine if that was meant",
        mend=launch_lines(host),
        ranks=host.ranks,
    )


def overlap(host: Host) -> Iterator[Finding]:
    """Bound ranks that share some of their CPUs, but not as a default per node would have it."""
    if _crowd(host):
        return
    for group in host.groups:
        if len(group) < 2 or all(host.is_unbound(rank) for rank in group):
            continue
        same = len({rank.cpus for rank in group}) == 1
        if same and len(host.nodes(group[0].cpus)) <= 1:
            continue  # dealt by node: oversubscription is what would hurt
        yield host.finding(
            "overlap",
            "warning",
            "ranks share CPUs with each other",
            seen=_sets(group),
            effect="they compete for the same cores while others may be idle, and their times vary",
            mend=launch_lines(host),
            ranks=group,
        )


def unbound(host: Host) -> Iterator[Finding]:
    """Several ranks that may wander over several nodes."""
    nodes = host.nodes(host.available)
    if len(host.ranks) < 2 or len(nodes) < 2:
        return
    loose = tuple(rank for rank in host.ranks if host.is_unbound(rank))
    if loose:
        yield host.finding(
            "unbound",
            "warning",
            f"ranks are bound to nothing on a host of {len(nodes)} NUMA nodes",
            seen=_sets(loose),
            effect="threads wander between nodes and leave their memory behind",
            mend=launch_lines(host),
            ranks=loose,
        )


def straddling(host: Host) -> Iterator[Finding]:
    """Bound ranks with CPUs on several nodes that would fit on one."""
    available = Counter(host.core_of[core[0]].node for core in host.cores(host.available))
    largest = max(available.values(), default=0)
    for rank in host.ranks:
        nodes = host.nodes(rank.cpus)
        if len(nodes) < 2 or host.is_unbound(rank) or len(host.cores(rank.cpus)) > largest:
            continue
        yield host.finding(
            "straddles-nodes",
            "warning",
            "a rank's CPUs are on several NUMA nodes though one node has enough",
            seen=[f"rank {rank.rank}: CPUs {format_ids(rank.cpus)} on nodes {format_ids(nodes)}"],
            effect="half of its threads work on remote memory, whichever node that is on",
            mend=launch_lines(host),
            ranks=(rank,),
        )


def idle_nodes(host: Host) -> Iterator[Finding]:
    """All ranks on some nodes, two or more on one of them, none on others."""
    if not host.complete or _crowd(host):
        return
    homes = Counter(host.nodes(r.cpus)[0] for r in host.ranks if len(host.nodes(r.cpus)) == 1)
    touched = {node for rank in host.ranks for node in host.nodes(rank.cpus)}
    empty = sorted(set(host.nodes(host.available)) - touched)
    if not empty or not homes or max(homes.values()) < 2:
        return
    yield host.finding(
        "idle-nodes",
        "warning",
        f"ranks share a NUMA node while node{'s' if len(empty) > 1 else ''} {format_ids(empty)} "
        f"{'have' if len(empty) > 1 else 'has'} none",
        seen=[
            f"node {node}: {count} rank{'s' if count > 1 else ''}" for node, count in sorted(homes.items())
        ][:4],
        effect="the memory bandwidth and caches of the empty nodes are not used",
        mend=launch_lines(host),
        ranks=host.ranks,
    )


def threads_per_core(host: Host) -> Iterator[Finding]:
    """Threads that are more, or fewer, than the cores they share."""
    if _crowd(host):
        return
    for group in host.groups:
        cpus = _cpus(group)
        cores = len(host.cores(cpus))
        ranks = len(group)
        if not host.complete and host.is_unbound(group[0]):
            ranks = host.local_ranks  # as many more like this one
        total = sum(host.threads(rank) for rank in group) * ranks // len(group)
        fair = max(cores // ranks, 1)
        seen = [
            _threads_text(host, group[0]),
            f"CPUs {format_ids(cpus)}: {cores} cores, {ranks} ranks on them",
        ]
        if total > len(cpus & frozenset(host.core_of)):
            yield host.finding(
                "oversubscribed",
                "warning",
                "BLAS or OpenMP threads are more than the CPUs they may run on",
                seen=[*seen, f"{total} threads in all"],
                effect="threads take turns; at each barrier all wait for those that are not running",
                mend=(threads_line(fair), *(launch_lines(host) if ranks > 1 else ())),
                ranks=group,
            )
        elif total > cores:
            yield host.finding(
                "hardware-threads",
                "note",
                "more BLAS or OpenMP threads than cores: hardware threads of a core work in pairs",
                seen=seen,
                effect="no gain where memory bandwidth or vector units limit, often a loss",
                mend=(threads_line(fair),),
                ranks=group,
            )
        elif total < cores and max((p.threads for r in group for p in r.pools), default=0) < _POOL_LIMIT:
            bound = ranks == 1 and group[0].launch.explicit is not False and not host.is_unbound(group[0])
            yield host.finding(
                "fewer-threads-than-cores",
                "warning" if bound or group[0].launch.launcher == "slurm" else "note",
                "BLAS and OpenMP start fewer threads than there are cores for them",
                seen=[*seen, f"{total} threads in all"],
                effect=f"{cores - total} of {cores} cores stay idle unless the program starts threads or processes",
                mend=(threads_line(fair),),
                ranks=group,
            )


def _threads_text(host: Host, rank: RankFacts) -> str:
    pools = ", ".join(f"{pool.library} has {pool.threads} threads" for pool in rank.pools)
    variables = ", ".join(
        f"{name}={rank.environment[name]}" for name in _THREAD_VARIABLES if rank.environment.get(name)
    )
    return f"rank {rank.rank}: {pools or 'no pool is loaded'}; {variables or 'no variable sets their number'}"


def other_job(host: Host) -> Iterator[Finding]:
    """Processes of other jobs that are bound to the same CPUs."""
    for rank in host.ranks:
        for other in on_same_cpus(rank.neighbours, rank.cpus, host.facts.topology.allowed_cpus):
            yield host.finding(
                "another-job",
                "note",
                "another job is bound to CPUs of this one",
                seen=[
                    f"process {other.pid} ({other.command}): CPUs {format_ids(other.cpus)}",
                    f"rank {rank.rank}: CPUs {format_ids(rank.cpus)}",
                ],
                effect="the two take turns on these CPUs, while others may be idle",
                mend=("taskset -c LIST mpirun ..., with CPUs that are free", "wait until it has ended"),
                ranks=(rank,),
            )


def memory_elsewhere(host: Host) -> Iterator[Finding]:
    """Memory that may not be, or by policy is not, on the nodes of a rank's CPUs."""
    with_memory = {node.id for node in host.facts.topology.nodes if node.memory_bytes}
    for rank in host.ranks:
        nodes = set(host.nodes(rank.cpus))
        missing = nodes & with_memory - rank.mems if rank.mems else set()
        if missing:
            yield host.finding(
                "cpuset-mems",
                "warning",
                "the cpuset allows CPUs of nodes whose memory it does not allow",
                seen=[
                    f"rank {rank.rank}: CPUs {format_ids(rank.cpus)} on nodes {format_ids(nodes)}, "
                    f"Mems_allowed_list {format_ids(rank.mems)}"
                ],
                effect="all memory of these ranks is remote",
                mend=(
                    f"docker run --cpuset-mems={format_ids(sorted(nodes))} ...",
                    f"echo {format_ids(sorted(nodes))} > CGROUP/cpuset.mems",
                ),
                ranks=(rank,),
            )
        kind, _, listed = rank.memory_policy.partition(":")
        kind = kind.partition("=")[0]
        if kind in ("bind", "prefer", "prefer (many)") and listed:
            bound = {int(word) for part in listed.split(",") for word in _ends(part)}
            if not bound & set(
                with_memory_beside(host.facts.topology, nodes)
            ):  # HBM and CXL are asked for by policy
                yield host.finding(
                    "memory-policy",
                    "warning",
                    "an inherited memory policy puts memory on nodes where the rank has no CPU",
                    seen=[
                        f"rank {rank.rank}: policy {rank.memory_policy}, CPUs on nodes {format_ids(nodes)}"
                    ],
                    effect="all memory but hpcalloc's arrays is remote",
                    mend=("numactl --localalloc PROGRAM", "srun --mem-bind=local PROGRAM"),
                    ranks=(rank,),
                )


def _ends(part: str) -> range:
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1) if first.isdigit() else range(0)


CHECKS = (
    crowded_core,
    one_core_default,
    overlap,
    straddling,
    unbound,
    idle_nodes,
    threads_per_core,
    other_job,
    memory_elsewhere,
    idle_cores,
)
