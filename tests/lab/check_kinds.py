"""Kinds of memory and weights on a machine that tells of its memory (HMAT): pages are where the policy says.

What is expected is read from sysfs here, apart from the package; where pages are is told by move_pages and by numa_maps.
"""

# SPDX-License-Identifier: BSD-3-Clause
import json
import mmap
import pathlib
import re
import subprocess
import sys

import numpy as np
from check_python import on_cpus_of

import hpcalloc
from hpcalloc._native import lib, node_ids

NODES = pathlib.Path("/sys/devices/system/node")
BYTES = 8 << 20


def number(path):
    return int(path.read_text()) if path.exists() else 0


def told(node, what, choose):
    """A node's bandwidth or latency, the worse of reading and writing."""
    for which in ("access1", "access0"):
        values = [number(NODES / f"node{node}/{which}/initiators/{way}_{what}") for way in ("read", "write")]
        if any(values):
            return choose(value for value in values if value)
    return 0


def tier(node):
    for folder in pathlib.Path("/sys/devices/virtual/memory_tiering").glob("memory_tier*"):
        listed = (folder / "nodelist").read_text().strip()
        ends = [(part.split("-")[0], part.split("-")[-1]) for part in listed.split(",") if part]
        if any(int(first) <= node <= int(last) for first, last in ends):
            return int(folder.name.removeprefix("memory_tier"))
    return None


def expected_kinds():
    """Nodes of each kind: within a tenth of the best."""
    nodes = node_ids()
    bandwidth = {n: told(n, "bandwidth", min) for n in nodes}
    latency = {n: told(n, "latency", max) for n in nodes}
    tiers = {n: tier(n) for n in nodes}
    assert all(bandwidth.values()), f"not an HMAT machine: {bandwidth}"
    assert all(latency.values()), latency
    size = {
        n: int(re.search(r"MemTotal:\s+(\d+)", (NODES / f"node{n}/meminfo").read_text())[1]) for n in nodes
    }
    capacity = {n for n in nodes if 10 * size[n] >= 9 * max(size.values())}
    if len(set(tiers.values())) > 1 and None not in tiers.values():
        capacity = {n for n in nodes if tiers[n] == max(tiers.values())}
    return {
        "bandwidth": {n for n in nodes if 10 * bandwidth[n] >= 9 * max(bandwidth.values())},
        "latency": {n for n in nodes if 10 * latency[n] <= 11 * min(latency.values())},
        "capacity": capacity,
    }, bandwidth


def expected_nearest(nodes, home):
    def cost(node):
        told_to = (NODES / f"node{node}/access1/initiators/node{home}").exists()
        others = sorted(int(path.name[4:]) for path in NODES.glob("node[0-9]*"))
        distance = (NODES / f"node{home}/distance").read_text().split()[others.index(node)]
        return node != home, not told_to, int(distance), node

    return min(nodes, key=cost)


def numa_maps(text=None):
    """Bytes of anonymous memory by node."""
    sums = {}
    for line in (text or pathlib.Path("/proc/self/numa_maps").read_text()).splitlines():
        if "anon=" in line:
            page = int(re.search(r"kernelpagesize_kB=(\d+)", line)[1]) * 1024
            for node, count in re.findall(r" N(\d+)=(\d+)", line):
                sums[int(node)] = sums.get(int(node), 0) + int(count) * page
    return sums


def check(make, node, what):
    """Memory that `make` makes and fills is on `node`."""
    lib.numalloc_purge()
    before = numa_maps()
    a = make()
    where, now = hpcalloc.placement(a), numa_maps()
    assert dict(where.pages_per_node) == {node: where.pages}, (what, node, where)
    grown = now.get(node, 0) - before.get(node, 0)
    assert grown >= 0.9 * a.nbytes, (what, node, grown, before, now)


