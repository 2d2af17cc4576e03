# SPDX-License-Identifier: BSD-3-Clause
"""The record of a rank: where it is bound, its arrays page by page, its memory, what went elsewhere.

The dataclasses here are the only description of a record. A report holds them, a rank's file is one as JSON, and what
is read from a file is checked against them (`reader`).

Arrays means the blocks of at least 64 KiB that live when the record is made, whichever context or policy made them: the
data handler keeps a table of them. Smaller ones share pages and say little.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import _native
from .._native import _handler
from .._text import plain_text
from ..bind.affinity import inherited_memory_policy
from ..discover.devices import VARIABLES, given, machine_devices, places
from ..discover.topology import Topology, format_ids
from ..memory.placement import Placement, ProcessMemory, process_memory, range_placement
from ..shared.mapping import own_ranges

if TYPE_CHECKING:
    from ..bind.rank import RankState

__all__ = [
    "Absent",
    "Arrays",
    "Machine",
    "Memory",
    "NearDevice",
    "Pool",
    "Record",
    "arrays_of",
    "arrays_placement",
    "command_text",
    "devices_of",
    "host_name",
    "huge_fraction_of",
    "job_of",
    "machine_of",
    "memory_of",
    "record_of",
    "record_or_absent",
]

COMMAND_MAX = 400  # characters of a command that a record keeps


@dataclass(frozen=True)
class Arrays:
    """A rank's arrays; pages are base pages. A page that was never touched is on no node."""

    count: int
    nbytes: int
    page_size: int
    pages: int
    untouched: int = 0
    failed: int = 0  # pages for which the kernel gave an error
    pages_per_node: dict[int, int] = field(default_factory=dict)
    local: int = 0  # pages on the rank's nodes
    untracked: int = 0  # arrays that are not in the table for want of memory
    shared: int = 0  # of `count`, this rank's parts of shared arrays
    min_bytes: int = _handler.MIN_TRACKED
    huge_fraction: float | None = None  # of the resident memory of the mappings that hold them
    unknown: str | None = None  # why the kernel tells no pages

    @property
    def touched(self) -> int:
        """Pages backed by memory, those that failed included."""
        return sum(self.pages_per_node.values()) + self.failed

    @property
    def local_fraction(self) -> float | None:
        """Share of the touched pages that are on the rank's nodes."""
        return min(self.local / self.touched, 1.0) if self.touched else None


@dataclass(frozen=True)
class Memory:
    """Resident memory of the rank's process, in bytes."""

    resident: int
    huge: int  # of this, in huge pages of any kind
    per_node: dict[int, int] = field(default_factory=dict)  # libraries and files included
    unknown: str | None = None  # why per_node is empty

    @property
    def huge_fraction(self) -> float | None:
        """Share in huge pages."""
        return min(self.huge / self.resident, 1.0) if self.resident else None


@dataclass(frozen=True)
class Pool:
    """A BLAS or OpenMP pool: its threads before and after `init`, or the variable that keeps them."""

    library: str
    before: int
    after: int
    kept_for: str | None = None


@dataclass(frozen=True)
class NearDevice:
    """A GPU or NIC of the rank; its distance from the CPUs of the rank is None where the machine does not tell it."""

    name: str
    address: str = ""
    nodes: tuple[int, ...] = ()
    distance: int | None = None


@dataclass(frozen=True)
class Machine:
    """Sizes of a host."""

    packages: int
    nodes: int
    cores: int
    pus: int


@dataclass(frozen=True)
class Record:
    """The record of a rank."""

    rank: int
    host: str
    arrays: Arrays
    memory: Memory
    local_rank: int = 0
    local_size: int = 1
    pid: int = 0
    cpus: str = ""
    planned_cpus: str = ""
    nodes: tuple[int, ...] = ()
    threads: int = 1
    launcher: str = "none"
    job: str = ""  # the launcher's name for it
    command: str = ""
    machine: Machine | None = None
    action: str = "none"
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pools: tuple[Pool, ...] = ()
    policy: str = ""
    memory_policy: str | None = None
    processes: int = 1  # of which this is the largest
    fallbacks: int = 0
    strict_failures: int = 0
    remote_frees: int = 0
    peak_bytes: int = 0
    kernel: str = ""
    devices: tuple[NearDevice, ...] = ()  # those it is to use, if that was asked for or is set
    allocator: Mapping | None = None  # type: ignore[type-arg]  # libnumalloc's own statistics

    @property
    def process_local_fraction(self) -> float | None:
        """Share of the process's resident memory on the rank's nodes; libraries' pages are where they are."""
        total = sum(self.memory.per_node.values())
        local = sum(self.memory.per_node.get(node, 0) for node in self.nodes)
        return local / total if total else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**_plain(self), "process_local_fraction": self.process_local_fraction}


