# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc report``: what this process, or under a launcher each rank, may do and gets."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from .. import _native
from .._native.errors import name_of
from .._text import BINDINGS, plural, size_text
from ..context import Context, init
from ..discover.launcher import this_launch
from ..discover.proc import huge_pools, read_text, transparent_huge_pages
from ..discover.topology import format_ids
from ..exceptions import HpcallocError, message
from ..report.files import clear, merge
from ..report.report import ENDINGS, Report
from .mpi import mpi_option, world
from .options import bind_option, json_flag

__all__ = ["command"]


@click.command()
@json_flag
@bind_option("As of hpcalloc.init.")
@click.option(
    "--size",
    "mib",
    type=click.IntRange(1, 1 << 40),
    default=64,
    show_default=True,
    help="MiB of the self-test array.",
)
@mpi_option
@click.option(
    "--merge",
    "directories",
    multiple=True,
    metavar="DIRECTORY",
    help="Make a report of the files that ranks with HPCALLOC_REPORT left, instead of a self-test.",
)
@click.option("--output", metavar="FILE", help="Write to FILE.json, .txt or .html.")
@click.option(
    "--remove", is_flag=True, help="With --merge and --output: remove the files if no rank is missing."
)
def command(
    as_json: bool,
    bind: str,
    mib: int,
    mpi: bool | None,
    directories: tuple[str, ...],
    output: str | None,
    remove: bool,
) -> None:
    """Show what this process or job may do, how it is bound, and where its memory goes.

    Under mpirun or srun every rank takes part and rank 0 prints. The self-test makes an array, writes it, and
    asks the kernel where its pages are.
    """
    if output is not None and os.path.splitext(output)[1] not in ENDINGS:
        raise click.BadParameter(f"{output!r} ends in none of {', '.join(ENDINGS)}", param_hint="--output")
    if remove and not (directories and output):
        raise click.UsageError("--remove goes with --merge and --output")
    if directories:
        _refuse_self_test_options()
        merged = merge(directories)
        _give(merged, output, merged.to_json() + "\n" if as_json else merged.to_text())
        if remove:
            clear(directories, merged)
        return
    with init(world(mpi), bind=bind) as context:  # type: ignore[arg-type]  # click checks it
        array = context.ones(mib << 17)
        report = context.report()
        if context.rank == 0:
            here = machine(context)
            whole = dataclasses.replace(report, machine=here)
            _give(whole, output, whole.to_json() + "\n" if as_json else text(context, here, report))
        del array


def _refuse_self_test_options() -> None:
    here = click.get_current_context()
    options = {"bind": "--bind", "mib": "--size", "mpi": "--mpi/--no-mpi"}
    for name, option in options.items():
        if here.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option} is of the self-test, and --merge makes none; omit one of them")


def _give(report: Report, output: str | None, shown: str) -> None:
    """Write the report to a file, or print it."""
    if output is None:
        click.echo(shown, nl=False)
        return
    try:
        report.write(output)
    except OSError as error:
        raise HpcallocError(
            message("report", f"{output!r}: {error.strerror}", "a file that can be written", "choose another")
        ) from error


def machine(context: Context) -> dict[str, Any]:
    """Say what the machine offers and this process may do, in plain values."""
    launch = this_launch()
    can_bind, can_query = _native.can_bind(), _native.can_query()
    return {
        "topology": context.topology.to_dict(),
        "plan": context.plan.to_dict(),
        "launcher": {
            "name": launch.launcher,
            "local_rank": launch.local_rank,
            "local_size": launch.local_size,
        },
        "can_bind": can_bind == 0,
        "can_query": can_query == 0,
        "why_not": [name_of(code) for code in (can_bind, can_query) if code],
        "transparent_huge_pages": transparent_huge_pages("enabled") or None,
        "defrag": transparent_huge_pages("defrag") or None,
        "numa_balancing": read_text("/proc/sys/kernel/numa_balancing").strip() or None,
        "hugetlb": [pool._asdict() for pool in huge_pools(node.id for node in context.topology.nodes)],
        "python": sys.version.split()[0],
        "numpy": np.__version__,
    }


def text(context: Context, here: Mapping[str, Any], report: Report) -> str:
    """Write everything for people to read."""
    top = here["topology"]
    nodes = top["nodes"]
    lines = [
        f"machine: {plural(len(nodes), 'NUMA node')}, {plural(top['cores'], 'core')}, {plural(top['pus'], 'PU')}; "
        f"allowed: CPUs {top['allowed_cpus']}, nodes {top['allowed_nodes']}",
    ]
    lines += [f"  node {n['id']}: CPUs {n['cpus'] or 'none'}, {size_text(n['memory_bytes'])}" for n in nodes]
    yes_no = {True: "yes", False: "no"}
    why = f" ({'; '.join(dict.fromkeys(here['why_not']))})" if here["why_not"] else ""
    lines += [
        f"may place memory: {yes_no[here['can_bind']]}, "
        f"may ask for placement: {yes_no[here['can_query']]}{why}",
        f"transparent huge pages: {here['transparent_huge_pages'] or 'none'}, "
        f"explicit: {_pools(here['hugetlb'])}; NUMA balancing: {here['numa_balancing'] or 'none'}",
        f"launcher: {here['launcher']['name']}; this rank: {BINDINGS[context.action]}, "
        f"CPUs {format_ids(context.cpus)}",
        "",
        report.to_text(),
    ]
    return "\n".join(lines)


def _pools(pools: list[dict[str, int]]) -> str:
    used = [
        f"{p['total']} of {p['page_kib'] // 1024} MiB on node {p['node']} ({p['free']} free)"
        for p in pools
        if p["total"]
    ]
    return ", ".join(used) or "none"
