# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc ps``: processes that run now: ranks, threads, CPUs, and the nodes that their memory is on."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

from .._text import plain_text, size_text
from ..discover.running import Process, read_process, select
from ..discover.topology import Topology, format_ids, ids_text, parse_ids
from ..doctor.finding import Finding, merge
from ..doctor.running import examine, local_share, nodes_of
from ..exceptions import HpcallocError, message
from .options import SECONDS, json_flag

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["command"]

SCHEMA = 1  # of the JSON; goes up when a key changes its meaning
_SRUN_WAIT = 60  # seconds for a host of a job to answer
_STEPS = 16  # started at a time


@click.command()
@click.argument("pids", nargs=-1, type=click.IntRange(min=1), metavar="[PID]...")
@click.option(
    "--job", metavar="ID", help="All processes of a Slurm job, on all of its hosts (srun --overlap)."
)
@click.option("--user", "whole_user", is_flag=True, help="All of your processes on this host.")
@click.option("--threads", is_flag=True, help="A line for each thread as well.")
@click.option("--watch", type=SECONDS, metavar="SECONDS", help="Look again and again, until Ctrl-C.")
@json_flag
@click.option("--job-here", "job_here", hidden=True, metavar="ID")
def command(
    pids: tuple[int, ...],
    job: str | None,
    whole_user: bool,
    threads: bool,
    watch: float | None,
    as_json: bool,
    job_here: str | None,
) -> None:
    """Show where running processes have their threads and their memory, and what is wrong with that.

    Without an argument: the MPI ranks on this host that you may look at. Nothing is stopped or restarted. THREADS: those
    that run now, and all. NODES: where the threads last ran. LOCAL: share of the process's own and shared memory that is
    there. A field that can't be read without more
    rights is "?".

    Exit code: 0 nothing wrong, 1 warnings or errors were found, 2 the question can't be answered.
    """
    ways = [bool(pids), job is not None, whole_user, job_here is not None]
    if sum(ways) > 1:
        raise click.UsageError("PIDs, --job and --user exclude each other")
    if watch is not None and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    if job_here is not None:  # this host's part of --job, one line
        click.echo(json.dumps(_look(select(job=job_here))))
        return
    if watch is None:
        sys.exit(_show(_snapshots(pids, job, whole_user), threads, as_json))
    _watch(pids, job, whole_user, threads, watch)


def _watch(pids: tuple[int, ...], job: str | None, whole_user: bool, threads: bool, seconds: float) -> None:
    try:
        while True:
            if sys.stdout.isatty():
                click.clear()
            click.echo(time.strftime("%H:%M:%S"))
            _show(_snapshots(pids, job, whole_user), threads, as_json=False)
            time.sleep(seconds)
    except KeyboardInterrupt:
        sys.exit(0)


# ---- looking ----------------------------------------------------------------------------------------------


def _snapshots(pids: tuple[int, ...], job: str | None, whole_user: bool) -> list[dict[str, Any]]:
    if job is not None:
        return _over_hosts(job)
    if pids:
        seen = _look(pids)
        if not seen["processes"]:
            gone = ", ".join(map(str, pids))
            raise HpcallocError(
                message("ps", f"PID {gone}", "running processes of this host", "hpcalloc ps --user")
            )
        return [seen]
    if whole_user:
        return [_look(select(uid=os.getuid()))]
    chosen = select(ranks=True, uid=None if os.getuid() == 0 else os.getuid())
    if not chosen:
        raise HpcallocError(
            message(
                "ps",
                f"no MPI ranks of yours on {socket.gethostname()}",
                "processes that mpirun, srun and other launchers started",
                "name processes by PID, or all by --user, or a job by --job ID",
            )
        )
    return [_look(chosen)]


