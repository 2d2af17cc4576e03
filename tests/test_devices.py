# SPDX-License-Identifier: BSD-3-Clause
"""GPUs and NICs: where they are read from, who is placed near which, which variables show them."""

import json
import os
import pathlib
import subprocess
import sys

import click.testing
import pytest
from made_up import Machine, pci_device

from hpcalloc._text import device_text
from hpcalloc.cli.main import cli as verbs
from hpcalloc.discover.devices import (
    choose,
    devices_text,
    environment_of,
    machine_devices,
    parse_near,
    read_source,
    visible,
)
from hpcalloc.discover.launcher import Launch
from hpcalloc.discover.topology import Topology, ids_text
from hpcalloc.doctor.diagnosis import diagnose
from hpcalloc.doctor.facts import RankFacts, gather_host
from hpcalloc.doctor.host import Host
from hpcalloc.exceptions import HpcallocError, PlanError, TopologyError
from hpcalloc.plan.near import near_of
from hpcalloc.plan.process import Situation, Wishes, decide
from hpcalloc.plan.ranks import LauncherBinding, make_plan

DATA = pathlib.Path(__file__).parent / "data/topologies"

# What each rank gets: nodes | first hardware threads of its cores | its GPUs, as thought through by hand. Behind it, where
# its published algorithm says so, the node and the GPUs that LLNL's mpibind gives the task: tasks of a node in proportion to
# its GPUs (largest remainder), nodes ascending, GPUs of a node dealt to its tasks in blocks. With fewer tasks than nodes
# mpibind changes to another algorithm, and of nodes without CPUs it says nothing.
GOLDENS = """
# Node 1 has GPUs 2 and 3 whatever the numbers suggest: ranks are numbered by node. Two ranks share 16 cores, so
# that each has 8; nodes 0, 2, 4, 6 have no GPU and stay empty.
dgx_a100.txt 8
  1 | 32-46:2 | 2          | 1 2
  1 | 48-62:2 | 3          | 1 3
  3 | 96-110:2 | 0         | 3 0
  3 | 112-126:2 | 1        | 3 1
  5 | 160-174:2 | 6        | 5 6
  5 | 176-190:2 | 7        | 5 7
  7 | 224-238:2 | 4        | 7 4
  7 | 240-254:2 | 5        | 7 5
# Four ranks have a node and its two GPUs each.
dgx_a100.txt 4
  1 | 32-62:2 | 2,3        | -
  3 | 96-126:2 | 0,1       | -
  5 | 160-190:2 | 6,7      | -
  7 | 224-254:2 | 4,5      | -
# 8 GPUs over 3 ranks are 2, 3 and 3, in the order of the nodes: the second rank has one of node 5, the third the
# other, and they share its cores.
dgx_a100.txt 3
  1 | 32-62:2 | 2,3        | -
  3,5 | 96-126:2,160-174:2 | 0,1,6 | -
  5,7 | 176-190:2,224-254:2 | 7,4,5 | -
# Each L3 has its GPU: cores 0-7 are next to GPU 4, as the machine's users know.
mi250x.txt 8
  0 | 0-14:2 | 4           | 0 4
  0 | 16-30:2 | 5          | 0 5
  1 | 32-46:2 | 2          | 1 2
  1 | 48-62:2 | 3          | 1 3
  2 | 64-78:2 | 6          | 2 6
  2 | 80-94:2 | 7          | 2 7
  3 | 96-110:2 | 0         | 3 0
  3 | 112-126:2 | 1        | 3 1
# Two ranks for each of four GPUs, three cores each; half of the nodes is empty.
corona.txt 8
  1 | 12-16:2 | 0          | 1 0
  1 | 18-22:2 | 0          | 1 0
  2 | 24-28:2 | 1          | 2 1
  2 | 30-34:2 | 1          | 2 1
  5 | 60-64:2 | 2          | 5 2
  5 | 66-70:2 | 2          | 5 2
  7 | 84-88:2 | 3          | 7 3
  7 | 90-94:2 | 3          | 7 3
snc4_h100.txt 8
  1 | 28-40:2 | 0          | 1 0
  1 | 42-54:2 | 0          | 1 0
  2 | 56-68:2 | 1          | 2 1
  2 | 70-82:2 | 1          | 2 1
  6 | 168-180:2 | 2        | 6 2
  6 | 182-194:2 | 2        | 6 2
  7 | 196-208:2 | 3        | 7 3
  7 | 210-222:2 | 3        | 7 3
# Eight ranks, six GPUs: two GPUs have two ranks, one on each package, so that there are four on each. 52 cores over
# four are 13.
aurora.txt 8
  0 | 0-24:2 | 0           | 0 0
  0 | 26-50:2 | 0          | 0 0
  0 | 52-76:2 | 1          | 0 1
  0 | 78-102:2 | 2         | 0 2
  1 | 104-128:2 | 3        | 1 3
  1 | 130-154:2 | 3        | 1 3
  1 | 156-180:2 | 4        | 1 4
  1 | 182-206:2 | 5        | 1 5
gb200.txt 8
  0 | 0-17 | 0             | 0 0
  0 | 18-35 | 0            | 0 0
  0 | 36-53 | 1            | 0 1
  0 | 54-71 | 1            | 0 1
  1 | 72-89 | 2            | 1 2
  1 | 90-107 | 2           | 1 2
  1 | 108-125 | 3          | 1 3
  1 | 126-143 | 3          | 1 3
# All GPUs are on the first package: eight ranks fit there, a core each, and the second package is empty.
k80.txt 8
  0 | 0 | 0                | 0 0
  0 | 2 | 0                | 0 0
  0 | 4 | 1                | 0 1
  0 | 6 | 1                | 0 1
  0 | 8 | 2                | 0 2
  0 | 10 | 2               | 0 2
  0 | 12 | 3               | 0 3
  0 | 14 | 3               | 0 3
# Twelve do not fit: each GPU's third rank is on the other package, two cores each, as near as can be. mpibind keeps all
# on the first package, where they share cores.
k80.txt 12
  0 | 0 | 0                | 0 0
  0 | 2 | 0                | 0 0
  0 | 4 | 1                | 0 0
  0 | 6 | 1                | 0 1
  0 | 8 | 2                | 0 1
  0 | 10 | 2               | 0 1
  0 | 12 | 3               | 0 2
  0 | 14 | 3               | 0 2
  1 | 16,18 | 0            | 0 2
  1 | 20,22 | 1            | 0 3
  1 | 24,26 | 2            | 0 3
  1 | 28,30 | 3            | 0 3
# The GPUs' own memory, nodes 4, 12, 20 and 28, is nobody's home: the nodes of the CPUs beside them are.
gh200x4.xml 8
  0 | 0-3 | 0              | -
  0 | 4-7 | 0              | -
  1 | 8-11 | 1             | -
  1 | 12-15 | 1            | -
  2 | 16-19 | 2            | -
  2 | 20-23 | 2            | -
  3 | 24-27 | 3            | -
  3 | 28-31 | 3            | -
gh200x4.xml 1
  0-3 | 0-7,8-15,16-23,24-31 | 0,1,2,3     | -
"""


