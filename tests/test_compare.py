# SPDX-License-Identifier: BSD-3-Clause
"""A program under several placements. Its figure is what the placement gives it, or a number made up, and no time."""

import json
import os
import re
import sys

import pytest
from click.testing import CliRunner

from hpcalloc.bench import variants
from hpcalloc.bench.variants import VARIANTS, chosen, launcher_words, verdict
from hpcalloc.cli.main import cli
from hpcalloc.discover.topology import Topology
from hpcalloc.exceptions import HpcallocError

FOUR_NODES = Topology.from_source("pack:2 numa:2 l3:1 core:4 pu:1")


def compare(*arguments):
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)], prog_name="hpcalloc")


@pytest.fixture
def program(tmp_path):
    """Write a program; return its words."""

    def write(body):
        path = tmp_path / "program.py"
        path.write_text(f"import os, sys\n{body}\n")
        return [sys.executable, str(path)]

    return write


@pytest.fixture
def one_cpu(tmp_path):
    """A launcher that binds to one CPU, as Open MPI does, and tells it by Open MPI's variables."""
    path = tmp_path / "launch"
    path.write_text(
        "#!/bin/sh\nexport OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_LOCAL_RANK=0 "
        "OMPI_COMM_WORLD_LOCAL_SIZE=1\nshift 2\n"
        f'exec {sys.executable} -c "import os, sys; cpus = os.sched_getaffinity(0); os.sched_setaffinity(0, '
        '[min(cpus)]); os.execvp(sys.argv[1], sys.argv[1:])" "$@"\n'
    )
    path.chmod(0o755)
    return f"{path} -n {{n}}"


# ---- what the figures say ---------------------------------------------------------------------------------


def test_a_difference_takes_eight_runs_on_one_side_and_two_percent():
    assert verdict([0.5] * 8) == "faster"
    assert verdict([2.0] * 8) == "slower"
    assert verdict([0.5] * 7) == "too few runs"
    assert verdict([0.985] * 20) == "no difference"
    assert verdict([0.5] * 7 + [1.1]) == "no difference"  # chance gives that in 7 of 100 cases
    assert verdict([0.5] * 11 + [1.1]) == "faster"
    assert verdict([1.0] * 8) == "no difference"
    assert verdict([0.9, 1.1] * 20) == "no difference"


def test_variants_are_those_that_differ_on_the_machine():
    assert list(chosen([], FOUR_NODES, 2)) == [
        "as-launched", "pinned", "allocator", "interleaved", "base-pages", "rank-per-node",
    ]  # fmt: skip  # two packages are the two ranks; a cache is a node
    assert chosen([], FOUR_NODES, 8)["rank-per-package"] == 2
    assert not any(name.startswith("rank") for name in chosen([], FOUR_NODES, None))
    assert "interleaved" not in chosen([], Topology.from_source("pack:1 [numa] core:4 pu:1"), 4)
    assert chosen(["rank-per-cache"], FOUR_NODES, 2) == {"as-launched": 2, "rank-per-cache": 4}
    with pytest.raises(HpcallocError, match=r"'fly'.*pinned"):
        chosen(["fly"], FOUR_NODES, 2)
    with pytest.raises(HpcallocError, match="give -n RANKS"):
        chosen(["rank-per-node"], FOUR_NODES, None)


def test_a_slurm_job_starts_ranks_by_srun_over_its_hosts(monkeypatch, tmp_path):
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    assert launcher_words(None, 6) == ["srun", "-n", "6"]
    assert chosen(["rank-per-node"], FOUR_NODES, 6)["rank-per-node"] == 12
    assert launcher_words("aprun -n {n} -q", 6) == ["aprun", "-n", "6", "-q"]
    assert launcher_words(None, None) == []


# ---- the verb ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="missing capability: two CPUs")
def test_a_program_that_its_launcher_bound_to_one_cpu_is_best_pinned(program, one_cpu, tmp_path):
    words = program("print(f'time: {1 / len(os.sched_getaffinity(0))} s')")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    result = compare(
        "-n", 1, "--launcher", one_cpu, "--variants", "pinned", "--metric", r"time: ([\d.]+)",
        "--json", out, "--plot", plot, "--", *words,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text())
    assert data["best"] == "pinned"
    assert [row.get("verdict") for row in data["rows"]] == [None, "faster"]
    assert "hpcalloc run --no-preload" in result.output
    assert max(map(len, result.output.splitlines()[:4])) <= 80
    assert plot.stat().st_size > 1000


