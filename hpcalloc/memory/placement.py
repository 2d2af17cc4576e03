# SPDX-License-Identifier: BSD-3-Clause
"""Where memory is, as the kernel reports it: pages by node of an array, and of the whole process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _native
from .._native import _handler
from .._native.errors import name_of
from ..bind.rank import current_nodes
from ..policy import node_ids

__all__ = ["Placement", "ProcessMemory", "bounds", "placement", "process_memory"]

_POLICIES = {
    _handler.LOCAL: "local",
    _handler.ON_NODE: "on_node",
    _handler.INTERLEAVE: "interleave",
    _handler.BLOCKED: "blocked",
    _native.lib.NUMALLOC_WEIGHTED: "weighted",
}


class Placement(NamedTuple):
    """Where the pages of an array are.

    Pages are base pages; the first and the last may be shared with neighbours. An untouched
    page is on no node: it counts for none, and fractions are of the touched pages.

    Attributes
    ----------
    nbytes : int
        Bytes from the array's first to its last, gaps of a strided array included.
    page_size : int
        Bytes.
    pages : int
        Pages that these bytes touch.
    pages_per_node : mapping of int to int
        Pages by node id; nodes without any are left out.
    untouched, failed : int
        Pages not backed by memory yet, and pages for which the kernel gave an error.
    home_nodes : tuple of int
        Nodes that hpcalloc's policy for the block names; empty for memory of others.
    policy : str
        That policy: "on_node" (also for blocks made local or by kind), "interleave", "blocked", "weighted"; "" for
        memory of others.
    huge_page : int
        Bytes of the explicit huge pages behind the block, else 0.
    local_nodes : tuple of int
        Nodes that count as local in `local_fraction`.
    unknown : str
        Why the kernel does not say where pages are; all counts but `pages` are 0 then. "" if it does.
    """

    nbytes: int
    page_size: int
    pages: int
    pages_per_node: Mapping[int, int] = MappingProxyType({})
    untouched: int = 0
    failed: int = 0
    home_nodes: tuple[int, ...] = ()
    policy: str = ""
    huge_page: int = 0
    local_nodes: tuple[int, ...] = ()
    unknown: str = ""

    @property
    def nodes(self) -> tuple[int, ...]:
        """Nodes that have pages of the array."""
        return tuple(self.pages_per_node)

    @property
    def bytes_per_node(self) -> dict[int, int]:
        """Bytes of whole pages by node id."""
        return {node: pages * self.page_size for node, pages in self.pages_per_node.items()}

    @property
    def local_pages(self) -> int:
        """Pages on `local_nodes`."""
        return sum(self.pages_per_node.get(node, 0) for node in self.local_nodes)

    @property
    def touched_pages(self) -> int:
        """Pages backed by memory, those that failed included."""
        return sum(self.pages_per_node.values()) + self.failed

    @property
    def local_fraction(self) -> float | None:
        """Share of the touched pages that are on `local_nodes`, 0 to 1; None if none is touched or known."""
        return self.local_pages / self.touched_pages if self.touched_pages else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "nbytes": self.nbytes,
            "page_size": self.page_size,
            "pages": self.pages,
            "pages_per_node": {str(node): pages for node, pages in self.pages_per_node.items()},
            "untouched": self.untouched,
            "failed": self.failed,
            "home_nodes": list(self.home_nodes),
            "policy": self.policy,
            "huge_page": self.huge_page,
            "local_nodes": list(self.local_nodes),
            "local_fraction": self.local_fraction,
            "unknown": self.unknown or None,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _placement, (*self[:3], dict(self.pages_per_node), *self[4:])  # a mappingproxy has no pickle

    def __str__(self) -> str:
        if self.unknown:
            return f"placement unknown: {self.unknown}"
        where = [f"{pages} on node {node}" for node, pages in self.pages_per_node.items()]
        where += [f"{count} {what}" for what in ("untouched", "failed") if (count := getattr(self, what))]
        text = f"{self.pages} pages of {self.page_size} bytes: {', '.join(where) or 'none'}"
        if self.local_fraction is not None:
            text += f"; {100 * self.local_fraction:.1f} % local"
        return text


def _placement(
    nbytes: int, page_size: int, pages: int, pages_per_node: dict[int, int], *others: Any
) -> Placement:
    """Return what was pickled or copied."""
    return Placement(nbytes, page_size, pages, MappingProxyType(pages_per_node), *others)


def placement(a: npt.NDArray[Any], *, local_nodes: Iterable[int] | None = None) -> Placement:
    """Ask the kernel where the pages of an array are.

    Parameters
    ----------
    a : numpy.ndarray
        Any array, also a view, a strided slice, or memory of others.
    local_nodes : iterable of int, optional
        Nodes that count as local. By default the array's home: of an array by kind the node of that kind that was nearest
        when it was made, or with ``strict`` the nearest that had room; for memory of others the nodes of the
        innermost open context; without one the node that the calling thread is on.

    Returns
    -------
    Placement
        With `unknown` set where the kernel does not tell, as in many containers.

    Raises
    ------
    TypeError
        Not an array, or local nodes that are not integers.
    NodeError
        A local node that no machine can have.
    """
    if not isinstance(a, np.ndarray):
        raise TypeError(
            f"placement: a {type(a).__name__}; limit: numpy.ndarray; remedy: pass numpy.asarray(...) of it"
        )
    start, stop = bounds(a)
    info = _native.block_info(start) if stop > start else None
    home = _home(a, info) if info is not None else ()
    local = node_ids("placement", local_nodes) if local_nodes is not None else home or current_nodes()
    return range_placement(start, stop - start, local, home, info)


def range_placement(
    start: int,
    nbytes: int,
    local_nodes: tuple[int, ...],
    home_nodes: tuple[int, ...] = (),
    info: _native.BlockInfo | None = None,
) -> Placement:
    """Ask the kernel where the pages of ``[start, start + nbytes)`` are."""
    policy = _POLICIES.get(info.policy, "") if info is not None else ""
    huge_page = info.huge_page if info is not None else 0
    counts = _native.page_counts(start, nbytes)
    if isinstance(counts, int):
        page = _native.page_size()
        pages = (start + nbytes + page - 1) // page - start // page if nbytes else 0
        return Placement(
            nbytes,
            page,
            pages,
            home_nodes=home_nodes,
            policy=policy,
            huge_page=huge_page,
            local_nodes=local_nodes,
            unknown=f"move_pages: {name_of(counts)}",
        )
    return Placement(
        nbytes,
        counts.page_size,
        counts.pages,
        MappingProxyType(counts.on_node),
        counts.untouched,
        counts.failed,
        home_nodes,
        policy,
        huge_page,
        local_nodes,
    )


def bounds(a: npt.NDArray[Any]) -> tuple[int, int]:
    """Return the addresses of an array's first byte and of that after the last."""
    start = stop = a.__array_interface__["data"][0]
    if a.size == 0:
        return start, start
    for length, stride in zip(a.shape, a.strides, strict=True):
        if stride < 0:
            start += (length - 1) * stride
        else:
            stop += (length - 1) * stride
    return start, stop + a.itemsize


