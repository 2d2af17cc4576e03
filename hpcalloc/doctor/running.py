# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong with processes that run now: pure functions of `discover.running` values and a topology."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..discover.kinds import with_memory_beside
from ..discover.running import Process
from ..discover.topology import Topology, format_ids, parse_ids
from ..exceptions import TopologyError
from .finding import Finding, merge

__all__ = ["WORTH", "examine", "local_share", "nodes_of"]

WORTH = 64 << 20  # bytes: less memory than this is never worth a finding
_LOCAL_ENOUGH = 0.9  # below this share of local memory a process is told of
_ONE_SIDED = 0.8  # of the memory on one node, while the threads run on several
_AS_LAUNCHED = ("start it by: hpcalloc run PROGRAM (under mpirun or srun as now)",)


def nodes_of(cpus: Iterable[int], topology: Topology) -> frozenset[int]:
    """Nodes that some CPUs belong to."""
    wanted = frozenset(cpus)
    return frozenset(node.id for node in topology.nodes if wanted.intersection(node.cpus))


def local_share(process: Process, topology: Topology) -> float | None:
    """Share of a process's private and shared memory that is local to its threads; None where that is unknown.

    Local are the nodes that they ran on, and the nodes without CPUs beside these that the memory's policy names.
    """
    if process.memory is None:
        return None
    data = process.memory.data
    total = sum(data.values())
    near = {*nodes_of(process.ran_on, topology), *_asked_for(process, topology)}
    return sum(count for node, count in data.items() if node in near) / total if total else None


def _asked_for(process: Process, topology: Topology) -> set[int]:
    """Nodes without CPUs (HBM, CXL) beside the process's that the policy of most of its memory names."""
    policy = process.memory.policy if process.memory is not None else ""
    _, _, listed = policy.partition(":")
    try:
        named = set(parse_ids(listed))
    except TopologyError:
        return set()
    near = nodes_of(process.ran_on, topology)
    return named.intersection(with_memory_beside(topology, near)).difference(near)


def examine(processes: Sequence[Process], topology: Topology, host: str) -> tuple[Finding, ...]:
    """All that is wrong with some processes of a host; worst first."""
    found: list[Finding] = []
    for process in processes:
        ranks = (process.rank,) if process.rank is not None else ()
        for check, severity, what, evidence, effect, remedy in _of_process(process, topology):
            seen = f"PID {process.pid}: {evidence}"
            found.append(Finding(check, severity, what, (seen,), effect, remedy, ranks, (host,)))  # type: ignore[arg-type]
    for check, evidence, members in _crowded(processes):
        found.append(
            Finding(
                check,
                "warning",
                "More threads run than there are CPUs for them",
                (evidence,),
                "they take turns: each runs at a part of its speed, and the others of its rank wait for it",
                ("fewer threads: export OMP_NUM_THREADS=...; or disjoint CPUs: hpcalloc run PROGRAM",),
                tuple(sorted(p.rank for p in members if p.rank is not None)),
                (host,),
            )
        )
    return merge(found)


_Fault = tuple[str, str, str, str, str, tuple[str, ...]]


def _of_process(process: Process, topology: Topology) -> Iterator[_Fault]:
    data: Mapping[int, int] = process.memory.data if process.memory is not None else {}
    total = sum(data.values())
    running = [thread for thread in process.threads if thread.running]
    if len(running) > 1 and len(process.cpus) == 1:
        yield (
            "threads-on-one-cpu",
            "error",
            "All threads of a process share one CPU",
            f"{len(running)} running threads on CPU {format_ids(process.cpus)}",
            "the threads take turns: the process is as fast as with one thread, or slower",
            ("Open MPI binds one or two ranks to one core each: mpirun --bind-to none hpcalloc run PROGRAM",),
        )
    if process.swapped:
        yield (
            "swapped",
            "warning",
            "Memory of a process is on the swap device",
            f"{process.swapped >> 20} MiB",
            "each touch of such a page waits for the device",
            ("fewer ranks on a host, or more memory for the job: #SBATCH --mem=...",),
        )
    if len([node for node in topology.nodes if node.cpus or data.get(node.id)]) > 1:
        yield from _of_nodes(process, topology, data, total)
    if process.huge is not None and total >= 4 * WORTH and process.huge < total // 10:
        yield (
            "base-pages",
            "note",
            "Little of a large process is in huge pages",
            f"{process.huge >> 20} of {total >> 20} MiB",
            "more TLB misses; codes that jump through memory can lose tens of percent",
            ("start it by: hpcalloc run PROGRAM; the doctor says why there are no huge pages",),
        )


