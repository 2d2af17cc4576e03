# SPDX-License-Identifier: BSD-3-Clause
"""Where arrays are: counts, ranges of views, home, refusals of the kernel."""

import copy
import errno
import json
import mmap
import os
import pickle
from types import MappingProxyType

import numpy as np
import pytest

import hpcalloc
from hpcalloc import _native
from hpcalloc.memory.paging import Migration
from hpcalloc.memory.placement import Placement, _add_mapping, bounds, process_memory

PAGE = os.sysconf("SC_PAGE_SIZE")
NODES = _native.node_ids()
needs_query = pytest.mark.skipif(
    _native.can_query() != 0, reason="missing capability: move_pages is not allowed"
)


@needs_query
def test_touched_and_untouched():
    a = hpcalloc.zeros((1 << 20,), policy=hpcalloc.on_node(NODES[0]))
    _native.lib.numalloc_purge()
    a[: PAGE // 8 * 10] = 1
    where = hpcalloc.placement(a)
    assert where.nbytes == a.nbytes
    assert where.pages == a.nbytes // PAGE
    assert where.untouched + where.touched_pages == where.pages
    assert where.touched_pages >= 10
    a[:] = 1
    where = hpcalloc.placement(a)
    assert (where.untouched, where.failed, where.unknown) == (0, 0, "")
    assert where.nodes == (NODES[0],)
    assert where.pages_per_node == {NODES[0]: where.pages}
    assert where.bytes_per_node == {NODES[0]: where.pages * PAGE}
    assert where.local_fraction == 1.0
    assert where.home_nodes == where.local_nodes == (NODES[0],)
    assert where.policy == "on_node"
    assert "100.0 % local" in str(where)


@needs_query
def test_local_nodes_decide():
    a = hpcalloc.ones(100_000)
    elsewhere = max(NODES) + 1
    assert hpcalloc.placement(a, local_nodes=[elsewhere]).local_fraction == 0.0
    assert hpcalloc.placement(a, local_nodes=NODES).local_fraction == 1.0
    assert hpcalloc.placement(a, local_nodes=[]).local_fraction == 0.0


@needs_query
def test_nothing_touched_is_no_fraction():
    map_ = mmap.mmap(-1, 16 * PAGE)
    a = np.frombuffer(map_, "u1")
    where = hpcalloc.placement(a)
    assert where.untouched == where.pages == 16
    assert where.local_fraction is None
    assert where.home_nodes == ()
    assert where.policy == ""
    assert "16 untouched" in str(where)
    a = hpcalloc.empty(0)
    assert hpcalloc.placement(a).pages == 0
    assert hpcalloc.placement(a).local_fraction is None


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        lambda a: a[3],
        lambda a: a[::-1, ::2],
        lambda a: a[5:7, 3:4],
        lambda a: a.T,
        lambda a: a[::3, ::-3, None],
        lambda a: np.broadcast_to(a[0], (5, *a[0].shape)),
        lambda a: a.view("u1"),
        lambda a: a[..., 0:0],
        lambda a: a[1, 1, ...],
    ],
)
def test_range_of_views(view):
    a = view(hpcalloc.zeros((50, 60)))
    start, stop = bounds(a)
    byte_bounds = np.lib.array_utils.byte_bounds if hasattr(np.lib, "array_utils") else np.byte_bounds
    expected = byte_bounds(a) if a.size else (a.ctypes.data, a.ctypes.data)
    assert (start, stop) == expected
    where = hpcalloc.placement(a)
    assert where.nbytes == stop - start
    if a.size and not where.unknown:
        assert where.home_nodes  # found through the base
        assert where.touched_pages + where.untouched == where.pages


def test_home_of_spread_arrays():
    for policy in (hpcalloc.interleave(NODES[:1]), hpcalloc.interleave(), hpcalloc.blocked()):
        a = hpcalloc.ones((64, 1024), policy=policy)
        nodes = policy.nodes or NODES
        assert set(hpcalloc.placement(a).home_nodes) == set(nodes)
        assert set(hpcalloc.placement(a[10:].T).home_nodes) == set(nodes)