@dataclass(frozen=True)
class Absent:
    """A rank without a record, and why."""

    rank: int
    error: str
    local_rank: int = 0
    host: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def _plain(value: Any) -> Any:
    if isinstance(value, (Record, Arrays, Memory, Pool, Machine, NearDevice)):
        plain = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Arrays):
            plain |= {"touched": value.touched, "local_fraction": value.local_fraction}
        if isinstance(value, Memory):
            plain["huge_fraction"] = value.huge_fraction
        return plain
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): item for key, item in value.items()}
    return value


# ---- of this process ------------------------------------------------------------------------------------


def record_or_absent(state: RankState) -> Record | Absent:
    """Return this rank's record, or the error if that fails: the other ranks do not wait for it."""
    try:
        return record_of(state)
    except Exception as error:
        return Absent(
            state.rank, plain_text(f"{type(error).__name__}: {error}"), state.local_rank, host_name()
        )


def record_of(state: RankState) -> Record:
    """Return this rank's record."""
    allocator = _native.stats_dict()
    total = allocator["total"]
    arrays, count, missed = arrays_placement(state.home_nodes)
    return Record(
        rank=state.rank,
        host=host_name(),
        arrays=arrays_of(arrays, count, missed, len(_shared_blocks()), _huge_fraction()),
        memory=memory_of(process_memory()),
        local_rank=state.local_rank,
        local_size=state.local_size,
        pid=os.getpid(),
        cpus=format_ids(os.sched_getaffinity(os.getpid())),
        planned_cpus=format_ids(state.cpus),
        nodes=state.home_nodes,
        threads=state.threads,
        launcher=state.launcher,
        job=job_of(os.environ),
        command=command_text(sys.orig_argv),
        machine=machine_of(state.topology),
        action=state.action,
        reasons=tuple(state.reasons),
        notes=tuple(state.notes),
        pools=tuple(
            Pool(pool.library, pool.before, pool.after, pool.kept_for or None) for pool in state.pools
        ),
        policy=str(state.policy),
        memory_policy=inherited_memory_policy() or None,
        fallbacks=total["fallbacks"],
        strict_failures=total["strict_failures"],
        remote_frees=total["remote_frees"],
        peak_bytes=total["peak_bytes"],
        kernel=platform.release(),
        devices=devices_of(state.share.devices_at(state.topology) or _shown(state.topology)),
        allocator=allocator,
    )


def devices_of(devices: Iterable[Mapping[str, Any]]) -> tuple[NearDevice, ...]:
    """Make the part of a record about devices, from what `RankPlan.devices_at` gives."""
    return tuple(NearDevice(d["name"], d["address"], tuple(d["nodes"]), d["distance"]) for d in devices)


def _shown(topology: Topology) -> list[dict[str, Any]]:
    """Devices that variables choose for this process."""
    if not any(name in os.environ for name in VARIABLES):
        return []
    found = [d for some in given(machine_devices(topology), os.environ).values() for d in some]
    return places(topology, found, os.sched_getaffinity(os.getpid()))


def host_name() -> str:
    """Return the name of this host."""
    return plain_text(socket.gethostname())


def command_text(words: Sequence[str]) -> str:
    """Write a command in one line that is not too long."""
    text = plain_text(" ".join(shlex.join(words).split()))
    return text if len(text) <= COMMAND_MAX else f"{text[:COMMAND_MAX]}..."


def job_of(environ: Mapping[str, str]) -> str:
    """Return the launcher's name for the job; "" if it gives none."""
    if environ.get("PMIX_NAMESPACE"):
        return plain_text(environ["PMIX_NAMESPACE"])
    if environ.get("SLURM_JOB_ID"):
        return plain_text(f"{environ['SLURM_JOB_ID']}.{environ.get('SLURM_STEP_ID', '0')}")
    return plain_text(next((environ[name] for name in ("PALS_APID", "FLUX_JOB_ID") if environ.get(name)), ""))


