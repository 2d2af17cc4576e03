# SPDX-License-Identifier: BSD-3-Clause
"""The picture of a machine: every core is in it once, no line is too long, no text leaves its box."""

import io
import pathlib
import re

import pytest
from click.testing import CliRunner
from matplotlib.text import Text

from hpcalloc.bench.kernels import KERNELS
from hpcalloc.cli import compare
from hpcalloc.cli.bench import alloc, figures, mpi
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


@pytest.mark.parametrize("source", [*map(str, TOPOLOGIES), *SYNTHETIC])
def test_the_verb_prints_no_line_over_80(source):
    result = CliRunner().invoke(cli, ["topology", "--topology", source], prog_name="hpcalloc")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize(
    "source", ["xeon_max.xml", "gh200x4.xml", "cxl.xml", "dgx_a100.txt", "restricted.xml", SYNTHETIC[1]]
)
def test_each_text_of_the_figure_is_in_its_box(source):
    file = TOPOLOGIES[0].with_name(source)
    topology, devices = read_source(str(file) if file.exists() else source)
    ranks = [share.cpus for share in make_plan(topology, 4).ranks]
    figure = draw(topology, ranks, new_figure(1, 1), devices)
    boxes = [figure.bbox, *(patch.get_window_extent() for patch in figure.axes[0].patches)]
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    cores = {len(name): name for name in texts if re.fullmatch(r"(r\d+\n)?\d+", name)}  # one of each length
    for name, text in texts.items():
        if not re.fullmatch(r"(r\d+\n)?\d+", name) or name in cores.values():
            x, y = text.get_transform().transform(text.get_position())
            box = min((b for b in boxes if b.contains(x, y)), key=lambda b: b.width * b.height)
            extent = text.get_window_extent()
            sides = (extent.x0 - box.x0, box.x1 - extent.x1, extent.y0 - box.y0, box.y1 - extent.y1)
            assert min(sides) >= 0, name
    words = " ".join(text.get_text() for text in figure.axes[0].texts).replace(",", "").split()
    assert all(words.count(device.name) == 1 for device in devices)
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


LONG = "a processor with a long name, of some model and stepping, at 2.40 GHz " * 2
MACHINE = {"processor": LONG, "numpy": "2.0"}
FIGURES = {
    "alloc": (
        alloc.draw,
        {
            "allocators": dict.fromkeys(("hpcalloc", "glibc", "another allocator")),
            "rows": [
                {
                    "workload": f"workload with a name {i}",
                    "threads": 128,
                    "allocators": {
                        "hpcalloc": {"ns_per_operation": 1.0},
                        "glibc": {"ns_per_operation": 900.0},
                        "another allocator": {"error": "it failed"},
                    },
                }
                for i in range(40)
            ],
        },
    ),
    "compare": (
        compare._draw,
        {
            "rows": [{"variant": f"variant-{i}", "figures": [1.0, 2.0, 9.0]} for i in range(9)],
            "best": "variant-3",
            "metric": "wall time, seconds",
            "higher": False,
            "repeats": 3,
        },
    ),
    "solvers": (
        mpi._draw,
        {
            "machine": MACHINE,
            "ranks": 128,
            "rows": [
                {
                    "solver": f"solver_{i}",
                    "runs": {
                        name: {"seconds": 1.0, "all_seconds": [1.0, 2.0]} for name in ("plain", "hpcalloc")
                    },
                }
                for i in range(12)
            ],
        },
    ),
    "ranks": (
        figures.ranks,
        {
            "machine": MACHINE,
            "remarks": [LONG * 3],
            "array_bytes": 1 << 30,
            "sums": {name: dict.fromkeys(KERNELS, 12345.6) for name in ("local", "remote", "interleaved")},
            "ranks": [
                {
                    "rank": rank,
                    "placements": {
                        name: {"kernels": {"triad": {"gb_per_s": 123.4}}}
                        for name in ("local", "remote", "interleaved")
                    },
                }
                for rank in range(16)
            ],
        },
    ),
    "latency": (
        figures.latency,
        {
            "machine": MACHINE,
            "remarks": [LONG * 3],
            "cpu_nodes": list(range(16)),
            "memory_nodes": list(range(16)),
            "curve_nodes": [0, 15],
            "caches": [{"level": 1, "bytes": 32 << 10}],
            "largest_bytes": 1 << 30,
            "points": [
                {"cpu_node": i, "memory_node": j, "pages_asked": pages, "working_set_bytes": size, "ns": 99.9}
                for i in range(16)
                for j in range(16)
                for pages in ("base", "huge")
                for size in (1 << 12, 1 << 30)
            ],
        },
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_of_a_plot_is_cut_and_it_says_which_way_is_better(name):
    draw_it, result = FIGURES[name]
    figure = draw_it(result)
    figure.savefig(io.BytesIO())  # lays it out
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.02, box
    texts = figure.findobj(Text)
    assert any("is better)" in text.get_text() for text in texts)
