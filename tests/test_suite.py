# SPDX-License-Identifier: BSD-3-Clause
"""The suite itself: no test is left out by all of the runs that there are."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "tests/mpi").glob("test_*.py"))


def rank_counts():
    """Numbers of ranks on which ``make test-mpi`` runs tests/mpi."""
    rule = re.search(r"^\tfor n in ([\d ]+); do .*test-mpi-", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule is not None
    return [int(number) for number in rule[1].split()]


def smallest_sizes(tree):
    """Each ``min_size=`` of a marker, with its line."""
    return [
        (word.value.lineno, ast.literal_eval(word.value))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "min_size"
    ]


def test_every_mpi_test_has_enough_ranks_in_some_run():
    largest, seen = max(rank_counts()), 0
    for file in FILES:
        for line, size in smallest_sizes(ast.parse(file.read_text())):
            seen += 1
            assert size <= largest, f"{file.name}:{line}: {size} ranks, make test-mpi has {rank_counts()}"
    assert seen > 10


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_mpi_test_is_marked(file):
    """Those without the marker would run in one process alone, those with mpi_skip under no launcher."""
    text = file.read_text()
    assert re.search(r"^pytestmark = pytest\.mark\.mpi$", text, re.MULTILINE)
    assert "mpi_skip" not in text
