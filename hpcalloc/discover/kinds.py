# SPDX-License-Identifier: BSD-3-Clause
"""Kinds of memory: which nodes of a machine have the highest bandwidth, the lowest latency, the largest capacity.

The rules are those of ``numalloc_kind()`` in numa_alloc.h, here also for machines other than this one. Nothing is guessed:
where a machine tells neither attributes nor tiers, there is no node of a kind but that of capacity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..exceptions import NodeError, message
from ..policy import MEMORY_KINDS
from .topology import Node, Topology, ids_text

__all__ = [
    "Kind",
    "kind_nodes",
    "kinds_lines",
    "machine_text",
    "nearest",
    "node_text",
    "nodes_of_kind",
    "weights_of",
]

_SOURCES = {
    "": "not told",
    "attributes": "as the machine tells",
    "tiers": "by memory tiers",
    "size": "by size",
}
_ALIKE = 10  # a node counts if it is at most a tenth worse than the best
_WEIGHT_MAX = 32


class Kind(NamedTuple):
    """Allowed nodes that are of a kind, ascending, and how that is known."""

    nodes: tuple[int, ...]
    source: str  # "attributes", "tiers", "size" (of capacity alone); "": it is not known, there are no nodes


def kind_nodes(topology: Topology, kind: str) -> Kind:
    """Find the nodes of a kind, one of `MEMORY_KINDS`."""
    nodes = [node for node in topology.nodes if node.id in topology.allowed_nodes]
    access = {node.id: topology.best_access(node.id) for node in nodes}
    tiers = {node.id: node.tier for node in nodes if node.tier is not None}
    if kind == "bandwidth" and (told := {n: a.bandwidth for n, a in access.items() if a.bandwidth}):
        best = max(told.values())
        return Kind(
            tuple(n for n, value in told.items() if _ALIKE * value >= (_ALIKE - 1) * best), "attributes"
        )
    if kind == "latency" and (told := {n: a.latency for n, a in access.items() if a.latency}):
        best = min(told.values())
        return Kind(
            tuple(n for n, value in told.items() if _ALIKE * value <= (_ALIKE + 1) * best), "attributes"
        )
    if len(set(tiers.values())) > 1:
        wanted = max(tiers.values()) if kind == "capacity" else min(tiers.values())
        return Kind(tuple(n for n, tier in tiers.items() if tier == wanted), "tiers")
    if kind == "capacity" and (most := max(node.memory_bytes for node in nodes)):
        large = (n.id for n in nodes if _ALIKE * n.memory_bytes >= (_ALIKE - 1) * most)
        return Kind(tuple(large), "size")
    return Kind((), "")


def nearest(topology: Topology, nodes: tuple[int, ...], home: int) -> int:
    """Of these nodes the one that the CPUs of node `home` reach best: by distance, then by what is told, then by id."""
    package = {node.id: node.package for node in topology.nodes}

    def cost(node: int) -> tuple[int, bool, bool, int]:
        told = topology.access(home, node) == topology.best_access(node)
        return topology.distance(home, node), not told, package[node] != package[home], node

    return min(nodes, key=cost)


def nodes_of_kind(call: str, topology: Topology, kind: str) -> Kind:
    """As `kind_nodes`; NodeError says what the machine has if it does not tell which nodes are of the kind."""
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


def weights_of(topology: Topology, nodes: tuple[int, ...]) -> dict[int, int] | None:
    """Weights from 1 to 32 in the proportion of the nodes' bandwidths; None where one of them is not told."""
    bandwidth = {node: topology.best_access(node).bandwidth for node in nodes}
    best = max(bandwidth.values(), default=0)
    if not all(bandwidth.values()):
        return None
    return {node: max(1, round(_WEIGHT_MAX * value / best)) for node, value in bandwidth.items()}


def machine_text(topology: Topology) -> str:
    """What the machine has, for messages: ``nodes 0-1: 64.0 GiB DRAM, 200 GB/s; node 2: 16.0 GiB HBM, no CPUs``."""
    alike: dict[str, list[int]] = {}
    for node in topology.nodes:
        alike.setdefault(node_text(topology, node), []).append(node.id)
    return "; ".join(f"{_nodes(ids)}: {text}" for text, ids in alike.items())


def node_text(topology: Topology, node: Node) -> str:
    """Memory, its medium and speed, as far as they are told; and whether there are no CPUs."""
    access = topology.best_access(node.id)
    memory = f"{node.memory_bytes / 2**30:.1f} GiB" if node.memory_bytes else "memory unknown"
    parts = [f"{memory} {node.medium}".rstrip()]
    parts += [f"{access.bandwidth / 1000:.4g} GB/s"] if access.bandwidth else []
    parts += [f"{access.latency} ns"] if access.latency else []
    parts += [f"tier {node.tier}"] if node.tier is not None else []
    parts += [] if node.cpus else ["no CPUs"]
    return ", ".join(parts)


def kinds_lines(topology: Topology) -> list[str]:
    """Which nodes each kind means, and how that is known, a line a kind."""
    found = {kind: kind_nodes(topology, kind) for kind in MEMORY_KINDS}
    return [
        f"{kind}: {f'{_nodes(nodes)}, ' if nodes else ''}{_SOURCES[source]}"
        for kind, (nodes, source) in found.items()
    ]


def _nodes(ids: Sequence[int]) -> str:
    return f"node {ids[0]}" if len(ids) == 1 else f"nodes {ids_text(ids)}"
