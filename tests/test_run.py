# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc run``: what is decided on recorded situations, and what a program really finds when it starts."""

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys

import pytest
from launching import mpirun, mpirun_path, mpirun_version

import hpcalloc
from hpcalloc.cli.run import resolve
from hpcalloc.discover.launcher import Launch, detect_launcher, find_launcher_process, global_rank
from hpcalloc.discover.neighbours import on_same_cpus, other_jobs
from hpcalloc.discover.program import look_at
from hpcalloc.discover.topology import Topology, parse_ids
from hpcalloc.plan.process import (
    MemoryPolicy,
    Situation,
    Wishes,
    decide,
    join_preload,
    parse_memory,
    parse_policy,
)
from hpcalloc.policy import interleave, local, on_node

TWO = "pack:2 [numa] core:4 pu:2"  # nodes 0 and 1 with PUs 0-7 and 8-15, siblings neighbours
EVERYTHING = frozenset(range(16))
ALONE = Launch("none", None, None, None)
CORES = len(os.sched_getaffinity(0))


def ids(text):
    return frozenset(parse_ids(text))


def openmpi(rank, size, explicit=False):
    return Launch("openmpi", rank, size, explicit)


def steps(launch=ALONE, cpus=EVERYTHING, outer=EVERYTHING, topology=TWO, **rest):
    wishes = {k: rest.pop(k) for k in ("bind", "threads", "smt", "policy", "preload", "memory") if k in rest}
    found = Situation(rest.pop("environ", {}), launch, cpus, outer, library="/lib/ours.so", **rest)
    return decide(Topology.from_source(topology), found, Wishes(**wishes))


# ---- decisions: (launch, own CPUs, the launcher's) -> (action, nodes, CPUs, pinned anew) ------------------------

MPICH, SLURM = Launch("mpich", 1, 2, None), Launch("slurm", 1, 2, True)
GOLDEN = [
    ("alone", {}, ("bind", (0, 1), "0,2,4,6,8,10,12,14", True)),
    ("taskset", {"cpus": ids("4-5")}, ("honour", (0,), "4,5", False)),
    ("unbound", {"launch": MPICH}, ("bind", (1,), "8,10,12,14", True)),
    ("openmpi default", {"launch": openmpi(1, 2), "cpus": ids("2-3")}, ("widen", (1,), "8,10,12,14", True)),
    (
        "openmpi default, beyond the CPUs of a daemon that Slurm bound",
        {"launch": openmpi(1, 2), "cpus": ids("2-3"), "outer": ids("0-1")},
        ("widen", (1,), "8,10,12,14", True),
    ),
    (
        "mpich -bind-to core, beyond the CPUs of a proxy that Slurm bound",
        {"launch": MPICH, "cpus": ids("2-3"), "outer": ids("0-1")},
        ("honour", (0,), "2,3", False),
    ),
    (
        "openmpi default by its shape",
        {"launch": openmpi(0, 2, None), "cpus": ids("0-1"), "outer": None},
        ("widen", (0,), "0,2,4,6", True),
    ),
    (
        "openmpi default of four",
        {"launch": openmpi(3, 4, None), "cpus": ids("8-15")},
        ("widen", (1,), "12,14", True),
    ),
    (
        "openmpi asked for",
        {"launch": openmpi(1, 2, True), "cpus": ids("2-3")},
        ("honour", (0,), "2,3", False),
    ),
    ("odd shape", {"launch": openmpi(1, 2, None), "cpus": ids("1-4")}, ("honour", (0,), "1,2,4,3", False)),
    (
        "taskset around mpirun",
        {"launch": MPICH, "cpus": ids("0-7"), "outer": ids("0-7")},
        ("bind", (0,), "4,6", True),
    ),
    (
        "default inside a taskset around mpirun",
        {"launch": openmpi(1, 2), "cpus": ids("0-1"), "outer": ids("0-7")},
        ("widen", (0,), "4,6", True),
    ),
    ("a cpuset per rank", {"launch": MPICH, "cpus": ids("8-9")}, ("honour", (1,), "8,9", False)),
    (
        "srun --cpu-bind",
        {"launch": SLURM, "cpus": ids("8-11"), "environ": {"SLURM_CPU_BIND_TYPE": "mask_cpu:"}},
        ("honour", (1,), "8,10,9,11", False),
    ),
    (
        "srun, half of the host",
        {"launch": SLURM, "cpus": ids("0-7"), "environ": {"SLURM_CPU_BIND_TYPE": "none"}},
        ("bind", (0,), "4,6", True),
    ),
    (
        "size unknown",
        {"launch": Launch("flux", 1, None, None), "cpus": ids("0-3")},
        ("honour", (0,), "0,2,1,3", False),
    ),
    (
        "force",
        {"launch": openmpi(1, 2, True), "cpus": ids("2-3"), "bind": "force"},
        ("bind", (1,), "8,10,12,14", True),
    ),
    ("off", {"launch": openmpi(1, 2), "cpus": ids("2-3"), "bind": "off"}, ("none", (0,), "2,3", False)),
    ("more ranks than PUs", {"launch": Launch("mpich", 31, 32, None)}, ("bind", (1,), "15", True)),
]


