# SPDX-License-Identifier: BSD-3-Clause
"""Allocators side by side: the same work under LD_PRELOAD of each, interleaved, medians.

The work is done by the C program ``workloads`` (``native/bench/workloads.c``), which knows no allocator. The
allocators take turns within each repetition and the order rotates from one to the next, so that a slow spell of
the machine hits all of them. Where the medians are still uncertain, those that the row's ratio is about run again.
"""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._native.installed import installed
from ..exceptions import HpcallocError

__all__ = [
    "OURS",
    "Job",
    "Measurement",
    "Workload",
    "compare",
    "environment_for",
    "find_peers",
    "instructions",
    "measure_jobs",
    "own_library",
    "workloads",
]

OURS = "hpcalloc"
"""Name of this library among the allocators."""

_LIBRARIES = {
    "jemalloc": "libjemalloc.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
    "mimalloc": "libmimalloc.so.2",
    "tbbmalloc": "libtbbmalloc_proxy.so.2",
}
_UNCOUNTED_FIRST = {"temporaries", "large", "huge"}
"""Array workloads: each run follows one of the same kind that doesn't count, since a machine (a virtual one above all)
takes its time to find memory that was long free, and more of it for the allocators that use huge pages."""
_SETTLED = 0.08
"""Standard error of a median, as a part of it, from which on it counts."""
_TURNS_MOST = 3
"""Times `repeats` that an unsettled row may take."""
_CONTENDER = 1.25
"""Time over the best peer's within which the fastest run of another says that it may turn out to be the best."""


@dataclass(frozen=True)
class Workload:
    """One kind of work: its name, the least number of threads it makes sense with, and what it does."""

    name: str
    least_threads: int
    what: str


@dataclass(frozen=True)
class Job:
    """One row: some work with a number of threads.

    Attributes
    ----------
    run : callable
        ``run(library, measurement)`` does it once under a preloaded library ("": none) and adds what it took.
    uncounted_first : bool
        Each run follows one that doesn't count.
    """

    name: str
    threads: int
    run: Callable[[str, Measurement], None]
    uncounted_first: bool = False


@dataclass
class Measurement:
    """What one allocator did in one workload: seconds per operation and peak resident bytes of each run.

    ``pinned``: each thread had a CPU of its own in all of them.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    pinned: bool = True
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Medians and the single runs."""
        if self.error is not None:
            return {"error": self.error}
        return {
            "ns_per_operation": statistics.median(self.seconds) * 1e9,
            "peak_bytes": int(statistics.median(self.peak_bytes)),
            "runs_ns": [s * 1e9 for s in self.seconds],
        }

    def standard_error(self) -> float:
        """Standard error of the median of the seconds; 0 of one run.

        It is that of a normal distribution with the runs' distance between the quartiles (of few runs: a little more than
        that).
        """
        if len(self.seconds) < 2:
            return 0.0
        lower, _, upper = statistics.quantiles(self.seconds, n=4)
        return 1.2533 * (upper - lower) / 1.349 / math.sqrt(len(self.seconds))

    def settled(self) -> bool:
        """Whether the median of the seconds would hardly change with more runs."""
        return self.standard_error() <= _SETTLED * statistics.median(self.seconds)


def own_library() -> Path:
    """The preload library of this installation."""
    return installed("libnumalloc_preload.so")


def _program() -> Path:
    return installed("workloads")


def workloads() -> list[Workload]:
    """All workloads, as the program lists them."""
    out = subprocess.run([_program(), "--list"], capture_output=True, text=True, check=True).stdout
    rows = (line.split("\t") for line in out.splitlines())
    return [Workload(name, int(least), what) for name, least, what in rows]


