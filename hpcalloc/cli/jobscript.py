# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc jobscript``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click

from ..exceptions import HpcallocError, message
from ..plan.slurm import HINTS, LAUNCHERS, PER_NODE, make_jobscript
from .options import number_or
from .topology import machine_of, source_option

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
@click.option("--name", help="Name of the job; by default the program's.")
@click.option("--time", help="Time limit, such as 01:30:00.")
@click.option("--partition", "-p")
@click.option("--account", "-A")
@click.option("--mem", "--memory", "memory", help="Memory per node, such as 64G; by default all.")
@click.option("--hint", type=click.Choice(HINTS), help="nomultithread: no hardware threads beyond cores.")
@click.option("--log", help="sbatch's --output, such as logs/%x-%j.out.")
@click.option("--setup", multiple=True, help="A line of shell that comes first: 'module load openmpi'.")
@click.option("--venv", metavar="DIR", help="Virtual environment of the job; by default hpcalloc's own.")
@click.option("--array", help="Indexes of an array job, such as 0-7; the program finds SLURM_ARRAY_TASK_ID.")
@click.option("--check/--no-check", default=True, help="Begin with `hpcalloc doctor` and `hpcalloc report`.")
@source_option
@click.option(
    "--ask-node", is_flag=True, help="Plan on a compute node: srun starts this command on one first."
)
@click.option("--output", "-o", type=click.Path(dir_okay=False, writable=True), help="Write to a file.")
@click.option("--json", "as_json", is_flag=True, help="Print the geometry, the plan and the script as JSON.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    source: str | None,
    ask_node: bool,
    output: str | None,
    as_json: bool,
    program: tuple[str, ...],
    venv: str | None,
    **options: Any,
) -> None:
    """Write a Slurm job script for PROGRAM, planned for a compute node.

    That node is this machine, one that --ask-node lets Slurm choose, or what --topology names, such as the file that
    `srun lstopo --of xml > node.xml` writes. Geometry that the node does not
    have is refused.
    """
    if ask_node and source is not None:
        raise HpcallocError(message("jobscript", "--ask-node and --topology", "one of them"))
    if ask_node:
        _write(_asked(options["partition"], options["account"]), output)
        return
    venv = os.path.abspath(os.path.expanduser(venv)) if venv is not None else _own_prefix()
    job = make_jobscript(machine_of(source, devices=False)[0], program, venv=venv, **options)
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
    _write(text, output)


def _own_prefix() -> str | None:
    """Folder that has ``bin/hpcalloc``; None for the system's, which is on every PATH."""
    if sys.prefix != sys.base_prefix:
        return sys.prefix
    found = shutil.which("hpcalloc")
    prefix = os.path.dirname(os.path.dirname(found)) if found is not None else "/usr"
    return None if prefix in ("/usr", "/usr/local") else prefix


def _asked(partition: str | None, account: str | None) -> str:
    """What this command says on a compute node with all of it."""
    srun = ["srun", "--nodes=1", "--ntasks=1", "--exclusive", "--whole", "--cpu-bind=none", "--mpi=none"]
    srun += [f"--{key}={value}" for key, value in (("partition", partition), ("account", account)) if value]
    command = [*srun, sys.executable, "-m", "hpcalloc", "jobscript", *_words(click.get_current_context())]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    except OSError as error:
        limit = "a machine that jobs are submitted from"
        raise HpcallocError(message("--ask-node", f"srun: {error.strerror}", limit)) from error
    if done.returncode != 0:
        raise HpcallocError(message("--ask-node", f"exit code {done.returncode} of {' '.join(srun)}", "0"))
    return os.fsdecode(done.stdout)


def _words(context: click.Context) -> Iterator[str]:
    """The command line again, without what is done here."""
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if (
            not isinstance(option, click.Option)
            or option.name in ("ask_node", "output")
            or value in (None, ())
        ):
            continue
        if option.is_flag:
            yield from option.opts if value else option.secondary_opts
        else:
            yield from (f"{option.opts[0]}={v}" for v in (value if option.multiple else [value]))
    yield from ("--", *context.params["program"])


def _write(text: str, output: str | None) -> None:
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