def machine_of(topology: Topology) -> Machine:
    """Return the sizes of a topology."""
    pus = sum(len(core.pus) for core in topology.cores)
    return Machine(len(topology.packages), len(topology.nodes), len(topology.cores), pus)


def arrays_of(
    arrays: Placement, count: int, missed: int, shared: int = 0, huge: float | None = None
) -> Arrays:
    """Make the part of a record about arrays."""
    return Arrays(
        count,
        arrays.nbytes,
        arrays.page_size,
        arrays.pages,
        arrays.untouched,
        arrays.failed,
        dict(arrays.pages_per_node),
        arrays.local_pages,
        missed,
        shared,
        huge_fraction=huge,
        unknown=arrays.unknown or None,
    )


def memory_of(memory: ProcessMemory) -> Memory:
    """Make the part of a record about the process's memory."""
    return Memory(memory.resident, memory.huge, dict(memory.per_node), memory.unknown or None)


def arrays_placement(local_nodes: Sequence[int]) -> tuple[Placement, int, int]:
    """Ask for the pages of all live array blocks of at least 64 KiB, of shared arrays the pages that are this rank's.

    Returns
    -------
    Placement
        Of all of them together; `nbytes` is the sum of their sizes.
    int
        Their number.
    int
        Blocks that should be among them but could not be tracked for want of memory.
    """
    blocks, missed = _handler.live_blocks()
    shared = _shared_blocks()
    local = tuple(sorted(local_nodes))
    total = _native.PageCounts(_native.page_size())
    nbytes = count = huge = 0
    unknown = ""
    found = [(start, size, _native.block_info(start)) for start, size in blocks]
    # A block that is not known, or is another by now, was freed meanwhile.
    live = [
        (start, size, info.huge_page)
        for start, size, info in found
        if info is not None and info.start == start
    ]
    for start, size, huge_page in [*live, *((start, size, 0) for start, size in shared)]:
        count += 1
        nbytes += size
        huge = max(huge, huge_page)
        if unknown:
            continue
        here = range_placement(start, size, local)
        unknown = here.unknown
        if not unknown:
            total += _native.PageCounts(
                here.page_size, here.pages, here.untouched, here.failed, dict(here.pages_per_node)
            )
    if unknown:
        return (
            Placement(nbytes, total.page_size, 0, local_nodes=local, huge_page=huge, unknown=unknown),
            count,
            missed,
        )
    placement = Placement(
        nbytes,
        total.page_size,
        total.pages,
        total.on_node,
        total.untouched,
        total.failed,
        huge_page=huge,
        local_nodes=local,
    )
    return placement, count, missed


def _shared_blocks() -> list[tuple[int, int]]:
    """Address and length of this rank's pages of shared arrays that live."""
    return [(start, size) for start, size in own_ranges() if size >= _handler.MIN_TRACKED]


def _huge_fraction() -> float | None:
    """Share of huge pages in the resident memory of the mappings that hold arrays; None if unknown."""
    starts = sorted(start for start, _ in [*_handler.live_blocks()[0], *_shared_blocks()])
    if not starts:
        return None
    return huge_fraction_of(starts)


def huge_fraction_of(starts: Sequence[int], path: str = "/proc/self/smaps") -> float | None:
    """Share of huge pages in the resident memory of the mappings in which these ascending addresses are."""
    import bisect

    huge = resident = 0
    inside = False
    try:
        with open(path, "rb") as smaps:
            for line in smaps:
                name, _, rest = line.partition(b":" if line[:1].isupper() else b" ")
                if line[:1].isupper():
                    if not inside:
                        continue
                    size = int(rest.split()[0]) if name in _COUNTED else 0
                    resident += size if name in (b"Rss", *_EXPLICIT) else 0
                    huge += size if name != b"Rss" else 0
                else:
                    first, last = (int(word, 16) for word in name.split(b"-"))
                    here = bisect.bisect_left(starts, first)
                    inside = here < len(starts) and starts[here] < last
    except (OSError, ValueError):
        return None
    return min(huge / resident, 1.0) if resident else None


_EXPLICIT = (b"Private_Hugetlb", b"Shared_Hugetlb")  # not in Rss
_COUNTED = (b"Rss", b"AnonHugePages", b"ShmemPmdMapped", *_EXPLICIT)
