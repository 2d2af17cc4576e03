# SPDX-License-Identifier: BSD-3-Clause
"""Benchmarks run, keep the contents of blocks, and compare what they say they compare. No test looks at a time."""

import json
import math
import os
import statistics
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner

import hpcalloc
from hpcalloc import HpcallocError
from hpcalloc._native import _handler
from hpcalloc.bench import alloc
from hpcalloc.bench import numpy as numpy_bench
from hpcalloc.cli.main import cli

NAMES = [workload.name for workload in alloc.workloads()]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_workload_under_ours(name, threads):
    scale = {"huge": 0.02, "large": 0.01}.get(name, 0.005)
    result = alloc.compare({"glibc": ""}, names=[name], threads=[threads], repeats=1, scale=scale)
    for row in result["rows"]:
        for figures in row["allocators"].values():
            assert "error" not in figures, figures
            assert figures["ns_per_operation"] > 0
            assert figures["peak_bytes"] > 2**20


def test_the_preloaded_library_serves(monkeypatch, capfd):
    # Seen from the outside: our library prints its statistics, the C library knows nothing of it.
    monkeypatch.setenv("NUMALLOC_ON_ERROR", "nonsense")
    measured = alloc.Measurement()
    alloc._run_once("pair", 1, 1e-5, "", measured, 60)
    assert measured.error is None
    command = [str(alloc._program()), "pair", "--scale", "1e-5"]
    out = subprocess.run(
        command,
        env=alloc.environment_for(str(alloc.own_library())),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "NUMALLOC_ON_ERROR" in out.stderr


def test_ratios_are_against_the_best_of_the_others():
    rows = [
        {
            "workload": "a",
            "threads": 1,
            "allocators": {"x": figures(2, 8), "y": figures(4, 4), "z": figures(8, 2)},
        },
        {
            "workload": "b",
            "threads": 1,
            "allocators": {"x": figures(9, 8), "y": figures(3, 4), "z": {"error": "no"}},
        },
    ]
    summary = alloc._summary(rows, ["x", "y", "z"])
    assert summary["x"]["time_ratio"] == pytest.approx(math.sqrt(2 / 4 * 9 / 3))
    assert summary["x"]["worst_ratio"] == pytest.approx(3)
    assert summary["x"]["worst_workload"] == "b (1)"
    assert summary["y"]["memory_ratio"] == pytest.approx(math.sqrt(4 / 2 * 4 / 8))
    assert summary["z"]["time_ratio"] == pytest.approx(8 / 2)
    assert summary["z"]["failed"] == ["b (1)"]


def figures(nanoseconds, peak):
    return {"ns_per_operation": nanoseconds, "peak_bytes": peak}


def test_rows_that_scatter_are_measured_again_as_far_as_they_decide(monkeypatch):
    # ns of the runs in turn; the last one goes on
    scripts = {"close": [1.4, 1.41, 1.42], "far": [5.0, 8.0, 11.0], "broken": []}

    def run(workload, threads, scale, library, into, timeout):
        if not scripts[library]:
            into.error = "out of memory"
            return
        into.seconds.append(scripts[library][min(len(into.seconds), len(scripts[library]) - 1)])
        into.peak_bytes.append(1)

    monkeypatch.setattr(alloc, "_run_once", run)
    peers = {"close": "close", "far": "far", "broken": "broken"}
    counted, rows = [], []

    def runs_of(ours):
        scripts["ours"] = ours
        rows.append(alloc.compare(peers, names=["pair"], ours="ours", advance=counted.append)["rows"][0])
        return {name: len(rows[-1]["allocators"][name].get("runs_ns", [])) for name in (alloc.OURS, *peers)}

    runs = runs_of([1.0, 1.5, 1.8, 1.2, 1.3])  # settled by the 1.3 that goes on
    assert runs["broken"] == 0
    assert runs["far"] == 3 < runs[alloc.OURS] == runs["close"] < 9
    assert len(counted) == alloc.runs(["pair"], [1], 3, 4)
    assert runs_of([1.0, 2.0] * 5)[alloc.OURS] == 9
    assert 3 < runs_of([1.0, 1.01, 30.0, 1.0])[alloc.OURS] < 9  # one disturbed run is outvoted
    assert runs_of([1.0, 1.01, 1.02])[alloc.OURS] == 3
    scripts["far"] = [1.7, 1.0, 1.7, 1.0]  # disturbed twice: the best, in fact
    runs_of([1.1])
    assert rows[-1]["best_peer"] == "far"


def test_an_allocator_that_fails_is_named_and_left_out(tmp_path):
    broken = tmp_path / "broken.so"
    source = tmp_path / "broken.c"
    source.write_text(
        "#include <stddef.h>\nint posix_memalign(void **p, size_t a, size_t s){(void)p,(void)a,(void)s;return 12;}"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", broken, source], check=True)
    result = alloc.compare(alloc.find_peers([f"broken={broken}"]), names=["aligned"], repeats=1, scale=0.001)
    assert "out of memory" in result["rows"][0]["allocators"]["broken"]["error"]
    assert result["summary"]["broken"]["failed"] == ["aligned (1)"]
    assert result["rows"][0]["best_peer"] != "broken"


def test_a_library_that_is_not_loaded_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(alloc, "_LIBRARIES", {})  # no other peers
    (tmp_path / "no.so").write_text("no library")
    (tmp_path / "a blank.so").write_bytes(alloc.own_library().read_bytes())
    peers = ("--peer", f"none={tmp_path / 'no.so'}", "--peer", f"blank={tmp_path / 'a blank.so'}")
    once = "bench alloc --workload pair --threads 1 --repeats 1 --scale 0.0001"
    result = CliRunner().invoke(cli, [*once.split(), *peers])
    assert "pair (1): none failed: object" in result.output
    assert "pair (1): blank failed: object" in result.output
    assert result.exit_code == 1


def test_where_nothing_is_done_in_time_the_command_fails():
    arguments = ["--workload", "pair", "--threads", "1", "--repeats", "1", "--timeout", "1e-9"]
    assert CliRunner().invoke(cli, ["bench", "alloc", *arguments]).exit_code == 1


def test_command_writes_json_and_plot(tmp_path):
    numbers, plot = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ["bench", "alloc", "--workload", "pair", "--workload", "around", "--threads", "1,2"]
    arguments += ["--repeats", "1", "--scale", "0.001", "--json", str(numbers), "--plot", str(plot)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads(numbers.read_text())["rows"]
    assert [(r["workload"], r["threads"]) for r in rows] == [("pair", 1), ("pair", 2), ("around", 2)]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "glibc" in result.output
    cpus = len(os.sched_getaffinity(0))
    assert [r["pinned"] for r in rows] == [r["threads"] <= cpus for r in rows]
    assert "pinned" in result.output


def test_more_threads_than_cpus_are_not_pinned():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        rows = alloc.compare({}, names=["pair", "around"], repeats=1, scale=1e-4)["rows"]
    finally:
        os.sched_setaffinity(0, before)
    assert [(r["threads"], r["pinned"]) for r in rows] == [(1, True), (2, False)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workload", "nothing"],
        ["--threads", "many"],
        ["--threads", "0"],
        ["--repeats", "0"],
        ["--scale", "0"],
        ["--scale", "inf"],
        ["--scale", "nan"],
        ["--peer", "mimalloc3"],
        ["--peer", "mine=/no/such/library.so"],
        ["--peer", "hpcalloc=/bin/true"],
        ["--workload", "pair", "--repeats", "1", "--scale", "0.0001", "--plot", "/tmp/plot.nonsense"],
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments):
    result = CliRunner().invoke(cli, ["bench", "alloc", *arguments])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_unknown_workload_names_the_known():
    with pytest.raises(HpcallocError, match="window-wide"):
        alloc.compare({"glibc": ""}, names=["nothing"])


# ---- bench numpy -----------------------------------------------------------------------------------------


def test_numpy_ratios_are_of_the_medians(tmp_path):
    numbers, plot = tmp_path / "out.json", tmp_path / "out.svg"
    arguments = ["bench", "numpy", "--sizes", "64,1k,1M", "--repeats", "3", "--policy", "interleave"]
    result = CliRunner().invoke(cli, [*arguments, "--json", str(numbers), "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    assert "over in place, from 1 MB: numpy" in result.output
    assert "svg" in plot.read_text(encoding="utf-8")
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert [row["elements"] for row in found["rows"]] == [8, 125, 125_000]
    assert found["policy"] == "interleave()"
    for row in found["rows"]:
        ns = {
            (name, handler): statistics.median(by[handler]["runs_ns"])
            for name, by in row["statements"].items()
            for handler in ("numpy", "hpcalloc")
        }
        assert len(ns) == 14
        assert min(ns.values()) > 0
        ratios = row["ratios"]
        for handler in ("numpy", "hpcalloc"):
            for name in ("preallocated", "in_place"):
                expected = ns["temporaries", handler] / ns[name, handler]
                assert ratios[f"temporaries_over_{name}"][handler] == pytest.approx(expected)
        expected = ns["hpcalloc.empty", "hpcalloc"] / ns["hpcalloc.empty", "numpy"]
        assert ratios["hpcalloc_over_numpy"]["hpcalloc.empty"] == pytest.approx(expected)
    of_the_last = found["rows"][-1]["ratios"]["temporaries_over_preallocated"]["hpcalloc"]
    summary = found["summary"]["temporaries_over_preallocated"]["hpcalloc"]
    assert summary == {"worst": pytest.approx(of_the_last), "geometric_mean": pytest.approx(of_the_last)}


def test_numpy_measures_the_handlers_it_names():
    works = numpy_bench._works(1000, hpcalloc.local())
    for name, by_handler in works.items():
        for handler, work in by_handler.items():
            with numpy_bench._under("numpy" if name == "hpcalloc.empty" else handler, hpcalloc.local()):
                assert (_handler.handler_of(work()) is not None) == (handler == "hpcalloc"), (name, handler)
    with hpcalloc.numpy_allocator(), numpy_bench._under("numpy", hpcalloc.local()):
        assert _handler.handler_of(np.ones(8)) is None


def test_numpy_finds_a_wrong_result():
    works = numpy_bench._works(1000, hpcalloc.local())
    numpy_bench._verify(works, hpcalloc.local(), 8000)
    for name, wrong in [("temporaries", lambda: np.zeros(1000)), ("zeros", lambda: np.ones(1000))]:
        with pytest.raises(HpcallocError, match=name):
            numpy_bench._verify({**works, name: {**works[name], "hpcalloc": wrong}}, hpcalloc.local(), 8000)


@pytest.mark.parametrize(
    "arguments",
    [["--sizes", "1"], ["--sizes", "many"], ["--sizes", "100000G"], ["--repeats", "0"], ["--sizes", "nan"]],
)
def test_numpy_bad_input(arguments):
    result = CliRunner().invoke(cli, ["bench", "numpy", *arguments])
    assert result.exit_code == 2
    assert "limit:" in result.output
    assert "Traceback" not in result.output
