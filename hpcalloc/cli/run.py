# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc run``: find out, decide (`hpcalloc.plan.process`), pin, set the environment, and become the program."""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import click

from .. import _native
from .._native.errors import error_for, name_of
from .._native.installed import installed
from .._text import BINDINGS, device_text, plural
from ..bind.affinity import inherited_memory_policy
from ..discover.devices import machine_devices, parse_near
from ..discover.launcher import Ancestor, Launch, launch_and_process
from ..discover.neighbours import on_same_cpus, other_jobs
from ..discover.program import Program, look_at
from ..discover.topology import Topology, format_ids, ids_text
from ..discover.variables import REPORT
from ..exceptions import BindingError, HpcallocError, message
from ..plan.process import (
    MemoryPolicy,
    Situation,
    Steps,
    Wishes,
    decide,
    join_preload,
    parse_memory,
    parse_policy,
)
from .options import bind_option, near_option, smt_option, threads_option

if TYPE_CHECKING:
    from ..report.files import ReportFiles

__all__ = ["command"]

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as shells
_PMI_WAIT = 5  # seconds for the launcher's answer
_LAUNCHERS = frozenset(
    ["mpirun", "mpiexec", "mpiexec.hydra", "prterun", "orterun", "srun", "aprun", "jsrun", "torchrun"]
)


def _abort(code: int) -> None:
    """Ask the launcher to end the job by the words of PMI-1, which MPICH's mpirun and Slurm's mpi/pmi2 know."""
    import socket

    try:
        with socket.socket(fileno=os.dup(int(os.environ["PMI_FD"]))) as launcher:
            launcher.settimeout(_PMI_WAIT)
            launcher.sendall(b"cmd=init pmi_version=1 pmi_subversion=1\n")
            launcher.recv(1024)
            launcher.sendall(b"cmd=abort exitcode=%d\n" % code)
    except (KeyError, ValueError, OSError):
        pass  # a launcher without PMI sees the exit code


