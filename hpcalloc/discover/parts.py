# SPDX-License-Identifier: BSD-3-Clause
"""What a topology is made of, lists of ids, and what the readers of topologies share."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

from ..exceptions import TopologyError, message

__all__ = ["ID_MAX", "Access", "Core", "Found", "Node", "cut", "format_ids", "homes", "ids_text", "parse_ids"]

ID_MAX = 1 << 20  # more than a kernel has CPUs or nodes


def parse_ids(text: str) -> tuple[int, ...]:
    """Ids of a kernel list such as ``0-3,8``, ascending.

    Raises
    ------
    TopologyError
        Anything else, such as ``3-0`` and ids beyond any kernel's.
    """
    ids: set[int] = set()
    for part in text.strip().split(","):
        if not part:
            continue
        match = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= ID_MAX:
            raise TopologyError(message("parse_ids", repr(text), "a list such as 0-3,8", "correct the list"))
        ids.update(range(first, last + 1))
    return tuple(sorted(ids))


def format_ids(ids: Iterable[int]) -> str:
    """Ids as a kernel list: ``(0, 1, 2, 8)`` gives ``0-2,8``."""
    parts: list[str] = []
    ordered = sorted(ids)
    start = 0
    for i, value in enumerate(ordered):
        if i + 1 == len(ordered) or ordered[i + 1] != value + 1:
            parts.append(f"{ordered[start]}-{value}" if i > start else str(value))
            start = i + 1
    return ",".join(parts)


def ids_text(ids: Iterable[int]) -> str:
    """Ids for people to read: as `format_ids`, but ``0-30:2`` for three or more in equal steps above 1."""
    ordered = sorted(ids)
    step = ordered[1] - ordered[0] if len(ordered) > 2 else 1
    if step > 1 and all(b - a == step for a, b in itertools.pairwise(ordered)):
        return f"{ordered[0]}-{ordered[-1]}:{step}"
    return format_ids(ordered)


class Core(NamedTuple):
    """A physical core.

    Attributes
    ----------
    package, node : int
        Ids of the package and of the NUMA node it is local to.
    pus : tuple of int
        OS indexes of its hardware threads, the primary one first.
    caches : tuple of int
        Ids of the caches it shares with others, outermost first: equal ids mean the same cache.
    """

    package: int
    node: int
    pus: tuple[int, ...]
    caches: tuple[int, ...] = ()


class Node(NamedTuple):
    """A NUMA node.

    Attributes
    ----------
    id, package : int
        Package -1: of none, or unknown.
    memory_bytes : int
        0 if unknown.
    cpus : tuple of int
        Empty for memory-only ones (CXL, HBM, a GPU's).
    tier : int or None
        Memory tier: the lower, the faster. None where the machine has no tiers or does not tell.
    medium : str
        hwloc's name of what it is made of, such as DRAM, HBM, GPUMemory; "" if unknown.
    """

    id: int
    memory_bytes: int
    package: int
    cpus: tuple[int, ...]
    tier: int | None = None
    medium: str = ""


class Access(NamedTuple):
    """How the CPUs of one node reach the memory of another, by the firmware; 0: unknown.

    Where reading and writing differ, these are the slower of the two.
    """

    bandwidth: int = 0  # MB/s
    latency: int = 0  # ns


class Found(NamedTuple):
    """What a reader found: the fields of a `Topology`."""

    nodes: tuple[Node, ...]
    cores: tuple[Core, ...]
    allowed_cpus: frozenset[int]
    allowed_nodes: frozenset[int]
    source: str
    distances: tuple[tuple[tuple[int, int], int], ...] = ()
    cpu_quota: float | None = None
    accesses: tuple[tuple[tuple[int, int], Access], ...] = ()


def homes(packages: dict[int, int], node_of: dict[int, int], nodes: Iterable[int]) -> dict[int, int]:
    """Node of each CPU; one that is under no node gets the first of its package, or else the machine's first."""
    first: dict[int, int] = {}
    for cpu, node in node_of.items():
        first[packages[cpu]] = min(node, first.get(packages[cpu], node))
    default = min(first.values(), default=min(nodes, default=0))
    return {cpu: node_of.get(cpu, first.get(package, default)) for cpu, package in packages.items()}


def cut(text: str | None) -> str:
    """Quote a text of others for a message, at most 40 characters of it."""
    return repr(text) if text is None or len(text) <= 40 else f"{text[:40]!r}..."
