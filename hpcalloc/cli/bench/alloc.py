# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc bench alloc``."""

from __future__ import annotations

import math
import os
from typing import Any

import click
from rich.table import Table

from ...bench import alloc
from ..console import plain_console
from .output import give, json_option, new_figure, plot_option, progress_bar, thread_list

__all__ = ["command"]


def _thread_counts(text: str | None) -> list[int]:
    cores = len(os.sched_getaffinity(0))
    return sorted({1, cores, 2 * cores} if text is None else thread_list(text))


def _figure(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1f}" if value < 1e4 else f"{value:.3g}"


def _table(result: dict[str, Any]) -> Table:
    names = list(result["allocators"])
    table = Table(
        "workload", "threads", title="ns per operation; ratio = hpcalloc over the best of the others"
    )
    for name in [*names, "ratio", "best", "MiB", "ratio", "leanest"]:
        table.add_column(name, justify="right")
    for row in result["rows"]:
        figures = row["allocators"]
        table.add_row(
            row["workload"],
            str(row["threads"]),
            *("failed" if "error" in figures[n] else _figure(figures[n]["ns_per_operation"]) for n in names),
            f"{row['ratio']:.2f}",
            row["best_peer"],
            _figure(figures[alloc.OURS].get("peak_bytes", math.nan) / 2**20),
            f"{row['memory_ratio']:.2f}",
            row["leanest_peer"],
        )
    return table


def _summary_table(result: dict[str, Any]) -> Table:
    table = Table("allocator", title="geometric means, each over the best of the others")
    for name in ("time", "worst", "in", "peak memory", "instructions of a 64-byte pair", "failed"):
        table.add_column(name, justify="left" if name in ("in", "failed") else "right")
    for name, facts in sorted(result["summary"].items(), key=lambda item: item[1]["time_ratio"]):
        table.add_row(
            name,
            f"{facts['time_ratio']:.3f}",
            f"{facts['worst_ratio']:.2f}",
            facts["worst_workload"] or "",
            f"{facts['memory_ratio']:.3f}",
            _figure(result["instructions"].get(name, math.nan)),
            ", ".join(facts["failed"]),
        )
    return table


def _draw(result: dict[str, Any]) -> Any:
    rows = result["rows"]
    names = list(result["allocators"])
    figure = new_figure(max(8.0, 0.55 * len(rows)), 5)
    axes = figure.add_subplot()
    for name in names:
        best = [
            min(f["ns_per_operation"] for f in r["allocators"].values() if "error" not in f) for r in rows
        ]
        over = [
            r["allocators"][name].get("ns_per_operation", math.nan) / b
            for r, b in zip(rows, best, strict=True)
        ]
        axes.plot(range(len(rows)), over, "o-" if name == alloc.OURS else ".", label=name, linewidth=1)
    axes.set_yscale("log")
    axes.axhline(1.0, color="grey", linewidth=0.5)
    axes.set_xticks(
        range(len(rows)), [f"{r['workload']} ({r['threads']})" for r in rows], rotation=60, ha="right"
    )
    axes.set_ylabel("time over the best of all")
    axes.legend()
    return figure


@click.command()
@click.option(
    "--peer", "peers", multiple=True, metavar="NAME=LIB.so", help="One more allocator; may be repeated."
)
@click.option("--workload", "names", multiple=True, help="Only this workload; may be repeated.")
@click.option("--threads", metavar="N,N,...", help="Numbers of threads; default 1, all cores, twice as many.")
@click.option("--repeats", default=3, show_default=True, help="Runs of each, of which the median counts.")
@click.option("--scale", default=0.25, show_default=True, help="Amount of work.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds after which a run has failed.")
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
    """Compare the allocator with every other one found, by LD_PRELOAD."""
    found = alloc.find_peers(peers)
    if only_list:
        console = plain_console()
        for workload in alloc.workloads():
            console.print(f"{workload.name:18} {workload.what}")
        for name, path in {alloc.OURS: str(alloc.own_library()), **found}.items():
            console.print(f"{name:18} {path or 'the C library'}")
        return
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
    give(result, json_file, plot_file, _draw, _print)


def _print(result: dict[str, Any]) -> None:
    console = plain_console()
    console.print(_table(result))
    console.print(_summary_table(result))
    for row in result["rows"]:
        for name, figures in row["allocators"].items():
            if "error" in figures:
                console.print(f"{row['workload']} ({row['threads']}): {name} failed: {figures['error']}")
