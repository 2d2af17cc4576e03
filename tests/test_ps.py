# SPDX-License-Identifier: BSD-3-Clause
"""Running processes seen from outside: what is read, what is found, what is printed."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
from click.testing import CliRunner
from launching import without_launcher

from hpcalloc.cli import ps
from hpcalloc.cli.main import cli
from hpcalloc.discover import running
from hpcalloc.discover.running import Memory, Process, Thread, parse_numa_maps, read_process, select
from hpcalloc.discover.topology import Node, Topology, ids_text
from hpcalloc.doctor.running import WORTH, examine, local_share

TWO_NODES = Topology.from_source("pack:2 [numa] core:4 pu:1")
MIB = 1 << 20


def run(*arguments):
    return CliRunner().invoke(cli, ["ps", *map(str, arguments)], prog_name="hpcalloc")


# ---- reading ----------------------------------------------------------------------------------------------


def test_numa_maps_are_summed_by_kind_node_and_policy():
    memory = parse_numa_maps(
        textwrap.dedent("""\
        55d0 default file=/usr/bin/python3 mapped=100 N0=60 N1=40 kernelpagesize_kB=4
        55e0 default file=/usr/lib/libc.so anon=4 dirty=4 N1=4 kernelpagesize_kB=4
        7f00 default heap anon=10 dirty=10 N0=10 kernelpagesize_kB=4
        7f10 bind:1 anon=100 dirty=100 active=0 N0=20 N1=80 kernelpagesize_kB=4
        7f20 prefer (many):0-1 anon=5 dirty=5 N0=5 kernelpagesize_kB=4
        7f30 interleave:0-1 file=/anon_hugepage\\040(deleted) huge anon=3 dirty=3 N0=2 N1=1 kernelpagesize_kB=2048
        7f40 default file=/dev/shm/window mapped=7 mapmax=2 N1=7 kernelpagesize_kB=4
        7f50 default file=[heap]
        broken
        """)
    )
    assert memory.private == {0: 35 * 4096, 1: 84 * 4096}
    assert memory.shared == {0: 2 << 21, 1: (1 << 21) + 7 * 4096}
    assert memory.files == {0: 60 * 4096, 1: 40 * 4096}
    assert memory.policies["bind:1"] == 100 * 4096
    assert memory.policies["prefer (many):0-1"] == 5 * 4096
    assert memory.policy == "interleave:0-1"
    assert sum(memory.data.values()) == sum(memory.private.values()) + sum(memory.shared.values())


@pytest.fixture
def sleeper():
    """Start a process with 32 MiB of its own and a second thread."""
    body = """
        import sys, threading
        block = bytearray(b"x") * (32 << 20)
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        print("ready", flush=True)
        sys.stdin.read()
    """
    environment = {
        **without_launcher(os.environ),
        "OMPI_COMM_WORLD_RANK": "5",
        "OMPI_COMM_WORLD_SIZE": "8",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "SLURM_JOB_ID": "77",
    }
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(body), "an argument"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "ready\n"
    yield child
    child.communicate("")


def independent_bytes(pid):
    """Bytes of pages by node, file pages included, by another reading of numa_maps."""
    total = {}
    with open(f"/proc/{pid}/numa_maps") as lines:
        for line in lines:
            page = (
                int(line.rpartition("kernelpagesize_kB=")[2] or 4) * 1024 if "kernelpagesize" in line else 0
            )
            for word in line.split():
                if word[0] == "N" and "=" in word:
                    node, count = word[1:].split("=")
                    total[int(node)] = total.get(int(node), 0) + int(count) * page
    return total


def test_a_running_process_is_seen_as_proc_shows_it(sleeper):
    process = read_process(sleeper.pid)
    assert process.pid == sleeper.pid
    assert process.command.endswith("an argument")
    assert (process.rank, process.size, process.local_rank, process.job) == (5, 8, 1, "77")
    assert len(process.threads) == 2
    assert process.cpus == os.sched_getaffinity(sleeper.pid)
    assert process.ran_on <= process.cpus
    assert sum(process.memory.private.values()) >= 32 * MIB
    seen = {}
    for part in (process.memory.private, process.memory.shared, process.memory.files):
        for node, count in part.items():
            seen[node] = seen.get(node, 0) + count
    assert seen == independent_bytes(sleeper.pid)
    assert process.hidden == ()


def test_a_pinned_thread_has_its_own_cpus(sleeper):
    one = min(os.sched_getaffinity(sleeper.pid))
    second = max(int(task) for task in os.listdir(f"/proc/{sleeper.pid}/task"))
    os.sched_setaffinity(second, {one})
    by_id = {thread.tid: thread.cpus for thread in read_process(sleeper.pid).threads}
    assert by_id[second] == {one}
    assert by_id[sleeper.pid] == os.sched_getaffinity(sleeper.pid)


def test_ranks_and_jobs_are_found(sleeper):
    assert sleeper.pid in select(ranks=True)
    assert sleeper.pid in select(uid=os.getuid())
    assert sleeper.pid not in select(uid=os.getuid() + 4321)
    assert select(job="77") == [sleeper.pid]
    assert select(job="78") == []
    assert os.getpid() not in select(uid=os.getuid())  # who asks is no answer


def test_a_process_that_is_gone_or_a_zombie_is_no_process():
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessLookupError):
        read_process(child.pid)  # a zombie
    child.wait()
    with pytest.raises(ProcessLookupError):
        read_process(child.pid)


def test_what_rights_forbid_is_named(sleeper, monkeypatch):
    true_read = running._read

    def read(path):
        if path.name == "numa_maps":
            raise PermissionError(13, "Permission denied", str(path))
        return true_read(path)

    def environment_of(pid, root):
        raise PermissionError(13, "Permission denied", f"{root}proc/{pid}/environ")

    monkeypatch.setattr(running, "_read", read)
    monkeypatch.setattr(running, "environment_of", environment_of)
    process = read_process(sleeper.pid)
    assert process.memory is None
    assert process.rank is None
    assert process.hidden == ("environ: Permission denied", "numa_maps: Permission denied")
    assert len(process.threads) == 2  # what can be seen is seen
    result = run(sleeper.pid)
    assert "?: not readable for PID" in result.output
    assert "numa_maps: Permission denied" in result.output


def test_a_process_that_ends_while_it_is_looked_at(sleeper, monkeypatch):
    true_read = running._read

    def read(path):
        if path.name == "smaps_rollup":
            raise ProcessLookupError(3, "No such process")
        return true_read(path)

    monkeypatch.setattr(running, "_read", read)
    with pytest.raises(ProcessLookupError):
        read_process(sleeper.pid)
    result = run(sleeper.pid)
    assert result.exit_code == 2
    assert f"PID {sleeper.pid}" in result.output


# ---- finding ----------------------------------------------------------------------------------------------


def process(pid=100, cpus=(0, 1, 2, 3), memory=None, threads=1, running=True, huge=1 << 40, **more):
    return Process(
        pid=pid,
        user="me",
        command="solver",
        threads=tuple(
            Thread(pid + i, "t", cpus[i % len(cpus)], frozenset(cpus), running) for i in range(threads)
        ),
        mems=frozenset({0, 1}),
        memory=Memory(
            {0: 1024 * MIB} if memory is None else memory, {}, {}, {more.pop("policy", "default"): 1}
        ),
        huge=huge,
        swapped=more.pop("swapped", 0),
        **more,
    )


def checks(*processes, topology=TWO_NODES):
    return {finding.check for finding in examine(processes, topology, "host")}


def test_a_rank_that_is_right_has_no_finding():
    assert checks(process(), process(pid=200, cpus=(4, 5, 6, 7), memory={1: 1024 * MIB})) == set()


def test_memory_on_the_other_node_is_found_with_its_remedy():
    far = process(memory={0: 200 * MIB, 1: 800 * MIB}, rank=3)
    assert local_share(far, TWO_NODES) == pytest.approx(0.2)
    (finding,) = examine([far], TWO_NODES, "host")
    assert finding.check == "remote-memory"
    assert finding.ranks == (3,)
    assert "20 % local" in finding.evidence[0]
    assert any("migratepages 100 all 0" in line for line in finding.remedy)


def test_little_memory_is_not_worth_a_finding():
    assert checks(process(memory={1: WORTH - 1})) == set()
    assert checks(process(memory={1: WORTH})) == {"remote-memory"}


def test_threads_that_may_move_between_nodes_are_found_but_not_on_one_node():
    everywhere = process(cpus=tuple(range(8)), threads=2)
    assert "unbound" in checks(everywhere)
    one = Topology.from_source("pack:1 [numa] core:8 pu:1")
    assert checks(everywhere, topology=one) == set()


def test_memory_of_threads_on_two_nodes_that_is_all_on_one():
    assert "one-sided-memory" in checks(process(cpus=tuple(range(8)), threads=8))
    split = process(cpus=tuple(range(8)), threads=8, memory={0: 512 * MIB, 1: 512 * MIB})
    assert "one-sided-memory" not in checks(split)


def test_threads_that_take_turns():
    assert checks(process(cpus=(0,), threads=4)) == {"threads-on-one-cpu"}
    assert checks(process(cpus=(0,), threads=4, running=False)) == set()
    twins = [process(pid=1000 * i, cpus=(0, 1), threads=2) for i in (1, 2)]
    (finding,) = examine(twins, TWO_NODES, "host")
    assert finding.check == "crowded-cpus"
    assert "4 running threads of PID 1000, 2000 on CPUs 0-1" in finding.evidence[0]


def test_swap_base_pages_and_memory_only_nodes():
    assert checks(process(swapped=MIB)) == {"swapped"}
    assert checks(process(huge=0)) == {"base-pages"}
    near = Topology.from_source("pack:2 [numa] core:4 pu:1")
    far_memory = replace(near, nodes=(*near.nodes, Node(2, 64 << 30, 0, ())))
    bare = next(node.id for node in far_memory.nodes if not node.cpus)
    home = next(node for node in far_memory.nodes if node.cpus)
    there = process(cpus=home.cpus, memory={home.id: 1000 * MIB, bare: 64 * MIB})
    assert checks(there, topology=far_memory) == {"memory-only-node"}


@pytest.mark.parametrize(
    "policy", ["prefer (many):1,3", "bind:1", "prefer=static:1", "weighted interleave:0-1"]
)
def test_memory_of_a_kind_that_was_asked_for_is_local(policy):
    hbm = Topology.from_source("pack:2 [numa(tier=4)] [numa(tier=3)] core:4 pu:1")
    there = process(memory={1: 1024 * MIB}, policy=policy)
    assert local_share(there, hbm) == 1.0
    assert checks(there, topology=hbm) == set()
    assert local_share(process(memory={1: 1024 * MIB}), hbm) == 0.0
    other = process(memory={3: 1024 * MIB}, policy=policy)
    assert local_share(other, hbm) == 0.0


# ---- saying -----------------------------------------------------------------------------------------------


def test_json_has_all_and_bad_questions_are_refused(sleeper):
    result = run(sleeper.pid, "--json")
    data = json.loads(result.stdout)
    (host,) = data["hosts"]
    (seen,) = host["processes"]
    assert seen["pid"] == sleeper.pid
    assert seen["rank"] == 5
    assert len(seen["threads"]) == 2
    assert seen["local_share"] is None or 0 <= seen["local_share"] <= 1
    assert result.exit_code == int(any(f["severity"] != "note" for f in data["findings"]))
    for words in (
        ["1", "--user"],
        ["0"],
        ["x"],
        ["--job", "7", "--user"],
        ["--watch", "1", "--json"],
        ["--job", "a b"],
    ):
        assert run(*words).exit_code == 2, words


def test_no_ranks_is_an_answer_of_its_own(monkeypatch):
    monkeypatch.setattr(ps, "select", lambda **_: [])
    result = run()
    assert result.exit_code == 2
    assert "no MPI ranks" in result.output


def _host(name, first_rank):
    seen = [
        {**process(pid=70000 + i, cpus=tuple(range(0, 64, 2)), threads=64, rank=first_rank + i,
                   memory={n: 30 * 1024 * MIB for n in range(4)}).to_dict(),
         "command": "/a/very/long/path/to/an/interpreter solver.py --with --many --options",
         "local_share": 0.25, "ran_on_nodes": "0-3"}
        for i in range(3)
    ]  # fmt: skip
    return {"host": name, "processes": seen, "ended": [7], "closed": [], "findings": []}


def test_ids_in_steps_read_well():
    assert ids_text(range(0, 31, 2)) == "0-30:2"
    assert ids_text([5, 1, 3]) == "1-5:2"
    assert ids_text([0, 1, 2, 3]) == "0-3"
    assert ids_text([0, 2]) == "0,2"
    assert ids_text([0, 2, 5]) == "0,2,5"
    assert ids_text([]) == ""


@pytest.mark.parametrize("threads", [False, True])
def test_the_table_has_80_columns(capsys, monkeypatch, threads):
    monkeypatch.setenv("COLUMNS", "80")
    ps._show([_host("node1", 0)], threads, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("25 %" in line for line in lines) == 3


def test_a_job_is_asked_on_each_host_and_a_silent_one_is_named(tmp_path, monkeypatch):
    (tmp_path / "answer").write_text(json.dumps(_host("node1", 4)) + "\n")
    commands = {
        "squeue": f'echo "$@" >{tmp_path}/squeue.words; echo 125 "node[1-2]"',
        "scontrol": "printf 'node1\\nnode2\\n'",
        "srun": f'echo "$@" >>{tmp_path}/srun.words; case "$*" in *=node1*) echo noise; cat {tmp_path}/answer;; '
        '*) printf "srun: error: node2: \\033[31mdown\\n" >&2; exit 1;; esac',
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    result = run("--job", "123_4")
    assert result.exit_code == 0, result.output
    assert "no answer from node2: srun: error: node2: \ufffd[31mdown" in result.output
    assert sum("25 %" in line for line in result.output.splitlines()) == 3
    assert "--jobs=123_4" in (tmp_path / "squeue.words").read_text()
    words = (tmp_path / "srun.words").read_text().split()
    assert {"--jobid=125", "--overlap", "--nodelist=node1", "--nodelist=node2"} <= set(words)
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n"
    )
    result = run("--job", "123")
    assert result.exit_code == 2
    assert "Invalid job id" in result.output


def test_what_runs_on_each_host_of_a_job_imports_little():
    look = (
        "import sys; from hpcalloc.cli.main import cli; cli(['ps', '--job-here', '0'], standalone_mode=False)"
    )
    code = f"{look}; print({{'numpy', 'rich', 'mpi4py'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    seen, imported = done.stdout.splitlines()
    assert json.loads(seen)["processes"] == []
    assert imported == "set()"


def test_escape_codes_of_others_do_not_reach_the_terminal():
    evil = subprocess.Popen(
        ["\033]0;owned\a\n", "30"],
        executable="/bin/sleep",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while read_process(evil.pid).command.startswith(os.path.basename(sys.executable)):
            pass  # not exec'ed yet
        result = run(evil.pid, "--threads")
    finally:
        evil.kill()
        evil.wait()
    assert "\033" not in result.output
    assert "\a" not in result.output
    assert "owned" in result.output


def test_what_hidepid_hides_is_named(monkeypatch):
    def read(_pid, _root="/"):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ps, "read_process", read)
    monkeypatch.setattr(ps, "select", lambda **_: [4242])
    assert "hidden by /proc's hidepid: PID 4242" in run("--user").output


def test_watching_looks_again_until_it_is_interrupted(sleeper, monkeypatch):
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ps.time, "sleep", sleep)
    result = run(sleeper.pid, "--watch", "0.5")
    assert result.exit_code == 0
    assert naps == [0.5, 0.5]
    assert result.output.count(str(sleeper.pid)) >= 2
