# SPDX-License-Identifier: BSD-3-Clause
"""The group of verbs, and what becomes of errors."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any

import click

from ..discover.launcher import global_rank
from ..discover.variables import report_unknown
from ..exceptions import HpcallocError, message
from .lazy import LazyGroup

# verb -> what the list says about it; the module is hpcalloc.cli.<verb>, the command in it is called `command`
VERBS = {
    "topology": "Packages, NUMA nodes, cores and distances of a machine.",
    "plan": "Which nodes, CPUs and threads N ranks on a host would get, and why.",
    "bench": "Measure: this allocator beside others.",
    "run": "Start a program pinned, with threads and memory to match; under mpirun, srun or alone.",
    "jobscript": "Write a Slurm job script for a program, planned for a compute node.",
    "compare": "Which placement is best for a program: run it under several, in turns.",
    "ps": "Running processes: ranks, threads, CPUs, and the nodes their memory is on.",
    "doctor": "What is wrong with where and how this job runs, and what mends it.",
    "report": "What this process or job may do, how it is bound, and where its memory goes.",
}


class Verbs(LazyGroup):
    """The verbs of hpcalloc."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; what hpcalloc refuses is one line and exit code 2."""
        if global_rank(os.environ)[0] == 0:
            report_unknown(os.environ)
        try:
            try:
                return super().invoke(ctx)
            finally:
                if sys.stdout is not None:  # as it is where the descriptor is closed
                    sys.stdout.flush()  # here and not at exit, when nobody can say what is wrong
        except HpcallocError as error:
            raise _Refused(str(error)) from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with contextlib.suppress(OSError, ValueError):  # what is still to be written can't be
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise _Refused(
                message(
                    ctx.invoked_subcommand or "hpcalloc",
                    f"{error.strerror}",
                    "room for the output",
                    "make some",
                )
            ) from error


class _Refused(click.ClickException):
    exit_code = 2


@click.group(
    cls=Verbs,
    package=__package__,
    verbs=VERBS,
    heading="Verbs",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="hpcalloc")
def cli() -> None:
    """NUMA-aware memory for MPI and OpenMP programs."""
