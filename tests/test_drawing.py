# SPDX-License-Identifier: BSD-3-Clause
"""The picture of a machine: every core is in it once, no line is too long, no text leaves its box."""

import pathlib

import pytest
from click.testing import CliRunner

from hpcalloc.cli.bench.output import new_figure
from hpcalloc.cli.drawing import draw, machine_lines
from hpcalloc.cli.main import cli
from hpcalloc.discover.devices import read_source
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


@pytest.mark.parametrize(
    "source",
    [*map(str, TOPOLOGIES), str(TOPOLOGIES[0].with_name("dgx_a100.txt")), *SYNTHETIC],
    ids=lambda source: pathlib.Path(source).name,
)
def test_the_verb_prints_no_line_over_80_and_each_text_of_the_figure_is_in_its_box(source):
    result = CliRunner().invoke(cli, ["topology", "--topology", source], prog_name="hpcalloc")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    topology, devices = read_source(source)
    ranks = [share.cpus for share in make_plan(topology, 4).ranks]
    figure = draw(topology, ranks, new_figure(1, 1), devices)
    figure.canvas.draw()
    boxes = [figure.bbox, *(patch.get_window_extent() for patch in figure.axes[0].patches)]
    names = [device.name for device in devices]
    for text in figure.axes[0].texts:
        extent = text.get_window_extent()
        around = [box for box in boxes if box.contains(*text.get_transform().transform(text.get_position()))]
        box = min(around, key=lambda box: box.width * box.height)
        sides = (extent.x0 - box.x0, box.x1 - extent.x1, extent.y0 - box.y0, box.y1 - extent.y1)
        assert min(sides) >= 0, text.get_text()
    words = " ".join(text.get_text() for text in figure.axes[0].texts).replace(",", "").split()
    assert all(words.count(name) == 1 for name in names)
    for node in topology.nodes:
        assert sum(text.get_text().startswith(f"node {node.id}:") for text in figure.axes[0].texts) == 1


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
