# SPDX-License-Identifier: BSD-3-Clause
"""Job scripts: the geometry that is written, the geometry that is refused, and bash that shellcheck has nothing against."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hpcalloc.cli.main import cli
from hpcalloc.discover.topology import Topology
from hpcalloc.exceptions import PlanError
from hpcalloc.plan.slurm import make_jobscript

ROOT = pathlib.Path(__file__).parents[1]
TWO = Topology.from_synthetic("pack:2 [numa(memory=16GB)] core:4 pu:2")


def lines(job):
    return job.text.splitlines()


def masks(job):
    return [int(word, 16) for word in re.search(r"mask_cpu:(\S+)", job.text)[1].split(",")]


def test_a_rank_per_numa_node():
    job = make_jobscript(TWO, ["./solver", "--size", "a b"], nodes=4)
    assert (job.nodes, job.ranks_per_node, job.threads) == (4, 2, 4)
    assert "#SBATCH --nodes=4" in lines(job)
    assert "#SBATCH --ntasks-per-node=2" in lines(job)
    assert "#SBATCH --exclusive" in lines(job)
    assert masks(job) == [0x00FF, 0xFF00]
    assert "--mem-bind=local" in job.text
    assert "OMP_NUM_THREADS=4" in job.text
    assert "OMP_PROC_BIND" not in job.text
    assert lines(job)[-3:] == [
        "diagnose doctor",
        "diagnose report",
        "launch hpcalloc run ./solver --size 'a b'",
    ]


def test_a_rank_with_several_nodes_is_not_held_to_one():
    job = make_jobscript(TWO, ["x"], ranks_per_node=1)
    assert masks(job) == [0xFFFF]
    assert "--mem-bind=none" in job.text


@pytest.mark.parametrize(("word", "ranks"), [("numa", 4), ("socket", 2), ("core", 16)])
def test_words_for_ranks(word, ranks):
    topology = Topology.from_synthetic("pack:2 numa:2 core:4")
    job = make_jobscript(topology, ["x"], ranks_per_node=word)
    assert job.ranks_per_node == ranks
    assert job.threads == 16 // ranks


def test_options_reach_sbatch():
    job = make_jobscript(
        TWO,
        ["x"],
        name="mine",
        time="1-02:00:00",
        partition="long",
        account="p-1",
        memory="8G",
        array="0-7:2%2",
        mpi="pmix",
        hint="nomultithread",
        log="logs/%x-%j.out",
    )
    for line in (
        "job-name=mine",
        "time=1-02:00:00",
        "partition=long",
        "account=p-1",
        "mem=8G",
        "array=0-7:2%2",
        "hint=nomultithread",
        "output=logs/%x-%j.out",
    ):
        assert f"#SBATCH --{line}" in lines(job)
    assert "srun --mpi=pmix" in job.text
    assert masks(job) == [0x0055, 0x5500]


def test_the_environment_is_made_by_the_script():
    text = make_jobscript(TWO, ["x"], setup=["module load a", "module load b"], venv="/a b").text
    order = ["#!/bin/bash -l\n", "#SBATCH", "set -e", "\nmodule load a\nmodule load b\n",
             "export PATH='/a b'/bin:\"$PATH\"\n", "export SLURM_EXPORT_ENV=ALL", "set -u", "launch()"]  # fmt: skip
    places = [text.index(word) for word in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (["./solver", "x"], "solver"),
        (["/usr/bin/python3.11", "-u", "runs/heat 2d.py", "x.py"], "heat_2d"),
        (["python", "-m", "pkg.mod"], "pkg.mod"),
        (["julia", "--threads=2", "a.jl"], "a.jl"),
        (["python"], "python"),
    ],
)
def test_the_job_has_the_name_of_the_program(program, name):
    assert f"#SBATCH --job-name={name}" in lines(make_jobscript(TWO, program))


def test_diagnostics_do_not_end_the_job(tmp_path):
    """Everything of hpcalloc's own fails here, and the program runs and gives the exit code."""
    for name, text in {
        "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
        "hpcalloc": 'case $1 in run) shift; exec "$@";; esac; echo "$1 fails"; exit 3',
    }.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    job = tmp_path / "job.sh"
    job.write_text(make_jobscript(TWO, ["sh", "-c", "echo here; exit 5"], venv=str(tmp_path)).text)
    done = subprocess.run(
        ["bash", job], capture_output=True, text=True, check=False, timeout=60,
        env={"SLURM_JOB_NUM_NODES": "1", "PATH": os.defpath},
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    for said in ("doctor fails", "hpcalloc doctor: exit code 3; the job goes on", "report fails", "here"):
        assert said in done.stdout


def test_a_compute_node_is_asked(tmp_path, monkeypatch):
    """srun starts the same command, without what is done here."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    words = ["-p", "big", "--setup", "a", "--setup", "b c", "--no-check", "-N", "2", "./x", "-n"]
    out = tmp_path / "job.sh"
    done = CliRunner().invoke(cli, ["jobscript", "--ask-node", "-o", str(out), *words])
    assert done.exit_code == 0, done.output
    said = out.read_text().splitlines()
    assert said.index("--partition=big") < said.index(sys.executable)
    after = said[said.index("jobscript") + 1 :]
    assert {"--nodes=2", "--partition=big", "--setup=a", "--setup=b c", "--no-check"} <= set(after)
    assert after[after.index("--") :] == ["--", "./x", "-n"]
    assert not [word for word in after if "ask" in word or "output" in word]
    srun.write_text("#!/bin/sh\nexit 4\n")
    done = CliRunner().invoke(cli, ["jobscript", "--ask-node", *words])
    assert (done.exit_code, "exit code 4 of srun" in done.output) == (2, True), done.output
    done = CliRunner().invoke(cli, ["jobscript", "--ask-node", "--topology", "pack:1 core:1", "x"])
    assert (done.exit_code, "one of them" in done.output) == (2, True), done.output


def test_without_the_check():
    text = make_jobscript(TWO, ["x"], check=False).text
    assert "report" not in text
    assert "doctor" not in text


def test_mpirun_gets_equal_blocks_or_nothing():
    job = make_jobscript(TWO, ["x"], ranks_per_node=4, launcher="mpirun")
    assert "--map-by ppr:4:node:PE=2 --bind-to core" in job.text
    assert "-ppn 4 -bind-to core:2" in job.text
    with pytest.raises(PlanError, match="equal blocks of cores"):
        make_jobscript(TWO, ["x"], ranks_per_node=3, launcher="mpirun")


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"ranks_per_node": 9}, "the 8 cores"),
        ({"ranks_per_node": 0}, "at least 1"),
        ({"ranks_per_node": "gpu"}, "numa, socket, core"),
        ({"threads": 5}, "1 to 4"),
        ({"threads": 0}, "1 to 4"),
        ({"threads": "many"}, "1 to 4"),
        ({"ranks_per_node": 8, "threads": 2}, "1 to 1"),
        ({"nodes": 0}, "at least 1"),
        ({"memory": "33G"}, "32.0 GiB"),
        ({"memory": "lots"}, "such as 64G"),
        ({"time": "soon"}, "01:30:00"),
        ({"array": "0-"}, "0-7"),
        ({"hint": "fast"}, "nomultithread"),
        ({"log": "a b"}, "a file name"),
        ({"setup": ["a\nb"]}, "one line"),
        ({"setup": [""]}, "one line"),
        ({"venv": ""}, "one line"),
        ({"partition": "a b"}, "a word"),
        ({"account": "x\n#SBATCH --nodes=99"}, "a word"),
        ({"name": ""}, "a word"),
        ({"mpi": "pmix", "launcher": "mpirun"}, "srun's --mpi"),
        ({"launcher": "prun"}, "srun, mpirun"),
        ({"program": []}, "a program"),
        ({"program": ["x", "a\nb"]}, "single lines"),
        ({"program": ["--size", "4"]}, "no option"),  # would be one of srun
        ({"program": ["solver/"]}, "no directory"),
    ],
)
def test_what_is_refused(options, limit):
    options = {"program": ["x"], **options}
    with pytest.raises(PlanError, match=limit):
        make_jobscript(TWO, options.pop("program"), **options)


@given(
    packages=st.integers(1, 4),
    cores=st.integers(1, 6),
    pus=st.integers(1, 2),
    ranks=st.integers(1, 30),
)
def test_masks_are_the_plan(packages, cores, pus, ranks):
    topology = Topology.from_synthetic(f"pack:{packages} [numa] core:{cores} pu:{pus}")
    if ranks > packages * cores:
        with pytest.raises(PlanError, match="cores of"):
            make_jobscript(topology, ["x"], ranks_per_node=ranks)
        return
    job = make_jobscript(topology, ["x"], ranks_per_node=ranks)
    found = masks(job)
    assert len(found) == ranks
    assert sum(found) == (1 << packages * cores * pus) - 1, "disjoint, and nothing idle"
    assert min(mask.bit_count() for mask in found) == job.threads * pus


def test_words_that_are_no_utf8_are_kept(tmp_path):
    file = tmp_path / "job.sh"
    word = os.fsdecode(b"m\xfcller.dat")
    result = CliRunner().invoke(cli, ["jobscript", "-o", str(file), "./solver", word])
    assert result.exit_code == 0, result.output
    assert file.read_bytes().endswith(b"launch hpcalloc run ./solver 'm\xfcller.dat'\n")


def test_command_line(tmp_path):
    run = CliRunner().invoke
    out = tmp_path / "job.sh"
    options = ["jobscript", "--topology", "pack:2 [numa] core:4"]
    done = run(cli, [*options, "-o", str(out), "--nodes", "2", "./x", "--nodes", "7"])
    assert done.exit_code == 0, done.output
    assert out.read_text().endswith("launch hpcalloc run ./x --nodes 7\n")
    facts = json.loads(run(cli, [*options, "--json", "x"]).output)
    assert (facts["ranks_per_node"], facts["threads"]) == (2, 4)
    assert facts["script"].startswith("#!/usr/bin/env bash\n")
    for wrong in (["--threads", "5", "x"], ["--ranks-per-node", "most", "x"], []):
        done = run(cli, [*options, *wrong])
        assert done.exit_code == 2
        assert "Traceback" not in done.output
    done = run(cli, [*options, "-o", str(tmp_path / "none/job.sh"), "x"])
    assert done.exit_code == 2
    assert "No such file" in done.output


def test_shellcheck(tmp_path):
    if shutil.which("shellcheck") is None:
        pytest.skip("missing capability: shellcheck")
    files = []
    for i, options in enumerate(
        (
            {},
            {"mpi": "pmi2", "memory": "1G", "array": "1,2"},
            {"launcher": "mpirun"},
            {"ranks_per_node": 1},
            {"setup": ["module load x"], "venv": "/a b"},
        )
    ):
        files.append(tmp_path / f"{i}.sh")
        files[-1].write_text(make_jobscript(TWO, ["./a program", "$HOME", "it's", "*"], **options).text)
    done = subprocess.run(["shellcheck", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


HEADERS = [
    r"^#!/usr/bin/env bash\n# SPDX-License-Identifier: BSD-3-Clause\n#\n# \w",
    r"^#   (.* )?sbatch .*jobscripts/{name}",
    r"^#SBATCH --job-name={job}$",
    r"^#SBATCH --time=",
    r"^set -euo pipefail\nsource ",
    r"^geometry ",
    r"^check",
]


@pytest.mark.parametrize("script", sorted((ROOT / "jobscripts").glob("job_*.sh")), ids=lambda p: p.stem)
def test_every_job_script_has_its_header_and_is_submitted(script):
    text = script.read_text()
    for pattern in HEADERS:
        wanted = pattern.replace("{name}", script.name).replace("{job}", script.stem.removeprefix("job_"))
        assert re.search(wanted, text, re.M), wanted
    assert f'"{script.name}"' in (ROOT / "tests/slurm/run.py").read_text()
