# SPDX-License-Identifier: BSD-3-Clause
"""How long one thread's malloc, first touch and free take while another thread's memory goes back to the system.

``make bench-pauses``: ``native/bench/pauses.c`` under each allocator that is found, by turns. The p50, p99 and p99.9 are
medians of the turns; of the maxima it is the least, as the scheduler's own pauses are in most of them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path

from hpcalloc.bench.alloc import OURS, environment_for, find_peers, own_library

TURNS = 5
PROGRAM = Path(__file__).resolve().parent.parent / "build/native/bin/pauses"


def one(library: str) -> dict[str, dict[str, int]]:
    """Run the program once; nanoseconds by step and quantile."""
    done = subprocess.run(
        [PROGRAM], env=environment_for(library), capture_output=True, text=True, check=True, timeout=300
    )
    found = json.loads(done.stdout)
    return {step: found[step] for step in ("malloc", "touch", "free")}


def main() -> None:
    """Measure and print a table."""
    libraries = {OURS: str(own_library()), **find_peers()}
    runs: dict[str, list[dict[str, dict[str, int]]]] = {name: [] for name in libraries}
    for _ in range(TURNS):
        for name, library in libraries.items():
            runs[name].append(one(library))
    print(f"nanoseconds; {os.cpu_count()} CPUs, {TURNS} turns")
    print(f"{'allocator':12}{'step':8}{'p50':>10}{'p99':>10}{'p99.9':>10}{'max':>14}")
    for name, found in runs.items():
        for step in ("malloc", "touch", "free"):
            middle = [statistics.median(run[step][q] for run in found) for q in ("p50", "p99", "p99.9")]
            worst = min(run[step]["max"] for run in found)
            print(f"{name:12}{step:8}" + "".join(f"{value:10.0f}" for value in middle) + f"{worst:14.0f}")


if __name__ == "__main__":
    main()
