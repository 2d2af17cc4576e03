# SPDX-License-Identifier: BSD-3-Clause
"""The bridge to libnumalloc: typed calls on cffi's `lib`, the data handlers (`_handler`, C), and errors.

Importing it loads ``libnumalloc.so``, which may reserve address space and read ``NUMALLOC_*``; it changes no
affinity, no memory policy and no environment.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

try:
    from ._cffi import ffi, lib
except ImportError as error:
    if "static TLS" not in str(error):
        raise
    raise ImportError(
        f"import hpcalloc: {error}; limit: the thread-local memory that glibc keeps for libraries loaded later; remedy: "
        "import hpcalloc before the other packages, or start Python with "
        "GLIBC_TUNABLES=glibc.rtld.optional_static_tls=4096 in the environment"
    ) from error

if TYPE_CHECKING:
    from .records import BlockInfo, MoveCounts, NodeInfo, PageCounts

__all__ = [
    "MAX_NODES",
    "MEMORY_KINDS",
    "NODE_FOREIGN",
    "NODE_MIXED",
    "VERSION",
    "BlockInfo",
    "MoveCounts",
    "NodeInfo",
    "PageCounts",
    "bind_range",
    "block_info",
    "can_bind",
    "can_query",
    "current_node",
    "describe_nodes",
    "describe_room",
    "ffi",
    "kind_nodes",
    "kind_text",
    "lib",
    "memory_policy",
    "migrate",
    "node_ids",
    "node_info",
    "nodemask",
    "page_counts",
    "page_size",
    "prefault",
    "room",
    "stats",
    "stats_dict",
    "weights",
]

VERSION: str = ffi.string(lib.NUMALLOC_VERSION).decode()
MAX_NODES: int = lib.NUMALLOC_MAX_NODES  # node ids are below this
NODE_MIXED: int = lib.NUMALLOC_NODE_MIXED
NODE_FOREIGN: int = lib.NUMALLOC_NODE_FOREIGN


def node_ids() -> tuple[int, ...]:
    """Ids of the nodes this process may allocate on, ascending."""
    ids = ffi.new("int[]", MAX_NODES)
    count = lib.numalloc_node_ids(ids, MAX_NODES)
    return tuple(ids[0:count])


def spread_nodes() -> tuple[int, ...]:
    """Ids of the nodes over which memory is spread by default: those that have CPUs, ascending.

    A node without CPUs is slower memory (CXL), scarce memory (HBM) or a GPU's own.
    """
    nodes = node_ids()
    return tuple(n for n in nodes if (info := node_info(n)) is not None and info.cpus > 0) or nodes


MEMORY_KINDS: Mapping[str, int] = {
    "bandwidth": lib.NUMALLOC_KIND_BANDWIDTH,
    "latency": lib.NUMALLOC_KIND_LATENCY,
    "capacity": lib.NUMALLOC_KIND_CAPACITY,
}


def kind_nodes(kind: str) -> tuple[tuple[int, ...], int]:
    """Nodes of a kind of memory, and of these the nearest to the calling thread; none and -1 if unknown."""
    answer = ffi.new("numalloc_kind_t *")
    if lib.numalloc_kind(MEMORY_KINDS[kind], answer) != 0:
        return (), -1
    return _ids(answer.nodes), int(answer.nearest)


def kind_text() -> str:
    """What the machine has and the kernel tells of it, a node a part, for messages."""
    buffer = ffi.new("char[]", lib.numalloc_kind_text(ffi.NULL, 0) + 1)
    lib.numalloc_kind_text(buffer, len(buffer))
    return str(ffi.string(buffer).decode())


def weights(nodes: Iterable[int]) -> tuple[int, ...] | int:
    """Weights of nodes, ascending, in the proportion of their bandwidths; or the errno."""
    listed = sorted(nodes)
    answer = ffi.new("numalloc_weights_t *")
    code: int = lib.numalloc_weights(nodemask(listed), answer)
    return code if code != 0 else tuple(answer.of[node] for node in listed)


def _ids(nodes: Any) -> tuple[int, ...]:
    return tuple(
        64 * i + bit for i, word in enumerate(nodes.word) if word for bit in range(64) if word >> bit & 1
    )


def node_info(node: int) -> NodeInfo | None:
    """Return what is known of a node; None if there is no such node."""
    from .records import NodeInfo

    info = ffi.new("numalloc_node_info_t *")
    if lib.numalloc_node_info(node, info) != 0:
        return None
    return NodeInfo(info.node, info.cpus, bool(info.allowed), info.total_bytes, info.free_bytes)


def page_size() -> int:
    """Bytes of a base page."""
    return os.sysconf("SC_PAGE_SIZE")


def current_node() -> int:
    """Node of the CPU that the calling thread runs on."""
    return int(lib.numalloc_current_node())


def memory_policy() -> tuple[int, tuple[int, ...]] | int:
    """Return the calling thread's memory policy, the kernel's number with flags and the nodes; or the errno."""
    mode, nodes = ffi.new("int *"), ffi.new("numalloc_nodemask_t *")
    code: int = lib.numalloc_memory_policy_now(mode, nodes)
    if code != 0:
        return code
    return int(mode[0]), _ids(nodes)


def can_bind() -> int:
    """0 if memory can be placed, else the errno that the kernel answers."""
    return int(lib.numalloc_can_bind())


def can_query() -> int:
    """0 if placement can be asked for, else the errno that the kernel answers."""
    return int(lib.numalloc_can_query())


def block_info(address: int) -> BlockInfo | None:
    """Return the live block that `address` lies in; None if it is not the allocator's."""
    from .records import BlockInfo

    info = ffi.new("numalloc_block_info_t *")
    if lib.numalloc_block_info(ffi.cast("void *", address), info) != 0:
        return None
    return BlockInfo(
        int(ffi.cast("uintptr_t", info.start)),
        info.size,
        info.numa_node,
        info.policy,
        bool(info.flags & lib.NUMALLOC_STRICT),
        info.huge_page,
    )


