# SPDX-License-Identifier: BSD-3-Clause
"""A machine as a picture, with the ranks that are planned on it: boxes of text for a terminal, and a figure for a file."""

from __future__ import annotations

import os
import string
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..discover.devices import Device
from ..discover.kinds import node_text
from ..discover.topology import Core, Node, Topology, ids_text

__all__ = ["draw", "machine_lines"]

_SYMBOLS = string.digits + string.ascii_lowercase + string.ascii_uppercase
_FREE, _FORBIDDEN = "■", "□"


class Ranks(NamedTuple):
    """Which local rank has a PU; empty without a plan."""

    of_pu: dict[int, int]

    @classmethod
    def of(cls, cpus: Sequence[Sequence[int]]) -> Ranks:
        """PUs of each local rank, in its order."""
        return cls({pu: rank for rank, pus in enumerate(cpus) for pu in pus})

    def at(self, core: Core) -> int | None:
        """The lowest rank that has a PU of a core."""
        return min((self.of_pu[pu] for pu in core.pus if pu in self.of_pu), default=None)


def _packages(topology: Topology) -> Iterator[tuple[int, list[Node]]]:
    """Packages with their nodes; memory of no package comes last, as package -1."""
    ids = sorted({node.package for node in topology.nodes}, key=lambda package: (package < 0, package))
    for package in ids:
        yield package, [node for node in topology.nodes if node.package == package]


def _caches(topology: Topology, node: Node) -> list[list[Core]]:
    """Cores of a node by their outermost shared cache."""
    groups: dict[tuple[int, ...], list[Core]] = {}
    for core in topology.cores:
        if core.node == node.id:
            groups.setdefault(core.caches[:1], []).append(core)
    return list(groups.values())


def _title(topology: Topology, node: Node) -> str:
    return f"node {node.id}: {node_text(topology, node)}"


def _package_title(package: int) -> str:
    return f"package {package}" if package >= 0 else "of no package"


def _near(devices: Sequence[Device], nodes: Sequence[Node], told: set[tuple[int, ...]]) -> str:
    """Return the names of devices that are near exactly these nodes, once: `told` are the sets of nodes so far."""
    ids = tuple(node.id for node in nodes)
    if ids in told:
        return ""
    told.add(ids)
    return ", ".join(d.name for d in devices if d.nodes == ids)


def _elsewhere(devices: Sequence[Device], told: set[tuple[int, ...]]) -> Iterator[str]:
    """Yield a line for each set of nodes that is not told yet."""
    for places in dict.fromkeys(d.nodes for d in devices if d.nodes not in told):
        names = ", ".join(d.name for d in devices if d.nodes == places)
        yield f"near {f'nodes {ids_text(places)}' if places else 'no known node'}: {names}"


# ---- text -------------------------------------------------------------------------------------------------


def machine_lines(
    topology: Topology,
    cpus: Sequence[Sequence[int]] = (),
    width: int = 80,
    devices: Sequence[Device] = (),
) -> list[str]:
    """Draw a machine in lines of at most `width` characters.

    Parameters
    ----------
    topology : Topology
    cpus : sequence of sequence of int
        PUs of each local rank of a plan.
    width : int
        At least 40.
    devices : sequence of Device
        In the boxes of their nodes.
    """
    ranks = Ranks.of(cpus)
    lines: list[str] = []
    told: set[tuple[int, ...]] = set()

    def near(nodes: Sequence[Node], room: int) -> list[str]:
        return textwrap.wrap(_near(devices, nodes, told), room)

    for package, nodes in _packages(topology):
        inside: list[str] = []
        for node in nodes:
            body = [
                row for group in _caches(topology, node) for row in _rows(topology, group, ranks, width - 8)
            ]
            inside += _box(_title(topology, node), [*body, *near([node], width - 8)], width - 4)
        if len(nodes) > 1:
            inside += near([node for node in nodes if node.cpus], width - 4)
        lines += _box(_package_title(package), inside, width)
    for line in _elsewhere(devices, told):
        lines += textwrap.wrap(line, width)
    legend = [f"{_FREE} a core" + ("" if not cpus else " without a rank")]
    if topology.allowed_cpus != frozenset(pu for core in topology.cores for pu in core.pus):
        legend.append(f"{_FORBIDDEN} one that this process may not use")
    if cpus:
        last = _SYMBOLS[min(len(cpus), len(_SYMBOLS)) - 1]
        legend.append(
            f"0-{last} the local rank on it" + (", from 0 again after Z" if len(cpus) > len(_SYMBOLS) else "")
        )
    return [*lines, "; ".join(legend), "cores in one line share a last-level cache"]