def find_peers(extra: Iterable[str] = ()) -> dict[str, str]:
    """Allocators to compare with: glibc (the empty path), those the dynamic linker knows, and ``NAME=LIBRARY``.

    Raises
    ------
    HpcallocError
        An extra one is not of that form, or its library does not exist.
    """
    peers = {"glibc": ""}
    listing = ""
    ldconfig = shutil.which("ldconfig", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if ldconfig:
        listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
    for name, library in _LIBRARIES.items():
        found = re.search(rf"^\s*{re.escape(library)} .*=> (\S+)$", listing, re.MULTILINE)
        if found:
            peers[name] = found.group(1)
    for text in extra:
        name, equals, path = text.partition("=")
        if not equals or not name or name == OURS:
            raise HpcallocError(
                f"--peer {text!r}: expected NAME=LIBRARY.so with a name of its own, such as mimalloc3=/opt/libmimalloc.so"
            )
        if not Path(path).is_file():
            raise HpcallocError(f"--peer {text!r}: there is no library {path}")
        peers[name] = str(Path(path).resolve())
    return peers


def environment_for(library: str) -> dict[str, str]:
    """Environment of this process with a library preloaded; "": none."""
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    if library:
        environment["LD_PRELOAD"] = library
    return environment


def _run_once(
    workload: str, threads: int, scale: float, library: str, into: Measurement, timeout: float
) -> None:
    command = [str(_program()), workload, "--threads", str(threads), "--scale", repr(scale)]
    try:
        done = subprocess.run(
            command,
            env=environment_for(library),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        into.error = f"not done after {timeout:g} s"
        return
    if done.returncode != 0:
        into.error = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return
    # Such a run is one of the C library's own allocator.
    if library and (refused := re.search(r"object '.*' from LD_PRELOAD .*", done.stderr)):
        into.error = refused[0]
        return
    facts = json.loads(done.stdout.splitlines()[-1])
    into.seconds.append(facts["seconds"] / facts["operations"])
    into.peak_bytes.append(facts["peak_bytes"])
    into.pinned = into.pinned and facts["pinned"]


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean; NaN of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def _ratio_to_best(row: Mapping[str, dict[str, Any]], name: str, what: str) -> tuple[float, str]:
    """An allocator's figure divided by that of the best other one, and that one's name; NaN where one is missing."""
    others = {k: v[what] for k, v in row.items() if k != name and what in v}
    if not others or what not in row[name]:
        return math.nan, ""
    best = min(others, key=lambda k: others[k])
    return row[name][what] / others[best], best


def _contenders(measured: Mapping[str, Measurement]) -> list[str]:
    """The allocators that a row's ratio is about: ours and the peers of which a run is about as fast as the best one's."""
    peers = {a: m.seconds for a, m in measured.items() if m.error is None and a != OURS}
    best = min((statistics.median(seconds) for seconds in peers.values()), default=math.nan)
    close = [a for a, seconds in peers.items() if min(seconds) <= _CONTENDER * best]
    return [OURS, *close] if measured[OURS].error is None else close


def _measure(
    allocators: Sequence[str],
    run: Callable[[str, Measurement], None],
    repeats: int,
    uncounted_first: bool,
    advance: Callable[[], None],
) -> dict[str, Measurement]:
    """Runs of all in turns; of the contenders up to `_TURNS_MOST` times as many, until their medians are settled."""
    measured = {a: Measurement() for a in allocators}
    running = list(allocators)
    for turn in range(_TURNS_MOST * repeats):
        if turn >= repeats:
            running = _contenders(measured)
            if all(measured[a].settled() for a in running):
                break
        first = turn % len(running)
        for a in running[first:] + running[:first]:
            if measured[a].error is None and uncounted_first:
                run(a, Measurement())
            if measured[a].error is None:
                run(a, measured[a])
            if turn < repeats:
                advance()
    return measured


def _row(measured: Mapping[str, Measurement]) -> dict[str, Any]:
    """What `compare` tells of a workload with a number of threads."""
    figures = {a: m.to_dict() for a, m in measured.items()}
    ratio, best = _ratio_to_best(figures, OURS, "ns_per_operation")
    memory, leanest = _ratio_to_best(figures, OURS, "peak_bytes")
    noise = math.hypot(measured[OURS].standard_error(), measured[best].standard_error()) if best else math.nan
    gap = (
        abs(ratio - 1) * statistics.median(measured[best].seconds)
        if best and not math.isnan(ratio)
        else math.nan
    )
    return {
        "within_noise": not gap > 2 * noise,
        "pinned": all(m.pinned for m in measured.values() if m.error is None),
        "allocators": figures,
        "best_peer": best,
        "ratio": ratio,
        "leanest_peer": leanest,
        "memory_ratio": memory,
    }


def _summary(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in names:
        times, memory = {}, []
        for row in rows:
            ratio, _ = _ratio_to_best(row["allocators"], name, "ns_per_operation")
            if not math.isnan(ratio):
                times[f"{row['workload']} ({row['threads']})"] = ratio
            ratio, _ = _ratio_to_best(row["allocators"], name, "peak_bytes")
            if not math.isnan(ratio):
                memory.append(ratio)
        worst = max(times, key=lambda k: times[k]) if times else None
        out[name] = {
            "time_ratio": geometric_mean(times.values()),
            "worst_ratio": times[worst] if worst is not None else math.nan,
            "worst_workload": worst,
            "memory_ratio": geometric_mean(memory),
            "failed": [f"{r['workload']} ({r['threads']})" for r in rows if "error" in r["allocators"][name]],
        }
    return out


def _thread_counts(threads: Iterable[int], least: int) -> list[int]:
    return sorted({max(count, least) for count in threads})


def compare(
    peers: Mapping[str, str],
    *,
    names: Sequence[str] | None = None,
    threads: Sequence[int] = (1,),
    repeats: int = 3,
    scale: float = 0.25,
    timeout: float = 300.0,
    ours: str | None = None,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run every workload under every allocator.

    Parameters
    ----------
    peers : mapping
        Name to library path, "" for the C library's own; see `find_peers`.
    names : sequence of str, optional
        Workloads; all by default.
    threads : sequence of int
        Numbers of threads. A workload that needs more is run once with the least it needs.
    repeats : int
        Least runs of each, of which the median counts. Those that a row's ratio is about (ours and the peers that
        may be the best) have up to three times as many, until their medians' standard errors are below 8 %.
    scale : float
        Amount of work; 1 is about half a second a run.
    timeout : float
        Seconds after which a run counts as failed.
    ours : str, optional
        Library to measure as this one; the installed by default.
    advance : callable
        Called with the workload's name after each run, for a progress bar.

    Returns
    -------
    dict
        ``machine``, ``allocators`` (name to path), ``rows`` (a workload with a number of threads each: whether
        each thread was pinned to a CPU of its own, nanoseconds per operation and peak bytes by allocator, ours over
        the best of the others, and whether that ratio is within two standard errors of 1) and ``summary``
        (for each allocator the geometric means over the best of the *others*, and its worst row).

    Raises
    ------
    HpcallocError
        Unknown workload, or a count below one.
    """
    known = {w.name: w for w in workloads()}
    chosen = list(names) if names else list(known)
    for name in chosen:
        if name not in known:
            raise HpcallocError(f"bench alloc: there is no workload {name!r}; known: {', '.join(known)}")
    if repeats < 1 or min(threads) < 1 or not 0 < scale < math.inf:
        raise HpcallocError(
            f"bench alloc: repeats {repeats}, threads {list(threads)}, scale {scale}: all must be positive, and finite"
        )

    def job(name: str, count: int) -> Job:
        def run(library: str, into: Measurement) -> None:
            _run_once(name, count, scale, library, into, timeout)

        return Job(name, count, run, name in _UNCOUNTED_FIRST)

    jobs = [job(name, n) for name in chosen for n in _thread_counts(threads, known[name].least_threads)]
    return {"scale": scale, **measure_jobs(jobs, peers, repeats=repeats, ours=ours, advance=advance)}


def measure_jobs(
    jobs: Sequence[Job],
    peers: Mapping[str, str],
    *,
    repeats: int,
    ours: str | None = None,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run jobs under every allocator, in turns; parameters and result as of `compare`."""
    libraries = {OURS: ours if ours is not None else str(own_library()), **peers}
    rows = []
    for job in jobs:

        def run(allocator: str, into: Measurement, job: Job = job) -> None:
            job.run(libraries[allocator], into)

        told = functools.partial(advance, f"{job.name}, {job.threads} thread(s)")
        measured = _measure(list(libraries), run, repeats, job.uncounted_first, told)
        rows.append({"workload": job.name, "threads": job.threads, **_row(measured)})
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "libc": " ".join(platform.libc_ver()),
        },
        "repeats": repeats,
        "allocators": libraries,
        "rows": rows,
        "summary": _summary(rows, list(libraries)),
    }


def runs(names: Sequence[str] | None, threads: Sequence[int], repeats: int, allocators: int) -> int:
    """How many runs `compare` makes at least, for a progress bar."""
    least = {w.name: w.least_threads for w in workloads()}
    counts = (len(_thread_counts(threads, least.get(n, 1))) for n in (names or least))
    return sum(counts) * repeats * allocators


def instructions(libraries: Mapping[str, str]) -> dict[str, float]:
    """Instructions of a malloc and free of 64 bytes together, loop included, counted by valgrind; no noise.

    The difference of two runs that differ in the number of pairs alone. Empty where valgrind is missing; an
    allocator that does not run under it is left out.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return {}
    out = {}
    for name, library in libraries.items():
        totals = []
        for scale in (0.0025, 0.005):
            command = [valgrind, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
            command += [str(_program()), "pair", "--scale", str(scale)]
            # A small reservation: valgrind has no room for many terabytes.
            environment = {**environment_for(library), "NUMALLOC_RESERVE": "1G"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
            if done.returncode != 0 or not found:
                break
            pairs = json.loads(done.stdout.splitlines()[-1])["operations"]
            totals.append((pairs, int(found.group(1).replace(",", ""))))
        if len(totals) == 2:
            (few, low), (many, high) = totals
            out[name] = (high - low) / (many - few)
    return out
