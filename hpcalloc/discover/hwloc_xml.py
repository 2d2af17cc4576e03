# SPDX-License-Identifier: BSD-3-Clause
"""A topology in the XML of hwloc 2. Files are not trusted: their cost is bounded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ..exceptions import TopologyError, message
from .parts import ID_MAX, Access, Core, Found, Node, cut, homes

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

__all__ = ["read_xml"]

_BYTES_MAX = 64 << 20  # of a file
_DEPTH_MAX = 64  # of objects in objects
_DISTANCES_MAX = 1 << 10  # nodes


def read_xml(path: str) -> Found:
    """Read a file; TopologyError says what is wrong with it."""
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
        return _Walk(tree, top).topology(path)
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
                f"{path!r}: {error}",
                "XML of hwloc 2",
                "write one with `lstopo --of xml`",
            )
        ) from None


class _BadError(ValueError):
    """What is wrong with a file."""


def _bitmap(item: ET.Element, *names: str) -> frozenset[int]:
    """Set bits of the first such attribute, in hwloc's ``0x...,0x...`` (32-bit words, most significant first)."""
    text = next((text for name in names if (text := item.get(name))), "")
    words = text.split(",") if text else []
    if len(words) > ID_MAX // 32 or not all(re.fullmatch("(0x)?[0-9a-fA-F]{0,8}", w) for w in words):
        raise _BadError(f"{names[-1]}={cut(text)} of a {cut(item.get('type'))}")
    bits: set[int] = set()
    for place, word in enumerate(reversed(words)):
        value = int(word.removeprefix("0x") or "0", 16)
        bits.update(32 * place + bit for bit in range(value.bit_length()) if value >> bit & 1)
    return frozenset(bits)


def _whole(text: str, what: str, most: int = ID_MAX) -> int:
    """Read a number from 0 to `most`."""
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) > most:
        raise _BadError(f"{what} is {cut(text)}, not a number from 0 to {most}")
    return int(text)


def _index(item: ET.Element) -> int:
    return _whole(item.get("os_index", "0"), f"os_index of a {cut(item.get('type'))}")


class _Memory(NamedTuple):
    """A NUMANode; `cpus` are those around it, which other nodes may be around as well."""

    memory_bytes: int
    cpus: frozenset[int]
    package: int
    tier: int | None
    medium: str


