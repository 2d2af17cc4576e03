# SPDX-License-Identifier: BSD-3-Clause
"""The command line: verbs, JSON, bad input."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from hpcalloc.cli.bench import BENCHMARKS
from hpcalloc.cli.main import VERBS, cli


def run(*arguments):
    return CliRunner().invoke(cli, list(arguments), prog_name="hpcalloc")


def test_help_lists_every_verb():
    result = run("--help")
    assert result.exit_code == 0
    for verb in VERBS:
        assert verb in result.output


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    assert run(verb, "--help").exit_code == 0


def test_bench_lists_every_benchmark():
    result = run("bench", "--help")
    assert result.exit_code == 0
    for benchmark in BENCHMARKS:
        assert benchmark in result.output
    assert run("bench", "fly").exit_code == 2


# A test whose id is "mpi" would be one for MPI ranks.
@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda name: f"bench-{name}")
def test_every_benchmark_has_help(benchmark):
    result = run("bench", benchmark, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: hpcalloc bench {benchmark}")


def test_topology():
    assert "NUMA node" in run("topology").output
    facts = json.loads(run("topology", "--json", "--topology", "pack:2 [numa] core:4 pu:2").output)
    assert [node["cpus"] for node in facts["nodes"]] == ["0-7", "8-15"]
    text = run("topology", "--topology", "pack:2 [numa] core:4 pu:2").output
    assert "pack:2 [numa] core:4 pu:2" in text


def test_plan():
    facts = json.loads(run("plan", "-n", "2", "--json", "--topology", "pack:2 [numa] core:4 pu:2").output)
    assert [share["nodes"] for share in facts["ranks"]] == [[0], [1]]
    assert facts["ranks"][1]["environment"]["OMP_PLACES"] == "{8},{10},{12},{14}"
    assert "node 1" in run("plan", "-n", "2", "--topology", "pack:2 [numa] core:4").output


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan",),
        ("plan", "-n", "0"),
        ("plan", "-n", "two"),
        ("plan", "-n", "2", "--threads", "lots"),
        ("plan", "-n", "2", "--threads", "0"),
        ("plan", "-n", "2", "--topology", "rack:4"),
        ("topology", "--topology", "/no/such.xml"),
        ("fly",),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "rror" in result.output


def test_as_module():
    out = subprocess.run(
        [sys.executable, "-m", "hpcalloc", "topology", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(out.stdout)["nodes"]


@pytest.mark.parametrize("columns", ["40", "80"])
def test_tables_are_never_cut(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    result = run("topology", "--topology", "pack:4 numa:4 core:8 pu:2")
    assert "…" not in result.output
    assert "240-255" in result.output
    assert re.search(r"^ +15( +20){0,15} +10$", result.output, re.MULTILINE)
    result = run("plan", "-n", "4", "--topology", "pack:2 [numa] core:16 pu:2")
    assert "…" not in result.output
    assert "48-62:2" in result.output
    assert columns == "40" or max(map(len, result.output.splitlines())) <= 80
    assert "…" not in run("plan", "-n", "4", "--topology", "core:2 pu:1").output


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("verb", [("doctor",), ("bench", "alloc"), ("bench", "mpi")], ids=" by ".join)
def test_timeouts_that_are_none(verb, seconds):
    result = run(*verb, "--timeout", seconds)
    assert result.exit_code == 2
    assert "--timeout" in result.output


@pytest.mark.parametrize(
    ("option", "name", "what"),
    [
        ("--json", "nowhere/x.json", "no directory"),
        ("--plot", "nowhere/x.png", "no directory"),
        ("--plot", "x.nonsense", r"ends in \.nonsense"),
    ],
)
@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda name: f"bench-{name}")
def test_files_that_cannot_be_written_are_refused_before_the_run(
    benchmark, option, name, what, tmp_path, monkeypatch
):
    if option == "--plot":
        pytest.importorskip("matplotlib", reason="missing capability: matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"hpcalloc.cli.bench.{benchmark}.give", pytest.fail)
    result = run("bench", benchmark, option, name)
    assert result.exit_code == 2
    assert re.search(rf"^Error: {option}.*{what}.*limit.*remedy", result.output)


def test_other_ranks_do_not_look_at_the_directory(tmp_path, monkeypatch):
    for name, value in (("LOCAL_RANK", "1"), ("LOCAL_SIZE", "2"), ("RANK", "1"), ("SIZE", "2")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    result = run("bench", "bandwidth", "--json", str(tmp_path / "nowhere/x.json"), "--threads", "x")
    assert "--threads" in result.output


PRINTING = [
    ("topology",),
    ("plan", "-n", "2", "--json"),
    ("bench", "alloc", "--list"),
    ("--help",),
    ("--version",),
]
PRINTING += [("doctor", "--no-mpi"), ("doctor", "--no-mpi", "--json"), ("report", "--help")]


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line(arguments, unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hpcalloc", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"Error: [\w-]+: standard output: No space left on device\n", done.stderr)


@pytest.mark.parametrize("arguments", [("topology",), ("doctor", "--no-mpi"), ("--help",)], ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_standard_output_is_said(arguments, unbuffered):
    command = f"exec '{sys.executable}' -m hpcalloc {' '.join(arguments)} >&-"
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    words = ["sh", "-c", command]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=environ)
    assert done.returncode == 2
    assert re.fullmatch(r"Error: [\w-]+: standard output: Bad file descriptor\n", done.stderr)


@pytest.mark.parametrize(
    "arguments", [("topology", "--json"), ("doctor", "--no-mpi"), ("--help",)], ids=" ".join
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_finding(arguments, unbuffered):
    """The exit code is that of a program which SIGPIPE ends, not the doctor's 1."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "hpcalloc", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_what_needs_no_output_needs_none(tmp_path):
    """A file is written, and a program is started with its outputs closed as they were."""
    for words, expected in (
        (f"report --no-mpi --output {tmp_path}/r.txt >&- 2>&-", 0),
        ("run /bin/sh -c 'exec 3>&1' >&-", 2),
        ("run /bin/sh -c 'exit 7' >&- 2>&-", 7),
    ):
        done = subprocess.run(
            ["sh", "-c", f"exec '{sys.executable}' -m hpcalloc {words}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == expected, (words, done.stderr)
    assert (tmp_path / "r.txt").exists()


def test_an_interrupt_is_no_finding(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hpcalloc.cli.doctor.examine_job", interrupt)
    assert run("doctor").exit_code == 128 + signal.SIGINT


def on_a_terminal(*words, **environ):
    """What a verb writes to a terminal."""
    import pty

    first, second = pty.openpty()
    names = ("NO_COLOR", "FORCE_COLOR", "OMPI_", "PMI", "SLURM_", "TERM")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    done = subprocess.run(
        [sys.executable, "-m", "hpcalloc", *words],
        stdout=second,
        stderr=second,
        stdin=subprocess.DEVNULL,
        env={**clean, "TERM": "xterm", **environ},
        timeout=60,
        check=False,
    )
    os.close(second)
    written = b""
    while True:
        try:
            part = os.read(first, 1 << 16)
        except OSError:  # all is read
            break
        written += part
    os.close(first)
    assert done.returncode == 0, written
    assert b"local rank" in written
    return written


def test_escape_codes_are_for_those_who_look():
    launched = {
        f"OMPI_COMM_WORLD_{n}": v
        for n, v in (("LOCAL_RANK", "0"), ("LOCAL_SIZE", "1"), ("RANK", "0"), ("SIZE", "1"))
    }
    assert b"\x1b" in on_a_terminal("plan", "-n", "2")
    assert b"\x1b" not in on_a_terminal("plan", "-n", "2", **launched)
    assert b"\x1b" in on_a_terminal("plan", "-n", "2", FORCE_COLOR="1", **launched)
    assert b"\x1b" not in on_a_terminal("plan", "-n", "2", NO_COLOR="1", FORCE_COLOR="1")
    assert b"\x1b" not in on_a_terminal("plan", "-n", "2", TERM="dumb")


def test_a_refused_benchmark_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "hpcalloc", "bench", "numpy", "--sizes", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: bench numpy: size 0")
    assert done.stdout == ""


def test_a_script_that_cannot_be_written():
    result = run("jobscript", "-o", "/nowhere/job.sh", "./solver")
    assert result.exit_code == 2
    assert re.search("--output /nowhere/job.sh: No such file.*limit.*remedy", result.output)


def test_a_directory_is_neither_program_nor_topology(tmp_path):
    result = run("run", str(tmp_path))
    assert result.exit_code == 126
    assert "is a directory" in result.output
    assert "chmod" not in result.output
    assert "a directory" in run("topology", "--topology", str(tmp_path)).output


@pytest.mark.parametrize("benchmark", ["alloc", "latency", "mpi", "numpy"], ids=lambda name: f"bench-{name}")
@pytest.mark.parametrize(
    "ranks",
    [
        {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
        {"PMI_RANK": "0", "PMI_SIZE": "2"},
    ],
    ids=["openmpi", "pmi"],
)
def test_benchmarks_of_one_process_refuse_ranks(benchmark, ranks, monkeypatch):
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(f"hpcalloc.cli.bench.{benchmark}.progress_bar", pytest.fail)
    result = run("bench", benchmark)
    assert result.exit_code == 2
    assert f"bench {benchmark}: 2 ranks; limit: one process; remedy" in result.output
