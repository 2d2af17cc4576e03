# SPDX-License-Identifier: BSD-3-Clause
"""Arrays over the ranks of a host. An error on one rank must be raised on all and hang none."""

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from launching import without_launcher
from raising import raised

import hpcalloc
from hpcalloc import _native
from hpcalloc.bind.agreement import Ranks
from hpcalloc.shared import create as shared

pytestmark = pytest.mark.mpi


@pytest.fixture
def world():
    from mpi4py import MPI

    yield MPI.COMM_WORLD
    while hpcalloc.current() is not None:
        hpcalloc.current().close()
    MPI.COMM_WORLD.Barrier()


# ---- what it gives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("halo", [0, 2])
@pytest.mark.parametrize(
    ("shape", "axis", "dtype"),
    [
        ((1000, 300), 0, float),
        ((1000, 300), -1, "i2"),
        ((7, 5, 64), 1, "c16"),
        (3, 0, "u1"),
        ((0, 4), 0, float),
        ((64, 512), 0, [("x", "f4"), ("y", "i8")]),
        (1 << 18, 0, "f8"),
    ],
)
def test_blocks_are_seen_by_all(ctx, shape, axis, dtype, halo):
    a = ctx.shared_zeros(shape, dtype, axis, halo)
    sizes = (shape,) if isinstance(shape, int) else shape
    axis %= len(sizes)
    assert a.whole.shape == a.shape == sizes
    assert a.whole.dtype == a.dtype == np.dtype(dtype)
    assert a.size == ctx.local_size
    assert not a._stored.tobytes().strip(b"\0")
    a.barrier()
    a.mine[...] = ctx.local_rank + 1
    a.barrier()
    for rank, (start, stop) in enumerate(a.bounds):
        part = np.moveaxis(a.whole, axis, 0)[start:stop]
        assert (part == np.full((), rank + 1).astype(a.dtype)).all()
        np.testing.assert_array_equal(a.block(rank), np.moveaxis(part, 0, axis))
    assert a.mine_with_halo.shape[axis] == a.stop - a.start + 2 * halo
    assert a.whole_with_halo.shape[axis] == sizes[axis] + 2 * halo
    assert np.shares_memory(a.mine, a.whole) or a.mine.size == 0
    first = np.moveaxis(a.whole_with_halo, axis, 0)
    if halo:
        assert not (first[:halo] != np.zeros((), a.dtype)).any()
    assert a.whole.flags.c_contiguous or axis
    a.barrier()
    a.free()


def test_a_stencil_reads_the_neighbours_rows(ctx):
    a = ctx.shared_zeros(64 * ctx.local_size, halo=1)
    b = ctx.shared_empty(64 * ctx.local_size, halo=1)
    if ctx.local_rank == 0:
        a.whole_with_halo[...] = np.arange(a.shape[0] + 2) ** 2
    a.barrier()
    inside = a.mine_with_halo
    b.mine[...] = inside[:-2] - 2 * inside[1:-1] + inside[2:]
    b.barrier()
    assert (b.whole == 2).all()
    b.barrier()


def test_blocks_are_on_their_ranks_nodes(ctx):
    rows = 512 * ctx.local_size
    a = ctx.shared_empty((rows, 512))
    assert a.straddling == 0
    assert a.own_pages == 512
    where = a.placement()
    assert where.unknown or (where.pages, where.untouched, where.local_fraction) == (512, 0, 1.0)
    own = hpcalloc.placement(a.mine)
    assert own.unknown or own.local_fraction == 1.0


def test_report_counts_this_ranks_part(ctx):
    def counted():
        gc.collect()
        return next(r["arrays"] for r in ctx.report().ranks if r["rank"] == ctx.rank)

    before = counted()
    a = ctx.shared_empty((512 * ctx.local_size, 512))
    with_it = counted()
    assert with_it["pages"] == before["pages"] + 512
    assert with_it["unknown"] or with_it["local"] == before["local"] + 512
    assert with_it["shared"] == before["shared"] + (ctx.local_size > 1)
    view = a.whole
    a.free()
    del a
    assert counted()["pages"] == with_it["pages"]  # the view keeps it
    del view
    assert counted()["pages"] == before["pages"]


