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


@pytest.mark.parametrize(("ranks", "size"), [(1, 130), (3, 200)])
def test_heat2d(ranks, size):
    done = heat2d(ranks, "--size", size, "--steps", 60)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    where = r"(100\.0 % of [1-9]\d* pages local|placement unknown: .+)"
    assert re.match(rf"heat2d ok: {ranks} ranks, {where}, {size} x {size} points, 60 sweeps, error ", last), (
        last
    )


def test_heat2d_plain_has_its_own_main():
    done = heat2d(2, "--size", 40, "--steps", 60, source=EXAMPLES / "mpi/heat2d_plain.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("heat2d_plain ok: 2 ranks, 40 x 40 points")
    assert heat2d(1, "--size", 0, source=EXAMPLES / "mpi/heat2d_plain.py").returncode != 0


@pytest.mark.parametrize("variant", ["heat2d", "heat2d_temporaries", "heat2d_shared"])
def test_the_difference_is_the_lesson(variant):
    """A variant differs from the plain solver in few lines, its imports and docstring apart."""
    texts = [
        (EXAMPLES / f"mpi/{name}.py").read_text().split('"""', 2)[2] for name in ("heat2d_plain", variant)
    ]
    plain, own = ([line.strip() for line in text.split("\n\n\n", 1)[1].splitlines()] for text in texts)
    new = [line for line in own if line and line not in plain]
    assert 0 < len(new) <= 26, new
    assert len(own) <= 60


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_scripts(script):
    words = re.search(r"^ +(.*python .*)$", script.read_text(), re.MULTILINE)[1].split()
    ranks = int(words[2]) if words[0] == "mpirun" else 1
    done = mpirun(ranks, sys.executable, script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
