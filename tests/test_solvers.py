# SPDX-License-Identifier: BSD-3-Clause
"""The MPI solvers: run as their docstrings say, with and without hpcalloc, and notice when their arithmetic is broken."""

import ast
import json
import pathlib
import re
import shutil
import sys

import pytest
from launching import mpirun

SOLVERS = pathlib.Path(__file__).parents[1] / "examples/mpi"

# Sizes that take a moment.
SMALL = {
    "stream": ("--size", 100_000, "--steps", 3),
    "heat2d": ("--size", 120, "--steps", 40),
    "heat2d_temporaries": ("--size", 120, "--steps", 40),
    "heat2d_shared": ("--size", 120, "--steps", 40),
    "heat2d_blocked": ("--size", 120, "--steps", 40),
    "cg_poisson3d": ("--size", 18),
    "shallow_water": ("--size", 128, "--steps", 10),
    "summa": ("--size", 150, "--panel", 40),
    "fft_transpose": ("--size", 96, "--steps", 2),
    "nbody": ("--size", 300, "--steps", 3),
}

# In each the text of the first is replaced by the second.
BROKEN = [
    ("stream", "np.add(a[part], b[part]", "np.subtract(a[part], b[part]"),
    ("stream", "c[part], SCALAR,", "c[part], SCALAR + 1e-9,"),
    ("heat2d", "np.multiply(inside, 0.25, out=inside)", "np.multiply(inside, 0.2501, out=inside)"),
    ("heat2d", "u[:-2, 1:-1], u[2:, 1:-1]", "u[:-2, 1:-1], u[:-2, 1:-1]"),
    ("heat2d", "heat.line.Sendrecv(u[1], heat.below", "heat.line.Sendrecv(u[2], heat.below"),
    ("heat2d_temporaries", "0.25 * ((", "0.2501 * (("),
    ("heat2d_blocked", "u[k - 1] + u[k + 1]", "u[k - 1] + u[k - 1]"),
    ("heat2d_shared", "shared[step % 2].barrier()", "u[0, 3] = 0.5"),
    ("heat2d_shared", "np.multiply(inside, 0.25, out=inside)", "np.multiply(inside, 0.2501, out=inside)"),
    ("heat2d_shared", "np.add(inside, u[1:-1, 2:], out=inside)", "np.add(inside, u[1:-1, :-2], out=inside)"),
    ("cg_poisson3d", "np.multiply(p[1:-1, 1:-1, 1:-1], 6.0", "np.multiply(p[1:-1, 1:-1, 1:-1], 6.001"),
    ("cg_poisson3d", "u += alpha * p", "u += 1.0001 * alpha * p"),
    ("cg_poisson3d", "comm.Sendrecv(u[1], below", "comm.Sendrecv(u[2], below"),
    ("shallow_water", "q = zeta / p_corner", "q = 1.01 * zeta / p_corner"),
    ("shallow_water", "head = p[:-1, :-1] + 0.25 *", "head = p[:-1, :-1] + 0.30 *"),
    ("shallow_water", "dp = -(mass_u[1:, 1:-1]", "dp = -(1.001 * mass_u[1:, 1:-1]"),
    ("summa", "c += a_panel @ b_panel", "c += 1.000001 * (a_panel @ b_panel)"),
    ("summa", "at = panel.start - across[has_a].start", "at = 0"),
    (
        "fft_transpose",
        "comm.Alltoall(blocks, received)",
        "comm.Alltoall(blocks, received); received *= 1.0001",
    ),
    ("fft_transpose", ".transpose(1, 2, 0)", ".transpose(1, 0, 2)"),
    ("nbody", "inverse * inverse * inverse", "inverse * inverse"),
    ("nbody", "x += DT * v", "x += 1.01 * DT * v"),
]


def launch_line(name):
    """Ranks and options of the docstring's first indented line; what is in brackets may be left out."""
    text = ast.get_docstring(ast.parse((SOLVERS / f"{name}.py").read_text()))
    line = re.sub(r" *\[[^]]*\]", "", re.search(r"^ +(mpirun .*)$", text, re.MULTILINE)[1])
    found = re.fullmatch(rf"mpirun -n (\d+) python {name}\.py(.*)", line)
    assert found, line
    return int(found[1]), found[2].split()


def start(name, *options, source=None, ranks=None):
    asked, words = launch_line(name)
    return mpirun(
        ranks or asked,
        sys.executable,
        source or SOLVERS / f"{name}.py",
        *words,
        *SMALL[name],
        *options,
        timeout=120,
    )


WHERE = r"(100\.0 % of [1-9]\d* pages local|no array of 64 KiB or more|placement unknown: .+)"


