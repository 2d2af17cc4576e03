# SPDX-License-Identifier: BSD-3-Clause
"""The planner: goldens on recorded topologies, properties on random ones, and what it does with bindings.

``python tests/test_plan.py --write`` writes the goldens anew; read the difference before committing it.
"""

import json
import pathlib
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcalloc.discover.topology import Topology
from hpcalloc.exceptions import PlanError
from hpcalloc.plan.ranks import LauncherBinding, make_plan

DATA = pathlib.Path(__file__).parent / "data"

# golden -> (topology, [(ranks, options)])
GOLDENS = {
    "1x1": ("1x1.xml", [(1, {}), (2, {})]),
    "2x": ("2x.xml", [(1, {}), (2, {}), (3, {}), (4, {}), (16, {}), (2, {"threads": 4})]),
    "4xSNC": ("4xSNC.xml", [(1, {}), (2, {}), (3, {}), (4, {}), (8, {}), (24, {}), (4, {"smt": True})]),
    "8packages": ("8packages.xml", [(1, {}), (3, {}), (8, {}), (12, {}), (32, {})]),
    "uneven": ("uneven.xml", [(1, {}), (2, {}), (3, {}), (5, {}), (13, {})]),
    "gapped": ("gapped.xml", [(1, {}), (2, {}), (4, {})]),
    "memory_only": ("memory_only.xml", [(1, {}), (2, {}), (4, {})]),
    "SMT4": ("SMT4.xml", [(2, {}), (2, {"smt": True}), (8, {}), (16, {}), (40, {})]),
    "restricted": ("restricted.xml", [(1, {}), (2, {}), (7, {})]),
    "more_ranks_than_cores": ("pack:1 [numa] core:2 pu:2", [(3, {}), (4, {}), (9, {})]),
    "fewer_ranks_than_nodes": ("pack:4 numa:2 core:2 pu:1", [(1, {}), (2, {}), (3, {}), (5, {}), (7, {})]),
    "72nodes": ("pack:9 numa:8 core:2 pu:1", [(9, {}), (72, {}), (100, {}), (144, {})]),
    "orphans": ("orphans.xml", [(1, {}), (2, {}), (4, {})]),
    "scattered": ("scattered.xml", [(1, {}), (2, {}), (3, {}), (4, {})]),
    "L3s": ("pack:1 [numa] l3:4 core:2 pu:1", [(2, {}), (4, {}), (8, {})]),
}


def source(name):
    return Topology.from_source(str(DATA / "topologies" / name) if name.endswith(".xml") else name)


def plans_of(name):
    where, cases = GOLDENS[name]
    topology = source(where)
    result = []
    for ranks, options in cases:
        plan = make_plan(topology, ranks, **options).to_dict()
        plan["source"] = where
        result.append({"ranks": ranks, "options": options, "plan": plan})
    return result


def golden_text(name):
    return json.dumps(plans_of(name), indent=1) + "\n"


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name):
    assert (DATA / "plans" / f"{name}.json").read_text() == golden_text(name)


def shares(text, ranks, **options):
    return make_plan(source(text), ranks, **options).ranks


def test_a_rank_per_node_gets_its_cores_and_its_memory():
    first, second = shares("2x.xml", 2)
    assert (first.cpus, first.nodes, first.threads, first.memory) == (tuple(range(8)), (0,), 8, "local")
    assert (second.cpus, second.nodes) == (tuple(range(8, 16)), (1,))


def test_one_rank_on_two_nodes_interleaves():
    (only,) = shares("2x.xml", 1)
    assert only.cpus == tuple(range(16))
    assert (only.nodes, only.memory) == ((0, 1), "interleave")


def test_fewer_ranks_than_nodes_get_balanced_blocks():
    assert [s.nodes for s in shares("8packages.xml", 3)] == [(0, 1), (2, 3, 4), (5, 6, 7)]


def test_ranks_follow_cores_on_uneven_nodes():
    # 8 and 5 cores: 5 ranks are 3.08 and 1.92
    assert [s.nodes[0] for s in shares("uneven.xml", 5)] == [0, 0, 0, 1, 1]
    # two ranks are 1.23 and 0.77: no node is left idle
    assert [s.nodes[0] for s in shares("uneven.xml", 2)] == [0, 1]


def test_memory_only_node_is_nobodys_home():
    plan = make_plan(source("memory_only.xml"), 2)
    assert [s.nodes for s in plan.ranks] == [(0,), (1,)]
    assert any("node 2 without usable CPUs" in reason for reason in plan.reasons)


def test_cpus_under_no_node_belong_to_their_package():
    assert [s.cpus for s in shares("orphans.xml", 2)] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_blocks_are_of_near_nodes_whatever_their_ids():
    # nodes 0 and 2 are of one package, 1 and 3 of the other
    assert [s.nodes for s in shares("scattered.xml", 2)] == [(0, 2), (1, 3)]
    assert [s.nodes for s in shares("scattered.xml", 3)] == [(0,), (2,), (1, 3)]


