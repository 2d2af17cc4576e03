# SPDX-License-Identifier: BSD-3-Clause
"""The examples run as their first lines say, and fail their own verification when their arithmetic is broken."""

import pathlib
import re
import sys

import pytest
from launching import mpirun

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def heat2d(ranks, *options, source=EXAMPLES / "mpi/heat2d.py"):
    return mpirun(ranks, sys.executable, source, *options)


@pytest.mark.parametrize(("ranks", "size"), [(1, 33), (2, 64), (3, 50)])
def test_heat2d(ranks, size):
    done = heat2d(ranks, "--size", size, "--steps", 60)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    where = r"(100\.0 % of [1-9]\d* pages local|placement unknown: .+)"
    assert re.fullmatch(rf"demo ok: {ranks} ranks, {where}, max error \d\.\de-\d+, \d+\.\d GB/s", last), last


def test_heat2d_stops_when_it_converges():
    done = heat2d(1, "--size", 8, "--steps", 5000, "--tolerance", "1e-6")
    assert done.returncode == 0, done.stdout
    sweeps = int(re.search(r", (\d+) sweeps", done.stdout)[1])
    assert 20 < sweeps < 5000


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("np.multiply(inside, 0.25, out=inside)", "np.multiply(inside, 0.2501, out=inside)"),
        ("u[:-2, 1:-1], u[2:, 1:-1]", "u[:-2, 1:-1], u[:-2, 1:-1]"),
        ("MPI.Request.Waitall(exchange[id(u)])", "MPI.Request.Waitall(exchange[id(u)]); u[0, 3] = 0.5"),
    ],
)
def test_heat2d_notices_broken_arithmetic(tmp_path, right, wrong):
    source = (EXAMPLES / "mpi/heat2d.py").read_text()
    assert source.count(right) == 1
    broken = tmp_path / "broken.py"
    broken.write_text(source.replace(right, wrong))
    done = heat2d(2, "--size", 40, "--steps", 60, source=broken)
    assert done.returncode != 0
    assert "demo FAILED" in done.stdout
    assert "demo ok" not in done.stdout


def test_heat2d_refuses_bad_options():
    assert heat2d(1, "--size", 0).returncode == 2
    for none in ("nan", "inf", "-1"):  # no sweep, or all of them: "ok" would say nothing
        done = heat2d(1, "--size", 8, f"--tolerance={none}")
        assert (done.returncode, "demo ok" in done.stdout) == (2, False)