def _rows(topology: Topology, cores: Sequence[Core], ranks: Ranks, width: int) -> Iterator[str]:
    """Cores of one cache: symbols, then their PUs where there is room."""
    symbols = "".join(_symbol(topology, core, ranks) for core in cores)
    pus = " and ".join(ids_text(level) for level in _levels(cores))
    for at in range(0, len(symbols), width):
        part = symbols[at : at + width]
        fits = len(symbols) + 8 + len(pus) <= width
        yield f"{part}  PUs {pus}" if fits else part
    if len(symbols) + 8 + len(pus) > width:
        yield f"PUs {pus}"[:width]


def _levels(cores: Sequence[Core]) -> list[list[int]]:
    """First PUs of the cores, their second ones, and so on: these are the ranges that the kernel numbers them by."""
    most = max(len(core.pus) for core in cores)
    return [[core.pus[level] for core in cores if level < len(core.pus)] for level in range(most)]


def _symbol(topology: Topology, core: Core, ranks: Ranks) -> str:
    rank = ranks.at(core)
    if rank is not None:
        return _SYMBOLS[rank % len(_SYMBOLS)]
    return _FREE if topology.allowed_cpus.intersection(core.pus) else _FORBIDDEN


def _box(title: str, body: Sequence[str], width: int) -> list[str]:
    head = f"╭─ {title[: width - 6]} "
    return [
        f"{head}{'─' * (width - len(head) - 1)}╮",
        *(f"│ {line.ljust(width - 4)} │" for line in body),
        f"╰{'─' * (width - 2)}╯",
    ]


# ---- a figure ---------------------------------------------------------------------------------------------

_INCH = 0.42  # side of a core's square; the lengths below are in squares
_ACROSS = 8  # cores of one cache in a row
_INSIDE = 8.7  # width of a node's caches
_WIDTH = _INSIDE + 1.2  # of a package with what separates it from the next
_LINE = 60  # characters across a node
_EDGES: dict[str, dict[str, Any]] = {
    "package": {"edgecolor": "black", "linewidth": 1.6},
    "node": {"edgecolor": "tab:blue", "linewidth": 1.2},
    "cache": {"edgecolor": "0.6", "linestyle": ":"},
    "core": {"edgecolor": "0.4", "linewidth": 0.6},
}


class _Sheet:
    """Boxes and texts from (0, 0) downwards, before it is known where they come to lie."""

    def __init__(self) -> None:
        self.height = 0.0
        self.boxes: list[tuple[str, float, float, float, float, Any]] = []
        self.texts: list[tuple[float, float, str, dict[str, Any]]] = []

    def box(self, kind: str, x: float, y: float, width: float, height: float, fill: Any = "none") -> None:
        self.boxes.append((kind, x, y, width, height, fill))

    def write(self, text: str, x: float, characters: int, size: int = 8, **style: Any) -> None:
        """Add lines of at most so many characters at the bottom."""
        for line in textwrap.wrap(text, characters):
            self.texts.append((x, self.height + 0.28, line, {"fontsize": size, "va": "center", **style}))
            self.height += 0.5

    def put(self, other: _Sheet, x: float, y: float) -> None:
        self.boxes += [(kind, x + a, y + b, w, h, fill) for kind, a, b, w, h, fill in other.boxes]
        self.texts += [(x + a, y + b, text, style) for a, b, text, style in other.texts]


