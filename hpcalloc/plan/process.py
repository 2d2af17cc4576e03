# SPDX-License-Identifier: BSD-3-Clause
"""Decide what ``hpcalloc run`` gives a program before it starts: a pure function of what was found.

A rank does not know how the other ranks of its host were bound, and does not ask them: if one did not start, the
others would wait forever. It finds out which of four cases it is in; its neighbours are in the same:

1. It came unbound.
2. It has the CPUs of its launcher (`taskset`, a cgroup), which all ranks inherited.
3. The launcher bound it by default.
4. The launcher bound it because the user asked for it.

The launcher's own affinity tells case 2 from the others. In cases 1 to 3 every rank plans for all ranks of the host and
comes to the same plan; in case 4 it keeps its binding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..discover.devices import Device, environment_of
from ..discover.kinds import SOURCES, nearest, nodes_of_kind
from ..discover.launcher import Launch
from ..discover.topology import Topology, format_ids
from ..exceptions import NodeError, PlanError, message
from ..policy import MEMORY_KINDS, Policy
from .near import Near, closest, near_of
from .ranks import MOST, LauncherBinding, RankPlan, is_launcher_default, make_plan

__all__ = ["MemoryPolicy", "Situation", "Steps", "Wishes", "bindings_of", "decide", "join_preload"]

# Each falls back to OMP_NUM_THREADS.
POOL_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
PLACE_VARIABLES = ("OMP_PLACES", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_HW_SUBSET")
MARK = "HPCALLOC_RUN"  # its value is the launcher; for hpcalloc.init: this binding is explicit

_ALLOCATORS = re.compile(r"lib(jemalloc|tcmalloc|mimalloc|tbbmalloc|hoard|snmalloc|rpmalloc|asan|tsan|msan)")


@dataclass(frozen=True)
class Situation:
    """What a rank finds before its program starts.

    Attributes
    ----------
    environ : mapping
    launch : Launch
    cpus : frozenset of int
        The affinity it came with.
    launcher_cpus : frozenset of int or None
        Affinity of the process that started it; None: unknown, or no launcher.
    inherited_policy : str
        Memory policy it came with, "default" or "" if none is set.
    library : str
        Path of the preload library.
    obstacle : str
        Why the program would not load it; "": it would.
    devices : tuple of Device
        Of the host, if ranks are to be near some.
    """

    environ: Mapping[str, str]
    launch: Launch
    cpus: frozenset[int]
    launcher_cpus: frozenset[int] | None = None
    inherited_policy: str = ""
    library: str = ""
    obstacle: str = ""
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True)
class Wishes:
    """What the user asks for; `preload` None: if possible."""

    bind: Literal["auto", "force", "off"] = "auto"
    threads: int | Literal["auto"] = "auto"
    smt: bool = False
    policy: Policy = field(default_factory=lambda: Policy("local"))
    preload: bool | None = None
    memory: str | tuple[int, ...] = ()  # a kind of memory, or nodes of which the nearest is to serve first
    near: tuple[str, ...] = ()  # kinds of devices


@dataclass(frozen=True)
class MemoryPolicy:
    """Policy of the process that survives exec, over `nodes`.

    Attributes
    ----------
    kind : str
        "local" with strict: on these nodes alone, the nearest with room first. "on_node", "interleave". "nearest": as the
        former, but others serve when these are full.
    nodes : tuple of int
    strict : bool
    homes : tuple of int
        Of the nodes that the user asked for, those nearest to the rank: their pages count as local.
    """

    kind: str
    nodes: tuple[int, ...]
    strict: bool = False
    homes: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}({format_ids(self.nodes)}{', strict' if self.strict else ''})"


@dataclass(frozen=True)
class Steps:
    """The steps, in this order: pin, set the memory policy, set the environment, exec.

    Attributes
    ----------
    local_rank, local_size : int or None
        None: the launcher does not say.
    share : RankPlan
        Nodes, CPUs and threads.
    pin : tuple of int
        CPUs to pin to; empty: the affinity is right or stays.
    memory : MemoryPolicy or None
        None: the kernel's default, pages are where the pinned threads first touch them, or what is there already.
    environment : dict
        Variables to set.
    kept : dict
        Variables that the user has set already and that stay.
    preload : bool
    reasons : tuple of str
    devices : tuple of mapping
        The devices of its share, each with its distance.
    """

    local_rank: int | None
    local_size: int | None
    launcher: str
    share: RankPlan
    pin: tuple[int, ...]
    memory: MemoryPolicy | None
    environment: dict[str, str]
    kept: dict[str, str]
    preload: bool
    reasons: tuple[str, ...]
    devices: tuple[Mapping[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "launcher": self.launcher,
            "local_rank": self.local_rank,
            "local_size": self.local_size,
            "nodes": list(self.share.nodes),
            "cpus": format_ids(self.share.cpus),
            "threads": self.share.threads,
            "action": self.share.action,
            **({"devices": self.devices} if self.devices else {}),
            "pin": format_ids(self.pin) or None,
            "memory_policy": str(self.memory) if self.memory is not None else None,
            "environment": self.environment,
            "kept": self.kept,
            "preload": self.preload,
            "reasons": list(self.reasons),
        }


# ---- bindings of ranks ---------------------------------------------------------------------------------


def bindings_of(topology: Topology, found: Situation) -> tuple[list[LauncherBinding], str]:
    """Bindings to plan with, and why: one per local rank, or only the rank's own if it keeps that."""
    launch = found.launch
    own = LauncherBinding(found.cpus, launch.launcher, launch.explicit)
    size = launch.local_size
    if launch.launcher == "none":
        return [own], ""
    if launch.local_rank is None or size is None:
        which = "local rank" if launch.local_rank is None else "number of ranks on this host"
        return [
            own._replace(explicit=True)
        ], f"{launch.launcher} does not tell the {which}: the binding is kept"
    usable = {pu for core in topology.usable_cores for pu in core.pus}
    singly = _singly(found)
    if found.cpus >= usable and not singly:
        return [own] * size, ""
    if singly is False:
        return [own._replace(explicit=True)] * size, ""  # all inherited it
    if is_launcher_default(topology, [own] * size):
        return [own._replace(explicit=False)] * size, ""
    return [own._replace(explicit=True)], ""


