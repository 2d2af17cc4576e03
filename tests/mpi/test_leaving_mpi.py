# SPDX-License-Identifier: BSD-3-Clause
"""Ranks that leave, do not come, or do something else than the others: nobody waits for ever, and all are told who."""

import signal
import threading
import time

import numpy as np
import pytest
from raising import raised

import hpcalloc
from hpcalloc.bind.agreement import Ranks

pytestmark = [pytest.mark.mpi(min_size=2)]


def _add_in_place(a):
    a += 1


def _set(a):
    a[0] = 5


# What would be done by every rank to all of it, or mean either.
WHOLE_OR_MINE = (
    _add_in_place,
    _set,
    lambda a: np.add(1, 2, out=a),
    lambda a: np.add(1, 2, a),
    lambda a: np.add.at(a, 0, 1),
    lambda a: np.add.reduce(np.ones((3, 3)), out=a),
    lambda a: a[0],
    len,
    list,
)


@pytest.fixture
def world(monkeypatch):
    from mpi4py import MPI

    monkeypatch.setenv("HPCALLOC_TIMEOUT", "30")  # what waits so long shows in the test's time limit
    comm = MPI.COMM_WORLD.Dup()
    yield comm  # not freed: a meeting on it may not have ended on all ranks
    while hpcalloc.current() is not None:
        hpcalloc.current()._exit(Exception)
    MPI.COMM_WORLD.Barrier()


def culprit_of(world):
    return world.Get_rank() == world.Get_size() - 1


def test_an_exception_inside_keeps_nobody_waiting(world):
    """The others close their context as if nothing had been; MPI goes on."""

    def work():
        with hpcalloc.init(world) as ctx:
            ctx.shared_zeros(10)
            if culprit_of(world):
                raise ZeroDivisionError

    assert (raised(work) is not None) == culprit_of(world)
    assert hpcalloc.current() is None
    assert world.allreduce(1) == world.Get_size()
    hpcalloc.init(world).close()


@pytest.mark.parametrize("call", ["barrier", "free", "shared_zeros", "report"])
def test_the_others_are_told_who_left(world, call):
    def work():
        with hpcalloc.init(world) as ctx:
            a = ctx.shared_zeros(10)
            if culprit_of(world):
                raise ZeroDivisionError
            calls = {"shared_zeros": lambda: ctx.shared_zeros(5), "report": ctx.report}
            calls.get(call, getattr(a, call, None))()

    error = raised(work)
    if culprit_of(world):
        assert isinstance(error, ZeroDivisionError)
    else:
        assert isinstance(error, hpcalloc.HpcallocError)
        assert f"rank {world.Get_size() - 1} of {world.Get_size()} has left" in str(error)
    assert hpcalloc.current() is None


@pytest.mark.parametrize("late", [0, -1])
@pytest.mark.parametrize("call", ["init", "barrier", "close"])
def test_who_does_not_come_is_named(world, monkeypatch, late, call):
    from mpi4py import MPI

    late %= world.Get_size()
    away = world.Get_rank() == late
    ctx = hpcalloc.init(world) if call != "init" else None
    a = ctx.shared_zeros(10) if ctx else None
    monkeypatch.setenv("HPCALLOC_TIMEOUT", "0.4")
    if not away:
        calls = {
            "init": lambda: hpcalloc.init(world),
            "barrier": lambda: a.barrier(),
            "close": lambda: ctx.close(),
        }
        error = raised(calls[call])
        assert isinstance(error, hpcalloc.HpcallocError)
        # On the caller's communicator no message is sent that could tell who.
        assert f"{'a rank' if call == 'init' else f'rank {late}'} has not come" in str(error)
        assert "HPCALLOC_TIMEOUT=0.4 s" in str(error)
    MPI.COMM_WORLD.Barrier()
    if call == "barrier":
        ctx._exit(Exception)
    elif call == "close" and away:
        assert isinstance(raised(ctx.close), hpcalloc.HpcallocError)
    assert hpcalloc.current() is None


def test_an_interrupted_init_is_no_reason_for_a_later_one_to_wait(world, monkeypatch):
    """Open MPI makes no communicator as long as one of an older communicator is in the making."""
    spoilt, sound = world.Dup(), world.Dup()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setenv("HPCALLOC_TIMEOUT", "0.5")
    with monkeypatch.context() as patch:
        if culprit_of(world):
            patch.setattr(Ranks, "duplicate", interrupted)
        with pytest.raises((KeyboardInterrupt, hpcalloc.HpcallocError)):
            hpcalloc.init(spoilt)
    monkeypatch.setenv("HPCALLOC_TIMEOUT", "10")
    hpcalloc.init(sound).close()


def test_a_late_rank_keeps_init_waiting_and_the_users_messages_alone(world):
    """A rank that is late sends nothing and has nothing sent: whatever the user receives is the user's."""
    from mpi4py import MPI

    got = np.zeros(1)
    pending = world.Irecv(got, MPI.ANY_SOURCE, MPI.ANY_TAG)
    if culprit_of(world):
        time.sleep(1.6)
    with hpcalloc.init(world) as ctx:
        world.Send(np.ones(1), (ctx.rank + 1) % ctx.size, 5)
        status = MPI.Status()
        pending.Wait(status)
    assert (status.Get_source(), status.Get_tag(), got[0]) == ((ctx.rank - 1) % ctx.size, 5, 1)


def test_a_call_that_a_rank_passes_once_waits_once(world, monkeypatch):
    """A rank that comes to the first of the two meetings before a call of MPI's, and not to the second."""
    ranks = Ranks(world.Dup())
    monkeypatch.setenv("HPCALLOC_TIMEOUT", "1.5")
    start = time.monotonic()
    if culprit_of(world):
        ranks.meet("split")
    else:
        with pytest.raises(hpcalloc.HpcallocError, match=f"rank {world.Get_size() - 1} has not come"):
            ranks.together("split", ranks.comm.Split, 0, 0)
        assert time.monotonic() - start < 2 * 1.5


