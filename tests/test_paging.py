# SPDX-License-Identifier: BSD-3-Clause
"""Pages faulted in ahead of use and moved: what is counted, kept and refused. Where pages go: tests/lab."""

import ctypes
import mmap
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpcalloc
from hpcalloc import _native
from hpcalloc._native import MoveCounts, node_ids
from hpcalloc.memory import paging
from hpcalloc.memory.placement import process_memory

PAGE = mmap.PAGESIZE
MAP_NORESERVE = 0x4000
needs_query = pytest.mark.skipif(_native.can_query() != 0, reason="missing capability: move_pages")
needs_bind = pytest.mark.skipif(_native.can_bind() != 0, reason="missing capability: mbind")
NODE = node_ids()[0]


def fresh(nbytes):
    """Memory of others that nobody has touched."""
    return np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)


# ---- prefault -----------------------------------------------------------------------------------------------


@needs_query
@pytest.mark.parametrize("workers", [None, 1, 3])
def test_prefault_faults_everything_in(workers):
    _native.lib.numalloc_purge()
    for a in (
        hpcalloc.empty(3 << 20),
        hpcalloc.empty((1 << 10, 1 << 10), policy=hpcalloc.interleave()),
        hpcalloc.empty((1 << 10, 1 << 10), policy=hpcalloc.blocked(0)),
        fresh(5 << 20),
    ):
        result = hpcalloc.prefault(a, workers=workers)
        assert result.placement.untouched == 0
        assert sum(result.pages_per_node.values()) == result.placement.pages >= a.nbytes // PAGE
        assert result.workers == workers or workers is None
        assert result.faulted <= result.placement.pages
        again = hpcalloc.prefault(a, workers)
        assert again.faulted == 0
        assert again.gb_per_s is None


@needs_query
def test_prefault_says_what_it_did():
    a = fresh(8 << 20)
    result = hpcalloc.prefault(a, 2)
    assert result.faulted == (8 << 20) // PAGE
    assert result.gb_per_s == pytest.approx(1e-9 * a.nbytes / result.seconds)
    assert "2048 pages faulted in by 2 threads" in str(result)
    assert result.to_dict()["faulted"] == 2048


def test_prefault_changes_nothing():
    a = hpcalloc.array(np.arange(1 << 20))
    b = fresh(1 << 20)
    b[::777] = 7
    was = b.copy()
    before = os.sched_getaffinity(0)
    for array in (a, b, a[::3], a[::-1], a[:0], np.array(3.0)):
        hpcalloc.prefault(array)
    assert (a == np.arange(1 << 20)).all()
    assert (b == was).all()
    assert os.sched_getaffinity(0) == before


def test_prefault_binds_its_threads_and_no_other(monkeypatch):
    seen = []
    real = _native.prefault

    def watched(address, length):
        seen.append((threading.get_ident(), frozenset(os.sched_getaffinity(0)), length))
        return real(address, length)

    monkeypatch.setattr(_native, "prefault", watched)
    hpcalloc.prefault(fresh(64 << 20), 4)
    assert sum(length for _, _, length in seen) == 64 << 20
    assert threading.get_ident() not in {ident for ident, _, _ in seen}
    assert all(cpus <= os.sched_getaffinity(0) for _, cpus, _ in seen)


def test_prefault_refuses():
    for bad, kind in (([1, 2], TypeError), (None, TypeError)):
        with pytest.raises(kind, match="prefault.*limit"):
            hpcalloc.prefault(bad)
    for workers, kind in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(kind, match="prefault.*workers.*limit"):
            hpcalloc.prefault(np.zeros(5), workers)
    a = np.zeros(5)
    a.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        hpcalloc.prefault(a)


def test_prefault_of_memory_that_cannot_be_written(tmp_path):
    """An array may claim to be writable over a mapping that is not; that is an error and no crash."""
    file = tmp_path / "data"
    file.write_bytes(b"x" * PAGE)
    mapped = np.memmap(file, mode="r")

    interface = dict(mapped.__array_interface__, data=(mapped.ctypes.data, False))
    claim = np.asarray(type("Claim", (), {"__array_interface__": interface})())
    if os.uname().release.split(".")[0] < "5":
        pytest.skip("missing capability: MADV_POPULATE_WRITE (Linux 5.14)")
    with pytest.raises(hpcalloc.PlacementError, match="EACCES"):
        hpcalloc.prefault(claim)
    with pytest.raises(ValueError, match="read-only"):
        hpcalloc.prefault(mapped)