@pytest.mark.parametrize(("case", "expected"), [g[1:] for g in GOLDEN], ids=[g[0] for g in GOLDEN])
def test_golden(case, expected):
    made = steps(**case)
    share = made.share
    order = ",".join(map(str, share.cpus))
    assert (share.action, share.nodes, order, bool(made.pin)) == expected
    assert made.reasons
    json.dumps(made.to_dict())


def test_all_ranks_come_to_one_plan():
    for size in (1, 2, 3, 4, 8, 16):
        made = [steps(Launch("mpich", i, size, None)) for i in range(size)]
        cpus = [cpu for one in made for cpu in one.share.cpus]
        assert len(cpus) == len(set(cpus))
    first, second = (steps(openmpi(i, 2), cpus=ids(f"{2 * i}-{2 * i + 1}")) for i in range(2))
    assert not set(first.share.cpus) & set(second.share.cpus)


# ---- environment -----------------------------------------------------------------------------------------


def test_variables_match_the_plan():
    made = steps(openmpi(1, 2), cpus=ids("2-3")).environment
    assert made["OMP_NUM_THREADS"] == made["OPENBLAS_NUM_THREADS"] == made["MKL_NUM_THREADS"] == "4"
    assert not {"OMP_PLACES", "OMP_PROC_BIND"} & set(
        made
    )  # they would take CPUs away from a program that loads OpenMP late
    assert made["LD_PRELOAD"] == "/lib/ours.so"
    assert steps(openmpi(1, 2), cpus=ids("2-3"), smt=True).environment["OMP_NUM_THREADS"] == "8"


