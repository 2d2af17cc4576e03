# SPDX-License-Identifier: BSD-3-Clause
"""C programs, and Python programs that call OpenMP: built and run by the lines of their headers against an installed
library, and exit 1 when their arithmetic is broken."""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

# Example, what its last line begins with after its name, and texts of which the first is replaced by the second.
PROGRAMS = {
    "openmp/thread_buffers.c": [("sum += buffer[i];", "sum += buffer[i] + (i == 5);")],
    "openmp/first_touch.c": [
        ("a[i] = b[i] + scalar * c[i];", "a[i] = b[i] + scalar * c[i] + (i == 5);"),
        (
            "pages_are_on((char *)array[0] + first, last - first, ids[k])",
            "pages_are_on(array[0], last, ids[k] + 1)",
        ),
    ],
    "openmp/thread_arenas.c": [
        (
            "memset(b->p, b->tag, b->size);",
            "memset(b->p, b->tag, b->size - 1), b->p[b->size - 1] = (unsigned char)~b->tag;",
        ),
        (
            "share_on(window[k].p, window[k].size, window[k].node);",
            "share_on(window[k].p, window[k].size, window[k].node + 1);",
        ),
    ],
    "openmp/blocked.c": [
        ("0.25 * (at[-width]", "0.2501 * (at[-width]"),
        ("at[-1] + at[1]", "at[-1] + at[-1]"),
        ("last - page - first, ids[k])", "last - page - first, ids[k] + 1)"),
    ],
    "openmp/hybrid.c": [
        ("a[i] = b[i] + scalar * c[i];", "a[i] = b[i] - scalar * c[i];"),
        ("!pages_are_on(b, bytes, node)", "!pages_are_on(b, bytes, node + 1)"),
    ],
    "openmp/cffi_triad.py": [("a[i] = b[i] + s * c[i];", "a[i] = b[i] + s * c[i] * (i != 5);")],
    "openmp/numba_triad.py": [("a[i] = b[i] + s * c[i]", "a[i] = b[i] + s * c[i] * (i != 5)")],
    "mpi/numa_rank.c": [("sum += data[i]", "sum += data[i] * 1.01")],
    "mpi/triad.c": [
        ("a[i] = b[i] + scalar * c[i];", "a[i] = b[i] + scalar * b[i];"),
        ("is_on(b, bytes, node, pages)", "is_on(b, bytes, node + 1, pages)"),
    ],
}


@pytest.fixture(scope="session")
def prefix(tmp_path_factory):
    """An installed libnumalloc."""
    if shutil.which("cmake") is None:
        pytest.skip("missing capability: cmake")
    where, build = tmp_path_factory.mktemp("prefix"), ROOT / "build/native"
    if not (build / "built").exists():  # by make native
        build = tmp_path_factory.mktemp("build")
        options = ["-DNUMALLOC_TESTS=OFF", "-DCMAKE_BUILD_TYPE=Release"]
        subprocess.run(
            ["cmake", "-S", ROOT / "native", "-B", build, *options], check=True, capture_output=True
        )
        subprocess.run(["cmake", "--build", build, "--parallel", "2"], check=True, capture_output=True)
    subprocess.run(["cmake", "--install", build, "--prefix", where], check=True, capture_output=True)
    return where


@pytest.fixture
def shell(prefix, tmp_path):
    """A function that runs a line in a scratch folder, as a user with the library and two cores would."""
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = dict(os.environ, PATH=path, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    environment["PKG_CONFIG_PATH"] = str(next(prefix.rglob("pkgconfig")))
    environment["LD_LIBRARY_PATH"] = str(next(prefix.rglob("libnumalloc.so")).parent)
    environment["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"  # more ranks than cores
    environment.pop("OMP_NUM_THREADS", None)

    def run(line):
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def header_lines(source):
    """The indented lines of the header that compile and start the program, without what may be left out."""
    text = source.read_text()
    text = text.partition("*/")[0] if source.suffix == ".c" else ast.get_docstring(ast.parse(text))
    lines = re.findall(r"^(?: \*)? {3,4}(\S.*)$", text, re.MULTILINE)
    return [re.sub(r" *\[[^]]*\]", "", line) for line in lines]


def needs(name):
    """Skip where a tool that the header names is missing."""
    if name.endswith("numba_triad.py"):
        pytest.importorskip("numba", reason="missing capability: numba")
    tools = ["pkg-config"] if name.endswith(".c") else ["cc"]
    if name.startswith("mpi/") or "hybrid" in name:
        tools += ["mpicc", "mpirun"]
    beside = pathlib.Path(sys.executable).parent
    for tool in tools:
        if shutil.which(tool) is None and not (beside / tool).exists():
            pytest.skip(f"missing capability: {tool}")


def put(tmp_path, name, right="", wrong=""):
    """Copy an example to the scratch folder, with one text replaced."""
    source = EXAMPLES / name
    text = source.read_text()
    assert not right or text.count(right) == 1, right
    (tmp_path / source.name).write_text(text.replace(right, wrong) if right else text)
    if f'#include "{"pages.h"}"' in text:
        shutil.copy(source.parent / "pages.h", tmp_path)
    return source


@pytest.mark.parametrize("name", PROGRAMS)
def test_runs_by_the_lines_of_its_header(name, shell, tmp_path):
    needs(name)
    source = put(tmp_path, name)
    lines = header_lines(source)
    assert len(lines) == (2 if source.suffix == ".c" else 1), lines
    for line in lines:
        done = shell(line)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert re.search(rf"^{source.stem} ok: ", done.stdout, re.MULTILINE), done.stdout
    assert "node 0" in done.stdout or "placement unknown" in done.stdout or "on the node" in done.stdout
    if source.stem != "numa_rank":
        assert "GB/s" in done.stdout


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [(name, *change) for name, changes in PROGRAMS.items() for change in changes],
    ids=[f"{pathlib.Path(name).stem}-{k}" for name, changes in PROGRAMS.items() for k in range(len(changes))],
)
def test_notices_what_is_broken(name, right, wrong, shell, tmp_path):
    needs(name)
    source = put(tmp_path, name, right, wrong)
    *build, start = header_lines(source)
    for line in build:
        assert shell(line).returncode == 0
    done = shell(start)
    assert done.returncode != 0, done.stdout
    assert f"{source.stem} FAILED" in done.stdout
    assert f"{source.stem} ok" not in done.stdout


@pytest.mark.parametrize("name", ["first_touch", "thread_arenas", "blocked", "hybrid"])
def test_bad_arguments_are_refused(name, shell, tmp_path):
    needs(f"openmp/{name}.c")
    build, start = header_lines(put(tmp_path, f"openmp/{name}.c"))
    assert shell(build).returncode == 0
    assert shell(f"{start} 0").returncode == 2


def test_the_cmake_project_finds_the_installed_package(prefix, shell, tmp_path):
    needs("openmp/hybrid.c")
    configure = f"cmake -S {EXAMPLES / 'openmp'} -B out -DCMAKE_PREFIX_PATH={prefix} -DMPI_C_COMPILER=$(command -v mpicc)"
    done = shell(f"{configure} && cmake --build out && OMP_NUM_THREADS=2 out/blocked 62 10")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "blocked ok: 2 threads" in done.stdout
    assert (tmp_path / "out/hybrid").exists()
