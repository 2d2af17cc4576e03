# SPDX-License-Identifier: BSD-3-Clause
"""What hpcalloc raises. Every message names the call, the value and the limit, and a remedy where there is one."""

from __future__ import annotations

__all__ = [
    "BindingError",
    "ContextClosedError",
    "HandlerError",
    "HpcallocError",
    "NodeError",
    "OutOfMemoryError",
    "PlacementError",
    "PlanError",
    "TopologyError",
    "message",
]


class HpcallocError(Exception):
    """Base of all."""


class TopologyError(HpcallocError, ValueError):
    """A topology can't be read or contradicts itself."""


class PlanError(HpcallocError, ValueError):
    """Ranks can't be planned on this topology with these options."""


class BindingError(HpcallocError, OSError):
    """The kernel refused an affinity or a memory policy."""


class PlacementError(HpcallocError, OSError):
    """Pages can't be placed, moved or asked for."""


class ContextClosedError(HpcallocError, RuntimeError):
    """A context was used after its close."""


class HandlerError(HpcallocError, RuntimeError):
    """NumPy's allocator can't be taken out: it is not there, or not on top."""


class NodeError(HpcallocError, ValueError):
    """A node that does not exist or that this process may not use."""


class OutOfMemoryError(HpcallocError, MemoryError):
    """There is no memory where it was asked for."""


def message(call: str, value: str, limit: str, remedy: str = "") -> str:
    """Text of an exception: what was called, with what, what bounds it, and what to do where that says more."""
    return f"{call}: {value}; limit: {limit}" + (f"; remedy: {remedy}" if remedy else "")
