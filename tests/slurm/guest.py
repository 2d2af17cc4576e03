"""Inside a host of kernels.py: starts its part of the cluster; the first host submits jobs and says how they went."""

# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pathlib
import sys
import tempfile
import time

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
    listed = [Job("job_hybrid_numa.sh", LAUNCH, all_local, (f"--nodes={hosts}",), QUICK)]
    if hosts == 1:
        threads = [rf"^thread \d+ on node {n}: home {n}, 2048 of 2048 pages there" for n in range(nodes)]
        done = rf"^thread_buffers ok: {2 * nodes} threads"
        listed.append(Job("job_openmp_all_sockets.sh", LAUNCH, (done, *threads), environment=QUICK))
    return listed


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
