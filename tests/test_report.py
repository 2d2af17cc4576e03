# SPDX-License-Identifier: BSD-3-Clause
"""Reports: of a process, of ranks, as JSON and text; the verb."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import hpcalloc
from hpcalloc import _native, _text
from hpcalloc._native import _handler
from hpcalloc.report import record as record_module
from hpcalloc.report import report, text
from hpcalloc.report.record import Absent, Arrays, Machine, Memory, Record

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def ctx(no_launcher, monkeypatch):
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    with hpcalloc.init() as context:
        yield context


def test_counts_the_arrays(ctx):
    before = ctx.report().ranks[0]["arrays"]
    a, b = ctx.ones(1 << 20), hpcalloc.zeros(_handler.MIN_TRACKED, "u1")
    small = ctx.ones(10)
    foreign = np.ones(1 << 20)
    after = ctx.report().ranks[0]["arrays"]
    assert after["count"] == before["count"] + 2
    assert after["nbytes"] == before["nbytes"] + a.nbytes + b.nbytes
    if after["unknown"] is None:
        pages = after["pages"] - before["pages"]
        assert pages == (a.nbytes + b.nbytes) // after["page_size"]
        assert after["touched"] + after["untouched"] == after["pages"]
        assert after["local_fraction"] == 1.0
    del a, b, small, foreign
    assert ctx.report().ranks[0]["arrays"]["count"] == before["count"]


def test_json_round_trip(ctx):
    kept = ctx.ones(100_000)
    made = ctx.report()
    data = json.loads(made.to_json())
    assert data == made.to_dict()
    assert data["size"] == 1
    (rank,) = data["ranks"]
    assert rank["pid"] == os.getpid()
    assert rank["nodes"] == list(ctx.nodes)
    assert rank["action"] == ctx.action
    assert rank["reasons"] == list(ctx.reasons)
    assert rank["allocator"]["options"]
    assert rank["memory"]["resident"] > kept.nbytes
    assert data["summary"]["ranks"] == data["summary"]["hosts"] == 1
    assert data["summary"]["failed_ranks"] == []


LARGE = (1 << 63) - 1
FIGURES = {"fallbacks": LARGE, "remote_frees": 123456789, "peak_bytes": 3 << 30}


def rank_record(rank, local=100, touched=100, **more):
    """A rank's record as others would make it."""
    arrays = Arrays(2, 4096 * touched, 4096, touched + 5, 5, 0, {0: local, 1: touched - local}, local)
    memory = Memory(10_000_000 + rank, 0, {0: 300, 1: 700})
    values = {
        "local_rank": rank % 4,
        "local_size": 4,
        "cpus": "0-3",
        "nodes": (0,),
        "action": "widen",
        "reasons": ("the ranks came unbound",),
        "notes": ("same",),
        "machine": Machine(2, 2, 64, 128),
        **more,
    }
    return Record(rank, **{"host": f"node{rank // 4}", "arrays": arrays, "memory": memory, **values})


def test_text(ctx):
    kept = ctx.ones(100_000)
    made = ctx.report()
    written = made.to_text()
    for part in ("1 of 1 rank", "binding", _text.BINDINGS[ctx.action], "fallbacks", ctx.reasons[0][:20]):
        assert part in written
    for part in ("job ", "command ", "hosts ", os.uname().nodename, "machine ", "NUMA node"):
        assert part in written
    if _native.can_query() == 0:
        assert "100.0 % of" in written
    assert str(ctx.report())
    del kept


WIDE = {
    "plain": {},
    "figures": FIGURES,
    "names": {
        "host": "node0123.cluster.university.example",
        "cpus": ",".join(map(str, range(0, 256, 2))),
        "nodes": tuple(range(0, 64, 2)),
        "threads": 65536,
        "command": "python " + "x" * 300,
        "reasons": ("a" * 200, "because " * 30),
        "notes": ("b" * 500,),
        "kernel": "6" * 200,
    },
    "pages": {
        "arrays": Arrays(
            LARGE, LARGE, 4096, LARGE, LARGE, LARGE, dict.fromkeys(range(64), LARGE), LARGE, unknown=None
        )
    },
    "unknown": {"arrays": Arrays(1, 4096, 4096, 1, unknown="move_pages: EPERM")},
}


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("width", [1, 80, 100, 200])
def test_text_is_as_wide_as_asked_for_and_no_figure_is_cut(kind, width):
    big = [rank_record(1048570 + i, 99, 100, **FIGURES) for i in range(3)]
    records = [*(dataclasses.replace(rank_record(i), **WIDE[kind]) for i in range(2)), *big]
    absent = [Absent(5, "because " * 50, 1, "h" * 100)]
    written = report.Report(1 << 20, records, absent).to_text(width=width)
    assert max(map(len, written.splitlines())) <= max(width, 80)
    for part in ("1048572", "123.5 M", "9.2 E", "3.0 GiB", "99.0 %", "8.0 EiB" if kind == "pages" else ""):
        assert part in written
    if kind == "names":
        for part in ("node0123", "0-254:2", "65536"):
            assert part in written