def goldens():
    """The table above: (file, ranks) -> pairs of rows, ours and mpibind's."""
    table, rows = {}, []
    for line in GOLDENS.splitlines():
        if line.startswith("  "):
            *ours, theirs = (part.strip() for part in line.split("|"))
            rows.append((" | ".join(ours), theirs))
        elif line and not line.startswith("#"):
            file, ranks = line.split()
            rows = table[file, int(ranks)] = []
    return table


TABLE = goldens()


def cli(*arguments, code=0, environment=None):
    result = click.testing.CliRunner().invoke(verbs, arguments, prog_name="hpcalloc", env=environment)
    assert result.exit_code == code, result.output
    return result.output


def cpus_text(cpus, per_node):
    parts = {}
    for cpu in cpus:
        parts.setdefault(per_node[cpu], []).append(cpu)
    return ",".join(ids_text(part) for part in parts.values())


@pytest.mark.parametrize(("file", "ranks"), TABLE, ids=lambda value: str(value))
def test_plan_near_gpus_of_recorded_machines(file, ranks):
    ours, mpibind = zip(*TABLE[file, ranks], strict=True)
    plan = json.loads(
        cli("plan", "--near", "gpu", "-n", str(ranks), "--topology", str(DATA / file), "--json")
    )
    per_node = read_source(str(DATA / file))[0].node_of_cpu()
    rows = []
    for rank in plan["ranks"]:
        cpus = [int(place.strip("{}")) for place in rank["environment"]["OMP_PLACES"].split(",")]
        gpus = ",".join(d["name"].removeprefix("gpu") for d in rank["devices"])
        rows.append(f"{ids_text(rank['nodes'])} | {cpus_text(cpus, per_node)} | {gpus}")
    assert rows == list(ours)
    if (
        "-" not in mpibind
    ):  # they differ where mpibind shares cores although others are free, and nowhere else
        same = tuple(f"{row.split(' | ')[0]} {row.split(' | ')[2]}" for row in rows)
        assert (same == mpibind) == ((file, ranks) != ("k80.txt", 12))


