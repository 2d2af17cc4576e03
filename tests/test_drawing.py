# SPDX-License-Identifier: BSD-3-Clause
"""The picture of a machine: every core is in it once, no line is too long."""

import pathlib

import pytest
from click.testing import CliRunner

from hpcalloc.cli.drawing import machine_lines
from hpcalloc.cli.main import cli
from hpcalloc.discover.topology import Topology
from hpcalloc.plan.ranks import make_plan

TOPOLOGIES = sorted(pathlib.Path(__file__).parent.glob("data/topologies/*.xml"))
SYNTHETIC = ["pack:2 numa:2 l3:2 core:4 pu:2", "pack:1 [numa] core:200 pu:4", "pack:4 [numa] core:1 pu:1"]


@pytest.mark.parametrize(
    "source", [*map(str, TOPOLOGIES), *SYNTHETIC], ids=lambda source: pathlib.Path(source).name
)
def test_every_core_is_drawn_once_in_lines_of_80(source):
    topology = Topology.from_source(source)
    lines = machine_lines(topology)
    assert max(map(len, lines)) <= 80
    drawn = sum(line.count("■") + line.count("□") for line in lines if line.startswith("│"))
    assert drawn == len(topology.cores)
    for node in topology.nodes:
        assert sum(f"node {node.id}:" in line for line in lines) == 1


def test_ranks_are_on_their_cores():
    topology = Topology.from_source(SYNTHETIC[0])
    lines = machine_lines(topology, [share.cpus for share in make_plan(topology, 6).ranks])
    body = "".join(line for line in lines if "PUs" in line)
    assert [body.count(str(rank) * 4 + "  PUs") for rank in range(6)] == [1, 1, 1, 1, 2, 2]
    many = machine_lines(topology, [share.cpus for share in make_plan(topology, 64).ranks])
    assert any("from 0 again after Z" in line for line in many)


def test_the_verb_draws_text_and_a_file(tmp_path):
    file = tmp_path / "machine.svg"
    words = ["topology", "--topology", SYNTHETIC[0], "-n", "4", "--plot", str(file)]
    result = CliRunner().invoke(cli, words, prog_name="hpcalloc")
    assert result.exit_code == 0, result.output
    assert "╭─ package 1 " in result.output
    text = file.read_text()
    assert text.count("<svg") == 1
    assert CliRunner().invoke(cli, ["topology", "-n", "0"], prog_name="hpcalloc").exit_code == 2
