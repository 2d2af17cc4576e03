# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc bench latency``."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ...bench import latency
from ...bench.sizes import mib
from ..console import plain_console, print_table
from ..mpi import refuse_ranks
from . import figures
from .output import give, json_option, mark, note_option, plot_option, progress_bar

__all__ = ["command"]


@click.command()
@click.option(
    "--size",
    type=click.IntRange(1),
    metavar="MIB",
    help="Largest working set; default 4 x the last-level cache.",
)
@click.option(
    "--small", is_flag=True, help="Allow one that fits into caches; 1 MiB unless --size says otherwise."
)
@click.option("--repeats", default=3, show_default=True, help="Measurements of each point.")
@click.option(
    "--steps", default=latency.Options.steps, show_default=True, help="Least loads of a measurement."
)
@note_option
@json_option
@plot_option
@click.pass_context
def command(
    ctx: click.Context,
    size: int | None,
    small: bool,
    repeats: int,
    steps: int,
    note: str,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Measure the time of a load over working sets, in base and huge pages.

    A chain of dependent loads through all lines of the set in random order, by one core; from the first node to its own
    and the farthest memory, and from each node to each at the largest set. Exit code 1 if a chain is broken or a page
    is not on its node.
    """
    refuse_ranks("bench latency")
    options = latency.Options(size << 20 if size is not None else None, small, repeats, steps)
    with progress_bar(latency.steps(options)) as advance:
        result = latency.measure(options, advance)
    if note:
        result["remarks"].insert(0, note)
    give(result, json_file, plot_file, figures.latency, _print)
    if not result["good"]:
        ctx.exit(1)


def _print(result: dict[str, Any]) -> None:
    console = plain_console()
    facts = result["machine"]
    console.print(f"{facts['processor']}, {facts['cpus']} CPUs; medians of {result['repeats']}")
    for remark in result["remarks"]:
        console.print(f"note: {remark}")
    _print_curves(console, result)
    if len(result["memory_nodes"]) > 1 or len(result["cpu_nodes"]) > 1:
        _print_matrix(console, result)
    points = result["points"]
    verified = sum(p["result_verified"] for p in points)
    unknown = next((p["unknown"] for p in points if p["unknown"]), None)
    placed = sum(p["placed"] is True for p in points)
    where = f"placement unknown (?): {unknown}" if unknown else f"{placed} with all pages on the node"
    verdict = "ok" if result["good"] else "FAILED"
    console.print(f"bench latency {verdict}: {len(points)} points, {verified} chains whole, {where}")


def _figure(point: dict[str, Any]) -> str:
    if not point["result_verified"]:
        return "BROKEN"
    return f"{point['ns']:.1f}" + mark(point["placed"])


def _cache(result: dict[str, Any], nbytes: int) -> str:
    for cache in result["caches"]:
        if nbytes <= cache["bytes"]:
            return f"L{cache['level']}"
    return "memory" if result["caches"] else ""


def _print_curves(console: Console, result: dict[str, Any]) -> None:
    first, nodes = result["cpu_nodes"][0], result["curve_nodes"]
    points = {
        (p["working_set_bytes"], p["memory_node"], p["pages_asked"]): p
        for p in result["points"]
        if p["cpu_node"] == first
    }
    table = Table("working set", "fits", title=f"ns a load, a CPU of node {first}, memory of the node")
    for node in nodes:
        for pages in latency.PAGES:
            table.add_column(f"{node}, {pages}", justify="right")
    for nbytes in sorted({size for size, node, _ in points if node in nodes}):
        size = mib(nbytes) if nbytes >= 1 << 20 else f"{nbytes / 1024:.4g} KiB"
        row = (points[nbytes, node, pages] for node in nodes for pages in latency.PAGES)
        table.add_row(size, _cache(result, nbytes), *map(_figure, row))
    print_table(console, table)
    had = [p["huge_fraction"] for p in result["points"] if p["pages_asked"] == "huge"]
    console.print(f"huge: {100 * min(had):.0f} % of the memory in transparent huge pages; base: none")


def _print_matrix(console: Console, result: dict[str, Any]) -> None:
    largest = result["largest_bytes"]
    for pages in latency.PAGES:
        table = Table("CPU of", title=f"ns a load, {mib(largest)}, {pages} pages")
        for node in result["memory_nodes"]:
            table.add_column(
                f"memory {node}" if len(result["memory_nodes"]) < 7 else str(node), justify="right"
            )
        cells = {
            (p["cpu_node"], p["memory_node"]): p
            for p in result["points"]
            if p["working_set_bytes"] == largest and p["pages_asked"] == pages
        }
        for cpu_node in result["cpu_nodes"]:
            row = (cells[cpu_node, node] for node in result["memory_nodes"])
            table.add_row(f"node {cpu_node}", *map(_figure, row))
        print_table(console, table)
