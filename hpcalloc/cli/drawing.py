# SPDX-License-Identifier: BSD-3-Clause
"""A machine as a picture, with the ranks that are planned on it: boxes of text for a terminal, and a figure for a file."""

from __future__ import annotations

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


def _devices(devices: Sequence[Device], nodes: Sequence[Node]) -> str:
    """Names of the devices that are near just these nodes."""
    ids = tuple(node.id for node in nodes)
    return ", ".join(d.name for d in devices if d.nodes == ids)


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
        told.add(tuple(node.id for node in nodes))
        return textwrap.wrap(_devices(devices, nodes), room)

    for package, nodes in _packages(topology):
        inside: list[str] = []
        for node in nodes:
            body = [
                row for group in _caches(topology, node) for row in _rows(topology, group, ranks, width - 8)
            ]
            inside += _box(_title(topology, node), [*body, *near([node], width - 8)], width - 4)
        if len(nodes) > 1:
            inside += near([node for node in nodes if node.cpus], width - 4)
        lines += _box(f"package {package}" if package >= 0 else "of no package", inside, width)
    for places in dict.fromkeys(d.nodes for d in devices if d.nodes not in told):
        names = ", ".join(d.name for d in devices if d.nodes == places)
        lines += textwrap.wrap(
            f"near {f'nodes {ids_text(places)}' if places else 'no known node'}: {names}", width
        )
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

_ACROSS = 8  # cores in a row


def draw(
    topology: Topology, cpus: Sequence[Sequence[int]], figure: Any, devices: Sequence[Device] = ()
) -> Any:
    """Draw a machine into a matplotlib figure: packages side by side, nodes below each other in them.

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
    The figure, with a size that holds it.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    ranks, palette = Ranks.of(cpus), colormaps["tab20"]
    axes = figure.add_subplot()
    left, tallest = 0.0, 0.0
    for package, nodes in _packages(topology):
        down = 1.0
        for node in nodes:
            top = down
            axes.text(left + 0.6, down + 0.65, _title(topology, node), fontsize=9)
            down += 1.0
            for group in _caches(topology, node):
                rows = -(-len(group) // _ACROSS)
                axes.add_patch(
                    Rectangle(
                        (left + 0.5, down),
                        _ACROSS + 0.4,
                        rows + 0.2,
                        fill=False,
                        edgecolor="0.6",
                        linestyle=":",
                    )
                )
                for i, core in enumerate(group):
                    x, y = left + 0.7 + i % _ACROSS, down + 0.1 + i // _ACROSS
                    rank = ranks.at(core)
                    allowed = topology.allowed_cpus.intersection(core.pus)
                    colour = palette(rank % 20) if rank is not None else "0.88" if allowed else "white"
                    axes.add_patch(
                        Rectangle(
                            (x + 0.05, y + 0.05), 0.9, 0.9, facecolor=colour, edgecolor="0.4", linewidth=0.6
                        )
                    )
                    label = str(core.pus[0]) if rank is None else f"r{rank}\n{core.pus[0]}"
                    axes.text(x + 0.5, y + 0.5, label, ha="center", va="center", fontsize=7)
                down += rows + 0.4
            for line in textwrap.wrap(_devices(devices, [node]), 40):
                axes.text(left + 0.6, down + 0.4, line, fontsize=7)
                down += 0.6
            down += 0.2
            axes.add_patch(
                Rectangle(
                    (left + 0.3, top),
                    _ACROSS + 0.8,
                    down - top,
                    fill=False,
                    edgecolor="tab:blue",
                    linewidth=1.2,
                )
            )
            down += 0.3
        name = f"package {package}" if package >= 0 else "of no package"
        axes.text(left + 0.3, 0.6, name, fontsize=10, weight="bold")
        axes.add_patch(
            Rectangle(
                (left + 0.1, 0), _ACROSS + 1.2, down + 0.1, fill=False, edgecolor="black", linewidth=1.6
            )
        )
        left, tallest = left + _ACROSS + 1.6, max(tallest, down)
    axes.set_xlim(-0.1, left)
    axes.set_ylim(tallest + 0.4, -1.2)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(
        f"{topology.source}: a square is a core with its first PU, dotted boxes share a last-level cache"
        + (f"; {len(cpus)} ranks" if cpus else ""),
        fontsize=9,
    )
    figure.set_size_inches(max(0.42 * left, 5), max(0.42 * (tallest + 2), 2))
    return figure
