# SPDX-License-Identifier: BSD-3-Clause
"""What is said of many ranks: a value that two of make one, of a size that does not grow with their number.

Sums, extremes with their ranks, medians, and the full records of the worst few. That makes a gather a reduction:
O(log P) messages on the longest way, each of bounded size.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["KEEP_ALL", "METRICS", "NAMED", "WORST", "Part", "Spread", "merge", "part_of"]

KEEP_ALL = 64  # up to so many ranks every record is kept
WORST = 8  # beyond, these
NAMED = 32  # ranks without a report that are named
NOTES = 16  # different notes that are kept

Record = Mapping[str, Any]

# name -> how to get it from a record; None: the rank can't say
METRICS: dict[str, Callable[[Record], float | None]] = {
    "local_fraction": lambda r: r["arrays"]["local_fraction"],
    "process_local_fraction": lambda r: process_local_fraction(r),
    "huge_fraction": lambda r: r["memory"]["huge_fraction"] if "memory" in r else None,
    "resident_bytes": lambda r: r["memory"]["resident"] if "memory" in r else None,
    "peak_bytes": lambda r: r["peak_bytes"],
    "fallbacks": lambda r: r["fallbacks"],
    "remote_frees": lambda r: r["remote_frees"],
}
_SUMS = ("fallbacks", "strict_failures", "remote_frees", "peak_bytes")
_PAGES = ("pages", "touched", "local")


def process_local_fraction(record: Record) -> float | None:
    """Share of the process's resident memory that is on the rank's nodes; libraries' pages are where they are."""
    memory = record.get("memory")
    if not memory or not memory["per_node"]:
        return None
    total = sum(memory["per_node"].values())
    local = sum(memory["per_node"].get(str(node), 0) for node in record["nodes"])
    return local / total if total else None


class Spread:
    """Smallest, median and largest of values from 0 up.

    Exact up to EXACT values. Beyond, the median is that of a histogram with buckets that grow by 1 % (as DDSketch,
    Masson et al., VLDB 2019): within 0.5 % of the exact one.
    """

    __slots__ = ("buckets", "count", "high", "low", "values")
    EXACT = 1024
    GROWTH = math.log(1.01)

    def __init__(self, value: float, rank: int) -> None:
        self.count = 1
        self.low = self.high = (value, rank)
        self.values: list[float] | None = [value]
        self.buckets: dict[int | None, int] = {}

    def add(self, other: Spread) -> None:
        """Take in the values of another."""
        self.count += other.count
        self.low = min(self.low, other.low)
        if other.high[0] > self.high[0] or (other.high[0] == self.high[0] and other.high[1] < self.high[1]):
            self.high = other.high
        if self.values is not None and other.values is not None and self.count <= self.EXACT:
            self.values += other.values
            return
        if self.values is not None:
            self._count(self.values)
            self.values = None
        if other.values is not None:
            self._count(other.values)
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    def _count(self, values: Iterable[float]) -> None:
        for value in values:
            bucket = math.ceil(math.log(value) / self.GROWTH) if value > 0 else None
            self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    @property
    def median(self) -> float:
        """The middle value; of an even number the mean of the two."""
        if self.values is not None:
            return statistics.median(self.values)
        middle = (self.count + 1) // 2
        seen = 0
        value = 0.0
        for bucket in sorted(self.buckets, key=lambda b: -math.inf if b is None else b):
            seen += self.buckets[bucket]
            if seen >= middle:
                # halfway, in relative terms, between the bucket's bounds
                value = (
                    0.0
                    if bucket is None
                    else 2 * math.exp(bucket * self.GROWTH) / (1 + math.exp(self.GROWTH))
                )
                break
        return min(max(value, self.low[0]), self.high[0])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "min": self.low[0],
            "min_rank": self.low[1],
            "median": self.median,
            "max": self.high[0],
            "max_rank": self.high[1],
        }


@dataclass(slots=True)
class Part:
    """What is known of some ranks."""

    keep: int  # records at most
    ranks: int = 0
    hosts: int = 0
    failed: int = 0
    failed_ranks: list[int] = field(default_factory=list)  # the lowest NAMED
    sums: dict[str, int] = field(default_factory=dict)
    spreads: dict[str, Spread] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    notes: set[str] = field(default_factory=set)
    records: list[tuple[tuple[float, ...], Record]] = field(
        default_factory=list
    )  # the worst, with their keys

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        local = self.spreads.get("local_fraction")
        touched = self.sums.get("touched", 0)
        known = touched and not self.unknown
        return {
            "ranks": self.ranks,
            "hosts": self.hosts,
            "failed": self.failed,
            "failed_ranks": sorted(self.failed_ranks),
            **{key: self.sums.get(key, 0) for key in _PAGES},
            "local_fraction": self.sums["local"] / touched if known else None,
            "worst_rank": local.low[1] if local is not None else None,
            "worst_fraction": local.low[0] if local is not None else None,
            "unknown": "; ".join(sorted(self.unknown)) or None,
            **{key: self.sums.get(key, 0) for key in _SUMS},
            "spread": {name: spread.to_dict() for name, spread in self.spreads.items()},
            "notes": sorted(self.notes),
        }

    def kept(self) -> list[Record]:
        """Return the records that were kept, in rank order."""
        return sorted((record for _, record in self.records), key=lambda r: r["rank"])


def part_of(record: Record, size: int) -> Part:
    """Make the part of one rank of `size`."""
    rank = record["rank"]
    part = Part(size if size <= KEEP_ALL else WORST, 1)
    part.hosts = int(not record.get("local_rank"))  # each host has one local rank 0
    if "error" in record:
        part.failed, part.failed_ranks = 1, [rank]
        part.records = [((0.0, 0.0, 0.0, rank), record)]
        return part
    arrays = record["arrays"]
    for key in _PAGES:
        part.sums[key] = arrays[key]
    for key in _SUMS:
        part.sums[key] = record[key]
    for name, value_of in METRICS.items():
        value = value_of(record)
        if value is not None:
            part.spreads[name] = Spread(value, rank)
    if arrays["unknown"]:
        part.unknown = {arrays["unknown"]}
    part.notes = set(record["notes"][:NOTES])
    local = arrays["local_fraction"]
    badness = (
        1.0,
        1.0 if local is None else local,
        -float(record["fallbacks"] + record["strict_failures"]),
        rank,
    )
    part.records = [(badness, record)]
    return part


def merge(a: Part, b: Part) -> Part:
    """Make one part of two; `a` becomes it. Commutative and, but for the choice of notes, associative."""
    a.ranks += b.ranks
    a.hosts += b.hosts
    if b.failed:
        a.failed += b.failed
        a.failed_ranks = sorted([*a.failed_ranks, *b.failed_ranks])[:NAMED]
    for key, value in b.sums.items():
        a.sums[key] = a.sums.get(key, 0) + value
    for name, spread in b.spreads.items():
        mine = a.spreads.get(name)
        if mine is None:
            a.spreads[name] = spread
        else:
            mine.add(spread)
    if b.unknown:
        a.unknown = set(sorted(a.unknown | b.unknown)[:NOTES])
    if not b.notes <= a.notes:
        a.notes = set(sorted(a.notes | b.notes)[:NOTES])
    a.records = sorted([*a.records, *b.records], key=lambda entry: entry[0])[: a.keep]
    return a


def reduce_in_tree(parts: Sequence[Part]) -> Part:
    """Merge pairwise, as ranks do."""
    level = list(parts)
    while len(level) > 1:
        odd = [level[-1]] if len(level) % 2 else []
        level = [merge(a, b) for a, b in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0]
