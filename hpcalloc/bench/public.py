# SPDX-License-Identifier: BSD-3-Clause
"""Allocators side by side on programs of others, which a file lists and which were built elsewhere.

The file has a section for each program (configparser's format; ``%`` and ``{`` are themselves but in the names below)::

    [larson]
    command = {programs}/larson 5 8 1000 5000 100 4141 {threads}
    threads = all
    seconds = time: ([0-9.]+)

`command` is split as by a shell and started without one. `threads` is a number, or "all" for as many as there are CPUs (1 by
default); a program has as many CPUs as threads. The figure is the time from start to end, or what the last match of `seconds`
gives, or 1 over that of `rate`. `input` is a file for standard input. `requires` are files without which the program is left
out.
"""

from __future__ import annotations

import configparser
import math
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .._native.installed import installed
from ..exceptions import HpcallocError, message
from .alloc import Job, Measurement, environment_for

__all__ = ["Program", "jobs", "read_list"]

_KEYS = {"command", "threads", "seconds", "rate", "input", "requires"}


@dataclass(frozen=True)
class Program:
    """One program of a list."""

    name: str
    command: tuple[str, ...]
    threads: int
    figure: re.Pattern[str] | None
    is_rate: bool
    input: str
    missing: str  # a file that is not there; "": all are


def read_list(path: str | os.PathLike[str], programs: str | os.PathLike[str]) -> list[Program]:
    """Read a list of programs.

    Parameters
    ----------
    path : path
        The list.
    programs : path
        What ``{programs}`` stands for: the folder of the built programs.

    Raises
    ------
    HpcallocError
        The file can't be read, or a section is not as described above.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise _wrong(path, str(error).replace("\n", " ")) from error
    if not parser.sections():
        raise _wrong(path, "no [program]")
    cpus = len(os.sched_getaffinity(0))
    found = []
    for name in parser.sections():
        section = parser[name]
        if unknown := sorted(set(section) - _KEYS):
            raise _wrong(path, f"[{name}] has {unknown[0]!r}")
        text = section.get("threads", "1")
        threads = cpus if text == "all" else int(text) if text.isdigit() else 0
        if threads < 1:
            raise _wrong(path, f"[{name}] threads = {text}")
        if "seconds" in section and "rate" in section:
            raise _wrong(path, f"[{name}] has both seconds and rate")

        def fill(key: str, section: configparser.SectionProxy = section, threads: int = threads) -> str:
            text = section.get(key, "")
            return text.replace("{programs}", os.path.abspath(programs)).replace("{threads}", str(threads))

        pattern = section.get("seconds", section.get("rate"))
        try:
            command = tuple(shlex.split(fill("command")))
            figure = re.compile(pattern) if pattern is not None else None
        except (ValueError, re.error) as error:
            raise _wrong(path, f"[{name}]: {error}") from error
        if not command or (figure is not None and figure.groups != 1):
            raise _wrong(
                path, f"[{name}] " + ("has no command" if not command else f"{pattern!r} has not one group")
            )
        needed = [command[0], *shlex.split(fill("requires")), *([fill("input")] if fill("input") else [])]
        missing = next((file for file in needed if os.sep in file and not Path(file).exists()), "")
        found.append(Program(name, command, threads, figure, "rate" in section, fill("input"), missing))
    return found


def _wrong(path: str | os.PathLike[str], what: str) -> HpcallocError:
    keys = ", ".join(sorted(_KEYS))
    return HpcallocError(
        message("bench public", f"{os.fspath(path)}: {what}", f"sections with {keys}", "correct the list")
    )


def jobs(programs: Sequence[Program], timeout: float) -> list[Job]:
    """Make each program that is there a row; see `bench.alloc.measure_jobs`."""

    def job(program: Program) -> Job:
        return Job(
            program.name, program.threads, lambda library, into: _run_once(program, library, into, timeout)
        )

    return [job(program) for program in programs if not program.missing]


def _run_once(program: Program, library: str, into: Measurement, timeout: float) -> None:
    cpus = os.sched_getaffinity(0)
    fits = program.threads <= len(cpus)
    with tempfile.TemporaryDirectory() as scratch, open(program.input or os.devnull, "rb") as standard_input:
        measured, output = Path(scratch) / "measured", Path(scratch) / "output"
        # The library is for the program, and not for what measures it.
        preload = ["env", *([f"LD_PRELOAD={library}"] if library else [])]
        command = [str(installed("rusage")), str(measured), *preload, *program.command]
        try:
            if fits:  # the child inherits it
                os.sched_setaffinity(0, sorted(cpus)[: program.threads])
            with output.open("wb") as file:
                child = subprocess.Popen(
                    command,
                    stdin=standard_input,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment_for(""),
                )
        finally:
            os.sched_setaffinity(0, cpus)
        try:
            child.wait(timeout)
        except BaseException as error:
            child.kill()  # and with it the program
            child.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            into.error = f"not done after {timeout:g} s"
            return
        said = output.read_text(encoding="utf-8", errors="replace")
        words = measured.read_text().split() if child.returncode == 0 else ["1", "0", "0"]
    code, took, peak = os.waitstatus_to_exitcode(int(words[0])), float(words[1]), int(words[2])
    seconds = took if program.figure is None else _figure(program, said)
    if code != 0:
        into.error = f"exit code {code}: {(said.strip().splitlines() or [''])[-1]}"
    elif refused := re.search(
        r"object '.*' from LD_PRELOAD .*", said
    ):  # that was the C library's own allocator
        into.error = refused[0]
    elif not 0 < seconds < math.inf:
        into.error = "its output has no figure"
    else:
        into.seconds.append(seconds)
        into.peak_bytes.append(peak)
        into.pinned = into.pinned and fits


def _figure(program: Program, said: str) -> float:
    """Seconds, or the inverse of a rate, that a run prints; NaN for none."""
    assert program.figure is not None
    found = program.figure.findall(said)
    try:
        value = float(found[-1].replace(",", "")) if found else math.nan
    except ValueError:
        return math.nan
    return 1 / value if program.is_rate and value > 0 else value