def test_ids_with_gaps():
    assert [s.nodes for s in shares("gapped.xml", 2)] == [(0,), (8,)]


def test_siblings_come_last():
    (share, _) = shares("SMT4.xml", 2)
    assert share.cpus == (0, 4, 8, 12)
    (share, _) = shares("SMT4.xml", 2, smt=True)
    assert share.cpus[:4] == (0, 4, 8, 12)
    assert (len(share.cpus), share.threads) == (16, 16)


def test_cpuset_is_respected():
    assert [s.cpus for s in shares("restricted.xml", 2)] == [(2, 3, 4, 5), (12, 13, 14)]


def test_caches_stay_whole():
    assert [s.cpus for s in shares("pack:1 [numa] l3:4 core:2 pu:1", 4)] == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_more_ranks_than_threads_share_and_say_so():
    plan = make_plan(source("pack:1 [numa] core:2 pu:2"), 9)
    assert all(s.shared for s in plan.ranks)
    assert all("shared" in " ".join(s.reasons) for s in plan.ranks)


def test_oversubscribed_threads_say_so():
    share = shares("2x.xml", 2, threads=20)[0]
    assert share.threads == 20
    assert "oversubscribed" in " ".join(share.reasons)


@pytest.mark.parametrize(
    ("quota", "ranks", "threads"),
    [(1.0, 1, 1), (1.5, 1, 1), (2.0, 1, 2), (8.0, 2, 4), (0.5, 2, 1), (64.0, 1, 16)],
)
def test_threads_fit_the_time_that_the_cgroup_grants(quota, ranks, threads):
    topology = replace(source("2x.xml"), cpu_quota=quota)
    for share in make_plan(topology, ranks).ranks:
        assert share.threads == threads
        assert ("grants" in " ".join(share.reasons)) == (quota < 16)
    assert make_plan(topology, ranks, threads=7).ranks[0].threads == 7


def test_omp_environment():
    plan = make_plan(source("2x.xml"), 4)
    assert plan.omp_environment(1) == {
        "OMP_NUM_THREADS": "4",
        "OMP_PLACES": "{4},{5},{6},{7}",
        "OMP_PROC_BIND": "spread",
    }


# ---- bindings that are there -------------------------------------------------------------------------


def bound(*sets, launcher="none", explicit=None):
    return [LauncherBinding(frozenset(s), launcher, explicit) for s in sets]


def actions(plan):
    return [(s.action, s.cpus) for s in plan.ranks]


def test_open_mpis_default_is_widened():
    for explicit in (None, False):
        given = bound({0}, {8}, launcher="openmpi", explicit=explicit)
        plan = make_plan(source("2x.xml"), 2, bindings=given)
        assert actions(plan) == [("widen", tuple(range(8))), ("widen", tuple(range(8, 16)))]
        assert "nobody asked" in " ".join(plan.reasons)


def test_open_mpis_default_on_neighbouring_cores_is_widened():
    plan = make_plan(source("2x.xml"), 2, bindings=bound({0}, {1}, launcher="openmpi", explicit=None))
    assert [s.action for s in plan.ranks] == ["widen", "widen"]


def test_what_was_asked_for_is_honoured():
    plan = make_plan(source("2x.xml"), 2, bindings=bound({0}, {8}, launcher="openmpi", explicit=True))
    assert actions(plan) == [("honour", (0,)), ("honour", (8,))]
    plan = make_plan(source("2x.xml"), 2, bindings=bound({8, 9}, {0, 1}, launcher="slurm"))
    assert actions(plan) == [("honour", (8, 9)), ("honour", (0, 1))]
    assert [s.nodes for s in plan.ranks] == [(1,), (0,)]  # memory follows


def test_overlap_in_an_honoured_binding_is_told():
    plan = make_plan(source("2x.xml"), 3, bindings=bound({0, 1}, {1, 2}, {9}, launcher="slurm"))
    assert [s.shared for s in plan.ranks] == [True, True, False]


def test_taskset_around_everything_bounds_the_plan():
    plan = make_plan(source("2x.xml"), 2, bindings=bound({6, 7, 8, 9}, {6, 7, 8, 9}))
    assert actions(plan) == [("bind", (6, 7)), ("bind", (8, 9))]


def test_a_single_narrow_rank_is_honoured():
    plan = make_plan(source("2x.xml"), 1, bindings=bound({3}))
    assert actions(plan) == [("honour", (3,))]
    assert plan.ranks[0].nodes == (0,)


def test_force_replaces_and_off_leaves():
    given = bound({0}, {8}, launcher="slurm", explicit=True)
    assert [s.action for s in make_plan(source("2x.xml"), 2, bindings=given, bind="force").ranks] == [
        "bind"
    ] * 2
    plan = make_plan(source("2x.xml"), 2, bindings=given, bind="off")
    assert actions(plan) == [("none", (0,)), ("none", (8,))]
    assert [s.nodes for s in plan.ranks] == [(0,), (1,)]


