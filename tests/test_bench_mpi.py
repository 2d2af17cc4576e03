# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc bench mpi``: the table, JSON and plot of the solvers, and what it says when it can't."""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

from launching import mpirun_words, without_launcher
from rich.console import Console

from hpcalloc.cli.bench.mpi import _table
from hpcalloc.cli.console import print_table

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples/mpi"


def bench(*options, **environment):
    mpirun_words(1)  # skips without mpirun
    return subprocess.run(
        [sys.executable, "-m", "hpcalloc", "bench", "mpi", *map(str, options)],
        capture_output=True,
        text=True,
        timeout=300,
        env=without_launcher(os.environ)
        | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        | environment,
        check=False,
    )


def test_table_json_and_plot(tmp_path):
    figures, plot = tmp_path / "out.json", tmp_path / "out.png"
    done = bench(
        *("--quick", "--repeats", 1, "--ranks", 2, "--solver", "summa", "--solver", "stream"),
        *("--json", figures, "--plot", plot),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(figures.read_text())
    assert [row["solver"] for row in result["rows"]] == ["summa", "stream"]
    assert result["machine"]["processor"] in done.stdout
    assert result["machine"]["mpi"] in done.stdout
    for row in result["rows"]:
        assert row["good"]
        assert row["ranks"] == result["ranks"] == 2
        assert f"{row['ratio']:.3f}" in done.stdout
        assert set(row["runs"]) == {"plain", "hpcalloc"}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_solver_that_is_wrong_or_ends_is_a_failure(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "mpi")
    stream, nbody = tmp_path / "mpi/stream.py", tmp_path / "mpi/nbody.py"
    stream.write_text(stream.read_text().replace("np.add(a[part]", "np.subtract(a[part]"))
    nbody.write_text("raise SystemExit('no bodies today')\n")
    figures = tmp_path / "out.json"
    done = bench(
        *("--quick", "--repeats", 1, "--ranks", 1, "--solver", "stream", "--solver", "nbody"),
        *("--examples", tmp_path / "mpi", "--json", figures),
    )
    assert done.returncode == 1, done.stdout
    assert "stream failed" in done.stdout
    assert "no bodies today" in done.stdout
    assert all(row["error"] for row in json.loads(figures.read_text())["rows"])


def test_json_on_standard_output_is_alone(tmp_path):
    (tmp_path / "stream.py").write_text("raise SystemExit('no streams today')\n")
    done = bench("--ranks", 1, "--solver", "stream", "--examples", tmp_path, "--json", "-")
    assert done.returncode == 1
    assert "no streams today" in json.loads(done.stdout)["rows"][0]["error"]


def test_a_solver_that_hangs_is_ended(tmp_path):
    (tmp_path / "stream.py").write_text("import time; time.sleep(600)\n")
    done = bench("--ranks", 1, "--solver", "stream", "--examples", tmp_path, "--timeout", 2)
    assert done.returncode == 1
    assert "not done after 2 s" in done.stdout


def test_what_it_refuses(tmp_path):
    for options, text in (
        (("--solver", "sudoku"), "there is no solver 'sudoku'; limit: stream, "),
        (("--examples", tmp_path), "name that folder with --examples DIR"),
    ):
        done = bench(*options)
        assert done.returncode == 2
        assert text in done.stderr
    assert bench("--ranks", 0).returncode == 2
    done = bench("--quick", OMPI_COMM_WORLD_LOCAL_RANK="0", OMPI_COMM_WORLD_LOCAL_SIZE="2")
    assert done.returncode == 2
    assert "without mpirun or srun" in done.stderr


def test_list_names_every_solver():
    done = bench("--list")
    names = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"stream", "cg_poisson3d", "shallow_water", "summa", "fft_transpose", "nbody"} <= names
    assert all((EXAMPLES / f"{name}.py").exists() for name in names)


def test_no_figure_is_cut_where_the_table_is_narrow():
    runs = {
        kind: {"seconds": 123.456, "rate": 123.45, "page_faults": 12_345_678}
        for kind in ("plain", "hpcalloc")
    }
    row = {"solver": "cg_poisson3d", "runs": runs, "ratio": 0.948, "unit": "GB/s"}
    result = {"machine": dict.fromkeys(("processor", "cpus", "mpi", "numpy", "kernel"), "x")}
    result |= {
        "ranks": 2,
        "repeats": 5,
        "quick": False,
        "rows": [{**row, "pages": {"unknown": None, "local": 5, "touched": 5}}],
    }
    console = Console(width=80, file=io.StringIO())
    print_table(console, _table(result))
    shown = console.file.getvalue()
    assert "…" not in shown
    for text in ("cg_poisson3d", "123.456", "0.948", "123.45", "GB/s", "12345678", "100.0 %", "yes"):
        assert text in shown, shown
