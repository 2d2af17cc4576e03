# SPDX-License-Identifier: BSD-3-Clause
"""Plan: which nodes, CPUs and threads each rank of a host gets, and why. A pure function of its arguments.

The mapping follows what LLNL's mpibind does for CPUs (Leon, E. A.: mpibind: A Memory-Centric Affinity Algorithm for
Hybrid Applications, MEMSYS 2017): memory first, then cores along caches, one hardware thread per core before
siblings. It adds where memory goes, and what to do with an existing binding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from .._text import plural
from ..discover.devices import Device, places
from ..discover.topology import Core, Topology, format_ids
from ..exceptions import PlanError, message
from .near import Near, closest, describe, nearest, seats

__all__ = ["LauncherBinding", "Plan", "RankPlan", "is_launcher_default", "make_plan"]

Bind = Literal["auto", "force", "off"]
Action = Literal["bind", "widen", "honour", "none"]
Threads = int | Literal["auto"]
BINDS = ("auto", "force", "off")
POLICIES = ("local", "interleave")
MOST = 1 << 16  # ranks of a host, and threads of a rank: beyond any machine, within what C libraries take


class LauncherBinding(NamedTuple):
    """How a rank was started: its affinity, the launcher, and whether the user asked for it (None: unknown)."""

    cpus: frozenset[int]
    launcher: str = "none"
    explicit: bool | None = None


class RankPlan(NamedTuple):
    """One rank's share of the host.

    Attributes
    ----------
    nodes : tuple of int
        Home nodes of its memory.
    cpus : tuple of int
        PUs, the first of each core before siblings.
    threads : int
        OpenMP and BLAS threads.
    memory : str
        "local": on its one node; "interleave": pages round-robin over `nodes`.
    shared : bool
        Other ranks have PUs of this one.
    action : {"bind", "widen", "honour", "none"}
        "bind", "widen" (a launcher's default), "honour" (a binding that the user asked for) or "none".
    reasons : tuple of str
    devices : tuple of Device
        GPUs and NICs that it is to use; none unless it was asked to be near them.
    """

    local_rank: int
    nodes: tuple[int, ...]
    cpus: tuple[int, ...]
    threads: int
    memory: str
    shared: bool
    action: Action
    reasons: tuple[str, ...]
    devices: tuple[Device, ...] = ()

    def devices_at(self, topology: Topology) -> list[dict[str, Any]]:
        """Its devices with their distance from its CPUs; plain values for JSON."""
        return places(topology, self.devices, self.cpus)


class Plan(NamedTuple):
    """All ranks of a host."""

    topology: Topology
    local_ranks: int
    ranks: tuple[RankPlan, ...]
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "source": self.topology.source,
            "local_ranks": self.local_ranks,
            "reasons": list(self.reasons),
            "ranks": [
                {
                    "local_rank": r.local_rank,
                    "nodes": list(r.nodes),
                    "cpus": format_ids(r.cpus),
                    "threads": r.threads,
                    "memory": r.memory,
                    "shared": r.shared,
                    "action": r.action,
                    "reasons": list(r.reasons),
                    **({"devices": r.devices_at(self.topology)} if r.devices else {}),
                }
                for r in self.ranks
            ],
        }

    def omp_environment(self, rank: int) -> dict[str, str]:
        """OpenMP variables that match the plan of a local rank; PlanError if the host has none such."""
        if not 0 <= rank < self.local_ranks:
            raise PlanError(
                message(
                    "Plan.omp_environment",
                    f"local rank {rank}",
                    f"0 to {self.local_ranks - 1}",
                    "pass the index of a rank among those of its host",
                )
            )
        share = self.ranks[rank]
        return {
            "OMP_NUM_THREADS": str(share.threads),
            "OMP_PLACES": ",".join(f"{{{cpu}}}" for cpu in share.cpus),
            "OMP_PROC_BIND": "spread",
        }


def make_plan(
    topology: Topology,
    local_ranks: int,
    *,
    threads: int | Literal["auto"] = "auto",
    smt: bool = False,
    bind: Bind = "auto",
    policy: str = "local",
    bindings: Sequence[LauncherBinding] | None = None,
    near: Near | None = None,
) -> Plan:
    """Give each of a host's ranks nodes, CPUs and threads.

    Parameters
    ----------
    topology : Topology
    local_ranks : int
        Ranks of this host, at most 65536.
    threads : int or "auto"
        Per rank; "auto": one per core of its share, with `smt` one per PU.
    smt : bool
        Use the siblings of a core as well.
    bind : {"auto", "force", "off"}
        auto: keep a binding that the user asked for, replace a launcher's default; force: replace any, within
        the cgroup's CPUs; off: keep any.
    policy : {"local", "interleave"}
        local: memory on the rank's node, interleaved over them where it has several.
    bindings : sequence of LauncherBinding, optional
        How each local rank was started; None: unbound.
    near : Near, optional
        Devices to place the ranks near to. A rank whose binding stays gets the nearest.

    Returns
    -------
    Plan
        Rank i of it is local rank i.

    Raises
    ------
    PlanError
        Counts below 1 or above 65536, unknown words, no allowed CPU or node.
    TypeError
        `topology` or `bindings` are something else.
    """
    _check(topology, local_ranks, threads, bind, policy, bindings)
    cores = topology.usable_cores
    core_of = {pu: core for core in cores for pu in core.pus}
    allowed = frozenset(core_of)
    given = [b.cpus & allowed for b in bindings] if bindings is not None else [allowed] * local_ranks
    if any(not cpus for cpus in given):
        rank = next(i for i, cpus in enumerate(given) if not cpus)
        raise PlanError(
            message(
                "make_plan",
                f"local rank {rank} may run on no allowed CPU",
                f"CPUs {format_ids(allowed)}",
                "widen its affinity or the cpuset",
            )
        )
    if bind == "off":
        shares = [
            _as_given(topology, core_of, i, cpus, "none", "bind='off': affinity left as it is")
            for i, cpus in enumerate(given)
        ]
        why: list[str] = ["bind='off'"]
    else:
        deal = _Dealer(topology, smt, threads if isinstance(threads, int) else 1, near)
        shares, why = _decide(deal, cores, core_of, given, bindings, bind)
    if near is not None and not shares[0].devices:
        owner = topology.node_of_cpu()
        homes = [sorted({owner[cpu] for cpu in share.cpus}) for share in shares]
        found = zip(shares, homes, nearest(topology, near, homes), strict=True)
        shares = [_with_devices(topology, near, share, nodes, devices) for share, nodes, devices in found]
    time = topology.cpu_quota / local_ranks if topology.cpu_quota is not None else None
    ranks = tuple(_finish(s, core_of, threads, smt, policy, time) for s in shares)
    return Plan(topology, local_ranks, ranks, tuple(why))


def _check(topology: Topology, ranks: int, threads: Any, bind: str, policy: str, bindings: Any) -> None:
    def refuse(value: str, limit: str, remedy: str) -> None:
        raise PlanError(message("make_plan", value, limit, remedy))

    def is_count(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST

    if not isinstance(topology, Topology):
        raise TypeError(
            message(
                "make_plan",
                f"topology= a {type(topology).__name__}",
                "a Topology",
                "pass Topology.from_machine() or Topology.from_synthetic(...)",
            )
        )
    if not is_count(ranks):
        refuse(f"local_ranks={ranks!r}", f"an integer from 1 to {MOST}", "pass the ranks of one host")
    if threads != "auto" and not is_count(threads):
        refuse(f"threads={threads!r}", f"'auto' or an integer from 1 to {MOST}", "pass one of these")
    if bind not in BINDS:
        refuse(f"bind={bind!r}", ", ".join(BINDS), "choose one")
    if policy not in POLICIES:
        refuse(f"policy={policy!r}", ", ".join(POLICIES), "choose one")
    if bindings is not None and not (
        isinstance(bindings, Sequence) and all(isinstance(binding, LauncherBinding) for binding in bindings)
    ):
        raise TypeError(
            message(
                "make_plan", f"bindings={bindings!r}", "a sequence of LauncherBinding", "pass such, or None"
            )
        )
    if bindings is not None and len(bindings) != ranks:
        refuse(
            f"{len(bindings)} bindings for {ranks} ranks", "one per rank", "gather them from all local ranks"
        )
    if not topology.usable_cores:
        refuse(
            f"no CPU of {topology.source} is allowed",
            f"allowed CPUs '{format_ids(topology.allowed_cpus)}'",
            "widen the cpuset",
        )
    if not topology.allowed_nodes:
        refuse(f"no node of {topology.source} is allowed", "at least one", "widen the cpuset's mems")


# ---- existing bindings ------------------------------------------------------------------------------------


def _decide(
    deal: _Dealer,
    cores: tuple[Core, ...],
    core_of: dict[int, Core],
    given: Sequence[frozenset[int]],
    bindings: Sequence[LauncherBinding] | None,
    bind: str,
) -> tuple[list[RankPlan], list[str]]:
    count, topology = len(given), deal.topology
    if bind == "force":
        return deal(cores, count, "bind", ["bind='force': any other binding is replaced"])
    if bindings is None or all(cpus == core_of.keys() for cpus in given):
        return deal(cores, count, "bind", ["the ranks came unbound"])
    launcher = bindings[0].launcher
    if is_launcher_default(topology, bindings):
        why = [
            f"{launcher} bound the ranks to {'; '.join(dict.fromkeys(map(format_ids, given[:4])))}, its default that nobody asked "
            "for: widened"
        ]
        return deal(cores, count, "widen", why)
    if count > 1 and len(set(given)) == 1:
        inherited = given[0]
        inside = tuple(
            core._replace(pus=tuple(p for p in core.pus if p in inherited))
            for core in cores
            if inherited & set(core.pus)
        )
        why = [f"all ranks inherited CPUs {format_ids(inherited)} (taskset or a cgroup): planned inside them"]
        return deal(inside, count, "bind", why)
    why = ["the binding the ranks came with was asked for: honoured"]
    shares = []
    for i, cpus in enumerate(given):
        reason = f"bound to CPUs {format_ids(cpus)} by {bindings[i].launcher}: honoured, memory follows"
        share = _as_given(topology, core_of, i, cpus, "honour", reason)
        others = [j for j, other in enumerate(given) if j != i and other & cpus]
        if others:
            text = f"shares CPUs with local rank{'s' if len(others) > 1 else ''} {format_ids(others)}"
            share = share._replace(shared=True, reasons=(*share.reasons, text))
        shares.append(share)
    return shares, why


def is_launcher_default(topology: Topology, bindings: Sequence[LauncherBinding]) -> bool:
    """Return Open MPI's default binding: a core per rank up to two ranks, a NUMA node (or package) above."""
    cores = topology.usable_cores
    usable = {pu for core in cores for pu in core.pus}
    given = [binding.cpus & usable for binding in bindings]
    if any(b.launcher != "openmpi" or b.explicit is True for b in bindings):
        return False
    if all(b.explicit is False for b in bindings):
        return True
    if len(given) <= 2:
        return all(any(cpus <= set(core.pus) for core in cores) for cpus in given)
    homes = [frozenset(p for c in cores if c.node == node.id for p in c.pus) for node in topology.nodes]
    homes += [
        frozenset(p for c in cores if c.package == package for p in c.pus) for package in topology.packages
    ]
    return all(cpus in homes for cpus in given)


def _as_given(
    topology: Topology, core_of: dict[int, Core], rank: int, cpus: frozenset[int], action: Action, reason: str
) -> RankPlan:
    touched = {core_of[cpu].pus: core_of[cpu] for cpu in cpus}.values()
    nodes = _memory_nodes(topology, sorted({core.node for core in touched}))
    primary = {next(pu for pu in core.pus if pu in cpus) for core in touched}
    # A binding that is there is kept whole, siblings included.
    ordered = (*sorted(primary), *sorted(cpus - primary))
    return RankPlan(rank, nodes, ordered, 0, "", False, action, (reason,))


def _memory_nodes(topology: Topology, nodes: Sequence[int]) -> tuple[int, ...]:
    """Replace each node on which memory is not allowed by the nearest on which it is."""
    homes = []
    for node in nodes:
        if node not in topology.allowed_nodes:
            node = min(topology.allowed_nodes, key=lambda other: (topology.distance(node, other), other))
        if node not in homes:
            homes.append(node)
    return tuple(sorted(homes))


# ---- dealing nodes and cores --------------------------------------------------------------------------------


class _Dealer(NamedTuple):
    """Deals cores to ranks."""

    topology: Topology
    smt: bool
    threads: int  # that a rank needs cores for
    near: Near | None

    def __call__(
        self, cores: tuple[Core, ...], count: int, action: Action, why: list[str]
    ) -> tuple[list[RankPlan], list[str]]:
        if self.near is not None:
            return self._near(self.near, cores, count, action, why)
        return _deal(self.topology, cores, count, self.smt, action, why)

    def _near(
        self, near: Near, cores: tuple[Core, ...], count: int, action: Action, why: list[str]
    ) -> tuple[list[RankPlan], list[str]]:
        of_node = _by_node(cores)
        room = {node: max(len(of_node[node]) // self.threads, 1) for node in of_node}
        taken = seats(self.topology, room, near, count)
        parts: list[list[tuple[tuple[int, ...], bool, str]]] = [[] for _ in taken]
        on_node: dict[int, list[int]] = {node: [] for node in of_node}
        for i, seat in enumerate(taken):
            for node in seat.nodes:
                on_node[node].append(i)
        for node, ranks in on_node.items():
            if near.of_rank:  # each on the cores next to its device, whatever its number
                ranks.sort(key=lambda i: [(min(d.cpus, default=-1), d.address) for d in taken[i].devices])
            dealt = _split(of_node[node], len(ranks), self.smt) if ranks else []
            for i, part in zip(ranks, dealt, strict=True):
                parts[i].append(part)
        first = {core.pus[0] for core in cores}
        shares = []
        for i, (seat, mine) in enumerate(zip(taken, parts, strict=True)):
            cpus = [cpu for part, _, _ in mine for cpu in part]
            ordered = (*(c for c in cpus if c in first), *(c for c in cpus if c not in first))
            notes = tuple(note for note in (seat.note, *(reason for _, _, reason in mine)) if note)
            homes = _memory_nodes(self.topology, seat.nodes)
            shared = any(shared for _, shared, _ in mine)
            share = RankPlan(i, homes, ordered, 0, "", shared, action, notes)
            shares.append(_with_devices(self.topology, near, share, seat.nodes, seat.devices))
        kind = near.devices[0].kind.upper()
        told = f"{plural(len(near.devices), kind)}, {plural(count, 'rank')}: on the nodes of their devices"
        return shares, [*why, told]


def _with_devices(
    topology: Topology, near: Near, share: RankPlan, nodes: Sequence[int], devices: tuple[Device, ...]
) -> RankPlan:
    devices += closest(topology, near.also, frozenset(share.cpus)) if near.also else ()
    return share._replace(devices=devices, reasons=(*describe(topology, devices, nodes), *share.reasons))


def _by_node(cores: Sequence[Core]) -> dict[int, list[Core]]:
    """Cores of each node, the nodes ascending, the cores along packages and caches."""
    of_node: dict[int, list[Core]] = {}
    for core in cores:
        of_node.setdefault(core.node, []).append(core)
    for inside in of_node.values():
        inside.sort(key=lambda core: (core.package, core.caches, core.pus))
    return dict(sorted(of_node.items()))


def _deal(
    topology: Topology, cores: tuple[Core, ...], count: int, smt: bool, action: Action, why: list[str]
) -> tuple[list[RankPlan], list[str]]:
    of_node = _by_node(cores)
    nodes = list(of_node)
    idle = sorted(topology.allowed_nodes - set(nodes))
    if idle:
        why = [
            *why,
            f"node{'s' if len(idle) > 1 else ''} {format_ids(idle)} without usable CPUs: no rank's home",
        ]
    if count < len(nodes):
        return _blocks(topology, of_node, nodes, count, smt, action), [
            *why,
            f"{count} rank{'s' if count > 1 else ''} on {len(nodes)} nodes: blocks of near nodes",
        ]
    shares: list[RankPlan] = []
    per_node = _proportional({node: len(of_node[node]) for node in nodes}, count)
    if len(nodes) > 1:
        why = [
            *why,
            "ranks per node in proportion to its cores: "
            + ", ".join(f"node {node}: {k}" for node, k in per_node.items()),
        ]
    for node, ranks in per_node.items():
        for cpus, shared, reason in _split(of_node[node], ranks, smt):
            homes = _memory_nodes(topology, [node])
            reasons = [
                f"{ranks} rank{'s' if ranks > 1 else ''} on the {len(of_node[node])} cores of node {node}",
                reason,
            ]
            if homes != (node,):
                reasons.append(
                    f"node {node} has no memory for this process: the nearest that has is {homes[0]}"
                )
            shares.append(
                RankPlan(len(shares), homes, cpus, 0, "", shared, action, tuple(r for r in reasons if r))
            )
    return shares, why


def _blocks(
    topology: Topology,
    of_node: dict[int, list[Core]],
    nodes: list[int],
    count: int,
    smt: bool,
    action: Action,
) -> list[RankPlan]:
    shares = []
    rest = list(nodes)
    block: list[int] = []
    for i in range(count):
        size = (i + 1) * len(nodes) // count - i * len(nodes) // count
        # The next block begins beside the last one and grows by the node nearest to it.
        near, block = block, []
        for _ in range(size):
            node = min(rest, key=lambda n: (_apart(topology, n, block or near), n))
            rest.remove(node)
            block.append(node)
        block.sort()
        cpus = _ordered([core for node in block for core in of_node[node]], smt)
        reason = f"nodes {format_ids(block)} are this rank's: fewer ranks than nodes"
        shares.append(RankPlan(i, _memory_nodes(topology, block), cpus, 0, "", False, action, (reason,)))
    return shares


def _apart(topology: Topology, node: int, others: Sequence[int]) -> int:
    return sum(topology.distance(node, other) + topology.distance(other, node) for other in others)


def _proportional(weights: dict[int, int], count: int) -> dict[int, int]:
    """Spread `count` ranks over nodes by largest remainder, at least one on each with cores: its bandwidth counts."""
    total = sum(weights.values())
    result = dict.fromkeys(weights, 1)
    quota = {node: count * weight / total for node, weight in weights.items()}
    for _ in range(count - len(weights)):
        node = max(weights, key=lambda n: (quota[n] - result[n], -n))
        result[node] += 1
    return result


def _ordered(cores: Sequence[Core], smt: bool) -> tuple[int, ...]:
    first = tuple(core.pus[0] for core in cores)
    return first + tuple(pu for core in cores for pu in core.pus[1:]) if smt else first


def _split(cores: list[Core], ranks: int, smt: bool) -> list[tuple[tuple[int, ...], bool, str]]:
    """A node's cores over its ranks: (PUs, shared, reason) each."""
    if ranks <= len(cores):
        return [
            (_ordered(cores[i * len(cores) // ranks : (i + 1) * len(cores) // ranks], smt), False, "")
            for i in range(ranks)
        ]
    pus = [pu for core in cores for pu in core.pus]
    if ranks <= len(pus):
        reason = f"more ranks ({ranks}) than cores ({len(cores)}): hardware threads are split"
        return [
            (tuple(pus[i * len(pus) // ranks : (i + 1) * len(pus) // ranks]), False, reason)
            for i in range(ranks)
        ]
    reason = f"more ranks ({ranks}) than hardware threads ({len(pus)}): shared, every rank gets one"
    dealt = [pus[i * len(pus) // ranks] for i in range(ranks)]
    users = Counter(dealt)
    return [((pu,), users[pu] > 1, reason) for pu in dealt]


# ---- threads and memory ---------------------------------------------------------------------------------------


def _finish(
    share: RankPlan, core_of: dict[int, Core], threads: Any, smt: bool, policy: str, time: float | None
) -> RankPlan:
    """Fill in threads and memory; `time` is the CPUs' worth of time that the cgroup grants the rank."""
    reasons = list(share.reasons)
    cores = len({core_of[cpu].pus for cpu in share.cpus})
    chosen = (len(share.cpus) if smt else cores) if threads == "auto" else int(threads)
    if time is not None and time < chosen:
        reasons.append(f"the cgroup grants {time:g} CPUs' worth of time")
        if threads == "auto":  # more would all be stopped for the rest of each period
            chosen = max(int(time), 1)
    if chosen > len(share.cpus):
        reasons.append(f"{chosen} threads on {len(share.cpus)} CPUs: oversubscribed")
    memory = "interleave" if policy == "interleave" or len(share.nodes) > 1 else "local"
    if memory == "interleave":
        reasons.append(f"memory interleaved over nodes {format_ids(share.nodes)}")
    return share._replace(threads=chosen, memory=memory, reasons=tuple(reasons))
