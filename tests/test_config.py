# SPDX-License-Identifier: BSD-3-Clause
"""`hpcalloc config`: what it prints compiles, links, is found by CMake and pkg-config, and runs."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from hpcalloc.cli import config
from hpcalloc.cli.main import cli

ROOT = pathlib.Path(__file__).parents[1]
C = "#include <numa_alloc.h>\nint main(void) { void *p = numalloc(100); numalloc_free(p); return p == 0; }\n"
CHECKS = ROOT / "native/tests/languages"  # of the header and the module, as a whole
LONG_LINES = "-ffree-line-length-none"
CMAKE = """cmake_minimum_required(VERSION 3.18)
project(user LANGUAGES {languages})
find_package(numalloc 0.2 REQUIRED)
foreach(source {sources})
  get_filename_component(name ${{source}} NAME_WE)
  add_executable(${{name}} ${{source}})
  target_link_libraries(${{name}} numalloc::numalloc)
endforeach()
target_compile_features(cpp PRIVATE cxx_std_17)
add_executable(static c.c)
target_link_libraries(static numalloc::static)
if(TARGET fortran)
  target_link_libraries(fortran numalloc::fortran)
  target_compile_options(fortran PRIVATE {long_lines})
endif()
"""


def printed(*options):
    command = [sys.executable, "-m", "hpcalloc", "config", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def compiler(name):
    if shutil.which(name) is None:
        pytest.skip(f"missing capability: {name}")
    return name


def sources(folder):
    (folder / "c.c").write_text(C)
    shutil.copyfile(CHECKS / "containers.cpp", folder / "cpp.cpp")
    shutil.copyfile(CHECKS / "arrays.F90", folder / "fortran.F90")


@pytest.mark.parametrize("language", ["c.c", "cpp.cpp", "fortran.F90"])
def test_flags_compile_and_the_program_runs(tmp_path, language):
    sources(tmp_path)
    cc = compiler({"c.c": "cc", "cpp.cpp": "c++", "fortran.F90": "gfortran"}[language])
    module = [LONG_LINES, printed("--fortran")] if cc == "gfortran" else ["-std=c++17"] if cc == "c++" else []
    flags = printed("--libs", "--cflags").split()
    subprocess.run([cc, *module, language, *flags, "-o", "a"], cwd=tmp_path, check=True, timeout=120)
    subprocess.run([tmp_path / "a"], check=True, timeout=60)


def test_cmake_finds_the_package(tmp_path):
    compiler("cmake")
    sources(tmp_path)
    fortran = shutil.which("gfortran") is not None
    languages = "C CXX Fortran" if fortran else "C CXX"
    files = "c.c cpp.cpp fortran.F90" if fortran else "c.c cpp.cpp"
    (tmp_path / "CMakeLists.txt").write_text(
        CMAKE.format(languages=languages, sources=files, long_lines=LONG_LINES)
    )
    cmake = [shutil.which("cmake"), "-S", tmp_path, "-B", tmp_path, f"-Dnumalloc_DIR={printed('--cmake')}"]
    for command in (cmake, ["cmake", "--build", tmp_path]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    for name in ("c", "cpp", "static", *(["fortran"] if fortran else [])):
        subprocess.run([tmp_path / name], check=True, timeout=60)


def test_pkg_config_finds_it(tmp_path):
    compiler("pkg-config")
    sources(tmp_path)
    environment = {**os.environ, "PKG_CONFIG_PATH": printed("--pkgconfig")}
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "numalloc"],
        env=environment, capture_output=True, text=True, check=True, timeout=60,
    ).stdout.split()  # fmt: skip
    subprocess.run(["cc", "c.c", *flags, "-o", "a"], cwd=tmp_path, check=True, timeout=60)


def test_everything_that_is_named_is_there():
    facts = json.loads(printed("--json"))
    flags = {facts.pop("version"), facts.pop("cflags"), facts.pop("libs")}
    assert all(flags)
    for path in facts.values():
        assert os.path.exists(path), path
    listed = dict(line.split(None, 1) for line in printed().splitlines())
    assert listed.items() >= facts.items()
    assert (pathlib.Path(facts["share"]) / "jobscripts/common.sh").is_file()
    preloaded = subprocess.run(
        ["env"], env={**os.environ, "LD_PRELOAD": facts["preload"]},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert preloaded.stderr == ""


def test_flags_of_a_folder_with_blanks_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "installed", lambda name: tmp_path / "a b" / name)
    done = CliRunner().invoke(cli, ["config", "--cflags"])
    assert done.exit_code == 2
    assert "no blanks" in done.output
    assert CliRunner().invoke(cli, ["config", "--include"]).output == f"{tmp_path}/a b/include\n"
