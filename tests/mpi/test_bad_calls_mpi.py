# SPDX-License-Identifier: BSD-3-Clause
"""Calls that one rank makes where it may not, or not at all: the others have an error after a bounded wait."""

import sys
import threading
import types

import pytest
from raising import raised

import hpcalloc
from hpcalloc.bind import mpi
from hpcalloc.shared import window

pytestmark = pytest.mark.mpi


@pytest.fixture
def world():
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Dup()
    yield comm  # not freed: a meeting on it that was given up may not have ended on all ranks
    MPI.COMM_WORLD.Barrier()


def in_a_thread(call):
    """What a call raises in another thread."""
    said = []
    thread = threading.Thread(target=lambda: said.append(raised(call)))
    thread.start()
    thread.join()
    return said[0]


def level(monkeypatch, name):
    """As if MPI had been initialised so; the calls that are tested come before any that MPI would take amiss."""
    from mpi4py import MPI

    monkeypatch.setattr(MPI, "Query_thread", lambda: getattr(MPI, name))


# ---- threads that may not call MPI ----------------------------------------------------------------------------


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", ["THREAD_SINGLE", "THREAD_FUNNELED"])
@pytest.mark.parametrize("call", ["init", "shared_zeros", "report"])
def test_one_rank_calls_from_another_thread(world, monkeypatch, name, call):
    from mpi4py import MPI

    context = hpcalloc.init(world)
    calls = {
        "init": lambda: hpcalloc.init(world),
        "shared_zeros": lambda: context.shared_zeros(10),
        "report": context.report,
    }
    level(monkeypatch, name)
    monkeypatch.setenv("HPCALLOC_TIMEOUT", "0.5")
    culprit = world.Get_size() - 1
    if world.Get_rank() == culprit:
        error = in_a_thread(calls[call])
        assert f"MPI_{name}" in str(error)
    else:
        error = raised(calls[call])
        assert f"{'a rank' if call == 'init' else f'rank {culprit}'} has not come" in str(error)
        assert "HPCALLOC_TIMEOUT=0.5 s" in str(error)
    assert isinstance(error, hpcalloc.HpcallocError)
    assert hpcalloc.current() is context
    monkeypatch.undo()
    MPI.COMM_WORLD.Barrier()
    if call == "init":
        context.close()
    else:  # no meeting can follow on its communicator, which all ranks know
        monkeypatch.setenv("HPCALLOC_TIMEOUT", "0.5")
        assert isinstance(raised(context.close), hpcalloc.HpcallocError)
    assert hpcalloc.current() is None


@pytest.mark.mpi(min_size=2)
def test_one_rank_passes_no_communicator(world, monkeypatch):
    monkeypatch.setenv("HPCALLOC_TIMEOUT", "0.5")
    bad = world.Get_rank() == 0
    error = raised(lambda: hpcalloc.init("world" if bad else world))
    assert isinstance(error, TypeError if bad else hpcalloc.HpcallocError)
    assert ("a rank has not come" in str(error)) != bad


@pytest.mark.parametrize("name", ["THREAD_SINGLE", "THREAD_FUNNELED"])
def test_what_is_freed_in_another_thread_stays(ctx, monkeypatch, name):
    a = ctx.shared_zeros(100)
    level(monkeypatch, name)
    several = a._window is not None
    for call in (ctx.close, *((a.free, a.barrier, a.sync) if several else ())):
        error = in_a_thread(call)
        assert isinstance(error, hpcalloc.HpcallocError), call
        assert f"MPI_{name}" in str(error)
    monkeypatch.undo()
    assert not ctx.closed
    a.barrier()
    a.free()


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_bad_timeouts(world, monkeypatch, text):
    monkeypatch.setenv("HPCALLOC_TIMEOUT", text)
    if world.Get_size() == 1:
        hpcalloc.init(world).close()  # nobody to wait for
        return
    error = raised(lambda: hpcalloc.init(world))
    assert isinstance(error, hpcalloc.HpcallocError)
    assert f"HPCALLOC_TIMEOUT={text!r}" in str(error)
    monkeypatch.setenv("HPCALLOC_TIMEOUT", "0")
    hpcalloc.init(world).close()


# ---- interrupts -----------------------------------------------------------------------------------------------


@pytest.mark.mpi(min_size=2)
def test_an_interrupt_while_a_lock_is_taken_leaves_it_free(ctx):
    """Ctrl-C at any line on the way into the lock."""
    a = ctx.shared_zeros(8 * ctx.local_size)
    entered, line = False, 0
    while not ctx.node_comm.bcast(entered):
        line += 1
        if ctx.local_rank == 0:
            entered = interrupted(line, a)
        a.barrier()
        if ctx.local_rank == 1:
            with a.lock(0, timeout=20):
                pass
        a.barrier()
    assert ctx.node_comm.bcast(line) > 10


def interrupted(line, a):
    """Lock with an interrupt at the so-and-so-many-th line of shared.py; whether the lock was entered before."""
    left, entered = line, False

    def trace(frame, event, arg):
        nonlocal left
        if not frame.f_code.co_filename.endswith("hpcalloc/shared/array.py"):
            return None
        if event == "line" and not entered:
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with a.lock(0):
            entered = True
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return entered


def test_threads_exclude_each_other(ctx):
    """Also where the host has one rank, and the lock no word in a window."""
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        pytest.skip("missing capability: MPI_THREAD_MULTIPLE")
    a = ctx.shared_zeros(ctx.local_size)
    mine = ctx.local_rank
    with a.lock(mine):
        assert isinstance(in_a_thread(a.lock(mine, timeout=0.01).__enter__), TimeoutError)
    with a.lock(mine, timeout=60):
        pass
    a.barrier()


# ---- windows that fail ----------------------------------------------------------------------------------------


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("failing", ["all ranks", "one rank"])
@pytest.mark.parametrize("step", ["Allocate_shared", "Lock_all"])
def test_a_window_that_fails(world, monkeypatch, failing, step):
    from mpi4py import MPI

    infos = []

    class Info:
        @staticmethod
        def Create():  # noqa: N802 - MPI's name
            infos.append(MPI.Info.Create())
            return infos[-1]

    class Win:
        @staticmethod
        def Allocate_shared(*arguments):  # noqa: N802
            win = MPI.Win.Allocate_shared(*arguments)  # collective: it fails afterwards
            if step == "Allocate_shared" and bad:
                raise MPI.Exception(MPI.ERR_RMA_SHARED)
            return types.SimpleNamespace(Lock_all=refuse) if step == "Lock_all" and bad else win

    def refuse(*_):
        raise MPI.Exception(MPI.ERR_RMA_SYNC)

    class Module(types.ModuleType):
        def __getattr__(self, name):
            return getattr(MPI, name)

    module = Module("MPI")
    module.Win, module.Info = Win, Info
    with hpcalloc.init(world) as context:
        bad = failing == "all ranks" or context.rank == context.size - 1
        monkeypatch.setattr(window, "mpi", types.SimpleNamespace(library=lambda: module, is_up=lambda: True))
        for _ in range(3):
            error = raised(lambda: context.shared_zeros(1000))
            assert isinstance(error, hpcalloc.HpcallocError if not bad else MPI.Exception)
        assert len(infos) == 3
        assert all(info == MPI.INFO_NULL for info in infos)
        monkeypatch.undo()
        assert window.mpi is mpi
        context.shared_zeros(10).barrier()


def test_making_a_window_leaves_the_thread_level(world):
    from mpi4py import MPI

    before = MPI.Query_thread()
    with hpcalloc.init(world) as context:
        context.shared_zeros(10).free()
    assert MPI.Query_thread() == before
