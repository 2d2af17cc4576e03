# SPDX-License-Identifier: BSD-3-Clause
"""The suite itself: no test of several ranks is left out by all runs. (Those for more ranks than the largest run has
fail in it, see --largest-run.)"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "tests/mpi").glob("test_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_mpi_test_is_marked(file):
    """Those without the marker would run in one process alone, those with mpi_skip under no launcher."""
    text = file.read_text()
    assert re.search(r"^pytestmark = \[?pytest\.mark\.mpi\b", text, re.MULTILINE)
    assert "mpi_skip" not in text
