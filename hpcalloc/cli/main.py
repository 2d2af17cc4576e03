# SPDX-License-Identifier: BSD-3-Clause
"""The group of verbs, and what becomes of errors."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import click
from click.exceptions import Exit

from ..discover.launcher import global_rank
from ..discover.terminal import is_of_output
from ..discover.variables import report_unknown
from ..exceptions import HpcallocError
from .lazy import LazyGroup

# verb -> what the list says about it; the module is hpcalloc.cli.<verb>, the command in it is called `command`
VERBS = {
    "topology": "Packages, NUMA nodes, cores and distances of a machine.",
    "plan": "Which nodes, CPUs and threads N ranks on a host would get, and why.",
    "bench": "Measure: this allocator beside others.",
    "run": "Start a program pinned, with threads and memory to match; under mpirun, srun or alone.",
    "config": "Flags and files for C, C++, Fortran and CMake, of this installation.",
    "jobscript": "Write a Slurm job script for a program, planned for a compute node.",
    "compare": "Which placement is best for a program: run it under several, in turns.",
    "ps": "Running processes: ranks, threads, CPUs, and the nodes their memory is on.",
    "doctor": "What is wrong with where and how this job runs, and what mends it.",
    "report": "What this process or job may do, how it is bound, and where its memory goes.",
}


BROKEN_PIPE, INTERRUPTED = 128 + signal.SIGPIPE, 128 + signal.SIGINT  # as shells tell of these signals


class Verbs(LazyGroup):
    """The verbs of hpcalloc."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Run hpcalloc; what is written to a closed standard output is an error, not nothing."""
        if sys.stdout is None:
            sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: SIM115  # takes the free descriptor 1
        if sys.stderr is None:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        return super().main(*args, **more)

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        """Read the words; some, as --help, are answered here."""
        with _told("hpcalloc"):
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb."""
        if global_rank(os.environ)[0] == 0:
            report_unknown(os.environ)
        with _told(ctx.invoked_subcommand or (ctx.args or ["hpcalloc"])[0]):
            return super().invoke(ctx)


@contextlib.contextmanager
def _told(verb: str) -> Iterator[None]:
    """Make one line and exit code 2 of what is refused and of output that can't be written, and no other verb's code."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here and not at exit, when nobody can say what is wrong
    except HpcallocError as error:
        raise _Refused(str(error)) from error
    except KeyboardInterrupt:
        raise Exit(INTERRUPTED) from None
    except OSError as error:
        if not is_of_output(error):
            raise
        with contextlib.suppress(OSError, ValueError):  # what is still to be written can't be
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # whoever reads has had enough
            raise Exit(BROKEN_PIPE) from None
        raise _Refused(f"{verb}: standard output: {error.strerror}") from error


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
