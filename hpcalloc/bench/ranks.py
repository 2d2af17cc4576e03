# SPDX-License-Identifier: BSD-3-Clause
"""Bandwidth under MPI: all ranks at once, each on arrays that are local, deliberately remote, interleaved and unplaced.

The first three are hpcalloc's arrays, used by the threads and CPUs of the rank's plan. "Unplaced" is what a program
gets that does nothing: NumPy's arrays, and threads anywhere on the CPUs that the launcher gave. Every iteration begins
at a barrier of all ranks, and the placements take turns within each repetition.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .. import _native
from ..bind.agreement import Ranks
from ..context import Context, init
from ..exceptions import HpcallocError, message
from ..memory.placement import placement
from ..policy import Policy, interleave, on_node
from . import kernels, machine
from .bandwidth import DROPPED, ONE_NODE, Options, choose_stores, describe
from .kernels import BYTES_PER_ELEMENT, COUNTING, KERNELS, Arrays, Team
from .sizes import array_bytes, check_room

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["measure", "steps"]

CALL = "bench bandwidth"


def remote_node(context: Context) -> int | None:
    """A node as far from the rank's as there is; ranks of one node are dealt over equally far ones."""
    home = context.nodes[0]
    others = [node for node in _native.node_ids() if node not in context.nodes]
    if not others:
        return None
    farthest = max(context.topology.distance(home, node) for node in others)
    far = [node for node in others if context.topology.distance(home, node) == farthest]
    return far[context.local_rank % len(far)]


def steps(options: Options) -> int:
    """Most steps of `measure`, for a progress bar."""
    return 4 * options.repeats