def plan_of(source, ranks, kind="gpu", environ=None, **options):
    topology, devices = read_source(source)
    return make_plan(
        topology, ranks, near=near_of("plan", devices, kind.split(","), [environ or {}], ranks), **options
    )


def names(plan):
    return [" ".join(d.name for d in share.devices) for share in plan.ranks]


def test_every_rank_has_cores_of_its_own_and_every_device_a_rank():
    for file in sorted({file for file, _ in TABLE}):
        topology, devices = read_source(str(DATA / file))
        gpus = [d for d in devices if d.kind == "gpu"]
        for ranks in range(1, min(len(topology.cores), 40) + 1, 3):
            plan = plan_of(str(DATA / file), ranks)
            used = [cpu for share in plan.ranks for cpu in share.cpus]
            assert len(set(used)) == len(used), (file, ranks)
            assert {d for share in plan.ranks for d in share.devices} == set(gpus), (file, ranks)
            fits = sum(len(n.cpus) for n in topology.nodes if any(n.id in d.nodes for d in gpus)) >= 4 * ranks
            for share in plan.ranks if fits else ():
                assert {n for d in share.devices for n in d.nodes} == set(share.nodes), (file, ranks)


def test_threads_of_a_rank_have_to_fit_beside_its_device():
    # 16 cores on each node: with 16 threads each, one of the two ranks of a node's GPUs goes next door, on its package
    plan = plan_of(str(DATA / "dgx_a100.txt"), 8, threads=16)
    assert sorted(share.nodes[0] for share in plan.ranks) == list(range(8))
    moved = [share for share in plan.ranks if share.nodes[0] % 2 == 0]
    assert all(share.devices[0].nodes[0] // 4 == share.nodes[0] // 4 for share in moved)
    assert all("has no room for more than 1" in " ".join(share.reasons) for share in moved)


def test_a_device_near_several_nodes_has_ranks_on_all_of_them():
    plan = plan_of("pack:2 numa:2 core:4 pu:1 gpu:0-1,2-3", 4)
    assert [share.nodes for share in plan.ranks] == [(0,), (1,), (2,), (3,)]
    assert names(plan) == ["gpu0", "gpu0", "gpu1", "gpu1"]
    (alone,) = plan_of("pack:2 numa:2 core:4 pu:1 gpu:0-1", 1).ranks
    assert alone.nodes == (0, 1)


def test_nics_and_the_nearest_nics_of_gpus():
    mi250x = str(DATA / "mi250x.txt")
    assert names(plan_of(mi250x, 4, "nic")) == ["cxi2", "cxi1", "cxi3", "cxi0"]
    assert names(plan_of(mi250x, 8, "gpu,nic"))[:3] == ["gpu4 cxi2", "gpu5 cxi2", "gpu2 cxi1"]
    # a fabric goes before Ethernet, which counts where there is nothing else
    assert names(plan_of(str(DATA / "k80.txt"), 2, "nic")) == ["mlx5_1", "mlx5_1"]
    assert names(plan_of("pack:2 [numa] core:2 pu:1 nic:1", 2, "nic")) == ["eth0", "eth0"]


def test_a_binding_that_stays_gets_the_nearest_device():
    topology, devices = read_source("pack:2 [numa] core:4 pu:1 gpu:0,0,1,1")
    near = near_of("plan", devices, ("gpu",), [{}], 4)
    given = [LauncherBinding(frozenset(cpus), "slurm", True) for cpus in ({4, 5}, {6, 7}, {0, 1}, {2, 3})]
    plan = make_plan(topology, 4, bindings=given, near=near)
    assert [share.action for share in plan.ranks] == ["honour"] * 4
    assert names(plan) == ["gpu2", "gpu3", "gpu0", "gpu1"]
    assert names(make_plan(topology, 4, bindings=given, bind="off", near=near)) == [
        "gpu2",
        "gpu3",
        "gpu0",
        "gpu1",
    ]
    assert "distance 20" in " ".join(make_plan(topology, 1, bindings=[given[0]], near=near._replace(
        devices=devices[:1])).ranks[0].reasons)  # fmt: skip


def test_many_ranks_take_no_quadratic_time():
    plan = plan_of("pack:9 numa:8 core:2 pu:1 gpu:1,9,70", 65536)
    assert {d.name for share in plan.ranks for d in share.devices} == {"gpu0", "gpu1", "gpu2"}


# ---- what is there ----------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path):
    """Two nodes with GPUs of all makers and NICs of all kinds, and what is no device for programs."""
    made = Machine(tmp_path)
    pci_device(made, "0000:c1:00.0", "0302", "10de", 1, "4-7", driver="nvidia")
    made.write(
        "proc/driver/nvidia/gpus/0000:c1:00.0/information",
        "Model: \t\t H100\nGPU UUID: \t GPU-11112222-aaaa-bbbb\n",
    )
    pci_device(
        made, "0000:03:00.0", "0380", "1002", 0, "0-3", driver="amdgpu", files={"unique_id": "0xabcdef12"}
    )
    pci_device(made, "0000:83:00.0", "0380", "1002", 1, "4-7", driver="amdgpu")
    pci_device(made, "0000:18:00.0", "0380", "8086", 0, "0-3", files={"tile0/x": "", "tile1/x": ""})
    pci_device(
        made, "0000:04:00.0", "0200", "15b3", 0, "0-3", files={"infiniband/mlx5_0/x": "", "net/ib0/x": ""}
    )
    pci_device(made, "0000:84:00.0", "0200", "17db", -1, "4-7", files={"cxi/cxi0/x": "", "net/hsn0/x": ""})
    pci_device(made, "0000:05:00.0", "0200", "1af4", -1, "0-7", files={"virtio2/net/eth0/x": ""})
    pci_device(made, "0000:04:00.1", "0200", "15b3", 0, "0-3", files={"physfn/x": ""})  # a virtual function
    pci_device(made, "0000:c2:00.0", "0302", "10de", 1, "4-7", driver="vfio-pci")  # a virtual machine's
    pci_device(made, "0000:02:00.0", "0300", "1a03", 0, "0-3")  # the management processor's screen
    return made


def test_devices_of_sysfs(machine):
    topology = Topology.from_machine(machine.root)
    devices = machine_devices(topology, machine.root)
    assert [
        (d.name, d.vendor, d.address, d.nodes, d.uuid, d.number, d.driver) for d in devices if d.kind == "gpu"
    ] == [
        ("gpu0", "amd", "0000:03:00.0", (0,), "GPU-00000000abcdef12", 0, "amdgpu"),
        ("gpu1", "intel", "0000:18:00.0", (0,), "", 0, ""),
        ("gpu2", "amd", "0000:83:00.0", (1,), "", 1, "amdgpu"),
        ("gpu3", "nvidia", "0000:c1:00.0", (1,), "GPU-11112222-aaaa-bbbb", 0, "nvidia"),
    ]
    assert [(d.name, d.fabric, d.nodes) for d in devices if d.kind == "nic"] == [
        ("mlx5_0", "infiniband", (0,)),
        ("eth0", "ethernet", ()),  # no node is told, and all CPUs are as near
        ("cxi0", "cxi", (1,)),  # no node is told, but CPUs of one
    ]


def test_amds_runtime_counts_as_its_driver_does(machine):
    nodes = "sys/class/kfd/kfd/topology/nodes"
    machine.write(f"{nodes}/0/properties", "simd_count 0\nlocation_id 0\n")
    machine.write(f"{nodes}/1/properties", f"simd_count 4\ndomain 0\nlocation_id {0x83 << 8}\n")
    machine.write(f"{nodes}/2/properties", f"simd_count 4\ndomain 0\nlocation_id {0x03 << 8}\n")
    devices = machine_devices(Topology.from_machine(machine.root), machine.root)
    assert {d.address: d.number for d in devices if d.vendor == "amd"} == {
        "0000:83:00.0": 0,
        "0000:03:00.0": 1,
    }


def test_a_gpu_that_the_driver_hides_from_this_container_is_none(machine):
    pci_device(machine, "0000:c3:00.0", "0302", "10de", 1, "4-7", driver="nvidia")
    devices = machine_devices(Topology.from_machine(machine.root), machine.root)
    assert [d.address for d in devices if d.vendor == "nvidia"] == ["0000:c1:00.0"]


def test_memory_of_a_gpu_is_not_the_node_of_its_ranks(tmp_path):
    made = Machine(tmp_path, nodes=3)
    made.write("sys/devices/system/node/node2/cpulist", "")
    made.write("sys/devices/system/cpu/online", "0-7")
    made.write("sys/devices/system/node/node0/distance", "10 40 90")
    made.write("sys/devices/system/node/node1/distance", "40 10 80")
    pci_device(made, "0009:01:00.0", "0302", "10de", 2, "")
    (gpu,) = machine_devices(Topology.from_machine(tmp_path), tmp_path)
    assert gpu.nodes == (1,)


def test_devices_of_xml_as_hwloc_reads_them():
    _, devices = read_source(str(DATA / "gh200x4.xml"))
    assert [(d.name, d.nodes, d.address) for d in devices][3:5] == [
        ("gpu3", (3,), "0039:01:00.0"),
        ("hsn0", (0,), "0000:01:00.0"),
    ]
    assert devices[0].uuid == "GPU-0f0e1d2c-0000-4000-8000-000000000000"
    assert devices[4].fabric == "cxi"


def test_topology_lists_devices_at_their_nodes(tmp_path):
    out = cli("topology", "--topology", str(DATA / "dgx_a100.txt"))
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if "node 3:" in line)
    assert "gpu0, gpu1, mlx5_0, mlx5_1" in "\n".join(lines[at : at + 7])
    facts = json.loads(cli("topology", "--json", "--topology", str(DATA / "dgx_a100.txt")))
    assert facts["devices"][0]["nodes"] == [3]
    cli("topology", "--topology", str(DATA / "gh200x4.xml"), "--plot", str(tmp_path / "t.svg"))
    assert "gpu2" in (tmp_path / "t.svg").read_text()
    several = cli("topology", "--topology", "pack:2 numa:2 core:1 pu:1 gpu:0-1,1-2,0-3")
    assert "near nodes 1-2: gpu1" in several
    assert "near nodes 0-3: gpu2" in several


