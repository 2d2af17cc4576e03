# SPDX-License-Identifier: BSD-3-Clause
"""The pages of docs/ and the README do what they say: their programs are written to files and their commands are run.

A block of code whose first line is a comment with a file name is that file. A block ``sh`` is run by bash, in a folder with
the files of its page. ``text`` is what a program prints. A comment ``<!-- not run: reason -->`` before a block leaves it out.
"""

import ast
import html
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from launching import mpirun_version, without_launcher

from hpcalloc import _words
from hpcalloc.report.html import _table
from hpcalloc.report.text import MEMORY_COLUMNS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, ROOT / "examples/README.md", ROOT / "benchmarks/README.md"]
BLOCK = re.compile(
    r"^(?P<reason><!-- not run: [^\n]+ -->\n)?(?P<fence>```+)(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=fence)$",
    re.M | re.S,
)
NAME = re.compile(r"(?:#|//|!|/\*) ?([\w.]+\.\w+)")
TOOLS = ("mpirun", "cc", "c++", "cmake", "gfortran", "pkg-config")


def blocks(text):
    """Language, file name or None, text, and whether it is left out, of the blocks of code."""
    for found in BLOCK.finditer(text):
        language, body = found["language"], found["text"]
        if language.startswith("{"):  # for Sphinx
            continue
        named = NAME.match(body) if language not in ("sh", "text") else None
        yield language, named and named[1], body, bool(found["reason"])


def sections(page):
    """Parts of a page by their headings of the second level; what is before the first is one too."""
    parts = re.split(r"^## ", page.read_text(), flags=re.M)
    return {part.partition("\n")[0].strip("# "): part for part in parts}


def is_run(language, left_out):
    return language == "sh" and not left_out


# A page is one script, but the libraries each have one: not all of them are installed everywhere.
RUN = [
    (page, title)
    for page in PAGES
    for title, part in (sections(page) if page.name == "libraries.md" else {"": page.read_text()}).items()
    if any(is_run(language, left_out) for language, _, _, left_out in blocks(part))
]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_block_is_run_or_says_why_not(page):
    text = page.read_text()
    commands = "".join(body for language, _, body, left_out in blocks(text) if is_run(language, left_out))
    for language, name, body, left_out in blocks(text):
        if language in ("sh", "text") or left_out:
            continue
        assert name, f"neither a file nor run: {body}"
        assert name in commands or name == "CMakeLists.txt" or "import" in commands, name
        if language == "python":
            compile(body, name, "exec")


@pytest.mark.parametrize("page", LINKED, ids=[str(page.relative_to(ROOT)) for page in LINKED])
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_how_to_pages_are_two_clicks_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs/howto").glob("*.md"):
        assert f"docs/howto/{page.name}" in readme, page.name


def test_index_has_every_page():
    index = (ROOT / "docs/index.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs").with_suffix(""))
        assert name == "index" or f"\n{name}\n" in index, name


def test_glossary_is_what_the_tables_say():
    assert (ROOT / "docs/glossary.md").read_text() == _words.glossary()


def test_tooltips_of_the_page_are_the_glossary():
    columns = ("rank", *MEMORY_COLUMNS)
    shown = re.findall(r'<th.*? title="(.+?)"', _table(columns, [], ()))
    assert [html.unescape(text) for text in shown] == [_words.meaning(column) for column in columns]


def headings(tree):
    """Constant headings of the tables that a module makes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            words = node.args if called == "Table" else node.args[:1] if called == "add_column" else ()
            yield from (word.value for word in words if isinstance(word, ast.Constant))
        elif isinstance(node, ast.For) and f"add_column({ast.unparse(node.target)}" in ast.unparse(node):
            yield from (word.value for word in ast.walk(node.iter) if isinstance(word, ast.Constant))


def test_every_heading_of_a_table_is_in_the_glossary():
    missing = set()
    for folder in ("cli", "report"):
        for module in (ROOT / "hpcalloc" / folder).rglob("*.py"):
            for word in headings(ast.parse(module.read_text())):
                if isinstance(word, str) and word and not _words.meaning(word):
                    missing.add(f"{module.name}: {word}")
    assert not missing, missing


@pytest.mark.recipes
@pytest.mark.parametrize(
    ("page", "title"), RUN, ids=[f"{page.relative_to(ROOT)}-{title}" for page, title in RUN]
)
def test_recipe(page, title, tmp_path):
    files = {name: body for _, name, body, _ in blocks(page.read_text()) if name}
    for name, body in files.items():
        (tmp_path / name).write_text(body)
    for folder in ("examples", "jobscripts"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    part = sections(page)[title] if title else page.read_text()
    script = "".join(body for language, _, body, left_out in blocks(part) if is_run(language, left_out))
    modules = {
        module
        for name, body in files.items()
        if name in script and name.endswith(".py")
        for module in re.findall(r"^\s*(?:from|import) (\w+)", body, re.M)
    }
    missing = [name for name in sorted(modules) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"missing capability: {', '.join(missing)} (pip install 'hpcalloc[recipes]')")
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    for tool in TOOLS:
        if (
            re.search(rf"^(.*=\S+ )?{re.escape(tool)} ", script, re.M)
            and shutil.which(tool, path=path) is None
        ):
            pytest.skip(f"missing capability: {tool}")
    others = ("OMP_", "OPENBLAS_", "NUMBA_")
    clean = {k: v for k, v in without_launcher(os.environ).items() if not k.startswith(others)}
    clean |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "PATH": path}
    # Only Open MPI has to be told that there are more ranks than cores.
    ranks = [int(count) for count in re.findall(r"mpirun -n (\d+)", script)]
    if max(ranks, default=1) > len(os.sched_getaffinity(0)) and "Open MPI" in mpirun_version():
        clean["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
