"""Inside a host of kernels.py: starts its part of the cluster; the first host submits jobs and says how they went."""

# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from cluster import Cluster, Node
from run import Job, submit

QUICK = {"CHECK": "no"}  # Python starts slowly here, and the solver ends with the same report
LAUNCH = ("mpich srun pmi2",)
# Here every page can be asked for: nothing may be unknown.
LOCAL = r"^100\.0 % of [1-9]\d* array pages local"
HEAT = r"^heat2d ok: {ranks} ranks, 100\.0 % of [1-9]\d* pages local, "


def row(rank: int, host: int, cpus: str, nodes: str) -> str:
    """Match a rank's line of the report: bound there, with all of its pages on these nodes."""
    return rf"^ +{rank} +host{host} +{cpus} +{nodes} +2 launcher binding kept"


def jobs(hosts: int, nodes: int) -> list[Job]:
    """List what is submitted here; every host has nodes of two CPUs."""
    ranks = hosts * nodes
    where = [
        row(h * nodes + n, h + 1, f"{2 * n}-{2 * n + 1}", str(n)) for h in range(hosts) for n in range(nodes)
    ]
    all_local = (LOCAL, HEAT.format(ranks=ranks), *where)
    threads = [rf"^thread \d+ on node {n}: home {n}, 2048 of 2048 pages there" for n in range(nodes)]
    done = rf"^thread_buffers ok: {2 * nodes} threads"
    return [
        Job("job_hybrid_numa.sh", LAUNCH, all_local, (f"--nodes={hosts}",), QUICK),
        # Its output is read on the first host.
        Job("job_openmp_all_sockets.sh", LAUNCH, (done, *threads), ("--nodelist=host1",), QUICK),
    ]


# A program of C with 64 MiB from its own node, which waits in write(2); numa_maps is summed by awk, as Python starts slowly.
HELD = 64 << 20
HOLD = f"dd if=/dev/zero bs={HELD} status=none | sleep 600"
SUM = """for p in $(pgrep -x dd); do awk -v at="$(hostname) $p" '{
    for (i = 2; i <= NF; i++) { split($i, w, "="); if (w[1] == "kernelpagesize_kB") size = w[2] }
    for (i = 2; i <= NF; i++) { split($i, w, "="); if (w[1] ~ /^N[0-9]+$/) sum[substr(w[1], 2)] += w[2] * size }
} END { for (node in sum) print at, node, sum[node] }' "/proc/$p/numa_maps"; done"""
Pages = dict[tuple[str, int], dict[int, int]]  # KiB by host and PID, and node


def ask(slurm: Cluster, *command: object) -> str:
    """Run a command of Slurm or hpcalloc; what it says."""
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, **slurm.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def seen_by_ps(slurm: Cluster, hosts: int, nodes: int) -> list[str]:
    """Look at a job of a rank on each node with `hpcalloc ps`: what differs from numa_maps, and from how it was bound."""
    spread = [
        f"--nodes={hosts}",
        f"--ntasks={hosts * nodes}",
        f"--ntasks-per-node={nodes}",
        "--cpus-per-task=2",
    ]
    bound = ["--distribution=block:block", "--cpu-bind=cores", "--mpi=none", "--job-name=hold"]
    step = subprocess.Popen(
        ["srun", *spread, *bound, "sh", "-c", HOLD],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **slurm.environment},
    )
    try:
        number = ""
        pages: Pages = defaultdict(dict)
        deadline = time.monotonic() + 120
        while sum(max(by_node.values()) * 1024 >= HELD for by_node in pages.values()) < hosts * nodes:
            if time.monotonic() > deadline:
                return [
                    f"job {number or '?'}: not {hosts * nodes} processes with their memory: {dict(pages)}"
                ]
            time.sleep(0.5)
            number = (
                number
                or ask(slurm, "squeue", "--noheader", "--states=R", "--name=hold", "--format=%A").strip()
            )
            if number:
                on_each = [
                    f"--jobid={number}",
                    "--overlap",
                    f"--nodes={hosts}",
                    f"--ntasks={hosts}",
                    "--ntasks-per-node=1",
                ]
                pages.clear()
                for line in ask(
                    slurm, "srun", *on_each, "--cpu-bind=none", "--mpi=none", "sh", "-c", SUM
                ).splitlines():
                    host, pid, node, kib = line.split()
                    pages[host, int(pid)][int(node)] = int(kib)
        told = json.loads(ask(slurm, sys.executable, "-m", "hpcalloc", "ps", "--job", number, "--json"))
    finally:
        step.terminate()
        step.wait()
    told_pages: Pages = defaultdict(lambda: defaultdict(int))
    ranks = []
    for seen in told["hosts"]:
        for process in seen["processes"]:
            if process["command"].startswith("dd "):
                ranks.append((process["rank"], seen["host"], process["cpus"], process["local_share"] > 0.99))
                for kind in ("private", "shared", "files"):
                    for node, count in process["memory"][kind].items():
                        told_pages[seen["host"], process["pid"]][int(node)] += count // 1024
    wanted = [
        (h * nodes + n, f"host{h + 1}", f"{2 * n}-{2 * n + 1}", True)
        for h in range(hosts)
        for n in range(nodes)
    ]
    wrong = [] if sorted(ranks) == wanted else [f"ranks {sorted(ranks)}, not {wanted}"]
    if told_pages != pages:
        wrong.append(f"KiB by node {told_pages}, not {pages}")
    return wrong


def main() -> int:
    """Run this host's part."""
    host, hosts, nodes = map(int, sys.argv[1:4])
    key = bytes.fromhex(sys.argv[6])
    names = [f"host{i + 1}" for i in range(hosts)]
    machines = [Node(name, name, f"192.0.2.{i + 1}", 17001, nodes, 2) for i, name in enumerate(names)]
    slurm = Cluster(
        machines,
        [names[host - 1]],
        controls=host == 1,
        control_port=17000,
        key=key,
        directory=pathlib.Path("/tmp/slurm"),
    )
    with slurm:
        if host > 1:
            while True:  # until the first one is done and this kernel is ended from outside
                time.sleep(1)
                slurm.check_daemons()
        slurm.wait_ready(120)
        print(f"Slurm on {hosts} host(s) with {nodes} nodes each: ok", flush=True)
        if hosts > 1:
            start = time.monotonic()
            for wrong in (differs := seen_by_ps(slurm, hosts, nodes)):
                print(wrong)
            print(f"took {time.monotonic() - start:.0f} s")
            print(f"hpcalloc ps on {hosts} hosts: {'FAILED' if differs else 'ok'}", flush=True)
        scratch = pathlib.Path(tempfile.mkdtemp())
        for i, job in enumerate(jobs(hosts, nodes)):
            outcome = submit(job, LAUNCH[0], slurm, scratch / str(i))
            print(outcome.output, flush=True)
            for wrong in outcome.wrong:
                print(wrong)
            print(f"took {outcome.seconds:.0f} s")
            print(f"{outcome.name}: {'FAILED' if outcome.wrong else 'ok'}", flush=True)
    print("slurm guest done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
