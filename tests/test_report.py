# SPDX-License-Identifier: BSD-3-Clause
"""Reports: of a process, of ranks, as JSON and text; the verb."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import hpcalloc
from hpcalloc import _native
from hpcalloc._native import _handler
from hpcalloc.report import record as report

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def ctx(monkeypatch):
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    for name in [name for name in os.environ if name.startswith(("OMPI_", "PMI", "SLURM_"))]:
        monkeypatch.delenv(name)
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


def with_small_figures(whole):
    """Rank 0's record as if it had one array, whatever other tests have left."""
    record = whole.to_dict()["ranks"][0]
    arrays = {**record["arrays"], "count": 1, "nbytes": 800_000, "pages_per_node": {"0": 196}, "untouched": 0}
    memory = {**record["memory"], "huge_fraction": 0.0}
    figures = {"arrays": arrays, "memory": memory, "fallbacks": 0, "remote_frees": 0, "peak_bytes": 1_000_000}
    return {**record, "host": "vm", **figures}


def test_text(ctx):
    kept = ctx.ones(100_000)
    whole = ctx.report()
    small = report.Report({**whole.to_dict(), "ranks": [with_small_figures(whole)]}).to_text()
    assert max(map(len, small.splitlines())) <= 100
    text = whole.to_text()
    for part in ("1 of 1 ranks", "binding", ctx.action, "fallbacks", ctx.reasons[0][:20]):
        assert part in text
    if _native.can_query() == 0:
        assert "100.0 % of" in text
    assert str(ctx.report())
    del kept


def test_no_figure_of_a_table_is_cut(ctx):
    whole = ctx.report()
    data = whole.to_dict()
    record = {
        **with_small_figures(whole),
        "host": "node0123.cluster",
        "cpus": ",".join(map(str, range(0, 128, 2))),
        "peak_bytes": 3 << 30,
        "remote_frees": 123456789,
    }
    for width in (20, 100, 120):
        text = report.Report({**data, "ranks": [record]}).to_text(width=width)
        assert "3.0 GiB" in text, text
        for part in ("peak", "123456789", "node0123.cluster", "781.2 KiB", "100,", "126"):
            assert part in text, (width, part, text)
        assert max(map(len, text.splitlines())) < 140


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
    monkeypatch.setattr(report, "process_memory", lambda: 1 / 0)
    made = ctx.report()
    assert made.summary["failed_ranks"] == [0]
    assert "ZeroDivisionError" in made.to_text()


def test_summary_of_many():
    def record(rank, local, touched, fallbacks=0):
        fraction = local / touched if touched else None
        arrays = {
            "touched": touched,
            "local": local,
            "pages": touched,
            "unknown": None,
            "local_fraction": fraction,
        }
        return {
            "rank": rank,
            "local_rank": rank % 2,
            "host": f"n{rank // 2}",
            "arrays": arrays,
            "fallbacks": fallbacks,
            "strict_failures": 0,
            "remote_frees": 1,
            "peak_bytes": 10,
            "notes": ["same"],
        }

    made = report.make_report(
        [
            record(0, 10, 10),
            record(1, 5, 10, 3),
            record(2, 0, 0),
            {"rank": 3, "local_rank": 1, "host": "n1", "error": "x"},
        ],
        4,
    )
    summary = made.summary
    assert summary["hosts"] == 2
    assert summary["local_fraction"] == 0.75
    assert (summary["worst_rank"], summary["worst_fraction"]) == (1, 0.5)
    assert (summary["fallbacks"], summary["remote_frees"], summary["peak_bytes"]) == (3, 3, 30)
    assert summary["failed_ranks"] == [3]
    assert summary["notes"] == ["same"]


def test_numbers():
    assert report.percent(None) == "-"
    assert report.percent(1.0) == "100.0 %"
    assert report.percent(0.99999) == "99.9 %"
    assert report.percent(0.0) == "0.0 %"
    assert [report.size_text(n) for n in (0, 1023, 1536, 5 << 30, 3 << 50)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "3072.0 TiB",
    ]


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
        "1 of 1 ranks",
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


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="capability: needs mpirun")
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
