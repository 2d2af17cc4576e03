# SPDX-License-Identifier: BSD-3-Clause
"""NUMA-aware memory for MPI and OpenMP programs: pinned ranks, node-local NumPy arrays, page-level proof.

Importing it loads the allocator and nothing else: no thread is pinned, no environment variable set, and
neither mpi4py nor threadpoolctl is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import comms as comms  # early: it has to see every fork of a process in which MPI is up
from .arrays import (
    array,
    current_policy,
    empty,
    empty_like,
    full,
    full_like,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from .context import Context, current, init
from .exceptions import (
    BindingError,
    ContextClosedError,
    HandlerError,
    HpcallocError,
    NodeError,
    OutOfMemoryError,
    PlacementError,
    PlanError,
    TopologyError,
)

# Not lazily: importing the module later would put it in the place of the function of the same name.
from .placement import Placement, placement
from .plan import Plan, make_plan
from .policy import Policy, blocked, interleave, local, on_node
from .topology import Topology

if TYPE_CHECKING:
    from .handler import NumpyAllocator, numpy_allocator
    from .paging import Migration, Prefault, migrate, prefault
    from .report import Report
    from .shared import SharedArray

__version__ = "0.1.0"

_LAZY = {
    "Migration": "paging",
    "NumpyAllocator": "handler",
    "Prefault": "paging",
    "Report": "report",
    "SharedArray": "shared",
    "migrate": "paging",
    "numpy_allocator": "handler",
    "prefault": "paging",
}

__all__ = [
    "BindingError",
    "Context",
    "ContextClosedError",
    "HandlerError",
    "HpcallocError",
    "Migration",
    "NodeError",
    "NumpyAllocator",
    "OutOfMemoryError",
    "Placement",
    "PlacementError",
    "Plan",
    "PlanError",
    "Policy",
    "Prefault",
    "Report",
    "SharedArray",
    "Topology",
    "TopologyError",
    "array",
    "blocked",
    "current",
    "current_policy",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "init",
    "interleave",
    "local",
    "make_plan",
    "migrate",
    "numpy_allocator",
    "on_node",
    "ones",
    "ones_like",
    "placement",
    "prefault",
    "zeros",
    "zeros_like",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'hpcalloc' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
