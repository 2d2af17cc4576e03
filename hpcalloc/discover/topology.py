# SPDX-License-Identifier: BSD-3-Clause
"""Discover: packages, NUMA nodes, cores, caches and distances, as one frozen value.

Read from this machine's sysfs, from an hwloc 2 XML file, or from a synthetic description. hwloc itself is never
loaded: it clashes with MPI libraries that bring their own.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ..exceptions import TopologyError, message
from .proc import cgroups, cpu_quota, read_text

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

__all__ = ["Core", "Node", "Topology", "format_ids", "ids_text", "parse_ids"]


_ID_MAX = 1 << 20  # more than a kernel has CPUs or nodes


def parse_ids(text: str) -> tuple[int, ...]:
    """Ids of a kernel list such as ``0-3,8``, ascending.

    Raises
    ------
    TopologyError
        Anything else, such as ``3-0`` and ids beyond any kernel's.
    """
    ids: set[int] = set()
    for part in text.strip().split(","):
        if not part:
            continue
        match = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= _ID_MAX:
            raise TopologyError(message("parse_ids", repr(text), "a list such as 0-3,8", "correct the list"))
        ids.update(range(first, last + 1))
    return tuple(sorted(ids))


def format_ids(ids: Iterable[int]) -> str:
    """Ids as a kernel list: ``(0, 1, 2, 8)`` gives ``0-2,8``."""
    parts: list[str] = []
    ordered = sorted(ids)
    start = 0
    for i, value in enumerate(ordered):
        if i + 1 == len(ordered) or ordered[i + 1] != value + 1:
            parts.append(f"{ordered[start]}-{value}" if i > start else str(value))
            start = i + 1
    return ",".join(parts)


def ids_text(ids: Iterable[int]) -> str:
    """Ids for people to read: as `format_ids`, but ``0-30:2`` for three or more in equal steps above 1."""
    ordered = sorted(ids)
    step = ordered[1] - ordered[0] if len(ordered) > 2 else 1
    if step > 1 and all(b - a == step for a, b in itertools.pairwise(ordered)):
        return f"{ordered[0]}-{ordered[-1]}:{step}"
    return format_ids(ordered)


class Core(NamedTuple):
    """A physical core.

    Attributes
    ----------
    package, node : int
        Ids of the package and of the NUMA node it is local to.
    pus : tuple of int
        OS indexes of its hardware threads, the primary one first.
    caches : tuple of int
        Ids of the caches it shares with others, outermost first: equal ids mean the same cache.
    """

    package: int
    node: int
    pus: tuple[int, ...]
    caches: tuple[int, ...] = ()


class Node(NamedTuple):
    """A NUMA node; `cpus` is empty for memory-only ones (CXL, HBM). Memory in bytes, 0 if unknown."""

    id: int
    memory_bytes: int
    package: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """What a machine offers and which part of it this process may use.

    Attributes
    ----------
    nodes, cores : tuple
        Ascending by node id, and by node and first PU.
    allowed_cpus : frozenset of int
        PUs the cgroup allows. A narrower affinity, a launcher's say, is not part of the topology.
    allowed_nodes : frozenset of int
        Nodes the cgroup allows memory on.
    distances : tuple
        ((from, to), SLIT distance) pairs; 10 is local.
    source : str
        Where it was read from.
    cpu_quota : float or None
        CPUs' worth of time that the cgroup grants; None: any number.
    """

    nodes: tuple[Node, ...]
    cores: tuple[Core, ...]
    allowed_cpus: frozenset[int]
    allowed_nodes: frozenset[int]
    distances: tuple[tuple[tuple[int, int], int], ...] = ()
    source: str = "synthetic"
    cpu_quota: float | None = None
    _distance: dict[tuple[int, int], int] = field(default_factory=dict, compare=False, repr=False, hash=False)

    def __post_init__(self) -> None:
        if not self.nodes or not self.cores:
            raise TopologyError(
                message(
                    "Topology",
                    f"{self.source} has {len(self.nodes)} nodes and {len(self.cores)} cores",
                    "at least one of each",
                    "check the source",
                )
            )
        self._distance.update(self.distances)

    @property
    def packages(self) -> tuple[int, ...]:
        """Ids of the packages that have cores, ascending."""
        return tuple(sorted({core.package for core in self.cores}))

    @property
    def usable_cores(self) -> tuple[Core, ...]:
        """Cores cut to their allowed PUs; cores without one are left out."""
        cut = (
            Core(c.package, c.node, tuple(p for p in c.pus if p in self.allowed_cpus), c.caches)
            for c in self.cores
        )
        return tuple(core for core in cut if core.pus)

    def distance(self, a: int, b: int) -> int:
        """SLIT distance from node `a` to node `b`; 10 and 20 where the machine does not say."""
        return self._distance.get((a, b), 10 if a == b else 20)

    def node_of_cpu(self) -> dict[int, int]:
        """PU to node id."""
        return {pu: core.node for core in self.cores for pu in core.pus}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        cores = Counter(core.node for core in self.cores)
        return {
            "source": self.source,
            "packages": len(self.packages),
            "nodes": [
                {
                    "id": n.id,
                    "package": n.package,
                    "memory_bytes": n.memory_bytes,
                    "cpus": format_ids(n.cpus),
                    "cores": cores[n.id],
                    "allowed": n.id in self.allowed_nodes,
                    "distances": {str(m.id): self.distance(n.id, m.id) for m in self.nodes},
                }
                for n in self.nodes
            ],
            "cores": len(self.cores),
            "pus": sum(len(c.pus) for c in self.cores),
            "allowed_cpus": format_ids(self.allowed_cpus),
            "allowed_nodes": format_ids(self.allowed_nodes),
        }

    @classmethod
    def from_source(cls, text: str) -> Topology:
        """An XML file if one of that name exists, a synthetic description otherwise."""
        if os.path.isfile(text):
            return cls.from_hwloc_xml(text)
        if text.endswith(".xml") or "/" in text:
            raise TopologyError(
                message(
                    "Topology",
                    f"{text!r}: {'a directory' if os.path.isdir(text) else 'no such file'}",
                    "an hwloc XML file or a synthetic description such as 'pack:2 [numa] core:4 pu:2'",
                    "check the name",
                )
            )
        return cls.from_synthetic(text)

    # ---- this machine ---------------------------------------------------------------------------------

    @classmethod
    def from_machine(cls, root: str | os.PathLike[str] = "/") -> Topology:
        """The machine whose /sys and /proc lie under `root`."""
        base = os.fspath(root)
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
            node_of = _homes(packages, node_of, node_ids)
            nodes = [(n, m, tuple(c for c in online if node_of[c] == n)) for n, m, _ in nodes]
        distances = []
        for node in node_ids:
            row = read_text(f"{node_dir}/node{node}/distance").split()
            distances += [((node, other), int(d)) for other, d in zip(node_ids, row, strict=False)]
        cores = _machine_cores(cpu_dir, online, node_of)
        package_of = {pu: core.package for core in cores for pu in core.pus}
        status = read_text(os.path.join(base, "proc/self/status"))
        mems = re.search(r"^Mems_allowed_list:\s*(\S+)", status, re.M)
        allowed_nodes = set(parse_ids(mems[1])) if mems else set(node_ids)
        return cls(
            nodes=tuple(
                Node(n, m, package_of.get(cpus[0], -1) if cpus else -1, cpus) for n, m, cpus in nodes
            ),
            cores=cores,
            allowed_cpus=frozenset(_cgroup_cpus(base) or online) & frozenset(online) or frozenset(online),
            allowed_nodes=frozenset(allowed_nodes & set(with_memory)) or frozenset(with_memory),
            distances=tuple(distances),
            source="this machine" if str(root) == "/" else str(root),
            cpu_quota=cpu_quota(base),
        )

    # ---- hwloc XML ------------------------------------------------------------------------------------

    @classmethod
    def from_hwloc_xml(cls, path: str | os.PathLike[str]) -> Topology:
        """A topology that ``lstopo --of xml`` of hwloc 2 wrote."""
        import xml.etree.ElementTree as ET  # takes a while to import

        try:
            with open(path, "rb") as file:
                text = file.read(_BYTES_MAX + 1)
            if len(text) > _BYTES_MAX:
                raise _BadError(f"it has more than {_BYTES_MAX >> 20} MiB")
            tree = ET.fromstring(text)
            top = tree.find("object")
            if tree.tag != "topology" or top is None or tree.get("version", "1").startswith("1"):
                raise _BadError("it is no hwloc 2 topology")
            return _Walk(tree, top).topology(str(path))
        except (
            OSError,
            SyntaxError,
            LookupError,
            _BadError,
            ValueError,
        ) as error:  # of the file, the parser, its codecs
            if isinstance(error, TopologyError):
                raise
            raise TopologyError(
                message(
                    "Topology.from_hwloc_xml",
                    f"{os.fspath(path)!r}: {error}",
                    "XML of hwloc 2",
                    "write one with `lstopo --of xml`",
                )
            ) from None

    # ---- synthetic ------------------------------------------------------------------------------------

    @classmethod
    def from_synthetic(cls, text: str) -> Topology:
        """A regular machine in hwloc's synthetic notation.

        Parameters
        ----------
        text : str
            Levels from the outside in, ``type:count``: pack, group, numa, l3, l2, core, pu. ``[numa]`` attaches one
            node to each object of the level before it; ``(memory=16GB)`` behind a numa sets its size.
        """
        return _synthetic(text)


# ---- helpers: this machine ------------------------------------------------------------------------------


def _cgroup_cpus(base: str) -> tuple[int, ...]:
    """PUs of the process' cpuset cgroup; empty if unknown. The nearest one that has the file decides."""
    for version, directory in cgroups("cpuset", base):
        name = "cpuset.cpus.effective" if version == 2 else "cpuset.effective_cpus"
        if cpus := parse_ids(read_text(os.path.join(directory, name))):
            return cpus
    return ()


