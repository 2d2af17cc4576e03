# SPDX-License-Identifier: BSD-3-Clause
"""Kinds of memory: what machines tell of their nodes, and which nodes a kind means."""

import json
import math
import pathlib
import pickle
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from made_up import GIB, Machine

import hpcalloc
from hpcalloc import _native
from hpcalloc.bind.rank import RankState
from hpcalloc.cli.main import cli
from hpcalloc.discover.kinds import (
    Kind,
    kind_nodes,
    kinds_lines,
    machine_text,
    nearest,
    nodes_of_kind,
    with_memory_beside,
)
from hpcalloc.discover.topology import Access, Topology
from hpcalloc.exceptions import NodeError, TopologyError
from hpcalloc.memory.paging import cut
from hpcalloc.policy import MEMORY_KINDS

DATA = pathlib.Path(__file__).parent / "data" / "topologies"
HBM = (
    "pack:2 [numa(memory=64GB bandwidth=100000 latency=90 tier=4 medium=DRAM)]"
    " [numa(memory=16GB bandwidth=400000 latency=120 tier=3 medium=HBM)] core:2 pu:1"
)


def recorded(name):
    return Topology.from_hwloc_xml(DATA / f"{name}.xml")


# ---- what machines tell -----------------------------------------------------------------------------------


def test_sysfs_tells_of_the_best_initiators(tmp_path):
    machine = Machine(tmp_path, nodes=2)
    machine.more_memory(2, 256 * GIB, distances=(30, 40, 10))
    machine.access(0, [0], bandwidth=(200000, 180000), latency=(90, 95))
    machine.access(1, [1], bandwidth=(200000, 200000), latency=(90, 90))
    machine.access(2, [0, 1], bandwidth=(30000, 30000), latency=(250, 250))
    machine.tiers({4: "0-1", 22: "2"})
    t = Topology.from_machine(tmp_path)
    assert t.access(0, 0) == Access(180000, 95)
    assert t.access(1, 2) == t.best_access(2) == Access(30000, 250)
    assert t.access(0, 1) == Access()
    assert [n.tier for n in t.nodes] == [4, 4, 22]
    assert t.nodes[2].cpus == ()


def test_access0_is_asked_where_access1_tells_nothing(tmp_path):
    """access0 is also of initiators without CPUs: of a GPU's node nothing is told about CPUs."""
    machine = Machine(tmp_path, nodes=2)
    machine.more_memory(2, 16 * GIB, distances=(30, 40, 10))
    machine.access(0, [0], bandwidth=(1000, 1000), which="access0")
    machine.access(1, [1], bandwidth=(1000, 1000), which="access0")
    machine.access(1, [1], bandwidth=(900, 900), which="access1")
    machine.access(2, [2], bandwidth=(5000, 5000), which="access0")
    t = Topology.from_machine(tmp_path)
    assert [t.best_access(n).bandwidth for n in (0, 1, 2)] == [1000, 900, 0]


@pytest.mark.parametrize("text", ["", "x", "-1", "0"])
def test_sysfs_that_tells_nonsense_tells_nothing(tmp_path, text):
    machine = Machine(tmp_path, nodes=1)
    machine.access(0, [0], latency=(text, text))
    machine.write("sys/devices/virtual/memory_tiering/memory_tierX/nodelist", "0")
    machine.write("sys/devices/virtual/memory_tiering/uevent", "")
    t = Topology.from_machine(tmp_path)
    assert t.best_access(0) == Access()
    assert t.nodes[0].tier is None


def test_recorded_machines():
    t = recorded("xeon_max")
    assert (t.access(3, 3), t.access(3, 11), t.access(0, 11)) == (
        Access(52000, 115),
        Access(200000, 130),
        Access(),
    )
    assert [(n.tier, n.medium, bool(n.cpus)) for n in (t.nodes[0], t.nodes[8])] == [
        (1, "DRAM", True),
        (0, "HBM", False),
    ]
    t = recorded("cxl")
    assert [t.access(0, n).latency for n in (0, 1, 2)] == [110, 200, 360]
    assert t.best_access(2) == Access(30000, 270)
    t = recorded("gh200")  # reading and writing differ: the slower counts
    assert t.access(0, 1) == Access(380000, 600)
    assert t.nodes[1].medium == "GPUMemory"


@pytest.mark.parametrize(("name", "cpus"), [("xeon_max", "0-13"), ("xeon_max", "98-111"), ("cxl", "32-63")])
@pytest.mark.parametrize("kind", ["bandwidth", "latency"])
def test_the_nearest_of_a_kind_is_hwlocs_best_target(name, cpus, kind):
    if shutil.which("hwloc-calc") is None:
        pytest.skip("missing capability: hwloc-calc (Debian: hwloc)")
    words = [
        "--input",
        str(DATA / f"{name}.xml"),
        "--local-memory",
        "--best-memattr",
        kind,
        "--po",
        f"pu:{cpus}",
    ]
    done = subprocess.run(["hwloc-calc", *words], capture_output=True, text=True, check=True)
    t = recorded(name)
    home = t.node_of_cpu()[int(cpus.split("-")[0])]
    assert nearest(t, nodes_of_kind("test", t, kind).nodes, home) == int(done.stdout)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('value="30000"', 'value="-3"'),
        ('value="30000"', 'value="1e9"'),
        ('value="30000"', f'value="{"9" * 19}"'),
        ('target_obj_type="NUMANode"', 'target_obj_type="Core"'),
        ('target_obj_gp_index="1"', 'target_obj_gp_index="99999"'),
        ('initiator_cpuset="0xffffffff"', 'initiator_cpuset="0xg"'),
        ('initiator_cpuset="0xffffffff"', 'initiator_obj_type="Package" initiator_obj_gp_index="77777"'),
        ('name="MemoryTier" value="0"', 'name="MemoryTier" value="fast"'),
    ],
)
def test_bad_attributes_are_refused(tmp_path, before, after):
    text = (DATA / "cxl.xml").read_text()
    assert before in text
    file = tmp_path / "bad.xml"
    file.write_text(text.replace(before, after))
    with pytest.raises(TopologyError, match="limit: "):
        Topology.from_hwloc_xml(file)


def test_initiators_that_are_objects(tmp_path):
    text = (DATA / "cxl.xml").read_text()
    package = text.split('type="Package" os_index="1"')[1].split('gp_index="')[1].split('"')[0]
    named = f'initiator_obj_type="Package" initiator_obj_gp_index="{package}"'
    file = tmp_path / "objects.xml"
    file.write_text(text.replace('initiator_cpuset="0xffffffff,0x00000000"', named))
    assert Topology.from_hwloc_xml(file).accesses == recorded("cxl").accesses


def test_synthetic_machines():
    t = Topology.from_source(HBM)
    assert [(n.id, n.cpus, n.medium, n.tier) for n in t.nodes] == [
        (0, (0, 1), "DRAM", 4),
        (1, (), "HBM", 3),
        (2, (2, 3), "DRAM", 4),
        (3, (), "HBM", 3),
    ]
    assert t.access(0, 1) == Access(400000, 120)
    assert t.access(0, 3) == Access()


@pytest.mark.parametrize("text", [
    "pack:2 [numa(memory=16GB)] [numa(memory=4GB)] core:2 pu:1",
    "[numa(memory=64GB)] pack:2 [numa(memory=16GB)] [numa(memory=1GB)] group:2 [numa(memory=2GB)] core:2 pu:1",
    "pack:3 [numa] l3:2 [numa] core:2 pu:2",
])  # fmt: skip
def test_attached_nodes_are_numbered_as_hwloc_does(text, tmp_path):
    if shutil.which("lstopo") is None:
        pytest.skip("missing capability: lstopo (Debian: hwloc)")
    file = tmp_path / "t.xml"
    subprocess.run(["lstopo", "--input", text, "--of", "xml", str(file)], check=True, capture_output=True)
    ours, theirs = Topology.from_synthetic(text), Topology.from_source(str(file))
    assert [(n.id, n.cpus, n.package) for n in ours.nodes] == [
        (n.id, n.cpus, n.package) for n in theirs.nodes
    ]
    assert ours.cores == tuple(
        core._replace(caches=ours.cores[i].caches) for i, core in enumerate(theirs.cores)
    )


@pytest.mark.parametrize(
    "inside",
    ["bandwidth=fast", "bandwidth=-1", "latency", "tier=1 tier=2", "speed=3", "medium=<b>", "memory=1 2 GB"],
)
def test_bad_synthetic_attributes(inside):
    with pytest.raises(TopologyError, match="limit: memory=<size> bandwidth="):
        Topology.from_source(f"pack:2 [numa({inside})] core:1 pu:1")


# ---- what a kind means ------------------------------------------------------------------------------------


def test_kinds_of_recorded_machines():
    assert {kind: kind_nodes(recorded("xeon_max"), kind) for kind in MEMORY_KINDS} == {
        "bandwidth": Kind(tuple(range(8, 16)), "attributes"),
        "latency": Kind(tuple(range(8)), "attributes"),
        "capacity": Kind(tuple(range(8)), "tiers"),
    }
    assert {kind: kind_nodes(recorded("cxl"), kind) for kind in MEMORY_KINDS} == {
        "bandwidth": Kind((0, 1), "attributes"),
        "latency": Kind((0, 1), "attributes"),
        "capacity": Kind((2,), "tiers"),
    }
    assert {kind: kind_nodes(recorded("gh200"), kind) for kind in MEMORY_KINDS} == {
        "bandwidth": Kind((0,), "attributes"),
        "latency": Kind((0,), "attributes"),
        "capacity": Kind((0,), "size"),
    }


def test_nodes_that_differ_by_a_tenth_are_alike():
    text = "numa:1(bandwidth=%d latency=%d memory=%dMB) core:1"
    parts = [
        Topology.from_source(text % values) for values in ((90, 110, 900), (100, 100, 1000), (89, 111, 899))
    ]
    nodes = tuple(part.nodes[0]._replace(id=i) for i, part in enumerate(parts))
    accesses = tuple(((0, i), part.access(0, 0)) for i, part in enumerate(parts))
    t = Topology(nodes, parts[0].cores, frozenset({0}), frozenset(range(3)), accesses=accesses)
    assert [kind_nodes(t, kind).nodes for kind in MEMORY_KINDS] == [(0, 1)] * 3
    t = Topology(nodes, parts[0].cores, frozenset({0}), frozenset({0, 2}), accesses=accesses)
    assert [kind_nodes(t, kind).nodes for kind in MEMORY_KINDS] == [(0, 2)] * 3


def test_tiers_serve_where_attributes_are_not_told():
    t = Topology.from_source("pack:2 [numa(memory=64GB tier=4)] [numa(memory=16GB tier=2)] core:2 pu:1")
    assert kind_nodes(t, "bandwidth") == kind_nodes(t, "latency") == Kind((1, 3), "tiers")
    assert kind_nodes(t, "capacity") == Kind((0, 2), "tiers")
    one = Topology.from_source("pack:2 [numa(memory=64GB tier=4)] [numa(memory=16GB tier=4)] core:2 pu:1")
    assert kind_nodes(one, "bandwidth") == Kind((), "")
    assert kind_nodes(one, "capacity") == Kind((0, 2), "size")


def test_a_kind_that_nobody_tells_is_not_guessed():
    t = Topology.from_source("pack:2 [numa(memory=64GB)] [numa(memory=16GB medium=HBM)] core:2 pu:1")
    with pytest.raises(NodeError) as caught:
        nodes_of_kind("run", t, "bandwidth")
    text = str(caught.value)
    assert "tells neither the bandwidth of its nodes nor memory tiers" in text
    assert "nodes 0,2: 64.0 GiB; nodes 1,3: 16.0 GiB HBM, no CPUs" in text
    assert "remedy: name nodes" in text
    assert kinds_lines(t) == ["bandwidth: unknown", "latency: unknown", "capacity: nodes 0,2, by size"]


def test_nearest_of_a_kind():
    t = recorded("xeon_max")
    assert [nearest(t, tuple(range(8, 16)), home) for home in range(8)] == list(range(8, 16))
    t = Topology.from_source(
        HBM
    )  # distances are not told: those that the machine names, and the package, decide
    assert [nearest(t, (1, 3), home) for home in (0, 2)] == [1, 3]


def test_machine_text_is_short_however_many_nodes():
    assert machine_text(recorded("xeon_max")) == (
        "nodes 0-7: 32.0 GiB DRAM, 52 GB/s, 115 ns, tier 1; nodes 8-15: 16.0 GiB HBM, 200 GB/s, 130 ns, tier 0, no CPUs"
    )


# ---- policies ---------------------------------------------------------------------------------------------

FACTS = Topology.from_machine()


def told(kind):
    """What this machine tells, as the Python side reads it."""
    return kind_nodes(FACTS, kind)


@pytest.mark.parametrize("kind", MEMORY_KINDS)
def test_both_sides_read_the_same_of_this_machine(kind):
    nodes, nearest_node = _native.kind_nodes(kind)
    assert nodes == told(kind).nodes
    assert nearest_node in nodes or (nodes, nearest_node) == ((), -1)
    assert f"node {FACTS.nodes[0].id}: " in _native.kind_text()


@pytest.mark.parametrize("kind", MEMORY_KINDS)
@pytest.mark.parametrize("strict", [False, True])
def test_arrays_by_kind(kind, strict):
    policy = hpcalloc.kind(kind, strict=strict)
    if not told(kind).nodes:
        with pytest.raises(NodeError, match=f"kind\\({kind}.*{kind}.*limit: node .*remedy: name nodes"):
            hpcalloc.zeros(1000, policy=policy)
        with pytest.raises(NodeError):
            hpcalloc.numpy_allocator(policy)
        with pytest.raises(NodeError):
            hpcalloc.migrate(np.ones(10), kind)
        return
    for size in (2, 100_000, 1_000_000):
        a = hpcalloc.ones(size, policy=policy)
        where = hpcalloc.placement(a)
        assert where.home_nodes[0] in told(kind).nodes
        assert where.policy == "on_node"
        assert where.unknown or where.local_fraction == 1.0
    with hpcalloc.numpy_allocator(policy):
        b = np.arange(100_000) + 1
    assert hpcalloc.placement(b).home_nodes[0] in told(kind).nodes
    assert _native.can_bind() or hpcalloc.migrate(np.ones(100_000), policy).unmoved == 0


def test_a_context_by_kind():
    if not told("capacity").nodes:
        with pytest.raises(NodeError):
            hpcalloc.init(policy="capacity")
        return
    with hpcalloc.init(policy=hpcalloc.kind("capacity"), bind="off") as ctx:
        a = hpcalloc.ones(100_000)
        assert hpcalloc.placement(a).home_nodes[0] in told("capacity").nodes
        rank = ctx.report().ranks[0]
        assert rank["policy"] == "kind(capacity)"
        assert set(rank["nodes"]) >= set(ctx.nodes)


def test_weighted_arrays():
    node = _native.node_ids()[0]
    a = hpcalloc.zeros((300, 1000), policy=hpcalloc.weighted([node], [3]))
    a += 1
    assert hpcalloc.placement(a).home_nodes == (node,)
    nodes = _native.node_ids()
    if len(nodes) > 1:
        a = hpcalloc.ones(1 << 20, policy=hpcalloc.weighted(nodes[:2], [3, 1], strict=True))
        pages = hpcalloc.placement(a).pages_per_node
        assert pages[nodes[0]] == pytest.approx(3 * pages[nodes[1]], rel=0.1)
    if all(FACTS.best_access(n).bandwidth for n in nodes):
        assert hpcalloc.placement(hpcalloc.ones(1 << 20, policy="weighted")).policy in ("weighted", "on_node")
    else:
        with pytest.raises(NodeError, match=r"weighted\(\).*bandwidth of each node.*remedy: name weights"):
            hpcalloc.zeros(10, policy="weighted")
    with pytest.raises(NodeError, match="node 1023"):
        hpcalloc.zeros(10, policy=hpcalloc.weighted([1023], [1]))


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ((3, 1), (3, 1)),
        ((6, 2), (3, 1)),
        ((255, 1), (255, 1)),
        ((0.75, 0.25), (3, 1)),
        ((0.6, 0.4), (3, 2)),
        ((1e9, 1e9), (1, 1)),
        ((1, 1e-9), (255, 1)),
        ((np.float32(2), np.int64(4)), (1, 2)),
        ((5e-324, 5e-324), (1, 1)),
        ((1.7e308, 1), (255, 1)),
    ],
)
def test_weights_are_small_numbers_in_proportion(weights, parts):
    assert hpcalloc.weighted([0, 1], weights).weights == parts


def test_weights_belong_to_the_nodes_as_listed():
    assert hpcalloc.weighted([2, 0], [1, 3]) == hpcalloc.weighted([0, 2], [3, 1])
    assert hpcalloc.weighted([0, 1, 2], [1, 0, 1]).nodes == (0, 2)
    assert str(hpcalloc.weighted([2, 0], [1, 3], strict=True)) == "weighted(0:3, 2:1, strict)"


@pytest.mark.parametrize(
    ("nodes", "weights", "error", "text"),
    [
        ([0, 1], [1], ValueError, "1 weights for 2 nodes"),
        ([0, 1], [1, -1], ValueError, "weight -1"),
        ([0, 1], [1, math.nan], ValueError, "weight nan"),
        ([0, 1], [1, math.inf], ValueError, "weight inf"),
        ([0, 1], [0, 0], ValueError, "at least one above 0"),
        ([], [], ValueError, "at least one above 0"),
        (None, [1], ValueError, "without nodes"),
        ([0, 0], [1, 1], NodeError, "each node once"),
        ([0, -1], [1, 1], NodeError, "node -1"),
        ([0, 1], ["1", "2"], TypeError, "sequences of numbers"),
        ([0], [True], TypeError, "sequences of numbers"),
        ([0], [1 + 0j], TypeError, "sequences of numbers"),
        ([0], 3, TypeError, "sequences of numbers"),
        (0, [3], TypeError, "sequences of numbers"),
        (["a"], [3], TypeError, "'a'"),
    ],
)  # fmt: skip
def test_weights_that_are_none(nodes, weights, error, text):
    with pytest.raises(error, match=text):
        hpcalloc.weighted(nodes, weights)


@pytest.mark.parametrize("name", ["", "hbm", "Bandwidth", None, 3, ["bandwidth"]])
def test_kinds_that_are_none(name):
    with pytest.raises(ValueError, match="limit: 'bandwidth', 'latency', 'capacity'"):
        hpcalloc.kind(name)


def test_policies_are_values():
    for policy in (
        hpcalloc.kind("latency", strict=True),
        hpcalloc.weighted([0, 3], [1, 2]),
        hpcalloc.weighted(),
    ):
        assert pickle.loads(pickle.dumps(policy)) == policy
        assert len({policy, pickle.loads(pickle.dumps(policy))}) == 1
    assert str(hpcalloc.kind("latency", strict=True)) == "kind(latency, strict)"
    with pytest.raises(ValueError, match="a weight for each node"):
        hpcalloc.Policy("interleave", (0, 1), weights=(1, 2))