# ---- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "options", "named"),
    [
        (0, {}, "local_ranks=0"),
        (-3, {}, "local_ranks=-3"),
        (True, {}, "local_ranks=True"),
        (2, {"threads": 0}, "threads=0"),
        (2, {"threads": "many"}, "threads='many'"),
        (2, {"bind": "yes"}, "bind='yes'"),
        (2, {"policy": "best"}, "policy='best'"),
        (2, {"bindings": bound({0})}, "1 bindings for 2 ranks"),
        (1, {"bindings": bound(set())}, "no allowed CPU"),
        (1, {"bindings": bound({99})}, "no allowed CPU"),
    ],
)
def test_bad_input(ranks, options, named):
    with pytest.raises(PlanError) as caught:
        make_plan(source("2x.xml"), ranks, **options)
    for part in ("make_plan", named, "limit:", "remedy:"):
        assert part in str(caught.value)


def test_empty_allowed_sets():
    t = source("2x.xml")
    with pytest.raises(PlanError, match="no CPU"):
        make_plan(Topology(t.nodes, t.cores, frozenset(), t.allowed_nodes), 1)
    with pytest.raises(PlanError, match="no node"):
        make_plan(Topology(t.nodes, t.cores, t.allowed_cpus, frozenset()), 1)


# ---- properties -------------------------------------------------------------------------------------------


@st.composite
def machines(draw):
    packages, nodes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    cores, pus = draw(st.integers(1, 6)), draw(st.integers(1, 2))
    t = Topology.from_synthetic(f"pack:{packages} numa:{nodes} core:{cores} pu:{pus}")
    every = sorted(t.allowed_cpus)
    allowed = draw(st.sets(st.sampled_from(every), min_size=1))
    mems = draw(st.sets(st.sampled_from(sorted(t.allowed_nodes)), min_size=1))
    return Topology(t.nodes, t.cores, frozenset(allowed), frozenset(mems), t.distances)


@settings(deadline=None, max_examples=300)
@given(machines(), st.integers(1, 40), st.booleans())
def test_properties(topology, ranks, smt):
    plan = make_plan(topology, ranks, smt=smt)
    assert plan == make_plan(topology, ranks, smt=smt)
    assert len(plan.ranks) == ranks
    used = [cpu for share in plan.ranks for cpu in share.cpus]
    for share in plan.ranks:
        assert share.cpus
        assert len(set(share.cpus)) == len(share.cpus)
        assert set(share.cpus) <= topology.allowed_cpus
        assert share.nodes
        assert set(share.nodes) <= topology.allowed_nodes
        assert share.threads >= 1
        assert share.reasons
        assert share.shared == any(used.count(cpu) > 1 for cpu in share.cpus)
        assert len(plan.omp_environment(share.local_rank)["OMP_PLACES"].split(",")) == len(share.cpus)
    if len(topology.usable_cores) >= ranks:
        assert len(set(used)) == len(used)  # disjoint
        assert {core.pus[0] for core in topology.usable_cores} <= set(used)  # no core is idle
        per_node = {}
        for share in plan.ranks:
            if len({topology.node_of_cpu()[c] for c in share.cpus}) == 1:
                per_node.setdefault(topology.node_of_cpu()[share.cpus[0]], []).append(share.threads)
        if not smt:
            for threads in per_node.values():
                assert max(threads) - min(threads) <= 1


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    for golden in GOLDENS:
        (DATA / "plans" / f"{golden}.json").write_text(golden_text(golden))


def test_counts_that_no_host_has():
    topology = Topology.from_synthetic("pack:2 [numa] core:4 pu:2")
    plan = make_plan(topology, 65536)  # in a second or so: nothing of it is quadratic
    assert plan.ranks[-1].shared
    for ranks in (65537, 10**9):
        with pytest.raises(PlanError, match=r"local_ranks=.*limit: .*65536.*remedy"):
            make_plan(topology, ranks)


def test_arguments_of_other_types():
    topology = Topology.from_synthetic("core:4 pu:1")
    with pytest.raises(TypeError, match=r"topology= a int; limit: a Topology; remedy"):
        make_plan(3, 2)
    for bindings in (3, [1, 2], "ab"):
        with pytest.raises(TypeError, match=r"bindings=.*LauncherBinding.*remedy"):
            make_plan(topology, 2, bindings=bindings)


@pytest.mark.parametrize("rank", [-1, 2])
def test_environment_of_a_rank_that_is_not_there(rank):
    plan = make_plan(Topology.from_synthetic("core:4 pu:1"), 2)
    with pytest.raises(PlanError, match=r"omp_environment: local rank .*limit: 0 to 1; remedy"):
        plan.omp_environment(rank)