def test_different_calls_are_told_apart(world):
    def work():
        with hpcalloc.init(world) as ctx:
            arrays = [ctx.shared_zeros(10), ctx.shared_zeros(20)]
            for array in arrays if culprit_of(world) else arrays[::-1]:
                array.free()

    error = raised(work)
    assert isinstance(error, hpcalloc.HpcallocError)
    assert "free of array 1" in str(error)
    assert "free of array 2" in str(error)


def test_the_callers_communicator_may_be_freed(world):
    mine = world.Dup()
    ctx = hpcalloc.init(mine)
    mine.Free()
    a = ctx.shared_zeros(ctx.size)
    a.mine[...] = 1
    a.barrier()
    assert a.whole.sum() == ctx.size
    assert (ctx.report().data["size"]) == ctx.size
    ctx.close()


def test_threads_with_communicators_of_their_own(world):
    """In opposite order on the ranks: they may be refused, but none waits for another."""
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        pytest.skip("missing capability: MPI_THREAD_MULTIPLE")
    comms = [world.Dup(), world.Dup()]
    errors = []

    def work(comm):
        errors.append(raised(lambda: hpcalloc.init(comm).close()))

    for _ in range(10):
        order = comms if world.Get_rank() == 0 else comms[::-1]
        threads = [threading.Thread(target=work, args=(comm,)) for comm in order]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        world.Barrier()
    assert {type(error) for error in errors} <= {type(None), hpcalloc.PlanError}
    assert hpcalloc.current() is None


def in_threads(*calls):
    """What each call raises in a thread of its own, all at the same time."""
    errors = [None] * len(calls)

    def work(i):
        errors[i] = raised(calls[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_threads_in_barriers_of_arrays_of_their_own(world):
    """They come in any order on each rank, and wait for their own array alone."""
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        pytest.skip("missing capability: MPI_THREAD_MULTIPLE")
    with hpcalloc.init(world) as ctx:
        arrays = [ctx.shared_zeros((ctx.local_size, 8), int) for _ in range(3)]
        bad = []

        def rounds(a):
            for step in range(1, 60):
                a.mine[...] = step
                a.barrier()
                if not (a.whole == step).all():
                    bad.append(a.whole.copy())
                a.barrier()

        order = arrays if ctx.rank % 2 else arrays[::-1]
        assert in_threads(*(lambda a=a: rounds(a) for a in order)) == [None] * 3
        assert bad == []


def test_a_second_thread_is_refused(world):
    """At once; the call that waits goes on."""
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        pytest.skip("missing capability: MPI_THREAD_MULTIPLE")
    with hpcalloc.init(world) as ctx:
        a = ctx.shared_zeros(10)
        if ctx.rank == 0:
            waits = []
            thread = threading.Thread(target=lambda: waits.append(raised(a.barrier)))
            thread.start()
            while not a._window.ranks._under_way:
                time.sleep(1e-3)
            error = raised(a.barrier)
            assert isinstance(error, hpcalloc.HpcallocError)
            assert "another thread is in SharedArray.barrier of array 1" in str(error)
            world.Barrier()
            thread.join()
            assert waits == [None]
        else:
            world.Barrier()
            a.barrier()
        a.barrier()


def test_a_signals_handler_is_refused(world, monkeypatch):
    """Its collective call would come between those of the call that it has interrupted."""
    outer = hpcalloc.init(world)
    a = outer.shared_zeros(10)
    inside = (
        lambda: hpcalloc.init(world),
        outer.close,
        outer.report,
        a.barrier,
        lambda: outer.shared_zeros(5),
    )
    said = []
    before = signal.signal(signal.SIGUSR1, lambda *_: said.append([str(raised(call)) for call in inside]))
    meet = Ranks.meet

    def interrupted(self, *rest):
        if not said:
            signal.raise_signal(signal.SIGUSR1)
        return meet(self, *rest)

    monkeypatch.setattr(Ranks, "meet", interrupted)
    for call in (lambda: hpcalloc.init(world).close(), *inside[2:]):
        said.clear()
        call()
        assert all("inside of" in text and "in a signal's handler" in text for text in said[0]), said
    signal.signal(signal.SIGUSR1, before)
    outer.close()


def test_contexts_open_on_some_ranks_only(world, monkeypatch):
    """All ranks are told, on whichever hosts they are."""
    from mpi4py import MPI

    outer = hpcalloc.init(MPI.COMM_SELF) if culprit_of(world) else None
    monkeypatch.setattr("hpcalloc.opening._check_nested", lambda *_: None)
    error = raised(lambda: hpcalloc.init(world))
    assert isinstance(error, hpcalloc.HpcallocError)
    assert "init inside of a context" in str(error)
    assert hpcalloc.current() is outer
    if outer is not None:
        outer.close()


def test_numpy_takes_a_shared_array_for_the_whole(world):
    with hpcalloc.init(world) as ctx:
        a = ctx.shared_zeros((4 * ctx.local_size, 3))
        a.mine[...] = 1
        a.barrier()
        assert np.asarray(a).shape == a.shape
        assert np.shares_memory(np.asarray(a), a.whole)
        assert np.sum(a) == 12 * ctx.local_size
        np.testing.assert_array_equal(a + 1, np.full(a.shape, 2.0))
        for use in WHOLE_OR_MINE:
            with pytest.raises(TypeError, match=r"a\.whole .* and a\.mine"):
                use(a)
        assert np.sum(a) == 12 * ctx.local_size
        a.barrier()