def _singly(found: Situation) -> bool | None:
    """Did the launcher bind this rank in particular? None: unknown."""
    if found.launch.launcher == "slurm":  # its daemon has CPUs beyond the job's
        kind = found.environ.get("SLURM_CPU_BIND_TYPE", "") or found.environ.get("SLURM_CPU_BIND", "")
        return bool(kind) and "none" not in kind
    if found.launcher_cpus is None:
        return None
    return not found.launcher_cpus <= found.cpus


# ---- deciding ------------------------------------------------------------------------------------------


def decide(topology: Topology, found: Situation, wishes: Wishes) -> Steps:
    """Say what to do for one rank.

    Raises
    ------
    PlanError, NodeError
        Wishes that contradict each other, the machine, or what can be enforced.
    """
    launch = found.launch
    if launch.launcher not in ("none", "slurm") and found.launcher_cpus and wishes.bind != "force":
        # A launcher that binds ranks to CPUs beyond its own, such as a daemon in a Slurm step of one CPU, is no limit.
        inside = topology.allowed_cpus & found.launcher_cpus if found.cpus <= found.launcher_cpus else None
        topology = replace(topology, allowed_cpus=inside or topology.allowed_cpus)
    bindings, note = bindings_of(topology, found)
    if note and wishes.bind == "auto" and found.cpus >= topology.allowed_cpus:
        wishes = replace(
            wishes, bind="off"
        )  # its share of the host is unknown, and there is no binding to size pools by
    if wishes.bind != "auto" and launch.local_rank is not None and launch.local_size is not None:
        bindings = [LauncherBinding(found.cpus, launch.launcher, launch.explicit)] * launch.local_size
    threads, kept_threads = _threads(found.environ, wishes)
    near, seat = _near(topology, found, wishes, bindings, note)
    bindings = (
        bindings if seat is None else bindings[:1] * max(len(bindings), len(near.devices) if near else 0)
    )
    plan = make_plan(
        topology,
        len(bindings),
        threads=threads,
        smt=wishes.smt,
        bind=wishes.bind,
        policy="interleave" if wishes.policy.kind == "interleave" else "local",
        bindings=bindings,
        near=near,
    )
    if seat is None:
        seat = launch.local_rank if launch.local_rank is not None and len(bindings) > 1 else 0
    share = plan.ranks[seat]
    planned = () if note and wishes.bind == "off" else (*plan.reasons, *share.reasons)
    reasons = [*planned, *filter(None, (note, launch.note))]
    pin = () if share.action in ("none", "honour") or set(share.cpus) == found.cpus else share.cpus
    memory = _memory(topology, found, wishes, share, reasons)
    preload = _preload(found, wishes, reasons)
    environment, kept = _environment(found.environ, wishes, share)
    kept |= kept_threads
    of_devices, stay = environment_of(share.devices, found.environ)
    environment |= of_devices
    kept |= stay
    environment[MARK] = launch.launcher
    if preload:
        environment["LD_PRELOAD"] = join_preload(found.environ.get("LD_PRELOAD", ""), found.library)
        if (
            wishes.policy.strict and wishes.policy.kind == "local" and not wishes.memory
        ):  # else the kernel's policy is strict
            environment["NUMALLOC_STRICT"] = "1"
    return Steps(
        launch.local_rank,
        launch.local_size,
        launch.launcher,
        share,
        pin,
        memory,
        environment,
        kept,
        preload,
        tuple(dict.fromkeys(reasons)),
        tuple(share.devices_at(topology)),
    )


