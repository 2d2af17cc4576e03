# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc bench mpi``."""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ...bench import mpi
from ...exceptions import HpcallocError
from ...report import percent

__all__ = ["command"]


def _local(row: dict[str, Any]) -> str:
    pages = row["pages"]
    if pages["unknown"]:
        return "unknown"
    return percent(pages["local"] / pages["touched"] if pages["touched"] else None)


def _title(result: dict[str, Any]) -> str:
    here = result["machine"]
    return (
        f"{here['processor']}, {here['cpus']} CPUs, {result['ranks']} ranks, {here['mpi']}, "
        f"NumPy {here['numpy']}, kernel {here['kernel']}"
    )


def _caption(result: dict[str, Any]) -> str:
    return (
        f"median seconds of {result['repeats']} runs each, with and without in turns; ratio = hpcalloc over plain; "
        "page faults of a whole run without > with"
        + ("; --quick: sizes that say nothing about speed" if result["quick"] else "")
    )


def _table(result: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("solver", no_wrap=True)
    for name in ("plain", "hpcalloc", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in (
        "rate",
        "faults",
        "pages local",
    ):  # where there is little room these take two lines, none is cut
        table.add_column(name, justify="right", overflow="fold")
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
            f"{runs['plain']['page_faults']} > {runs['hpcalloc']['page_faults']}",
            _local(row),
            "yes",
        )
    return table


def _plot(result: dict[str, Any], path: str) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise HpcallocError("--plot needs matplotlib; pip install 'hpcalloc[plot]'") from None
    rows = [row for row in result["rows"] if "error" not in row]
    figure = Figure(figsize=(max(6.0, 1.2 * len(rows)), 4), layout="constrained")
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
    axes.set_ylabel("time over plain NumPy's median")
    axes.set_title(f"{result['machine']['processor']}, {result['ranks']} ranks")
    if rows:
        axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise HpcallocError(f"--plot {path}: {error}") from error


def _write(file: str, result: dict[str, Any]) -> None:
    try:
        Path(file).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise HpcallocError(f"--json {file}: {error}") from error


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
    "--examples", metavar="DIR", help="Folder of the solvers; examples/mpi of the source tree by default."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds for one solver.",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write all figures to a file.")
@click.option(
    "--plot", "plot_file", type=click.Path(dir_okay=False), help="Draw them to a file (png, svg, pdf)."
)
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
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if only_list:
        for name, options in mpi.SOLVERS.items():
            console.print(f"{name:15} {options[quick] or 'as it comes'}")
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task("", total=len(names or mpi.SOLVERS), completed=-1)
        result = mpi.compare(
            names,
            ranks=ranks if ranks is not None else len(os.sched_getaffinity(0)),
            repeats=repeats,
            quick=quick,
            examples=examples,
            timeout=timeout,
            advance=lambda name: progress.update(task, advance=1, description=name),
        )
    if json_file is not None:
        _write(json_file, result)
    if plot_file is not None:
        _plot(result, plot_file)
    console.print(_title(result))
    console.print(_table(result))
    console.print(_caption(result))
    failed = [row for row in result["rows"] if "error" in row]
    for row in failed:
        console.print(f"\n{row['solver']} failed:\n{row['error']}")
    if failed:
        sys.exit(1)