@contextlib.contextmanager
def _ending_the_job() -> Iterator[None]:
    """If this rank refuses, end the job, since the other ranks wait for this one in MPI_Init.

    Not in a script that may go on: only where the launcher itself has started this process.
    """
    try:
        yield
    except Exception as error:
        _, ancestor = launch_and_process()
        if ancestor is not None and ancestor.pid == os.getppid():
            atexit.register(_abort, getattr(error, "exit_code", 2))  # when the error has been printed
        raise


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@bind_option(
    "auto: keep a binding that was asked for, widen an unasked default; force: replace any; off: keep any."
)
@threads_option
@smt_option
@near_option
@click.option(
    "--policy",
    default="local",
    show_default=True,
    metavar="local|interleave[:NODES]|on_node:NODE",
    help="Where the program's memory goes.",
)
@click.option(
    "--memory",
    metavar="bandwidth|latency|capacity|NODES",
    help="Memory of that kind or of these nodes, the nearest to each thread first; others when it is full.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Memory on these nodes or ENOMEM; if the rank can't be pinned, do not start.",
)
@click.option(
    "--preload/--no-preload",
    default=None,
    help="Serve malloc by this allocator (LD_PRELOAD); by default where the program allows it.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print what would be done, one line per rank, and do nothing; --json prints everything.",
)
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print JSON.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, required=True, metavar="PROGRAM [ARGUMENTS]...")
@_ending_the_job()
def command(
    bind: str,
    threads: int | str,
    smt: bool,
    near: str | None,
    policy: str,
    memory: str | None,
    strict: bool,
    preload: bool | None,
    dry_run: bool,
    as_json: bool,
    program: tuple[str, ...],
) -> None:
    """Start PROGRAM pinned, with threads and memory to match; under mpirun, srun or alone.

    `mpirun -n 8 hpcalloc run python solver.py` changes no code: each rank gets its share of its host, then becomes
    the program, whose exit code and signals are its own. A .py file without an interpreter runs in this one.
    """
    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run")
    if memory is not None and policy != "local":
        raise click.UsageError("--memory and --policy both say where memory goes: give one")
    if os.path.basename(program[0]) in _LAUNCHERS:
        line = f"{shlex.join(program[:1])} ... hpcalloc run PROGRAM"
        raise HpcallocError(message("run", f"{program[0]!r} is a launcher", "the program of a rank", line))
    words, found = resolve(program, os.environ.get("PATH", os.defpath))
    launch, ancestor = launch_and_process()
    obstacle = found.obstacle
    files = _report_files(launch, ancestor) if os.environ.get(REPORT) else None
    kinds = parse_near(near, "run") if near is not None else ()
    wishes = Wishes(bind, threads, smt, parse_policy(policy, strict), preload, parse_memory(memory), kinds)  # type: ignore[arg-type]
    topology = Topology.from_machine()
    looked = _look(obstacle, launch, ancestor)
    if kinds:
        looked = replace(looked, devices=machine_devices(topology))
    steps = decide(topology, looked, wishes)
    if dry_run:
        out = json.dumps({**steps.to_dict(), "program": words}, indent=2) if as_json else text(steps, words)
        click.echo(out)
        return
    if obstacle and preload is None and not steps.local_rank:
        click.echo(f"hpcalloc run: the allocator is not preloaded: {obstacle}", err=True)
    if files is not None and found.silent:
        if files.rank == 0:
            click.echo(_no_record(obstacle), err=True)
        files = None
    _pin(steps, wishes)
    asked = wishes.policy.strict or wishes.policy.kind != "local" or bool(wishes.memory)
    notes = _place(steps.memory, required=asked)
    notes += _crowded(steps, topology, ancestor)
    environment = {**original_environment(), **steps.environment}
    if files is not None:
        audits = preload is not False and not obstacle
        environment |= files.environment(os.getpid(), audits)
        _start(files, steps, topology, words, notes)
        if audits:
            environment["LD_PRELOAD"] = join_preload(
                environment.get("LD_PRELOAD", ""), str(installed("libnumalloc_audit.so"))
            )
        elif files.rank == 0:
            click.echo(_no_record(obstacle), err=True)
    become(words, environment)


# ---- finding out -----------------------------------------------------------------------------------------


class _NoProgram(click.ClickException):
    exit_code = NOT_FOUND


class _NotExecutable(click.ClickException):
    exit_code = NOT_EXECUTABLE


def resolve(program: Sequence[str], path: str) -> tuple[list[str], Program]:
    """Return the words to execute, the first one a path; and what the program is.

    Raises
    ------
    click.ClickException
        With the exit codes that shells use: 127 no such program, 126 it can't be executed.
    """
    name = program[0]
    found = shutil.which(name, path=path)
    if found is None and name.endswith(".py") and os.path.isfile(name):
        found, program = sys.executable, [sys.executable, *program]
    if found is None and os.path.exists(name) and os.sep in name:
        if os.path.isdir(name):
            raise _NotExecutable(message("run", f"{name!r} is a directory", "a program", "name one in it"))
        raise _NotExecutable(message("run", f"{name!r} is not executable", "a program", f"chmod +x {name}"))
    if found is None:
        where = "a file" if os.sep in name else f"the directories of PATH={path}"
        remedy = f"./{name}" if os.path.isfile(name) else "check the name"
        raise _NoProgram(message("run", f"{name!r} is not there", where, remedy))
    return [found, *program[1:]], look_at(found, path)


def _look(obstacle: str, launch: Launch, ancestor: Ancestor | None) -> Situation:
    return Situation(
        dict(os.environ),
        launch,
        frozenset(os.sched_getaffinity(0)),
        ancestor.cpus if ancestor is not None else None,
        inherited_memory_policy(),
        str(installed("libnumalloc_preload.so")),
        obstacle,
    )


