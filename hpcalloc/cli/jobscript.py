# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc jobscript``."""

from __future__ import annotations

import json
from typing import Any

import click

from ..exceptions import HpcallocError, message
from ..plan.slurm import LAUNCHERS, PER_NODE, make_jobscript
from .options import number_or
from .topology import source_option, topology_of

__all__ = ["command"]


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--nodes", "-N", type=int, default=1, show_default=True, help="Nodes of the job.")
@click.option(
    "--ranks-per-node",
    callback=number_or(*PER_NODE),
    metavar="|".join(("N", *PER_NODE)),
    default="numa",
    show_default=True,
    help="A number, or one per NUMA node, socket or core.",
)
@click.option(
    "--threads",
    callback=number_or("auto"),
    metavar="N|auto",
    default="auto",
    show_default=True,
    help="Threads of a rank; auto: one per core of its share.",
)
@click.option("--launcher", type=click.Choice(LAUNCHERS), default="srun", show_default=True)
@click.option(
    "--mpi", help="srun's --mpi, such as pmix (Open MPI) or pmi2 (MPICH); by default the cluster's."
)
@click.option("--name", help="Of the job; by default the program's.")
@click.option("--time", help="Limit, such as 01:30:00.")
@click.option("--partition", "-p")
@click.option("--account", "-A")
@click.option("--memory", help="Per node, such as 64G; by default all.")
@click.option("--array", help="Indexes of an array job, such as 0-7; the program finds SLURM_ARRAY_TASK_ID.")
@click.option("--check/--no-check", default=True, help="Begin with `hpcalloc doctor` and `hpcalloc report`.")
@source_option
@click.option("--output", "-o", type=click.Path(dir_okay=False, writable=True), help="Write to a file.")
@click.option("--json", "as_json", is_flag=True, help="Print the geometry, the plan and the script as JSON.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    source: str | None, output: str | None, as_json: bool, program: tuple[str, ...], **options: Any
) -> None:
    """Write a Slurm job script for PROGRAM, planned for a compute node.

    That node is this machine, or what --topology names; one can be recorded on a compute node by
    `srun lstopo --of xml > node.xml`. Impossible geometry is refused.
    """
    job = make_jobscript(topology_of(source), program, **options)
    if as_json:
        facts = {
            "nodes": job.nodes,
            "ranks_per_node": job.ranks_per_node,
            "threads": job.threads,
            "plan": job.plan.to_dict(),
            "script": job.text,
        }
        text = json.dumps(facts, indent=2) + "\n"
    else:
        text = job.text
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        # Words that are no UTF-8 are written as they were given.
        with open(output, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
    except OSError as error:
        raise HpcallocError(
            message(f"--output {output}", str(error.strerror), "a file that can be written", "choose another")
        ) from error