def _look(pids: Sequence[int]) -> dict[str, Any]:
    """Facts of some processes of this host, as plain values; sizes in bytes."""
    topology, host = Topology.from_machine(), socket.gethostname()
    found: list[Process] = []
    ended: list[int] = []
    closed: list[int] = []
    for pid in pids:
        try:
            found.append(read_process(pid))
        except ProcessLookupError:
            ended.append(pid)
        except PermissionError:
            closed.append(pid)
    return {
        "host": host,
        "processes": [
            {
                **process.to_dict(),
                "local_share": local_share(process, topology),
                "ran_on_nodes": format_ids(nodes_of(process.ran_on, topology)),
            }
            for process in found
        ],
        "ended": ended,
        "closed": closed,
        "findings": [finding.to_dict() for finding in examine(found, topology, host)],
    }


def _over_hosts(job: str) -> list[dict[str, Any]]:
    """Look on each host of a Slurm job by a step of one task there, beside the job's own steps."""
    if not re.fullmatch(r"\d+(_\d+)?(\+\d+)?", job):
        raise HpcallocError(
            message("ps --job", repr(job), "a job of Slurm: 123, 123_4 of an array, 123+1 of a mixed one")
        )
    for program in ("squeue", "scontrol", "srun"):
        if shutil.which(program) is None:
            raise HpcallocError(message("ps --job", f"{program} is not on the PATH", "Slurm's commands"))
    # An array's task has a number of its own, which its processes know.
    running = _answer(["squeue", "--noheader", "--states=RUNNING", f"--jobs={job}", "--format=%A %N"])
    places = [
        (number, host)
        for number, _, nodes in (line.strip().partition(" ") for line in running.splitlines())
        for host in _answer(["scontrol", "show", "hostnames", nodes]).split()
    ]
    if not places:
        raise HpcallocError(message("ps --job", f"job {job} does not run", "running jobs", "see squeue --me"))
    with ThreadPoolExecutor(min(len(places), _STEPS)) as pool:
        answers = list(pool.map(_on_host, places))
    silent = [
        f"{host}: {why}" for (_, host), (seen, why) in zip(places, answers, strict=True) if seen is None
    ]
    for line in silent[:8]:
        click.echo(f"hpcalloc ps: no answer from {line}", err=True)
    if len(silent) > 8:
        click.echo(f"hpcalloc ps: nor from {len(silent) - 8} more hosts", err=True)
    if len(silent) == len(places):
        raise HpcallocError(message("ps --job", f"job {job}", "hosts that srun --overlap reaches"))
    return [seen for seen, _ in answers if seen is not None]


