# SPDX-License-Identifier: BSD-3-Clause
"""How one array is split over ranks: which rows, bytes and pages are whose. Pure arithmetic.

Rows are the array's slices along the axis that is split; that axis is the slowest in memory, so each rank's
block is one run of bytes and the whole is one array. A block that does not begin on a page shares that page with
its neighbour; the page goes to the rank that has more of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ..exceptions import message

__all__ = ["Blocks", "Split", "make_blocks"]

Split = Literal["auto", "even", "page"] | Sequence[int]

_SLACK = 1.05  # "auto" takes bounds on pages if no block gets larger than an even one by more


@dataclass(frozen=True)
class Blocks:
    """The blocks of an array along one axis.

    Attributes
    ----------
    bounds : tuple of (int, int)
        First row and the one after the last of each rank, without the halo.
    row_bytes : int
        Bytes of a row.
    page : int
        Bytes.
    segments : tuple of int
        Byte at which each rank's memory begins, and the end of the last one's. The rows of the halo before the
        first block and after the last belong to the first and the last rank.
    pages : tuple of int
        First page of each rank, and the one after the last's.
    straddling : int
        Pages in which blocks of two or more ranks meet.
    """

    bounds: tuple[tuple[int, int], ...]
    row_bytes: int
    page: int
    segments: tuple[int, ...]
    pages: tuple[int, ...]
    straddling: int

    @property
    def ranks(self) -> int:
        """Number of blocks."""
        return len(self.bounds)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks and the halo."""
        return self.segments[-1]

    def own_pages(self, rank: int) -> tuple[int, int]:
        """First byte and length of the pages that are a rank's, from the array's first byte."""
        return self.pages[rank] * self.page, (self.pages[rank + 1] - self.pages[rank]) * self.page


def make_blocks(
    call: str, rows: int, row_bytes: int, ranks: int, halo: int, split: Split, page: int
) -> Blocks:
    """Split `rows` over `ranks`.

    Parameters
    ----------
    call : str
        For messages.
    rows, row_bytes : int
        Rows without the halo, and the bytes of each.
    ranks : int
    halo : int
        Rows before the first and after the last block.
    split : {"auto", "even", "page"} or sequence of int
        even: sizes differ by one row at most. page: each block begins at the row nearest to that which begins a
        page. auto: page where no block gets more than 5 % larger than an even one, else even. A sequence: rows of
        each rank.
    page : int
        Bytes.

    Raises
    ------
    ValueError, TypeError
        A split that is none, or does not fit the ranks or the rows.
    """
    even = [rows * i // ranks for i in range(ranks + 1)]
    if split == "even":
        starts = even
    elif split in ("auto", "page"):
        starts = _on_pages(even, rows, row_bytes, halo, page)
        largest = max(b - a for a, b in pairwise(starts))
        if split == "auto" and largest > _SLACK * -(-rows // ranks):
            starts = even
    else:
        starts = _given(call, rows, ranks, split)
    edges = [0, *((halo + start) * row_bytes for start in starts[1:-1]), (rows + 2 * halo) * row_bytes]
    # The page in which a block begins is its own unless the one before has more of it.
    first = [(edge + page // 2 - 1) // page for edge in edges[1:-1]]
    inside = {edge // page for edge in edges[1:-1] if edge % page and edge < edges[-1]}
    return Blocks(
        tuple(pairwise(starts)),
        row_bytes,
        page,
        tuple(edges),
        (0, *first, -(-edges[-1] // page)),
        len(inside),
    )


def _on_pages(even: Sequence[int], rows: int, row_bytes: int, halo: int, page: int) -> list[int]:
    """Move each bound to the nearest row that begins a page."""
    every = page // math.gcd(row_bytes, page) if row_bytes else 1  # of so many rows one begins a page
    moved = [min(rows, max(0, round((halo + start) / every) * every - halo)) for start in even[1:-1]]
    return [0, *moved, rows]


def _given(call: str, rows: int, ranks: int, split: object) -> list[int]:
    limit = f"'auto', 'even', 'page' or {ranks} row counts that sum to {rows}"
    remedy = "give the rows of each rank of the host"
    if isinstance(split, str) or not isinstance(split, Sequence):
        kind: type[Exception] = ValueError if isinstance(split, str) else TypeError
        raise kind(message(call, f"split={split!r}", limit, remedy))
    counts = list(split)
    good = len(counts) == ranks and all(isinstance(n, int) and n >= 0 for n in counts) and sum(counts) == rows
    if not good:
        raise ValueError(message(call, f"split={split!r}", limit, remedy))
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    return starts