@pytest.mark.parametrize("name", SMALL)
def test_launch_line(name):
    done = start(name)
    assert done.returncode == 0, done.stdout + done.stderr
    ranks, _ = launch_line(name)
    assert f"{ranks} of {ranks} ranks" in done.stdout  # the report
    lines = done.stdout.strip().splitlines()
    assert re.match(r"hpcalloc +\d+\.\d+ s, ", lines[-2])
    assert re.match(rf"{name} ok: {ranks} ranks, {WHERE}, ", lines[-1]), lines[-1]


@pytest.mark.parametrize("name", SMALL)
def test_plain_on_another_number_of_ranks(name):
    done = start(name, "--no-hpcalloc", ranks=3)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    assert re.match(r"plain +\d+\.\d+ s, ", lines[-2])
    assert lines[-1].startswith(f"{name} ok: 3 ranks, plain NumPy, ")
    assert "local" not in done.stdout


@pytest.mark.parametrize("name", ["stream", "cg_poisson3d"])
def test_compare_gives_both_times(name, tmp_path):
    file = tmp_path / "out.json"
    done = start(name, "--compare", "--repeats", 2, "--json", file)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert figures["solver"] == name
    assert figures["good"]
    assert figures["ranks"] == 2
    assert figures["machine"]["processor"]
    assert figures["report"]["size"] == 2
    runs = figures["runs"]
    assert set(runs) == {"plain", "hpcalloc"}
    assert all(len(run["all_seconds"]) == 2 and run["rate"] > 0 for run in runs.values())
    assert all(run["page_faults"] >= 0 for run in runs.values())
    assert figures["ratio"] == pytest.approx(runs["hpcalloc"]["seconds"] / runs["plain"]["seconds"])
    assert f"hpcalloc takes {figures['ratio']:.3f} of plain NumPy's time" in done.stdout


def outcomes(folder, ranks, jobs):
    """Run command lines by one start of mpirun; exit code and output of each by its key."""
    listed = folder / "jobs.json"
    listed.write_text(json.dumps([[str(word) for word in words] for words in jobs.values()]))
    done = mpirun(
        ranks, sys.executable, "-m", "mpi4py", pathlib.Path(__file__).with_name("several.py"), listed
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(zip(jobs, json.loads(pathlib.Path(f"{listed}.done").read_text()), strict=True))


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    jobs = {}
    for name, right, wrong in BROKEN:
        source = (SOLVERS / f"{name}.py").read_text()
        assert source.count(right) == 1, right
        path = shutil.copytree(SOLVERS, tmp_path_factory.mktemp(name) / "mpi") / f"{name}.py"
        path.write_text(source.replace(right, wrong))
        ranks, words = launch_line(name)
        assert ranks == 2
        jobs[name, right] = [path, *words, *SMALL[name]]
    return outcomes(tmp_path_factory.mktemp("broken"), 2, jobs)


@pytest.mark.parametrize(("name", "right"), [(name, right) for name, right, _ in BROKEN])
def test_broken_arithmetic_is_noticed(broken, name, right):
    code, said = broken[name, right]
    assert code != 0, said
    assert f"{name} FAILED" in said, said
    assert f"{name} ok" not in said


BAD = [("--size", "0"), ("--compare", "--no-hpcalloc")]


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    jobs = {(name, bad): [SOLVERS / f"{name}.py", *bad] for name in SMALL for bad in BAD}
    return outcomes(tmp_path_factory.mktemp("refused"), 1, jobs)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("bad", BAD)
def test_bad_options_are_refused(refused, name, bad):
    code, said = refused[name, bad]
    assert code == 2
    assert "usage:" in said


def test_stream_names_the_rate_of_every_node(tmp_path):
    file = tmp_path / "out.json"
    assert start("stream", "--json", file).returncode == 0
    nodes = json.loads(file.read_text())["runs"]["hpcalloc"]["nodes"]
    assert sum(node["ranks"] for node in nodes) == 2
    assert all(node["gb_per_s"] > 0 and node["nodes"] for node in nodes)


def test_cg_agrees_with_scipy():
    pytest.importorskip("scipy", reason="missing capability: scipy (pip install scipy)")
    done = start("cg_poisson3d")
    assert re.search(r"; from scipy \d\.\de-\d+\)$", done.stdout.strip()), done.stdout


def test_an_exception_on_one_rank_ends_all(tmp_path):
    source = (SOLVERS / "stream.py").read_text()
    broken = shutil.copytree(SOLVERS, tmp_path / "mpi") / "stream.py"
    broken.write_text(source.replace("own, together = [], []", "own, together = [], [][: 1 // comm.rank]"))
    done = start("stream", source=broken)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr
