# SPDX-License-Identifier: BSD-3-Clause
"""NUMA-aware memory for MPI and OpenMP programs: pinned ranks, node-local NumPy arrays, page-level proof.

Importing it loads the allocator and nothing else: no thread is pinned, no environment variable set, and neither NumPy nor
mpi4py nor threadpoolctl is imported.
"""

from __future__ import annotations

import os
from _thread import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import _native
from .bind import mpi as _mpi  # noqa: F401  # notices forks from now on
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

if TYPE_CHECKING:
    from .context import Context, current, init
    from .discover.topology import Topology
    from .memory.arrays import (
        array,
        asarray,
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
    from .memory.numpy_allocator import NumpyAllocator, numpy_allocator
    from .memory.paging import Migration, Prefault, migrate, prefault
    from .memory.placement import Placement, placement
    from .plan.ranks import Plan, make_plan
    from .policy import Policy, blocked, interleave, kind, local, on_node, weighted
    from .report.report import Report
    from .shared.array import SharedArray

__version__ = _native.VERSION

# With the first use of the name: NumPy takes longer to import than `hpcalloc run` takes for all it does.
_LAZY = {
    "Context": "context",
    "Migration": "memory.paging",
    "NumpyAllocator": "memory.numpy_allocator",
    "Placement": "memory.placement",
    "Plan": "plan.ranks",
    "Policy": "policy",
    "Prefault": "memory.paging",
    "Report": "report.report",
    "SharedArray": "shared.array",
    "Topology": "discover.topology",
    "array": "memory.arrays",
    "asarray": "memory.arrays",
    "blocked": "policy",
    "current": "context",
    "current_policy": "memory.arrays",
    "empty": "memory.arrays",
    "empty_like": "memory.arrays",
    "full": "memory.arrays",
    "full_like": "memory.arrays",
    "init": "context",
    "interleave": "policy",
    "kind": "policy",
    "local": "policy",
    "make_plan": "plan.ranks",
    "migrate": "memory.paging",
    "numpy_allocator": "memory.numpy_allocator",
    "on_node": "policy",
    "ones": "memory.arrays",
    "ones_like": "memory.arrays",
    "placement": "memory.placement",
    "prefault": "memory.paging",
    "weighted": "policy",
    "zeros": "memory.arrays",
    "zeros_like": "memory.arrays",
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
    "asarray",
    "blocked",
    "current",
    "current_policy",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "get_include",
    "get_library",
    "init",
    "interleave",
    "kind",
    "local",
    "make_plan",
    "migrate",
    "numpy_allocator",
    "on_node",
    "ones",
    "ones_like",
    "placement",
    "prefault",
    "weighted",
    "zeros",
    "zeros_like",
]


def get_include() -> str:
    """Return the directory of ``numa_alloc.h``, for ``cc -I``; the same in wheels and editable installations."""
    return _installed("include")


def get_library() -> str:
    """Return the path of ``libnumalloc.so``, for ``cc`` and ``ctypes.CDLL``: the one that this package uses."""
    return _installed("libnumalloc.so")


def _installed(name: str) -> str:
    from ._native.installed import installed

    return str(installed(name))


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'hpcalloc' has no attribute {name!r}")
    value = getattr(_load(f".{module}"), name)
    globals()[name] = value
    return value


# Held over a fork too: the child would wait for ever for a module that another thread was loading.
_loading = RLock()
os.register_at_fork(
    before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release
)


def _load(module: str) -> ModuleType:
    """Import a module; Ctrl-C waits meanwhile, since a process can't load NumPy again after half of it."""
    import importlib
    import signal

    pressed: list[Any] = []
    handler = signal.getsignal(signal.SIGINT)
    with _loading:
        try:
            if callable(handler):
                signal.signal(signal.SIGINT, lambda *call: pressed.append(call))
        except ValueError:  # in the main thread alone are handlers called
            handler = None
        try:
            return importlib.import_module(module, __name__)
        finally:
            if callable(handler):
                signal.signal(signal.SIGINT, handler)
                if pressed:
                    handler(*pressed[0])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
