# SPDX-License-Identifier: BSD-3-Clause
"""A summary of all ranks: sums, smallest, median and largest with their ranks, and the worst ranks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .record import Absent, Record

__all__ = ["LIST_ALL", "METRICS", "NAMED", "WORST", "absent_ranks", "badness", "summary_of", "worst"]

LIST_ALL = 64  # up to so many ranks are all in the tables
WORST = 8  # beyond, these
NAMED = 32  # ranks without a record that are named
NOTES = 16  # different notes, and reasons why pages are unknown, that are kept

METRICS: dict[str, Callable[[Record], float | None]] = {
    "local_fraction": lambda r: r.arrays.local_fraction,
    "process_local_fraction": lambda r: r.process_local_fraction,
    "huge_fraction": lambda r: r.arrays.huge_fraction,
    "process_huge_fraction": lambda r: r.memory.huge_fraction,
    "resident_bytes": lambda r: r.memory.resident,
    "peak_bytes": lambda r: r.peak_bytes,
    "fallbacks": lambda r: r.fallbacks,
    "remote_frees": lambda r: r.remote_frees,
}


def badness(record: Record) -> tuple[float, ...]:
    """Sort key: the worst placed first, then those with more fallbacks."""
    local = record.arrays.local_fraction
    return (1.0 if local is None else local, -(record.fallbacks + record.strict_failures), record.rank)


def worst(records: Sequence[Record]) -> list[Record]:
    """Return the records that tables list, in rank order."""
    if len(records) <= LIST_ALL:
        return list(records)
    return sorted(sorted(records, key=badness)[:WORST], key=lambda r: r.rank)


def absent_ranks(records: Iterable[Record], size: int) -> list[int]:
    """Return the ranks without a record."""
    return sorted(set(range(size)).difference(r.rank for r in records))


def summary_of(records: Sequence[Record], failed: Sequence[Absent], size: int) -> dict[str, Any]:
    """Return plain values; `failed` are those of the ranks without a record of which something is known."""
    absent = absent_ranks(records, size)
    entries: list[Record | Absent] = [*records, *failed]
    touched, local = sum(r.arrays.touched for r in records), sum(r.arrays.local for r in records)
    unknown = _distinct(r.arrays.unknown for r in records if r.arrays.unknown)
    known = [r for r in records if r.arrays.local_fraction is not None]
    lowest = min(known, key=lambda r: (r.arrays.local_fraction, r.rank)) if known else None
    return {
        "ranks": size,
        "hosts": len({r.host for r in entries if r.host}),
        "failed": len(absent),
        "failed_ranks": absent[:NAMED],
        "pages": sum(r.arrays.pages for r in records),
        "touched": touched,
        "local": local,
        "local_fraction": local / touched if touched and not unknown else None,
        "worst_rank": lowest.rank if lowest is not None else None,
        "worst_fraction": lowest.arrays.local_fraction if lowest is not None else None,
        "unknown": "; ".join(unknown) or None,
        "fallbacks": sum(r.fallbacks for r in records),
        "strict_failures": sum(r.strict_failures for r in records),
        "remote_frees": sum(r.remote_frees for r in records),
        "peak_bytes": sum(r.peak_bytes for r in records),
        "spread": {name: spread for name in METRICS if (spread := _spread(name, records))},
        "notes": _distinct(note for r in records for note in r.notes),
    }


def _distinct(texts: Iterable[str]) -> list[str]:
    return sorted(set(texts))[:NOTES]


def _spread(name: str, records: Sequence[Record]) -> Mapping[str, Any]:
    """Smallest, median and largest of a metric, over the ranks that can say it."""
    values = [(value, r.rank) for r in records if (value := METRICS[name](r)) is not None]
    if not values:
        return {}
    low, high = min(values), max(values, key=lambda v: (v[0], -v[1]))
    return {
        "min": low[0],
        "min_rank": low[1],
        "median": statistics.median(value for value, _ in values),
        "max": high[0],
        "max_rank": high[1],
    }
