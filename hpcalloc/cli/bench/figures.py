# SPDX-License-Identifier: BSD-3-Clause
"""Plots of bandwidth and latency: heat maps of nodes, scaling, placements of ranks, curves over working sets."""

from __future__ import annotations

import textwrap
from typing import Any

from ..._text import plural, size_text
from ...bench.kernels import KERNELS
from ...bench.latency import PAGES
from ...bench.sizes import mib
from .output import new_figure

__all__ = ["latency", "matrix", "ranks"]

_COLOURS = "viridis"
_TEAMS = {"all": "all cores", "one": "one core"}


def _title(figure: Any, result: dict[str, Any], text: str) -> None:
    room = int(11 * figure.get_figwidth())
    lines = [f"{text}: {result['machine']['processor']}", *result["remarks"]]
    wrapped = [part for line in lines for part in textwrap.wrap(line, room)]
    figure.suptitle("\n".join(wrapped), fontsize=9, parse_math=False)  # a remark may cost $5


def matrix(result: dict[str, Any]) -> Any:
    """Heat maps of every kernel with all cores and with one, the scaling, and the triads side by side."""
    nodes = max(len(result["cpu_nodes"]), len(result["memory_nodes"]))
    side = max(2.2, 0.7 * nodes)
    upper = 2 * side if nodes > 1 else 2.5
    figure = new_figure(4 * side + 2, upper + 4.5)
    rows = figure.subfigures(2, 1, height_ratios=[upper, 3.6])
    _title(figure, result, f"bandwidth in GB/s (more is better), arrays of {mib(result['array_bytes'])}")
    if nodes > 1:
        _heat_maps(rows[0], result)
    else:
        _one_node(rows[0].subplots(), result)
    below = rows[1].subplots(1, 2 if "triads" in result else 1, squeeze=False)[0]
    _scaling(below[0], result)
    if "triads" in result:
        _triads(below[1], result)
    return figure


def _heat_maps(figure: Any, result: dict[str, Any]) -> None:
    maps = figure.subplots(2, len(KERNELS), squeeze=False)
    for axes_row, team in zip(maps, _TEAMS, strict=True):
        for axes, kernel in zip(axes_row, KERNELS, strict=True):
            cells = [c for c in result["cells"] if c["team"] == team and c["kernel"] == kernel]
            _heat(axes, result, cells, "gb_per_s")
            axes.set_title(f"{kernel}, {_TEAMS[team]}", fontsize=9)


def _one_node(axes: Any, result: dict[str, Any]) -> None:
    for offset, team in ((-0.2, "all"), (0.2, "one")):
        rates = {c["kernel"]: c["gb_per_s"] for c in result["cells"] if c["team"] == team}
        places = [i + offset for i in range(len(KERNELS))]
        bars = axes.bar(places, [rates[kernel] for kernel in KERNELS], 0.38, label=_TEAMS[team])
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(KERNELS)), KERNELS)
    axes.margins(y=0.12)
    axes.set_ylabel("GB/s (more is better)")
    axes.legend(fontsize=8)


def _heat(axes: Any, result: dict[str, Any], cells: list[dict[str, Any]], what: str) -> None:
    values = {(c["cpu_node"], c["memory_node"]): c[what] for c in cells}
    rows = [[values[i, j] for j in result["memory_nodes"]] for i in result["cpu_nodes"]]
    low, high = min(map(min, rows)), max(map(max, rows))
    # Colours begin at zero: a difference of two per cent is not to look like one of half.
    axes.imshow(rows, cmap=_COLOURS, vmin=0, vmax=high or 1)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            dark = value < 0.6 * high
            axes.text(
                j,
                i,
                f"{value:.0f}" if low >= 100 else f"{value:.1f}",
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontsize=8,
            )
    axes.set_xticks(range(len(result["memory_nodes"])), map(str, result["memory_nodes"]))
    axes.set_yticks(range(len(result["cpu_nodes"])), map(str, result["cpu_nodes"]))
    axes.set_xlabel("memory of node", fontsize=8)
    axes.set_ylabel("CPUs of node", fontsize=8)


