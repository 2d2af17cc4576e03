# SPDX-License-Identifier: BSD-3-Clause
"""Pages of arrays that exist: faulted in ahead of use by threads on their nodes, and moved between nodes.

Both take any array: a view, a shared window, a mapped file, memory of another allocator.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _native
from .._native import _handler
from .._native.errors import error_for
from ..bind.rank import current_nodes
from ..discover.terminal import console, is_looked_at
from ..exceptions import NodeError, OutOfMemoryError, PlacementError, message
from ..policy import Policy, as_policy
from .handlers import kind_nodes, stripe_of, weights_of
from .placement import Placement, bounds, placement

__all__ = ["Migration", "Prefault", "cut", "migrate", "prefault"]

Array = npt.NDArray[Any]
Piece = tuple[int, int, tuple[int, ...]]  # address, length in bytes, nodes

_TURNS = 64  # of weighted runs
_HUGE = 2 << 20  # bytes of a transparent huge page, which is faulted in and moved whole
_CHUNK = 32 << 20  # bytes that a thread faults in at a time
_BAR_FROM = 1 << 30  # bytes from which a bar is shown on a terminal

_HUGE_FIELDS = ("AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:")

_WHY: Mapping[str, str] = {
    "EACCES": "mapped by other processes too, and no CAP_SYS_NICE to move it regardless",
    "EBUSY": "pinned, as for RDMA, or in use by the kernel",
    "ENOMEM": "its node has no free memory",
    "EFAULT": "not memory that can move",
    "EINVAL": "its file system can't move it now",
}


def _checked(call: str, a: object) -> tuple[int, int]:
    if not isinstance(a, np.ndarray):
        raise TypeError(
            message(call, f"a {type(a).__name__}", "numpy.ndarray", "pass numpy.asarray(...) of it")
        )
    start, stop = bounds(a)
    return start, stop - start


def cut(policy: Policy, start: int, length: int, granule: int, stripe: int = 0) -> Iterator[Piece]:
    """Cut a range into runs for the nodes of a policy, which must be named.

    Parameters
    ----------
    policy : Policy
        Blocked ones are cut into equal parts, weighted ones into runs for one node after another, in the proportion of
        their weights and as often as `_TURNS` allows. The others are one piece.
    start, length : int
        Address and bytes.
    granule : int
        Parts begin at multiples of it, in bytes.
    stripe : int
        Bytes after which the split of a blocked policy repeats; 0: never.
    """
    if policy.kind == "weighted":
        yield from _runs(policy, start, length, granule)
        return
    if policy.kind != "blocked":
        if length:
            yield start, length, policy.nodes
        return
    end, at, count = start + length, start, len(policy.nodes)
    for base in range(0, length, stripe or length or 1):
        for i, node in enumerate(policy.nodes):
            edge = start + base + (stripe or length) * (i + 1) // count
            to = min(end, (edge + granule // 2) // granule * granule)
            if i + 1 == count and base + (stripe or length) >= length:
                to = end
            if to > at:
                yield at, to - at, (node,)
                at = to


def _runs(policy: Policy, start: int, length: int, granule: int) -> Iterator[Piece]:
    end, at = start + length, start // granule * granule
    unit = granule * max(1, -(-length // (granule * sum(policy.weights) * _TURNS)))
    for node, weight in itertools.cycle(zip(policy.nodes, policy.weights, strict=True)):
        if at >= end:
            return
        to = min(end, at + weight * unit)
        yield max(at, start), to - max(at, start), (node,)
        at = to


# ---- faulting in --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prefault:
    """What `prefault` did.

    Attributes
    ----------
    seconds : float
    workers : int
        Threads that did it.
    faulted : int or None
        Pages that were not there before; None where the kernel does not tell.
    placement : Placement
        Where all pages of the array are now.
    """

    seconds: float
    workers: int
    faulted: int | None
    placement: Placement

    @property
    def pages_per_node(self) -> Mapping[int, int]:
        """Pages by node id, those that were there before included."""
        return self.placement.pages_per_node

    @property
    def gb_per_s(self) -> float | None:
        """10**9 bytes faulted in per second; None if none were, or it is not known."""
        if not self.faulted or self.seconds <= 0:
            return None
        return 1e-9 * self.faulted * self.placement.page_size / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "seconds": self.seconds,
            "workers": self.workers,
            "faulted": self.faulted,
            "gb_per_s": self.gb_per_s,
            "placement": self.placement.to_dict(),
        }

    def __str__(self) -> str:
        rate = f", {self.gb_per_s:.2f} GB/s" if self.gb_per_s is not None else ""
        count = "?" if self.faulted is None else self.faulted
        return f"{count} pages faulted in by {self.workers} threads in {self.seconds:.3f} s{rate}; {self.placement}"


def prefault(a: Array, workers: int | None = None, *, progress: bool | None = None) -> Prefault:
    """Fault in all pages of an array now, in parallel, without changing its contents.

    Each thread is bound to the node of the pages it works on, so the kernel clears them there. hpcalloc's memory
    comes from its home, whichever thread faults it in. Other memory without a policy comes from the node of the
    thread: threads take runs round-robin over the nodes of the innermost open context, or without a context the
    node of the caller.

    Parameters
    ----------
    a : numpy.ndarray
        Writable. What lies between the elements of a strided view is faulted in as well.
    workers : int, optional
        Threads that do it, by default one for each CPU that the caller may use, at most one for each 2 MiB.
    progress : bool, optional
        Show a bar on standard error. By default from 1 GiB, if that is a terminal.

    Returns
    -------
    Prefault
        Seconds, GB/s, pages by node.

    Raises
    ------
    OutOfMemoryError
        The cgroup, the machine or a strict home can't supply the memory. Pages faulted in so far stay.
    PlacementError
        The memory can't be written.
    ValueError, TypeError
        A read-only array, none at all, or fewer workers than 1.
    """
    start, length = _checked("prefault", a)
    if workers is not None and (isinstance(workers, bool) or not hasattr(workers, "__index__")):
        raise TypeError(message("prefault", f"workers={workers!r}", "an integer or None"))
    if workers is not None and workers < 1:
        raise ValueError(message("prefault", f"workers={workers}", "1 or more", "omit it for all CPUs"))
    if not a.flags.writeable:
        raise ValueError(
            message("prefault", "a read-only array", "writable memory", "pass the array it is a view of")
        )
    before = _native.page_counts(start, length)
    untouched = before.untouched if not isinstance(before, int) else None
    _check_room(length if untouched is None else untouched * _native.page_size())
    cpus = frozenset(os.sched_getaffinity(0))
    count = min(workers or len(cpus), max(1, -(-length // _HUGE)))
    work = _Work(_chunks(_homes(a, start, length), max(_HUGE, min(_CHUNK, length // count))))
    if progress is None:
        progress = length >= _BAR_FROM and is_looked_at(sys.stderr)
    began = time.perf_counter()
    with _bar(length, shown=progress) as advance:
        work.run(count, cpus, advance)
        # A thread may have been refused memory that another thread had reserved and did not use.
        if work.refused and not work.failed:
            work = _Work(work.refused)
            work.run(1, cpus, advance)
    seconds = time.perf_counter() - began
    lost = work.failed or next(iter(work.refused), None)
    if lost is not None:
        at, size, nodes = lost
        code, limit = work.code if work.failed else errno.ENOMEM, _native.describe_room(size, nodes)
        if code == errno.ENOMEM and not _is_mapped(at, size):
            code, limit = errno.EFAULT, "memory that is mapped"
        raise error_for(code, "prefault", f"{size} of {length} bytes, at {at:#x}", limit)
    return Prefault(seconds, count, untouched, placement(a))


def _is_mapped(start: int, length: int) -> bool:
    import ctypes  # hardly ever

    page = mmap.PAGESIZE
    begin = start - start % page
    states = (ctypes.c_ubyte * -(-(start + length - begin) // page))()
    span = ctypes.c_size_t(start + length - begin)
    return bool(ctypes.CDLL(None).mincore(ctypes.c_void_p(begin), span, states) == 0)


def _check_room(need: int) -> None:
    room = _native.room()
    if need > room:
        raise OutOfMemoryError(
            message(
                "prefault",
                f"{need} bytes ({need / 2**30:.3g} GiB) to fault in",
                f"{room} bytes ({room / 2**30:.3g} GiB) that the cgroup and the machine can still give",
                "make the array smaller, or raise the limit (memory.max, srun --mem)",
            )
        )


def _homes(a: Array, start: int, length: int) -> Iterable[Piece]:
    """Return which part of an array belongs on which nodes."""
    info = _native.block_info(start) if length else None
    if info is None:
        return [(start, length, current_nodes())]
    if info.node >= 0:
        return [(start, length, (info.node,))]
    owner: Any = a
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    handler = _handler.handler_of(owner) if isinstance(owner, np.ndarray) else None
    if handler is None:
        return [(start, length, _native.node_ids())]
    _, _, nodes, stripe, _ = _handler.describe(handler)
    home = Policy(
        "blocked" if info.policy == _handler.BLOCKED else "interleave", tuple(nodes or _native.node_ids())
    )  # of a weighted one any of its nodes: its pages come from where the allocator has bound them
    end = start + length
    pieces = cut(home, info.start, owner.nbytes, _native.page_size(), stripe)
    return [
        (max(at, start), min(at + size, end) - max(at, start), where)
        for at, size, where in pieces
        if at < end and at + size > start
    ]


def _chunks(pieces: Iterable[Piece], size: int) -> Iterator[Piece]:
    """Cut pieces into what a thread takes at a time; no two of them in one huge page where that can be."""
    size = max(_HUGE, size // _HUGE * _HUGE)
    for start, length, nodes in pieces:
        end, at, i = start + length, start, 0
        while at < end:
            to = min(end, (at // size + 1) * size)
            yield at, to - at, (nodes[i % len(nodes)],)
            at, i = to, i + 1


@dataclass
class _Work:
    """Chunks by node, taken by threads that go where there are some left."""

    chunks: Iterable[Piece]
    refused: list[Piece] = field(default_factory=list)  # for want of memory
    failed: Piece | None = None  # for another reason
    code: int = 0  # of that

    def run(self, count: int, cpus: frozenset[int], advance: Callable[[int], None]) -> None:
        """Do all of it with `count` threads of the CPUs `cpus`; ends early at a failure."""
        queues: dict[int, deque[Piece]] = {}
        for chunk in self.chunks:
            queues.setdefault(chunk[2][0], deque()).append(chunk)
        order = sorted(queues)
        stop = threading.Event()
        workers = [
            threading.Thread(
                target=self._work,
                args=(
                    [queues[node] for node in order[i % len(order) :] + order[: i % len(order)]],
                    cpus,
                    stop,
                    advance,
                ),
                daemon=True,
            )
            for i in range(count if order else 0)
        ]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:  # interrupted: a chunk is soon done
            stop.set()
            for worker in workers:
                if worker.ident is not None:
                    worker.join()

    def _work(
        self,
        queues: list[deque[Piece]],
        cpus: frozenset[int],
        stop: threading.Event,
        advance: Callable[[int], None],
    ) -> None:
        for queue in queues:
            bound = False
            while not stop.is_set():
                try:
                    chunk = queue.popleft()
                except IndexError:
                    break
                if not bound:
                    _go_to(chunk[2][0], cpus)
                    bound = True
                code = _native.prefault(chunk[0], chunk[1])
                if code == 0:
                    advance(chunk[1])
                    continue
                if code == errno.ENOMEM:
                    self.refused.append(chunk)
                else:
                    self.failed, self.code = chunk, code
                    stop.set()


def _go_to(node: int, cpus: frozenset[int]) -> None:
    """Bind the calling thread to a node, to CPUs of `cpus` if it has some; stay where the node has no CPU."""
    if _native.lib.numalloc_bind_thread(node) != 0:
        return
    there = cpus & os.sched_getaffinity(0)
    if there:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, there)


@contextlib.contextmanager
def _bar(length: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    if not shown:
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("prefault"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn()
    with Progress(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task("prefault", total=length)
        yield lambda done: bar.advance(task, done)


# ---- moving -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Migration:
    """What `migrate` did; counts are of base pages.

    Attributes
    ----------
    policy : Policy
        With its nodes.
    page_size : int
        Bytes.
    pages : int
        Pages of the array.
    moved, stayed : int
        Those that came from elsewhere, and those that were in place already.
    untouched : int
        Those never touched: nothing to move; they will come from the array's home.
    refused : mapping of str to int
        Those that would not move, by the kernel's reason: "EBUSY", "EACCES", "ENOMEM", ...
    seconds : float
    """

    policy: Policy
    page_size: int
    pages: int = 0
    moved: int = 0
    stayed: int = 0
    untouched: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def unmoved(self) -> int:
        """Pages that would not move."""
        return sum(self.refused.values())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "policy": str(self.policy),
            "page_size": self.page_size,
            "pages": self.pages,
            "moved": self.moved,
            "stayed": self.stayed,
            "untouched": self.untouched,
            "refused": dict(self.refused),
            "seconds": self.seconds,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        refused = dict(self.refused)  # a mappingproxy has no pickle
        counts = (self.pages, self.moved, self.stayed, self.untouched)
        return _migration, (self.policy, self.page_size, *counts, refused, self.seconds)

    def __str__(self) -> str:
        parts = [f"{self.moved} moved", f"{self.stayed} there already"]
        parts += [f"{self.untouched} untouched"] if self.untouched else []
        parts += [
            f"{count} not: {name} ({_WHY.get(name, 'see errno(3)')})" for name, count in self.refused.items()
        ]
        return f"{self.pages} pages of {self.page_size} bytes to {self.policy}: {', '.join(parts)}"


def _migration(
    policy: Policy,
    page_size: int,
    pages: int,
    moved: int,
    stayed: int,
    untouched: int,
    refused: dict[str, int],
    seconds: float,
) -> Migration:
    """Return what was pickled or copied."""
    return Migration(policy, page_size, pages, moved, stayed, untouched, MappingProxyType(refused), seconds)


def migrate(a: Array, policy: Policy | str) -> Migration:
    """Move the pages of an array to where a policy puts them; return how many the kernel refused, and why.

    The array's home stays: untouched pages, and later arrays in the same memory, come from it.

    Parameters
    ----------
    a : numpy.ndarray
        Any, also of others' memory. What lies between the elements of a strided view, and in the array's first and
        last page, moves along.
    policy : Policy or {"local", "interleave", "blocked", "weighted", "bandwidth", "latency", "capacity"}
        local: the node of the calling thread. A kind of memory: its node nearest to the calling thread. interleave: pages, or where the memory is in huge pages these,
        round-robin. weighted: runs of these in turns. blocked: equal parts along its axis, for arrays in C or F order. With ``populate`` the pages
        are faulted in first; with ``strict`` as well, and it is an error if one would not go.

    Returns
    -------
    Migration

    Raises
    ------
    NodeError
        A node that this process may not use; a kind of memory that the machine does not tell.
    PlacementError
        The kernel lets this process move nothing; or with ``strict`` a page would not go.
    OutOfMemoryError
        With ``strict``: a node is full.
    ValueError, TypeError
        A policy that is none, or does not suit the array; not an array.
    """
    start, length = _checked("migrate", a)
    asked = as_policy("migrate", policy)
    target = with_nodes("migrate", asked)
    if target.populate or target.strict:
        prefault(a, progress=False)
    granule = _unit(start, length)
    stripe = _stripe(a, target) if target.kind == "blocked" else 0
    began = time.perf_counter()
    total = _native.MoveCounts(_native.page_size())
    for at, size, nodes in cut(target, start, length, granule, stripe):
        moved = _native.migrate(at, size, nodes, granule)
        if isinstance(moved, int):
            raise error_for(moved, "migrate", f"{size} bytes to {target}", "what move_pages is allowed to do")
        total += moved
    result = Migration(
        target,
        total.page_size,
        total.pages,
        total.moved,
        total.stayed,
        total.untouched,
        MappingProxyType(total.refused),
        time.perf_counter() - began,
    )
    if target.strict and result.unmoved:
        kind = OutOfMemoryError if set(result.refused) == {"ENOMEM"} else PlacementError
        raise kind(
            message(
                "migrate",
                str(result),
                _native.describe_nodes(target.nodes),
                "drop strict=True to go on regardless",
            )
        )
    return result


def with_nodes(call: str, policy: Policy) -> Policy:
    """Fill in the nodes and weights that a policy leaves open."""
    allowed = _native.node_ids()
    if policy.kind == "local":
        return replace(policy, kind="on_node", nodes=(_native.current_node(),))
    if policy.kind in _native.MEMORY_KINDS:
        return replace(policy, kind="on_node", nodes=(kind_nodes(call, policy)[1],))
    for node in policy.nodes:
        if node not in allowed:
            raise NodeError(
                message(
                    call,
                    f"node {node} of policy {policy}",
                    f"this process may use nodes {', '.join(map(str, allowed))}",
                    "name one of these",
                )
            )
    if policy.kind == "weighted":
        return replace(policy, nodes=policy.nodes or allowed, weights=weights_of(call, policy))
    return policy if policy.nodes else replace(policy, nodes=_native.spread_nodes())


def _stripe(a: Array, policy: Policy) -> int:
    if a.ndim == 0 or a.size == 0:
        return 0
    if not (a.flags.c_contiguous or a.flags.f_contiguous):
        raise ValueError(
            message(
                "migrate",
                f"policy {policy} for an array of strides {a.strides}",
                "arrays in C or F order",
                "migrate contiguous parts of it with on_node()",
            )
        )
    return stripe_of("migrate", policy, a.shape, a.itemsize, "C" if a.flags.c_contiguous else "F")


def _unit(start: int, length: int) -> int:
    """Bytes of what moves as one."""
    info = _native.block_info(start) if length else None
    if info is not None and info.huge_page:
        return info.huge_page
    return _HUGE if length >= _HUGE and _in_huge_pages(start, length) else _native.page_size()


def _in_huge_pages(start: int, length: int) -> bool:
    """Return whether mappings in a range have transparent huge pages, which are moved whole."""
    inside = False
    try:
        with open("/proc/self/smaps", errors="replace") as smaps:
            for line in smaps:
                name, _, value = line.partition(" ")
                if not name.endswith(":"):
                    begin, _, end = name.partition("-")
                    inside = int(begin, 16) < start + length and int(end, 16) > start
                elif inside and name in _HUGE_FIELDS and int(value.split()[0]):
                    return True
    except OSError:
        return True  # not known: moving whole huge pages is right in both cases
    return False
