# SPDX-License-Identifier: BSD-3-Clause
"""Kinds of memory: which nodes of a machine have the highest bandwidth, the lowest latency, the largest capacity.

The rules are those of ``numalloc_kind()`` in numa_alloc.h, here also for machines other than this one. Nothing is guessed:
if a machine has neither attributes nor tiers, only the kind capacity has nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..exceptions import NodeError, message
from ..policy import MEMORY_KINDS
from .topology import Access, Node, Topology, ids_text

__all__ = [
    "SOURCES",
    "Kind",
    "homes_of_kind",
    "kind_nodes",
    "kinds_lines",
    "machine_text",
    "nearest",
    "node_text",
    "nodes_of_kind",
    "with_memory_beside",
]

SOURCES = {
    "": "unknown",
    "attributes": "from firmware",
    "tiers": "by memory tiers",
    "size": "by size",
}


class Kind(NamedTuple):
    """Allowed nodes of a kind, ascending, and the source."""

    nodes: tuple[int, ...]
    source: str  # "attributes", "tiers", "size" (of capacity alone); "": it is not known, there are no nodes


def kind_nodes(topology: Topology, kind: str) -> Kind:
    """Find the nodes of a kind, one of `MEMORY_KINDS`, by what is known of all nodes."""
    nodes = [node for node in topology.nodes if node.id in topology.allowed_nodes]
    nodes = [node for node in nodes if node.memory_bytes] or nodes
    access = [topology.best_access(node.id) for node in nodes]
    tiers = [node.tier for node in nodes if node.tier is not None]
    by_tier = Kind((), "")
    if len(tiers) == len(nodes) and len(set(tiers)) > 1:
        wanted = max(tiers) if kind == "capacity" else min(tiers)
        by_tier = Kind(tuple(node.id for node in nodes if node.tier == wanted), "tiers")
    if kind == "capacity":
        sizes = [node.memory_bytes for node in nodes]
        return by_tier if by_tier.nodes or not all(sizes) else Kind(_best(nodes, sizes), "size")
    values = [a.bandwidth if kind == "bandwidth" else a.latency for a in access]
    if not all(values):
        return by_tier
    return Kind(_best(nodes, values, least=kind == "latency"), "attributes")


def _best(nodes: Sequence[Node], values: Sequence[int], least: bool = False) -> tuple[int, ...]:
    """Nodes that are at most a tenth worse than the best."""
    if least:
        return tuple(n.id for n, value in zip(nodes, values, strict=True) if 10 * value <= 11 * min(values))
    return tuple(n.id for n, value in zip(nodes, values, strict=True) if 10 * value >= 9 * max(values))


def nearest(topology: Topology, nodes: tuple[int, ...], home: int) -> int:
    """Of these nodes the one that the CPUs of node `home` reach best.

    `home` itself comes first, then nodes whose best initiator it is (firmware often has no distances of these), then
    others by distance.
    """
    return min(nodes, key=lambda node: (node != home, _cost(topology, home, node), node))


def _cost(topology: Topology, home: int, node: int) -> tuple[bool, int, bool]:
    package = {n.id: n.package for n in topology.nodes}
    told = topology.access(home, node) == topology.best_access(node) != Access()
    return not told, topology.distance(home, node), package.get(node) != package.get(home)


def nodes_of_kind(call: str, topology: Topology, kind: str) -> Kind:
    """As `kind_nodes`; NodeError, with what the machine has, if the nodes of the kind are unknown."""
    result = kind_nodes(topology, kind)
    if result.nodes:
        return result
    raise NodeError(
        message(
            call,
            f"kind {kind!r}: {topology.source} tells neither the {kind} of its nodes nor memory tiers",
            machine_text(topology),
            "name nodes: on_node(n), interleave(nodes)",
        )
    )


def homes_of_kind(topology: Topology, kind: str, nodes: Iterable[int]) -> tuple[int, ...]:
    """For each of `nodes` its nearest node of a kind, ascending; none if these are unknown."""
    found = kind_nodes(topology, kind).nodes
    return tuple(sorted({nearest(topology, found, node) for node in nodes})) if found else ()


def with_memory_beside(topology: Topology, nodes: Iterable[int]) -> tuple[int, ...]:
    """These nodes and the allowed ones without CPUs to which no others are nearer, ascending."""
    near, beside = set(nodes), set()
    initiators = [node.id for node in topology.nodes if node.cpus]
    for node in topology.nodes:
        if not node.cpus and node.id in topology.allowed_nodes:
            cost = {a: _cost(topology, a, node.id) for a in initiators}
            beside |= {node.id for a in near if cost.get(a) == min(cost.values())}
    return tuple(sorted(near | beside))


def machine_text(topology: Topology) -> str:
    """What the machine has, for messages: ``nodes 0-1: 64.0 GiB DRAM, 200 GB/s; node 2: 16.0 GiB HBM, no CPUs``."""
    alike: dict[str, list[int]] = {}
    for node in topology.nodes:
        alike.setdefault(node_text(topology, node), []).append(node.id)
    return "; ".join(f"{_nodes(ids)}: {text}" for text, ids in alike.items())


def node_text(topology: Topology, node: Node) -> str:
    """Memory, its medium and speed if known, and whether there are no CPUs."""
    access = topology.best_access(node.id)
    memory = f"{node.memory_bytes / 2**30:.1f} GiB" if node.memory_bytes else "memory unknown"
    parts = [f"{memory} {node.medium}".rstrip()]
    parts += [f"{access.bandwidth / 1000:.4g} GB/s"] if access.bandwidth else []
    parts += [f"{access.latency} ns"] if access.latency else []
    parts += [f"tier {node.tier}"] if node.tier is not None else []
    parts += [] if node.cpus else ["no CPUs"]
    return ", ".join(parts)


def kinds_lines(topology: Topology) -> list[str]:
    """Return a line for each kind: its nodes and the source."""
    found = {kind: kind_nodes(topology, kind) for kind in MEMORY_KINDS}
    return [
        f"{kind}: {f'{_nodes(nodes)}, ' if nodes else ''}{SOURCES[source]}"
        for kind, (nodes, source) in found.items()
    ]


def _nodes(ids: Sequence[int]) -> str:
    return f"node {ids[0]}" if len(ids) == 1 else f"nodes {ids_text(ids)}"
