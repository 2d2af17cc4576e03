# SPDX-License-Identifier: BSD-3-Clause
"""What calls of the bridge return; imported with the first of them, as its classes take longer to make than a call."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["BlockInfo", "MoveCounts", "NodeInfo", "PageCounts"]


class NodeInfo(NamedTuple):
    """A NUMA node as the allocator sees it now."""

    node: int  # id
    cpus: int  # logical CPUs online; 0: memory-only
    allowed: bool  # this process may allocate here
    total_bytes: int
    free_bytes: int


class BlockInfo(NamedTuple):
    """A live block of the allocator."""

    start: int  # address of the first byte
    size: int  # usable bytes
    node: int  # home by policy, or NODE_MIXED
    policy: int  # lib.NUMALLOC_LOCAL, _ONNODE (of blocks by kind too), _INTERLEAVE, _BLOCKED or _WEIGHTED
    strict: bool
    huge_page: int  # bytes of the explicit huge page behind it, else 0


class PageCounts(NamedTuple):
    """Where the kernel says the pages of a range are; counts are of base pages."""

    page_size: int  # bytes
    pages: int = 0  # that the range touches
    untouched: int = 0  # not backed by memory yet
    failed: int = 0  # the kernel gave an error for the page
    on_node: Mapping[int, int] = MappingProxyType({})  # pages by node id; nodes with none are left out

    def __add__(self, other: PageCounts) -> PageCounts:  # type: ignore[override]
        nodes = sorted({*self.on_node, *other.on_node})
        return PageCounts(
            self.page_size,
            self.pages + other.pages,
            self.untouched + other.untouched,
            self.failed + other.failed,
            {node: self.on_node.get(node, 0) + other.on_node.get(node, 0) for node in nodes},
        )


class MoveCounts(NamedTuple):
    """What became of the pages of a range that was to move; counts are of base pages."""

    page_size: int  # bytes
    pages: int = 0  # that the range touches
    untouched: int = 0  # nothing there to move
    stayed: int = 0  # in place already
    moved: int = 0
    refused: Mapping[str, int] = MappingProxyType({})  # elsewhere still, by name of the errno

    def __add__(self, other: MoveCounts) -> MoveCounts:  # type: ignore[override]
        names = sorted({*self.refused, *other.refused})
        return MoveCounts(
            self.page_size,
            self.pages + other.pages,
            self.untouched + other.untouched,
            self.stayed + other.stayed,
            self.moved + other.moved,
            {name: self.refused.get(name, 0) + other.refused.get(name, 0) for name in names},
        )
