# SPDX-License-Identifier: BSD-3-Clause
"""Ctrl-C and forks at any moment of init and close: nothing stays open, and the affinity is as before."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import hpcalloc
from hpcalloc import opening as module
from hpcalloc._native import _handler

ALL = frozenset(os.sched_getaffinity(0))
FILES = (
    "hpcalloc/context.py",
    "hpcalloc/opening.py",
    "hpcalloc/bind/rank.py",
    "hpcalloc/bind/affinity.py",
    "hpcalloc/bind/agreement.py",
    "hpcalloc/bind/mpi.py",
    "hpcalloc/memory/numpy_allocator.py",
)


def interrupt_at(place, use, kind=KeyboardInterrupt, times=1):
    """Run `use` with an interrupt at the so-and-so-many-th place in `FILES`; whether there was one.

    Python runs signal handlers where a Python function begins and where a function in C has returned. Profilers are
    called at the same places.
    """
    left = place

    def profile(frame, event, arg):
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename.endswith(FILES):
            left -= 1
            if -times < left <= 0:
                raise kind

    before = sys.getprofile()
    try:
        sys.setprofile(profile)
        use()
    except kind:
        pass
    finally:
        sys.setprofile(before)
    return left <= 0


def use():
    with hpcalloc.init(share=(0, 2)) as ctx:
        ctx.install_numpy_allocator(new_threads=True)
        with hpcalloc.numpy_allocator("local", new_threads=True):
            pass


@pytest.mark.parametrize("times", [1, 3])
def test_an_interrupt_anywhere_leaves_nothing(times):
    place, hit, start = 1, True, threading.Thread.start
    while hit:
        hit = interrupt_at(place, use, times=times)
        assert hpcalloc.current() is None, place
        assert os.sched_getaffinity(0) == ALL, place
        assert module._busy is None, place
        assert _handler.handler_of(np.empty(3)) is None, place
        assert threading.Thread.start is start, place
        place += 1 if times == 1 else 5
    assert place > 100
    use()


def test_an_interrupted_close_can_be_repeated():
    for place in range(1, 40, 2):
        ctx = hpcalloc.init(share=(0, 2))
        interrupt_at(place, ctx.close)
        ctx.close()
        assert ctx.closed
        assert hpcalloc.current() is None
        assert os.sched_getaffinity(0) == ALL


def test_interrupts_that_come_faster_than_the_work_goes():
    """What is insisted on is done in the end, whatever a crowded machine does; the signals come after it."""
    tries, late, done = 0, 0, False

    def work():
        nonlocal tries, done
        tries += 1
        for _ in range(200):
            os.kill(os.getpid(), signal.SIGALRM)  # to whichever thread takes it
        done = True

    def interrupted(*_):
        nonlocal late
        if not done:
            raise KeyboardInterrupt
        late += 1

    before = signal.signal(signal.SIGALRM, interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            _handler.insist(work)
        assert done
        assert 1 < tries < 20
        assert late == 1
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit])
def test_other_exceptions_count_as_well(kind):
    for place in (30, 80, 120):
        interrupt_at(place, use, kind)
        assert hpcalloc.current() is None
        assert os.sched_getaffinity(0) == ALL


def test_insist_calls_until_it_returns():
    calls = []

    def work():
        calls.append(1)
        if len(calls) < 4:
            raise KeyboardInterrupt(len(calls))

    with pytest.raises(KeyboardInterrupt, match="1"):
        _handler.insist(work)
    assert len(calls) == 4
    assert _handler.insist(lambda: 5) is None


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("held", ["lock", "opening"])
def test_a_child_forked_while_another_thread_is_in_init(held):
    inside, leave = threading.Event(), threading.Event()

    def work():
        if held == "lock":
            with module._lock:
                inside.set()
                leave.wait(20)
        else:
            opening = module.Opening(None, hpcalloc.Context)
            opening.enter(module.rank.check_options("auto", "local", False, "auto", None))
            inside.set()
            leave.wait(20)
            opening.undo()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        use()
        os._exit(0 if hpcalloc.current() is None else 1)
    status = os.waitpid(child, 0)[1]
    leave.set()
    thread.join()
    assert status == 0
    use()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_no_context_without_a_reference_is_lost():
    hpcalloc.init(share=(0, 1))
    assert hpcalloc.current() is not None
    hpcalloc.current().close()


FORKS = """
import os, signal, threading, time, hpcalloc
threading.Thread(target=lambda: hpcalloc.init().close()).start()
wrong = 0
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        hpcalloc.current()
        os._exit(0)
    wrong += os.waitpid(child, 0)[1] != 0
    time.sleep(0.001)
raise SystemExit(wrong)
"""
PRESSED = """
import os, signal, threading, time, hpcalloc
def press():
    for _ in range(200):
        time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
pressing = threading.Thread(target=press)
pressed = 0
def interrupted(*call):
    global pressed
    pressed += 1
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupted)
pressing.start()
while pressing.is_alive():
    try:
        hpcalloc.init().close()
    except KeyboardInterrupt:
        pass
while True:
    try:
        pressing.join()
        break
    except KeyboardInterrupt:
        pass
hpcalloc.init().close()
raise SystemExit(not pressed)
"""


@pytest.mark.parametrize("program", [FORKS, PRESSED], ids=["forks", "interrupts"])
def test_the_first_use_loads_modules_whatever_happens(program):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
