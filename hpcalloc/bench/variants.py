# SPDX-License-Identifier: BSD-3-Clause
"""One program under several placements, in turns: which of them is best, and whether the difference is more than noise."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..discover.topology import Topology
from ..exceptions import HpcallocError, message
from .mpi import find_mpirun, mpi_version
from .programs import finish

__all__ = ["VARIANTS", "Variant", "compare", "launcher_words", "verdict"]

LEAST_EFFECT = 0.02  # of the time: less is never called a difference
CHANCE = 0.01  # a difference is one that chance would give in fewer cases than this
BASE = "as-launched"

Verdict = Literal["faster", "slower", "no difference", "too few runs"]


@dataclass(frozen=True)
class Variant:
    """A way to place a program.

    Attributes
    ----------
    what : str
        For people.
    run : tuple of str or None
        Options of ``hpcalloc run``; None: without it.
    environment : mapping
        Variables; None: not set.
    ranks : {"", "package", "node", "cache"}
        As many ranks a host as it has of these; "" for as many as were asked for.
    """

    what: str
    run: tuple[str, ...] | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    ranks: str = ""


_OWN_THREADS = {"OMP_NUM_THREADS": None}  # `hpcalloc run` keeps what is set

VARIANTS = {
    BASE: Variant("the launcher alone"),
    "pinned": Variant("each rank pinned, memory by the C library", ("--no-preload",)),
    "allocator": Variant("pinned, malloc by hpcalloc", ("--preload",)),
    "interleaved": Variant("pinned, pages round-robin over the rank's nodes", ("--policy", "interleave")),
    "base-pages": Variant(
        "pinned, malloc by hpcalloc without huge pages", ("--preload",), {"NUMALLOC_HUGEPAGES": "never"}
    ),
    "rank-per-package": Variant(
        "one rank a package, threads on its cores", ("--preload",), _OWN_THREADS, "package"
    ),
    "rank-per-node": Variant(
        "one rank a NUMA node, threads on its cores", ("--preload",), _OWN_THREADS, "node"
    ),
    "rank-per-cache": Variant(
        "one rank a last-level cache, threads on its cores", ("--preload",), _OWN_THREADS, "cache"
    ),
}


def launcher_words(launcher: str | None, ranks: int | None) -> list[str]:
    """Words that start `ranks` ranks, without the program.

    Parameters
    ----------
    launcher : str or None
        The user's own, with ``{n}`` in the place of the number; None: srun inside a Slurm job, else mpirun.
    ranks : int or None
        None: no launcher, one process.
    """
    if launcher is not None:
        return [word.replace("{n}", str(ranks)) for word in shlex.split(launcher)]
    if ranks is None:
        return []
    if "SLURM_JOB_ID" in os.environ and shutil.which("srun"):
        return ["srun", "-n", str(ranks)]
    mpirun = find_mpirun()
    over = ranks > len(os.sched_getaffinity(0)) and "Open MPI" in mpi_version(mpirun)
    return [mpirun, *(("--map-by", ":OVERSUBSCRIBE") if over else ()), "-n", str(ranks)]


def _ranks_of(variant: Variant, topology: Topology, ranks: int | None) -> int | None:
    """How many ranks a variant has in all."""
    if not variant.ranks:
        return ranks
    cores = topology.usable_cores
    units: dict[str, set[Any]] = {
        "package": {core.package for core in cores},
        "node": {core.node for core in cores},
        "cache": {core.caches[:1] for core in cores if core.caches},
    }
    hosts = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    return len(units[variant.ranks]) * (int(hosts) if hosts.isdigit() else 1)


def chosen(names: Sequence[str], topology: Topology, ranks: int | None) -> dict[str, int | None]:
    """Variants with their numbers of ranks; the base first. By default all that differ from the others on this machine.

    Raises
    ------
    HpcallocError
        An unknown variant, or one that needs ranks without any.
    """
    for name in names:
        if name not in VARIANTS:
            raise HpcallocError(
                message("compare", f"there is no variant {name!r}", ", ".join(VARIANTS), "name one of these")
            )
        if VARIANTS[name].ranks and ranks is None:
            raise HpcallocError(message("compare", f"{name} without ranks", "MPI programs", "give -n RANKS"))
    counts: dict[str, int | None] = {BASE: ranks}
    for name in names or VARIANTS:
        variant = VARIANTS[name]
        count = _ranks_of(variant, topology, ranks)
        if not names:
            if variant.ranks and (
                ranks is None or count == 0 or count in (ranks, *list(counts.values())[1:])
            ):
                continue
            if name == "interleaved" and len([node for node in topology.nodes if node.cpus]) < 2:
                continue
        counts[name] = count
    return counts


# ---- measuring --------------------------------------------------------------------------------------------


def compare(
    program: Sequence[str],
    counts: Mapping[str, int | None],
    *,
    launcher: str | None = None,
    repeats: int = 8,
    metric: str | None = None,
    higher: bool = False,
    timeout: float = 3600.0,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run a program under each variant, in turns.

    Parameters
    ----------
    program : sequence of str
        Its words.
    counts : mapping
        Variants with their numbers of ranks, as `chosen` gives them.
    launcher : str, optional
        See `launcher_words`.
    repeats : int
        Runs of each that count, after one that does not.
    metric : str, optional
        A regular expression; its group, or the whole match, is the figure: the last one that a run prints. By default the
        seconds from start to end, less those that the same line takes for the program ``true``.
    higher : bool
        More of it is better.
    timeout : float
        Seconds for one run.
    advance : callable
        Called with the variant's name before each run.

    Returns
    -------
    dict
        ``rows``: for each variant ``line`` (what to type), ``ranks``, ``figures``, ``median``, ``ratio`` (median of the
        ratios to the base, turn by turn; below 1 is better), ``verdict`` and ``errors``; ``best``: name of the best one, the
        simplest of those that can't be told from it, or "" where no difference is more than noise; ``alike``: the others.
    """
    pattern = _pattern(metric)
    runs: dict[str, list[float | None]] = {name: [] for name in counts}
    errors: dict[str, list[str]] = {name: [] for name in counts}
    names = list(counts)
    starts = (
        {} if pattern is not None else {name: _start(name, counts[name], launcher, timeout) for name in names}
    )
    for turn in range(repeats + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:  # no variant is always first
            advance(name)
            figure, error = _measure(name, counts[name], program, launcher, pattern, timeout)
            if figure is not None and starts and (figure := figure - starts[name]) <= 0:
                figure, error = None, "it ends as soon as it is started: give --metric, or more work"
            if error:
                errors[name].append(error)
            if turn:
                runs[name].append(figure)
    rows = []
    for name, ranks in counts.items():
        row: dict[str, Any] = {
            "variant": name,
            "what": VARIANTS[name].what,
            "ranks": ranks,
            "line": _line(name, ranks, program, launcher),
            "figures": [figure for figure in runs[name] if figure is not None],
            "errors": errors[name],
        }
        row["median"] = statistics.median(row["figures"]) if row["figures"] else None
        if name != BASE:
            ratios = _ratios(runs[name], runs[BASE], higher)
            row["ratio"] = statistics.median(ratios) if ratios else None
            row["verdict"] = verdict(ratios) if ratios else None
        rows.append(row)
    alike = _best(rows, runs, higher)
    return {
        "metric": metric or "seconds",
        "higher": higher,
        "repeats": repeats,
        "rows": rows,
        "best": alike[0] if alike else "",
        "alike": alike[1:],
    }


def _best(
    rows: Sequence[dict[str, Any]], runs: Mapping[str, Sequence[float | None]], higher: bool
) -> list[str]:
    """Variants that are faster than the base and not to be told from the fastest, in the order of `VARIANTS`."""
    better = [row for row in rows if row.get("verdict") == "faster"]
    if not better:
        return []
    fastest = min(better, key=lambda row: float(row["ratio"]))["variant"]
    return [
        row["variant"]
        for row in better
        if verdict(_ratios(runs[row["variant"]], runs[fastest], higher)) != "slower"
    ]


def _start(name: str, ranks: int | None, launcher: str | None, timeout: float) -> float:
    """Seconds that the launcher and `hpcalloc run` themselves take: the median of three; 0 where that fails."""
    runs = [_measure(name, ranks, ["true"], launcher, None, timeout)[0] for _ in range(3)]
    return statistics.median([run for run in runs if run is not None] or [0.0])


def verdict(ratios: Sequence[float]) -> Verdict:
    """Say whether ratios that were taken turn by turn lie on one side of 1: the two-sided sign test.

    With `CHANCE` at 0.01 that takes at least eight runs, all on one side.
    """
    below, above = sum(r < 1 for r in ratios), sum(r > 1 for r in ratios)
    count = below + above
    if len(ratios) < 8:
        return "too few runs"
    tail = sum(math.comb(count, k) for k in range(min(below, above) + 1))
    median = statistics.median(ratios)
    if 2 * tail / 2**count >= CHANCE or abs(median - 1) < LEAST_EFFECT:
        return "no difference"
    return "faster" if median < 1 else "slower"


def _ratios(figures: Sequence[float | None], base: Sequence[float | None], higher: bool) -> list[float]:
    pairs = [(a, b) for a, b in zip(figures, base, strict=True) if a is not None and b is not None]
    return [b / a if higher else a / b for a, b in pairs if a > 0 and b > 0]


def _pattern(metric: str | None) -> re.Pattern[str] | None:
    if metric is None:
        return None
    try:
        pattern = re.compile(metric, re.MULTILINE)
    except re.error as error:
        raise HpcallocError(
            message(
                "compare --metric",
                f"{metric!r}: {error}",
                "a regular expression",
                r"such as 'time: ([\d.]+)'",
            )
        ) from error
    if pattern.groups > 1:
        raise HpcallocError(
            message(
                "compare --metric",
                f"{metric!r} has {pattern.groups} groups",
                "one",
                "write (?:...) for the others",
            )
        )
    return pattern


def _words(name: str, ranks: int | None, program: Sequence[str], launcher: str | None) -> list[str]:
    variant = VARIANTS[name]
    words = launcher_words(launcher, ranks)
    if variant.run is not None:
        words += [sys.executable, "-m", "hpcalloc", "run", *variant.run]
    return [*words, *program]


def _line(name: str, ranks: int | None, program: Sequence[str], launcher: str | None) -> str:
    """Write it as a person would type it."""
    words = _words(name, ranks, program, launcher)
    text = shlex.join(words).replace(f"{shlex.quote(sys.executable)} -m hpcalloc run", "hpcalloc run")
    text = text.replace(words[0], os.path.basename(words[0]), 1)
    settings = VARIANTS[name].environment
    unset = [word for k, v in settings.items() if v is None for word in ("-u", k)]
    prefix = ["env", *unset] if unset else []
    return " ".join([*prefix, *(f"{k}={v}" for k, v in settings.items() if v is not None), text])


def _measure(
    name: str,
    ranks: int | None,
    program: Sequence[str],
    launcher: str | None,
    pattern: re.Pattern[str] | None,
    timeout: float,
) -> tuple[float | None, str]:
    """Run once; the figure, or None with what went wrong."""
    merged = {**os.environ, **VARIANTS[name].environment}
    environment = {name: value for name, value in merged.items() if value is not None}
    began = time.perf_counter()
    try:
        code, said = finish(_words(name, ranks, program, launcher), timeout, environment)
    except OSError as error:
        return None, f"{error.filename}: {error.strerror}"
    took = time.perf_counter() - began
    if code is None:
        return None, f"not done after {timeout:g} s"
    if code != 0:
        lines = [line.strip() for line in said.splitlines() if line.strip(" -\t")]
        return None, f"exit code {code}: " + " / ".join(lines[-3:])
    if pattern is None:
        return took, ""
    found = [match[pattern.groups] for match in pattern.finditer(said)]
    if not found:
        return None, f"no line of its output matches {pattern.pattern!r}"
    try:
        figure = float(found[-1])
    except (TypeError, ValueError):
        figure = math.nan
    if not math.isfinite(figure) or figure <= 0:
        return None, f"{found[-1]!r}, which {pattern.pattern!r} matches, is no number above 0"
    return figure, ""