def test_every_word_of_a_table_is_explained():
    made = report.make_report([rank_record(rank, 50) for rank in range(3)], 3)
    for word in ("nodes", "binding", *text.MEMORY_COLUMNS):
        assert re.search(f"^{word}  ", made.to_text(), re.MULTILINE), word
        assert f"<dt>{word}</dt>" in made.to_html()
    for word in ("widen", "honour"):
        assert word not in made.to_text().replace("widened", "")
    assert "launcher default widened to its node" in made.to_text()


@pytest.mark.parametrize(("ranks", "limit"), [(1, 12_000), (4, 20_000), (128, 60_000), (1024, 300_000)])
def test_the_page_fits_a_phone(ranks, limit):
    """Tables scroll in boxes of their own, no length is wider than a phone, and tooltips are in the text too."""
    wide = Arrays(9, LARGE, 4096, LARGE, LARGE, 0, dict.fromkeys(range(8), LARGE), LARGE)
    records = [rank_record(rank, host=f"n{rank // 16}") for rank in range(ranks - 1)]
    page = report.make_report([*records, rank_record(ranks - 1, arrays=wide)], ranks).to_html()
    assert len(page) < limit
    assert page.count("<table") == page.count("<div class='wide'><table")
    assert "width=device-width" in page
    assert "@media (prefers-color-scheme: dark)" in page
    assert max(int(length) for length in re.findall(r"(\d+)px", page)) <= 20
    assert {unit for unit in re.findall(r"width: [\d.]+([a-z%]+)", page)} <= {"px", "rem", "%"}
    told = set(re.findall("<dd>([^<]*)</dd>", page))
    assert set(re.findall('title="([^"]*)"', page)) <= told


def test_all_ranks_can_be_reached():
    """Tables have the worst of many; the JSON and the page have all."""
    records = [rank_record(rank, 100 - (rank == 777) * 30) for rank in range(1000) if rank != 500]
    made = report.make_report(records, 1000)
    assert "8 of 1000 ranks: the worst placed" in made.to_text()
    assert re.search(r"^ *777 .*70\.0 %", made.to_text(), re.MULTILINE)
    assert [r["rank"] for r in json.loads(made.to_json())["ranks"]] == [r.rank for r in records]
    page = made.to_html()
    for rank in range(1000):
        assert f"title='rank {rank}: " in page
    assert "title='rank 777: 70.0 % local'" in page
    assert "title='rank 500: no report'" in page
    many = report.make_report(records, 1 << 20)
    assert len(many.to_html()) < 3_000_000
    assert many.summary["failed"] == (1 << 20) - 999


def test_ranks_that_differ_are_said_so():
    other = rank_record(1, machine=Machine(1, 1, 8, 8), command="b", kernel="6.1", reasons=("its own",))
    made = report.make_report([rank_record(0, command="a"), other, rank_record(2, command="a")], 3)
    written = made.to_text()
    assert re.search(r"^command +a \(1 rank: others\)", written, re.MULTILINE)
    assert "ranks 0,2: the ranks came unbound" in written
    assert "rank 1: its own" in written


def test_huge_pages_of_arrays(tmp_path):
    smaps = tmp_path / "smaps"
    smaps.write_text(
        "1000-3000 rw-p 00000000 00:00 0 \nRss: 100 kB\nAnonHugePages: 50 kB\nVmFlags: rd wr\n"
        "3000-5000 rw-p 00000000 00:00 0 /a b\nRss: 900 kB\nAnonHugePages: 900 kB\n"
        "5000-9000 rw-p 00000000 00:00 0\nRss: 0 kB\nPrivate_Hugetlb: 300 kB\nFilePmdMapped: 7 kB\n"
    )
    for starts, expected in (
        ([0x1000], 0.5),
        ([0x2FFF], 0.5),
        ([0x3000], 1.0),
        ([0x1000, 0x8000], 350 / 400),
        ([0x9000], None),
        ([], None),
    ):
        assert record_module.huge_fraction_of(starts, str(smaps)) == expected, starts
    assert record_module.huge_fraction_of([1], str(tmp_path / "none")) is None


