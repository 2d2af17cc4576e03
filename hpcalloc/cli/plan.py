# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc plan``."""

from __future__ import annotations

import json
import os

import click
from rich.table import Table

from .._text import plural
from ..discover.devices import environment_of, parse_near
from ..discover.topology import ids_text
from ..plan.near import near_of
from ..plan.ranks import make_plan
from .console import plain_console, print_table
from .options import json_flag, near_option, smt_option, threads_option
from .topology import machine_of, source_option

__all__ = ["command"]


@click.command()
@click.option("-n", "ranks", type=int, required=True, help="Ranks on the host.")
@threads_option
@smt_option
@near_option
@source_option
@json_flag
def command(
    ranks: int, threads: int | str, smt: bool, near: str | None, source: str | None, as_json: bool
) -> None:
    """Show which nodes, CPUs and threads N ranks on a host would get, and why."""
    topology, devices = machine_of(source, near is not None)
    environ = os.environ if source is None else {}  # what is visible here says nothing of other machines
    wanted = (
        near_of("plan", devices, parse_near(near, "plan"), [environ], ranks) if near is not None else None
    )
    plan = make_plan(topology, ranks, threads=threads, smt=smt, near=wanted)  # type: ignore[arg-type]
    facts = plan.to_dict()
    for share, rank in zip(facts["ranks"], plan.ranks, strict=True):
        share["environment"] = (
            plan.omp_environment(rank.local_rank) | environment_of(rank.devices, environ)[0]
        )
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    console = plain_console()
    console.print(f"{os.path.basename(topology.source)}, {plural(ranks, 'rank')}:")
    for reason in plan.reasons:
        console.print(f"- {reason}")
    table = Table()
    for name in ("local rank", "nodes", "CPUs", "threads", "memory"):
        table.add_column(name, no_wrap=True, min_width=len(name))  # of the two words, or one would be enough
    if wanted:
        table.add_column("devices", min_width=max(len(d.name) for d in devices) + 1 if devices else 7)
    table.add_column("why", min_width=12)
    for share, rank in zip(facts["ranks"], plan.ranks, strict=True):
        table.add_row(
            str(share["local_rank"]),
            ",".join(map(str, share["nodes"])),
            ids_text(rank.cpus),
            str(share["threads"]),
            share["memory"],
            *([", ".join(d["name"] for d in share["devices"])] if wanted else []),
            "; ".join(share["reasons"]),
        )
    print_table(console, table, wrap=True)