def original_environment() -> dict[str, str]:
    """Return the environment this process was started with: Python itself may have added LC_CTYPE (PEP 538)."""
    environ = dict(os.environ)
    with contextlib.suppress(OSError):
        with open("/proc/self/environ", "rb") as file:
            names = {os.fsdecode(entry.partition(b"=")[0]) for entry in file.read().split(b"\0")}
        if "LC_CTYPE" not in names:
            environ.pop("LC_CTYPE", None)
    return environ


# ---- doing -----------------------------------------------------------------------------------------------


def _pin(steps: Steps, wishes: Wishes) -> None:
    """Pin this thread, the one that becomes the program's first."""
    if not steps.pin:
        return
    wanted = frozenset(steps.pin)
    try:
        os.sched_setaffinity(0, wanted)
        if os.sched_getaffinity(0) == wanted:  # the kernel cuts a mask down to the cpuset without a word
            return
        code = errno.EINVAL
    except OSError as error:
        code = error.errno or errno.EPERM
    if wishes.bind == "auto" and not wishes.policy.strict and code in (errno.EPERM, errno.ENOSYS):
        click.echo(f"hpcalloc run: not pinned: sched_setaffinity: {name_of(code)}", err=True)
        return
    raise error_for(
        code,
        "run",
        f"sched_setaffinity to CPUs {format_ids(wanted)}",
        "the CPUs of the process's cpuset",
        "ask the launcher for these CPUs, or pass --bind off",
        kind=BindingError,
    )


def _place(memory: MemoryPolicy | None, required: bool) -> list[str]:
    """Set the memory policy, which stays over exec; return what is to be noted."""
    if memory is None:
        return []
    kinds = {
        "local": _native.lib.NUMALLOC_LOCAL,
        "on_node": _native.lib.NUMALLOC_ONNODE,
        "nearest": _native.lib.NUMALLOC_ONNODE,
        "interleave": _native.lib.NUMALLOC_INTERLEAVE,
    }
    flags = _native.lib.NUMALLOC_STRICT if memory.strict else 0
    code = _native.lib.numalloc_memory_policy(kinds[memory.kind], flags, _native.nodemask(memory.nodes))
    if code == errno.ENOSYS and memory.kind == "nearest":
        code = _native.lib.numalloc_memory_policy(kinds["on_node"], 0, _native.nodemask(memory.homes[:1]))
        if code == 0:
            return [f"Linux before 5.15 prefers one node alone: node {memory.homes[0]} of {memory}"]
    if code == 0:
        return []
    if required:
        raise error_for(
            code,
            "run",
            f"set_mempolicy {memory}",
            "what the kernel allows here",
            "leave --policy, --memory and --strict out",
            kind=BindingError,
        )
    note = f"memory is where it is first touched: set_mempolicy: {name_of(code)}"
    click.echo(f"hpcalloc run: {note}", err=True)
    return [note]


def _crowded(steps: Steps, topology: Topology, ancestor: Ancestor | None) -> list[str]:
    """Name processes of other jobs on this rank's CPUs."""
    cpus = frozenset(steps.share.cpus)
    launcher_pid = ancestor.pid if ancestor is not None else None
    others = on_same_cpus(other_jobs(cpus, launcher_pid), cpus, topology.allowed_cpus)
    if not others:
        return []
    free = topology.allowed_cpus - frozenset().union(*(other.cpus for other in others))
    named = "; ".join(f"{o.pid} ({o.command}) on CPUs {format_ids(o.cpus)}" for o in others[:3])
    note = message(
        "run",
        f"CPUs {format_ids(cpus)} are another job's as well: process {named}",
        "one job on a CPU",
        f"start this one by taskset -c {format_ids(free)}" if free else "wait until it has ended",
    )
    if not steps.local_rank:
        click.echo(f"hpcalloc {note}", err=True)
    return [note]


