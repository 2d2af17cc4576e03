# SPDX-License-Identifier: BSD-3-Clause
"""Discover this machine's topology: the kernel's files, below a root directory that a made-up tree can stand in for."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator

from .parts import Access, Core, Found, Node, homes, parse_ids
from .proc import cgroups, cpu_quota, read_number, read_text

__all__ = ["read_machine"]


def read_machine(base: str) -> Found:
    """The machine whose /sys and /proc lie under `base`."""
    cpu_dir, node_dir = (os.path.join(base, "sys/devices/system", kind) for kind in ("cpu", "node"))
    online = parse_ids(read_text(f"{cpu_dir}/online")) or tuple(range(os.cpu_count() or 1))
    node_ids = parse_ids(read_text(f"{node_dir}/online")) or (0,)
    with_memory = parse_ids(read_text(f"{node_dir}/has_memory")) or node_ids
    nodes, node_of = [], {}
    for node in node_ids:
        cpus = tuple(c for c in parse_ids(read_text(f"{node_dir}/node{node}/cpulist")) if c in online)
        node_of.update(dict.fromkeys(cpus, node))
        total = re.search(r"MemTotal:\s+(\d+) kB", read_text(f"{node_dir}/node{node}/meminfo"))
        nodes.append((node, int(total[1]) * 1024 if total else 0, cpus))
    if len(node_of) < len(online):  # CPUs under no node, or no node directory at all
        packages = {cpu: _package(cpu_dir, cpu) for cpu in online}
        node_of = homes(packages, node_of, node_ids)
        nodes = [(n, m, tuple(c for c in online if node_of[c] == n)) for n, m, _ in nodes]
    distances = []
    for node in node_ids:
        row = read_text(f"{node_dir}/node{node}/distance").split()
        distances += [((node, other), int(d)) for other, d in zip(node_ids, row, strict=False)]
    tiers = _tiers(base)
    cores = _machine_cores(cpu_dir, online, node_of)
    package_of = {pu: core.package for core in cores for pu in core.pus}
    status = read_text(os.path.join(base, "proc/self/status"))
    mems = re.search(r"^Mems_allowed_list:\s*(\S+)", status, re.M)
    allowed_nodes = set(parse_ids(mems[1])) if mems else set(node_ids)
    return Found(
        nodes=tuple(
            Node(n, m, package_of.get(cpus[0], -1) if cpus else -1, cpus, tiers.get(n))
            for n, m, cpus in nodes
        ),
        cores=cores,
        allowed_cpus=frozenset(_cgroup_cpus(base) or online) & frozenset(online) or frozenset(online),
        allowed_nodes=frozenset(allowed_nodes & set(with_memory)) or frozenset(with_memory),
        distances=tuple(distances),
        source="this machine" if base == "/" else base,
        cpu_quota=cpu_quota(base),
        accesses=tuple(_accesses(node_dir, {node for node, _, cpus in nodes if cpus}, node_ids)),
    )


def _tiers(base: str) -> dict[int, int]:
    """Memory tier of each node, by the kernel's number; empty where it has none."""
    folder = os.path.join(base, "sys/devices/virtual/memory_tiering")
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    found = {name: re.fullmatch(r"memory_tier(\d{1,9})", name) for name in names}
    return {
        node: int(match[1])
        for name, match in found.items()
        if match
        for node in parse_ids(read_text(f"{folder}/{name}/nodelist"))
    }


def _accesses(
    node_dir: str, with_cpus: Container[int], nodes: Iterable[int]
) -> Iterator[tuple[tuple[int, int], Access]]:
    """What the kernel knows from the firmware (HMAT, CXL) of the nodes that reach a node's memory best.

    access1 is of CPUs alone (Linux 5.18), access0 also of initiators without CPUs, such as GPUs.
    """
    for node in nodes:
        for which in ("access1", "access0"):
            folder = f"{node_dir}/node{node}/{which}/initiators"
            values = {
                name: [n for way in ("read", "write") if (n := read_number(f"{folder}/{way}_{name}"))]
                for name in ("bandwidth", "latency")
            }
            access = Access(min(values["bandwidth"], default=0), max(values["latency"], default=0))
            if access == Access():
                continue
            names = (re.fullmatch(r"node(\d{1,7})", name) for name in sorted(os.listdir(folder)))
            initiators = [int(match[1]) for match in names if match and int(match[1]) in with_cpus]
            yield from (((initiator, node), access) for initiator in initiators)
            if initiators:
                break


def _cgroup_cpus(base: str) -> tuple[int, ...]:
    """PUs of the process' cpuset cgroup; empty if unknown. The nearest one that has the file decides."""
    for version, directory in cgroups("cpuset", base):
        name = "cpuset.cpus.effective" if version == 2 else "cpuset.effective_cpus"
        if cpus := parse_ids(read_text(os.path.join(directory, name))):
            return cpus
    return ()


def _package(cpu_dir: str, cpu: int) -> int:
    text = read_text(f"{cpu_dir}/cpu{cpu}/topology/physical_package_id").strip()
    return max(int(text), 0) if re.fullmatch(r"-?\d{1,9}", text) else 0


def _machine_cores(cpu_dir: str, online: Iterable[int], node_of: dict[int, int]) -> tuple[Core, ...]:
    found: dict[tuple[int, ...], Core] = {}
    for cpu in online:
        here = f"{cpu_dir}/cpu{cpu}"
        siblings = parse_ids(read_text(f"{here}/topology/thread_siblings_list")) or (cpu,)
        siblings = tuple(s for s in siblings if s in node_of)
        if siblings in found or not siblings:
            continue
        caches = []
        for level in (3, 2):
            for index in range(10):
                cache = f"{here}/cache/index{index}"
                if (
                    read_text(f"{cache}/level").strip() == str(level)
                    and read_text(f"{cache}/type").strip() != "Instruction"
                ):
                    shared = parse_ids(read_text(f"{cache}/shared_cpu_list"))
                    caches.append(shared[0] if shared else cpu)
                    break
        found[siblings] = Core(_package(cpu_dir, cpu), node_of[cpu], siblings, tuple(caches))
    return tuple(sorted(found.values(), key=lambda core: (core.node, core.pus)))
