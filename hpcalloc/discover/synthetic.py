# SPDX-License-Identifier: BSD-3-Clause
"""A regular machine from a line of text, in hwloc's synthetic notation."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from ..exceptions import TopologyError, message
from .parts import Access, Core, Found, Node, cut

__all__ = ["grow"]

_DEPTH_MAX = 64  # levels
_LEVELS = {
    "pack": "package", "package": "package", "socket": "package", "group": "group", "die": "group",
    "numa": "numa", "node": "numa", "numanode": "numa", "l3": "l3", "l3cache": "l3", "l2": "l2", "l2cache": "l2",
    "core": "core", "pu": "pu",
}  # fmt: skip
_PUS_MAX = 1 << 16
_UNITS = {"": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_ATTRIBUTES = {
    "memory": r"(\d{1,12})([A-Za-z]*)", "bandwidth": r"\d{1,12}", "latency": r"\d{1,12}", "tier": r"\d{1,6}",
    "medium": r"[A-Za-z0-9_-]{1,20}",
}  # fmt: skip


class _Level(NamedTuple):
    kind: str
    times: int  # 0: attached to the objects of the level before
    attributes: dict[str, str]


@dataclass
class _Memory:
    """A node that is being made; nodes inside it get their ids first."""

    attributes: dict[str, str]
    package: int
    id: int = -1
    around: slice = field(default_factory=lambda: slice(0, 0))  # of the cores that it surrounds


def _refuse(text: str, what: str, limit: str, remedy: str = "correct it") -> NoReturn:
    raise TopologyError(message("Topology.from_synthetic", f"{what} in {cut(text)}", limit, remedy))


def _attributes(text: str, inside: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in re.sub(r"(\d)\s+(?=[KMGT]i?B)", r"\1", inside or "", flags=re.IGNORECASE).split():
        name, _, value = word.partition("=")
        if name in found or name not in _ATTRIBUTES or not re.fullmatch(_ATTRIBUTES[name], value):
            _refuse(
                text,
                f"'({cut(inside)})'",
                "memory=<size> bandwidth=<MB/s> latency=<ns> tier=<number> medium=<name>",
            )
        found[name] = value
    return found


def _bytes(attributes: dict[str, str]) -> int:
    match = re.fullmatch(_ATTRIBUTES["memory"], attributes.get("memory", "1GB"))  # hwloc's own default
    return int(match[1]) * _UNITS[match[2].upper()] if match else 0


def grow(text: str) -> Found:
    """The machine that a description in hwloc's synthetic notation names."""
    pattern = (
        r"\[\s*(?P<attached>[A-Za-z]+)\s*(?:\((?P<am>[^)]*)\))?\s*\]|(?P<kind>[A-Za-z0-9]+):(?P<count>\d+)"
        r"(?:\((?P<m>[^)]*)\))?"
    )
    levels: list[_Level] = []
    rest = re.sub(pattern, "", text).strip()
    for match in re.finditer(pattern, text):
        kind, count = (match["attached"] or match["kind"]).lower(), int((match["count"] or "0")[:9])
        known = _LEVELS.get(kind)
        if (
            known is None
            or (match["attached"] and known != "numa")
            or not (match["attached"] is None) <= count <= 4096
        ):
            _refuse(
                text,
                cut(match[0]),
                "pack, group, numa, l3, l2, core, pu with counts from 1 to 4096, or [numa]",
            )
        inside = match["am"] or match["m"]
        levels.append(_Level(known, count, _attributes(text, inside) if known == "numa" else {}))
    if rest or not levels:
        _refuse(text, f"{cut(rest)} is not understood", "levels such as 'pack:2 [numa] core:4 pu:2'")
    numas = [level.times for level in levels if level.kind == "numa"]
    if sum(count > 0 for count in numas) and len(numas) > 1:
        _refuse(
            text,
            "a numa level beside others",
            "one, or as many [numa] as there shall be",
            "attach all: [numa]",
        )
    if len(levels) > _DEPTH_MAX or math.prod(max(level.times, 1) for level in levels) > _PUS_MAX:
        what = f"{len(levels)} levels, their counts multiplied beyond any machine,"
        _refuse(text, what, f"{_DEPTH_MAX} levels, {_PUS_MAX} PUs", "")
    return _Growth(levels).topology(text)


class _Growth:
    """A tree of levels, walked from the outside in; PUs are numbered as they come, nodes as hwloc does: inner ones first."""

    def __init__(self, levels: list[_Level]) -> None:
        self.levels = levels
        self.counters = dict.fromkeys(("package", "l3", "l2", "pu"), 0)
        self.cores: list[tuple[int, _Memory, tuple[int, ...], tuple[int, ...]]] = []
        self.nodes: list[_Memory] = []
        everything = _Memory({}, -1)  # where no level is a node
        self._descend(0, -1, everything, ())
        if not self.nodes:
            self._number(everything, 0)

    def _take(self, kind: str, count: int = 1) -> int:
        first = self.counters[kind]
        self.counters[kind] += count
        return first

    def _number(self, node: _Memory, start: int) -> None:
        node.id, node.around = len(self.nodes), slice(start, len(self.cores))
        self.nodes.append(node)

    def _core(self, package: int, home: _Memory, caches: tuple[int, ...], pus: int) -> None:
        first = self._take("pu", pus)
        self.cores.append((max(package, 0), home, tuple(range(first, first + pus)), caches))

    def _descend(self, depth: int, package: int, home: _Memory, caches: tuple[int, ...]) -> None:
        if depth == len(self.levels):
            self._core(package, home, caches, 1)
            return
        kind, count, attributes = self.levels[depth]
        start = len(self.cores)
        if count == 0:
            attached = list(itertools.takewhile(lambda level: level.times == 0, self.levels[depth:]))
            nodes = [_Memory(level.attributes, package) for level in attached]
            self._descend(depth + len(nodes), package, nodes[0], caches)
            for node in nodes:
                self._number(node, start)
            return
        if kind == "core" and depth + 1 < len(self.levels) and self.levels[depth + 1].kind == "pu":
            for _ in range(count):
                self._core(package, home, caches, self.levels[depth + 1].times)
            return
        for _ in range(count):
            inner, start = caches, len(self.cores)
            if kind == "package":
                package = self._take(kind)
            elif kind == "numa":
                home = _Memory(attributes, package)
            elif kind in ("l3", "l2"):
                inner = (*caches, self._take(kind))
            self._descend(depth + 1, package, home, inner)
            if kind == "numa":
                self._number(home, start)

    def topology(self, source: str) -> Found:
        cores = sorted(
            (Core(package, home.id, pus, caches) for package, home, pus, caches in self.cores),
            key=lambda core: (core.node, core.pus),
        )
        nodes, accesses = [], []
        for node in self.nodes:
            told = node.attributes
            cpus = [pu for core in cores if core.node == node.id for pu in core.pus]
            package = next((c[0] for c in self.cores[node.around] if cpus), node.package)
            tier = int(told["tier"]) if "tier" in told else None
            nodes.append(Node(node.id, _bytes(told), package, tuple(cpus), tier, told.get("medium", "")))
            access = Access(int(told.get("bandwidth", 0)), int(told.get("latency", 0)))
            if access != Access():
                homes = sorted({home.id for _, home, _, _ in self.cores[node.around]})
                accesses += [((home, node.id), access) for home in homes]
        every = frozenset(pu for core in cores for pu in core.pus)
        ids = frozenset(node.id for node in nodes)
        return Found(tuple(nodes), tuple(cores), every, ids, source=source, accesses=tuple(accesses))
