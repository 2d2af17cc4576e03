# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc compare``: a program under several placements, and which of them is best."""

from __future__ import annotations

import statistics
import sys
from typing import Any

import click
from rich.table import Table

from .._text import plural
from ..bench import variants
from ..discover.topology import Topology
from .bench.output import give, json_option, new_figure, plot_option, progress_bar
from .console import plain_console, print_table
from .mpi import refuse_ranks
from .options import SECONDS

__all__ = ["command"]


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option(
    "-n", "--ranks", type=click.IntRange(1), help="MPI ranks; without it the program is one process."
)
@click.option(
    "--variants",
    "names",
    metavar="NAME,NAME...",
    default="",
    help=f"Which: {', '.join(variants.VARIANTS)}. By default all that differ on this machine.",
)
@click.option(
    "--metric",
    metavar="REGEX",
    help=r"The program's own figure in its output, such as 'time: ([\d.]+)'; by default seconds from start to end.",
)
@click.option("--higher", is_flag=True, help="A larger metric is better, such as a rate.")
@click.option(
    "--launcher",
    metavar="WORDS",
    help="How ranks are started, {n} for their number: 'mpirun -n {n} --bind-to none'. "
    "By default srun inside a Slurm job, else mpirun.",
)
@click.option(
    "--repeats", type=click.IntRange(1), default=8, show_default=True, help="Runs of each variant that count."
)
@click.option("--timeout", type=SECONDS, default=3600.0, show_default=True, help="Seconds for one run.")
@json_option
@plot_option
@click.argument("program", nargs=-1, type=click.UNPROCESSED, required=True, metavar="PROGRAM [ARGUMENTS]...")
def command(
    ranks: int | None,
    names: str,
    metric: str | None,
    higher: bool,
    launcher: str | None,
    repeats: int,
    timeout: float,
    json_file: str | None,
    plot_file: str | None,
    program: tuple[str, ...],
) -> None:
    """Run PROGRAM under several placements, in turns, and say which is best.

    `hpcalloc compare -n 8 -- python solver.py`. It runs one time more than --repeats for each variant; the first runs do not
    count. A variant differs if it does so by 2 % or more and chance would give that in less than 1 of 100 cases; below eight
    repeats nothing can be told from chance. Seconds from start to end are without those that the launcher takes.

    Exit code: 0 compared, 1 a variant failed, 2 the question can't be answered.
    """
    refuse_ranks("compare")
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    counts = variants.chosen(wanted, Topology.from_machine(), ranks)
    with progress_bar(len(counts) * (repeats + 1), done=-1) as advance:
        result = variants.compare(
            program,
            counts,
            launcher=launcher,
            repeats=repeats,
            metric=metric,
            higher=higher,
            timeout=timeout,
            advance=advance,
        )
    give(result, json_file, plot_file, _draw, _print)
    if any(row["errors"] for row in result["rows"]):
        sys.exit(1)


def _print(result: dict[str, Any]) -> None:
    console = plain_console()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    for name in ("VARIANT", "RANKS", "RUNS", "MEDIAN", "MIN", "MAX", "RATIO", "VERDICT"):
        table.add_column(name, justify="left" if name in ("VARIANT", "VERDICT") else "right", no_wrap=True)
    for row in result["rows"]:
        figures = row["figures"]
        three = (row["median"], min(figures), max(figures)) if figures else (None,) * 3
        table.add_row(
            row["variant"],
            "-" if row["ranks"] is None else str(row["ranks"]),
            str(len(figures)),
            *("-" if figure is None else f"{figure:.4g}" for figure in three),
            "-" if row.get("ratio") is None else f"{row['ratio']:.3f}",
            ("FAILED" if row["errors"] and not figures else row.get("verdict")) or "",
        )
    print_table(console, table)
    better = "more" if result["higher"] else "less"
    console.print(f"{result['metric']}: {better} is better")
    console.print("ratio: to as-launched, median over the turns; below 1 is better")
    for row in result["rows"]:
        for error in dict.fromkeys(row["errors"]):
            console.print(f"{row['variant']}: {plural(row['errors'].count(error), 'run')} failed: {error}")
    best = next((row for row in result["rows"] if row["variant"] == result["best"]), None)
    if best is not None:
        alike = f"; as good: {', '.join(result['alike'])}" if result["alike"] else ""
        console.print(
            f"\nbest: {best['variant']} ({best['what']}){alike}. In the job script:\n  {best['line']}"
        )
    elif any(row.get("verdict") == "too few runs" for row in result["rows"]):
        console.print("\ntoo few runs to tell a difference from chance: --repeats 8 or more")
    elif all(row["figures"] for row in result["rows"]):
        console.print("\nno placement is faster than as launched: what differs is within noise")


def _draw(result: dict[str, Any]) -> Any:
    rows = [row for row in result["rows"] if row["figures"]]
    figure = new_figure(7, 1.2 + 0.5 * len(rows))
    axes = figure.add_subplot()
    for at, row in enumerate(rows):
        axes.barh(
            at,
            statistics.median(row["figures"]),
            height=0.6,
            color="tab:green" if row["variant"] == result["best"] else "tab:grey",
        )
        axes.plot(row["figures"], [at] * len(row["figures"]), "k.", markersize=3)
    axes.set_yticks(range(len(rows)), [row["variant"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{result['metric']} ({'more' if result['higher'] else 'less'} is better)")
    axes.set_title(
        f"median of {result['repeats']} runs, each a dot"
        + (f"; best: {result['best']}" if result["best"] else "")
    )
    return figure
