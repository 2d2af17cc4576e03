# SPDX-License-Identifier: BSD-3-Clause
"""Small files of /proc and /sys, read below a root directory that a made-up tree can stand in for; other processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

__all__ = [
    "HugePool",
    "ancestors",
    "cgroups",
    "command_of",
    "cpu_quota",
    "environment_of",
    "fields_of",
    "huge_pools",
    "read_number",
    "read_text",
    "transparent_huge_pages",
]

_DEPTH = 64  # of processes that have started each other


def read_text(path: str | os.PathLike[str]) -> str:
    """Content of a file, "" if it can't be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def fields_of(text: str) -> dict[str, str]:
    """Read the lines ``name: value`` of a file such as status."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def read_number(path: str | os.PathLike[str]) -> int | None:
    """Content of a file that holds one number without a sign; None if it doesn't, or can't be read."""
    text = read_text(path).strip()
    return int(text) if text.isdigit() else None


def transparent_huge_pages(setting: Literal["enabled", "defrag"], root: str | os.PathLike[str] = "/") -> str:
    """The choice in force of "enabled" or "defrag", which the kernel puts in brackets; "" if it has none."""
    text = read_text(os.path.join(root, "sys/kernel/mm/transparent_hugepage", setting))
    return text.partition("[")[2].partition("]")[0] or text.strip()


# ---- processes ------------------------------------------------------------------------------------------


def _entries(pid: int, file: str, root: str | os.PathLike[str]) -> list[bytes]:
    """Content of a file of entries that end with 0; OSError where it can't be read."""
    with open(os.path.join(root, f"proc/{pid}", file), "rb") as entries:
        return [entry for entry in entries.read().split(b"\0") if entry]


def environment_of(pid: int, root: str | os.PathLike[str] = "/") -> dict[str, str]:
    """Return the environment that a process was started with; OSError where it can't be read."""
    pairs = (os.fsdecode(entry).partition("=") for entry in _entries(pid, "environ", root))
    return {name: value for name, _, value in pairs}


def command_of(pid: int, root: str | os.PathLike[str] = "/") -> tuple[str, ...]:
    """Words of a process' command line; none where it can't be read."""
    try:
        return tuple(word.decode(errors="replace") for word in _entries(pid, "cmdline", root))
    except OSError:
        return ()


def ancestors(
    process: int | Literal["self"], root: str | os.PathLike[str] = "/"
) -> Iterator[tuple[int, str]]:
    """Yield a process and those above it, the nearest first, as far as /proc shows them: their ids and names."""
    for _ in range(_DEPTH):
        before, _, after = read_text(os.path.join(root, f"proc/{process}/stat")).rpartition(")")
        pid, _, name = before.partition(" (")
        words = after.split()
        if not pid.isdigit() or len(words) < 2:
            return
        yield int(pid), name
        process = int(words[1])


# ---- the kernel's settings --------------------------------------------------------------------------------


class HugePool(NamedTuple):
    """Explicit huge pages of one size on one node."""

    node: int
    page_kib: int
    total: int
    free: int


def huge_pools(nodes: Iterable[int], root: str | os.PathLike[str] = "/") -> tuple[HugePool, ...]:
    """Explicit huge pages of these nodes, of 2 MiB and 1 GiB, where the kernel has such pools."""
    pools = []
    for node in nodes:
        for size in (2048, 1048576):
            here = os.path.join(root, f"sys/devices/system/node/node{node}/hugepages/hugepages-{size}kB")
            total = read_number(os.path.join(here, "nr_hugepages"))
            free = read_number(os.path.join(here, "free_hugepages"))
            if total is not None and free is not None:
                pools.append(HugePool(node, size, total, free))
    return tuple(pools)


def cgroups(
    controller: Literal["cpu", "cpuset", "memory"], root: str | os.PathLike[str] = "/"
) -> list[tuple[int, str]]:
    """Directories of the process' cgroups for a controller, innermost first, each with its version."""
    base = os.fspath(root)
    found: list[tuple[int, str]] = []
    for line in read_text(os.path.join(base, "proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2)
        top = os.path.join(base, "sys/fs/cgroup")
        if controllers == "":
            mounts = [(2, top), (2, os.path.join(top, "unified"))]
        elif controller in controllers.split(","):
            mounts = [(1, os.path.join(top, name)) for name in dict.fromkeys((controller, controllers))]
        else:
            continue
        parts = [part for part in group.split("/") if part]
        for version, mount in mounts:
            found += [(version, os.path.join(mount, *parts[:depth])) for depth in range(len(parts), -1, -1)]
    return found


def cpu_quota(root: str | os.PathLike[str] = "/") -> float | None:
    """CPUs' worth of time that the cgroups around the process grant; None if any number."""
    quotas = []
    for version, directory in cgroups("cpu", root):
        if version == 2:
            quota, _, period = read_text(os.path.join(directory, "cpu.max")).partition(" ")
        else:
            quota = read_text(os.path.join(directory, "cpu.cfs_quota_us"))
            period = read_text(os.path.join(directory, "cpu.cfs_period_us"))
        if quota.strip().isdigit() and period.strip().isdigit() and int(period) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)