# ---- which of them a process may use ------------------------------------------------------------------------

GPUS = "pack:2 [numa] core:4 pu:1 gpu({}):0,0,1,1"


@pytest.mark.parametrize(
    ("vendor", "environ", "left", "by"),
    [
        ("nvidia", {}, "0 1 2 3", ""),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": "2,0"}, "2 0", "CUDA_VISIBLE_DEVICES"),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": ""}, "", "CUDA_VISIBLE_DEVICES"),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": "1,-1,2"}, "1", "CUDA_VISIBLE_DEVICES"),
        ("nvidia", {"CUDA_VISIBLE_DEVICES": "gpu-uuid3,1"}, "3 1", "CUDA_VISIBLE_DEVICES"),
        ("nvidia", {"SLURM_JOB_GPUS": "1-2"}, "1 2", "SLURM_JOB_GPUS"),
        ("nvidia", {"SLURM_STEP_GPUS": "3", "SLURM_JOB_GPUS": "1-3"}, "3", "SLURM_STEP_GPUS"),
        ("nvidia", {"SLURM_JOB_GPUS": "2,3", "CUDA_VISIBLE_DEVICES": "2,3"}, "2 3", "CUDA_VISIBLE_DEVICES"),
        # Slurm's device cgroup: what is left is counted from 0
        ("nvidia", {"SLURM_JOB_GPUS": "2,3", "CUDA_VISIBLE_DEVICES": "0,1"}, "2 3", "CUDA_VISIBLE_DEVICES"),
        ("nvidia", {"ROCR_VISIBLE_DEVICES": "0"}, "0 1 2 3", ""),
        ("amd", {"ROCR_VISIBLE_DEVICES": "GPU-uuid2"}, "2", "ROCR_VISIBLE_DEVICES"),
        ("amd", {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"}, "3", "ROCR_VISIBLE_DEVICES"),
        ("amd", {"HIP_VISIBLE_DEVICES": "1"}, "1", "HIP_VISIBLE_DEVICES"),
        ("intel", {"ZE_AFFINITY_MASK": "0.1,3"}, "0 3", "ZE_AFFINITY_MASK"),
    ],
)
def test_what_is_set_already_restricts_the_choice(vendor, environ, left, by):
    _, devices = read_source(GPUS.format(vendor))
    devices = [d._replace(uuid=f"GPU-uuid{d.number}") if vendor != "intel" else d for d in devices]
    found, variable = visible(devices, environ)
    assert (" ".join(d.name.removeprefix("gpu") for d in found), variable) == (left, by)


