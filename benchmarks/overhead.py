# SPDX-License-Identifier: BSD-3-Clause
"""What hpcalloc costs besides memory: its import, init, and the gather of a report.

    python benchmarks/overhead.py [--runs 15] [--json FILE]
    python benchmarks/overhead.py --gather 10000

Modules come compiled, as pip leaves them. import: wall time of a process that imports hpcalloc less that of one that imports NumPy, in turn, medians.
init: `hpcalloc.init` and close after MPI_Init, slowest of 2 ranks, each run a job of its own; the first call in a
process, and a later one. gather: made-up records of N ranks, summarised one by one and merged in a tree, in one process
(in a job the merges of a level run at the same time).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import pickle
import statistics
import subprocess
import sys
import time

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else a checkout is compiled anew by every process

INIT = """
import time
import numpy
from mpi4py import MPI
import hpcalloc
times = []
for _ in range(5):
    MPI.COMM_WORLD.Barrier()
    start = time.perf_counter()
    context = hpcalloc.init(MPI.COMM_WORLD)
    times.append(time.perf_counter() - start)
    context.close()
first, later = times[0], min(times[1:])
first, later = MPI.COMM_WORLD.reduce(first, MPI.MAX), MPI.COMM_WORLD.reduce(later, MPI.MAX)
if MPI.COMM_WORLD.rank == 0:
    print(first, later)
"""


def wall(code: str) -> float:
    """Seconds of a process that runs `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def imports(runs: int) -> dict[str, float]:
    """Measure the import, beside NumPy's."""
    wall("import hpcalloc")  # files into the cache
    pairs = [(wall("import numpy"), wall("import hpcalloc")) for _ in range(runs)]
    return {
        "numpy_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "import_beyond_numpy_ms": 1e3 * statistics.median(b - a for a, b in pairs),
    }


def inits(runs: int) -> dict[str, float]:
    """Measure init on two ranks."""
    mpirun = str(pathlib.Path(sys.executable).parent / "mpirun")
    environ = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    found = []
    for _ in range(runs):
        done = subprocess.run(
            [mpirun, "-n", "2", sys.executable, "-c", INIT],
            capture_output=True, text=True, check=True, timeout=120, env=environ,
        )  # fmt: skip
        found.append([float(word) for word in done.stdout.split()])
    return {
        "first_init_ms": 1e3 * statistics.median(first for first, _ in found),
        "later_init_ms": 1e3 * statistics.median(later for _, later in found),
    }


def gather(ranks: int) -> dict[str, float]:
    """Take the record of this process for that of every rank."""
    import hpcalloc
    from hpcalloc.report.record import record_of
    from hpcalloc.report.report import make_report

    with hpcalloc.init(bind="off") as context:
        kept = context.ones(1 << 20)
        record = dataclasses.replace(record_of(context), allocator=None)
        del kept
    sent = [
        pickle.dumps(dataclasses.replace(record, rank=rank, local_rank=rank % 64)) for rank in range(ranks)
    ]
    start = time.perf_counter()
    report = make_report([pickle.loads(one) for one in sent], ranks)
    assert report.summary["ranks"] == ranks
    end = time.perf_counter()
    return {
        "ranks": ranks,
        "gather_s": end - start,
        "record_bytes": len(sent[0]),
        "text_lines": len(report.to_text().splitlines()),
        "json_bytes": len(report.to_json()),
    }


def main() -> int:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--gather", type=int, metavar="RANKS", help="measure that alone")
    parser.add_argument("--json", metavar="FILE")
    chosen = parser.parse_args()
    if chosen.runs < 1 or (chosen.gather is not None and chosen.gather < 1):
        parser.error("--runs and --gather take numbers from 1")
    result = gather(chosen.gather or 10_000)
    if chosen.gather is None:
        result |= imports(chosen.runs) | inits(chosen.runs)
    for name, value in result.items():
        print(f"{name:24} {value:.3f}" if isinstance(value, float) else f"{name:24} {value}")
    if chosen.json:
        pathlib.Path(chosen.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
