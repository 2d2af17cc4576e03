# SPDX-License-Identifier: BSD-3-Clause
"""The group of verbs, and how errors end."""

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
    "topology": "Draw packages, NUMA nodes and cores of a machine; list distances.",
    "plan": "Show which nodes, CPUs and threads N ranks on a host would get, and why.",
    "bench": "Measure this allocator, memory and solvers beside others.",
    "run": "Start a program pinned, with threads and memory to match, under mpirun, srun or alone.",
    "config": "Flags and files for C, C++, Fortran and CMake, of this installation.",
    "jobscript": "Write a Slurm job script for a program, planned for a compute node.",
    "compare": "Run a program under several placements in turns, and say which is best.",
    "ps": "Show ranks, threads, CPUs, and memory by node of running processes.",
    "doctor": "Check binding, threads, limits, kernel and MPI of this job, and say what mends each fault.",
    "report": "Show what this process or job may do, how it is bound, and where its memory goes.",
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
    """If a verb refuses, or its output can't be written, print one line and exit with 2, which no verb uses otherwise."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, since at exit an error could not be reported
    except HpcallocError as error:
        raise _Refused(str(error)) from error
    except KeyboardInterrupt:
        raise Exit(INTERRUPTED) from None
    except OSError as error:
        if not is_of_output(error):
            raise
        with contextlib.suppress(OSError, ValueError):  # what is still to be written can't be
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # the reader has closed the pipe
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