def test_what_the_user_set_stays():
    made = steps(MPICH, environ={"OMP_NUM_THREADS": "3"})
    assert made.share.threads == 3
    assert not {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"} & set(made.environment)
    assert made.kept == {"OMP_NUM_THREADS": "3"}
    made = steps(MPICH, environ={"OPENBLAS_NUM_THREADS": "1", "GOMP_CPU_AFFINITY": "0-3"})
    assert made.kept == {"OPENBLAS_NUM_THREADS": "1", "GOMP_CPU_AFFINITY": "0-3"}
    assert made.environment["OMP_NUM_THREADS"] == "4"
    # what is asked for on the command line is newer
    made = steps(MPICH, environ={"OMP_NUM_THREADS": "3"}, threads=2)
    assert made.environment["OMP_NUM_THREADS"] == made.environment["OPENBLAS_NUM_THREADS"] == "2"
    assert set(steps(MPICH, bind="off", cpus=ids("0-7")).environment) == {"HPCALLOC_RUN", "LD_PRELOAD"}


def test_preload_joins():
    assert join_preload("", "/a.so") == "/a.so"
    assert join_preload("/b.so /c.so", "/a.so") == "/b.so:/c.so:/a.so"
    assert join_preload("/b.so::/a.so", "/a.so") == "/b.so:/a.so"


@pytest.mark.parametrize(
    "case",
    [
        {"environ": {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}},
        {"obstacle": "it is linked statically"},
        {"environ": {"LD_PRELOAD": "/opt/lib/libasan.so.8"}},
    ],
)
def test_where_the_allocator_does_not_fit(case):
    case = {"launch": MPICH, **case}
    made = steps(**case)
    assert "LD_PRELOAD" not in made.environment
    assert any("not preloaded" in why for why in made.reasons)
    with pytest.raises(hpcalloc.PlanError, match="--preload.*limit.*remedy"):
        steps(**case, preload=True)


@pytest.mark.parametrize(
    "case",
    [
        {"policy": interleave()},
        {"policy": on_node(1)},
        {"policy": on_node(1, strict=True)},
        {"inherited_policy": "interleave:0-1"},
        {"launch": ALONE},  # two nodes for one rank: interleaved
    ],
)
def test_the_allocator_follows_the_policy_of_the_process(case):
    made = steps(**{"launch": MPICH, **case})
    assert made.preload
    assert "NUMALLOC_STRICT" not in made.environment


def test_no_preload():
    made = steps(MPICH, preload=False)
    assert not made.preload
    assert "LD_PRELOAD" not in made.environment


# ---- memory ------------------------------------------------------------------------------------------------


def test_memory_policies():
    assert steps(MPICH).memory is None
    assert str(steps().memory) == "interleave(0-1)"  # a rank with two nodes
    assert str(steps(MPICH, policy=interleave()).memory) == "interleave(1)"
    assert str(steps(MPICH, policy=interleave([0, 1])).memory) == "interleave(0-1)"
    assert str(steps(MPICH, policy=on_node(0)).memory) == "on_node(0)"
    assert str(steps(MPICH, policy=on_node(0, strict=True)).memory) == "local(0, strict)"
    strict = steps(MPICH, policy=local(strict=True))
    assert str(strict.memory) == "local(1, strict)"
    assert strict.environment["NUMALLOC_STRICT"] == "1"
    assert steps(MPICH, inherited_policy="bind:0").memory is None
    assert "bind:0" in " ".join(steps(MPICH, inherited_policy="bind:0").reasons)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ({"policy": on_node(7)}, hpcalloc.NodeError),
        ({"policy": interleave([0, 9])}, hpcalloc.NodeError),
        ({"policy": interleave(strict=True)}, hpcalloc.PlanError),
        ({"policy": hpcalloc.blocked()}, hpcalloc.PlanError),
        ({"launch": ALONE, "policy": local(strict=True)}, hpcalloc.PlanError),
        ({"threads": 0}, hpcalloc.PlanError),
    ],
)
def test_refused(case, kind):
    with pytest.raises(kind, match="limit:.*remedy:"):
        steps(**{"launch": MPICH, **case})


@pytest.mark.parametrize("count", ["99999", "9" * 20, "9" * 5000])
def test_a_number_of_threads_that_is_none_names_its_variable(count):
    with pytest.raises(hpcalloc.PlanError, match="OMP_NUM_THREADS=.*limit:.*remedy:"):
        steps(environ={"OMP_NUM_THREADS": count})


def test_a_program_under_ulimit_has_what_it_has_without_us():
    words = "import numpy as np; a = np.ones(20_000_000); b = np.empty(60_000_000); print(a.sum())"
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))  # noqa: E731
    if subprocess.run([sys.executable, "-c", words], preexec_fn=limit, check=False).returncode != 0:
        pytest.skip("missing capability: a NumPy that starts in 1 GiB of address space")
    command = [sys.executable, "-m", "hpcalloc", "run", sys.executable, "-c", words]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "20000000.0\n"), done.stderr