def test_bounds_given(ctx):
    counts = [3 + rank for rank in range(ctx.local_size)]
    a = ctx.shared_zeros((sum(counts), 10), split=counts)
    assert len(a.mine) == 3 + ctx.local_rank
    assert a.straddling == ctx.local_size > 1 or a.straddling <= 1
    assert sum(ctx.node_comm.allgather(a.own_pages)) == -(-a.nbytes // 4096) or ctx.local_size == 1


def test_locks_exclude(ctx):
    a = ctx.shared_zeros(ctx.local_size)
    for _ in range(20):
        for rank in range(ctx.local_size):
            with a.lock(rank):
                a.whole[rank] += 1
    a.barrier()
    assert (a.whole == 20 * ctx.local_size).all()
    a.barrier()
    with a.lock(), pytest.raises(hpcalloc.HpcallocError, match="re-entrant"), a.lock():
        pass
    with a.lock():
        pass
    with pytest.raises(ValueError, match="limit"), a.lock(ctx.local_size):
        pass
    with pytest.raises(ValueError, match="limit"):
        a.block(-1)
    with pytest.raises(TypeError, match="limit"):
        a.block(0.0)
    with pytest.raises(TypeError, match="limit"), a.lock("0"):
        pass


@pytest.mark.mpi(min_size=2)
def test_lock_times_out(ctx):
    a = ctx.shared_zeros(ctx.local_size)
    if ctx.local_rank == 0:
        with a.lock(1):
            a.barrier()
            a.barrier()
    else:
        a.barrier()
        with pytest.raises(TimeoutError, match="local rank 0"), a.lock(1, timeout=0.01):
            pass
        a.barrier()
    a.barrier()
    with a.lock(1, timeout=60):
        pass


@pytest.mark.mpi(min_size=2)
def test_window(ctx):
    """The window is MPI's: other ranks' blocks can be had by one-sided calls."""
    a = ctx.shared_zeros(512 * ctx.local_size)
    a.mine[...] = ctx.local_rank
    a.barrier()
    got = np.empty(512)
    left = (ctx.local_rank - 1) % ctx.local_size
    a.win.Get(got, left, target=a.win_offset)
    a.win.Flush(left)
    assert (got == left).all()
    a.sync()
    a.barrier()


# ---- its end ------------------------------------------------------------------------------------------------


def test_views_outlive_everything(world):
    with hpcalloc.init(world) as context:
        a = context.shared_zeros(1 << 16)
        b = context.shared_zeros(1 << 16)
        views = a.mine, b.mine
        a.free()
        a.free()
        uses = (
            lambda a=a: a.whole,
            a.barrier,
            lambda a=a: a.mine_with_halo,
            lambda a=a: a.block(0),
            a.__enter__,
        )
        for use in uses:
            assert isinstance(raised(use), hpcalloc.ContextClosedError)
        assert "freed" in repr(a)
    if b._window is not None:  # one rank alone has nothing to end
        for use in (b.barrier, b.sync, lambda b=b: b.win):
            assert isinstance(raised(use), hpcalloc.ContextClosedError)
    views += (b.whole,)
    b.free()
    del a, b, use, uses
    gc.collect()
    for view in views:
        view[...] = 5
        assert (view == 5).all()
    assert isinstance(raised(lambda: context.shared_zeros(5)), hpcalloc.ContextClosedError)


def mappings():
    """Count what is mapped."""
    with open("/proc/self/maps") as maps:
        return sum(1 for _ in maps)


def test_many_times(ctx):
    """Windows, communicators and mappings are freed."""
    before = mappings()
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        with ctx.shared_zeros((100, 100)) as a:
            a.mine[...] = 1
            a.barrier()
    del a
    gc.collect()
    assert mappings() < before + 20
    assert len(os.listdir("/proc/self/fd")) < files + 10


def test_left_by_an_exception(ctx):
    def work():
        with ctx.shared_zeros(10) as a:
            a.barrier()
            raise ZeroDivisionError

    assert isinstance(raised(work), ZeroDivisionError)


def test_not_pickled(ctx):
    import pickle

    with pytest.raises(TypeError, match="remedy"):
        pickle.dumps(ctx.shared_zeros(5))


# ---- errors on all ranks ------------------------------------------------------------------------------------


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("culprit", [0, -1])
@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"shape": (11, 8)}, ValueError),
        ({"dtype": "f4"}, ValueError),
        ({"axis": 1}, ValueError),
        ({"halo": 1}, ValueError),
        ({"split": "even"}, ValueError),
        ({"shape": (-1, 8)}, ValueError),
        ({"shape": ()}, ValueError),
        ({"shape": "ab"}, TypeError),
        ({"shape": 2.5}, TypeError),
        ({"dtype": "no such type"}, TypeError),
        ({"shape": (1 << 40, 1 << 40)}, ValueError),
        ({"dtype": object}, TypeError),
        ({"dtype": "S0"}, TypeError),
        ({"axis": 2}, ValueError),
        ({"axis": 0.0}, TypeError),
        ({"halo": -1}, ValueError),
        ({"split": "odd"}, ValueError),
        ({"split": 3}, TypeError),
    ],
)
def test_one_rank_is_wrong(ctx, culprit, changed, kind):
    arguments = {"shape": (10, 8), "dtype": float, "axis": 0, "halo": 0, "split": "auto"}
    if ctx.rank == culprit % ctx.size:
        arguments |= changed
    error = raised(lambda: ctx.shared_zeros(**arguments))
    assert isinstance(error, kind), error
    assert "rank" in str(error) or ctx.rank == culprit % ctx.size
    assert "; limit: " in str(error)
    ctx.shared_zeros(10).barrier()  # and all is well again