def draw(
    topology: Topology, cpus: Sequence[Sequence[int]], figure: Any, devices: Sequence[Device] = ()
) -> Any:
    """Draw a machine into a matplotlib figure: nodes below each other in packages, packages side by side.

    Parameters
    ----------
    topology : Topology
    cpus : sequence of sequence of int
        PUs of each local rank of a plan; empty: none.
    figure : matplotlib.figure.Figure
    devices : sequence of Device
        Written below the cores of their nodes.

    Returns
    -------
    The figure, with a size that holds the picture.
    """
    from matplotlib.patches import Rectangle

    told: set[tuple[int, ...]] = set()
    packages = [
        _package(topology, package, nodes, Ranks.of(cpus), devices, told)
        for package, nodes in _packages(topology)
    ]
    columns = _columns([package.height for package in packages])
    across = min(columns, len(packages)) * _WIDTH + 0.2
    sheet = _Sheet()
    sheet.height = 0.2
    room = int(7 * across)  # characters
    sheet.write(os.path.basename(topology.source), 0.3, int(0.6 * room), 10, weight="bold")
    legend = ["square: a core, with the number of its first PU"]
    if topology.allowed_cpus != frozenset(pu for core in topology.cores for pu in core.pus):
        legend.append("white: this process may not use it")
    if cpus:
        legend.append("r0: local rank" if len(cpus) == 1 else f"r0 to r{len(cpus) - 1}: local ranks")
    legend.append("dotted box: cores that share a last-level cache")
    sheet.write("; ".join(legend), 0.3, room)
    sheet.height += 0.2
    for at in range(0, len(packages), columns):
        row = packages[at : at + columns]
        tallest = max(package.height for package in row)
        for column, package in enumerate(row):
            x = 0.2 + column * _WIDTH
            sheet.box("package", x, sheet.height, _WIDTH - 0.2, tallest)
            sheet.put(package, x, sheet.height)
        sheet.height += tallest + 0.2
    for line in _elsewhere(devices, told):
        sheet.write(line, 0.3, room)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    for kind, x, y, width, height, fill in sheet.boxes:
        axes.add_patch(Rectangle((x, y), width, height, facecolor=fill, **_EDGES[kind]))
    for x, y, text, style in sheet.texts:
        axes.text(x, y, text, **style)
    axes.set_xlim(0, across)
    axes.set_ylim(sheet.height + 0.2, 0)
    axes.axis("off")
    figure.set_size_inches(_INCH * across, _INCH * (sheet.height + 0.2))
    return figure


def _columns(heights: Sequence[float]) -> int:
    """Return how many packages are side by side: two to four, until the picture is not higher than wide."""
    for columns in (2, 3):
        if columns * _WIDTH >= -(-len(heights) // columns) * max(heights):
            return columns
    return 4


def _package(
    topology: Topology,
    package: int,
    nodes: Sequence[Node],
    ranks: Ranks,
    devices: Sequence[Device],
    told: set[tuple[int, ...]],
) -> _Sheet:
    sheet = _Sheet()
    sheet.height = 0.1
    sheet.write(_package_title(package), 0.4, _LINE, 9, weight="bold")
    for node in nodes:
        sheet.height += 0.2
        top = sheet.height
        sheet.height += 0.1
        sheet.write(_title(topology, node), 0.6, _LINE)
        _cache_rows(sheet, topology, _caches(topology, node), ranks)
        sheet.write(_near(devices, [node], told), 0.6, _LINE)
        sheet.height += 0.2
        sheet.box("node", 0.3, top, _INSIDE + 0.4, sheet.height - top)
    if len(nodes) > 1:
        sheet.write(_near(devices, [node for node in nodes if node.cpus], told), 0.6, _LINE)
    sheet.height += 0.2
    return sheet


def _cache_rows(sheet: _Sheet, topology: Topology, groups: Sequence[Sequence[Core]], ranks: Ranks) -> None:
    """Add the boxes of a node's caches, as many in a row as fit."""
    left, lowest = 0.0, sheet.height
    for group in groups:
        width = min(len(group), _ACROSS) + 0.2
        if left + width > _INSIDE:
            left, sheet.height = 0.0, lowest
        rows = -(-len(group) // _ACROSS)
        x, y = 0.5 + left, sheet.height + 0.1
        sheet.box("cache", x, y, width, rows + 0.2)
        for i, core in enumerate(group):
            _square(sheet, topology, core, ranks.at(core), x + 0.1 + i % _ACROSS, y + 0.1 + i // _ACROSS)
        left += width + 0.2
        lowest = max(lowest, y + rows + 0.2)
    sheet.height = lowest + (0.1 if groups else 0)


def _square(sheet: _Sheet, topology: Topology, core: Core, rank: int | None, x: float, y: float) -> None:
    from matplotlib import colormaps

    label, ink = str(core.pus[0]), "black"
    colour: Any = "0.88"
    if rank is not None:
        label, colour = f"r{rank}\n{label}", colormaps["tab20"](rank % 20)
        dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 0.55
        ink = "white" if dark else "black"
    elif not topology.allowed_cpus.intersection(core.pus):
        colour = "white"
    sheet.box("core", x + 0.05, y + 0.05, 0.9, 0.9, colour)
    style = {"fontsize": 7, "ha": "center", "va": "center", "color": ink}
    sheet.texts.append((x + 0.5, y + 0.5, label, style))
