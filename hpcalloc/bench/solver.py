# SPDX-License-Identifier: BSD-3-Clause
"""What the MPI solvers need beside their arithmetic: options, memory, timing, comparison, verdict, figures as JSON.

A solver is a function ``solve(run) -> Result`` that all ranks call. ``run.memory()`` is the switch: a context of hpcalloc,
or NumPy itself, which have the same creation functions. ``main`` calls ``solve`` once, or with ``--compare`` in turns with
and without hpcalloc, in the same processes and between barriers, so that a slow spell of the machine hits both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import re
import resource
import socket
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .._text import percent
from ..discover.terminal import console, is_looked_at

if TYPE_CHECKING:
    from ..report.report import Report

__all__ = ["Option", "Result", "Run", "machine", "main"]

SCHEMA = 1  # of the JSON; goes up when a key changes its meaning


class Track(Protocol):
    """A loop with a progress bar on rank 0's terminal."""

    def __call__(self, steps: Iterable[Any], /, total: int | None = None) -> Iterable[Any]:
        """Give the steps, and show how many of them are done."""


@dataclass
class Result:
    """What one run of a solver gave. Of ranks other than 0 only `good` and `seconds` are used.

    Attributes
    ----------
    good : bool
        The result was verified. A run counts as good if it is on all ranks.
    seconds : float
        Time from barrier to barrier; that of the slowest rank counts.
    work : float
        Amount that was done in that time, in `unit` times seconds (10**9 bytes for GB/s).
    unit : str
        Of the rate.
    what : str
        The problem and its error, for the last line.
    report : Report or None
        ``ctx.report()`` of a run with hpcalloc.
    pages : (int, int)
        Pages that are local and pages that are touched of arrays which the report does not count: shared ones.
    more : dict
        Further figures for the JSON.
    lines : list of str
        Further lines to print.
    """

    good: bool
    seconds: float
    work: float
    unit: str
    what: str
    report: Report | None = None
    pages: tuple[int, int] = (0, 0)
    more: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class Option(NamedTuple):
    """A number that a solver takes on its command line.

    Attributes
    ----------
    default : float
        Its type is the option's type.
    help : str
    least : float
        Smallest number that is accepted.
    """

    default: float
    help: str
    least: float = 1

    def parse(self, text: str) -> float:
        """Return the number that a word of the command line is."""
        try:
            value = type(self.default)(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not self.least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text}: numbers from {self.least} are possible")
        return value


class Run:
    """One run of a solver on this rank.

    Attributes
    ----------
    comm : MPI.Intracomm
    options : argparse.Namespace
        The solver's options, and `hpcalloc`: whether this run is with it.
    track : Track
        Shows progress; `steps` calls it.
    seconds : float
        Time of the last `steps`, from barrier to barrier.
    """

    def __init__(self, comm: Any, options: argparse.Namespace, track: Track) -> None:
        self.comm, self.options, self.track = comm, options, track
        self.seconds = 0.0
        self._context: Any = None

    @contextlib.contextmanager
    def memory(self, temporaries: bool = False) -> Iterator[Any]:
        """Give what makes arrays: a context of hpcalloc, or NumPy in a run without it.

        Parameters
        ----------
        temporaries : bool
            Let the context serve all of NumPy's own arrays too.
        """
        if not self.options.hpcalloc:
            import numpy as np

            yield np
            return
        from ..context import init

        with init(self.comm) as ctx:
            if temporaries:
                ctx.install_numpy_allocator()
            self._context = ctx
            try:
                yield ctx
            finally:
                self._context = None

    def steps(self, steps: Iterable[Any], total: int | None = None) -> Iterator[Any]:
        """Give the steps, show progress, and time all of them between two barriers."""
        self.comm.Barrier()
        start = time.perf_counter()
        try:
            yield from self.track(steps, total)
        finally:
            self.comm.Barrier()
            self.seconds = time.perf_counter() - start

    def result(self, good: bool, work: float, unit: str, what: str, **more: Any) -> Result:
        """Make the result; within `memory`, collective in a run with hpcalloc. Keywords are fields of `Result`."""
        report = self._context.report() if self._context is not None else None
        fields = {"seconds": self.seconds, "report": report, **more}
        return Result(good=bool(good), work=work, unit=unit, what=what, **fields)