def _of_nodes(process: Process, topology: Topology, data: Mapping[int, int], total: int) -> Iterator[_Fault]:
    where = ", ".join(f"{count >> 20} MiB on node {node}" for node, count in data.items() if count >> 20)
    near = nodes_of(process.ran_on, topology)
    straying = [t for t in process.threads if len(nodes_of(t.cpus, topology)) > 1]
    if straying and total >= WORTH:
        yield (
            "unbound",
            "warning",
            "Threads may move between NUMA nodes, away from their memory",
            f"{len(straying)} of {len(process.threads)} threads may run on nodes "
            f"{format_ids(nodes_of(straying[0].cpus, topology))} (CPUs {format_ids(straying[0].cpus)})",
            "what was local after first touch is remote after the kernel's next move",
            (f"now: taskset -a -c -p CPUS-OF-A-NODE {process.pid}", *_AS_LAUNCHED),
        )
    share = local_share(process, topology)
    if share is not None and share < _LOCAL_ENOUGH and total * (1 - share) >= WORTH:
        yield (
            "remote-memory",
            "warning",
            "Memory is on other nodes than the threads that use it",
            f"{100 * share:.0f} % local; threads ran on node {format_ids(near)}, {where}",
            "remote memory has about half the bandwidth, and its latency is the distance's multiple",
            (f"now: migratepages {process.pid} all {format_ids(near)} (package numactl)", *_AS_LAUNCHED),
        )
    most = max(data.values(), default=0)
    policy = process.memory.policy if process.memory is not None else ""
    if (
        len(near) > 1
        and total >= WORTH
        and most > _ONE_SIDED * total
        and len(nodes_of(process.cpus, topology)) > 1
    ):
        yield (
            "one-sided-memory",
            "warning",
            "Threads run on several nodes, and nearly all their memory is on one",
            f"threads ran on nodes {format_ids(near)}; {where}; policy {policy}",
            "one node's memory serves all: the bandwidth of the others is unused",
            (
                "initialise arrays by the threads that use them, or split them: hpcalloc.blocked()",
                "hpcalloc run --policy interleave PROGRAM",
            ),
        )
    bare = {node.id for node in topology.nodes if not node.cpus} - _asked_for(process, topology)
    there = sum(count for node, count in data.items() if node in bare)
    if there >= WORTH:
        yield (
            "memory-only-node",
            "note",
            "Memory is on a node without CPUs (CXL, HBM, a GPU's)",
            where,
            "such memory has another speed; it came there by a policy, by demotion, or as the others were full",
            (f"now: migratepages {process.pid} {format_ids(bare)} {format_ids(near)} (package numactl)",),
        )


def _crowded(processes: Sequence[Process]) -> Iterator[tuple[str, str, list[Process]]]:
    """Groups of processes with the same CPUs and more running threads than CPUs."""
    groups: defaultdict[frozenset[int], list[Process]] = defaultdict(list)
    for process in processes:
        groups[process.cpus].append(process)
    for cpus, members in groups.items():
        running = sum(thread.running for process in members for thread in process.threads)
        if running > len(cpus) > 0 and (len(members) > 1 or len(cpus) > 1):
            pids = ", ".join(str(process.pid) for process in members[:4]) + (
                ", ..." if len(members) > 4 else ""
            )
            yield (
                "crowded-cpus",
                f"{running} running threads of PID {pids} on CPUs {format_ids(cpus)}",
                members,
            )
