# SPDX-License-Identifier: BSD-3-Clause
"""Launcher detection from environments as the launchers export them."""

import os
import subprocess
import sys

import pytest

from hpcalloc.discover.launcher import Launch, detect_launcher, parent_command

OPENMPI = {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Launch("none", None, None, None)),
        (OPENMPI, Launch("openmpi", 1, 4, None)),
        ({"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}, Launch("mpich", 0, 2, None)),
        (
            {"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2", "I_MPI_MPIRUN": "mpirun"},
            Launch("intel", 0, 2, None),
        ),
        (
            {"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2", "I_MPI_PIN_DOMAIN": "numa"},
            Launch("intel", 0, 2, True),
        ),
        ({"PALS_LOCAL_RANKID": "3"}, Launch("pals", 3, None, None)),
        ({"FLUX_TASK_LOCAL_ID": "3"}, Launch("flux", 3, None, None)),
        ({"SLURM_LOCALID": "2", "SLURM_PROCID": "6"}, Launch("slurm", 2, None, None)),
        (
            {"SLURM_LOCALID": "2", "SLURM_PROCID": "6", "SLURM_CPU_BIND": "quiet,mask_cpu:0x3"},
            Launch("slurm", 2, None, True),
        ),
        # mpirun inside sbatch: Slurm's local id is that of the batch step
        ({**OPENMPI, "SLURM_LOCALID": "0", "SLURM_PROCID": "0"}, Launch("openmpi", 1, 4, None)),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "x"}, Launch("none", None, None, None)),
    ],
)
def test_environments(environ, expected):
    assert detect_launcher(environ) == expected


@pytest.mark.parametrize(
    ("command", "explicit"),
    [
        (["mpirun", "-n", "2", "python", "s.py"], False),
        (["/opt/bin/prterun", "-n", "2", "python"], False),
        (["mpirun", "--bind-to", "core", "-n", "2", "python"], True),
        (["mpirun", "--bind-to=none", "-n", "2", "python"], True),
        (["mpirun", "--map-by", ":OVERSUBSCRIBE", "-n", "8", "python"], False),
        (["mpirun", "--map-by", "numa:PE=4", "-n", "8", "python"], True),
        (["mpirun", "--cpu-set", "0-3", "python"], True),
        (["bash", "job.sh"], None),
        ([], None),
    ],
)
def test_open_mpis_command_line(command, explicit):
    assert detect_launcher(OPENMPI, command).explicit is explicit


def test_open_mpis_variables():
    assert detect_launcher({**OPENMPI, "PRTE_MCA_hwloc_default_binding_policy": "numa"}).explicit is True


def test_parent_command():
    assert parent_command(os.getpid())
    assert parent_command(2**30) == ()


def test_a_debugging_variable_asks_for_no_binding():
    ranks = {"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
    assert detect_launcher({**ranks, "HYDRA_TOPO_DEBUG": "1"}).explicit is None
    assert detect_launcher({**ranks, "HYDRA_BINDING": "numa"}).explicit is True


def test_the_launcher_is_found_through_a_shell(tmp_path):
    program = tmp_path / "mpirun"
    program.write_text(
        "#!/bin/bash\nexport OMPI_COMM_WORLD_LOCAL_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=1\n"
        'bash -c \'bash -c "$0 -c \\"$1\\"; true"; true\' "$PYTHON" "$CODE"\n'
    )
    code = "from hpcalloc.discover.launcher import this_launch; print(this_launch().explicit)"
    done = subprocess.run(
        ["bash", "-c", f'exec -a mpirun bash "{program}" --bind-to core; true'],
        env={**os.environ, "PYTHON": sys.executable, "CODE": code},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "True", done
