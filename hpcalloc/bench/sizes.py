# SPDX-License-Identifier: BSD-3-Clause
"""How large arrays must be to measure memory and not caches, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterable

from .. import _native
from ..exceptions import HpcallocError, message
from .caches import last_level_bytes

__all__ = ["SMALL_BYTES", "array_bytes", "check_room", "mib"]

TIMES_LAST_LEVEL = 4  # STREAM's rule: each array at least four times the last-level caches used
UNKNOWN_CACHE_BYTES = 64 << 20  # taken for the last-level cache where the kernel does not tell of one
SMALL_BYTES = 1 << 20
_GRAIN = 2 << 20


def mib(nbytes: float) -> str:
    """``128 MiB``."""
    return f"{nbytes / 2**20:.4g} MiB"


def array_bytes(call: str, cpus: Iterable[int], asked: int | None, small: bool, shared_by: int = 1) -> int:
    """Bytes of each array.

    Parameters
    ----------
    call : str
        For messages.
    cpus : iterable of int
        CPUs whose last-level caches count.
    asked : int or None
        What the user wants; by default the least that measures memory, or with `small` 1 MiB.
    small : bool
        Arrays may fit into the caches.
    shared_by : int
        Ranks that have such arrays at the same time behind the same caches.

    Raises
    ------
    HpcallocError
        `asked` is less than four times the last-level caches, without `small`.
    """
    cache = last_level_bytes(cpus)
    least = -(-TIMES_LAST_LEVEL * (cache or UNKNOWN_CACHE_BYTES) // shared_by)
    least = -(-least // _GRAIN) * _GRAIN
    if asked is None:
        return SMALL_BYTES if small else least
    if asked < least and not small:
        known = f"last-level caches of {mib(cache)}" if cache else "last-level caches of unknown size"
        share = f" among {shared_by} ranks" if shared_by > 1 else ""
        raise HpcallocError(
            message(
                call,
                f"--size {mib(asked)}",
                f"{mib(least)} an array, four times the {known}{share}",
                f"--size {least >> 20}, or --small to measure caches",
            )
        )
    return asked


def check_room(call: str, nbytes: int, nodes: Iterable[int]) -> None:
    """Raise OutOfMemoryError's parent when a node has less than `nbytes` free, before the machine starts to swap.

    Raises
    ------
    HpcallocError
        It says which node, and what to do.
    """
    for node in nodes:
        info = _native.node_info(node)
        if info is not None and 0 < info.free_bytes < nbytes:
            raise HpcallocError(
                message(
                    call,
                    f"{mib(nbytes)} of arrays on node {node}",
                    _native.describe_nodes([node]),
                    "free some memory, or a smaller --size, with --small if need be",
                )
            )
