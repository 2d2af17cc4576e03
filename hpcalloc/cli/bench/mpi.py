# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc bench mpi``."""

from __future__ import annotations

import os
import statistics
import sys
from typing import Any

import click
from rich.progress import TimeElapsedColumn
from rich.table import Table

from ..._text import percent, plural
from ...bench import mpi
from ..console import plain_console, print_table
from ..mpi import refuse_ranks
from ..options import SECONDS
from .output import give, json_option, new_figure, plot_option, progress_bar

__all__ = ["command"]


def _local(row: dict[str, Any]) -> str:
    pages = row["pages"]
    if pages["unknown"]:
        return "unknown"
    return percent(pages["local"] / pages["touched"] if pages["touched"] else None)


def _table(result: dict[str, Any]) -> Table:
    here = result["machine"]
    table = Table(
        title=f"{here['processor']}, {here['cpus']} CPUs, {result['ranks']} ranks, {here['mpi']}, "
        f"NumPy {here['numpy']}, kernel {here['kernel']}",
        caption=f"median seconds of {result['repeats']} runs each, with and without in turns; ratio = hpcalloc over plain; "
        "page faults of a whole run without → with"
        + ("; --quick: sizes that say nothing about speed" if result["quick"] else ""),
    )
    table.add_column("solver", no_wrap=True)
    for name in ("plain", "hpcalloc", "ratio", "rate", "faults", "pages local"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verified", no_wrap=True)
    for row in result["rows"]:
        if "error" in row:
            table.add_row(row["solver"], *["-"] * 6, "no")
            continue
        runs = row["runs"]
        table.add_row(
            row["solver"],
            f"{runs['plain']['seconds']:.3f}",
            f"{runs['hpcalloc']['seconds']:.3f}",
            f"{row['ratio']:.3f}",
            f"{runs['hpcalloc']['rate']:.2f} {row['unit']}",
            f"{runs['plain']['page_faults']} → {runs['hpcalloc']['page_faults']}",
            _local(row),
            "yes",
        )
    return table


def _draw(result: dict[str, Any]) -> Any:
    rows = [row for row in result["rows"] if "error" not in row]
    figure = new_figure(max(6.0, 1.2 * len(rows)), 4)
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
        runs = row["runs"]
        base = runs["plain"]["seconds"]
        for name, at, colour in (("plain", i - 0.15, "tab:grey"), ("hpcalloc", i + 0.15, "tab:blue")):
            times = [seconds / base for seconds in runs[name]["all_seconds"]]
            label = name if i == 0 else None
            axes.bar(at, statistics.median(times), width=0.28, color=colour, label=label)
            axes.plot([at] * len(times), times, "k.", markersize=3)
    axes.axhline(1.0, color="black", linewidth=0.5)
    axes.set_xticks(range(len(rows)), [row["solver"] for row in rows], rotation=30, ha="right")
    axes.set_ylabel("time over plain NumPy's median (less is better)")
    axes.set_title(
        f"{result['machine']['processor']}, {plural(result['ranks'], 'rank')}; dots are runs", fontsize=9
    )
    if rows:
        figure.legend(loc="outside right upper")
    return figure


def _print(result: dict[str, Any]) -> None:
    console = plain_console()
    print_table(console, _table(result))
    for row in result["rows"]:
        if "error" in row:
            console.print(f"\n{row['solver']} failed:\n{row['error']}")


@click.command()
@click.option(
    "--ranks", type=click.IntRange(1), help="MPI ranks; one for each CPU of this process by default."
)
@click.option("--solver", "names", multiple=True, help="Only this one; may be repeated.")
@click.option(
    "--repeats", type=click.IntRange(1), default=5, show_default=True, help="Runs of each kind that count."
)
@click.option("--quick", is_flag=True, help="Small sizes: whether it works, nothing about speed.")
@click.option(
    "--examples", metavar="DIR", help="Folder of the solvers; by default those that came with hpcalloc."
)
@click.option(
    "--timeout",
    type=SECONDS,
    default=600.0,
    show_default=True,
    help="Seconds for one solver.",
)
@json_option
@plot_option
@click.option("--list", "only_list", is_flag=True, help="List the solvers and their options, and end.")
def command(
    ranks: int | None,
    names: tuple[str, ...],
    repeats: int,
    quick: bool,
    examples: str | None,
    timeout: float,
    json_file: str | None,
    plot_file: str | None,
    only_list: bool,
) -> None:
    """Compare MPI solvers with and without hpcalloc, by this environment's mpirun."""
    if only_list:
        console = plain_console()
        for name, options in mpi.SOLVERS.items():
            console.print(f"{name:15} {options[quick] or 'as it comes'}")
        return
    refuse_ranks("bench mpi")
    with progress_bar(len(names or mpi.SOLVERS), done=-1, clock=TimeElapsedColumn) as advance:
        result = mpi.compare(
            names,
            ranks=ranks if ranks is not None else len(os.sched_getaffinity(0)),
            repeats=repeats,
            quick=quick,
            examples=examples,
            timeout=timeout,
            advance=advance,
        )
    give(result, json_file, plot_file, _draw, _print)
    if any("error" in row for row in result["rows"]):
        sys.exit(1)