@pytest.mark.parametrize("changed", [{"split": [1]}, {"split": 3.5}, {"dtype": object}, {"axis": 5}])
def test_all_ranks_are_wrong(ctx, changed):
    error = raised(lambda: ctx.shared_empty((10 * ctx.size, 8), **changed))
    assert isinstance(error, (ValueError, TypeError))
    assert "shared_empty" in str(error)


@pytest.mark.mpi(min_size=2)
def test_no_room_in_shm(ctx, monkeypatch):
    if ctx.rank == ctx.size - 1:  # one rank sees a small one, as in a container of its own
        small = type("S", (), {"f_bavail": 1, "f_frsize": 4096, "f_blocks": 16})
        monkeypatch.setattr(os, "statvfs", lambda path: small)
    error = raised(lambda: ctx.shared_zeros(1 << 16))
    assert isinstance(error, hpcalloc.OutOfMemoryError)
    assert "/dev/shm has 4.0 KiB free" in str(error)
    assert "--shm-size" in str(error)


@pytest.mark.mpi(min_size=2)
def test_more_than_there_is(ctx):
    shm = os.statvfs("/dev/shm")
    # All of it, free or not: what is free changes between two ranks' looks, and they must ask for the same.
    error = raised(lambda: ctx.shared_zeros(shm.f_blocks * shm.f_frsize, "u1"))
    assert isinstance(error, hpcalloc.OutOfMemoryError)


@pytest.mark.mpi(min_size=2)
def test_no_room_in_a_cgroup(ctx, monkeypatch):
    if ctx.rank == 0:
        monkeypatch.setattr(_native, "room", lambda: 100_000)
    error = raised(lambda: ctx.shared_zeros(1 << 16))
    assert isinstance(error, hpcalloc.OutOfMemoryError)
    assert "cgroup" in str(error)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("step", ["prefault", "bind_range"])
def test_memory_fails_on_one_rank(ctx, monkeypatch, step):
    if ctx.rank == ctx.size - 1:
        monkeypatch.setattr(_native, step, lambda *_: 12)
        monkeypatch.setattr(_native, "can_bind", lambda: 0)
    error = raised(lambda: ctx.shared_zeros(1 << 16))
    assert isinstance(error, hpcalloc.OutOfMemoryError)
    monkeypatch.undo()
    ctx.shared_zeros(10).barrier()


@pytest.mark.mpi(min_size=2)
def test_strict_memory_elsewhere(world, monkeypatch):
    if _native.can_bind() != 0:
        pytest.skip("missing capability: mbind is not permitted")
    with hpcalloc.init(world, strict=True) as context:
        context.shared_zeros(1 << 16).barrier()
        if context.rank == 0:
            elsewhere = hpcalloc.Placement(4096, 4096, 1, {999: 1}, local_nodes=(0,))
            monkeypatch.setattr(shared, "range_placement", lambda *_: elsewhere)
        error = raised(lambda: context.shared_zeros(1 << 16))
        assert isinstance(error, hpcalloc.OutOfMemoryError)
        assert "node 999" in str(error)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("hosts", ["halves", "one rank and the others"])
