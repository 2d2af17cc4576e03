# SPDX-License-Identifier: BSD-3-Clause
"""Caches as sysfs tells them: how large an array must be for a benchmark to measure memory."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..discover.proc import read_text
from ..discover.topology import parse_ids

__all__ = ["Cache", "caches_of", "last_level_bytes"]

_SYSFS = "/sys/devices/system/cpu"


@dataclass(frozen=True)
class Cache:
    """A data or unified cache: level, bytes, and the CPUs that share it."""

    level: int
    size: int
    cpus: tuple[int, ...]


def caches_of(cpu: int, sysfs: str = _SYSFS) -> tuple[Cache, ...]:
    """Caches that hold data of a CPU, level 1 first; empty where the kernel does not tell."""
    found = []
    for index in Path(sysfs, f"cpu{cpu}", "cache").glob("index*"):
        size = re.fullmatch(r"(\d+)([KMG]?)", read_text(index / "size").strip())
        if read_text(index / "type").strip() not in ("Data", "Unified") or size is None:
            continue
        unit = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[size[2]]
        shared = parse_ids(read_text(index / "shared_cpu_list")) or (cpu,)
        found.append(Cache(int(read_text(index / "level")), int(size[1]) * unit, shared))
    return tuple(sorted(found, key=lambda cache: cache.level))


def last_level_bytes(cpus: Iterable[int], sysfs: str = _SYSFS) -> int:
    """Bytes of all last-level caches that any of `cpus` uses; 0 where the kernel does not tell of one."""
    used: set[Cache] = set()
    for cpu in cpus:
        own = caches_of(cpu, sysfs)
        if not own:
            return 0
        used.add(own[-1])
    return sum(cache.size for cache in used)
