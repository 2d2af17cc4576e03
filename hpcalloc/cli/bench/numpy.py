# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc bench numpy``."""

from __future__ import annotations

from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ...bench import numpy as bench
from ..console import plain_console, print_table
from ..mpi import refuse_ranks
from .output import give, json_option, new_figure, plot_option, progress_bar

__all__ = ["command"]


@click.command()
@click.option(
    "--sizes", metavar="N,N,...", help="Bytes of an array, such as 64,100k,1M,1G; default 64 to 1G."
)
@click.option(
    "--repeats",
    default=7,
    show_default=True,
    help="Measurements of each, of which the median counts; up to 16 MB five times as many.",
)
@click.option(
    "--policy",
    type=click.Choice(["local", "interleave"]),
    default="local",
    show_default=True,
    help="Policy of hpcalloc's arrays.",
)
@json_option
@plot_option
def command(
    sizes: str | None, repeats: int, policy: str, json_file: str | None, plot_file: str | None
) -> None:
    """Compare NumPy's data handler with ours: temporaries, preallocated arrays, empty and zeros.

    Interleaved in one process. `prealloc` is the time of `a * b + c` with temporaries over that of the same ufuncs
    into two arrays made before, `in place` over the second into the first's result; the other ratios are ours over
    NumPy's.
    """
    refuse_ranks("bench numpy")
    chosen = bench.parse_sizes(sizes) if sizes is not None else bench.default_sizes()
    with progress_bar(bench.runs(chosen, repeats)) as advance:
        result = bench.compare(chosen, repeats=repeats, policy=policy, advance=advance)
    give(result, json_file, plot_file, _figure, _print)


def _time(ns: float) -> str:
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= factor:
            return f"{ns / factor:.3g} {unit}"
    return f"{ns:.3g} ns"


def _print(result: dict[str, Any]) -> None:
    console = plain_console()
    machine = result["machine"]
    console.print(
        f"{machine['processor']}, {machine['cpus']} CPUs; NumPy {machine['numpy']}, Python {machine['python']}; "
        f"transparent huge pages: {machine['transparent_hugepages']}; medians of {result['repeats']}"
    )
    if machine["remark"]:
        console.print(f"note: {machine['remark']}")
    _print_expression(console, result)
    _print_calls(console, result)
    for name, label in _SUMMARIES.items():
        parts = []
        for handler in bench.HANDLERS:
            figures = result["summary"][name][handler]
            if figures is not None:
                parts.append(f"{handler} {figures['geometric_mean']:.3f}, worst {figures['worst']:.3f}")
        if parts:
            console.print(f"a * b + c over {label}, from 1 MB: {'; '.join(parts)}")


_SUMMARIES = {"temporaries_over_preallocated": "preallocated", "temporaries_over_in_place": "in place"}


def _print_expression(console: Console, result: dict[str, Any]) -> None:
    table = Table(
        "array",
        title="a * b + c; over preallocated (/pre), over in place (/in); ours over NumPy's",
        box=SIMPLE_HEAD,
    )
    for handler in bench.HANDLERS:
        for column in (handler, "/pre", "/in"):
            table.add_column(column, justify="right")
    table.add_column("ours/np", justify="right")
    for row in result["rows"]:
        ratios = row["ratios"]
        cells = []
        for handler in bench.HANDLERS:
            cells.append(_time(row["statements"]["temporaries"][handler]["ns"]))
            cells += [f"{ratios[name][handler]:.3f}" for name in _SUMMARIES]
        cells.append(f"{ratios['hpcalloc_over_numpy']['temporaries']:.3f}")
        table.add_row(bench.human(row["bytes"]), *cells)
    print_table(console, table)


def _print_calls(console: Console, result: dict[str, Any]) -> None:
    names = ("empty", "hpcalloc.empty", "zeros", "zeros_filled")
    table = Table("array", title="made and freed, by NumPy's handler; ours over it", box=SIMPLE_HEAD)
    for columns in (("np.empty", "ours"), ("hpcalloc.empty",), ("np.zeros", "ours"), ("and fill", "ours")):
        for column in columns:
            table.add_column(column, justify="right")
    for row in result["rows"]:
        cells = []
        for name in names:
            if name != "hpcalloc.empty":
                cells.append(_time(row["statements"][name]["numpy"]["ns"]))
            cells.append(f"{row['ratios']['hpcalloc_over_numpy'][name]:.2f}")
        table.add_row(bench.human(row["bytes"]), *cells)
    print_table(console, table)


def _figure(result: dict[str, Any]) -> Any:
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    sizes = [row["bytes"] for row in result["rows"]]
    for handler, colour in zip(bench.HANDLERS, ("tab:orange", "tab:blue"), strict=True):
        for (name, label), style in zip(_SUMMARIES.items(), ("o-", ".--"), strict=True):
            ratios = [row["ratios"][name][handler] for row in result["rows"]]
            axes.plot(sizes, ratios, style, color=colour, label=f"{handler}, over {label}")
    axes.axhline(1.0, color="grey", linewidth=0.5)
    axes.set_xscale("log")
    axes.set_xlabel("bytes of an array")
    axes.set_ylabel("a * b + c with temporaries: time ratio (less is better)")
    axes.set_title(f"{result['machine']['processor']}; NumPy {result['machine']['numpy']}", fontsize=9)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure
