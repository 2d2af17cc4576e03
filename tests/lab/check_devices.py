"""Devices on nodes: a NIC on each of two nodes is found there, and so are ranks, arrays and what the doctor says.

A GPU can't be emulated with its class and vendor: files laid over those of the NICs in sysfs say that they are NVIDIA's. All
else, as the node and the CPUs, is the kernel's.
"""

# SPDX-License-Identifier: BSD-3-Clause
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import hpcalloc
from hpcalloc.discover.devices import machine_devices
from hpcalloc.discover.topology import Topology
from hpcalloc.doctor.diagnosis import diagnose
from hpcalloc.doctor.facts import gather_host, gather_rank
from hpcalloc.doctor.host import Host
from hpcalloc.plan.near import near_of
from hpcalloc.plan.ranks import make_plan

BUS = pathlib.Path("/sys/bus/pci/devices")
VARIABLES = {"gpu": "CUDA_VISIBLE_DEVICES", "nic": "UCX_NET_DEVICES"}


def ok(what):
    """Say that a check has passed: it has not raised."""
    print(f"{what}: ok", flush=True)


def found(kind):
    """Check the devices of a kind: one for each node, where the kernel has them."""
    topology = Topology.from_machine()
    devices = [d for d in machine_devices(topology) if d.kind == kind and d.nodes]
    nodes = [int((BUS / d.address / "numa_node").read_text()) for d in devices]
    assert sorted(nodes) == [0, 1], devices
    assert [d.nodes for d in devices] == [(node,) for node in nodes], devices
    ok(f"{kind}: one on each node")
    return topology, devices


def planned(kind, topology, devices):
    """Check that a plan has each rank on the node of its device."""
    near = near_of("check", devices, (kind,), [{}], 2)
    for share in make_plan(topology, 2, near=near).ranks:
        assert share.nodes == share.devices[0].nodes == (share.local_rank,), share
    ok(f"{kind}: plan")


def started(kind):
    """Check that a rank of `hpcalloc run --near` is on its node, knows its device, and has its memory there."""
    rank = {"RANK": "1", "SIZE": "2", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}
    environ = os.environ | {f"OMPI_COMM_WORLD_{name}": value for name, value in rank.items()}
    program = f"echo ${VARIABLES[kind]}; sed -n 's/Cpus_allowed_list:.//p' /proc/self/status"
    words = [
        sys.executable,
        "-m",
        "hpcalloc",
        "run",
        "--bind",
        "force",
        "--near",
        kind,
        "--no-preload",
        "sh",
        "-c",
        program,
    ]
    told = subprocess.run(words, env=environ, capture_output=True, text=True, check=True).stdout.split()
    assert told[0] not in ("", "2-3"), told
    assert told[1:] == ["2-3"], told
    ok(f"{kind}: a rank of hpcalloc run --near {kind}")


def initialised(kind):
    """Check that a rank of init(near=...) has its arrays on the node of its device."""
    before = os.environ.get(VARIABLES[kind])
    with hpcalloc.init(near=kind, share=(1, 2)) as context:
        assert context.nodes == context.devices[0].nodes == (1,), context.devices
        assert os.environ[VARIABLES[kind]]
        array = hpcalloc.full(1 << 20, 1.0)
        placed = hpcalloc.placement(array)
        assert set(placed.pages_per_node) == {1}, placed
        (told,) = json.loads(context.report().to_json())["ranks"][0]["devices"]
        assert (told["nodes"], told["distance"]) == ([1], 10), told
    assert os.environ.get(VARIABLES[kind]) == before
    ok(f"{kind}: arrays of init(near={kind!r}), and its report")


def examined(device):
    """Check that the doctor warns of a rank on the other node, and of no other."""
    host = gather_host()
    for node in (0, 1):
        cpus = next(n.cpus for n in host.topology.nodes if n.id == node)
        os.sched_setaffinity(0, cpus)
        rank = gather_rank({VARIABLES["gpu"]: "0"})
        far = [f for f in diagnose([Host(host, (rank,))]) if f.check == "far-from-device"]
        assert len(far) == (node != device.nodes[0]), (node, far)
    ok("gpu: the doctor warns of a rank on the other node")


def refused():
    """Check that a machine without GPUs says what it has."""
    told = ""
    try:
        hpcalloc.init(near="gpu")
    except hpcalloc.PlanError as error:
        told = str(error)
    assert "the machine has 0 gpus and" in told, told
    ok("gpu: none is there, and the error says what is")


def laid_over(path, text):
    """Put a file over another."""
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(text)
    subprocess.run(["mount", "--bind", file.name, str(path)], check=True)


def main():
    """Raise at the first thing that is not as it should be."""
    topology, nics = found("nic")
    planned("nic", topology, nics)
    started("nic")
    initialised("nic")
    refused()
    for nic in nics:
        laid_over(BUS / nic.address / "class", "0x030200\n")
        laid_over(BUS / nic.address / "vendor", "0x10de\n")
    topology, gpus = found("gpu")
    planned("gpu", topology, gpus)
    started("gpu")
    initialised("gpu")
    examined(gpus[0])


if __name__ == "__main__":
    main()