class _Walk:
    """Collects nodes and cores of an hwloc tree."""

    def __init__(self, tree: ET.Element, top: ET.Element) -> None:
        self.nodes: dict[int, _Memory] = {}
        self.objects: dict[
            tuple[str, str], ET.Element
        ] = {}  # by type and gp_index, as memory attributes name them
        self.cores: list[tuple[int, tuple[int, ...], tuple[int, ...], frozenset[int]]] = []
        self.tree = tree
        self.allowed_cpus = _bitmap(top, "allowed_cpuset", "cpuset")
        self.allowed_nodes = _bitmap(top, "allowed_nodeset", "nodeset")
        self._visit(top, -1, (), 0)

    def _visit(self, item: ET.Element, package: int, caches: tuple[int, ...], depth: int) -> None:
        if depth > _DEPTH_MAX:
            raise _BadError(f"objects are nested more than {_DEPTH_MAX} deep")
        kind = item.get("type", "")
        self.objects[kind, item.get("gp_index", "")] = item
        if kind == "Package":
            package = _index(item)
        elif kind in ("L3Cache", "L2Cache"):
            caches = (*caches, min(_bitmap(item, "cpuset"), default=0))
        elif kind == "NUMANode":
            memory = _whole(item.get("local_memory", "0"), "local_memory of a NUMANode", 1 << 60)
            tiers = [i.get("value", "") for i in item.findall("info") if i.get("name") == "MemoryTier"]
            tier = _whole(tiers[0], "MemoryTier of a NUMANode") if tiers else None
            medium = re.sub("[^A-Za-z0-9_-]", "?", item.get("subtype", ""))[:20]
            self.nodes[_index(item)] = _Memory(memory, _bitmap(item, "cpuset"), package, tier, medium)
        elif kind in ("Core", "PU"):  # a PU may be without a core
            pus = [_index(p) for p in item.iter("object") if p.get("type") == "PU"]
            if not pus:
                raise _BadError(f"Core {_index(item)} has no PU")
            self.cores.append((max(package, 0), tuple(pus), caches, _bitmap(item, "nodeset")))
            return
        for child in item.findall("object"):
            self._visit(child, package, caches, depth + 1)

    def topology(self, source: str) -> Found:
        owner: dict[int, int] = {}
        # A PU belongs to the smallest node around it; of equally large ones the first has it, the others (HBM
        # beside DRAM) are memory-only.
        taken: set[frozenset[int]] = set()
        for node, memory in sorted(self.nodes.items(), key=lambda entry: (len(entry[1].cpus), entry[0])):
            if memory.cpus in taken:
                continue
            taken.add(memory.cpus)
            for cpu in memory.cpus:
                owner.setdefault(cpu, node)
        packages = {pus[0]: package for package, pus, _, _ in self.cores}
        home = homes(packages, {pu: owner[pu] for pu in packages if pu in owner}, self.nodes)
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
            Node(n, m.memory_bytes, m.package, tuple(sorted(cpus_of.get(n, ()))), m.tier, m.medium)
            for n, m in sorted(self.nodes.items())
        )
        return Found(
            nodes=nodes,
            cores=cores,
            allowed_cpus=self.allowed_cpus,
            allowed_nodes=self.allowed_nodes & frozenset(self.nodes),
            distances=tuple(self._distances()),
            source=source,
            accesses=tuple(self._accesses(home)),
        )

    def _accesses(self, node_of: dict[int, int]) -> Iterable[tuple[tuple[int, int], Access]]:
        """Memory attributes (hwloc 2.3): Bandwidth and Latency, or also those of reading and writing.

        Of several initiators within a node the best counts; of reading and writing the slower.
        """
        found: dict[tuple[int, int], dict[str, list[int]]] = {}
        for attribute in self.tree.iter("memattr"):
            match = re.fullmatch("(Read|Write)?(Bandwidth|Latency)", attribute.get("name", ""))
            if match is None:
                continue
            best: dict[tuple[int, int], int] = {}
            for item in attribute.findall("memattr_value"):
                to = self._object(item, "target")
                if to.get("type") != "NUMANode":
                    raise _BadError(f"{match[0]} of a {cut(to.get('type'))}")
                value = _whole(item.get("value", ""), f"a value of {match[0]}", 1 << 60)
                for a in {node_of[cpu] for cpu in self._initiators(item) if cpu in node_of} if value else ():
                    pair = a, _index(to)
                    choose = max if match[2] == "Bandwidth" else min
                    best[pair] = choose(value, best.get(pair, value))
            for pair, value in best.items():
                found.setdefault(pair, {}).setdefault(match[2], []).append(value)
        for pair, values in sorted(found.items(), key=lambda entry: entry[0][::-1]):
            bandwidth, latency = (values.get(name, []) for name in ("Bandwidth", "Latency"))
            yield pair, Access(min(bandwidth, default=0), max(latency, default=0))

    def _object(self, item: ET.Element, role: str) -> ET.Element:
        name = item.get(f"{role}_obj_type", ""), item.get(f"{role}_obj_gp_index", "")
        if name not in self.objects:
            raise _BadError(
                f"a memory attribute's {role} {cut(name[0])} with gp_index={cut(name[1])} is not there"
            )
        return self.objects[name]

    def _initiators(self, item: ET.Element) -> frozenset[int]:
        if item.get("initiator_cpuset") is not None:
            return _bitmap(item, "initiator_cpuset")
        return (
            _bitmap(self._object(item, "initiator"), "cpuset")
            if item.get("initiator_obj_type")
            else frozenset()
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
