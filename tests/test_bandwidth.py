# SPDX-License-Identifier: BSD-3-Clause
"""Bandwidth and latency: kernels compute what they say on any array, what is wrong is found, tables say what they show.

No test looks at a time.
"""

import copy
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import hpcalloc
from hpcalloc import HpcallocError
from hpcalloc.bench import bandwidth, caches, kernels, latency, machine, sizes, triads
from hpcalloc.bench.kernels import KERNELS, Arrays, Chain, Team, pinned
from hpcalloc.cli.main import cli
from hpcalloc.discover.topology import Topology
from hpcalloc.memory.placement import Placement

SOURCES = pathlib.Path(__file__).parents[1] / "native/bench"
CPUS = tuple(sorted(os.sched_getaffinity(0)))
QUICK = bandwidth.Options(nbytes=1 << 18, small=True, iterations=1, repeats=1)


def run(*arguments):
    return CliRunner().invoke(cli, ["bench", *map(str, arguments)], prog_name="hpcalloc")


def small(*arguments):
    return run("bandwidth", "--small", "--iterations", 1, "--repeats", 1, *arguments)


# ---- kernels --------------------------------------------------------------------------------------------


def unaligned(elements, offset):
    """An array that starts `offset` elements after a cache line."""
    raw = np.empty(elements + 16)
    first = -raw.ctypes.data % 64 // 8 + offset
    return raw[first : first + elements]


@pytest.mark.parametrize("simd", kernels.instruction_sets())
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_kernels_compute_what_they_say(simd, streaming, threads):
    team = Team(CPUS, threads)
    for elements, offset in ((1, 0), (7, 3), (8, 7), (31, 1), (1000, 5), (100_003, 2), (65_536, 0)):
        made = Arrays.make(elements, team, None)
        arrays = Arrays(*(unaligned(elements, offset + k) for k in range(3)))
        for mine, theirs in zip((arrays.a, arrays.b, arrays.c), (made.a, made.b, made.c), strict=True):
            mine[:] = theirs
        for kernel in KERNELS:
            seconds, right = arrays.run(kernel, team, 3, streaming=streaming, simd=simd)
            assert right, (kernel, elements, offset)
            assert len(seconds) == 3
        # Not by their own word alone.
        assert np.array_equal(arrays.a, arrays.b + kernels.SCALAR * arrays.c)
        assert np.array_equal(arrays.b, np.arange(elements) % kernels.B_PERIOD)


def test_affinity_is_put_back():
    before = os.sched_getaffinity(0)
    Arrays.make(1000, Team(CPUS[:1], 2), None).run("triad", Team(CPUS[:1], 2), 1)
    assert os.sched_getaffinity(0) == before
    latency.measure(latency.Options(1 << 14, True, 1, 100))
    assert os.sched_getaffinity(0) == before


def test_a_cpu_that_is_not_ours_is_refused():
    with pytest.raises(HpcallocError, match=r"CPUs 8000.*EINVAL"):
        Arrays.make(1000, Team((8000,), 1), None)
    with pytest.raises(HpcallocError, match="EINVAL"):
        Arrays.make(1000, Team((), 0), None)
    with pytest.raises(HpcallocError, match=r"CPUs 8000.*EINVAL.*limit"), pinned((8000,)):
        pass


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("at", [0, 12_345, -1])
def test_one_wrong_element_is_found(kernel, at):
    arrays = Arrays.make(50_000, Team.on(CPUS), None)
    if kernel == "read":
        arrays.b[at] += 1
        assert not arrays.time("read", Team.on(CPUS), 1)[1]
    else:
        arrays.time(kernel, Team.on(CPUS), 1)
        assert arrays.right(kernel)
        arrays.a[at] += 1
        assert not arrays.right(kernel)


