# SPDX-License-Identifier: BSD-3-Clause
"""The suite itself: no test of several ranks is left out by all runs. (Those for more ranks than the largest run has
fail in it, see --largest-run.)"""

import ast
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


def skips_of(tree):
    """Why tests are skipped: what each call of pytest that skips gives as its reason, f-strings as far as the first value."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func) not in ("pytest.skip", "pytest.mark.skipif", "pytest.importorskip"):
            continue
        reason = next((word.value for word in node.keywords if word.arg == "reason"), None)
        if reason is None and ast.unparse(node.func) == "pytest.skip":
            reason = node.args[0]
        if isinstance(reason, ast.JoinedStr):
            reason = reason.values[0]
        yield node.lineno, reason.value if isinstance(reason, ast.Constant) else None


@pytest.mark.parametrize("file", sorted((ROOT / "tests").rglob("*.py")), ids=lambda file: file.name)
def test_a_skip_names_what_is_missing(file):
    found = dict(skips_of(ast.parse(file.read_text())))
    assert {line: why for line, why in found.items() if not str(why).startswith("missing capability: ")} == {}


def test_the_skips_are_seen():
    text = "import pytest\npytest.skip('no')\n@pytest.mark.skipif(1, reason=f'nor {2}')\ndef f(): pytest.importorskip('x')"
    assert [why for _, why in skips_of(ast.parse(text))] == ["no", "nor ", None]
