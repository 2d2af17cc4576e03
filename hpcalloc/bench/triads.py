# SPDX-License-Identifier: BSD-3-Clause
"""The triad here beside C STREAM, NumPy and Numba: the same sizes, the same cores, interleaved.

STREAM is a program of its own (``native/bench/stream.c``: malloc'ed arrays that are first touched in parallel). It is
also run with the C library told to ask for huge pages, since hpcalloc's arrays have them. NumPy and Numba work on
hpcalloc's arrays.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Callable
from time import perf_counter
from typing import Any

from .._native.installed import installed
from ..exceptions import HpcallocError
from ..policy import on_node
from . import kernels
from .bandwidth import DROPPED, Options, cores_by_node
from .kernels import BYTES_PER_ELEMENT, SCALAR, Arrays, Team, pinned

__all__ = ["STREAM", "compare", "steps"]

STREAM = "C STREAM"
STREAM_HUGE = "C STREAM, huge pages"
_TIMEOUT = 300.0

Runner = Callable[[], "tuple[list[float], bool]"]


def stream(elements: int, team: Team, iterations: int, *, huge: bool = False) -> dict[str, Any]:
    """Run STREAM; what it prints.

    Raises
    ------
    HpcallocError
        It failed, its own verification above all.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    environment["OMP_NUM_THREADS"] = str(team.threads)
    environment["OMP_PLACES"] = ",".join(f"{{{cpu}}}" for cpu in team.cpus)
    environment["OMP_PROC_BIND"] = "close"
    if huge:
        environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    command = [str(installed("stream")), str(elements), str(DROPPED + iterations)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise HpcallocError(f"bench bandwidth: STREAM was not done after {_TIMEOUT:g} s") from None
    if done.returncode != 0:
        raise HpcallocError(f"bench bandwidth: STREAM failed: {(done.stderr or done.stdout).strip()}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def _numba_triad() -> tuple[Any, Any, str]:
    """Numba and its compiled triad, or why there is none."""
    try:
        import numba
    except ImportError as error:
        return None, None, f"absent: {error}; pip install numba"

    def triad(a: Any, b: Any, c: Any, s: float) -> None:
        for i in numba.prange(a.size):
            a[i] = b[i] + s * c[i]

    return numba, numba.njit(parallel=True)(triad), ""


def steps(options: Options) -> int:
    """Steps of `compare`, for a progress bar."""
    return 2 * (options.repeats + 1)


def compare(
    options: Options, topology: Any, nbytes: int, advance: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Compare the triads on the first node, with all of its cores and with one.

    Returns
    -------
    list of dict
        A row a contestant and team: GB/s (median and best), ``over_stream`` (median over the repetitions of its median
        rate over that of C STREAM in the same repetition), ``result_verified``; or ``absent`` with the reason.

    Raises
    ------
    HpcallocError
        STREAM failed, or there are not as many threads.
    """
    cores = cores_by_node(topology, os.sched_getaffinity(0))
    node, cpus = next(iter(cores.items()))
    elements = nbytes // 8
    arrays = Arrays.make(elements, Team.on(cpus), on_node(node))
    numba, compiled, absent = _numba_triad()
    out = []
    with pinned(cpus):  # threads that Numba starts inherit it
        for name, team in (("all", Team.on(cpus)), ("one", Team.on(cpus[:1]))):
            runners = _runners(arrays, team, options.iterations, numba, compiled)
            for kind in runners:  # compiled, started, paged in
                runners[kind]()
            advance("triads, not counted")
            out += _rounds(name, team, runners, elements, options.repeats, advance)
            if absent:
                out.append({"team": name, "contestant": "Numba prange", "threads": 0, "absent": absent})
    return out


def _rounds(
    name: str,
    team: Team,
    runners: dict[str, Runner],
    elements: int,
    repeats: int,
    advance: Callable[[str], None],
) -> list[dict[str, Any]]:
    seconds: dict[str, list[list[float]]] = {kind: [] for kind in runners}
    right = dict.fromkeys(runners, True)
    order = list(runners)
    for repeat in range(repeats):
        for kind in order[repeat % len(order) :] + order[: repeat % len(order)]:
            taken, good = runners[kind]()
            seconds[kind].append(taken)
            right[kind] = right[kind] and good
        advance(f"triads, {team.threads} thread(s)")
    nbytes = BYTES_PER_ELEMENT["triad"] * elements
    ours = [statistics.median(taken) for taken in seconds[STREAM]]
    rows = []
    for kind, runs in seconds.items():
        medians = [statistics.median(taken) for taken in runs]
        rows.append(
            {
                "team": name,
                "contestant": kind,
                "threads": 1 if kind == "NumPy" else team.threads,
                "gb_per_s": 1e-9 * nbytes / statistics.median(medians),
                "best_gb_per_s": 1e-9 * nbytes / min(map(min, runs)),
                "over_stream": statistics.median(s / m for s, m in zip(ours, medians, strict=True)),
                "result_verified": right[kind],
            }
        )
    return rows


def _runners(arrays: Arrays, team: Team, iterations: int, numba: Any, compiled: Any) -> dict[str, Runner]:
    """A function for each contestant that gives the seconds of the counted iterations and whether it was right."""

    def run_stream(huge: bool) -> tuple[list[float], bool]:
        triad = stream(arrays.a.size, team, iterations, huge=huge)["triad"]
        nbytes = 1e-9 * BYTES_PER_ELEMENT["triad"] * arrays.a.size
        # It prints a median and a best: as many seconds as keep both.
        return [nbytes / triad["best_gb_s"], *[nbytes / triad["median_gb_s"]] * 2], True

    def run_own(streaming: bool) -> tuple[list[float], bool]:
        seconds, right = arrays.run("triad", team, DROPPED + iterations, streaming=streaming)
        return seconds[DROPPED:], right

    def timed(triad: Callable[[], object]) -> tuple[list[float], bool]:
        arrays.poison(team)
        seconds = []
        for _ in range(DROPPED + iterations):
            begin = perf_counter()
            triad()
            seconds.append(perf_counter() - begin)
        return seconds[DROPPED:], arrays.right("triad")

    def numpy_triad() -> None:
        import numpy as np

        np.multiply(arrays.c, SCALAR, out=arrays.a)
        np.add(arrays.b, arrays.a, out=arrays.a)

    def run_numba() -> tuple[list[float], bool]:
        before = numba.get_num_threads()
        numba.set_num_threads(min(team.threads, numba.config.NUMBA_NUM_THREADS))
        try:
            return timed(lambda: compiled(arrays.a, arrays.b, arrays.c, SCALAR))
        finally:
            numba.set_num_threads(before)

    runners: dict[str, Runner] = {
        STREAM: lambda: run_stream(False),
        STREAM_HUGE: lambda: run_stream(True),
        "hpcalloc, ordinary stores": lambda: run_own(False),
    }
    if kernels.can_stream():
        runners["hpcalloc, streaming stores"] = lambda: run_own(True)
    runners["NumPy"] = lambda: timed(numpy_triad)
    if compiled is not None:
        runners["Numba prange"] = run_numba
    return runners