# ---- what is broken on purpose ----------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A function that builds the kernels from changed sources and puts them in the place of the installed."""

    def build(right="", wrong="", flags=("-fopenmp",)):
        found = 0
        for name in ("bandwidth.c", "bandwidth_simd.h"):
            text = (SOURCES / name).read_text()
            found += text.count(right) if right else 1
            (tmp_path / name).write_text(text.replace(right, wrong) if right else text)
        assert found >= 1, right
        library = tmp_path / "libbroken.so"
        command = ["cc", "-std=gnu11", "-O2", "-shared", "-fPIC", *flags]
        subprocess.run([*command, "-o", library, tmp_path / "bandwidth.c"], check=True)
        loaded = kernels._ffi.dlopen(str(library))
        monkeypatch.setattr(kernels, "library", lambda: loaded)

    return build


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("v0 = LOAD(b + i) + v * LOAD(c + i)", "v0 = LOAD(b + i) - v * LOAD(c + i)"),
        ("WIDE v = ALL(s);", "WIDE v = ALL(s + 1e-9);"),
        ("PUT(a + i + 3 * WIDTH, v3);", ""),
        ("for (; i < n; i++) sum += b[i];", ""),
        ("+ ((s4 + s5) + (s6 + s7))", "+ ((s4 + s5) + s6)"),
    ],
)
def test_broken_kernels_are_found(built, right, wrong):
    built(right, wrong)
    arrays = Arrays.make(100_003, Team.on(CPUS), None)
    assert not all(arrays.run(kernel, Team.on(CPUS), 1)[1] for kernel in KERNELS)


def test_a_broken_kernel_ends_the_command_with_1(built):
    built("v0 = LOAD(b + i) + v * LOAD(c + i)", "v0 = LOAD(b + i) - v * LOAD(c + i)")
    result = small("--no-compare")
    assert result.exit_code == 1, result.output
    assert "WRONG" in result.output
    assert "bench bandwidth FAILED" in result.output


def test_a_chain_that_is_not_one_cycle_is_found(built):
    built("for (size_t i = lines - 1; i > 0; i--) {", "for (size_t i = lines - 1; i > 9; i--) {")
    result = run("latency", "--small", "--repeats", 1)
    assert result.exit_code == 1
    assert "BROKEN" in result.output
    assert "bench latency FAILED" in result.output