def _scaling(axes: Any, result: dict[str, Any]) -> None:
    points = result["scaling"]
    one = [p for p in points if len(p["nodes"]) == 1]
    several = [one[-1], *(p for p in points if len(p["nodes"]) > 1)]
    axes.plot([p["threads"] for p in one], [p["gb_per_s"] for p in one], "o-", label="one node")
    if len(several) > 1:
        axes.plot(
            [p["threads"] for p in several],
            [p["gb_per_s"] for p in several],
            "s-",
            label="whole nodes, blocked arrays",
        )
    axes.set_xscale("log", base=2)
    ticks = sorted({p["threads"] for p in points})
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_ylim(0, 1.1 * max(p["gb_per_s"] for p in points))
    axes.set_xlabel("threads")
    axes.set_ylabel("triad, GB/s (more is better)")
    axes.legend(fontsize=8, loc="lower right")


def _triads(axes: Any, result: dict[str, Any]) -> None:
    rows = [row for row in result["triads"] if "absent" not in row]
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    for offset, team in ((-0.2, "all"), (0.2, "one")):
        rates = {row["contestant"]: row["gb_per_s"] for row in rows if row["team"] == team}
        places = [i + offset for i in range(len(names))]
        axes.barh(
            places,
            [rates[name] for name in names],
            height=0.38,
            label=_TEAMS[team],
        )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("triad, GB/s (more is better)")
    axes.legend(fontsize=8)


def ranks(result: dict[str, Any]) -> Any:
    """Triad of each rank by placement, and the sums of all kernels."""
    count = len(result["ranks"])
    figure = new_figure(max(9.0, 5 + 0.4 * count), 4.5)
    _title(figure, result, f"bandwidth of {plural(count, 'rank')}, arrays of {mib(result['array_bytes'])}")
    left, right = figure.subplots(1, 2)
    names = list(result["sums"])
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        offset = (i - (len(names) - 1) / 2) * width
        each = [rank["placements"][name]["kernels"]["triad"]["gb_per_s"] for rank in result["ranks"]]
        left.bar([k + offset for k in range(count)], each, width, label=name)
        sums = [result["sums"][name][kernel] for kernel in KERNELS]
        right.bar([k + offset for k in range(len(KERNELS))], sums, width, label=name)
    left.set_xticks(range(count), [str(rank["rank"]) for rank in result["ranks"]])
    left.set_xlabel("rank")
    left.set_ylabel("triad, GB/s (more is better)")
    right.set_xticks(range(len(KERNELS)), KERNELS)
    right.set_ylabel("sum over ranks, GB/s (more is better)")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def latency(result: dict[str, Any]) -> Any:
    """Curves over working sets, and with several nodes the matrix at the largest."""
    several = len(result["memory_nodes"]) > 1
    figure = new_figure(11 if several else 7.5, 4.8)
    _title(figure, result, "latency")
    axes = figure.add_subplot(1, 2, 1) if several else figure.add_subplot()
    first = result["cpu_nodes"][0]
    for node in result["curve_nodes"]:
        for pages in PAGES:
            points = sorted(
                (p["working_set_bytes"], p["ns"])
                for p in result["points"]
                if (p["cpu_node"], p["memory_node"], p["pages_asked"]) == (first, node, pages)
            )
            axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=f"memory {node}, {pages} pages")
    for cache in result["caches"]:
        axes.axvline(cache["bytes"], color="grey", linewidth=0.5)
        label = f"L{cache['level']} "
        above = axes.get_xaxis_transform()
        axes.text(cache["bytes"], 0.98, label, ha="right", va="top", fontsize=8, transform=above)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: size_text(value).replace(".0 ", " "))
    axes.yaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("working set")
    axes.set_ylabel("ns a load (less is better)")
    axes.legend(fontsize=8)
    if several:
        heat = figure.add_subplot(1, 2, 2)
        largest = result["largest_bytes"]
        cells = [
            p for p in result["points"] if p["working_set_bytes"] == largest and p["pages_asked"] == "huge"
        ]
        _heat(heat, result, cells, "ns")
        heat.set_title(f"ns a load (less is better), {mib(largest)}, huge pages", fontsize=9)
    return figure
