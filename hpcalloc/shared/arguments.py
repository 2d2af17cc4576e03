# SPDX-License-Identifier: BSD-3-Clause
"""A shared array as it is asked for: its arguments are checked, compared over the ranks, and held against what there is."""

from __future__ import annotations

import math
import operator
import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np

from .._text import size_text
from ..exceptions import OutOfMemoryError, message
from ..memory.arrays import as_dtype
from .layout import Blocks, Split

__all__ = ["Arguments", "ArrayRequest", "cgroup", "check", "check_room", "check_same", "shm"]

_SHM = "/dev/shm"  # where both MPI libraries put windows
_OMPI_DIRECTORY = "OMPI_MCA_osc_sm_backing_directory"  # Open MPI's way to name another place


@dataclass(frozen=True)
class Arguments:
    """The arguments, checked."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axis: int
    halo: int
    split: Split

    def __str__(self) -> str:
        return f"shape={self.shape}, dtype={self.dtype}, axis={self.axis}, halo={self.halo}, split={self.split!r}"

    @property
    def row_bytes(self) -> int:
        """Bytes of one slice along the axis."""
        return math.prod(self.shape[: self.axis] + self.shape[self.axis + 1 :]) * self.dtype.itemsize

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape in memory: the axis first, with the halo."""
        return (
            self.shape[self.axis] + 2 * self.halo,
            *self.shape[: self.axis],
            *self.shape[self.axis + 1 :],
        )


@dataclass(frozen=True)
class ArrayRequest:
    """What a rank asks for and has room for."""

    arguments: Arguments | None  # None: the rank has an error to raise
    cgroup: str  # ranks with the same one share its limit
    room: int  # bytes that can be faulted in


def check(
    call: str, shape: Any, dtype: Any, axis: SupportsIndex, halo: SupportsIndex, split: Split
) -> Arguments:
    """Check the arguments that one rank can check; TypeError, ValueError."""
    try:
        sizes = (operator.index(shape),) if hasattr(shape, "__index__") else tuple(map(operator.index, shape))
    except TypeError:
        raise TypeError(message(call, f"shape={shape!r}", "an integer or a sequence of integers")) from None
    try:
        kind = np.dtype(as_dtype(dtype))
    except TypeError as bad:
        raise TypeError(message(call, f"dtype={dtype!r}: {bad}", "what numpy.dtype takes")) from None
    if kind.hasobject or kind.itemsize == 0:
        raise TypeError(
            message(
                call,
                f"dtype={kind}",
                "raw data of a fixed size",
                "use a dtype without object fields and with a length",
            )
        )
    if not sizes or min(sizes) < 0:
        raise ValueError(message(call, f"shape={shape!r}", "at least one axis, no negative length"))
    for name, value in (("axis", axis), ("halo", halo)):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(message(call, f"{name}={value!r}", "an integer"))
    axis, halo = operator.index(axis), operator.index(halo)
    if not -len(sizes) <= axis < len(sizes):
        raise ValueError(
            message(
                call,
                f"axis={axis} for shape={sizes}",
                f"from {-len(sizes)} to {len(sizes) - 1}",
            )
        )
    if halo < 0:
        raise ValueError(message(call, f"halo={halo}", "0 or more rows"))
    counts = split if isinstance(split, str) else _counts(call, split)
    request = Arguments(sizes, kind, axis % len(sizes), halo, counts)
    if request.row_bytes * (sizes[request.axis] + 2 * halo) >= 2**62:
        raise ValueError(message(call, str(request), "less than 2**62 bytes"))
    return request


def _counts(call: str, split: Any) -> tuple[int, ...]:
    try:
        return tuple(map(operator.index, split))
    except TypeError:
        raise TypeError(message(call, f"split={split!r}", "'auto', 'even', 'page' or row counts")) from None


def check_same(call: str, requests: Sequence[ArrayRequest]) -> None:
    """Check that all ranks ask for the same; the same error on all of them."""
    first = requests[0].arguments
    for i, request in enumerate(requests):
        if request.arguments != first:
            raise ValueError(
                message(
                    call,
                    f"{request.arguments} on local rank {i}, {first} on local rank 0",
                    "the same on all ranks of a host",
                    "compute the arguments from what all ranks know",
                )
            )


def check_room(call: str, requests: Sequence[ArrayRequest], blocks: Blocks) -> None:
    """Raise where the memory is known not to be there, before anything is made."""
    total = blocks.nbytes + (blocks.ranks + 3) * blocks.page
    what = f"{size_text(total)} over {blocks.ranks} ranks"
    instead = "use an array per rank (ctx.zeros), which needs no shared memory"
    directory, free, whole = shm()
    # Open MPI wants 5 % left; where one rank of it is refused the others wait for ever.
    if total > free - free // 16:
        raise OutOfMemoryError(
            message(
                call,
                what,
                f"{directory} has {size_text(free)} free of {size_text(whole)}, of which 1/16 is left to others",
                f"enlarge it (mount -o remount,size=SIZE {directory}; docker run --shm-size SIZE), or {instead}",
            )
        )
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and total > limit:
        raise OutOfMemoryError(
            message(call, what, f"files of {size_text(limit)} (ulimit -f)", f"raise ulimit -f, or {instead}")
        )
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        with open("/proc/self/statm") as statm:
            left = max(0, limit - int(statm.read().split()[0]) * blocks.page)
        if 2 * total > left:  # MPI's mapping and ours
            raise OutOfMemoryError(
                message(
                    call,
                    f"{what}, mapped twice",
                    f"{size_text(left)} of address space left (ulimit -v)",
                    "raise ulimit -v",
                )
            )
    for i, request in enumerate(requests):
        together = sum(blocks.own_pages(j)[1] for j, r in enumerate(requests) if r.cgroup == request.cgroup)
        if together > request.room:
            raise OutOfMemoryError(
                message(
                    call,
                    f"{size_text(together)} for local rank {i} and the ranks in its cgroup",
                    f"{size_text(request.room)} that the cgroup and the machine can still give",
                    "ask for less, or for more memory per task",
                )
            )


def shm() -> tuple[str, int, int]:
    """Directory of shared memory, bytes free and in all; 2**63 of both where MPI will say what it uses instead."""
    directory = os.environ.get(_OMPI_DIRECTORY, _SHM)
    try:
        disk = os.statvfs(directory)
    except OSError:
        return directory, 2**63, 2**63
    return directory, disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize


def cgroup() -> str:
    """Return what names the cgroups of this process; the same text, the same limits."""
    try:
        with open("/proc/self/cgroup", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