def test_hosts_have_an_array_each(ctx, hosts):
    """Two hosts, made of parts of this one: each its array, and an error on one is raised on both."""
    whole = ctx.node_comm
    half = whole.Split(ctx.rank % 2 if hosts == "halves" else ctx.rank == 0, ctx.rank)
    state = ctx._state
    former, state.host, state.local_rank = state.host, Ranks(half), half.Get_rank()
    try:
        host = half.bcast(ctx.rank)  # hosts may differ
        a = ctx.shared_zeros((8, 8 + host))
        assert a.size == half.Get_size()
        a.mine[...] = host
        a.barrier()
        assert (a.whole == host).all()
        error = raised(lambda: ctx.shared_zeros(8, axis=int(host > 0)))
        assert isinstance(error, ValueError)
        for step in ("Window", "_alone", "_map"):
            with pytest.MonkeyPatch.context() as patch:
                # Making a window is MPI's, on all ranks of a host; the other steps are each rank's.
                if ctx.rank == 0 or (step == "Window" and host == 0):
                    patch.setattr(shared, step, lambda *_: 1 / 0)
                error = raised(lambda: ctx.shared_zeros(8))
            ranks_with = {"Window": half.Get_size() > 1, "_map": half.Get_size() > 1}.get(
                step, half.Get_size() == 1
            )
            if whole.bcast(ranks_with):
                assert isinstance(error, (ZeroDivisionError, hpcalloc.HpcallocError)), (step, error)
            else:
                assert error is None
        while state.windows:  # they meet on `half`
            state.windows.pop().free()
    finally:
        state.host, state.local_rank = former, whole.Get_rank()
        half.Free()


# ---- where MPI can't be called -----------------------------------------------------------------------------


def alone(code):
    """Run a program of one rank that is none of this job's."""
    environ = without_launcher(os.environ) | {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environ, check=False
    )


@pytest.mark.parametrize("level", ["single", "funneled"])
def test_thread_levels(world, level):
    if world.Get_rank() != 0:
        return
    done = alone(
        f"""
import mpi4py, threading
mpi4py.rc.thread_level = "{level}"
from mpi4py import MPI
import hpcalloc
ctx = hpcalloc.init(MPI.COMM_WORLD)
ctx.shared_zeros(10).barrier()
said = []
def other():
    for call in (lambda: ctx.shared_zeros(10), lambda: hpcalloc.init(MPI.COMM_WORLD)):
        try:
            call()
        except hpcalloc.HpcallocError as error:
            said.append(str(error))
thread = threading.Thread(target=other)
thread.start()
thread.join()
assert len(said) == 2 and all("MPI_THREAD_{level.upper()}" in text for text in said), (said, MPI.Query_thread())
ctx.close()
"""
    )
    assert done.returncode == 0, done.stderr


def test_after_finalize(world):
    if world.Get_rank() != 0:
        return
    done = alone(
        """
from mpi4py import MPI
import hpcalloc
ctx = hpcalloc.init(MPI.COMM_WORLD)
a = ctx.shared_zeros(10)
MPI.Finalize()
try:
    ctx.shared_zeros(10)
except hpcalloc.HpcallocError as error:
    assert "MPI is finalised" in str(error)
else:
    raise SystemExit("no error")
a.free()
ctx.close()
"""
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.mpi(min_size=2)
def test_in_a_forked_child(ctx):
    a = ctx.shared_zeros(1 << 16)
    view = a.mine
    child = os.fork()
    if child == 0:
        error = raised(a.barrier)
        good = isinstance(error, hpcalloc.HpcallocError) and "forked" in str(error)
        view[...] = 7  # the views are shared
        a.free()
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    a.barrier()
    assert (a.whole == 7).all()


@pytest.mark.mpi(min_size=2)
def test_two_threads_of_a_rank_and_a_lock(ctx):
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        pytest.skip("missing capability: MPI_THREAD_MULTIPLE")
    a = ctx.shared_zeros(ctx.local_size)

    def add():
        for _ in range(10):
            with a.lock(0):
                a.whole[0] += 1

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    a.barrier()
    assert a.whole[0] == 20 * ctx.local_size