def _homes(packages: dict[int, int], node_of: dict[int, int], nodes: Iterable[int]) -> dict[int, int]:
    """Node of each CPU; one that is under no node gets the first of its package, or else the machine's first."""
    first: dict[int, int] = {}
    for cpu, node in node_of.items():
        first[packages[cpu]] = min(node, first.get(packages[cpu], node))
    default = min(first.values(), default=min(nodes, default=0))
    return {cpu: node_of.get(cpu, first.get(package, default)) for cpu, package in packages.items()}


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


# ---- helpers: hwloc XML ---------------------------------------------------------------------------------


_BYTES_MAX = 64 << 20  # of a file
_DEPTH_MAX = 64  # of objects in objects
_DISTANCES_MAX = 1 << 10  # nodes


class _BadError(ValueError):
    """What is wrong with a file."""


def _bitmap(item: ET.Element, *names: str) -> frozenset[int]:
    """Set bits of the first such attribute, in hwloc's ``0x...,0x...`` (32-bit words, most significant first)."""
    text = next((text for name in names if (text := item.get(name))), "")
    words = text.split(",") if text else []
    if len(words) > _ID_MAX // 32 or not all(re.fullmatch("(0x)?[0-9a-fA-F]{0,8}", w) for w in words):
        raise _BadError(f"{names[-1]}={_cut(text)} of a {_cut(item.get('type'))}")
    bits: set[int] = set()
    for place, word in enumerate(reversed(words)):
        value = int(word.removeprefix("0x") or "0", 16)
        bits.update(32 * place + bit for bit in range(value.bit_length()) if value >> bit & 1)
    return frozenset(bits)