def _home(a: npt.NDArray[Any], info: _native.BlockInfo) -> tuple[int, ...]:
    if info.node >= 0:
        return (info.node,)
    owner: Any = a
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    handler = _handler.handler_of(owner) if isinstance(owner, np.ndarray) else None
    nodes = _handler.describe(handler)[2] if handler is not None else None
    return tuple(nodes) if nodes is not None else _native.node_ids()


# ---- the process --------------------------------------------------------------------------------------


class ProcessMemory(NamedTuple):
    """Resident memory of the process, in bytes."""

    resident: int
    huge: int  # of this, in transparent or explicit huge pages
    per_node: Mapping[int, int]  # by node id, file pages and shared libraries included
    unknown: str = ""  # why per_node is empty

    @property
    def huge_fraction(self) -> float:
        """Share of the resident memory that is in huge pages, 0 to 1."""
        return self.huge / self.resident if self.resident else 0.0


def process_memory() -> ProcessMemory:
    """Read the resident memory of this process from ``/proc/self/smaps_rollup`` and ``/proc/self/numa_maps``.

    Fields that the kernel does not offer are 0 or empty, `unknown` says why.
    """
    fields: dict[str, int] = {}
    unknown = ""
    try:
        with open("/proc/self/smaps_rollup") as rollup:
            for line in rollup.readlines()[1:]:
                name, _, value = line.partition(":")
                fields[name] = int(value.split()[0]) * 1024
    except OSError as error:
        unknown = f"/proc/self/smaps_rollup: {error.strerror}"
    per_node: dict[int, int] = {}
    try:
        with open("/proc/self/numa_maps", errors="replace") as maps:
            for line in maps:
                _add_mapping(line, per_node)
    except OSError as error:
        unknown = f"/proc/self/numa_maps: {error.strerror}"
    explicit = fields.get("Private_Hugetlb", 0) + fields.get("Shared_Hugetlb", 0)
    huge = explicit + sum(
        fields.get(name, 0) for name in ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")
    )
    return ProcessMemory(
        fields.get("Rss", 0) + explicit, huge, MappingProxyType(dict(sorted(per_node.items()))), unknown
    )


def _add_mapping(line: str, per_node: dict[int, int]) -> None:
    """Add a line of numa_maps: ``ADDRESS POLICY ... N0=5 N1=3 kernelpagesize_kB=4``."""
    pages: dict[int, int] = {}
    page_size = 4096
    for word in line.split()[2:]:
        name, _, value = word.partition("=")
        if name == "kernelpagesize_kB":
            page_size = int(value) * 1024
        elif name[:1] == "N" and name[1:].isdigit():
            pages[int(name[1:])] = int(value)
    for node, count in pages.items():
        per_node[node] = per_node.get(node, 0) + count * page_size