def test_files_are_utf8_and_nothing_is_left_behind(ctx, tmp_path):
    words = "import hpcalloc, sys; hpcalloc.init().report().write(sys.argv[1])"
    old = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}  # as where the locale is ISO 8859
    for ending in (".txt", ".html", ".json"):
        file = tmp_path / f"r{ending}"
        subprocess.run(
            [sys.executable, "-c", words, file], check=True, timeout=120, env={**os.environ, **old}
        )
        assert file.read_text(encoding="utf-8")
    directory = tmp_path / "d.json"
    directory.mkdir()
    with pytest.raises(IsADirectoryError):
        ctx.report().write(directory)
    assert not list(tmp_path.glob("*.part"))


def test_unknown_is_said(ctx, monkeypatch):
    kept = ctx.ones(100_000)
    monkeypatch.setattr(_native, "page_counts", lambda start, length: 1)
    made = ctx.report()
    assert "EPERM" in made.summary["unknown"]
    assert made.summary["local_fraction"] is None
    assert "placement unknown: move_pages: EPERM" in made.to_text()
    assert made.ranks[0]["arrays"]["count"] >= 1
    del kept


def test_a_rank_that_fails_says_so(ctx, monkeypatch):
    monkeypatch.setattr(record_module, "process_memory", lambda: 1 / 0)
    made = ctx.report()
    assert made.summary["failed_ranks"] == [0]
    assert "ZeroDivisionError" in made.to_text()


def test_numbers():
    assert _text.percent(None) == "-"
    assert _text.percent(1.0) == "100.0 %"
    assert _text.percent(0.99999) == "99.9 %"
    assert _text.percent(0.0) == "0.0 %"
    sizes = [0, 1023, 1536, (1 << 20) - 1, 5 << 30, 3 << 50, LARGE]
    assert [_text.size_text(n) for n in sizes] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "1.0 MiB",
        "5.0 GiB",
        "3.0 PiB",
        "8.0 EiB",
    ]
    counts = [0, 99_999, 100_000, 999_960, 123_456_789, LARGE]
    assert [_text.count_text(n) for n in counts] == ["0", "99999", "100.0 k", "1.0 M", "123.5 M", "9.2 E"]


# ---- the verb ---------------------------------------------------------------------------------------


def run(*words, launch=()):
    environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **os.environ}
    return subprocess.run(
        [*launch, sys.executable, "-m", "hpcalloc", "report", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )


def test_verb():
    result = run("--size", "2")
    assert (result.returncode, result.stderr) == (0, "")
    for part in (
        "machine: ",
        "may place memory: ",
        "transparent huge pages: ",
        "launcher: none",
        "1 of 1 rank",
    ):
        assert part in result.stdout
    result = run("--json", "--bind", "off", "--no-mpi")
    data = json.loads(result.stdout)
    assert data["machine"]["topology"]["nodes"]
    assert data["machine"]["can_bind"] == (_native.can_bind() == 0)
    assert data["ranks"][0]["action"] == "none"
    assert data["ranks"][0]["arrays"]["nbytes"] == 64 << 20
    for words in (("--size", "0"), ("--size", "9" * 30), ("--output", ".json")):
        result = run(*words)
        assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
    assert run("--bind", "tight").returncode == 2


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="missing capability: mpirun")
def test_verb_under_mpirun():
    version = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=False).stdout
    openmpi = "Open MPI" in version or "Open RTE" in version
    launch = ["mpirun", "-n", "2"]
    if openmpi and CORES < 2:
        launch += ["--map-by", ":OVERSUBSCRIBE"]
    result = run("--json", "--size", "4", launch=launch)
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert [r["rank"] for r in data["ranks"]] == [0, 1]
    assert data["summary"]["failed_ranks"] == []
    if _native.can_query() == 0:
        assert data["summary"]["local_fraction"] == 1.0
        assert data["summary"]["pages"] == 2 * (4 << 20) // data["ranks"][0]["arrays"]["page_size"]
    if CORES > 1:
        first, second = data["ranks"]
        assert first["cpus"] != second["cpus"]
        # Open MPI binds two ranks to a core each though nobody asked: widened, and said so.
        assert {first["action"], second["action"]} == {"widen" if openmpi else "bind"}
        assert first["cpus"] == first["planned_cpus"]


def test_a_command_is_one_line_that_is_not_too_long():
    assert (
        record_module.command_text(["python", "-c", "\nimport os\nprint(1)"])
        == "python -c ' import os print(1)'"
    )
    assert len(record_module.command_text(["x" * 9999])) < 500