def test_tiles_of_intel_count_unless_the_hierarchy_is_composite():
    _, devices = read_source("pack:2 [numa] core:4 pu:1 gpu(intel):0,1")
    devices = [d._replace(tiles=2) for d in devices]
    flat, composite = {}, {"ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"}
    assert [environment_of(devices[1:], e)[0]["ZE_AFFINITY_MASK"] for e in (flat, composite)] == ["2,3", "1"]
    assert [d.name for d in visible(devices, {"ZE_AFFINITY_MASK": "2,3"})[0]] == ["gpu1"]
    assert [d.name for d in visible(devices, {"ZE_AFFINITY_MASK": "1", **composite})[0]] == ["gpu1"]


def test_variables_are_stable_names_and_never_over_others():
    _, devices = read_source("pack:2 [numa] core:4 pu:1 gpu:0,1 nic(infiniband):0 nic(cxi):0 nic(ethernet):0")
    assert environment_of(devices[1:2], {})[0] == {
        "CUDA_VISIBLE_DEVICES": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    named = [d._replace(uuid=f"GPU-{d.number}") for d in devices[:2]]
    assert environment_of(named, {})[0] == {"CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1"}
    same = [d._replace(uuid="GPU-0") for d in devices[:2]]  # no names, then
    assert environment_of(same, {})[0]["CUDA_VISIBLE_DEVICES"] == "0,1"
    theirs = {"CUDA_VISIBLE_DEVICES": "0", "UCX_NET_DEVICES": "all"}
    assert environment_of(devices, theirs) == ({}, theirs)
    assert environment_of(devices[2:], {})[0] == {"UCX_NET_DEVICES": "mlx5_0:1,eth2"}


def rank_of(
    local_rank, size, environ=None, launcher="openmpi", cpus=range(8), source=None, near=("gpu",), **options
):
    topology, devices = read_source(source or GPUS.format("nvidia"))
    launch = Launch(launcher, local_rank, size, None)
    found = Situation(environ or {}, launch, frozenset(cpus), frozenset(range(8)), devices=devices)
    return decide(topology, found, Wishes(near=near, preload=False, **options))


def test_run_gives_each_rank_its_device():
    steps = [rank_of(i, 4) for i in range(4)]
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in steps] == ["0", "1", "2", "3"]
    assert [s.pin for s in steps] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert [device_text(d) for d in steps[3].devices] == ["gpu3 (distance 10)"]