def measure(
    comm: MPI.Intracomm, options: Options, advance: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure on all ranks of `comm` at once; collective.

    Returns
    -------
    dict
        On rank 0: ``ranks`` (each rank's host, nodes, CPUs, and for each placement and kernel GB/s, verification and
        pages) and ``sums`` (for each placement and kernel all ranks' bytes over the slowest rank's time); on the
        others empty.

    Raises
    ------
    HpcallocError
        On all ranks, when any has one.
    """
    launched = tuple(sorted(os.sched_getaffinity(0)))
    with init(comm) as context:
        ranks = context._state.ranks
        error: Exception | None = None
        sets: dict[str, tuple[Arrays, Team, tuple[int, ...]]] = {}
        stores: dict[str, Any] = {}
        policies: dict[str, Policy | None] = {}
        mine: dict[str, Any] = {}
        nbytes = 0
        try:
            nbytes = _array_bytes(context, options)
            policies = _policies(context)
        except Exception as bad:
            error = bad
        ranks.meet(CALL, error)
        nbytes = max(ranks.allgather(CALL, nbytes))  # hosts may differ
        # Those that all ranks have: on another host there may be one node.
        common = set(policies).intersection(*ranks.allgather(CALL, list(policies)))
        policies = {name: policy for name, policy in policies.items() if name in common}
        try:
            sets = _make(context, policies, nbytes // 8, launched)
            own, team, _ = sets["local"]
            stores = choose_stores(options, own, {"rank": team})["rank"]
        except Exception as bad:
            error = bad
        ranks.meet(CALL, error)
        # A rank whose neighbours write differently would measure something else.
        for choice in stores.values():
            votes = ranks.allgather(CALL, choice["use"])
            choice["use"] = max(sorted(set(votes)), key=votes.count)
        figures = _run(comm, ranks, options, sets, stores, advance)
        try:
            mine = _account(context, sets, figures, nbytes)
        except Exception as bad:
            error = bad
        ranks.meet(CALL, error)
        everyone = ranks.gather(CALL, mine) or []
        remarks = _remarks(options, context, sets)
        facts = machine.facts(context.cpus)
        del sets
    if comm.Get_rank() != 0:
        return {}
    return {
        "benchmark": "bandwidth of ranks",
        "machine": facts,
        "counting": COUNTING,
        "array_bytes": nbytes,
        "small": options.small,
        "iterations": options.iterations,
        "repeats": options.repeats,
        "stores": stores,
        "ranks": [{k: v for k, v in rank.items() if k != "seconds"} for rank in everyone],
        "sums": _sums(everyone, nbytes),
        "remarks": remarks,
        "good": all(
            cell["result_verified"] and one["placed"] is not False
            for rank in everyone
            for one in rank["placements"].values()
            for cell in one["kernels"].values()
        ),
    }


def _array_bytes(context: Context, options: Options) -> int:
    if kernels.openmp_version() == 0 and context.threads > 1:
        raise HpcallocError(
            message(
                "bench bandwidth",
                f"{context.threads} threads",
                "1: the kernels were built without OpenMP",
                "install OpenMP for the C compiler and reinstall hpcalloc, or OMP_NUM_THREADS=1",
            )
        )
    everyone = {cpu for share in context.plan.ranks for cpu in share.cpus}
    return array_bytes("bench bandwidth", everyone, options.nbytes, options.small, context.local_size)


def _policies(context: Context) -> dict[str, Policy | None]:
    """What each placement is on this rank; None is NumPy's."""
    nodes = context.nodes
    out: dict[str, Policy | None] = {"local": on_node(nodes[0]) if len(nodes) == 1 else interleave(nodes)}
    far = remote_node(context)
    if far is not None:
        out["remote"] = on_node(far)
    if len(_native.node_ids()) > 1:
        out["interleaved"] = interleave()
    out["unplaced"] = None
    return out


def _make(
    context: Context, policies: dict[str, Policy | None], elements: int, launched: Sequence[int]
) -> dict[str, tuple[Arrays, Team, tuple[int, ...]]]:
    """Arrays, team, and the nodes on which the pages must be (none: anywhere), by placement."""
    nodes = _native.node_ids()
    everyone = 3 * len(policies) * elements * 8 * context.local_size
    check_room("bench bandwidth", everyone // len(nodes), nodes, len(nodes))
    planned = Team(context.cpus, context.threads)
    adrift = Team(tuple(launched), context.threads, pinned=False)
    out = {}
    for name, policy in policies.items():
        team = planned if policy is not None else adrift
        out[name] = (Arrays.make(elements, team, policy), team, policy.nodes if policy is not None else ())
    if out.get("interleaved") is not None:
        arrays, team, _ = out["interleaved"]
        out["interleaved"] = (arrays, team, _native.node_ids())
    return out


def _run(
    comm: MPI.Intracomm,
    ranks: Ranks,
    options: Options,
    sets: dict[str, tuple[Arrays, Team, tuple[int, ...]]],
    stores: dict[str, Any],
    advance: Callable[[str], None],
) -> dict[tuple[str, str], tuple[list[float], bool]]:
    """Seconds of the counted iterations, and whether the results were right, by placement and kernel."""
    out: dict[tuple[str, str], tuple[list[float], bool]] = {
        (name, kernel): ([], True) for name in sets for kernel in KERNELS
    }
    order = list(sets)
    error: Exception | None = None
    for repeat in range(options.repeats):
        for name in order[repeat % len(order) :] + order[: repeat % len(order)]:
            arrays, team, _ = sets[name]
            for kernel in KERNELS:
                streaming = kernel in stores and stores[kernel]["use"] == "streaming"
                seconds, right = out[name, kernel]
                verified = False
                try:
                    arrays.poison(team)
                except Exception as bad:
                    error = bad
                for k in range(DROPPED + options.iterations):
                    comm.Barrier()
                    try:
                        (taken,), good = arrays.time(kernel, team, 1, streaming=streaming)
                    except Exception as bad:  # the others wait at barriers: they are told at the end
                        error, taken, good = bad, 1.0, False
                    if k >= DROPPED:
                        seconds.append(taken)
                    right = right and good
                try:
                    verified = arrays.right(kernel)
                except Exception as bad:
                    error = bad
                out[name, kernel] = (seconds, right and verified)
            advance(f"{name} memory")
    ranks.meet(CALL, error)
    return out


def _account(
    context: Context,
    sets: dict[str, tuple[Arrays, Team, tuple[int, ...]]],
    figures: dict[tuple[str, str], tuple[list[float], bool]],
    nbytes: int,
) -> dict[str, Any]:
    """What this rank tells of itself."""
    placements = {}
    for name, (arrays, team, nodes) in sets.items():
        local = nodes or _native.node_ids()
        where = describe([placement(a, local_nodes=local) for a in (arrays.a, arrays.b, arrays.c)])
        if not nodes:
            where["placed"] = None  # anywhere is right
        cells = {}
        for kernel in KERNELS:
            seconds, right = figures[name, kernel]
            rate = 1e-9 * BYTES_PER_ELEMENT[kernel] * (nbytes // 8) / statistics.median(seconds)
            cells[kernel] = {"gb_per_s": rate, "result_verified": right}
        placements[name] = {"nodes": list(nodes), "threads": team.threads, **where, "kernels": cells}
    return {
        "rank": context.rank,
        "host": platform.node(),
        "nodes": list(context.nodes),
        "cpus": list(context.cpus),
        "placements": placements,
        "seconds": {f"{name} {kernel}": seconds for (name, kernel), (seconds, _) in figures.items()},
    }


def _sums(everyone: Sequence[dict[str, Any]], nbytes: int) -> dict[str, dict[str, float]]:
    """All ranks' bytes over the slowest rank's time, median over the iterations."""
    out: dict[str, dict[str, float]] = {}
    for name in everyone[0]["placements"]:
        out[name] = {}
        for kernel in KERNELS:
            slowest = [
                max(times)
                for times in zip(*(r["seconds"][f"{name} {kernel}"] for r in everyone), strict=True)
            ]
            counted = BYTES_PER_ELEMENT[kernel] * (nbytes // 8) * len(everyone)
            out[name][kernel] = 1e-9 * counted / statistics.median(slowest)
    return out


def _remarks(options: Options, context: Context, sets: dict[str, Any]) -> list[str]:
    out = [r for r in (machine.remark(),) if r]
    if "remote" not in sets:
        nodes = len(_native.node_ids())
        out.append(
            ONE_NODE if nodes == 1 else "a rank has all nodes of its host: no remote memory to compare with"
        )
    if any(share.shared for share in context.plan.ranks):
        out.append("more threads than cores: ranks take turns, which the sums over ranks do not see")
    if options.small:
        out.append("--small: the arrays fit into caches; these figures are not memory's")
    return out