def page_counts(address: int, length: int) -> PageCounts | int:
    """Count where the pages of ``[address, address + length)`` are; or return the errno of the query."""
    from .records import PageCounts

    counts = ffi.new("numalloc_page_counts_t *")
    code: int = lib.numalloc_page_nodes(ffi.cast("void *", address), length, counts)
    if code != 0:
        return code
    seen = counts.pages - counts.untouched - counts.failed
    on_node = {}
    for node in node_ids() if seen else ():  # the common case: all pages on nodes that we may use
        if counts.on_node[node]:
            on_node[node] = int(counts.on_node[node])
    if sum(on_node.values()) != seen:
        on_node = {node: int(n) for node, n in enumerate(counts.on_node) if n}
    return PageCounts(counts.page_size, counts.pages, counts.untouched, counts.failed, on_node)


def room() -> int:
    """Bytes that can be faulted in now without calling the OOM killer; 2**64 - 1 where nothing is known."""
    return int(lib.numalloc_room())


def prefault(address: int, length: int) -> int:
    """Fault in the pages of a range, within one block or of others' memory; 0 or errno."""
    return int(lib.numalloc_prefault(ffi.cast("void *", address), length))


def nodemask(nodes: Iterable[int]) -> Any:
    """Node ids as the allocator's calls take them."""
    mask = ffi.new("numalloc_nodemask_t *")
    for node in nodes:
        mask.word[node // 64] |= 1 << node % 64
    return mask


def bind_range(address: int, length: int, nodes: Iterable[int]) -> int:
    """Set where pages to come of others' memory will be: on a node, or dealt over several; 0 or errno."""
    return int(lib.numalloc_bind_range(ffi.cast("void *", address), length, nodemask(nodes)))


def migrate(address: int, length: int, nodes: Iterable[int], granule: int) -> MoveCounts | int:
    """Move the pages of a range to a node, or deal them over several in units of `granule` bytes; counts or errno."""
    from .records import MoveCounts

    result = ffi.new("numalloc_migration_t *")
    code = int(
        lib.numalloc_migrate_pages(ffi.cast("void *", address), length, nodemask(nodes), granule, result)
    )
    if code != 0:
        return code
    refused = {
        errno.errorcode.get(value, f"errno {value}"): int(count)
        for value, count in enumerate(result.refused)
        if count
    }
    return MoveCounts(result.page_size, result.pages, result.untouched, result.stayed, result.moved, refused)


_STATS_FIELDS: tuple[str, ...] = tuple(name for name, _ in ffi.typeof("numalloc_stats_t").fields)


def stats(node: int = -1) -> dict[str, int]:
    """Return the counters of one node by name, or the sums over all nodes (-1)."""
    result = ffi.new("numalloc_stats_t *")
    code = lib.numalloc_stats(node, result)
    if code != 0:
        from .errors import error_for  # needs the exceptions, which the import of this module shall not

        known = ", ".join(map(str, node_ids()))
        raise error_for(code, "stats", f"node {node}", f"nodes {known}, or -1 for all")
    return {name: int(getattr(result, name)) for name in _STATS_FIELDS}


def stats_dict() -> dict[str, Any]:
    """Return all statistics, the options in force and the nodes, as ``numalloc_stats_json`` gives them."""
    import json

    length = lib.numalloc_stats_json(ffi.NULL, 0)
    while True:
        capacity = length + 1024  # counters may grow by a digit meanwhile
        buffer = ffi.new("char[]", capacity)
        length = lib.numalloc_stats_json(buffer, capacity)
        if length < capacity:
            result: dict[str, Any] = json.loads(ffi.string(buffer))
            return result


def describe_nodes(nodes: Iterable[int]) -> str:
    """Say ``node 0 has 3.1 GiB free of 16.0 GiB`` of each node, for messages."""
    parts = []
    for node in nodes:
        info = node_info(node)
        if info is not None:
            free, total = info.free_bytes / 2**30, info.total_bytes / 2**30
            parts.append(f"node {node} has {free:.1f} GiB free of {total:.1f} GiB")
    return ", ".join(parts) or "no node is known"


_LIMITS = {
    "block": "no block can have more than {} (vm.overcommit_memory=0, or the addresses reserved)",
    "data": "RLIMIT_DATA (ulimit -d) leaves {}",
    "address_space": "RLIMIT_AS (ulimit -v) leaves {}",
    "cgroup": "the memory cgroup grants {} more (memory.max, srun --mem)",
    "machine": "the machine has {} to give",
}


def exceeded(size: int) -> str:
    """Say which limit of the process, its cgroup or the machine is below `size` bytes; "" if none is."""
    limits = ffi.new("numalloc_limits_t *")
    if lib.numalloc_limits(limits) == 0:
        for name, narrow in _LIMITS.items():
            left = int(getattr(limits, name))
            if left < size:
                return narrow.format(f"{left / 2**30:.2f} GiB")
    return ""


def describe_room(size: int, nodes: Iterable[int]) -> str:
    """Say what was too narrow for `size` bytes: the limit that is `exceeded`, then the nodes."""
    return ", ".join(filter(None, (exceeded(size), describe_nodes(nodes))))


def __getattr__(name: str) -> object:
    if name not in ("BlockInfo", "MoveCounts", "NodeInfo", "PageCounts"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import records

    value: object = getattr(records, name)
    return value