def _report_files(launch: Launch, ancestor: Ancestor | None) -> ReportFiles | None:
    """Return where this rank writes its part of the report; None inside of a rank that is counted already."""
    from ..report.files import (  # import NumPy, which takes longer than all the rest
        INSIDE,
        directory_told,
        files_of,
    )

    if directory_told(os.environ):
        return None
    environ = {name: value for name, value in os.environ.items() if name not in INSIDE}
    return files_of(environ, ancestor, launch.rank, launch.size)  # of the inner one of nested launchers


def _start(files: ReportFiles, steps: Steps, topology: Topology, words: list[str], notes: list[str]) -> None:
    from ..report.files import start_record

    try:
        files.start(start_record(steps, topology, words, notes))
    except OSError as error:
        raise HpcallocError(
            message(
                "run",
                f"{REPORT}={files.target!r}: {error.strerror}: {error.filename}",
                "a directory that all ranks can write to",
                "choose another, or unset it",
            )
        ) from error


def _no_record(obstacle: str) -> str:
    """Say that the report will lack what only a library in the program can write."""
    return "hpcalloc run: " + message(
        REPORT,
        obstacle or "--no-preload",
        "programs that load libnumalloc_audit.so, or that use hpcalloc.init",
        "expect no report of others" if obstacle else "leave --no-preload out",
    )


def become(words: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Replace this process by the program."""
    sys.stdout.flush()
    sys.stderr.flush()
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and what is ignored stays so
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        try:
            os.execve(words[0], words, environ)
        except OSError as error:
            if error.errno != errno.ENOEXEC or _is_binary(words[0]):
                raise
            os.execve("/bin/sh", ["/bin/sh", *words], environ)  # as execvp(3) and shells: a script without #!
    except OSError as error:
        missing = error.errno == errno.ENOENT  # the file is there: its interpreter is not
        value = f"{words[0]!r}: {error.strerror}" + (" (its interpreter)" if missing else "")
        raise _NotExecutable(
            message("run", value, "a program for this machine", "start it by hand")
        ) from error
    raise HpcallocError("run: execve returned")


def _is_binary(path: str) -> bool:
    with open(path, "rb") as file:
        return b"\0" in file.read(256)


# ---- saying ----------------------------------------------------------------------------------------------


def text(steps: Steps, words: Sequence[str]) -> str:
    """Write what would be done, for people to read: a line for one of several ranks, in full for one alone."""
    who = (
        "alone" if steps.local_rank is None else f"local rank {steps.local_rank} of {steps.local_size or '?'}"
    )
    if steps.local_rank is not None and steps.local_size != 1:
        pinned = f"pinned to CPUs {ids_text(steps.pin)}" if steps.pin else BINDINGS[steps.share.action]
        parts = [f"nodes {ids_text(steps.share.nodes)}", pinned, plural(steps.share.threads, "thread")]
        parts += [f"memory policy {steps.memory}"] if steps.memory is not None else []
        parts += _devices(steps)
        parts += [] if steps.preload else ["no preload"]
        return f"{who}: {', '.join(parts)}"
    lines = [
        f"{who} (launcher: {steps.launcher})",
        f"  nodes {format_ids(steps.share.nodes)}, {plural(steps.share.threads, 'thread')}",
        f"  pin: {'CPUs ' + format_ids(steps.pin) if steps.pin else 'nothing to do'} ({BINDINGS[steps.share.action]})",
        f"  memory policy: {steps.memory if steps.memory is not None else 'as it is'}",
        f"  preload: {'yes' if steps.preload else 'no'}",
    ]
    lines += [f"  device: {text}" for text in _devices(steps)]
    lines += [f"  set {name}={value}" for name, value in steps.environment.items()]
    lines += [f"  keep {name}={value}" for name, value in steps.kept.items()]
    lines += [f"  because {why}" for why in steps.reasons]
    return "\n".join([*lines, f"  run {shlex.join(words)}"])


def _devices(steps: Steps) -> list[str]:
    return [device_text(device) for device in steps.devices]