def machine() -> dict[str, Any]:
    """Name this host: processor, CPUs that may be used, kernel, libraries."""
    import numpy as np

    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^(?:model name|cpu model|Processor)\s*:\s*(.+)$", text, re.MULTILINE)
    return {
        "host": socket.gethostname(),
        "processor": model[1] if model else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


# ---- the runs -----------------------------------------------------------------------------------------


def _parse(description: str, options: Mapping[str, Option]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, option in options.items():
        help_text = f"{option.help} (%(default)s)"
        parser.add_argument(f"--{name}", type=option.parse, default=option.default, help=help_text)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--no-hpcalloc", dest="hpcalloc", action="store_false", help="plain NumPy as the launcher started it"
    )
    how.add_argument("--compare", action="store_true", help="with and without hpcalloc in turns; both times")
    parser.add_argument(
        "--repeats", type=Option(5, "").parse, default=5, help="runs of each for --compare (%(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    return parser.parse_args()


def main(
    description: str,
    options: Mapping[str, Option],
    solve: Callable[[Run], Result],
) -> int:
    """Run a solver as the command line says; collective over ``MPI.COMM_WORLD``.

    Parameters
    ----------
    description : str
        The program's docstring.
    options : mapping of str to Option
        The solver's own options.
    solve : callable
        Called on all ranks.

    Returns
    -------
    int
        Exit code: 0 on all ranks, or 1 on all if a result was wrong. An exception that only some ranks raise ends
        them all by ``MPI.Abort``.
    """
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    chosen = _parse(description, options)
    try:
        code = _run(comm, chosen, solve)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        if comm.Get_size() > 1:
            comm.Abort(1)
        return 1
    return code


def _run(comm: Any, chosen: argparse.Namespace, solve: Callable[[Run], Result]) -> int:
    turns = _turns(chosen.repeats) if chosen.compare else [("hpcalloc" if chosen.hpcalloc else "plain", True)]
    seconds: dict[str, list[float]] = {}
    faults: dict[
        str, int
    ] = {}  # page faults of the last run, its set-up and verification included, of all ranks
    good = True
    last: dict[str, Result] = {}
    with _progress(comm) as track:
        for name, counts in track(turns) if chosen.compare else turns:
            chosen.hpcalloc = name == "hpcalloc"
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            result = last[name] = solve(Run(comm, chosen, track))
            own = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            faults[name] = comm.allreduce(own)
            slowest = comm.allreduce((result.seconds, not result.good), op=_worst)
            good = good and not slowest[1]
            if counts:
                seconds.setdefault(name, []).append(slowest[0])
            if not good:
                break
    if comm.Get_rank() == 0:
        figures = _figures(chosen, comm.Get_size(), seconds, faults, last, good)
        if chosen.json is not None:
            Path(chosen.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        _print(figures, last)
    return 0 if good else 1


def _worst(one: tuple[float, bool], other: tuple[float, bool]) -> tuple[float, bool]:
    return max(one[0], other[0]), one[1] or other[1]


def _turns(repeats: int) -> list[tuple[str, bool]]:
    """The order of runs and which count: first a pair that doesn't, then pairs whose order alternates."""
    pair = ["plain", "hpcalloc"]
    turns = [(name, False) for name in pair]
    for repeat in range(repeats):
        turns += [(name, True) for name in (pair if repeat % 2 == 0 else reversed(pair))]
    return turns


class _progress:  # noqa: N801  # used as a function
    """Give a `Track` that draws on rank 0's terminal, and nowhere else."""

    def __init__(self, comm: Any) -> None:
        self._bar: Any = None
        if comm.Get_rank() == 0 and is_looked_at(sys.stderr):
            from rich.progress import Progress

            self._bar = Progress(console=console(stderr=True), transient=True)

    def __enter__(self) -> Track:
        if self._bar is None:
            return lambda steps, total=None: steps
        self._bar.start()
        return self._track

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _track(self, steps: Iterable[Any], total: int | None = None) -> Iterator[Any]:
        task = self._bar.add_task("", total=total if total is not None else len(steps))  # type: ignore[arg-type]
        try:
            for step in steps:
                yield step
                self._bar.advance(task)
        finally:
            self._bar.remove_task(task)


# ---- what is told -------------------------------------------------------------------------------------


def _figures(
    chosen: argparse.Namespace,
    ranks: int,
    seconds: dict[str, list[float]],
    faults: dict[str, int],
    last: dict[str, Result],
    good: bool,
) -> dict[str, Any]:
    own = ("hpcalloc", "compare", "repeats", "json")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    main_result = last.get("hpcalloc", last.get("plain"))
    assert main_result is not None
    figures: dict[str, Any] = {
        "schema": SCHEMA,
        "solver": Path(sys.argv[0]).stem,
        "machine": machine(),
        "ranks": ranks,
        "options": {key: value for key, value in vars(chosen).items() if key not in own},
        "good": good,
        "what": main_result.what,
        "unit": main_result.unit,
        "runs": {
            name: {
                "seconds": median,
                "all_seconds": seconds[name],
                "rate": last[name].work / median,
                "page_faults": faults[name],
                **last[name].more,
            }
            for name, median in medians.items()
        },
    }
    if len(medians) == 2:
        figures["ratio"] = medians["hpcalloc"] / medians["plain"]
    if main_result.report is not None:
        local, touched, unknown = _pages(main_result)
        figures["pages"] = {"local": local, "touched": touched, "unknown": unknown or None}
        figures["report"] = main_result.report.to_dict()
    return figures


def _print(figures: dict[str, Any], last: dict[str, Result]) -> None:
    result = last.get("hpcalloc", last.get("plain"))
    assert result is not None
    if result.report is not None:
        print(result.report.to_text())
    for line in result.lines:
        print(line)
    for name, run in figures["runs"].items():
        count = len(run["all_seconds"])
        runs = (
            f", median of {count} (best {min(run['all_seconds']):.3f} s), {run['page_faults']} page faults"
            if "ratio" in figures
            else ""
        )
        print(f"{name:8} {run['seconds']:.3f} s, {run['rate']:.2f} {figures['unit']}{runs}")
    if "ratio" in figures:
        print(f"hpcalloc takes {figures['ratio']:.3f} of plain NumPy's time")
    print(
        f"{figures['solver']} {'ok' if figures['good'] else 'FAILED'}: {figures['ranks']} ranks, {_where(result)}, "
        f"{result.what}",
        flush=True,
    )


def _pages(result: Result) -> tuple[int, int, str]:
    """Pages that are local, pages that are touched, and why that is unknown, of a run with hpcalloc."""
    assert result.report is not None
    summary = result.report.summary
    return summary["local"] + result.pages[0], summary["touched"] + result.pages[1], summary["unknown"] or ""


def _where(result: Result) -> str:
    if result.report is None:
        return "plain NumPy"
    local, touched, unknown = _pages(result)
    if unknown:
        return f"placement unknown: {unknown}"
    if not touched:
        return "no array of 64 KiB or more"
    return f"{percent(local / touched)} of {touched} pages local"
