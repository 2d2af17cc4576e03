# SPDX-License-Identifier: BSD-3-Clause
"""Memory latency: a chain of dependent loads over working sets from the first-level cache to memory.

The chain visits every cache line of the working set once, in random order, so that no prefetcher helps and, beyond the
TLB's reach, base pages pay for their walks. One thread on one core; memory of each node; base and huge pages.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .. import _native
from ..discover.topology import Topology
from ..exceptions import HpcallocError, message
from ..memory.placement import range_placement
from . import machine
from .bandwidth import ONE_NODE, cores_by_node, describe
from .caches import caches_of, last_level_bytes
from .kernels import LINE, Chain, pinned
from .sizes import array_bytes, check_room

__all__ = ["PAGES", "Options", "measure", "steps"]

PAGES = ("base", "huge")
_SMALLEST = 4096
_GRAIN = 2 << 20


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes
    ----------
    nbytes : int or None
        Largest working set; None: four times the last-level cache.
    small : bool
        The largest working set may fit into the caches.
    repeats : int
        Measurements of each point, of which the median counts.
    steps : int
        Least loads of a measurement.
    """

    nbytes: int | None = None
    small: bool = False
    repeats: int = 3
    steps: int = 1 << 18

    def __post_init__(self) -> None:
        """Refuse what can't be measured."""
        if self.repeats < 1 or self.steps < 1:
            raise HpcallocError(
                message(
                    "bench latency",
                    f"repeats {self.repeats}, steps {self.steps}",
                    "numbers from 1",
                    "correct them",
                )
            )
        if self.nbytes is not None and self.nbytes < _SMALLEST:
            raise HpcallocError(
                message("bench latency", f"{self.nbytes} bytes", f"at least {_SMALLEST}", "a larger --size")
            )


def working_sets(largest: int) -> list[int]:
    """4 KiB, 6 KiB, 8 KiB, 12 KiB, ... and `largest`: two sizes for each doubling, whole lines each."""
    sizes, size = [], _SMALLEST
    while size < largest:
        sizes += [size, size + size // 2]
        size *= 2
    return [*(s for s in sizes if s < largest), largest]


@dataclass
class _Point:
    """A working set on a pair of nodes."""

    cpu_node: int
    nbytes: int
    seconds: list[float]
    right: bool = True


def measure(options: Options, advance: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure the curve from the first node to its own memory and the farthest, and the matrix at the largest set.

    Returns
    -------
    dict
        ``points``: one for each node of the CPU, node of memory, kind of page and working set, with nanoseconds a load,
        whether the chain was whole, pages by node and whether they are where they should be, and which share of the
        memory is in huge pages; ``caches`` of the first CPU; ``remarks``; ``good``.

    Raises
    ------
    HpcallocError
        A working set that is too small or does not fit.
    """
    cores, memory, cpus = _geometry()
    largest = _largest(options, cpus)
    check_room("bench latency", largest, memory)
    points: list[dict[str, Any]] = []
    for memory_node in memory:
        for pages in PAGES:
            points += _chain(options, cpus, cores, memory_node, pages, largest, _curve_nodes(memory), advance)
    remarks = [r for r in (machine.remark(),) if r]
    if len(memory) == 1:
        remarks.append(ONE_NODE)
    if options.small:
        remarks.append("--small: the largest working set fits into caches; it does not show memory")
    if any(p["pages_asked"] == "huge" and p["huge_fraction"] == 0 for p in points):
        remarks.append("the kernel gave no huge pages: see /sys/kernel/mm/transparent_hugepage/enabled")
    first = next(iter(cpus.values()))
    return {
        "benchmark": "latency",
        "machine": machine.facts(cpus.values()),
        "largest_bytes": largest,
        "small": options.small,
        "repeats": options.repeats,
        "line_bytes": LINE,
        "caches": [{"level": cache.level, "bytes": cache.size} for cache in caches_of(first)],
        "cpu_nodes": list(cpus),
        "memory_nodes": list(memory),
        "curve_nodes": list(_curve_nodes(memory)),
        "points": points,
        "remarks": remarks,
        "good": all(p["result_verified"] and p["placed"] is not False for p in points),
    }


def steps(options: Options) -> int:
    """Steps of `measure`, for a progress bar."""
    _, memory, cpus = _geometry()
    largest = _largest(options, cpus)
    curve = _curve_nodes(memory)
    return len(PAGES) * sum(len(working_sets(largest)) if node in curve else 1 for node in memory)


def _largest(options: Options, cpus: dict[int, int]) -> int:
    """Bytes of the largest working set: only one CPU's caches hold it at a time."""
    cpu = max(cpus.values(), key=lambda cpu: last_level_bytes([cpu]))
    return array_bytes("bench latency", [cpu], options.nbytes, options.small) // LINE * LINE


def _geometry() -> tuple[dict[int, tuple[int, ...]], tuple[int, ...], dict[int, int]]:
    """CPUs by node, nodes of memory, and the CPU that measures for each node."""
    cores = cores_by_node(Topology.from_machine(), os.sched_getaffinity(0))
    return cores, _native.node_ids(), {node: cpus[0] for node, cpus in cores.items()}


def _curve_nodes(memory: tuple[int, ...]) -> tuple[int, ...]:
    """Nodes of memory for which the whole curve is measured from the first node's CPU: near and far."""
    topology = Topology.from_machine()
    near = next(iter(cores_by_node(topology, os.sched_getaffinity(0))))
    far = max(memory, key=lambda node: (topology.distance(near, node), node))
    home = near if near in memory else memory[0]
    return tuple(dict.fromkeys((home, far)))


def _chain(
    options: Options,
    cpus: dict[int, int],
    cores: dict[int, tuple[int, ...]],
    memory_node: int,
    pages: str,
    largest: int,
    curve_nodes: tuple[int, ...],
    advance: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """All points on one node's memory in one kind of page."""
    first = next(iter(cpus))
    sizes = working_sets(largest) if memory_node in curve_nodes else [largest]
    length = -(-largest // _GRAIN) * _GRAIN
    points = []
    with Chain(length, memory_node, huge=pages == "huge") as chain:
        with pinned(cores.get(memory_node) or list(cpus.values())):  # first touch, in case it can't be bound
            chain.link(largest)
        for nbytes in sizes:
            linked = chain.link(nbytes, seed=nbytes)
            here = [_Point(node, nbytes, [], linked) for node in cpus if nbytes == largest or node == first]
            for _ in range(options.repeats + 1):
                for point in here:
                    with pinned([cpus[point.cpu_node]]):
                        taken, whole = chain.chase(nbytes, options.steps)
                    point.seconds.append(taken)
                    point.right = point.right and whole
            points += here
            advance(f"{nbytes >> 10} KiB on node {memory_node}, {pages} pages")
        where = describe([range_placement(chain.address, largest, (memory_node,), (), None)])
        huge = chain.huge_bytes() / length
    for point in points:
        yield {
            "cpu_node": point.cpu_node,
            "memory_node": memory_node,
            "pages_asked": pages,
            "working_set_bytes": point.nbytes,
            "ns": 1e9 * statistics.median(point.seconds[1:]),  # the first warms the caches
            "result_verified": point.right,
            "huge_fraction": huge,
            **where,
        }
