# SPDX-License-Identifier: BSD-3-Clause
"""The group of verbs. A verb's module is imported only when it is called, so that one's imports slow no other."""

from __future__ import annotations

import importlib
from typing import Any

import click

from ..exceptions import HpcallocError

# verb -> what the list says about it; the module is hpcalloc.cli.<verb>, the command in it is called `command`
VERBS = {
    "topology": "Packages, NUMA nodes, cores and distances of a machine.",
    "plan": "Which nodes, CPUs and threads N ranks on a host would get, and why.",
    "bench": "Measure: this allocator beside others.",
    "run": "Start a program pinned, with threads and memory to match; under mpirun, srun or alone.",
    "report": "What this process or job may do, how it is bound, and where its memory goes.",
}


class Verbs(click.Group):
    """A group whose commands are found by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The verb's command, None for an unknown one."""
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"{__package__}.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; what hpcalloc refuses is one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except HpcallocError as error:
            raise _Refused(str(error)) from error


class _Refused(click.ClickException):
    exit_code = 2


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hpcalloc")
def cli() -> None:
    """NUMA-aware memory for MPI and OpenMP programs."""