@pytest.mark.parametrize("length", [1, 4096, 4096 * 7, 4096 * 4000 + 5])
@pytest.mark.parametrize("weights", [(3, 1), (1, 255), (8, 8)])
def test_what_moves_by_weight_is_cut_into_runs(length, weights):
    start = 4096 * 10 + 100
    pieces = list(cut(hpcalloc.weighted([0, 2], weights), start, length, 4096))
    assert [at for at, _, _ in pieces] == [start, *(at + size for at, size, _ in pieces[:-1])]
    assert sum(size for _, size, _ in pieces) == length
    assert len(pieces) <= 2 * 65
    assert all(at % 4096 == 0 for at, _, _ in pieces[1:])
    if length > 4096 * 256 * 4:
        shares = [sum(size for _, size, where in pieces if where == (node,)) for node in (0, 2)]
        assert shares[0] / length == pytest.approx(weights[0] / sum(weights), abs=0.05)


# ---- which pages are local by kind ------------------------------------------------------------------------


def home_nodes(topology, nodes, policy):
    """`RankState.home_nodes` of a rank on these nodes."""
    state = RankState.__new__(RankState)
    state.plan = SimpleNamespace(topology=topology)
    state.share, state.policy = SimpleNamespace(nodes=nodes), policy
    return state.home_nodes


def test_local_by_kind_is_the_kinds_node_next_to_the_rank():
    t = recorded("xeon_max")
    assert home_nodes(t, (2,), hpcalloc.kind("bandwidth")) == (2, 10)
    assert home_nodes(t, (2, 3), hpcalloc.kind("bandwidth")) == (2, 3, 10, 11)
    assert home_nodes(t, (2,), hpcalloc.kind("latency")) == (2,)
    assert home_nodes(t, (2,), hpcalloc.local()) == (2,)
    assert home_nodes(recorded("cxl"), (0,), hpcalloc.kind("capacity")) == (0, 2)
    assert home_nodes(recorded("2x"), (0,), hpcalloc.kind("bandwidth")) == (0,)


def test_weighted_without_nodes_is_over_the_ranks_nodes_and_the_memory_beside_them():
    assert with_memory_beside(recorded("xeon_max"), (2, 5)) == (2, 5, 10, 13)
    assert with_memory_beside(recorded("cxl"), (0,)) == (0,)
    assert with_memory_beside(recorded("cxl"), (1,)) == (1, 2)
    assert with_memory_beside(Topology.from_source(HBM), (2,)) == (2, 3)
    assert with_memory_beside(recorded("memory_only"), (0,)) == (0, 2)


# ---- shown ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["xeon_max", "cxl", "gh200"])
def test_topology_shows_kinds(name):
    path = str(DATA / f"{name}.xml")
    text = CliRunner().invoke(cli, ["topology", "--topology", path], prog_name="hpcalloc").output
    assert "kinds of memory\n  bandwidth: node" in text
    assert "GB/s, " in text
    facts = json.loads(
        CliRunner().invoke(cli, ["topology", "--json", "--topology", path], prog_name="hpcalloc").output
    )
    kinds = {kind: kind_nodes(recorded(name), kind) for kind in MEMORY_KINDS}
    assert facts["kinds"] == {kind: {"nodes": list(k.nodes), "source": k.source} for kind, k in kinds.items()}
    assert facts["nodes"][0]["accesses"]["0"]["bandwidth_mb_s"] == recorded(name).access(0, 0).bandwidth


def test_topology_of_a_machine_that_tells_nothing():
    facts = json.loads(
        CliRunner()
        .invoke(cli, ["topology", "--json", "--topology", "pack:2 [numa] core:1"], prog_name="hpcalloc")
        .output
    )
    assert facts["kinds"]["bandwidth"] == {"nodes": [], "source": None}
    assert facts["nodes"][0]["accesses"] == {}