# Launchers that give each rank a list of devices of its own; others pass on what the user set for all.
_OWN_DEVICES = ("slurm", "flux", "jsm", "pals")


def _near(
    topology: Topology, found: Situation, wishes: Wishes, bindings: Sequence[LauncherBinding], note: str
) -> tuple[Near | None, int | None]:
    """Devices to be near to; and, if its device decides, which rank of the plan this one is.

    A rank does not know the devices of the others. If a launcher has given this rank a device, the plan is for all
    devices of the host, and this rank takes the place beside its own.
    """
    if not wishes.near:
        return None, None
    launch, count = found.launch, len(bindings)
    if note and launch.local_rank is None:
        remedy = "start the ranks by mpirun or srun, or use init(comm, near=...)"
        raise PlanError(
            message("run", f"--near {','.join(wishes.near)}: {note}", "ranks that are told", remedy)
        )
    local_rank, size = launch.local_rank, launch.local_size or 1
    near = near_of("run", found.devices, wishes.near, [found.environ], size)
    if local_rank is None or size == 1:
        return near, None
    if count == 1:  # its binding stays, and the others' are not known
        some = closest(topology, near.devices, found.cpus)
        mine = near.of_rank[local_rank] if near.of_rank else (some[local_rank % len(some)],)
        return near._replace(of_rank=(mine,)), None
    if len(near.devices) == 1 and near.of_rank and launch.launcher in _OWN_DEVICES:
        own = near.devices[0]
        every = tuple(d for d in found.devices if d.kind == own.kind and d.vendor == own.vendor)
        turns = max(-(-count // len(every)), 1)
        seats = max(count, len(every))
        of_rank = tuple((every[i % len(every)],) for i in range(seats))
        seat = every.index(own) + len(every) * (local_rank % turns)
        return near._replace(devices=every, of_rank=of_rank), seat % seats
    return near, None


def _threads(environ: Mapping[str, str], wishes: Wishes) -> tuple[int | Literal["auto"], dict[str, str]]:
    """Threads to plan with: asked for here, in OMP_NUM_THREADS, or one per core."""
    text = environ.get("OMP_NUM_THREADS", "")
    first = text.split(",")[0].strip()
    if wishes.threads != "auto" or not re.fullmatch("0*[1-9][0-9]*", first):
        return wishes.threads, {}
    if len(first.lstrip("0")) > len(str(MOST)) or int(first) > MOST:
        shown = text if len(text) < 40 else f"{text[:40]}..."
        raise PlanError(message("run", f"OMP_NUM_THREADS={shown}", f"1 to {MOST}", "correct or unset it"))
    return int(first), {"OMP_NUM_THREADS": text}


def _memory(
    topology: Topology, found: Situation, wishes: Wishes, share: RankPlan, reasons: list[str]
) -> MemoryPolicy | None:
    """Return the policy to set; the preloaded allocator follows it, as it does one that is there already."""
    policy = wishes.policy
    named = wishes.memory if isinstance(wishes.memory, tuple) else ()
    unknown = sorted({*policy.nodes, *named} - topology.allowed_nodes)
    if unknown:
        raise NodeError(
            message(
                "run",
                f"--{'memory' if named else 'policy'} names node {format_ids(unknown)}",
                f"nodes {format_ids(topology.allowed_nodes)}",
                "name allowed ones, see `hpcalloc topology`",
            )
        )
    if policy.kind == "blocked":
        raise PlanError(
            message(
                "run",
                "--policy blocked",
                "local, interleave, on_node",
                "a program's arrays have no axis here",
            )
        )
    if wishes.memory:
        return _wanted_memory(topology, wishes, share, reasons)
    spread = policy.kind == "interleave" or (policy.kind == "local" and share.memory == "interleave")
    if policy.strict and spread:
        raise PlanError(
            message(
                "run",
                f"--strict with memory interleaved over nodes {format_ids(policy.nodes or share.nodes)}",
                "one node per rank: the kernel interleaves as long as there is room",
                "--policy on_node:N, or as many ranks as nodes",
            )
        )
    if policy.kind == "on_node":
        return MemoryPolicy("local" if policy.strict else "on_node", policy.nodes, policy.strict)
    if found.inherited_policy not in ("", "default") and policy == Policy("local"):
        reasons.append(f"the memory policy {found.inherited_policy} was there already: kept")
        return None
    if spread:
        return MemoryPolicy("interleave", policy.nodes or share.nodes)
    if policy.strict:
        return MemoryPolicy("local", share.nodes, True)
    node_of = topology.node_of_cpu()
    if {node_of[cpu] for cpu in share.cpus} - set(share.nodes):  # its own has no memory
        return MemoryPolicy("on_node", share.nodes[:1])
    return None


def _wanted_memory(topology: Topology, wishes: Wishes, share: RankPlan, reasons: list[str]) -> MemoryPolicy:
    """Turn a wish for memory into a policy; of several nodes in it, the kernel takes the nearest to each thread."""
    nodes = wishes.memory
    if isinstance(nodes, str):
        nodes, source = nodes_of_kind(f"run --memory {nodes}", topology, nodes)
        reasons.append(f"memory of kind {wishes.memory}: nodes {format_ids(nodes)}, {SOURCES[source]}")
    homes = tuple(dict.fromkeys(nearest(topology, nodes, node) for node in share.nodes))
    strict = wishes.policy.strict
    return MemoryPolicy("local" if strict else "nearest", nodes, strict, homes)


def _preload(found: Situation, wishes: Wishes, reasons: list[str]) -> bool:
    if wishes.preload is False:
        return False
    present = found.environ.get("LD_PRELOAD", "")
    other = _ALLOCATORS.search(present)
    obstacles = []
    if other is not None:
        obstacles.append(f"LD_PRELOAD has {other[0]}, which serves malloc")
    if re.search(r"[\s:]", found.library):
        obstacles.append(f"{found.library!r}: LD_PRELOAD can't hold blanks and colons")
    if found.obstacle:
        obstacles.append(found.obstacle)
    if obstacles and wishes.preload:
        raise PlanError(message("run", "--preload", "; ".join(obstacles), "leave --preload out"))
    reasons += [f"the allocator is not preloaded: {why}" for why in obstacles]
    return not obstacles


def join_preload(present: str, library: str) -> str:
    """Append a library to a value of LD_PRELOAD, which separates by colons or blanks, unless it is there already."""
    words = [word for word in re.split(r"[\s:]+", present) if word]
    return ":".join(words if library in words else [*words, library])


def _environment(
    environ: Mapping[str, str], wishes: Wishes, share: RankPlan
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables to set, and those of the user that stay.

    OMP_PROC_BIND is not set. A runtime that reads it binds the thread that loads the runtime to one place; every
    thread and child process made later inherits that place. The rank's own mask needs no help.
    """
    result: dict[str, str] = {}
    kept: dict[str, str] = {}
    if wishes.threads != "auto":
        result |= dict.fromkeys(("OMP_NUM_THREADS", *POOL_VARIABLES), str(share.threads))
    elif wishes.bind != "off" and not environ.get("OMP_NUM_THREADS"):
        for name in ("OMP_NUM_THREADS", *POOL_VARIABLES):
            if environ.get(name):
                kept[name] = environ[name]
            else:
                result[name] = str(share.threads)
    kept |= {name: environ[name] for name in PLACE_VARIABLES if environ.get(name)}
    return result, kept


def parse_memory(text: str | None) -> str | tuple[int, ...]:
    """Read a kind of memory, or nodes such as ``0,2``; () without a wish.

    Raises
    ------
    PlanError
        Anything else.
    """
    from ..discover.topology import parse_ids

    if text is None or text in MEMORY_KINDS:
        return text or ()
    try:
        nodes = parse_ids(text)
    except ValueError:
        nodes = ()
    if not nodes:
        raise PlanError(
            message("run", f"--memory {text!r}", f"{', '.join(MEMORY_KINDS)}, or nodes such as 0,2")
        )
    return nodes


def parse_policy(text: str, strict: bool) -> Policy:
    """Read ``local``, ``interleave``, ``interleave:0,2-3``, ``on_node:1``.

    Raises
    ------
    PlanError
        Anything else.
    """
    from ..discover.topology import parse_ids

    kind, colon, ids = text.partition(":")
    nodes: Sequence[int] = ()
    good = kind in ("local", "interleave", "on_node") and bool(colon) == bool(ids)
    if good and ids:
        try:
            nodes = parse_ids(ids)
        except ValueError:
            good = False
    good = good and not (kind == "local" and nodes) and not (kind == "on_node" and len(nodes) != 1)
    if not good:
        raise PlanError(
            message(
                "run", f"--policy {text!r}", "local, interleave, interleave:NODES, on_node:NODE", "choose one"
            )
        )
    return Policy(kind, tuple(nodes), strict=strict)
