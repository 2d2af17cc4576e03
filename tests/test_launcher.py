# SPDX-License-Identifier: BSD-3-Clause
"""Launcher detection from environments as the launchers export them."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from hpcalloc.discover.launcher import Launch, detect_launcher, global_rank
from hpcalloc.discover.proc import ancestors, command_of, environment_of
from hpcalloc.discover.topology import Topology
from hpcalloc.plan.process import Situation, Wishes, decide

DATA = pathlib.Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "launchers.json").read_text())
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
        ({"SLURM_LOCALID": "2", "SLURM_PROCID": "6"}, Launch("slurm", 2, None, None, 6)),
        (
            {"SLURM_LOCALID": "2", "SLURM_PROCID": "6", "SLURM_CPU_BIND": "quiet,mask_cpu:0x3"},
            Launch("slurm", 2, None, True, 6),
        ),
        # mpirun inside sbatch: Slurm's local id is that of the batch step
        ({**OPENMPI, "SLURM_LOCALID": "0", "SLURM_PROCID": "0"}, Launch("openmpi", 1, 4, None)),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "x"}, Launch("none", None, None, None)),
    ],
)
def test_environments(environ, expected):
    assert detect_launcher(environ) == expected


def of_rank(environ, rank):
    """The recorded environment of one of the ranks: its number is I in it."""
    return {name: str(rank) if value == "I" else value for name, value in environ.items()}


@pytest.mark.parametrize("case", RECORDED, ids=[case["name"] for case in RECORDED])
def test_recorded(case):
    cpus = []
    for rank in range(2):
        environ = of_rank(case["environ"], rank)
        launch = detect_launcher(environ, None, case["parents"])
        assert (launch.launcher, launch.local_size, launch.size) == (
            case["launcher"],
            case["size"],
            case["job"],
        )
        assert launch.local_rank == (rank if case["launcher"] != "pmix" else None)
        assert launch.others == ((case["other"],) if "other" in case else ())
        if case["job"] is not None and not case["parents"]:
            assert global_rank(environ) == (rank, case["job"])
        everything = frozenset(range(16))
        found = Situation(environ, launch, everything, everything)
        steps = decide(Topology.from_synthetic("pack:2 [numa] core:4 pu:2"), found, Wishes())
        assert ("as well" in " ".join(steps.reasons)) == ("other" in case)
        if case["size"] is None:  # nobody knows the other ranks: the binding stays
            assert (steps.share.action, steps.pin) == ("none", ())
            assert "OMP_NUM_THREADS" not in steps.environment
            assert "does not tell" in " ".join(steps.reasons)
        cpus.append(set(steps.share.cpus))
    assert case["size"] is None or not cpus[0] & cpus[1]


@pytest.mark.parametrize("told", ["0", "2", "65537", "999999999999", "-1", "x"])
def test_a_number_of_ranks_that_can_be_none(told):
    environ = {"OMPI_COMM_WORLD_LOCAL_RANK": "5", "OMPI_COMM_WORLD_LOCAL_SIZE": told}
    assert detect_launcher(environ).local_size is None
    slurm = {"SLURM_LOCALID": "0", "SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": told}
    assert detect_launcher(slurm).local_size == (2 if told == "2" else None)


def test_a_batch_script_of_slurm_is_alone():
    batch = {
        "SLURM_LOCALID": "0",
        "SLURM_PROCID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_ID": "7",
        "SLURM_TASKS_PER_NODE": "4",
    }
    assert detect_launcher(batch) == Launch("slurm", 0, 1, None, 0)
    everything = frozenset(range(8))
    found = Situation(batch, detect_launcher(batch), everything, everything)
    steps = decide(Topology.from_synthetic("pack:1 [numa] core:8 pu:1"), found, Wishes())
    assert (steps.share.threads, steps.environment["OMP_NUM_THREADS"]) == (8, "8")
    assert detect_launcher({**batch, **OPENMPI}).others == ()


def test_anybodys_local_rank_is_no_launcher():
    assert detect_launcher({"LOCAL_RANK": "1", "RANK": "1"}).launcher == "none"


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


def test_other_processes():
    assert command_of(os.getpid())
    assert command_of(2**30) == ()
    assert [pid for pid, _ in ancestors(os.getpid())][:2] == [os.getpid(), os.getppid()]
    assert list(ancestors("self")) == list(ancestors(os.getpid()))
    assert list(ancestors(2**30)) == []
    with pytest.raises(FileNotFoundError):
        environment_of(2**30)


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
