# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc bench``: one module per benchmark, loaded when it is called."""

from __future__ import annotations

import click

from ..lazy import LazyGroup

__all__ = ["BENCHMARKS", "command"]

# name -> what the list says about it; the module is hpcalloc.cli.bench.<name>, the command in it is called `command`
BENCHMARKS = {
    "alloc": "The allocator beside every other one found, by LD_PRELOAD.",
    "bandwidth": "From each node's cores to each node's memory, over threads, of ranks; beside C STREAM.",
    "latency": "Of a load over working sets, in base and huge pages, from node to node.",
    "mpi": "MPI solvers with and without hpcalloc, interleaved.",
    "public": "The allocator beside others on programs of others, which were built elsewhere.",
    "numpy": "NumPy's temporaries and small arrays, by its own allocator and by ours.",
}


@click.group(cls=LazyGroup, package=__name__, verbs=BENCHMARKS, heading="Benchmarks")
def command() -> None:
    """Measure, side by side and interleaved."""
