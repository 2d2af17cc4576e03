# SPDX-License-Identifier: BSD-3-Clause
"""Memory bandwidth from every node's CPUs to every node's memory, and over thread counts, in one process.

A cell is a kernel on arrays of one node, run by one core or by all cores of one node, one thread a core. Cells take
turns within each repetition, so that a slow spell of the machine hits all of them; figures are medians over the
iterations of all repetitions, without the first ones of each. Results are verified, and so is where the pages are.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import _native
from ..discover.topology import Topology, format_ids
from ..exceptions import HpcallocError, message
from ..memory.placement import Placement, placement
from ..policy import blocked, on_node
from . import kernels, machine
from .caches import last_level_bytes
from .kernels import BYTES_PER_ELEMENT, COUNTING, KERNELS, Arrays, Team
from .sizes import array_bytes, check_room

__all__ = ["DROPPED", "ONE_NODE", "STORES", "Options", "Series", "cores_by_node", "measure", "where"]

DROPPED = 2  # first iterations of each run
STORES = ("auto", "ordinary", "streaming")
ONE_NODE = "1 NUMA node: no remote memory to compare with"
WRITING = tuple(kernel for kernel in KERNELS if kernel != "read")


@dataclass(frozen=True)
class Options:
    """What to measure, checked.

    Attributes
    ----------
    nbytes : int or None
        Of each array; None: four times the last-level caches of the largest team.
    small : bool
        Arrays may fit into the caches.
    iterations, repeats : int
        Counted iterations of a run, and runs of each cell.
    stores : {"auto", "ordinary", "streaming"}
        How kernels write; auto: what is faster here, measured first.
    threads : tuple of int
        Thread counts of the scaling on one node; empty: powers of two and all cores.
    """

    nbytes: int | None = None
    small: bool = False
    iterations: int = 8
    repeats: int = 3
    stores: str = "auto"
    threads: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what can't be measured."""
        if self.iterations < 1 or self.repeats < 1 or (self.threads and min(self.threads) < 1):
            raise HpcallocError(
                message(
                    "bench bandwidth",
                    f"iterations {self.iterations}, repeats {self.repeats}, threads {list(self.threads)}",
                    "numbers from 1",
                    "correct them",
                )
            )
        if self.nbytes is not None and self.nbytes < 1 << 16:
            raise HpcallocError(
                message("bench bandwidth", f"{self.nbytes} bytes", "at least 64 KiB", "larger arrays")
            )
        if self.stores not in STORES:
            raise HpcallocError(
                message("bench bandwidth", f"stores {self.stores!r}", ", ".join(STORES), "choose one")
            )
        if self.stores == "streaming" and not kernels.can_stream():
            raise HpcallocError(
                message(
                    "bench bandwidth",
                    "stores 'streaming'",
                    "x86-64 processors have them",
                    "--stores ordinary",
                )
            )


@dataclass
class Series:
    """Seconds of the counted iterations, and whether every result was right."""

    nbytes: int  # that an iteration counts
    seconds: list[float] = field(default_factory=list)
    right: bool = True

    def add(self, run: tuple[list[float], bool]) -> None:
        """Take over a run without its first iterations."""
        seconds, right = run
        self.seconds += seconds[DROPPED:]
        self.right = self.right and right

    def rates(self) -> dict[str, Any]:
        """Median and best rate, and whether the results were right."""
        return {
            "gb_per_s": 1e-9 * self.nbytes / statistics.median(self.seconds),
            "best_gb_per_s": 1e-9 * self.nbytes / min(self.seconds),
            "result_verified": self.right,
        }