def test_run_keeps_a_list_and_counts_as_programs_do():
    given = {"CUDA_VISIBLE_DEVICES": "3,2,1,0"}
    steps = [rank_of(i, 4, given) for i in range(4)]
    assert [s.devices[0]["name"] for s in steps] == [
        "gpu3",
        "gpu2",
        "gpu1",
        "gpu0",
    ]  # the device of its local rank
    assert [s.share.nodes for s in steps] == [(1,), (1,), (0,), (0,)]
    assert all("CUDA_VISIBLE_DEVICES" not in s.environment and s.kept["CUDA_VISIBLE_DEVICES"] for s in steps)
    assert len({cpu for s in steps for cpu in s.share.cpus}) == 8


def test_run_takes_the_place_beside_the_device_that_slurm_gave():
    # --gpus-per-task: no rank knows the others' devices
    given = [2, 0, 3, 1]
    steps = [rank_of(i, 4, {"CUDA_VISIBLE_DEVICES": str(d)}, "slurm") for i, d in enumerate(given)]
    assert [s.share.nodes for s in steps] == [(1,), (0,), (1,), (0,)]
    assert len({cpu for s in steps for cpu in s.share.cpus}) == 8
    two = [rank_of(i, 8, {"CUDA_VISIBLE_DEVICES": str(i // 2)}, "slurm") for i in range(8)]
    assert sorted(cpu for s in two for cpu in s.share.cpus) == list(range(8))


def test_run_of_ranks_that_the_launcher_bound_one_by_one():
    bound = {"SLURM_CPU_BIND_TYPE": "mask_cpu"}
    steps = [rank_of(i, 4, bound, "slurm", cpus=(2 * i, 2 * i + 1)) for i in range(4)]
    assert [s.share.action for s in steps] == ["honour"] * 4
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in steps] == ["0", "1", "2", "3"]

    listed = [rank_of(i, 4, bound | {"CUDA_VISIBLE_DEVICES": "3,2"}, "slurm", cpus=(i,)) for i in range(4)]
    assert [s.devices[0]["name"] for s in listed] == ["gpu3", "gpu2", "gpu3", "gpu2"]  # as programs count


def test_run_of_ranks_that_are_not_told_their_number():
    with pytest.raises(
        PlanError, match=r"run: --near gpu: pmix does not tell .*; limit: .*; remedy: .*init\("
    ):
        rank_of(None, None, launcher="pmix")


# ---- through the programs ------------------------------------------------------------------------------------

IN_A_MACHINE = """
import sys
from hpcalloc.discover import devices, topology
import hpcalloc.bind.rank, hpcalloc.cli.run, hpcalloc.report.record
real = topology.Topology.from_machine
def made(t, root="/"):
    n = t.nodes[0].id
    return tuple(devices.Device("gpu", "nvidia", f"gpu{i}", f"0000:0{i}:00.0", (n,), frozenset(), i) for i in (0, 1))
for module in (hpcalloc.bind.rank, hpcalloc.cli.run, hpcalloc.report.record):
    module.machine_devices = made
"""


def python(code, *arguments, **environment):
    out = subprocess.run(
        [sys.executable, "-c", IN_A_MACHINE + code, *arguments],
        capture_output=True, text=True, timeout=60, check=False,
        env={**{k: v for k, v in os.environ.items() if not k.startswith(("OMPI", "PMI"))}, **environment},
    )  # fmt: skip
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout


def test_init_near_sets_variables_and_puts_them_back():
    out = python(
        "import os, hpcalloc\n"
        "with hpcalloc.init(near='gpu', share=(1, 2)) as ctx:\n"
        "    print([d.name for d in ctx.devices], os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "    print([(d.name, d.distance) for d in ctx.report().records[0].devices])\n"
        "    print('gpu1 (distance 10)' in ctx.report().to_text(), 'gpu1 (distance 10)' in ctx.report().to_html())\n"
        "print(os.environ.get('CUDA_VISIBLE_DEVICES'))\n"
    )
    assert out.splitlines() == ["['gpu1'] 1", "[('gpu1', 10)]", "True True", "None"]
    out = python(
        "import os, hpcalloc\n"
        "with hpcalloc.init(near='gpu') as ctx:\n"
        "    print([d.name for d in ctx.devices], os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "    print([note for note in ctx.notes if 'CUDA' in note])\n",
        CUDA_VISIBLE_DEVICES="1",
    )
    assert out.splitlines() == ["['gpu1'] 1", "['CUDA_VISIBLE_DEVICES=1 was set already: kept']"]


def test_a_report_shows_devices_that_others_set():
    code = "import hpcalloc\nwith hpcalloc.init() as ctx: print([d.name for d in ctx.report().records[0].devices])"
    assert python(code, CUDA_VISIBLE_DEVICES="0").strip() == "['gpu0']"
    assert python(code).strip() == "[]"


def test_dry_run_shows_the_device():
    code = "from hpcalloc.cli.main import cli\ncli(sys.argv[1:])"
    told = python(code, "run", "--near", "gpu", "--dry-run", "true", OMPI_COMM_WORLD_LOCAL_RANK="1",
                  OMPI_COMM_WORLD_LOCAL_SIZE="2", OMPI_COMM_WORLD_RANK="1", OMPI_COMM_WORLD_SIZE="2")  # fmt: skip
    assert "local rank 1 of 2: " in told
    assert "gpu1 (distance 10)" in told
    alone = json.loads(python(code, "run", "--near", "gpu", "--dry-run", "--json", "true"))
    assert [d["name"] for d in alone["devices"]] == ["gpu0", "gpu1"]
    assert alone["environment"]["CUDA_VISIBLE_DEVICES"] == "0,1"


def doctored(machine, cpus, environment, launcher="openmpi"):
    launch = Launch(launcher, 0, 1, None, 0, 1)
    host = Host(
        gather_host(machine.root, lambda path: os.statvfs("/")),
        (RankFacts(launch=launch, cpus=frozenset(cpus), environment=environment),),
    )
    return [f for f in diagnose([host]) if f.check == "far-from-device"]


def test_doctor_warns_of_ranks_far_from_their_device(machine):
    (finding,) = doctored(machine, range(4), {"CUDA_VISIBLE_DEVICES": "GPU-11112222-aaaa-bbbb"})
    assert finding.severity == "warning"
    assert "gpu3 (distance 20) at node 1" in finding.evidence[0]
    assert "hpcalloc run --near gpu" in finding.remedy[0]
    assert not doctored(machine, range(4, 8), {"CUDA_VISIBLE_DEVICES": "0"})
    assert not doctored(machine, range(4), {})
    (finding,) = doctored(machine, range(4, 8), {"UCX_NET_DEVICES": "mlx5_0:1"})
    assert "NICs" in finding.what


# ---- bad input -------------------------------------------------------------------------------------------------


def test_devices_asked_for_where_there_are_none():
    for near, said in (("gpu", "no gpu is here"), ("nic", "no nic is here")):
        out = cli("plan", "-n", "2", "--near", near, "--topology", str(DATA / "2x.xml"), code=2)
        assert f"near='{near}': {said}; limit: the machine has 0 gpus and 0 nics; remedy: leave it out" in out
    out = cli("plan", "-n", "2", "--near", "gpu", "--topology", "core:4 pu:1 nic:0", code=2)
    assert (
        "limit: the machine has 0 gpus and 1 nics (eth0 at node 0); remedy: near nic, or leave it out" in out
    )
    _, devices = read_source(GPUS.format("nvidia"))
    with pytest.raises(
        PlanError, match=r"CUDA_VISIBLE_DEVICES='' leaves no GPU; limit: .*4 gpus.*; remedy: unset"
    ):
        choose("init", devices, "gpu", {"CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.parametrize("text", ["fpga", "", "gpu,gpu", "nic,gpu", "GPU", 3, None])
def test_an_unknown_kind_of_device(text):
    with pytest.raises(PlanError, match=r"near=.*; limit: gpu, nic, or both as gpu,nic; remedy"):
        parse_near(text)


@pytest.mark.parametrize(
    "text",
    [
        "core:4 gpu:1",
        "core:4 gpu:",
        "core:4 gpu:0-",
        "core:4 gpu(3dfx):0",
        "core:4 nic(amd):0",
        "core:4 gpu:a",
    ],
)
def test_bad_descriptions(text):
    with pytest.raises(TopologyError, match=r"limit: .*remedy"):
        read_source(text)


def test_bad_files(tmp_path):
    (tmp_path / "bad.txt").write_text("no machine # at all\n")
    with pytest.raises(TopologyError, match="not understood"):
        read_source(str(tmp_path / "bad.txt"))
    (tmp_path / "odd.xml").write_text(
        (DATA / "gh200x4.xml").read_text().replace("[10de:2342]", "[nonsense]").replace("0010:01:00.0", "zz")
    )
    assert [d.name for d in read_source(str(tmp_path / "odd.xml"))[1]] == ["hsn0", "hsn2", "hsn3"]
    assert "0 gpus" in devices_text(())
    assert issubclass(PlanError, HpcallocError)
