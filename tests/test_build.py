# SPDX-License-Identifier: BSD-3-Clause
"""How the package is built."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

SOURCE = pathlib.Path(__file__).parents[1]
PROJECT = (SOURCE / "pyproject.toml").read_text()
needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="missing capability: cmake")


@needs_cmake
def test_numpys_own_headers_come_before_the_interpreters(tmp_path):
    """Debian's python3-numpy puts NumPy 1.24's headers into the interpreter's folder."""
    configure = [
        "cmake", "-S", SOURCE, "-B", tmp_path, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
        f"-DPython_EXECUTABLE={sys.executable}", "-DNUMALLOC_TESTS=OFF",
    ]  # fmt: skip
    done = subprocess.run(configure, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    (handler,) = [entry["command"] for entry in commands if entry["file"].endswith("handler.c")]
    numpys, interpreters = np.get_include(), sysconfig.get_path("include")
    assert handler.index(f"-I{numpys} ") < handler.index(interpreters)


@needs_cmake
def test_pip_builds_outside_of_the_source_tree(tmp_path):
    """A build folder in the tree would be shared with other interpreters. (The C part is left out here.)"""
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE", "native/include/numa_alloc.h"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SOURCE / name, source / name)
    shutil.copytree(SOURCE / "hpcalloc", source / "hpcalloc", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(nothing LANGUAGES NONE)\n"
    )
    before = sorted(source.rglob("*"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "--wheel-dir",
    ]
    done = subprocess.run([*pip, tmp_path, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("hpcalloc-*.whl"))) == 1
    assert sorted(source.rglob("*")) == before


def requirements(variable):
    """Names and lowest versions in a list of pyproject.toml."""
    (text,) = re.findall(rf"^{variable} = \[(.*?)\]", PROJECT, re.M | re.S)
    return re.findall(r'"([\w-]+)>=([\d.]+)"', text)


@pytest.mark.parametrize(
    ("recipe", "written"),
    [
        ("conda/recipe.yaml", "- {0} >={1}\n"),
        ("spack/py_hpcalloc/package.py", '("py-{0}@{1}:"'),
        ("easybuild/hpcalloc-*.eb", "{0}"),
    ],
)
def test_recipes_have_the_version_and_the_dependencies(recipe, written):
    (file,) = (SOURCE / "packaging").glob(recipe)
    text = file.read_text()
    header = (SOURCE / "native/include/numa_alloc.h").read_text()
    (version,) = re.findall('#define NUMALLOC_VERSION "(.+)"', header)
    assert re.search(rf"version\b.{{1,4}}['\"]{re.escape(version)}['\"]", text)
    assert ".eb" not in recipe or f"-{version}-" in file.name
    for name, lowest in requirements("requires") + requirements("dependencies") + requirements("mpi"):
        assert written.format(name, lowest) in text, name
