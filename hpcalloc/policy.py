# SPDX-License-Identifier: BSD-3-Clause
"""Where an array's pages shall be: small frozen values that name a placement."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import SupportsFloat, SupportsIndex

from .exceptions import NodeError, message

__all__ = [
    "MEMORY_KINDS",
    "Policy",
    "as_policy",
    "blocked",
    "interleave",
    "kind",
    "local",
    "node_ids",
    "on_node",
    "weighted",
]

MEMORY_KINDS = ("bandwidth", "latency", "capacity")
KINDS = ("local", "on_node", "interleave", "blocked", "weighted", *MEMORY_KINDS)
MAX_NODES = 1024  # the kernel's own limit on node ids
_WEIGHT_MAX = 255  # the kernel's


@dataclass(frozen=True)
class Policy:
    """A placement; make one with `local`, `on_node`, `interleave`, `blocked`, `weighted` or `kind`.

    Attributes
    ----------
    kind : str
        "local", "on_node", "interleave", "blocked", "weighted"; or a kind of memory: "bandwidth", "latency", "capacity".
    nodes : tuple of int
        Node ids, ascending; empty means the calling thread's node (local), all allowed nodes that have CPUs (interleave,
        blocked), all allowed nodes (weighted), or those that the machine tells (kinds of memory).
    axis : int
        Blocked: the axis that is split over the nodes.
    strict : bool
        The memory is on its nodes before the call returns, or the call raises OutOfMemoryError; otherwise the
        nodes are preferred and the next nearest serve when they are full.
    populate : bool
        The pages are faulted in before the call returns (strict implies it).
    weights : tuple of int
        Weighted: parts of each node, 1 to 255; empty: in the proportion of their bandwidths.
    """

    kind: str
    nodes: tuple[int, ...] = ()
    axis: int = 0
    strict: bool = False
    populate: bool = False
    weights: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(message("Policy", f"kind={self.kind!r}", ", ".join(KINDS)))
        if self.kind == "on_node" and len(self.nodes) != 1:
            raise NodeError(message("Policy", f"on_node with nodes={self.nodes!r}", "one id"))
        if self.weights and (self.kind != "weighted" or len(self.weights) != len(self.nodes)):
            what = f"{self.kind} with {len(self.weights)} weights for {len(self.nodes)} nodes"
            raise ValueError(message("Policy", what, "weighted, a weight for each node"))
        for name in ("strict", "populate"):
            if not isinstance(value := getattr(self, name), bool):
                raise TypeError(message("Policy", f"{name}={value!r}", "True or False"))

    def __reduce__(self) -> tuple[type[Policy], tuple[object, ...]]:
        # Without what other modules keep with the value (arrays.py: its data handler).
        return Policy, (self.kind, self.nodes, self.axis, self.strict, self.populate, self.weights)

    def __str__(self) -> str:
        inside = [str(n) for n in self.nodes]
        if self.weights:
            inside = [f"{node}:{weight}" for node, weight in zip(self.nodes, self.weights, strict=True)]
        if self.kind in MEMORY_KINDS:
            inside.insert(0, self.kind)
        if self.kind == "blocked":
            inside.insert(0, f"axis={self.axis}")
        inside += [flag for flag in ("strict", "populate") if getattr(self, flag)]
        return f"{'kind' if self.kind in MEMORY_KINDS else self.kind}({', '.join(inside)})"


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


def kind(name: str, *, strict: bool = False, populate: bool = False) -> Policy:
    """Ask for memory on the node of a kind of memory that is nearest to the calling thread.

    Which nodes are of a kind is what the machine tells: its firmware's bandwidths and latencies (HMAT, CXL), else the
    kernel's memory tiers; for capacity also the sizes of its nodes. `hpcalloc topology` shows it. Nodes that are at most a
    tenth worse than the best count, so where all are alike each thread has its own node.

    Parameters
    ----------
    name : {"bandwidth", "latency", "capacity"}
        The highest bandwidth (HBM), the lowest latency, the lowest memory tier or the largest nodes (CXL).
    strict : bool
        On nodes of that kind alone, or OutOfMemoryError. False: the next nodes by distance serve when it is full.
    populate : bool
        Fault the pages in.

    Raises
    ------
    ValueError
        Another name. That the machine does not tell of the kind is a NodeError when an array is made.
    """
    if name not in MEMORY_KINDS:
        raise ValueError(message("kind", f"name={name!r}", ", ".join(map(repr, MEMORY_KINDS))))
    return Policy(name, strict=strict, populate=populate)


def weighted(
    nodes: Iterable[SupportsIndex] | None = None,
    weights: Iterable[SupportsFloat] | None = None,
    *,
    strict: bool = False,
    populate: bool = False,
) -> Policy:
    """Ask for pages over `nodes` in the proportion of weights: nodes with more bandwidth get more pages.

    Parameters
    ----------
    nodes : iterable of int, optional
        Default: all allowed nodes, those without CPUs (HBM, CXL) included.
    weights : iterable of float, optional
        One for each of `nodes`, none negative; of a node with weight 0 no memory is taken. Whole numbers up to 255 are
        taken as they are, others rounded to such. Default: the nodes' bandwidths, which the machine has to tell.

    Raises
    ------
    ValueError
        Weights without nodes, of another number than the nodes, negative, not finite, or all 0.
    NodeError, TypeError
        What can't be node ids, or a node twice.
    """
    if weights is None:
        return Policy("weighted", _some_ids("weighted", nodes), strict=strict, populate=populate)
    if nodes is None:
        raise ValueError(
            message("weighted", "weights without nodes", "a weight for each of nodes", "name the nodes")
        )
    try:
        listed, values = list(nodes), [_weight(value) for value in weights]
    except TypeError:
        raise TypeError(
            message("weighted", f"nodes={nodes!r}, weights={weights!r}", "sequences of numbers")
        ) from None
    ids = node_ids("weighted", listed)
    if len(ids) != len(listed):
        raise NodeError(message("weighted", f"nodes={listed!r}", "each node once"))
    if len(values) != len(listed):
        what = f"{len(values)} weights for {len(listed)} nodes"
        raise ValueError(message("weighted", what, "a weight for each node"))
    if not any(values):
        raise ValueError(message("weighted", f"weights={values!r}", "at least one above 0"))
    parts = {int(node): part for node, part in zip(listed, _parts(values), strict=True) if part}
    used = tuple(sorted(parts))
    return Policy(
        "weighted", used, strict=strict, populate=populate, weights=tuple(parts[node] for node in used)
    )


def _weight(value: SupportsFloat) -> float:
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise TypeError
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(message("weighted", f"weight {value!r}", "a number from 0 up"))
    return number


def _parts(values: list[float]) -> list[int]:
    """Whole numbers up to 255 in the proportion of these, as small as can be; 0 for 0 alone."""
    most = max(values)
    if most > _WEIGHT_MAX or not all(value.is_integer() for value in values):
        values = [_WEIGHT_MAX * (value / most) for value in values]
    whole = [max(1, round(value)) if value else 0 for value in values]
    divisor = math.gcd(*whole)
    return [part // divisor for part in whole]


def as_policy(call: str, policy: Policy | str) -> Policy:
    """Return a policy, given one or the name of one that needs no node."""
    if isinstance(policy, Policy):
        return policy
    names = tuple(name for name in KINDS if name != "on_node")
    if isinstance(policy, str) and policy in names:
        return Policy(policy)
    error = ValueError if isinstance(policy, str) else TypeError
    limit = f"{', '.join(map(repr, names))} or a Policy: hpcalloc.local(), on_node(n), interleave(), ..."
    raise error(message(call, f"policy={policy!r}", limit))