def fill(policy, elsewhere):
    """An array of a policy, touched by a thread of another node."""
    a = hpcalloc.empty(BYTES // 8, policy=policy)
    on_cpus_of(elsewhere, lambda: a.fill(1))
    return a


def arrays_by_kind(kinds, homes):
    for kind, nodes in kinds.items():
        for home in homes:
            node = expected_nearest(nodes, home)
            for strict in (False, True):
                policy = hpcalloc.kind(kind, strict=strict)
                what = f"{policy} from node {home}"
                check(
                    lambda policy=policy, home=home: on_cpus_of(home, lambda: fill(policy, homes[-1])),
                    node,
                    what,
                )
            small = on_cpus_of(home, lambda kind=kind: hpcalloc.ones(16, policy=kind))
            assert hpcalloc.placement(small).home_nodes == (node,), (kind, home)


def other_ways(kinds, homes):
    """NumPy's own arrays, arrays of a context, pages that are moved."""
    home = homes[0]
    assert lib.numalloc_bind_thread(home) == 0
    fast, large = (expected_nearest(kinds[kind], home) for kind in ("bandwidth", "capacity"))
    with hpcalloc.numpy_allocator("bandwidth"):
        check(lambda: np.ones(BYTES // 8) + 1, fast, "numpy_allocator")
    a = np.frombuffer(mmap.mmap(-1, BYTES), np.uint8)
    a[...] = 1
    hpcalloc.migrate(a, hpcalloc.kind("capacity", strict=True))
    assert set(hpcalloc.placement(a).pages_per_node) == {large}
    with hpcalloc.init(policy="bandwidth", bind="force") as ctx:
        check(
            lambda: hpcalloc.ones(BYTES // 8),
            expected_nearest(kinds["bandwidth"], lib.numalloc_current_node()),
            "init",
        )
        b = hpcalloc.ones(BYTES // 8)
        assert ctx.placement(b).local_fraction == 1.0, ctx.placement(b)
        assert ctx.report().ranks[0]["arrays"]["local_fraction"] > 0.99


def weighted(bandwidth):
    nodes = sorted(bandwidth)
    for policy in (
        hpcalloc.weighted(),
        hpcalloc.weighted(nodes, [1 + 2 * (n == nodes[0]) for n in nodes]),
        hpcalloc.weighted(nodes[:2], [3, 1], strict=True),
    ):
        weights = dict(zip(policy.nodes, policy.weights, strict=True)) or bandwidth
        a = hpcalloc.ones(32 << 17, policy=policy)
        where = hpcalloc.placement(a)
        for node in nodes:
            share, wanted = (
                where.pages_per_node.get(node, 0) / where.pages,
                weights.get(node, 0) / sum(weights.values()),
            )
            assert abs(share - wanted) < 0.04, (policy, node, share, wanted, where)
        del a


def unmodified_programs(kinds):
    """`hpcalloc run --memory`: a program's own memory, from its allocator and from ours."""
    code = "a = bytearray(64 << 20); print(open('/proc/self/numa_maps').read())"
    for kind, words in (("bandwidth", []), ("bandwidth", ["--no-preload"]), ("capacity", ["--strict"])):
        command = [
            sys.executable,
            "-m",
            "hpcalloc",
            "run",
            "--memory",
            kind,
            *words,
            sys.executable,
            "-c",
            code,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        there = numa_maps(done.stdout)
        assert sum(there.get(node, 0) for node in kinds[kind]) >= 64 << 20, (kind, words, there, done.stderr)


def shown(kinds):
    command = [sys.executable, "-m", "hpcalloc", "topology", "--json"]
    facts = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    )
    assert {kind: set(facts["kinds"][kind]["nodes"]) for kind in kinds} == kinds, (facts["kinds"], kinds)


def main():
    kinds, bandwidth = expected_kinds()
    print(f"kinds: {kinds}; bandwidths: {bandwidth}", flush=True)
    homes = [n for n in node_ids() if (NODES / f"node{n}/cpulist").read_text().strip()]
    failed = 0
    for name, work in (
        ("arrays by kind, preferred and strict, from every node", lambda: arrays_by_kind(kinds, homes)),
        ("NumPy's handler, migrate and contexts by kind", lambda: other_ways(kinds, homes)),
        ("weighted arrays", lambda: weighted(bandwidth)),
        ("hpcalloc run --memory", lambda: unmodified_programs(kinds)),
        ("hpcalloc topology shows the kinds", lambda: shown(kinds)),
    ):
        try:
            work()
            print(f"{name}: ok", flush=True)
        except Exception as error:
            failed = 1
            print(f"{type(error).__name__}: {str(error)[:1500]}", flush=True)
            print(f"{name}: FAILED", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
