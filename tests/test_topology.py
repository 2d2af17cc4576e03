# SPDX-License-Identifier: BSD-3-Clause
"""Discovery: from made-up sysfs trees, hwloc XML and synthetic strings, with hwloc itself as the oracle."""

import pathlib
import shutil
import subprocess

import pytest

from hpcalloc.discover.topology import Topology, format_ids, parse_ids
from hpcalloc.exceptions import TopologyError

DATA = pathlib.Path(__file__).parent / "data" / "topologies"


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def machine(root, nodes, *, smt=1, mems=None, cpuset=None, distances=True):
    """Write the files of a machine: nodes is {id: number of PUs}."""
    files, first = {}, 0
    for node, count in nodes.items():
        cpus = list(range(first, first + count))
        first += count
        files[f"sys/devices/system/node/node{node}/cpulist"] = format_ids(cpus) + "\n"
        files[f"sys/devices/system/node/node{node}/meminfo"] = (
            f"Node {node} MemTotal:  {1024 * (node + 1)} kB\n"
        )
        if distances:
            row = " ".join("10" if other == node else "21" for other in nodes)
            files[f"sys/devices/system/node/node{node}/distance"] = row + "\n"
        for cpu in cpus:
            base = cpus[0] + (cpu - cpus[0]) // smt * smt
            here = f"sys/devices/system/cpu/cpu{cpu}/"
            files[here + "topology/thread_siblings_list"] = format_ids(range(base, base + smt)) + "\n"
            files[here + "topology/physical_package_id"] = f"{list(nodes).index(node)}\n"
            files[here + "cache/index3/level"] = "3\n"
            files[here + "cache/index3/type"] = "Unified\n"
            files[here + "cache/index3/shared_cpu_list"] = format_ids(cpus) + "\n"
    files["sys/devices/system/node/online"] = format_ids(nodes) + "\n"
    files["sys/devices/system/cpu/online"] = format_ids(range(first)) + "\n"
    if mems is not None:
        files["proc/self/status"] = f"Name:\tx\nMems_allowed_list:\t{mems}\n"
    if cpuset is not None:
        files["proc/self/cgroup"] = "0::/job/step\n"
        files["sys/fs/cgroup/job/cpuset.cpus.effective"] = cpuset + "\n"
    tree(root, files)
    return Topology.from_machine(root)


def test_two_nodes(tmp_path):
    t = machine(tmp_path, {0: 4, 1: 4}, smt=2)
    assert [(n.id, n.cpus, n.memory_bytes) for n in t.nodes] == [
        (0, (0, 1, 2, 3), 2**20),
        (1, (4, 5, 6, 7), 2**21),
    ]
    assert [c.pus for c in t.cores] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert (t.distance(0, 1), t.distance(1, 1)) == (21, 10)
    assert t.packages == (0, 1)
    assert t.cores[0].caches == (0,)


def test_gaps_memory_only_and_mems(tmp_path):
    t = machine(tmp_path, {0: 2, 8: 2, 9: 0}, mems="8-9")
    assert [n.id for n in t.nodes] == [0, 8, 9]
    assert t.nodes[2].cpus == ()
    assert t.allowed_nodes == {8, 9}


def test_cgroup_cpuset_of_an_ancestor(tmp_path):
    t = machine(tmp_path, {0: 4}, cpuset="1-2")
    assert t.allowed_cpus == {1, 2}
    assert [c.pus for c in t.usable_cores] == [(1,), (2,)]


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        (
            "0::/job/step",
            {"sys/fs/cgroup/job/cpu.max": "150000 100000", "sys/fs/cgroup/job/step/cpu.max": "max 100000"},
            1.5,
        ),
        ("0::/", {"sys/fs/cgroup/cpu.max": "100000 100000"}, 1.0),
        (
            "3:cpu,cpuacct:/job",
            {
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        ("0::/job", {}, None),
    ],
)
def test_cpu_quota(tmp_path, group, files, quota):
    tree(tmp_path, {"sys/devices/system/cpu/online": "0-2\n", "proc/self/cgroup": f"{group}\n", **files})
    assert Topology.from_machine(tmp_path).cpu_quota == quota


def test_no_node_directory_is_one_node(tmp_path):
    tree(tmp_path, {"sys/devices/system/cpu/online": "0-2\n"})
    t = Topology.from_machine(tmp_path)
    assert [(n.id, n.cpus) for n in t.nodes] == [(0, (0, 1, 2))]
    assert len(t.cores) == 3


