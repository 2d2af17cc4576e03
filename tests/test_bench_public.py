# SPDX-License-Identifier: BSD-3-Clause
"""Programs of others under several allocators: the list, one run, the verb. The programs here are shell lines."""

import json
import os
import time

import pytest
from click.testing import CliRunner

from hpcalloc.bench import alloc, public
from hpcalloc.bench.alloc import Measurement
from hpcalloc.cli.main import cli
from hpcalloc.exceptions import HpcallocError

CPUS = len(os.sched_getaffinity(0))


@pytest.fixture
def listed(tmp_path):
    def read(text):
        (tmp_path / "list.ini").write_text(text)
        return public.read_list(tmp_path / "list.ini", tmp_path)

    return read


def once(program, library="", timeout=60.0):
    into = Measurement()
    (job,) = public.jobs([program], timeout)
    job.run(library, into)
    return into


def test_a_list_is_read(listed, tmp_path):
    one, two, three = listed(
        "[a]\ncommand = {programs}/a -t {threads} 'two words' {other}\nthreads = all\nseconds = time: (.*)\n"
        "[b]\ncommand = sh -c 'exit 0'\nrate = (\\d+)% done\n[c]\ncommand = sh\ninput = {programs}/none\n"
    )
    assert one.command == (f"{tmp_path}/a", "-t", str(CPUS), "two words", "{other}")
    assert (one.threads, one.is_rate, one.missing) == (CPUS, False, f"{tmp_path}/a")
    assert (two.threads, two.is_rate, two.missing) == (1, True, "")
    assert three.missing == f"{tmp_path}/none"
    assert public.jobs([one, two, three], 1.0)[0].name == "b"
    assert len(public.jobs([one, two, three], 1.0)) == 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no .program"),
        ("nonsense", "no section headers"),
        ("[a]\nthreads = 2\n", "has no command"),
        ("[a]\ncommand = x\nthread = 2\n", "has 'thread'"),
        ("[a]\ncommand = x\nthreads = 0\n", "threads = 0"),
        ("[a]\ncommand = 'x\n", "No closing quotation"),
        ("[a]\ncommand = x\nseconds = (\n", "unterminated"),
        ("[a]\ncommand = x\nseconds = a\n", "has not one group"),
        ("[a]\ncommand = x\nseconds = (a)\nrate = (b)\n", "both seconds and rate"),
        ("[a]\ncommand = x\n[a]\ncommand = y\n", "already exists"),
    ],
)
def test_a_wrong_list_is_refused(listed, text, what):
    with pytest.raises(HpcallocError, match=what):
        listed(text)


def test_figures_come_from_the_clock_or_from_the_output(listed):
    timed, told, rate, none = listed(
        "[timed]\ncommand = true\n"
        "[told]\ncommand = sh -c 'echo time: 9; echo time: 1,250.5'\nseconds = time: ([0-9.,]+)\n"
        "[rate]\ncommand = sh -c 'echo 400 operations'\nrate = ([0-9]+) operations\n"
        "[none]\ncommand = echo nothing\nseconds = time: (.*)\n"
    )
    measured = once(timed)
    assert 0 < measured.seconds[0] < 60
    assert 0 < measured.peak_bytes[0] < 16 << 20  # of the program, not of this process
    assert once(told).seconds == [1250.5]
    assert once(rate).seconds == [1 / 400]
    assert once(none).error == "its output has no figure"


def test_a_program_has_as_many_cpus_as_threads(listed):
    (program,) = listed("[a]\ncommand = sh -c 'echo cpus: $(nproc)'\nseconds = cpus: (.*)\n")
    measured = once(program)
    assert measured.seconds == [1.0]
    assert measured.pinned
    assert len(os.sched_getaffinity(0)) == CPUS  # this process has its own again
    (many,) = listed(f"[a]\ncommand = true\nthreads = {CPUS + 1}\n")
    assert not once(many).pinned


def test_the_library_is_preloaded_and_one_that_is_not_is_an_error(listed):
    (program,) = listed(
        "[a]\ncommand = sh -c 'echo words: $(echo $LD_PRELOAD | wc -w)'\nseconds = words: (.*)\n"
    )
    assert once(program, str(alloc.own_library())).seconds == [1.0]
    assert "LD_PRELOAD" in once(program, "/no/such/library.so").error


def test_what_fails_or_does_not_end_is_told_and_nothing_is_left(listed, tmp_path):
    failing, endless = listed(
        "[failing]\ncommand = sh -c 'echo the reason; exit 3'\n"
        f"[endless]\ncommand = sh -c 'echo $$ >{tmp_path}/pid; exec sleep 600'\n"
    )
    assert once(failing).error == "exit code 3: the reason"
    assert once(endless, timeout=2.0).error == "not done after 2 s"
    pid = (tmp_path / "pid").read_text().strip()
    for _ in range(200):  # the kernel ends it when its parent is gone
        if _is_gone(pid):
            break
        time.sleep(0.02)
    assert _is_gone(pid)


def _is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_the_verb_compares_names_what_is_missing_and_writes_json(tmp_path, monkeypatch):
    monkeypatch.setattr(alloc, "_LIBRARIES", {})
    (tmp_path / "list.ini").write_text(
        "[a]\ncommand = sh -c 'echo 5 s'\nseconds = (\\d+) s\n[b]\ncommand = {programs}/b\n"
    )
    words = [
        "bench",
        "public",
        "--list",
        str(tmp_path / "list.ini"),
        "--programs",
        str(tmp_path),
        "--repeats",
        "2",
    ]
    result = CliRunner().invoke(cli, [*words, "--json", str(tmp_path / "out.json")], prog_name="hpcalloc")
    assert result.exit_code == 0, result.output
    assert f"b is left out: there is no {tmp_path}/b" in result.output
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["ratio"] == 1.0
    assert row["within_noise"]
    assert "~1.00" in result.output  # no win, no loss
    for more in (["--only", "b"], ["--only", "fly"], ["--peer", "x"]):
        assert CliRunner().invoke(cli, [*words, *more], prog_name="hpcalloc").exit_code == 2, more


def test_the_lists_of_the_source_tree_are_right(tmp_path):
    import pathlib

    folder = pathlib.Path(__file__).parents[1] / "benchmarks"
    assert len(public.read_list(folder / "public.ini", tmp_path)) >= 15
    assert len(public.read_list(folder / "whole.ini", tmp_path)) >= 5