def test_prefault_of_addresses_without_memory():
    """The kernel says ENOMEM of these too, and it is no shortage."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    long = ctypes.c_long
    start = libc.mmap(None, long(8 << 30), 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, long(0))
    assert libc.munmap(ctypes.c_void_p(start), long(8 << 30)) == 0
    interface = {"version": 3, "typestr": "|u1", "shape": (1 << 20,), "data": (start + (4 << 30), False)}
    hole = np.asarray(type("Hole", (), {"__array_interface__": interface})())
    with pytest.raises(hpcalloc.PlacementError, match="EFAULT .*limit: memory that is mapped$"):
        hpcalloc.prefault(hole)


def test_prefault_beyond_what_there_is(monkeypatch):
    a = fresh(16 << 20)
    monkeypatch.setattr(_native, "room", lambda: 1 << 20)
    with pytest.raises(hpcalloc.OutOfMemoryError, match="16777216 bytes.*cgroup"):
        hpcalloc.prefault(a)
    if _native.can_query() == 0:
        assert hpcalloc.placement(a).untouched == (16 << 20) // PAGE


def test_prefault_tries_again_what_was_refused_once(monkeypatch):
    real, failures = _native.prefault, [12, 12]
    monkeypatch.setattr(_native, "prefault", lambda at, n: failures.pop() if failures else real(at, n))
    hpcalloc.prefault(fresh(128 << 20), 2)
    failures[:] = [12] * 10
    with pytest.raises(hpcalloc.OutOfMemoryError, match="prefault"):
        hpcalloc.prefault(fresh(64 << 20), 2)


def test_prefault_ends_at_an_error(monkeypatch):
    monkeypatch.setattr(_native, "prefault", lambda at, n: 13)
    with pytest.raises(hpcalloc.PlacementError, match="EACCES"):
        hpcalloc.prefault(fresh(64 << 20), 2)


def test_prefault_of_more_than_the_machine_has():
    """An error where the kernel would have called the OOM killer."""
    # Twice the room: other processes may end while this is tried.
    huge = mmap.mmap(-1, 2 * _native.room() + (1 << 30), flags=mmap.MAP_PRIVATE | MAP_NORESERVE)
    a = np.frombuffer(huge, np.uint8)
    with pytest.raises(hpcalloc.OutOfMemoryError, match="machine can still give"):
        hpcalloc.prefault(a)


def test_progress_goes_to_standard_error_when_asked():
    code = "import hpcalloc; hpcalloc.prefault(hpcalloc.empty(1 << 22), progress={}); import sys; print('rich' in sys.modules)"
    for shown in (True, False, None):
        done = subprocess.run(
            [sys.executable, "-c", code.format(shown)], capture_output=True, text=True, timeout=60, check=True
        )
        assert ("prefault" in done.stderr) is (shown is True)
        assert done.stdout == f"{shown is True}\n"


# ---- migrate ------------------------------------------------------------------------------------------------


@needs_query
@pytest.mark.parametrize(
    "policy", ["local", "interleave", "blocked", hpcalloc.on_node(NODE), hpcalloc.blocked(-1)]
)
def test_migrate_counts(policy):
    for a in (np.ones((256, 4096)), hpcalloc.ones((256, 4096)), fresh(1 << 20).reshape(256, -1)):
        if policy == hpcalloc.blocked(-1) and a.strides[0] < len(node_ids()) * PAGE:
            continue
        was = a.copy()
        result = hpcalloc.migrate(a, policy)
        where = hpcalloc.placement(a)
        assert result.pages == where.pages
        assert result.moved + result.stayed + result.untouched + result.unmoved == result.pages
        assert result.untouched == where.untouched
        assert (a == was).all()
        if len(node_ids()) == 1:
            assert result.moved == result.unmoved == 0
        assert f"{result.stayed} there already" in str(result)
        assert result.to_dict()["pages"] == result.pages


@needs_query
def test_a_mapped_file_whose_name_is_no_utf8(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"m\xfcller.dat")
    with open(path, "w+b") as file:
        file.truncate(4 << 20)
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[:: 1 << 12] = b"x" * (1 << 10)
            a = hpcalloc.ones(1 << 20)
            assert hpcalloc.migrate(a, "local").pages >= 2048
            assert process_memory().resident > 0


@needs_query
def test_migrate_nothing():
    result = hpcalloc.migrate(np.empty(0), hpcalloc.on_node(NODE))
    assert (result.pages, result.moved, result.refused) == (0, 0, {})
    a = fresh(1 << 20)
    assert hpcalloc.migrate(a, "local").untouched == (1 << 20) // PAGE
    assert hpcalloc.migrate(a, hpcalloc.on_node(NODE, populate=True)).untouched == 0
    assert hpcalloc.migrate(np.array(3.0), "blocked").pages == 1


def test_migrate_refuses():
    a = np.zeros((64, 4096))
    with pytest.raises(hpcalloc.NodeError, match="node 1023.*limit"):
        hpcalloc.migrate(a, hpcalloc.on_node(1023))
    with pytest.raises(hpcalloc.NodeError, match="limit"):
        hpcalloc.migrate(a, hpcalloc.interleave([NODE, 1023]))
    with pytest.raises(ValueError, match="limit"):
        hpcalloc.migrate(a, "near")
    with pytest.raises(TypeError, match="limit"):
        hpcalloc.migrate(a, 3)
    with pytest.raises(TypeError, match="limit"):
        hpcalloc.migrate([1], "local")
    with pytest.raises(ValueError, match="axis"):
        hpcalloc.migrate(a, hpcalloc.blocked(7))
    with pytest.raises(ValueError, match="C or F order"):
        hpcalloc.migrate(a[:, ::2], "blocked")


@needs_query
def test_migrate_tells_why(monkeypatch):
    a = np.ones(1 << 16)
    monkeypatch.setattr(
        _native, "migrate", lambda *_: MoveCounts(PAGE, 10, 1, 2, 3, {"EBUSY": 3, "ENOMEM": 1})
    )
    result = hpcalloc.migrate(a, hpcalloc.on_node(NODE))
    assert result.refused == {"EBUSY": 3, "ENOMEM": 1}
    assert result.unmoved == 4
    assert "3 not: EBUSY (pinned" in str(result)
    with pytest.raises(hpcalloc.PlacementError, match="EBUSY"):
        hpcalloc.migrate(a, hpcalloc.on_node(NODE, strict=True))
    monkeypatch.setattr(_native, "migrate", lambda *_: MoveCounts(PAGE, 1, 0, 0, 0, {"ENOMEM": 1}))
    with pytest.raises(hpcalloc.OutOfMemoryError, match="no free memory"):
        hpcalloc.migrate(a, hpcalloc.on_node(NODE, strict=True))
    monkeypatch.setattr(_native, "migrate", lambda *_: 1)
    with pytest.raises(hpcalloc.PlacementError, match="EPERM"):
        hpcalloc.migrate(a, "local")


@given(
    start=st.integers(0, 3 * PAGE),
    length=st.integers(0, 200 * PAGE),
    nodes=st.sets(st.integers(0, 9), min_size=1, max_size=5),
    stripe=st.sampled_from([0, 7 * PAGE + 8, 64 * PAGE]),
    granule=st.sampled_from([PAGE, 8 * PAGE]),
)
def test_cut_covers_everything_once(start, length, nodes, stripe, granule):
    policy = hpcalloc.blocked(0, nodes)
    pieces = list(paging.cut(policy, start, length, granule, stripe))
    at = start
    for begin, size, where in pieces:
        assert begin == at
        assert size > 0
        assert len(where) == 1
        at += size
        assert at % granule == 0 or at == start + length
    assert at == start + length
    if not stripe and length >= 20 * granule * len(nodes):
        sizes = [size for _, size, _ in pieces]
        assert [where[0] for _, _, where in pieces] == sorted(nodes)
        assert max(sizes) - min(sizes) <= 2 * granule


# ---- the calls below ----------------------------------------------------------------------------------------


@needs_bind
def test_bind_range():
    memory = fresh(1 << 20)
    at = memory.ctypes.data
    assert _native.bind_range(at, 1 << 20, [NODE]) == 0
    assert _native.bind_range(at, 1 << 20, node_ids()) == 0
    assert _native.bind_range(at, 0, [NODE]) == 0
    assert _native.bind_range(at + 8, PAGE, [NODE]) == 22
    assert _native.bind_range(at, PAGE + 8, [NODE]) == 22
    assert _native.bind_range(at, PAGE, []) == 19
    assert _native.bind_range(at, PAGE, [1023]) == 19
    ours = hpcalloc.empty(1 << 20)
    assert _native.bind_range(ours.ctypes.data, PAGE, [NODE]) == 22
    assert _native.bind_range(0, PAGE, [NODE]) == 22


def test_room():
    available = 0
    with open("/proc/meminfo") as info:
        for line in info:
            if line.startswith(("MemAvailable:", "SwapFree:")):
                available += int(line.split()[1]) * 1024
    assert 0 < _native.room() <= 1.5 * available
