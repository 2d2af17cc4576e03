#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A table and a plot of the JSON files that a job's solvers left.

summary.py placement DIR [--plot FILE]    KIND-ROUND.json of job_mpi_placement.sh: rates, medians over the rounds
summary.py scaling DIR [--plot FILE]      strong-RANKS.json, weak-RANKS.json of job_mpi_scaling.sh

Needs rich, which hpcalloc brings, and matplotlib for plots. Exit 1 if there is nothing to show or a result was wrong.
"""

import argparse
import json
import pathlib
import statistics
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

Runs = dict[str, list[dict[str, Any]]]


def load(directory: pathlib.Path, what: str) -> Runs:
    """Figures of every WORD-NUMBER.json, by word, in the order of the numbers."""
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for file in directory.glob("*-*.json"):
        word, _, number = file.stem.rpartition("-")
        if number.isdigit():
            found.setdefault(word, []).append((int(number), json.loads(file.read_text())))
    kinds = {"placement": ("bound", "unbound", "interleaved"), "scaling": ("strong", "weak")}[what]
    runs = {kind: [f for _, f in sorted(found[kind], key=lambda x: x[0])] for kind in kinds if kind in found}
    if not runs:
        raise SystemExit(f"summary: no {' or '.join(f'{k}-*.json' for k in kinds)} in {directory}")
    if wrong := [f["what"] for each in runs.values() for f in each if not f["good"]]:
        raise SystemExit(f"summary: wrong results: {'; '.join(wrong)}")
    return runs


def run_of(figures: dict[str, Any]) -> dict[str, Any]:
    """The one run of a file, made with hpcalloc or without."""
    (run,) = figures["runs"].values()
    return run


def local(figures: dict[str, Any]) -> str:
    """Share of local pages as the report has it; plain NumPy has none."""
    summary = figures.get("report", {}).get("summary", {})
    if summary.get("unknown"):
        return "unknown"
    fraction = summary.get("local_fraction")
    return "-" if fraction is None else f"{int(1000 * fraction) / 10:.1f} %"


def placement(runs: Runs, plot: str | None) -> Table:
    """Rates of all ranks together; every row against the one that neither binds nor places."""
    unit = next(iter(runs.values()))[0]["unit"]
    rates = {kind: [run_of(f)["rate"] for f in each] for kind, each in runs.items()}
    base = statistics.median(rates["unbound"]) if "unbound" in rates else None
    table = Table(
        "placement", "ranks", "rounds", f"median {unit}", "least", "most", "against unbound", "local pages"
    )
    for kind, values in rates.items():
        median = statistics.median(values)
        numbers = (f"{value:.2f}" for value in (median, min(values), max(values)))
        ratio = f"{median / base:.3f}" if base else "-"
        table.add_row(
            kind, str(runs[kind][0]["ranks"]), str(len(values)), *numbers, ratio, local(runs[kind][-1])
        )
    if plot:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        medians = [statistics.median(values) for values in rates.values()]
        low = [m - min(v) for m, v in zip(medians, rates.values(), strict=True)]
        high = [max(v) - m for m, v in zip(medians, rates.values(), strict=True)]
        axes.bar(list(rates), medians, yerr=[low, high], capsize=6)
        axes.set_ylabel(f"{unit}, all ranks; median, least and most")
        axes.set_title(f"{next(iter(runs.values()))[0]['solver']} by placement")
        figure.savefig(plot)
    return table


def scaling(runs: Runs, plot: str | None) -> Table:
    """Speed-up and efficiency by rate, so that one more iteration of a larger cube counts for no loss."""
    table = Table("scaling", "ranks", "points", "seconds", "rate", "speed-up", "efficiency", "local pages")
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for kind, each in runs.items():
        first = run_of(each[0])["rate"] / each[0]["ranks"]
        for figures in each:
            run, ranks = run_of(figures), figures["ranks"]
            speedup = run["rate"] / first
            x, y = curves.setdefault(kind, ([], []))
            x.append(ranks)
            y.append(speedup if kind == "strong" else speedup / ranks)
            rate = f"{run['rate']:.2f} {figures['unit']}"
            table.add_row(
                *(kind, str(ranks), f"{figures['options']['size']}^3", f"{run['seconds']:.3f}", rate),
                *(f"{speedup:.2f}", f"{100 * speedup / ranks:.0f} %", local(figures)),
            )
    if plot:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        for axes, kind in zip(figure.subplots(1, 2), ("strong", "weak"), strict=True):
            x, y = curves.get(kind, ([], []))
            axes.plot(x, y, "o-", label="measured")
            axes.plot(x, x if kind == "strong" else [1.0] * len(x), "--", label="ideal")
            axes.set(title=f"{kind} scaling", xlabel="ranks", xscale="log", xticks=x, xticklabels=map(str, x))
            axes.set_xticks([], minor=True)
            axes.set_ylabel("speed-up" if kind == "strong" else "efficiency")
            axes.set_ylim(bottom=0)
            axes.legend()
        figure.savefig(plot)
    return table


def main() -> int:
    """Read, draw, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["placement", "scaling"])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--plot", metavar="FILE", help="png, svg or pdf")
    chosen = parser.parse_args()
    table = {"placement": placement, "scaling": scaling}[chosen.what](
        load(chosen.directory, chosen.what), chosen.plot
    )
    Console(width=None if sys.stdout.isatty() else 110, highlight=False).print(table)
    if chosen.plot:
        print(f"plot: {chosen.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
