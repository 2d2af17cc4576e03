# SPDX-License-Identifier: BSD-3-Clause
"""The command line: verbs, JSON, bad input."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from hpcalloc.cli.bench import BENCHMARKS
from hpcalloc.cli.main import VERBS, cli


def run(*arguments):
    return CliRunner().invoke(cli, list(arguments), prog_name="hpcalloc")


def test_help_lists_every_verb():
    result = run("--help")
    assert result.exit_code == 0
    for verb in VERBS:
        assert verb in result.output


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    assert run(verb, "--help").exit_code == 0


def test_bench_lists_every_benchmark():
    result = run("bench", "--help")
    assert result.exit_code == 0
    for benchmark in BENCHMARKS:
        assert benchmark in result.output
    assert run("bench", "fly").exit_code == 2


# A test whose id is "mpi" would be one for MPI ranks.
@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda name: f"bench-{name}")
def test_every_benchmark_has_help(benchmark):
    result = run("bench", benchmark, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: hpcalloc bench {benchmark}")


def test_topology():
    assert "NUMA node" in run("topology").output
    facts = json.loads(run("topology", "--json", "--topology", "pack:2 [numa] core:4 pu:2").output)
    assert [node["cpus"] for node in facts["nodes"]] == ["0-7", "8-15"]
    text = run("topology", "--topology", "pack:2 [numa] core:4 pu:2").output
    assert "pack:2 [numa] core:4 pu:2" in text


def test_plan():
    facts = json.loads(run("plan", "-n", "2", "--json", "--topology", "pack:2 [numa] core:4 pu:2").output)
    assert [share["nodes"] for share in facts["ranks"]] == [[0], [1]]
    assert facts["ranks"][1]["environment"]["OMP_PLACES"] == "{8},{10},{12},{14}"
    assert "node 1" in run("plan", "-n", "2", "--topology", "pack:2 [numa] core:4").output


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan",),
        ("plan", "-n", "0"),
        ("plan", "-n", "two"),
        ("plan", "-n", "2", "--threads", "lots"),
        ("plan", "-n", "2", "--threads", "0"),
        ("plan", "-n", "2", "--topology", "rack:4"),
        ("topology", "--topology", "/no/such.xml"),
        ("fly",),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "rror" in result.output


def test_as_module():
    out = subprocess.run(
        [sys.executable, "-m", "hpcalloc", "topology", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(out.stdout)["nodes"]
