# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc doctor``: what is wrong with the placement of this job, and what mends it."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import click

from .._text import device_text
from ..discover.terminal import is_of_output
from ..doctor.devices import devices_of
from ..doctor.diagnosis import diagnose
from ..doctor.finding import SEVERITIES, Finding, is_healthy
from ..doctor.host import Host
from ..doctor.job import FAILED, examine_job
from ..exceptions import HpcallocError
from .options import SECONDS, json_flag

__all__ = ["command"]

SCHEMA = 1  # of the JSON; goes up when a key changes its meaning
HEALTHY, FOUND = 0, 1  # exit codes
DEVICES = 16  # ranks whose devices are listed


@click.command()
@json_flag
@click.option("--quiet", is_flag=True, help="Print warnings and errors only: nothing on a healthy run.")
@click.option(
    "--mpi/--no-mpi", "mpi", default=None, help="Gather over MPI ranks; by default where a launcher is seen."
)
@click.option(
    "--timeout",
    type=SECONDS,
    default=60.0,
    show_default=True,
    help="Seconds to wait for the other ranks.",
)
def command(as_json: bool, quiet: bool, mpi: bool | None, timeout: float) -> None:
    """Check where and how this job runs: binding, threads, limits, kernel, MPI.

    Start it as the program will be started: `mpirun -n 8 hpcalloc doctor`, `srun hpcalloc doctor`. All ranks take
    part and rank 0 prints each fault with what was seen, what it costs and the line that mends it.

    Exit code: 0 healthy (notes do not count), 1 warnings or errors were found, 2 the check itself failed. It is the
    same on all ranks that MPI connects. MPICH's mpirun may turn a 1 into a 9: it kills ranks that are about to exit.
    """

    def report(hosts: tuple[Host, ...]) -> int:
        findings = diagnose(hosts)
        healthy = is_healthy(findings)
        shown = tuple(f for f in findings if not quiet or f.severity != "note")
        other = hosts[0].ranks[0].rank > 0  # a rank alone beside rank 0
        if as_json:
            click.echo(json.dumps(_dict(shown, hosts), indent=2))
        elif not (healthy and (quiet or other)):
            click.echo(_text(findings, shown, hosts))
        return HEALTHY if healthy else FOUND

    try:
        code = examine_job(mpi, timeout, report)
    except Exception as error:
        if isinstance(error, HpcallocError) or (isinstance(error, OSError) and is_of_output(error)):
            raise  # one line and exit code 2
        traceback.print_exc()  # Python's own exit code means something else here
        code = FAILED
    sys.exit(code)


def _unchecked(hosts: tuple[Host, ...]) -> list[str]:
    mine = hosts[0].ranks[0]
    others = (mine.launcher_size or 1) - 1
    alone = others > 0 and (mine.mpi_size or 1) == 1
    return (
        [f"{others} other rank{'s' if others > 1 else ''}, not connected to this one by MPI"] if alone else []
    )


def _dict(findings: tuple[Finding, ...], hosts: tuple[Host, ...]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "healthy": is_healthy(findings),
        "ranks": sum(len(host.ranks) for host in hosts),
        "hosts": len(hosts),
        "launcher": hosts[0].launcher,
        "findings": [finding.to_dict() for finding in findings],
        "devices": {
            str(rank.rank): told for host in hosts for rank in host.ranks if (told := devices_of(host, rank))
        },
        "unchecked": _unchecked(hosts),
    }


def _text(findings: tuple[Finding, ...], shown: tuple[Finding, ...], hosts: tuple[Host, ...]) -> str:
    blocks = [finding.to_text() for finding in shown]
    counts = [
        f"{n} {word}{'s' if n > 1 else ''}"
        for word in SEVERITIES
        if (n := sum(finding.severity == word for finding in findings))
    ]
    ranks = [rank for host in hosts for rank in host.ranks]
    who = f"{len(ranks)} rank{'s' if len(ranks) > 1 else ''} on {len(hosts)} host{'s' if len(hosts) > 1 else ''}"
    if len(ranks) == 1 and ranks[0].size > 1:
        who = f"rank {ranks[0].rank} of {ranks[0].size}, alone"
    verdict = f"{'healthy' if is_healthy(findings) else 'not healthy'}: {who}"
    verdict += f"; {', '.join(counts)}" if counts else ""
    verdict += "".join(f"; not checked: {text}" for text in _unchecked(hosts))
    devices = [
        f"rank {rank.rank}: {', '.join(map(device_text, told))}"
        for host in hosts
        for rank in host.ranks
        if (told := devices_of(host, rank))
    ]
    if devices:
        more = f"\n  and of {len(devices) - DEVICES} more ranks" if len(devices) > DEVICES else ""
        blocks.append("devices:\n  " + "\n  ".join(devices[:DEVICES]) + more)
    return "\n\n".join([*blocks, verdict])
