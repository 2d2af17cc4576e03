# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc plan``."""

from __future__ import annotations

import json

import click
from rich.table import Table

from ..plan.ranks import make_plan
from .console import plain_console, print_table
from .options import json_flag, smt_option, threads_option
from .topology import source_option, topology_of

__all__ = ["command"]


@click.command()
@click.option("-n", "ranks", type=int, required=True, help="Ranks on the host.")
@threads_option
@smt_option
@source_option
@json_flag
def command(ranks: int, threads: int | str, smt: bool, source: str | None, as_json: bool) -> None:
    """Show which nodes, CPUs and threads N ranks on a host would get, and why."""
    plan = make_plan(topology_of(source), ranks, threads=threads, smt=smt)  # type: ignore[arg-type]
    facts = plan.to_dict()
    for share in facts["ranks"]:
        share["environment"] = plan.omp_environment(share["local_rank"])
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    console = plain_console()
    console.print(f"{facts['source']}, {ranks} rank(s): {'; '.join(facts['reasons'])}")
    table = Table()
    for name in ("local rank", "nodes", "CPUs", "threads", "memory"):
        table.add_column(name, no_wrap=True, min_width=len(name))  # of the two words, or one would be enough
    table.add_column("why")
    for share in facts["ranks"]:
        table.add_row(
            str(share["local_rank"]),
            ",".join(map(str, share["nodes"])),
            share["cpus"],
            str(share["threads"]),
            share["memory"],
            "; ".join(share["reasons"]),
        )
    print_table(console, table, wrap=True)
