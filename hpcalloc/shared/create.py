# SPDX-License-Identifier: BSD-3-Clause
"""Making a shared array: ranks agree on the arguments and on the room, then on a window, then place its pages.

Each step ends with a meeting, so that a rank that can't take part makes all ranks raise and none wait.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, SupportsIndex

from .. import _native
from .._native.errors import error_for
from .._text import size_text
from ..bind import mpi
from ..bind.agreement import Ranks
from ..bind.rank import RankState
from ..exceptions import HpcallocError, OutOfMemoryError, message
from ..memory import arrays
from ..memory.paging import cut, with_nodes
from ..memory.placement import range_placement
from .arguments import Arguments, ArrayRequest, cgroup, check, check_room, check_same, shm
from .array import SLOT, Array, SharedArray
from .layout import Blocks, Split, make_blocks
from .mapping import SharedMapping
from .window import Window

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["create"]


def create(
    state: RankState,
    call: str,
    shape: Any,
    dtype: npt.DTypeLike,
    axis: SupportsIndex,
    halo: SupportsIndex,
    split: Split,
) -> SharedArray:
    """Make a shared array for `Context.shared_empty` and `Context.shared_zeros`."""
    with state.ranks.one_call(f"Context.{call}"):
        return _create(state, call, shape, dtype, axis, halo, split)


def _create(
    state: RankState,
    call: str,
    shape: Any,
    dtype: npt.DTypeLike,
    axis: SupportsIndex,
    halo: SupportsIndex,
    split: Split,
) -> SharedArray:
    ranks, host = state.ranks, state.host
    ranks.meet(call)
    state.windows_made += 1
    number = state.windows_made
    arguments: Arguments | None = None
    error: Exception | None = None
    try:
        arguments = check(call, shape, dtype, axis, halo, split)
    except Exception as bad:
        error = bad
    requests = host.allgather(call, ArrayRequest(arguments, cgroup(), _native.room()))
    blocks: Blocks | None = None
    try:
        # Where another rank's arguments are bad, its error will be everybody's.
        if arguments is not None and all(request.arguments for request in requests):
            check_same(call, requests)
            blocks = make_blocks(
                call,
                arguments.shape[arguments.axis],
                arguments.row_bytes,
                len(requests),
                arguments.halo,
                arguments.split,
                _native.page_size(),
            )
            if len(requests) > 1:
                _check_shareable(state, call)
                check_room(call, requests, blocks)
    except Exception as bad:
        error = bad
    ranks.meet(call, error)
    assert arguments is not None
    assert blocks is not None
    # Hosts with one rank take the same steps, as all agree on each.
    locks = -(-blocks.nbytes // SLOT) * SLOT  # where the words of the locks are
    end = locks + SLOT * blocks.ranks
    window = _make_window(state, call, number, blocks, end)
    if window is not None:
        state.windows.append(window)
    mapping: SharedMapping | None = None
    stored: Array | None = None
    try:
        if window is None:
            stored = _alone(state, call, arguments)
        else:
            window.locate(call, blocks)
            mapping = _map(call, window, end)
            _place(state, call, mapping, blocks)
    except Exception as bad:
        error = bad
    try:
        ranks.meet(call, error)
    except Exception:
        if mapping is not None:
            mapping.discard()  # the exception's frames would keep the memory
        if window is not None:
            state.windows.remove(window)
            window.abandon() if ranks.broken else window.free()
        raise
    if window is not None:
        assert mapping is not None
        stored = mapping.array(arguments.stored, arguments.dtype)
    assert stored is not None
    return SharedArray(state, arguments, blocks, stored, window)


def _check_shareable(state: RankState, call: str) -> None:
    if state.mpi_misses:
        raise HpcallocError(
            message(
                call,
                f"{state.local_size} ranks of this host that MPI takes for ranks of several",
                "shared memory between ranks that MPI_COMM_TYPE_SHARED puts together",
                "start them with mpirun inside the allocation, or with an MPI library that fits srun's --mpi",
            )
        )


def _make_window(state: RankState, call: str, number: int, blocks: Blocks, end: int) -> Window | None:
    """Make the window of `end` bytes in all; None where the host has one rank."""
    window: Window | None = None
    ranks: Ranks | None = None
    error: Exception | None = None
    try:
        if blocks.ranks > 1:
            ranks = state.host.duplicate(call)
            window = Window(call, state.host, ranks, number, blocks, end - blocks.nbytes)
    except Exception as bad:
        error = bad
    try:
        state.ranks.meet(call, error)
    except Exception:
        # Freeing is collective, so on a host where a rank has none the others keep theirs.
        if blocks.ranks > 1 and not state.ranks.broken:
            all_have_one = all(state.host.allgather(call, window is not None))
            if window is not None:
                window.free() if all_have_one else window.abandon()
            if ranks is not None and not all_have_one:
                mpi.free(ranks.comm)
        raise
    return window


def _alone(state: RankState, call: str, arguments: Arguments) -> Array:
    """One rank on the host: an array of its own will do."""
    policy = replace(state.policy, axis=0, populate=True)
    try:
        return arrays.zeros(arguments.stored, arguments.dtype, policy=policy)
    except OutOfMemoryError as error:
        raise OutOfMemoryError(f"{call}: {error}") from None


def _map(call: str, window: Window, end: int) -> SharedMapping:
    return SharedMapping(call, window.origin, end)


def _place(state: RankState, call: str, mapping: SharedMapping, blocks: Blocks) -> None:
    """Give this rank's pages their policy, then memory."""
    rank = state.local_rank
    offset, length = blocks.own_pages(rank)
    start = mapping.address + offset
    mapping.own = (start, length)
    behind = blocks.pages[-1] * blocks.page  # where the locks are, if they did not fit into the last page
    tail = mapping.nbytes - behind if rank == blocks.ranks - 1 else 0
    home = state.policy
    if home.kind == "local":
        home = replace(home, kind="on_node", nodes=state.nodes[:1])
    home = with_nodes(call, home)
    what = f"{size_text(length)} of local rank {rank} on {home}"
    for at, size, nodes in cut(home, start, length, blocks.page):
        code = _native.bind_range(at, size, nodes) if _native.can_bind() == 0 else 0
        if code != 0:
            raise error_for(code, call, what, "what the kernel lets this process do")
    code = _native.prefault(start, length) or _native.prefault(mapping.address + behind, max(0, tail))
    if code != 0:
        directory, free, _ = shm()
        limit = f"{directory} has {size_text(free)} free, {_native.describe_nodes(home.nodes)}"
        raise error_for(code, call, what, limit)
    if home.strict and length:
        where = range_placement(start, length, home.nodes)
        if where.local_fraction != 1.0:
            limit = _native.describe_nodes(home.nodes)
            raise OutOfMemoryError(
                message(call, f"{what}: {where}", limit, "drop strict=True: other nodes serve then")
            )