def test_stream_verifies_itself(tmp_path):
    text = (SOURCES / "stream.c").read_text()
    right = "a[i] = b[i] + scalar * c[i]"
    assert text.count(right) == 1
    (tmp_path / "stream.c").write_text(text.replace(right, "a[i] = b[i] + scalar * c[i] * (i != 5)"))
    program = tmp_path / "stream"
    subprocess.run(["cc", "-O2", "-fopenmp", tmp_path / "stream.c", "-o", program, "-lm"], check=True)
    done = subprocess.run([program, "10000", "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert not json.loads(done.stdout)["good"]
    for arguments in ([], ["0"], ["100", "1"], ["100", "1000"]):
        assert subprocess.run([program, *arguments], capture_output=True, check=False).returncode == 2


# ---- placement of the cells -------------------------------------------------------------------------------


def elsewhere(array, *, local_nodes):
    pages = array.nbytes // 4096
    return Placement(array.nbytes, 4096, pages, {5: pages}, local_nodes=tuple(local_nodes))


def test_pages_elsewhere_end_the_command_with_1(monkeypatch):
    monkeypatch.setattr(bandwidth, "placement", elsewhere)
    result = small("--no-compare")
    assert result.exit_code == 1
    assert "!" in result.output
    assert "0 of 10 sets of pages on their node" in result.output


def test_placement_that_is_unknown_is_said(monkeypatch):
    def unknown(array, *, local_nodes):
        return Placement(array.nbytes, 4096, 10, unknown="move_pages: EPERM", local_nodes=tuple(local_nodes))

    monkeypatch.setattr(bandwidth, "placement", unknown)
    result = small("--no-compare")
    assert result.exit_code == 0
    assert "placement unknown (?): move_pages: EPERM" in result.output


def test_untouched_pages_are_not_placed():
    arrays = Arrays.make(100_000, Team.on(CPUS), hpcalloc.on_node(hpcalloc._native.node_ids()[0]))
    assert bandwidth.where(arrays, hpcalloc._native.node_ids())["placed"] in (True, None)
    fresh = hpcalloc.zeros(1 << 20, policy=hpcalloc.on_node(hpcalloc._native.node_ids()[0]))
    seen = hpcalloc.placement(fresh, local_nodes=hpcalloc._native.node_ids())
    if seen.untouched:
        assert bandwidth.describe([seen])["placed"] is False


# ---- sizes -------------------------------------------------------------------------------------------------


def fake_cache(root, cpu, index, level, size, shared, kind="Unified"):
    folder = root / f"cpu{cpu}/cache/index{index}"
    folder.mkdir(parents=True)
    for name, value in (("level", level), ("size", size), ("shared_cpu_list", shared), ("type", kind)):
        (folder / name).write_text(f"{value}\n")


def test_last_level_caches_are_counted_once_each(tmp_path):
    for cpu in range(4):
        fake_cache(tmp_path, cpu, 0, 1, "32K", cpu, "Data")
        fake_cache(tmp_path, cpu, 1, 1, "64K", cpu, "Instruction")
        fake_cache(tmp_path, cpu, 3, 3, "16M", "0-1" if cpu < 2 else "2-3")
        fake_cache(tmp_path, cpu, 2, 2, "1024K", cpu)
    assert [c.level for c in caches.caches_of(0, str(tmp_path))] == [1, 2, 3]
    assert caches.last_level_bytes([0, 1], str(tmp_path)) == 16 << 20
    assert caches.last_level_bytes(range(4), str(tmp_path)) == 32 << 20
    assert caches.last_level_bytes([0, 9], str(tmp_path)) == 0


def test_arrays_that_fit_caches_are_refused_unless_small(monkeypatch):
    monkeypatch.setattr(sizes, "last_level_bytes", lambda cpus: 32 << 20)
    assert sizes.array_bytes("x", [0], None, False) == 128 << 20
    assert sizes.array_bytes("x", [0], None, False, shared_by=4) == 32 << 20
    assert sizes.array_bytes("x", [0], 200 << 20, False) == 200 << 20
    assert sizes.array_bytes("x", [0], 1 << 16, True) == 1 << 16
    assert sizes.array_bytes("x", [0], None, True) == 1 << 20
    with pytest.raises(HpcallocError, match=r"128 MiB an array.*--size 128, or --small"):
        sizes.array_bytes("x", [0], 127 << 20, False)
    monkeypatch.setattr(sizes, "last_level_bytes", lambda cpus: 0)
    with pytest.raises(HpcallocError, match="unknown size"):
        sizes.array_bytes("x", [0], 127 << 20, False)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(HpcallocError, match="are free in all"):
        sizes.check_room("x", 1 << 60, hpcalloc._native.node_ids())


@pytest.mark.parametrize(
    "arguments",
    [
        ["bandwidth", "--size", 1],
        ["bandwidth", "--size", 0],
        ["bandwidth", "--small", "--iterations", 0],
        ["bandwidth", "--small", "--repeats", -1],
        ["bandwidth", "--small", "--threads", "many"],
        ["bandwidth", "--small", "--threads", "0"],
        ["bandwidth", "--small", "--threads", "5000"],
        ["bandwidth", "--small", "--stores", "magic"],
        ["bandwidth", "--small", "--no-compare", "--plot", "/tmp/plot.nonsense"],
        ["bandwidth", "--small", "--no-compare", "--json", "/no/such/folder/out.json"],
        ["bandwidth", "--small", "--size", 1 << 40],
        ["latency", "--size", 1],
        ["latency", "--small", "--repeats", 0],
        ["latency", "--small", "--size", 1 << 40],
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_exit_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


# ---- commands ------------------------------------------------------------------------------------------------


def test_bandwidth_writes_table_json_and_plot(tmp_path):
    numbers, plot = tmp_path / "out.json", tmp_path / "out.png"
    result = small("--json", numbers, "--plot", plot, "--note", "on a Tuesday")
    assert result.exit_code == 0, result.output
    facts = json.loads(numbers.read_text())
    nodes = hpcalloc._native.node_ids()
    cells = {(c["team"], c["cpu_node"], c["memory_node"], c["kernel"]) for c in facts["cells"]}
    assert cells == {
        (t, i, j, k) for t in ("all", "one") for i in facts["cpu_nodes"] for j in nodes for k in KERNELS
    }
    for cell in [*facts["cells"], *facts["scaling"]]:
        assert cell["gb_per_s"] > 0
        assert cell["result_verified"]
        if cell["placed"] is not None:
            assert cell["placed"]
    assert {row["contestant"] for row in facts["triads"]} >= {triads.STREAM, "NumPy", "Numba prange"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    for text in (
        "on a Tuesday",
        "bytes as STREAM counts them",
        "write-allocate",
        "--small",
        "bench bandwidth ok",
    ):
        assert text in result.output
    assert (bandwidth.ONE_NODE in result.output) is (len(nodes) == 1)
    assert all(len(line) <= 110 for line in result.output.splitlines())


def test_json_to_standard_output_is_json_alone():
    facts = json.loads(small("--no-compare", "--json", "-").stdout)
    assert facts["good"]


def test_latency_writes_table_json_and_plot(tmp_path):
    numbers, plot = tmp_path / "out.json", tmp_path / "out.svg"
    remark = "[/b] $x_{$"  # no markup, no formula
    result = run("latency", "--small", "--repeats", 1, "--note", remark, "--json", numbers, "--plot", plot)
    assert result.exit_code == 0, result.output
    assert f"note: {remark}" in result.output
    facts = json.loads(numbers.read_text())
    assert {p["pages_asked"] for p in facts["points"]} == {"base", "huge"}
    assert max(p["working_set_bytes"] for p in facts["points"]) == 1 << 20
    assert min(p["working_set_bytes"] for p in facts["points"]) == 4096
    assert all(p["ns"] > 0 and p["result_verified"] for p in facts["points"])
    assert all(p["huge_fraction"] == 0 for p in facts["points"] if p["pages_asked"] == "base")
    assert "<svg" in plot.read_text()
    assert "bench latency ok" in result.output


def test_latency_is_for_one_process(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    result = run("latency", "--small")
    assert result.exit_code == 2
    assert "one process" in result.output


def test_chain_visits_every_line():
    with Chain(2 << 20, -1, huge=False) as chain:
        for nbytes in (64, 128, 4096, 2 << 20):
            assert chain.link(nbytes)
            seconds, whole = chain.chase(nbytes, 1000)
            assert seconds > 0
            assert whole


def test_emulated_and_virtual_machines_are_told(monkeypatch):
    monkeypatch.setattr(kernels, "hypervisor", lambda: "TCGTCGTCGTCG")
    assert "nothing about speed" in machine.remark()
    assert "nothing about speed" in small("--no-compare").output
    monkeypatch.setattr(kernels, "hypervisor", lambda: "KVMKVMKVM")
    assert "virtual machine" in machine.remark()
    monkeypatch.setattr(kernels, "hypervisor", lambda: "")
    assert machine.remark() == ""


def test_stores_can_be_chosen():
    for stores in ("ordinary", *(["streaming"] if kernels.can_stream() else [])):
        facts = bandwidth.measure(bandwidth.Options(1 << 18, True, 1, 1, stores))
        assert {choice["use"] for team in facts["stores"].values() for choice in team.values()} == {stores}


def test_numba_that_is_absent_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    result = small()
    assert result.exit_code == 0, result.output
    assert "Numba absent:" in result.output


def test_triads_that_are_wrong_are_found(monkeypatch):
    monkeypatch.setattr(triads, "SCALAR", 2.0)  # of NumPy's and Numba's
    rows = triads.compare(QUICK, Topology.from_machine(), 1 << 18)
    verified = {row["contestant"]: row.get("result_verified") for row in rows}
    assert verified["NumPy"] is False
    assert verified["hpcalloc, ordinary stores"] is True


def test_steps_are_what_the_progress_bar_expects():
    seen = []
    bandwidth.measure(QUICK, seen.append)
    assert len(seen) == bandwidth.steps(QUICK)
    seen.clear()
    triads.compare(QUICK, Topology.from_machine(), 1 << 18, seen.append)
    assert len(seen) == triads.steps(QUICK)
    seen.clear()
    options = latency.Options(1 << 14, True, 1, 100)
    latency.measure(options, seen.append)
    assert len(seen) == latency.steps(options)


# ---- several nodes, from made-up figures ----------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def measured():
    facts = bandwidth.measure(QUICK)
    return facts, latency.measure(latency.Options(1 << 14, True, 1, 100))


@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_tables_of_several_nodes_fit_80_columns(nodes, tmp_path, capsys):
    from hpcalloc.cli.bench import bandwidth as bandwidth_command
    from hpcalloc.cli.bench import figures
    from hpcalloc.cli.bench import latency as latency_command

    facts, times = copy.deepcopy(measured())
    for result in (facts, times):
        result["cpu_nodes"] = result["memory_nodes"] = list(range(nodes))
        result["remarks"] = []
        name = "cells" if result is facts else "points"
        first = [
            row
            for row in result[name]
            if row["cpu_node"] == row["memory_node"] == result[name][0]["cpu_node"]
        ]
        result[name] = [
            # Made up, too: on a busy machine so short a run may give any number of digits.
            {**row, "cpu_node": i, "memory_node": j, "gb_per_s": 123.4, "best_gb_per_s": 123.4, "ns": 123.4}
            for row in first
            for i in range(nodes)
            for j in range(nodes)
        ]
    times["curve_nodes"] = [0, nodes - 1]
    facts["scaling"] = [
        {**point, "gb_per_s": 123.4, "best_gb_per_s": 123.4}
        for point in (
            *facts["scaling"],
            {**facts["scaling"][-1], "nodes": list(range(nodes)), "threads": 8},
        )
    ]
    bandwidth_command._print(facts)
    latency_command._print(times)
    out = capsys.readouterr().out
    tables = [line for line in out.splitlines() if line.startswith(("┃", "│"))]
    assert max(map(len, tables)) <= 80
    assert not any("…" in line for line in tables)
    for draw, result in ((figures.matrix, facts), (figures.latency, times)):
        draw(result).savefig(tmp_path / f"{draw.__name__}.png")


def test_threads_of_the_scaling():
    assert bandwidth.thread_counts((), 1) == [1]
    assert bandwidth.thread_counts((), 12) == [1, 2, 4, 8, 12]
    assert bandwidth.thread_counts((3, 1), 4) == [1, 3]
    assert list(bandwidth._node_counts(1)) == []
    assert list(bandwidth._node_counts(2)) == [2]
    assert list(bandwidth._node_counts(6)) == [2, 4, 6]


def test_cores_are_dealt_by_node():
    topology = Topology.from_synthetic("pack:2 [numa] core:2 pu:2")
    assert bandwidth.cores_by_node(topology, range(8)) == {0: (0, 2), 1: (4, 6)}
    assert bandwidth.cores_by_node(topology, [1, 5, 6]) == {0: (1,), 1: (5, 6)}
    assert bandwidth.cores_by_node(topology, [1]) == {0: (1,)}


# ---- without OpenMP ----------------------------------------------------------------------------------------------


def test_without_openmp_the_bench_says_so(built):
    built(flags=())
    assert kernels.openmp_version() == 0
    if len(CPUS) > 1:
        result = small()
        assert result.exit_code == 2
        assert "built without OpenMP" in result.output
    assert run("latency", "--small", "--repeats", 1).exit_code == 0
    assert Arrays.make(1000, Team(CPUS[:1], 1), None).run("triad", Team(CPUS[:1], 1), 1)[1]
    with pytest.raises(HpcallocError, match="built without OpenMP"):
        Arrays.make(1000, Team(CPUS, 2), None)


def test_the_build_goes_on_without_openmp(tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("missing capability: cmake")
    options = ["-DNUMALLOC_TESTS=OFF", "-DCMAKE_DISABLE_FIND_PACKAGE_OpenMP=ON", "-DNUMALLOC_WERROR=ON"]
    source = SOURCES.parent
    subprocess.run(["cmake", "-S", source, "-B", tmp_path, *options], check=True, capture_output=True)
    command = ["cmake", "--build", tmp_path, "--target", "bandwidth", "stream"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    out = subprocess.run(
        [tmp_path / "bin/stream", "1000", "3"], capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(out)["threads"] == 1