@needs_query
def test_memory_of_others():
    for a in (np.ones(100_000), np.frombuffer(bytearray(b"x" * 100_000), "u1")):
        where = hpcalloc.placement(a)
        assert where.home_nodes == ()
        assert where.touched_pages > 0
        assert where.local_nodes


def test_not_an_array():
    for bad in (None, [1, 2], 3.0, memoryview(b"x")):
        with pytest.raises(TypeError, match=r"placement: .*limit: numpy.ndarray; remedy"):
            hpcalloc.placement(bad)


def test_unknown_is_said(monkeypatch):
    monkeypatch.setattr(_native, "page_counts", lambda start, length: errno.EPERM)
    a = hpcalloc.ones(10_000)
    where = hpcalloc.placement(a)
    assert "EPERM" in where.unknown
    assert where.local_fraction is None
    assert where.pages_per_node == {}
    assert where.pages in (20, 21)
    assert str(where).startswith("placement unknown: move_pages: EPERM")
    assert json.loads(json.dumps(where.to_dict()))["local_fraction"] is None
    assert hpcalloc.placement(a[:0]).pages == 0


def test_to_dict_is_json():
    where = hpcalloc.placement(hpcalloc.ones(1000))
    data = json.loads(json.dumps(where.to_dict()))
    assert data["pages"] == where.pages
    assert data["policy"] == "on_node"


def test_fraction_of_mixed():
    where = Placement(4096 * 10, 4096, 10, {0: 6, 3: 2}, untouched=1, failed=1, local_nodes=(0,))
    assert where.local_fraction == 6 / 9
    assert where.nodes == (0, 3)
    assert (
        str(where) == "10 pages of 4096 bytes: 6 on node 0, 2 on node 3, 1 untouched, 1 failed; 66.7 % local"
    )


def test_process_memory():
    before = process_memory()
    a = hpcalloc.ones(1 << 22)
    after = process_memory()
    assert after.resident >= before.resident + a.nbytes // 2
    assert 0 <= after.huge_fraction <= 1
    if not after.unknown:
        assert sum(after.per_node.values()) > a.nbytes


def test_numa_maps_lines():
    per_node: dict[int, int] = {}
    _add_mapping("7f00 bind:0 anon=3 dirty=3 N0=1 N12=2 kernelpagesize_kB=2048", per_node)
    _add_mapping("7f01 default file=/usr/lib/libN1=x.so mapped=7 N0=7 kernelpagesize_kB=4", per_node)
    _add_mapping("7f02 default", per_node)
    assert per_node == {0: (2 << 20) + 7 * 4096, 12: 4 << 20}


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_answers_travel(again):
    a = hpcalloc.ones(1_000_000)
    for answer in (
        hpcalloc.placement(a),
        Placement(8, PAGE, 1, MappingProxyType({1: 2}), 3, 4, (5,), "on_node", 6, (7,), "why"),
        hpcalloc.prefault(a),
        Migration(hpcalloc.local(), PAGE, 6, 1, 2, 3, MappingProxyType({"EBUSY": 4}), 0.5),
    ):
        assert again(answer) == answer
        assert again(answer).to_dict() == answer.to_dict()
        assert type(again(answer)) is type(answer)
    with pytest.raises(TypeError):
        again(hpcalloc.placement(a)).pages_per_node[0] = 1


@pytest.mark.parametrize(
    ("nodes", "kind"), [(3, TypeError), ("01", TypeError), ([0.5], TypeError), ([-1], hpcalloc.NodeError)]
)
def test_local_nodes_that_are_none(nodes, kind):
    with pytest.raises(kind, match=r"placement: node.*limit"):
        hpcalloc.placement(np.zeros(10), local_nodes=nodes)
    assert hpcalloc.placement(np.zeros(10), local_nodes=()).local_nodes == ()