def test_numbers_of_a_launcher_that_are_none():
    for text in ("9" * 5000, "\u00b2", "-1", ""):
        environ = {
            "OMPI_COMM_WORLD_LOCAL_RANK": text,
            "OMPI_COMM_WORLD_RANK": text,
            "OMPI_COMM_WORLD_SIZE": "2",
        }
        assert detect_launcher(environ).launcher == "none"
        assert global_rank(environ) == (0, 1)


def test_policy_words():
    assert parse_policy("local", False) == local()
    assert parse_policy("interleave:0,2-3", False) == interleave([0, 2, 3])
    assert parse_policy("on_node:1", True) == on_node(1, strict=True)
    bad_nodes = "interleave:0-99999999999", "interleave:3-1", "interleave:", "interleave:x"
    for bad in ("near", "local:0", *bad_nodes, "on_node", "on_node:0,1", "on_node:-1", ""):
        with pytest.raises(hpcalloc.PlanError, match="remedy"):
            parse_policy(bad, False)


# ---- kinds of memory ---------------------------------------------------------------------------------------

# Nodes 0 and 2 with PUs 0-3 and 4-7, HBM on 1 and 3, CXL on 4.
KINDS = (
    "[numa(memory=512GB bandwidth=30000 latency=300 tier=5)] pack:2"
    " [numa(memory=64GB bandwidth=100000 latency=90 tier=4)] [numa(memory=16GB bandwidth=400000 latency=120 tier=3)] core:4 pu:1"
)


def rank_of_two(**rest):
    return steps(Launch("mpich", 1, 2, None), ids("0-7"), ids("0-7"), KINDS, **rest)


@pytest.mark.parametrize(
    ("memory", "nodes", "homes", "why"),
    [
        ("bandwidth", (1, 3), (3,), "nodes 1,3, from firmware"),
        ("latency", (0, 2), (2,), "nodes 0,2, from firmware"),
        ("capacity", (4,), (4,), "nodes 4, by memory tiers"),
        ((2, 4), (2, 4), (2,), ""),
    ],
)
def test_memory_by_kind_or_name(memory, nodes, homes, why):
    told = rank_of_two(memory=memory)
    assert told.share.nodes == (2,)
    assert told.memory == MemoryPolicy("nearest", nodes, False, homes)
    assert not why or any(why in reason for reason in told.reasons)
    told = rank_of_two(memory=memory, policy=local(strict=True))
    assert told.memory == MemoryPolicy("local", nodes, True, homes)
    assert "NUMALLOC_STRICT" not in told.environment


def test_memory_by_kind_goes_before_what_was_inherited():
    assert rank_of_two(memory="bandwidth", inherited_policy="bind:0").memory.nodes == (1, 3)


def test_a_kind_that_the_machine_does_not_tell_is_refused():
    with pytest.raises(
        hpcalloc.NodeError, match=r"run --memory latency: .*limit: nodes 0-1: .*remedy: name nodes"
    ):
        steps(memory="latency")
    with pytest.raises(hpcalloc.NodeError, match="--memory names node 7"):
        steps(memory=(0, 7))


def test_memory_words():
    assert [parse_memory(text) for text in (None, "latency", "0,2-3")] == [(), "latency", (0, 2, 3)]
    for bad in ("", "hbm", "-1", "3-1", "0-99999999999"):
        with pytest.raises(hpcalloc.PlanError, match="limit: bandwidth, latency, capacity, or nodes"):
            parse_memory(bad)


# ---- the launcher's side -----------------------------------------------------------------------------------


def test_tasks_of_a_slurm_step():
    environ = {"SLURM_LOCALID": "0", "SLURM_PROCID": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}
    sizes = [detect_launcher({**environ, "SLURM_NODEID": str(i)}).local_size for i in range(4)]
    assert sizes == [4, 4, 3, None]
    assert detect_launcher({**environ, "SLURM_STEP_TASKS_PER_NODE": "?"}).local_size is None


