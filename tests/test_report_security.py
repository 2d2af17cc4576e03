# SPDX-License-Identifier: BSD-3-Clause
"""Reports where others may write: what they planted is neither run nor followed nor written through."""

import contextlib
import os
import pathlib
import stat
import subprocess
import sys

import pytest
from test_report_files import clean, start

from hpcalloc.exceptions import HpcallocError
from hpcalloc.report import leave, report
from hpcalloc.report.files import ReportFiles, clear, merge
from hpcalloc.report.record import Arrays, Memory, Record

RECORD = Record(0, "host", Arrays(1, 4096, 4096, 1), Memory(4096, 0))
PLANTED = "open({!r}, 'w').write('planted code ran')\n"


def run(*words, cwd, report):
    """`hpcalloc run` as a user's command: its own directory is on no path."""
    return start(sys.executable, "-I", "-m", "hpcalloc", "run", *words, cwd=cwd, report=report)


@pytest.fixture
def name(tmp_path):
    """A report whose directory's name can be guessed, as all can."""
    return ReportFiles(str(tmp_path / "r.json"), str(tmp_path / "r.json.ranks-7"), 0, 1)


def test_planted_modules_are_not_run(tmp_path):
    """Neither from the directory that a user stands in nor from that of the ranks, though both are at hand."""
    ran = tmp_path / "ran"
    for module in ("json", "click", "secrets", "hpcalloc", "contextlib"):
        (tmp_path / f"{module}.py").write_text(PLANTED.format(str(ran)))
    done = run("/bin/true", cwd=tmp_path, report="r.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "r.json").exists()
    assert not ran.exists()


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o750, 0o701])
def test_a_directory_that_others_may_enter_is_refused(name, mode):
    os.mkdir(name.directory)
    os.chmod(name.directory, mode)
    for use in (name.begin, name.arrive, lambda: name.write("context", RECORD)):
        with pytest.raises(HpcallocError, match=r"mode 700.*remedy"):
            use()
    assert os.listdir(name.directory) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="missing capability: another user's file needs root")
def test_anothers_directory_is_refused(name):
    os.mkdir(name.directory, 0o700)
    os.chown(name.directory, 1, 1)
    with pytest.raises(HpcallocError, match="user 1's"):
        name.begin()


def test_a_link_to_a_directory_is_refused(name, tmp_path):
    (tmp_path / "mine").mkdir(0o700)
    os.symlink(tmp_path / "mine", name.directory)
    with pytest.raises(HpcallocError, match="remedy"):
        name.write("context", RECORD)
    assert os.listdir(tmp_path / "mine") == []


def test_run_refuses_before_the_program_starts(tmp_path):
    (tmp_path / "r.json.ranks-7-0").mkdir()
    (tmp_path / "r.json.ranks-7-0").chmod(0o777)
    environ = {**clean(), "HPCALLOC_REPORT": str(tmp_path / "r.json"), "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        [sys.executable, "-m", "hpcalloc", "run", "/bin/touch", tmp_path / "ran"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environ,
    )
    assert done.returncode == 2
    assert "mode 777" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_what_we_make_is_ours_alone(name):
    old = os.umask(0)
    try:
        name.begin()
        name.write("context", RECORD)
        with name.opened() as directory:
            leave.arrive(directory, 0, 2)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(name.directory).st_mode) == 0o700
    made = list(pathlib.Path(name.directory).rglob("*"))
    assert len(made) == 5
    for file in made:
        assert stat.S_IMODE(file.stat().st_mode) == (0o700 if file.is_dir() else 0o600), file


@pytest.mark.parametrize(
    "planted", ["arrived-1-0", "arrived-1", "rank-000000.context.json", "rank-000000.start.json"]
)
def test_links_in_the_directory_are_not_followed(name, tmp_path, planted):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    name.begin()
    os.symlink(victim, os.path.join(name.directory, planted))
    for use in (name.begin, lambda: name.start(RECORD), lambda: name.write("context", RECORD), name.arrive):
        with contextlib.suppress(OSError, HpcallocError):
            use()
        assert victim.read_text() == "precious"


def test_the_report_is_not_written_through_links(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    made = report.make_report([RECORD], 1)
    os.symlink(victim, tmp_path / "r.txt")
    made.write(tmp_path / "r.txt")
    assert not (tmp_path / "r.txt").is_symlink()
    monkeypatch.setattr(report.secrets, "token_hex", lambda count: "guessed")
    os.symlink(victim, tmp_path / "s.txt.guessed.part")
    with pytest.raises(FileExistsError):
        made.write(tmp_path / "s.txt")
    assert victim.read_text() == "precious"


def test_files_of_others_are_not_removed(name, tmp_path):
    """`report --merge DIRECTORY --remove` of a directory that holds other things too."""
    name.write("context", RECORD)
    name.write("start", RECORD, "1")
    other = os.path.join(name.directory, "results.dat")
    open(other, "w").close()
    merged = merge([name.directory])
    assert merged.summary["failed"] == 0
    with name.opened() as directory:
        leave.arrive(directory, 0, 1)
    clear([name.directory], merged)
    assert os.listdir(name.directory) == ["results.dat"]
    name.write("context", RECORD)
    clear([name.directory], merged)  # which nobody merges at this time
    assert os.listdir(name.directory) == ["results.dat"]


def test_variables_for_the_audit(name):
    told = name.environment(42, audits=True)
    assert leave.is_told(told) == (name.target, name.directory, 0, 1)
    assert told["HPCALLOC_REPORT_RANK"].startswith("42:")
    assert "HPCALLOC_REPORT_PYTHON" not in name.environment(42, audits=False)


def test_the_script_finds_the_package_that_it_is_part_of(tmp_path):
    """`python -I` knows neither PYTHONPATH nor the user's own packages."""
    package = tmp_path / "elsewhere/hpcalloc/report"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    script = package / "leave.py"
    script.write_text(pathlib.Path(leave.__file__).read_text())
    (package / "files.py").write_text("def merge_into(*names): print(*names)\n")
    files = ReportFiles(str(tmp_path / "r.json"), str(tmp_path / "r.json.ranks"), 0, 1, "ab")
    files.start(RECORD)
    environ = {**clean(), **files.environment(1, audits=True)}
    done = subprocess.run(
        [sys.executable, "-I", "-S", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environ,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [files.target, files.directory]
