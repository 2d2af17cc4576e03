# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc bench public``."""

from __future__ import annotations

import sys

import click

from ...bench import alloc, public
from ...exceptions import HpcallocError, message
from ..mpi import refuse_ranks
from ..options import SECONDS
from .alloc import draw, show
from .output import give, json_option, plot_option, progress_bar

__all__ = ["command"]


@click.command()
@click.option(
    "--list",
    "list_file",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    help="List of the programs; benchmarks/public.ini of the source tree shows the format.",
)
@click.option(
    "--programs",
    default=".",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of the built programs: {programs} in the list.",
)
@click.option("--only", "names", multiple=True, metavar="NAME", help="Only this program; may be repeated.")
@click.option(
    "--peer", "peers", multiple=True, metavar="NAME=LIB.so", help="One more allocator; may be repeated."
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Runs of each, of which the median counts; up to three times as many where they scatter.",
)
@click.option(
    "--timeout", type=SECONDS, default=600.0, show_default=True, help="Seconds after which a run has failed."
)
@json_option
@plot_option
def command(
    list_file: str,
    programs: str,
    names: tuple[str, ...],
    peers: tuple[str, ...],
    repeats: int,
    timeout: float,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Compare the allocator with others on programs of others, by LD_PRELOAD.

    The programs are built elsewhere; nothing is fetched or built. Exit code 1: this allocator, or one that was named by
    --peer, failed in a program.
    """
    refuse_ranks("bench public")
    listed = public.read_list(list_file, programs)
    known = [program.name for program in listed]
    for name in names:
        if name not in known:
            raise HpcallocError(
                message(
                    "bench public", f"there is no program {name!r}", ", ".join(known), "name one of these"
                )
            )
    chosen = [program for program in listed if not names or program.name in names]
    for program in chosen:
        if program.missing:
            click.echo(f"{program.name} is left out: there is no {program.missing}", err=True)
    rows = public.jobs(chosen, timeout)
    if not rows:
        raise HpcallocError(
            message(
                "bench public",
                f"no program of {list_file} is in {programs}",
                "built programs",
                "--programs DIR",
            )
        )
    found = alloc.find_peers(peers)
    with progress_bar(len(rows) * repeats * (len(found) + 1)) as advance:
        result = alloc.measure_jobs(rows, found, repeats=repeats, advance=advance)
    result |= {"instructions": {}, "unit": "ms", "per": 1e6}
    give(result, json_file, plot_file, draw, show)
    named = {peer.partition("=")[0] for peer in peers}
    if any(result["summary"][name]["failed"] for name in {alloc.OURS, *named}):
        sys.exit(1)