def test_rank_of_the_job():
    assert global_rank({}) == (0, 1)
    assert global_rank({"PMI_RANK": "3", "PMI_SIZE": "4"}) == (3, 4)
    slurm = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}  # of the batch step around mpirun
    ranks = {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    ranks |= {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    assert global_rank({**ranks, **slurm}) == (1, 2)


def test_the_launcher_is_the_first_without_the_variable(tmp_path):
    (tmp_path / "rank.py").write_text(
        "import os; from hpcalloc.discover.launcher import find_launcher_process\n"
        "found = find_launcher_process(os.getppid(), 'MPI_LOCALRANKID', '3')\n"
        "print(found.command[-1], len(found.cpus))\n"
    )
    inner = script(tmp_path / "inner", f"#!/bin/sh\n{sys.executable} {tmp_path}/rank.py\nexit\n")
    outer = script(tmp_path / "outer", f"#!/bin/sh\nsh {inner}\nexit\n")
    daemon = script(tmp_path / "daemon", f"#!/bin/sh\nMPI_LOCALRANKID=3 {outer}\nexit\n")
    done = subprocess.run([daemon], capture_output=True, text=True, timeout=60, check=False, env=clean())
    assert done.stdout.strip() == f"{daemon} {CORES}", done
    assert find_launcher_process(0, "X", "1") is None


# ---- real programs -----------------------------------------------------------------------------------------


def clean():
    names = ("OMPI_", "PMI", "MPI_", "SLURM_", "OMP_", "OPENBLAS_", "MKL_", "HPCALLOC_", "LD_PRELOAD")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


def run(*words, launch=(), **rest):
    environ = {**clean(), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environ |= rest.pop("environ", {})
    return subprocess.run(
        [*launch, sys.executable, "-m", "hpcalloc", "run", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environ,
        **rest,
    )


def script(path, text, mode=0o755):
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("code", [0, 1, 77, 255])
def test_exit_code(code):
    assert run("sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGPIPE, signal.SIGABRT])
def test_signals(number):
    assert run("sh", "-c", f"kill -{int(number)} $$").returncode == -number


def test_it_becomes_the_program():
    process = subprocess.Popen(
        [sys.executable, "-m", "hpcalloc", "run", sys.executable, "-c",
         "import os, sys; print(os.getpid(), sys.stdin.read())"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean(),
    )  # fmt: skip
    out, _ = process.communicate("words in", timeout=60)
    assert out.split() == [str(process.pid), "words", "in"]


def test_environment_is_otherwise_unchanged(monkeypatch):
    monkeypatch.delenv("LC_CTYPE", raising=False)  # without a locale Python has set it here, too
    environ = {**clean(), "ODD": "a=b\nc", "LC_ALL": "", "LANG": "C"}
    told = run("env", "-0", environ=environ).stdout
    seen = dict(entry.split("=", 1) for entry in told.split("\0") if entry)
    added = set(seen) - set(environ)
    assert all(seen[name] == value for name, value in environ.items())
    assert {"OMP_NUM_THREADS", "LD_PRELOAD"} <= added
    assert not {"OMP_PLACES", "OMP_PROC_BIND"} & added
    assert "LC_CTYPE" not in added


def test_a_launcher_is_no_program():
    done = run("mpirun", "-n", "2", "true")
    assert done.returncode == 2
    assert "mpirun ... hpcalloc run PROGRAM" in done.stderr


def test_a_dry_run_is_a_line_for_each_of_several_ranks():
    several = run("--dry-run", "true", environ={"MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}).stdout
    assert several.count("\n") == 1
    assert several.startswith("local rank 1 of 2: nodes ")
    assert len(several) <= 81
    assert run("--dry-run", "true").stdout.count("\n") > 4


def test_affinity_and_pools():
    code = (
        "import os, numpy, threadpoolctl, json;"
        "print(json.dumps([sorted(os.sched_getaffinity(0)), [p['num_threads'] for p in threadpoolctl.threadpool_info()]]))"
    )
    launch = {"MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": str(CORES)}
    plan = json.loads(run("--dry-run", "--json", "true", environ=launch).stdout)
    assert plan["local_rank"] == 1
    cpus, pools = json.loads(run(sys.executable, "-c", code, environ=launch).stdout)
    assert cpus == list(parse_ids(plan["cpus"]))
    assert set(pools) <= {plan["threads"]}


def test_memory_policy_survives_exec():
    done = run("--policy", "interleave:0", "--no-preload", "cat", "/proc/self/numa_maps")
    if "set_mempolicy" in done.stderr:
        pytest.skip("missing capability: set_mempolicy (seccomp)")
    assert " interleave:0 " in next(line for line in done.stdout.splitlines() if "stack" in line)
    done = run("--policy", "on_node:0", "cat", "/proc/self/numa_maps")
    assert " prefer" in next(line for line in done.stdout.splitlines() if "stack" in line)
    done = run("--memory", "0", "cat", "/proc/self/numa_maps")
    assert " prefer" in next(line for line in done.stdout.splitlines() if "stack" in line)
    done = run("--memory", "0", "--strict", "cat", "/proc/self/numa_maps")
    assert " bind:0" in next(line for line in done.stdout.splitlines() if "stack" in line)
    done = run("--strict", "cat", "/proc/self/numa_maps")
    assert " bind:0" in next(line for line in done.stdout.splitlines() if "stack" in line)


def test_malloc_is_served():
    words = [sys.executable, "-c", "import zlib"]
    assert '"allocations"' in run(*words, environ={"NUMALLOC_STATS": "1"}).stderr
    # the launcher's own interpreter has libnumalloc, but becomes the program before it ends
    assert "allocations" not in run("--no-preload", *words, environ={"NUMALLOC_STATS": "1"}).stderr


def test_scripts(tmp_path):
    python = script(tmp_path / "solver.py", "import sys\nprint('ran', *sys.argv[1:])\n", 0o644)
    assert run(python, "--json", "a b").stdout == "ran --json a b\n"
    assert run("solver.py", cwd=tmp_path).stdout == "ran\n"
    bare = script(tmp_path / "bare", "echo bare $1\n")
    assert run(bare, "x").stdout == "bare x\n"
    nested = script(tmp_path / "nested", "#!/bin/sh\nexec sh -c 'exit 3'\n")
    assert run(nested).returncode == 3


def test_programs_that_cant_run(tmp_path):
    for words, code, text in [
        (["no-such-program"], 127, "PATH"),
        ([tmp_path / "nowhere"], 127, "is not there"),
        ([script(tmp_path / "data", "x", 0o644)], 126, "chmod"),
        ([tmp_path], 126, "directory"),
        ([script(tmp_path / "lost", "#!/no/such/interpreter\n")], 126, "interpreter"),
    ]:
        done = run(*words)
        assert done.returncode == code, done
        assert text in done.stderr
        assert "limit:" in done.stderr
        assert "remedy:" in done.stderr
    assert run().returncode == 2
    assert run("--json", "true").returncode == 2
    for bad in (
        ["--policy", "near"],
        ["--policy", "on_node:999"],
        ["--memory", "hbm"],
        ["--memory", "999"],
        ["--memory", "0", "--policy", "interleave"],
        ["--threads", "0"],
        ["--threads", "x"],
    ):
        assert run(*bad, "true").returncode == 2


@pytest.fixture
def compiled(tmp_path):
    """Make a program of C; skips where there is no compiler or none that can."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("missing capability: a C compiler")

    def make(*flags, text="int main(void) { return 0; }", name="p"):
        (tmp_path / "p.c").write_text(text)
        done = subprocess.run([compiler, "-w", tmp_path / "p.c", "-o", tmp_path / name, *flags], check=False)
        if done.returncode != 0:
            pytest.skip(f"missing capability: {compiler} {' '.join(flags)}")
        return tmp_path / name

    return make


def obstacle(path):
    return resolve([str(path)], os.environ["PATH"])[1].obstacle


def test_static_programs_are_not_preloaded(compiled):
    assert "statically" in obstacle(compiled("-static"))
    program = compiled()
    assert obstacle(program) == ""
    os.chown(program, 12345, -1) if os.getuid() == 0 else None
    os.chmod(program, 0o755 | stat.S_ISUID)
    assert ("another user" in obstacle(program)) == (os.getuid() == 0)


def test_programs_of_another_c_library_are_not_preloaded(compiled):
    """musl's, or Nix' own: our libraries are linked to this Python's."""
    assert "another C library than this Python (/lib/ld-musl-x86_64.so.1)" in obstacle(
        compiled("-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1")
    )


def test_programs_with_capabilities_are_not_preloaded(compiled, monkeypatch):
    """The dynamic linker ignores LD_PRELOAD for all but root."""
    program = compiled()
    capable = {(str(program), "security.capability"): b"\x01\0\0\x02" + bytes(16)}

    def getxattr(path, name):
        try:
            return capable[str(path), name]
        except KeyError:
            raise OSError(errno.ENODATA, "No data available") from None

    monkeypatch.setattr(os, "getxattr", getxattr)
    for user, refused in ((0, False), (1000, True)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert ("has capabilities" in obstacle(program)) == refused
    capable.clear()
    assert obstacle(program) == ""


@pytest.mark.parametrize("kind", ["address", "thread", "leak"])
def test_programs_with_a_sanitizer_run_without_the_allocator(compiled, kind):
    program = compiled(
        f"-fsanitize={kind}", text="#include <stdlib.h>\nint main(void) { free(malloc(9)); return 5; }"
    )
    done = run(program)
    assert done.returncode == 5, done.stderr
    assert re.search("not preloaded: .*sanitizer", done.stderr)
    assert "does not come first" not in done.stderr


def test_the_interpreter_of_a_script_counts(compiled, tmp_path):
    static = compiled("-static", name="static")
    direct = script(tmp_path / "direct", f"#!{static} -x\n")
    nested = script(tmp_path / "nested", f"#!{direct}\n")
    by_env = script(tmp_path / "by_env", "#!/usr/bin/env -S A=1 static\n")
    for path in (direct, nested):
        assert "statically" in obstacle(path), path
    assert "statically" in resolve([str(by_env)], str(tmp_path))[1].obstacle
    assert obstacle(script(tmp_path / "shell", "#!/bin/sh\n")) == ""
    assert obstacle(script(tmp_path / "loop", f"#!{tmp_path}/loop\n")) == ""


def test_no_directory_is_left_for_a_program_that_can_write_no_report(compiled, tmp_path):
    program = script(tmp_path / "script", f"#!{compiled('-static')}\n")
    reports = tmp_path / "reports"
    reports.mkdir()
    done = run(program, environ={"HPCALLOC_REPORT": str(reports / "x.json")})
    assert done.returncode == 0
    assert "statically" in done.stderr
    assert list(reports.iterdir()) == []


def test_files_that_are_no_whole_program(compiled, tmp_path):
    whole = compiled().read_bytes()
    for i, size in enumerate((4, 5, 16, 63, 64, 200, 700, 1000)):
        cut = tmp_path / f"cut{i}"
        cut.write_bytes(whole[:size])
        cut.chmod(0o755)
        resolve([str(cut)], "")  # says something or nothing, and raises nothing
    draw = random.Random(1)
    for _ in range(500):
        changed = bytearray(whole[:3000])
        for _ in range(8):
            changed[draw.randrange(5, 1000)] = draw.choice((0, 1, 2, 127, 128, 255))
        (tmp_path / "changed").write_bytes(changed)
        look_at(str(tmp_path / "changed"), "")
    done = run(tmp_path / "cut3")
    assert done.returncode == 126, done
    assert "Exec format error" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(CORES < 2, reason="missing capability: two cores")
def test_under_mpirun():
    tell = "taskset -cp $$ | sed s/.*:.//; echo $OMP_NUM_THREADS"
    launch = [mpirun_path(), "-n", "2"]
    told = [json.loads(part) for part in split(run("--dry-run", "--json", "true", launch=launch).stdout)]
    assert sorted(t["local_rank"] for t in told) == [0, 1]
    done = run("sh", "-c", tell, launch=launch)
    assert done.returncode == 0, done.stderr
    # Each rank says its CPUs and its threads; lines of two ranks may come in any order, whole.
    said = sorted(done.stdout.split())
    assert said == sorted(word for t in told for word in (t["cpus"], str(t["threads"]))), done.stdout
    cpus = [set(parse_ids(t["cpus"])) for t in told]
    assert not cpus[0] & cpus[1]
    # a wrapper between the launcher and the rank, and a binding that was asked for
    wrapped = [*launch, "sh", "-c", '"$@"; exit $?', "sh"]
    again = [json.loads(part) for part in split(run("--dry-run", "--json", "true", launch=wrapped).stdout)]
    assert sorted(t["cpus"] for t in again) == sorted(t["cpus"] for t in told)
    asked = [
        mpirun_path(),
        "-bind-to" if "hydra" in mpirun_version().lower() else "--bind-to",
        "core",
        "-n",
        "2",
    ]
    told = [json.loads(part) for part in split(run("--dry-run", "--json", "true", launch=asked).stdout)]
    assert {t["action"] for t in told} == {"honour"}
    assert run("sh", "-c", "exit 3", launch=launch).returncode == 3


def test_a_rank_that_refuses_ends_the_job():
    """Else the others would wait for it in MPI_Init under MPICH. Open MPI ends the job itself, and may then hang."""
    pytest.importorskip("mpi4py", reason="missing capability: mpi4py")
    hpcalloc = [sys.executable, "-m", "hpcalloc", "run"]
    waits = [
        *hpcalloc,
        sys.executable,
        "-c",
        "from mpi4py import MPI; MPI.COMM_WORLD.barrier()",
        ":",
        "-n",
        "1",
    ]
    others = [] if "Open MPI" in mpirun_version() else waits
    done = mpirun(1, *others, *hpcalloc, "/no/program", timeout=100)
    assert done.returncode != 0
    assert "'/no/program' is not there" in done.stderr


@pytest.fixture
def running(request):
    """A program that another job runs here."""
    command = [sys.executable, "-m", "hpcalloc", "run", "sh", "-c", "echo up; exec sleep 60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**clean(), **request.param})
    process.stdout.readline()
    yield process.pid
    process.kill()
    process.wait()


RANK = {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}


def others():
    """Processes of other jobs on this host, those of other tests among them."""
    every = os.sched_getaffinity(0)
    return {job.pid: job for job in on_same_cpus(other_jobs(frozenset(every), os.getpid()), every, every)}


@pytest.mark.parametrize("running", [{}], indirect=True)
def test_another_job_on_the_same_cpus_is_named(running):
    other = others()[running]
    assert other.command.endswith("sleep 60")  # the shell says "up" before it is that
    assert other.planned
    for environ in ({}, RANK):  # alone, and as a rank
        done = run("true", environ=environ)
        assert done.returncode == 0
        assert re.search(r"CPUs \S+ are another job's as well: process \d+ \(.*limit:.*remedy:", done.stderr)
    second = {**RANK, "OMPI_COMM_WORLD_LOCAL_RANK": "1"}  # local rank 0 says it
    assert "another job" not in run("true", environ=second).stderr


@pytest.mark.parametrize("running", [RANK], indirect=True)
def test_the_ranks_of_a_job_are_no_other_job(running):
    assert running not in others()


def split(text):
    """JSON objects written one after the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        item, at = decoder.raw_decode(text, at)
        found.append(json.dumps(item))
    return found