def _on_host(place: tuple[str, str]) -> tuple[dict[str, Any] | None, str]:
    """The facts that a step on a host returns; None with the reason if it does not answer."""
    number, host = place
    step = [
        "srun", f"--jobid={number}", "--overlap", f"--nodelist={host}", "--nodes=1", "--ntasks=1", "--mem=0",
        "--cpu-bind=none", "--mpi=none", "--input=none", sys.executable, "-m", "hpcalloc", "ps", "--job-here", number,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            step, capture_output=True, text=True, errors="replace", timeout=_SRUN_WAIT, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"nothing within {_SRUN_WAIT} s"
    for line in done.stdout.splitlines():
        try:
            seen = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(seen, dict) and isinstance(seen.get("host"), str):
            return seen, ""
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return None, plain_text(said[-1] if said else f"srun ended with code {done.returncode}")


def _answer(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_SRUN_WAIT, check=False
        )
    except subprocess.TimeoutExpired:
        raise HpcallocError(message("ps --job", f"{words[0]}: no answer", f"{_SRUN_WAIT} s")) from None
    if done.returncode != 0:
        why = next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise HpcallocError(
            message("ps --job", f"{words[0]}: {why}", "a job that Slurm knows", "see squeue --me")
        )
    return done.stdout.strip()


# ---- saying -----------------------------------------------------------------------------------------------


def _show(seen: list[dict[str, Any]], threads: bool, as_json: bool) -> int:
    """Print; return the exit code."""
    findings = merge(_finding(fields) for host in seen for fields in host["findings"])
    found = any(finding.severity != "note" for finding in findings)
    if as_json:
        parts = [{name: host[name] for name in ("host", "processes", "ended", "closed")} for host in seen]
        whole = {"schema": SCHEMA, "hosts": parts, "findings": [finding.to_dict() for finding in findings]}
        click.echo(json.dumps(whole, indent=2))
        return int(found)
    from .console import plain_console, print_table  # not where nothing is printed, on each host of a job

    rows = [(host["host"], process) for host in seen for process in host["processes"]]
    rows.sort(key=lambda row: (row[1]["rank"] is None, row[1]["rank"] or 0, row[0], row[1]["pid"]))
    console = plain_console()
    print_table(console, _table(rows, threads, len(seen) > 1), wrap=True)
    for line in _remarks(seen, rows):
        click.echo(line)
    for finding in findings:
        click.echo("\n" + finding.to_text())
    return int(found)


def _finding(fields: dict[str, Any]) -> Finding:
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return Finding(**{**fields, **lists})


def _table(rows: Sequence[tuple[str, dict[str, Any]]], threads: bool, hosts: bool) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    for name in ("HOST",) * hosts + (
        "RANK",
        "PID",
        "COMMAND",
        "THREADS",
        "CPUS",
        "NODES",
        "MEMORY",
        "LOCAL",
        "HUGE",
        "BY NODE",
    ):
        numeric = name in ("RANK", "PID", "THREADS", "MEMORY", "LOCAL", "HUGE")
        table.add_column(
            name,
            justify="right" if numeric else "left",
            no_wrap=name != "BY NODE",
            min_width=11 if name == "BY NODE" else None,
            overflow="ellipsis",
            max_width=_WIDEST.get(name),
        )
    for host, process in rows:
        data = _data(process)
        total = sum(data.values())
        running = sum(thread["running"] for thread in process["threads"])
        table.add_row(
            *(host,) * hosts,
            "-" if process["rank"] is None else str(process["rank"]),
            str(process["pid"]),
            _short(process["command"]),
            f"{running}/{len(process['threads'])}",
            _ids(process["cpus"]),
            _ids(process["ran_on_nodes"]),
            "?" if process["memory"] is None else size_text(total),
            "?" if process["local_share"] is None else f"{100 * process['local_share']:.0f} %",
            "?"
            if process["huge"] is None
            else f"{100 * min(process['huge'] / total, 1):.0f} %"
            if total
            else "-",
            " ".join(
                f"{node}:{100 * count / total:.0f}%" for node, count in data.items() if count * 200 >= total
            ),
        )
        for thread in process["threads"] if threads else ():
            table.add_row(
                *("",) * hosts, "", str(thread["tid"]), f"  {thread['name']}", "runs" if thread["running"] else "waits",
                _ids(thread["cpus"]), f"@{thread['cpu']}", "", "", "", "",
            )  # fmt: skip
    return table


_WIDEST = {"COMMAND": 10, "CPUS": 9}


def _data(process: dict[str, Any]) -> dict[str, int]:
    """Private and shared bytes by node."""
    memory = process["memory"] or {"private": {}, "shared": {}}
    nodes = sorted({*memory["private"], *memory["shared"]}, key=int)
    return {node: memory["private"].get(node, 0) + memory["shared"].get(node, 0) for node in nodes}


def _ids(text: str) -> str:
    return ids_text(parse_ids(text))


def _short(command: str) -> str:
    """Name of the program and its arguments, without its folder."""
    program, _, arguments = command.partition(" ")
    return f"{os.path.basename(program)} {arguments}".strip()


def _remarks(seen: Sequence[dict[str, Any]], rows: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Notes below the table."""
    lines = []
    for host in seen:
        if host["ended"]:
            lines.append(f"ended while looked at: PID {', '.join(map(str, host['ended']))} on {host['host']}")
        if host["closed"]:
            lines.append(
                f"hidden by /proc's hidepid: PID {', '.join(map(str, host['closed']))} on {host['host']}"
            )
    closed = [(process, why) for _, process in rows if (why := process["hidden"])]
    if closed:
        pids = ", ".join(f"{process['pid']} ({process['user']})" for process, _ in closed[:4])
        lines.append(
            f"?: not readable for PID {pids}{', ...' if len(closed) > 4 else ''}: {'; '.join(closed[0][1])}"
        )
    return lines
