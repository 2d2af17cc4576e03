# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc bench alloc``."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..._text import plural
from ...bench import alloc
from ..console import plain_console, print_table
from ..mpi import refuse_ranks
from ..options import SECONDS
from .output import give, json_option, new_figure, plot_option, progress_bar, thread_list

__all__ = ["command", "draw", "show"]


def _thread_counts(text: str | None) -> list[int]:
    cores = len(os.sched_getaffinity(0))
    return sorted({1, cores, 2 * cores} if text is None else thread_list(text))


def _figure(value: float) -> str:
    """Three digits or a little more: 3.3, 350.2, 35k, 5.6M."""
    if math.isnan(value):
        return "-"
    for unit in ("", "k", "M"):
        if value < 1e4 or unit == "M":
            break
        value /= 1e3
    return f"{value:.0f}{unit}" if unit and value >= 100 else f"{value:.1f}{unit}"


def _table(result: dict[str, Any], what: str, ratio: str, best: str, title: str) -> Table:
    names = list(result["allocators"])
    table = Table(
        "workload", "threads", title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in [*names, "ratio", "best"]:
        table.add_column(name, justify="right")
    scale = 2**20 if what == "peak_bytes" else result.get("per", 1)
    for row in result["rows"]:
        figures = row["allocators"]
        table.add_row(
            row["workload"],
            str(row["threads"]),
            *("failed" if "error" in figures[n] else _figure(figures[n][what] / scale) for n in names),
            f"{'~' if what == 'ns_per_operation' and row['within_noise'] else ''}{row[ratio]:.2f}",
            row[best],
        )
    return table


def _tables(result: dict[str, Any]) -> tuple[Table, ...]:
    over = "ratio: hpcalloc over the best of the others"
    unit = result.get("unit", "ns per operation")
    return (
        _table(result, "ns_per_operation", "ratio", "best_peer", f"{unit}; {over}, ~ within noise"),
        _table(result, "peak_bytes", "memory_ratio", "leanest_peer", f"MiB resident at the peak; {over}"),
        _summary_table(result),
    )


def _summary_table(result: dict[str, Any]) -> Table:
    table = Table(
        "allocator",
        title="geometric means, each over the best of the others",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    counted = ["instructions of a 64-byte pair"] if result["instructions"] else []
    for name in ("time", "worst", "in", "peak memory", *counted, "failed"):
        table.add_column(name, justify="left" if name in ("in", "failed") else "right")
    for name, facts in sorted(result["summary"].items(), key=lambda item: item[1]["time_ratio"]):
        table.add_row(
            name,
            f"{facts['time_ratio']:.3f}",
            f"{facts['worst_ratio']:.2f}",
            facts["worst_workload"] or "",
            f"{facts['memory_ratio']:.3f}",
            *(_figure(result["instructions"].get(name, math.nan)) for _ in counted),
            ", ".join(facts["failed"]),
        )
    return table


def draw(result: dict[str, Any]) -> Any:
    """Times over the best of all, as a figure."""
    rows = result["rows"]
    names = list(result["allocators"])
    figure = new_figure(9, 2.0 + 0.25 * len(rows))
    axes = figure.add_subplot()
    for name in names:
        best = [
            min(f["ns_per_operation"] for f in r["allocators"].values() if "error" not in f) for r in rows
        ]
        over = [
            r["allocators"][name].get("ns_per_operation", math.nan) / b
            for r, b in zip(rows, best, strict=True)
        ]
        ours = name == alloc.OURS
        axes.plot(over, range(len(rows)), "D" if ours else "o", markersize=7 if ours else 4, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.axvline(1.0, color="grey", linewidth=0.5)
    axes.grid(axis="y", linewidth=0.3)
    axes.set_yticks(
        range(len(rows)), [f"{r['workload']}, {plural(r['threads'], 'thread')}" for r in rows], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlabel("time over that of the fastest (less is better)")
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return figure


@click.command()
@click.option(
    "--peer", "peers", multiple=True, metavar="NAME=LIB.so", help="One more allocator; may be repeated."
)
@click.option("--workload", "names", multiple=True, help="Only this workload; may be repeated.")
@click.option("--threads", metavar="N,N,...", help="Numbers of threads; default 1, all cores, twice as many.")
@click.option(
    "--repeats",
    default=3,
    show_default=True,
    help="Runs of each, of which the median counts; up to three times as many where they scatter.",
)
@click.option("--scale", default=0.25, show_default=True, help="Amount of work.")
@click.option(
    "--timeout",
    type=SECONDS,
    default=300.0,
    show_default=True,
    help="Seconds after which a run has failed.",
)
@json_option
@plot_option
@click.option("--list", "only_list", is_flag=True, help="List workloads and allocators found, and end.")
def command(
    peers: tuple[str, ...],
    names: tuple[str, ...],
    threads: str | None,
    repeats: int,
    scale: float,
    timeout: float,
    json_file: str | None,
    plot_file: str | None,
    only_list: bool,
) -> None:
    """Compare the allocator with every other one found, by LD_PRELOAD.

    Exit code 1: this one, or one that was named by --peer, failed in a workload.
    """
    found = alloc.find_peers(peers)
    if only_list:
        console = plain_console()
        for workload in alloc.workloads():
            console.print(f"{workload.name:18} {workload.what}")
        for name, path in {alloc.OURS: str(alloc.own_library()), **found}.items():
            console.print(f"{name:18} {path or 'the C library'}")
        return
    refuse_ranks("bench alloc")
    counts = _thread_counts(threads)
    with progress_bar(alloc.runs(names or None, counts, repeats, len(found) + 1)) as advance:
        result = alloc.compare(
            found,
            names=names or None,
            threads=counts,
            repeats=repeats,
            scale=scale,
            timeout=timeout,
            advance=advance,
        )
    result["instructions"] = alloc.instructions(result["allocators"])
    give(result, json_file, plot_file, draw, show)
    named = {peer.partition("=")[0] for peer in peers}
    if any(result["summary"][name]["failed"] for name in {alloc.OURS, *named}):
        sys.exit(1)


def _note_on_cpus(result: dict[str, Any]) -> str:
    note = "Each thread is pinned to a CPU of its own"
    free = sorted({row["threads"] for row in result["rows"] if not row["pinned"]})
    if free:
        note += f"; those of rows with {', '.join(map(str, free))} threads run where the scheduler puts them"
    return f"{note}. taskset chooses the CPUs."


def show(result: dict[str, Any]) -> None:
    """Print the tables, and what failed."""
    console = plain_console()
    for table in _tables(result):
        print_table(console, table)
    console.print(_note_on_cpus(result))
    for row in result["rows"]:
        for name, figures in row["allocators"].items():
            if "error" in figures:
                console.print(f"{row['workload']} ({row['threads']}): {name} failed: {figures['error']}")