def _whole(text: str, what: str, most: int = _ID_MAX) -> int:
    """Read a number from 0 to `most`."""
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) > most:
        raise _BadError(f"{what} is {_cut(text)}, not a number from 0 to {most}")
    return int(text)


def _index(item: ET.Element) -> int:
    return _whole(item.get("os_index", "0"), f"os_index of a {_cut(item.get('type'))}")


def _cut(text: str | None) -> str:
    return repr(text) if text is None or len(text) <= 40 else f"{text[:40]!r}..."


class _Walk:
    """Collects nodes and cores of an hwloc tree."""

    def __init__(self, tree: ET.Element, top: ET.Element) -> None:
        self.nodes: dict[int, tuple[int, frozenset[int], int]] = {}
        self.cores: list[tuple[int, tuple[int, ...], tuple[int, ...], frozenset[int]]] = []
        self.tree = tree
        self.allowed_cpus = _bitmap(top, "allowed_cpuset", "cpuset")
        self.allowed_nodes = _bitmap(top, "allowed_nodeset", "nodeset")
        self._visit(top, -1, (), 0)

    def _visit(self, item: ET.Element, package: int, caches: tuple[int, ...], depth: int) -> None:
        if depth > _DEPTH_MAX:
            raise _BadError(f"objects are nested more than {_DEPTH_MAX} deep")
        kind = item.get("type", "")
        if kind == "Package":
            package = _index(item)
        elif kind in ("L3Cache", "L2Cache"):
            caches = (*caches, min(_bitmap(item, "cpuset"), default=0))
        elif kind == "NUMANode":
            memory = _whole(item.get("local_memory", "0"), "local_memory of a NUMANode", 1 << 60)
            self.nodes[_index(item)] = (memory, _bitmap(item, "cpuset"), package)
        elif kind in ("Core", "PU"):  # a PU may be without a core
            pus = [_index(p) for p in item.iter("object") if p.get("type") == "PU"]
            if not pus:
                raise _BadError(f"Core {_index(item)} has no PU")
            self.cores.append((max(package, 0), tuple(pus), caches, _bitmap(item, "nodeset")))
            return
        for child in item.findall("object"):
            self._visit(child, package, caches, depth + 1)

    def topology(self, source: str) -> Topology:
        owner: dict[int, int] = {}
        # A PU belongs to the smallest node around it; of equally large ones the first has it, the others (HBM
        # beside DRAM) are memory-only.
        homes = sorted(self.nodes.items(), key=lambda entry: (len(entry[1][1]), entry[0]))
        taken: set[frozenset[int]] = set()
        for node, (_, cpus, _) in homes:
            if cpus in taken:
                continue
            taken.add(cpus)
            for cpu in cpus:
                owner.setdefault(cpu, node)
        packages = {pus[0]: package for package, pus, _, _ in self.cores}
        home = _homes(packages, {pu: owner[pu] for pu in packages if pu in owner}, self.nodes)
        cores = tuple(
            sorted(
                (Core(package, home[pus[0]], pus, caches) for package, pus, caches, _ in self.cores),
                key=lambda core: (core.node, core.pus),
            )
        )
        cpus_of: dict[int, list[int]] = {}
        for core in cores:
            cpus_of.setdefault(core.node, []).extend(core.pus)
        nodes = tuple(
            Node(n, memory, package, tuple(sorted(cpus_of.get(n, ()))))
            for n, (memory, _, package) in sorted(self.nodes.items())
        )
        return Topology(
            nodes=nodes,
            cores=cores,
            allowed_cpus=self.allowed_cpus,
            allowed_nodes=self.allowed_nodes & frozenset(self.nodes),
            distances=tuple(self._distances()),
            source=source,
        )

    def _distances(self) -> Iterable[tuple[tuple[int, int], int]]:
        for matrix in self.tree.iter("distances2"):
            if matrix.get("type") != "NUMANode":
                continue
            ids, values = (
                [_whole(word, name) for part in matrix.findall(name) for word in (part.text or "").split()]
                for name in ("indexes", "u64values")
            )
            if matrix.get("indexing") != "os" or len(values) != len(ids) ** 2 or len(ids) > _DISTANCES_MAX:
                continue
            for i, a in enumerate(ids):
                for j, b in enumerate(ids):
                    yield (a, b), values[i * len(ids) + j]
            return


# ---- helpers: synthetic ---------------------------------------------------------------------------------

_LEVELS = {
    "pack": "package", "package": "package", "socket": "package", "group": "group", "die": "group",
    "numa": "numa", "node": "numa", "numanode": "numa", "l3": "l3", "l3cache": "l3", "l2": "l2", "l2cache": "l2",
    "core": "core", "pu": "pu",
}  # fmt: skip
_PUS_MAX = 1 << 16
_UNITS = {"": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _memory(text: str, attributes: str | None) -> int:
    if not attributes:
        return 2**30  # hwloc's own default
    match = re.fullmatch(r"memory=(\d{1,12})\s*([A-Za-z]*)", attributes)
    if match is None or match[2].upper() not in _UNITS:
        raise TopologyError(
            message(
                "Topology.from_synthetic",
                f"'({_cut(attributes)})' in {_cut(text)}",
                "(memory=<size>), such as memory=16GB",
                "correct it",
            )
        )
    return int(match[1]) * _UNITS[match[2].upper()]


def _synthetic(text: str) -> Topology:
    pattern = (
        r"\[\s*(?P<attached>[A-Za-z]+)\s*(?:\((?P<am>[^)]*)\))?\s*\]|(?P<kind>[A-Za-z0-9]+):(?P<count>\d+)"
        r"(?:\((?P<m>[^)]*)\))?"
    )
    levels: list[tuple[str, int]] = []  # (kind, count); count 0 for an attached node
    memory = 2**30
    rest = re.sub(pattern, "", text).strip()
    for match in re.finditer(pattern, text):
        if match["attached"]:
            kind, count, attributes = match["attached"].lower(), 0, match["am"]
        else:
            kind, count, attributes = match["kind"].lower(), int(match["count"][:9]), match["m"]
        known = _LEVELS.get(kind)
        if known is None or (count == 0 and known != "numa") or count > 4096:
            raise TopologyError(
                message(
                    "Topology.from_synthetic",
                    f"{_cut(match[0])} in {_cut(text)}",
                    "pack, group, numa, l3, l2, core, pu with counts from 1 to 4096, or [numa]",
                    "correct it",
                )
            )
        if known == "numa":
            memory = _memory(text, attributes)
        levels.append((known, count))
    if rest or not levels:
        raise TopologyError(
            message(
                "Topology.from_synthetic",
                f"{_cut(rest)} in {_cut(text)} is not understood",
                "levels such as 'pack:2 [numa] core:4 pu:2'",
                "correct it",
            )
        )
    if sum(kind == "numa" for kind, _ in levels) > 1:
        raise TopologyError(
            message(
                "Topology.from_synthetic",
                f"{_cut(text)} has several numa levels",
                "one",
                "use an hwloc XML file",
            )
        )
    if len(levels) > _DEPTH_MAX or math.prod(max(count, 1) for _, count in levels) > _PUS_MAX:
        raise TopologyError(
            message(
                "Topology.from_synthetic",
                f"{_cut(text)} has {len(levels)} levels, their counts multiplied beyond any machine",
                f"{_DEPTH_MAX} levels, {_PUS_MAX} PUs",
            )
        )
    return _grow(text, levels, memory)


def _grow(text: str, levels: list[tuple[str, int]], memory: int) -> Topology:
    counters = {"package": 0, "numa": 0, "l3": 0, "l2": 0, "pu": 0}
    cores: list[Core] = []

    def pus(count: int) -> tuple[int, ...]:
        first = counters["pu"]
        counters["pu"] += count
        return tuple(range(first, first + count))

    def descend(depth: int, package: int, node: int, caches: tuple[int, ...]) -> None:
        if depth == len(levels):
            cores.append(Core(max(package, 0), max(node, 0), pus(1), caches))
            return
        kind, count = levels[depth]
        if kind == "numa" and count == 0:
            node = counters["numa"]
            counters["numa"] += 1
            descend(depth + 1, package, node, caches)
            return
        if kind == "core" and depth + 1 < len(levels) and levels[depth + 1][0] == "pu":
            for _ in range(count):
                cores.append(Core(max(package, 0), max(node, 0), pus(levels[depth + 1][1]), caches))
            return
        for _ in range(count):
            if kind == "package":
                package = counters["package"]
                counters["package"] += 1
            elif kind == "numa":
                node = counters["numa"]
                counters["numa"] += 1
            inner = caches
            if kind in ("l3", "l2"):
                inner = (*caches, counters[kind])
                counters[kind] += 1
            descend(depth + 1, package, node, inner)

    descend(0, -1, -1, ())
    cpus: dict[int, list[int]] = {}
    package_of: dict[int, int] = {}
    for core in cores:
        cpus.setdefault(core.node, []).extend(core.pus)
        package_of.setdefault(core.node, core.package)
    nodes = tuple(Node(n, memory, package_of[n], tuple(c)) for n, c in sorted(cpus.items()))
    every = frozenset(pu for core in cores for pu in core.pus)
    return Topology(nodes, tuple(cores), every, frozenset(cpus), source=text)
