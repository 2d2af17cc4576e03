# SPDX-License-Identifier: BSD-3-Clause
"""How large arrays must be to measure memory and not caches, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def check_room(call: str, nbytes: int, nodes: Sequence[int], at_once: int = 1) -> None:
    """Refuse arrays that don't fit, before the machine starts to swap.

    Parameters
    ----------
    call : str
        For messages.
    nbytes : int
        On each node.
    nodes : sequence of int
    at_once : int
        Nodes that are in use at the same time.

    Raises
    ------
    HpcallocError
        A node is smaller, or the machine or the cgroup has no room for them.
    """
    infos = [info for node in nodes if (info := _native.node_info(node)) is not None]
    small = [info.node for info in infos if 0 < info.total_bytes < nbytes]
    if not small and nbytes * at_once <= _native.room():
        return
    limit = _native.describe_nodes(small or nodes) + f"; {mib(_native.room())} are free in all"
    value = f"{mib(nbytes)} of arrays on each of {at_once} node(s)"
    remedy = "a smaller --size, with --small if need be, or free some memory"
    raise HpcallocError(message(call, value, limit, remedy))
