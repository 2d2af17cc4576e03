# SPDX-License-Identifier: BSD-3-Clause
"""HPCALLOC_REPORT: reports of programs that know nothing of hpcalloc, of those that do, and of ranks that are lost."""

import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from launching import mpirun_words

import hpcalloc
from hpcalloc import _native
from hpcalloc.cli.main import cli
from hpcalloc.discover.launcher import Ancestor
from hpcalloc.exceptions import HpcallocError
from hpcalloc.report import leave
from hpcalloc.report.files import files_of, merge
from hpcalloc.report.record import record_of

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
MIB = 1 << 20


def clean():
    names = (
        "OMPI_",
        "PMI",
        "MPI_",
        "SLURM_",
        "OMP_",
        "OPENBLAS_",
        "MKL_",
        "HPCALLOC_",
        "LD_PRELOAD",
        "NUMALLOC_",
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return {**environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def start(*words, report=None, environ=(), **rest):
    told = {"HPCALLOC_REPORT": str(report)} if report is not None else {}
    done = subprocess.run(
        [*map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**clean(), **told, **dict(environ)},
        **rest,
    )
    # What else runs on this machine is no part of the test.
    done.stderr = re.sub("^hpcalloc run: CPUs .* are another job's as well.*\n", "", done.stderr, flags=re.M)
    return done


def verb(*words, **rest):
    return start(sys.executable, "-m", "hpcalloc", *words, **rest)


def rank_of(path, rank=0):
    data = json.loads(path.read_text())
    assert not list(path.parent.glob(f"{path.name}.ranks*")), "the ranks' files are left"
    return next(r for r in data["ranks"] if r["rank"] == rank)


def check_arrays(record, least):
    arrays = record["arrays"]
    assert "error" not in record
    if _native.can_query() == 0:
        assert arrays["touched"] * arrays["page_size"] >= least
        assert arrays["local_fraction"] == 1.0
        assert sum(arrays["pages_per_node"].values()) + arrays["failed"] == arrays["touched"]
    else:
        assert arrays["unknown"]


def test_unchanged_python(tmp_path):
    report = tmp_path / "r.json"
    # gone at exit: what counts is what was there when most of it was
    code = (
        "import numpy as np\ndef main():\n    a, b = np.ones(1 << 20), np.zeros(1 << 20)\n    b += a\nmain()"
    )
    done = verb("run", sys.executable, "-c", code, report=report)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    record = rank_of(report)
    check_arrays(record, 16 * MIB)
    assert record["arrays"]["count"] >= 2
    assert 0 <= record["arrays"]["huge_fraction"] <= 1
    assert record["action"] == "bind"
    assert record["nodes"] == list(_native.node_ids())
    assert record["memory"]["resident"] > 16 * MIB
    assert record["peak_bytes"] >= 16 * MIB
    assert record["allocator"]["options"]


PROGRAM = """
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char *data = malloc(8 << 20), *more = malloc(4 << 20);
    memset(data, 1, 8 << 20);
    memset(more, 1, 4 << 20);
    int sum = data[argc] + more[argc];
    free(data);
    free(more);
    if (argc > 1 && argv[1][0] == 'k') kill(getpid(), 9);
    if (argc > 1 && argv[1][0] == '_') _exit(0);
    return argc > 1 ? atoi(argv[1]) : sum == 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("missing capability: a C compiler")
    folder = tmp_path_factory.mktemp("program")
    (folder / "p.c").write_text("#include <signal.h>\n" + PROGRAM)
    subprocess.run([compiler, "-O1", "-fno-builtin", folder / "p.c", "-o", folder / "p"], check=True)
    return folder / "p"


def test_unchanged_c(tmp_path, program):
    for name in ("r.json", "r.txt", "r.html"):
        done = verb("run", program, "7", report=tmp_path / name)
        assert (done.returncode, done.stderr) == (7, "")
    record = rank_of(tmp_path / "r.json")
    check_arrays(record, 12 * MIB)
    assert record["arrays"]["count"] == 2
    assert "1 of 1 rank" in (tmp_path / "r.txt").read_text()
    assert "</html>" in (tmp_path / "r.html").read_text()


def test_a_script_reports_its_largest_process(tmp_path, program):
    report = tmp_path / "r.json"
    script = tmp_path / "script.sh"
    script.write_text(f"#!/bin/bash\n{program} 0\nls / >/dev/null\nexit 5\n")
    script.chmod(0o755)
    assert verb("run", script, report=report).returncode == 5
    record = rank_of(report)
    check_arrays(record, 12 * MIB)
    assert record["processes"] >= 3


def test_a_program_that_execs_others(tmp_path, program):
    """The rank is done when its process ends, whatever that has become; a child that ends earlier is not it."""
    report = tmp_path / "r.json"
    script = f"/bin/true; exec bash -c '/bin/true; test -e {report} && exit 9; exec {program} 5'"
    done = verb("run", "bash", "-c", script, report=report)
    assert (done.returncode, done.stderr) == (5, "")
    check_arrays(rank_of(report), 12 * MIB)


def test_run_inside_a_rank_that_is_counted(tmp_path, program):
    """The rank is counted once, when its own process ends."""
    told = {"MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0", "PMI_RANK": "0", "PMI_SIZE": "1"}
    report = tmp_path / "r.json"
    script = f"{sys.executable} -m hpcalloc run {program} 4; test -e {report} && exit 9; exit 3"
    done = verb("run", "bash", "-c", script, report=report, environ=told)
    assert (done.returncode, done.stderr) == (3, "")
    record = rank_of(report)
    check_arrays(record, 12 * MIB)
    assert record["processes"] >= 2


def test_programs_without_the_allocator(tmp_path, program):
    """Where malloc has to be the system's there are no arrays to tell, but the process's memory is told."""
    report = tmp_path / "r.json"
    other = tmp_path / "libjemalloc.so"
    subprocess.run(["cc", "-shared", "-xc", "/dev/null", "-o", other], check=True)
    other_malloc = f"LD_PRELOAD={other} exec {sys.executable} -m hpcalloc run {program}"
    done = start("bash", "-c", other_malloc, report=report)
    assert done.returncode == 0
    record = rank_of(report)
    assert record["arrays"]["count"] == 0
    assert record["memory"]["resident"] > 0


@pytest.mark.parametrize("end", ["k", "_"])
def test_ranks_that_leave_no_record(tmp_path, program, end):
    report = tmp_path / "r.json"
    done = verb("run", program, end, report=report)
    assert done.returncode == (-signal.SIGKILL if end == "k" else 0)
    assert not report.exists()
    (left,) = tmp_path.glob("r.json.ranks*")
    made = verb("report", "--merge", left, "--json")
    assert made.returncode == 0, made.stderr
    data = json.loads(made.stdout)
    assert data["summary"]["failed_ranks"] == [0]
    assert data["ranks"][0]["host"] == os.uname().nodename
    assert "signal" in data["ranks"][0]["error"]
    made = verb("report", "--merge", left, "--output", report, "--remove")
    assert (made.returncode, made.stdout) == (0, "")
    assert report.exists()
    assert left.exists()  # it is not complete


def ranks(tmp_path, count, environ):
    """Start `count` ranks of a job by hand, as a launcher on one host does."""
    base = {"MPI_LOCALNRANKS": str(count), "PMI_SIZE": str(count)}
    report = tmp_path / "r.json"
    for rank in range(count):
        told = {**base, "MPI_LOCALRANKID": str(rank), "PMI_RANK": str(rank), **environ}
        yield rank, report, told


def test_the_last_of_several_merges(tmp_path, program):
    for rank, report, environ in ranks(tmp_path, 3, {}):
        assert not report.exists()
        assert verb("run", program, report=report, environ=environ).returncode == 0
        assert report.exists() == (rank == 2)
    data = json.loads(report.read_text())
    assert [r["rank"] for r in data["ranks"]] == [0, 1, 2]
    assert data["summary"]["hosts"] == 1
    assert data["summary"]["failed"] == 0


def test_a_merge_that_failed_does_not_keep_later_jobs_from_theirs(tmp_path, program):
    for rank, report, environ in ranks(tmp_path, 2, {}):
        if rank == 0:
            verb("run", program, "k", report=report, environ=environ)
            (left,) = tmp_path.glob("r.json.ranks*")
            (left / "merging").mkdir()
            (left / "arrived-2-0").mkdir()
            (left / "arrived-2-0" / "0").touch()
            verb("run", program, report=report, environ=environ)
        else:
            assert not report.exists()
            verb("run", program, report=report, environ=environ)
    assert rank_of(tmp_path / "r.json", 1)["rank"] == 1


def test_a_larger_job_before_leaves_nothing(tmp_path, program):
    """In a directory without a job in its name, as where a launcher says nothing."""
    told = {"MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0"}  # as on several hosts
    report = tmp_path / "r.json"
    for rank in (0, 1, 3):  # the others are lost
        verb("run", program, report=report, environ={**told, "PMI_RANK": str(rank), "PMI_SIZE": "5"})
    left = tmp_path / "r.json.ranks"
    assert sorted(str(file.relative_to(left)) for file in left.rglob("arrived*/*")) == [
        "arrived-5-0/0", "arrived-5-0/1", "arrived-5-1/3", "arrived-5/0",
    ]  # fmt: skip
    for rank in (1, 0):  # the first rank last: what it takes back is its own
        verb("run", program, report=report, environ={**told, "PMI_RANK": str(rank), "PMI_SIZE": "2"})
    data = json.loads(report.read_text())
    assert data["size"] == 2
    assert [r["rank"] for r in data["ranks"]] == [0, 1]
    assert all(r["processes"] == 1 for r in data["ranks"])
    assert not left.exists()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 17, 64, 100])
def test_one_of_the_ranks_is_the_last(tmp_path, size):
    """In any order and at the same time; no rank writes to a file of another's, nor lists all."""
    directory = leave.open_private(str(tmp_path / "ranks"), create=True)
    order = random.Random(size).sample(range(size), size)
    assert [leave.arrive(directory, rank, size) for rank in order] == [False] * (size - 1) + [True]
    assert max(len(list(inside.iterdir())) for inside in (tmp_path / "ranks").iterdir()) <= size**0.5 + 2
    (tmp_path / "ranks" / leave.MERGING).rmdir()
    for rank in order:
        leave.take_back(directory, rank, size)
    assert [path for path in (tmp_path / "ranks").rglob("*") if path.is_file()] == []
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(lambda rank: leave.arrive(directory, rank, size), order)) == 1
    os.close(directory)


def test_a_rank_that_is_lost_is_not_replaced_by_its_predecessor(tmp_path, program):
    told = {"MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0", "PMI_RANK": "1", "PMI_SIZE": "2000"}
    report = tmp_path / "r.json"
    verb("run", program, report=report, environ=told)
    left = str(tmp_path / "r.json.ranks")
    assert merge([left]).summary["failed"] == 1999
    verb("run", program, "k", report=report, environ=told)
    assert merge([left]).summary["failed"] == 2000


def test_the_directory_has_the_job_in_its_name():
    several = {"HPCALLOC_REPORT": "r.json", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "0", "PMI_RANK": "0"}
    several |= {"PMI_SIZE": "4"}
    proxy = Ancestor(7, ("hydra_pmi_proxy", "--control-port", "login1.site:4419", "--rmk", "user"), None)
    for environ, ancestor, ending in (
        (several, proxy, "r.json.ranks-login1-site-4419"),
        ({**several, "PALS_APID": "ab.7"}, None, "r.json.ranks-ab-7"),
        ({**several, "FLUX_JOB_ID": "42"}, None, "r.json.ranks-42"),
        ({**several, "SLURM_JOB_ID": "5", "SLURM_STEP_ID": "1"}, proxy, "r.json.ranks-5-1"),
        (several, None, "r.json.ranks"),
    ):
        assert files_of(environ, ancestor).directory.endswith(f"/{ending}")


def test_absent_ranks_are_named(tmp_path, program):
    for rank, report, environ in ranks(tmp_path, 3, {}):
        if rank != 1:
            verb("run", program, report=report, environ=environ)
    assert not report.exists()
    made = merge([str(next(tmp_path.glob("r.json.ranks*")))])
    assert made.summary["failed_ranks"] == [1]
    assert "absent" in made.to_text()
    (tmp_path / "empty").mkdir()
    with pytest.raises(HpcallocError, match="remedy"):
        merge([str(tmp_path / "empty")])
    with pytest.raises(HpcallocError, match="limit: a directory"):
        merge([str(tmp_path / "nowhere")])


def test_programs_that_use_hpcalloc(tmp_path):
    report = tmp_path / "r.json"
    code = (
        "import hpcalloc, os\n"
        "with hpcalloc.init() as ctx:\n"
        "    a = ctx.ones(1 << 20)\n"
        "    if os.fork() == 0: raise SystemExit\n"
        "    os.wait()\n"
    )
    for launch in ([], [sys.executable, "-m", "hpcalloc", "run"]):
        done = start(*launch, sys.executable, "-c", code, report=report)
        assert (done.returncode, done.stderr) == (0, "")
        record = rank_of(report)
        check_arrays(record, 8 * MIB)
        assert record["arrays"]["count"] == 1
        assert record["policy"].startswith(("local", "interleave"))
        report.unlink()
    # never closed
    done = start(
        sys.executable, "-c", "import hpcalloc; c = hpcalloc.init(); a = c.ones(1 << 20)", report=report
    )
    assert (done.returncode, done.stderr) == (0, "")
    check_arrays(rank_of(report), 8 * MIB)


def test_a_name_that_is_no_utf8(tmp_path, program):
    report = tmp_path / os.fsdecode(b"m\xfcller.json")  # as in a home directory of an old file server
    done = verb("run", program, report=report)
    assert done.returncode == 0, done.stderr
    check_arrays(rank_of(report), 8 * MIB)


def test_no_library_no_report_is_said(tmp_path, program):
    done = verb("run", "--no-preload", program, report=tmp_path / "r.json")
    assert done.returncode == 0
    assert re.search("HPCALLOC_REPORT.*--no-preload.*remedy", done.stderr), done.stderr


@pytest.fixture
def ctx_record(monkeypatch):
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    with hpcalloc.init() as context:
        return record_of(context._state)


def entry(record, size, **more):
    return json.dumps({"size": size, "written": 1.0, "record": {**record, **more}})


def test_words_of_ranks_are_words(ctx_record, tmp_path):
    evil = "</td><script>alert(1)</script>[red][/b]\x1b[2J"
    words = dict.fromkeys(("host", "action", "cpus", "command"), evil) | {"reasons": [evil], "notes": [evil]}
    (tmp_path / "rank-000000.context.json").write_text(entry(ctx_record.to_dict(), 2, **words))
    merged = merge([str(tmp_path)])
    assert merged.summary["failed_ranks"] == [1]
    assert "[red][/b]" in merged.to_text(width=200)
    page = merged.to_html()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6
    for written in (merged.to_text(), page, merged.to_json()):
        assert "\x1b" not in written
        assert "\\u001b" not in written


def test_bad_names(tmp_path, program):
    done = verb("run", program, report=tmp_path / "r.pdf")
    assert done.returncode == 2
    assert "limit:" in done.stderr
    done = start(sys.executable, "-c", "import hpcalloc; hpcalloc.init()", report=tmp_path / "r.pdf")
    assert "HPCALLOC_REPORT" in done.stderr
    assert verb("report", "--output", "r.pdf").returncode == 2
    assert verb("report", "--remove").returncode == 2
    assert verb("run", program, report=tmp_path.joinpath(*["no"] * 600, "r.json")).returncode != 0
    (tmp_path / "file").write_text("")
    done = verb("run", program, report=tmp_path / "file/r.json")
    assert done.returncode == 2
    assert "a directory that is there" in done.stderr
    done = verb("run", program, report=tmp_path / "mistyped/r.json")
    assert done.returncode == 2
    assert not (tmp_path / "mistyped").exists()
    assert files_of({}, None) is None


def test_jobs_inside_jobs():
    outer = {"HPCALLOC_REPORT": "r.json", "HPCALLOC_REPORT_RANKS": "/outer", "HPCALLOC_RUN": "none"}
    inner = {
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "PMIX_NAMESPACE": "prterun@1",
    }
    assert files_of(outer, None).directory == "/outer"
    assert files_of({**outer, **inner}, None).directory.endswith("/r.json.ranks-prterun-1")


def test_the_plain_solver_has_the_same_placement(tmp_path):
    count = 2
    options = ["--size", 256, "--steps", 40]
    plain, library = tmp_path / "plain.json", tmp_path / "library.json"
    run = [sys.executable, "-m", "hpcalloc", "run"]
    done = start(
        *mpirun_words(count), *run, sys.executable, EXAMPLES / "mpi/heat2d_plain.py", *options, report=plain
    )
    assert done.returncode == 0, done.stderr
    assert f"heat2d_plain ok: {count} ranks, 256 x 256 points" in done.stdout
    done = start(*mpirun_words(count), sys.executable, EXAMPLES / "mpi/heat2d.py", *options, report=library)
    assert done.returncode == 0, done.stderr
    for rank in range(count):
        a, b = rank_of(plain, rank), rank_of(library, rank)
        for key in (
            "rank",
            "local_rank",
            "local_size",
            "host",
            "cpus",
            "nodes",
            "threads",
            "action",
            "launcher",
        ):
            assert a[key] == b[key], (rank, key)
        check_arrays(a, b["arrays"]["touched"] * b["arrays"]["page_size"])
        assert a["arrays"]["local_fraction"] == b["arrays"]["local_fraction"]


def test_the_plain_solver_is_without_hpcalloc():
    assert "hpcalloc" not in (EXAMPLES / "mpi/heat2d_plain.py").read_text().split('"""', 2)[2]


@pytest.mark.parametrize("option", [("--bind", "off"), ("--size", "8"), ("--no-mpi",)])
def test_merge_refuses_what_is_of_the_self_test(tmp_path, option):
    result = CliRunner().invoke(cli, ["report", "--merge", str(tmp_path), *option])
    assert result.exit_code == 2
    assert "--merge makes none" in result.output
