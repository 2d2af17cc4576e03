# SPDX-License-Identifier: BSD-3-Clause
"""Where an array's pages shall be: small frozen values that name a placement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import SupportsIndex

from .exceptions import NodeError, message

__all__ = ["MEMORY_KINDS", "Policy", "as_policy", "blocked", "interleave", "local", "node_ids", "on_node"]

KINDS = ("local", "on_node", "interleave", "blocked")
MEMORY_KINDS = ("bandwidth", "latency", "capacity")
MAX_NODES = 1024  # the kernel's own limit on node ids


@dataclass(frozen=True)
class Policy:
    """A placement; make one with `local`, `on_node`, `interleave` or `blocked`.

    Attributes
    ----------
    kind : str
        "local", "on_node", "interleave" or "blocked".
    nodes : tuple of int
        Node ids, ascending; empty means the calling thread's node (local) or all allowed nodes that have CPUs.
    axis : int
        Blocked: the axis that is split over the nodes.
    strict : bool
        The memory is on its nodes before the call returns, or the call raises OutOfMemoryError; otherwise the
        nodes are preferred and the next nearest serve when they are full.
    populate : bool
        The pages are faulted in before the call returns (strict implies it).
    """

    kind: str
    nodes: tuple[int, ...] = ()
    axis: int = 0
    strict: bool = False
    populate: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(message("Policy", f"kind={self.kind!r}", ", ".join(KINDS)))
        if self.kind == "on_node" and len(self.nodes) != 1:
            raise NodeError(message("Policy", f"on_node with nodes={self.nodes!r}", "one id"))
        for name in ("strict", "populate"):
            if not isinstance(value := getattr(self, name), bool):
                raise TypeError(message("Policy", f"{name}={value!r}", "True or False"))

    def __reduce__(self) -> tuple[type[Policy], tuple[object, ...]]:
        # Without what other modules keep with the value (arrays.py: its data handler).
        return Policy, (self.kind, self.nodes, self.axis, self.strict, self.populate)

    def __str__(self) -> str:
        inside = [str(n) for n in self.nodes]
        if self.kind == "blocked":
            inside.insert(0, f"axis={self.axis}")
        inside += [flag for flag in ("strict", "populate") if getattr(self, flag)]
        return f"{self.kind}({', '.join(inside)})"


def node_ids(call: str, nodes: Iterable[SupportsIndex]) -> tuple[int, ...]:
    """Return node ids, ascending and each once; TypeError or NodeError for what can't be any."""
    try:
        listed = list(nodes)
    except TypeError:
        raise TypeError(message(call, f"nodes={nodes!r}", "a sequence of node ids")) from None
    return tuple(sorted({_id(call, node) for node in listed}))


def _some_ids(call: str, nodes: Iterable[SupportsIndex] | None) -> tuple[int, ...]:
    if nodes is None:
        return ()
    ids = node_ids(call, nodes)
    if not ids:
        raise NodeError(
            message(call, "nodes is empty", "at least one id", "omit it for all allowed nodes that have CPUs")
        )
    return ids


def _id(call: str, node: SupportsIndex) -> int:
    # bool is an int, but a node called True is a mistake
    if not hasattr(node, "__index__") or isinstance(node, bool):
        raise TypeError(message(call, f"node {node!r}", "an integer"))
    node = node.__index__()
    if not 0 <= node < MAX_NODES:
        raise NodeError(
            message(call, f"node {node}", f"ids are 0 to {MAX_NODES - 1}", "see `hpcalloc topology`")
        )
    return node


def local(*, strict: bool = False, populate: bool = False) -> Policy:
    """Ask for memory on the node of the calling thread."""
    return Policy("local", strict=strict, populate=populate)


def on_node(node: SupportsIndex, *, strict: bool = False, populate: bool = False) -> Policy:
    """Ask for memory on `node`, whoever touches it first.

    Raises
    ------
    NodeError
        An id that no node can have. Whether this machine has the node is checked when an array is made.
    """
    return Policy("on_node", (_id("on_node", node),), strict=strict, populate=populate)


def interleave(
    nodes: Iterable[SupportsIndex] | None = None, *, strict: bool = False, populate: bool = False
) -> Policy:
    """Ask for pages dealt round-robin over `nodes` (default: all allowed that have CPUs)."""
    return Policy("interleave", _some_ids("interleave", nodes), strict=strict, populate=populate)


def blocked(
    axis: SupportsIndex = 0,
    nodes: Iterable[SupportsIndex] | None = None,
    *,
    strict: bool = False,
    populate: bool = False,
) -> Policy:
    """Ask for equal contiguous parts along `axis`, one per node in ascending order (default: all allowed that have CPUs).

    Parts begin on page boundaries: they are equal to within a page, and an array below a page is on one node.
    Along an inner axis every row is split, which needs rows of at least a page per node.
    """
    if not hasattr(axis, "__index__") or isinstance(axis, bool):
        raise TypeError(message("blocked", f"axis={axis!r}", "an integer"))
    ids = _some_ids("blocked", nodes)
    return Policy("blocked", ids, axis=axis.__index__(), strict=strict, populate=populate)


def as_policy(call: str, policy: Policy | str) -> Policy:
    """Return a policy, given one or the name of one that needs no node."""
    if isinstance(policy, Policy):
        return policy
    names = ("local", "interleave", "blocked")
    if isinstance(policy, str) and policy in names:
        return Policy(policy)
    error = ValueError if isinstance(policy, str) else TypeError
    limit = (
        f"{', '.join(map(repr, names))} or a Policy: hpcalloc.local(), on_node(n), interleave(), blocked()"
    )
    raise error(message(call, f"policy={policy!r}", limit))