def test_of_variants_that_are_alike_the_simplest_is_best(monkeypatch):
    monkeypatch.setattr(
        variants,
        "_measure",
        lambda name, *_: ({"as-launched": 9.0, "pinned": 3.0, "base-pages": 5.0}.get(name, 2.99), ""),
    )
    counts = chosen(["pinned", "allocator", "base-pages"], FOUR_NODES, 2)
    result = variants.compare(["program"], counts, metric="its own")
    assert (result["best"], result["alike"]) == ("pinned", ["allocator"])
    assert [row.get("verdict") for row in result["rows"]] == [None, "faster", "faster", "faster"]


def test_no_difference_is_said(monkeypatch):
    figures = iter([100, 103, 99, 101] * 10)
    monkeypatch.setattr(variants, "finish", lambda *_: (0, f"rate: {next(figures)}"))
    result = compare("--variants", "pinned", "--higher", "--metric", "rate: (.*)", "--", "program")
    assert result.exit_code == 0
    assert "within noise" in result.output
    assert "best:" not in result.output


def test_a_variant_is_what_it_says(program, tmp_path):
    words = program(
        "print('figure:', 5 if os.environ.get('NUMALLOC_HUGEPAGES') == 'never' else 1 + ('LD_PRELOAD' in os.environ))"
    )
    out = tmp_path / "out.json"
    compare(
        "--variants", "pinned,allocator,base-pages", "--repeats", 1, "--metric", "figure: (.*)", "--json", out, "--", *words
    )  # fmt: skip
    rows = json.loads(out.read_text())["rows"]
    assert {row["variant"]: row["figures"] for row in rows} == {
        "as-launched": [1], "pinned": [1], "allocator": [2], "base-pages": [5],
    }  # fmt: skip


def test_a_variant_that_fails_is_told_and_the_others_go_on(program):
    words = program(
        "print('figure: 1')\nif 'libnumalloc_preload' in os.environ.get('LD_PRELOAD', ''): sys.exit('no preload for me')"
    )
    result = compare(
        "--variants", "pinned,allocator", "--repeats", 1, "--metric", "figure: (.*)", "--", *words
    )
    assert result.exit_code == 1
    pattern = r"^allocator: (\d) runs? failed: exit code 1: .*figure: 1 / no preload for me$"
    told = re.findall(pattern, result.output, re.MULTILINE)
    assert sum(map(int, told)) == 2  # in two lines where `run` names another job in one of them
    row = next(line for line in result.output.splitlines() if line.startswith("pinned"))
    assert "too few runs" in row


def test_bad_patterns_and_figures(program):
    words = program("print('time: soon')")
    for metric, what in (
        ("(", "a regular expression"),
        ("(a)(b)", "2 groups"),
        ("nothing (.*)", "no line of its output matches"),
        ("time: (.*)", "is no number above 0"),
    ):
        result = compare("--variants", "pinned", "--repeats", 1, "--metric", metric, "--", *words)
        assert result.exit_code in (1, 2), metric
        assert what in result.output, metric
    result = compare("--variants", "pinned", "--repeats", 1, "--", "/no/such/program")
    assert result.exit_code == 1
    assert "/no/such/program" in result.output
    assert compare("--variants", "fly", "--", "true").exit_code == 2
    assert compare().exit_code == 2


def test_a_run_that_does_not_end_is_ended(program):
    words = program("import time; print('here', flush=True); time.sleep(60)")
    figure, error = variants._measure("as-launched", None, words, None, None, 0.5)
    assert figure is None
    assert error == "not done after 0.5 s"


def test_seconds_are_without_the_start(monkeypatch):
    took = {"true": 2.0, "program": 5.0}
    monkeypatch.setattr(variants, "_measure", lambda _name, _ranks, program, *_: (took[program[0]], ""))
    result = variants.compare(["program"], {"as-launched": None, "pinned": None}, repeats=1)
    assert [row["figures"] for row in result["rows"]] == [[3.0], [3.0]]
    took["program"] = 1.5
    result = variants.compare(["program"], {"as-launched": None}, repeats=1)
    assert "ends as soon as it is started" in result["rows"][0]["errors"][0]


def test_ranks_by_unit_have_threads_of_their_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = {}
    monkeypatch.setattr(
        variants, "finish", lambda words, _limit, environment: seen.update(environment) or (0, "9")
    )
    variants._measure("rank-per-node", 2, ["program"], "mpirun -n {n}", None, 1.0)
    assert "OMP_NUM_THREADS" not in seen
    assert variants._line("rank-per-node", 2, ["program"], "mpirun -n {n}").startswith(
        "env -u OMP_NUM_THREADS mpirun"
    )


def test_every_variant_is_described():
    assert all(variant.what for variant in VARIANTS.values())
    text = "".join(compare("--help").output.split())  # lines break at hyphens
    assert all(name in text for name in VARIANTS)