def test_cpus_under_no_node_go_to_the_first_of_their_package(tmp_path):
    files = {
        "sys/devices/system/cpu/online": "0-7\n",
        "sys/devices/system/node/online": "0,2\n",
        "sys/devices/system/node/node0/cpulist": "0-1\n",
        "sys/devices/system/node/node2/cpulist": "4-5\n",
    }
    for cpu in range(8):
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"] = f"{cpu // 4}\n"
    tree(tmp_path, files)
    t = Topology.from_machine(tmp_path)
    assert [(n.id, n.cpus) for n in t.nodes] == [(0, (0, 1, 2, 3)), (2, (4, 5, 6, 7))]
    assert [c.node for c in t.cores] == [0] * 4 + [2] * 4


def test_this_machine():
    t = Topology.from_machine()
    assert t.allowed_cpus <= {pu for core in t.cores for pu in core.pus}
    assert t.allowed_nodes <= {n.id for n in t.nodes}
    assert sum(len(n.cpus) for n in t.nodes) == sum(len(c.pus) for c in t.cores)


def test_ids_round_trip():
    assert parse_ids("0-3,8\n") == (0, 1, 2, 3, 8)
    assert format_ids((8, 0, 1, 2, 3)) == "0-3,8"
    assert (parse_ids(""), format_ids(())) == ((), "")
    for wrong in ("1-x", "3-1", "0-99999999999", "9" * 5000, "0-\u00b2"):
        with pytest.raises(TopologyError):
            parse_ids(wrong)


def calc(path, *arguments):
    if shutil.which("hwloc-calc") is None:
        pytest.skip("missing capability: hwloc-calc (Debian: hwloc)")
    out = subprocess.run(
        ["hwloc-calc", "--input", str(path), *arguments], capture_output=True, text=True, check=True
    )
    return out.stdout.strip()


@pytest.mark.parametrize("path", sorted(DATA.glob("*.xml")), ids=lambda p: p.stem)
def test_xml_against_hwloc(path):
    t = Topology.from_hwloc_xml(path)
    assert len(t.cores) == int(calc(path, "--disallowed", "-N", "core", "all"))
    assert sum(len(c.pus) for c in t.cores) == int(calc(path, "--disallowed", "-N", "pu", "all"))
    ids = calc(path, "--disallowed", "--po", "-I", "numanode", "all")
    assert [n.id for n in t.nodes] == sorted(int(i) for i in ids.split(","))


@pytest.mark.parametrize(
    "text",
    ["pack:2 [numa] l3:1 core:8 pu:1", "pack:2 group:2 [numa] l3:1 core:6 pu:2", "pack:8 [numa] core:4 pu:1"],
)
def test_synthetic_equals_hwlocs_xml(text, tmp_path):
    if shutil.which("lstopo") is None:
        pytest.skip("missing capability: lstopo (Debian: hwloc)")
    file = tmp_path / "t.xml"
    subprocess.run(["lstopo", "--input", text, "--of", "xml", str(file)], check=True, capture_output=True)
    ours, theirs = Topology.from_synthetic(text), Topology.from_source(str(file))
    assert [(c.node, c.pus, c.package) for c in ours.cores] == [
        (c.node, c.pus, c.package) for c in theirs.cores
    ]
    assert [(n.id, n.cpus) for n in ours.nodes] == [(n.id, n.cpus) for n in theirs.nodes]
    assert (ours.allowed_cpus, ours.allowed_nodes) == (theirs.allowed_cpus, theirs.allowed_nodes)


def test_xml_details():
    t = Topology.from_hwloc_xml(DATA / "2x.xml")
    assert t.distance(0, 1) == 21
    t = Topology.from_hwloc_xml(DATA / "memory_only.xml")
    assert (t.nodes[2].id, t.nodes[2].cpus, t.nodes[2].memory_bytes) == (2, (), 64 * 2**30)
    t = Topology.from_hwloc_xml(DATA / "restricted.xml")
    assert format_ids(t.allowed_cpus) == "2-5,12-14"


def test_memory_of_synthetic_nodes():
    t = Topology.from_synthetic("pack:2 [numa(memory=16GB)] core:1 pu:1")
    assert [n.memory_bytes for n in t.nodes] == [16 * 2**30] * 2


@pytest.mark.parametrize(
    "text",
    ["", "pack", "pack:0", "pack:2 [core] pu:1", "rack:2 core:1", "pack:2 numa:2 numa:2 pu:1", "core:99999",
     "pack:2 [numa(size=3)] core:1", "no/such/file.xml", "pack:2 core:2 nonsense!"],
)  # fmt: skip
def test_bad_sources(text):
    with pytest.raises(TopologyError) as caught:
        Topology.from_source(text)
    assert "limit:" in str(caught.value)
    assert "remedy:" in str(caught.value)


def test_bad_xml(tmp_path):
    for text in ("<topology", "<other/>", '<topology version="1.0"><object/></topology>'):
        file = tmp_path / "bad.xml"
        file.write_text(text)
        with pytest.raises(TopologyError, match="hwloc 2"):
            Topology.from_hwloc_xml(file)