def cores_by_node(topology: Topology, affinity: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """First usable PU of each core, by node; nodes without a usable core are left out."""
    may = set(affinity)
    out: dict[int, list[int]] = {}
    for core in topology.usable_cores:
        pus = [pu for pu in core.pus if pu in may]
        if pus:
            out.setdefault(core.node, []).append(pus[0])
    return {node: tuple(cpus) for node, cpus in sorted(out.items())}


def where(arrays: Arrays, nodes: Sequence[int]) -> dict[str, Any]:
    """Count the pages of all three arrays by node, and tell whether they are on `nodes` alone.

    ``placed`` is None where the kernel does not tell; ``unknown`` says why.
    """
    seen = [placement(array, local_nodes=nodes) for array in (arrays.a, arrays.b, arrays.c)]
    return describe(seen)


def describe(seen: Sequence[Placement]) -> dict[str, Any]:
    """Sum placements, in plain values."""
    pages: dict[int, int] = {}
    for one in seen:
        for node, count in one.pages_per_node.items():
            pages[node] = pages.get(node, 0) + count
    unknown = next((one.unknown for one in seen if one.unknown), "")
    placed = None if unknown else all(one.local_pages == one.pages for one in seen)
    return {
        "pages": {str(node): count for node, count in sorted(pages.items())},
        "untouched": sum(one.untouched for one in seen),
        "placed": placed,
        "unknown": unknown or None,
    }


def first_touchers(node: int, cores: dict[int, tuple[int, ...]]) -> Team:
    """CPUs of the node itself, in case its memory can't be bound; any for a memory-only one."""
    return Team.on(cores.get(node) or next(iter(cores.values())))


def choose_stores(
    options: Options, arrays: Arrays, teams: dict[str, Team]
) -> dict[str, dict[str, dict[str, Any]]]:
    """For each team and each kernel that writes: "ordinary" or "streaming" in ``use``, with the figures if measured."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for name, team in teams.items():
        out[name] = {}
        for kernel in WRITING:
            if options.stores != "auto" or not kernels.can_stream():
                use = "ordinary" if options.stores == "auto" else options.stores
                out[name][kernel] = {"use": use}
                continue
            series = {kind: Series(BYTES_PER_ELEMENT[kernel] * arrays.a.size) for kind in STORES[1:]}
            for _ in range(3):
                for kind, one in series.items():
                    one.add(arrays.time(kernel, team, DROPPED + 3, streaming=kind == "streaming"))
            rates = {kind: one.rates()["gb_per_s"] for kind, one in series.items()}
            out[name][kernel] = {"use": max(rates, key=lambda kind: rates[kind]), "gb_per_s": rates}
    return out


def thread_counts(asked: Sequence[int], cores: int) -> list[int]:
    """Those asked for, at most `cores`; by default powers of two and all."""
    if not asked:
        return sorted({1 << k for k in range(cores.bit_length()) if 1 << k <= cores} | {cores})
    if max(asked) > cores:
        raise HpcallocError(
            message(
                "bench bandwidth",
                f"--threads {max(asked)}",
                f"{cores} core(s) of the first node",
                "one thread a core at most",
            )
        )
    return sorted(set(asked))


@dataclass
class _Cell:
    cpu_node: int
    kernel: str
    team_name: str
    team: Team
    series: Series


def measure(options: Options, advance: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure the matrix and the scaling.

    Parameters
    ----------
    options : Options
    advance : callable
        Called with what was done after each step of `steps`, for a progress bar.

    Returns
    -------
    dict
        ``cells`` (one for each node of CPUs, node of memory, team and kernel: GB/s, threads, whether the result was
        right, pages by node and whether they are where they should be), ``scaling``, ``stores``, ``machine``,
        ``remarks``, and ``good``: nothing was wrong.

    Raises
    ------
    HpcallocError
        The arrays are too small or don't fit, or there are not as many threads.
    """
    cores, memory = _geometry()
    every = [cpu for cpus in cores.values() for cpu in cpus]
    largest = max(cores.values(), key=last_level_bytes)
    nbytes = array_bytes("bench bandwidth", largest, options.nbytes, options.small)
    elements = nbytes // 8
    check_room("bench bandwidth", 3 * nbytes, memory)
    counts = thread_counts(options.threads, len(next(iter(cores.values()))))

    cells: list[dict[str, Any]] = []
    stores: dict[str, dict[str, dict[str, Any]]] = {}
    near = next(iter(cores))
    for memory_node in sorted(memory, key=lambda node: node != near):
        arrays = Arrays.make(elements, first_touchers(memory_node, cores), on_node(memory_node))
        if not stores:
            teams = {name: team for name, team in _teams(cores[near])}
            stores = choose_stores(options, arrays, teams)
            advance("kinds of stores")
        cells += _column(options, cores, memory_node, arrays, stores, advance)
        del arrays
    cells.sort(
        key=lambda cell: (cell["team"], cell["cpu_node"], KERNELS.index(cell["kernel"]), cell["memory_node"])
    )

    scaling = _scaling(options, cores, memory, counts, elements, stores, advance)
    remarks = [r for r in (machine.remark(),) if r]
    if len(memory) == 1:
        remarks.append(ONE_NODE)
    if options.small:
        remarks.append("--small: the arrays fit into caches; these figures are not memory's")
    checked = [*cells, *scaling]
    return {
        "benchmark": "bandwidth",
        "machine": machine.facts(every),
        "counting": COUNTING,
        "array_bytes": nbytes,
        "small": options.small,
        "iterations": options.iterations,
        "repeats": options.repeats,
        "cpu_nodes": list(cores),
        "memory_nodes": list(memory),
        "cores": {str(node): format_ids(cpus) for node, cpus in cores.items()},
        "stores": stores,
        "cells": cells,
        "scaling": scaling,
        "remarks": remarks,
        "good": all(c["result_verified"] and c["placed"] is not False for c in checked),
    }


def steps(options: Options) -> int:
    """Steps of `measure`, for a progress bar."""
    cores, memory = _geometry()
    counts = thread_counts(options.threads, len(next(iter(cores.values()))))
    nodes = sum(1 for _ in _node_counts(len(_both(cores, memory))))
    return 1 + len(memory) * options.repeats * len(cores) + len(counts) + nodes


def _geometry() -> tuple[dict[int, tuple[int, ...]], tuple[int, ...]]:
    """CPUs by node, and the nodes whose memory may be used."""
    cores = cores_by_node(Topology.from_machine(), os.sched_getaffinity(0))
    if kernels.openmp_version() == 0 and max(map(len, cores.values())) > 1:
        raise HpcallocError(
            message(
                "bench bandwidth",
                "all cores of a node",
                "1 thread: the kernels were built without OpenMP",
                "install OpenMP for the C compiler (libgomp, libomp-dev) and reinstall hpcalloc",
            )
        )
    return cores, _native.node_ids()


def _teams(cpus: tuple[int, ...]) -> Iterator[tuple[str, Team]]:
    yield "all", Team.on(cpus)
    yield "one", Team.on(cpus[:1])


def _streams(stores: dict[str, dict[str, dict[str, Any]]], team: str, kernel: str) -> bool:
    return kernel in WRITING and bool(stores[team][kernel]["use"] == "streaming")


def _column(
    options: Options,
    cores: dict[int, tuple[int, ...]],
    memory_node: int,
    arrays: Arrays,
    stores: dict[str, dict[str, dict[str, Any]]],
    advance: Callable[[str], None],
) -> list[dict[str, Any]]:
    """All cells on one node's memory."""
    cells = [
        _Cell(node, kernel, name, team, Series(BYTES_PER_ELEMENT[kernel] * arrays.a.size))
        for node, cpus in cores.items()
        for name, team in _teams(cpus)
        for kernel in KERNELS
    ]
    for _ in range(options.repeats):
        for node in cores:
            for cell in cells:
                if cell.cpu_node == node:
                    streaming = _streams(stores, cell.team_name, cell.kernel)
                    count = DROPPED + options.iterations
                    cell.series.add(arrays.run(cell.kernel, cell.team, count, streaming=streaming))
            advance(f"CPUs of node {node}, memory of node {memory_node}")
    pages = where(arrays, (memory_node,))  # after the last kernel: where they were all the time
    return [
        {
            "team": cell.team_name,
            "cpu_node": cell.cpu_node,
            "memory_node": memory_node,
            "kernel": cell.kernel,
            "threads": cell.team.threads,
            **cell.series.rates(),
            **pages,
        }
        for cell in cells
    ]


# ---- scaling ------------------------------------------------------------------------------------------


def _both(cores: dict[int, tuple[int, ...]], memory: Sequence[int]) -> list[int]:
    """Nodes that have both usable CPUs and usable memory."""
    return [node for node in cores if node in memory]


def _node_counts(nodes: int) -> Iterator[int]:
    """2, 4, 8, ... and all: numbers of whole nodes that run together."""
    yield from sorted({1 << k for k in range(1, nodes.bit_length()) if 1 << k <= nodes} | ({nodes} - {0, 1}))


def _scaling(
    options: Options,
    cores: dict[int, tuple[int, ...]],
    memory: Sequence[int],
    counts: Sequence[int],
    elements: int,
    stores: dict[str, dict[str, dict[str, Any]]],
    advance: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Triad over thread counts on one node's own memory, then over whole nodes with blocked arrays."""
    out = []
    together = _both(cores, memory)
    near = together[0] if together else next(iter(cores))
    home = near if near in memory else memory[0]
    arrays = Arrays.make(elements, first_touchers(home, cores), on_node(home))
    counts = [count for count in counts if count <= len(cores[near])]
    teams = {count: Team.on(cores[near][:count]) for count in counts}
    series = {count: Series(BYTES_PER_ELEMENT["triad"] * elements) for count in counts}
    for repeat in range(options.repeats):
        for count, team in teams.items():
            streaming = _streams(stores, "all" if count > 1 else "one", "triad")
            series[count].add(arrays.run("triad", team, DROPPED + options.iterations, streaming=streaming))
            if repeat == 0:
                advance(f"{count} thread(s)")
    pages = where(arrays, (home,))
    for count in counts:
        out.append({"threads": count, "nodes": [near], "kernel": "triad", **series[count].rates(), **pages})
    del arrays

    for nodes in _node_counts(len(together)):
        used = together[:nodes]
        # As many threads on each node, so that the part of a thread is on its own.
        each = min(len(cores[node]) for node in used)
        team = Team.on([cpu for node in used for cpu in cores[node][:each]])
        check_room("bench bandwidth", 3 * elements * 8, used, len(used))
        arrays = Arrays.make(elements * nodes, team, blocked(0, used))
        one = Series(BYTES_PER_ELEMENT["triad"] * elements * nodes)
        for _ in range(options.repeats):
            streaming = _streams(stores, "all", "triad")
            one.add(arrays.run("triad", team, DROPPED + options.iterations, streaming=streaming))
        parts = [
            placement(array[i * elements : (i + 1) * elements], local_nodes=(node,))
            for array in (arrays.a, arrays.b, arrays.c)
            for i, node in enumerate(used)
        ]
        out.append(
            {"threads": team.threads, "nodes": used, "kernel": "triad", **one.rates(), **describe(parts)}
        )
        del arrays
        advance(f"{nodes} nodes together")
    return out
