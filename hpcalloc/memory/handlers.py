# SPDX-License-Identifier: BSD-3-Clause
"""Policies as NumPy data handlers: which nodes, weights and stripes a policy means on this machine."""

from __future__ import annotations

import functools
import math
import os

from .. import _native
from .._native import _handler
from ..exceptions import NodeError, message
from ..policy import Policy

__all__ = ["handler_of", "kind_nodes", "make_handler", "stripe_of", "weights_of"]

_KINDS = {
    "local": _handler.LOCAL,
    "on_node": _handler.ON_NODE,
    "interleave": _handler.INTERLEAVE,
    "blocked": _handler.BLOCKED,
    "weighted": _native.lib.NUMALLOC_WEIGHTED,
    **_native.MEMORY_KINDS,
}
_PIECES_MAX = 8192  # policy ranges of one array that the allocator accepts
_PAGE = os.sysconf("SC_PAGE_SIZE")


def handler_of(policy: Policy) -> object:
    """Return the data handler of a policy; of a blocked one that for arrays which are split once.

    Raises
    ------
    NodeError
        A node that this process may not use; a kind of memory, or bandwidths to weigh by, that the machine does not tell.
    """
    try:
        return policy.__dict__["_handler"]  # kept with the value: hashing it would cost more than an array
    except KeyError:
        return policy.__dict__.setdefault("_handler", make_handler(policy, 0))


@functools.lru_cache(maxsize=256)
def make_handler(policy: Policy, stripe: int) -> object:
    """Make the data handler of a policy; `stripe` in bytes, for blocked ones that split rows."""
    allowed = _native.node_ids() if policy.nodes else ()
    for node in policy.nodes:
        if node not in allowed:
            raise NodeError(
                f"hpcalloc: node {node} of policy {policy}; limit: this process may use nodes "
                f"{', '.join(map(str, allowed))}"
            )
    nodes = None  # all allowed
    if policy.kind in _native.MEMORY_KINDS:
        kind_nodes("hpcalloc", policy)
    elif policy.kind == "weighted":
        weights_of("hpcalloc", policy)
        nodes = policy.nodes or None
    elif policy.kind in ("interleave", "blocked"):
        nodes = policy.nodes or _native.spread_nodes()
        if not policy.nodes and nodes == _native.node_ids():
            nodes = None
    return _handler.make_handler(
        f"hpcalloc {policy}"[:120],
        _KINDS[policy.kind],
        policy.nodes[0] if policy.kind == "on_node" else 0,
        nodes,
        stripe,
        (_handler.STRICT if policy.strict else 0) | (_handler.POPULATE if policy.populate else 0),
        bytes(policy.weights),
    )


def kind_nodes(call: str, policy: Policy) -> tuple[tuple[int, ...], int]:
    """Return the nodes of a policy's kind of memory, and of these the nearest to the calling thread.

    Raises
    ------
    NodeError
        The machine does not tell which nodes are of the kind.
    """
    nodes, nearest = _native.kind_nodes(policy.kind)
    if not nodes:
        what = f"policy {policy}: the kernel tells neither the {policy.kind} of each node nor memory tiers"
        raise NodeError(message(call, what, _native.kind_text(), "name nodes: on_node(n), interleave(nodes)"))
    return nodes, nearest


def weights_of(call: str, policy: Policy) -> tuple[int, ...]:
    """Return the weights of a weighted policy, of its nodes or of all allowed ones.

    Raises
    ------
    NodeError
        None are named, and the machine does not tell the bandwidth of each node.
    """
    if policy.weights:
        return policy.weights
    weights = _native.weights(policy.nodes or _native.node_ids())
    if isinstance(weights, int):
        what = f"policy {policy}: the kernel does not tell the bandwidth of each node"
        raise NodeError(message(call, what, _native.kind_text(), "name weights: weighted(nodes, weights)"))
    return weights


def stripe_of(call: str, policy: Policy, shape: tuple[int, ...], itemsize: int, order: str) -> int:
    """Compute the bytes after which the split along the policy's axis repeats, 0 for never."""
    if not shape or min(shape) <= 0:
        return 0
    axis = policy.axis + len(shape) if policy.axis < 0 else policy.axis
    if not 0 <= axis < len(shape):
        raise ValueError(
            f"{call}: policy {policy} for shape={shape}; limit: axis from {-len(shape)} to {len(shape) - 1}"
        )
    outer, inner = (shape[:axis], shape[axis:]) if order == "C" else (shape[axis + 1 :], shape[: axis + 1])
    nodes = len(policy.nodes or _native.spread_nodes())
    if nodes == 1 or math.prod(outer) == 1:
        return 0
    stripe = math.prod(inner) * itemsize
    remedy = f"remedy: blocked(axis={0 if order == 'C' else len(shape) - 1}) or interleave()"
    if stripe < nodes * _PAGE:
        raise ValueError(
            f"{call}: policy {policy} for shape={shape} splits every {stripe} bytes over {nodes} nodes; "
            f"limit: a page ({_PAGE} bytes) for each node; {remedy}"
        )
    parts = math.prod(outer) * nodes
    if parts > _PIECES_MAX:
        raise ValueError(
            f"{call}: policy {policy} for shape={shape} makes {parts} parts; limit: {_PIECES_MAX}; {remedy}"
        )
    return stripe
