# SPDX-License-Identifier: BSD-3-Clause
"""Affinity of all threads and size of the pools: applied, restored, refused."""

import ctypes
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import threadpoolctl

from hpcalloc import BindingError, _native
from hpcalloc._native.errors import name_of
from hpcalloc.bind import affinity as binding

ALL = frozenset(os.sched_getaffinity(0))
two_cpus = pytest.mark.skipif(len(ALL) < 2, reason="missing capability: two CPUs")


@pytest.fixture(autouse=True)
def _as_before():
    yield
    assert os.sched_getaffinity(0) == ALL


@pytest.fixture
def sleepers():
    """Three threads that wait; thread ids."""
    stop, ids = threading.Event(), []

    def sleep():
        ids.append(threading.get_native_id())
        stop.wait()

    threads = [threading.Thread(target=sleep) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(ids) < 3:
        time.sleep(0.001)
    yield ids
    stop.set()
    for thread in threads:
        thread.join()


def masks():
    found = [binding._mask(tid) for tid in binding._threads()]
    return {mask for mask in found if mask is not None}


@two_cpus
def test_all_threads_move_and_return(sleepers):
    one = {min(ALL)}
    record = binding.apply(one)
    try:
        assert set(sleepers) < set(record.moved)
        assert os.getpid() in record.moved
        assert masks() == {frozenset(one)}
        assert (record.before, record.after, record.left_alone) == (ALL, one, 0)
    finally:
        record.restore()
    assert masks() == {ALL}
    os.sched_setaffinity(0, one)
    record.restore()  # the second does nothing
    assert os.sched_getaffinity(0) == one
    os.sched_setaffinity(0, ALL)


@two_cpus
def test_threads_with_a_mask_of_their_own_stay(sleepers):
    first, last = {min(ALL)}, {max(ALL)}
    os.sched_setaffinity(sleepers[0], last)
    os.sched_setaffinity(sleepers[1], first)  # by chance the one that is asked for
    record = binding.apply(first)
    try:
        assert record.left_alone == 1
        assert not {sleepers[0], sleepers[1]} & set(record.moved)
        os.sched_setaffinity(sleepers[2], last)  # changes its mind meanwhile
    finally:
        record.restore()
    assert os.sched_getaffinity(sleepers[0]) == last
    assert os.sched_getaffinity(sleepers[1]) == first
    assert os.sched_getaffinity(sleepers[2]) == last


@two_cpus
def test_threads_that_start_meanwhile():
    stop = threading.Event()

    def breed():
        while not stop.is_set():
            thread = threading.Thread(target=time.sleep, args=(0.002,))
            thread.start()

    breeder = threading.Thread(target=breed)
    breeder.start()
    try:
        for _ in range(20):
            record = binding.apply({max(ALL)})
            assert masks() == {frozenset({max(ALL)})}
            late = threading.Thread(target=stop.wait)
            late.start()
            record.restore()
            assert masks() == {ALL}
    finally:
        stop.set()
        breeder.join()


def test_same_mask_moves_nothing():
    record = binding.apply(ALL)
    assert record.moved == []
    record.restore()


@two_cpus
def test_nested_records():
    outer = binding.apply({min(ALL)})
    inner = binding.apply({max(ALL)})
    inner.restore()
    assert os.sched_getaffinity(0) == {min(ALL)}
    outer.restore()


def test_refused():
    absent = max(ALL) + 1
    with pytest.raises(BindingError, match=r"no CPU.*limit.*remedy"):
        binding.apply([])
    with pytest.raises(
        BindingError, match=rf"CPUs {absent}: EINVAL.*limit: the CPUs of.*cpuset.*remedy"
    ) as caught:
        binding.apply({absent})
    assert caught.value.errno is not None
    # Partly outside: the kernel would cut the mask down without a word.
    with pytest.raises(BindingError, match="limit"):
        binding.apply({min(ALL), absent})
    assert masks() == {ALL}


def test_refused_half_way(monkeypatch, sleepers):
    if len(ALL) < 2:
        pytest.skip("missing capability: two CPUs")
    real = os.sched_setaffinity

    def third_time_refused(tid, cpus):
        third_time_refused.calls += 1
        if third_time_refused.calls == 3:
            raise PermissionError(1, "Operation not permitted")
        real(tid, cpus)

    third_time_refused.calls = 0
    monkeypatch.setattr(os, "sched_setaffinity", third_time_refused)
    with pytest.raises(BindingError, match="EPERM"):
        binding.apply({min(ALL)})
    assert masks() == {ALL}


@two_cpus
def test_a_thread_whose_name_is_cut_within_a_character():
    # The kernel keeps 15 bytes of a name, so that names that are UTF-8 may end in half a character.
    named, stop, ids = threading.Event(), threading.Event(), []

    def sleep():
        ids.append(threading.get_native_id())
        os.sched_setaffinity(0, {min(ALL)})
        ctypes.CDLL(None).prctl(15, b"beobachter \xc3\xbc\xc3")  # PR_SET_NAME
        named.set()
        stop.wait()

    thread = threading.Thread(target=sleep)
    thread.start()
    named.wait()
    try:
        bound = binding.apply({min(ALL)})
        assert binding._birth(ids[0])
        bound.restore()
        assert os.sched_getaffinity(ids[0]) == {min(ALL)}
    finally:
        stop.set()
        thread.join()


def test_without_proc(monkeypatch):
    monkeypatch.setattr(os, "listdir", lambda path: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert binding._threads() == [threading.get_native_id()]


# ---- pools ------------------------------------------------------------------------------------------


@pytest.fixture
def pool(monkeypatch):
    """The BLAS pool of NumPy at 2 threads, whatever it was, with no variable set."""
    for name in {name for names in binding._POOL_VARIABLES.values() for name in names}:
        monkeypatch.delenv(name, raising=False)
    libraries = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    if not libraries:
        pytest.skip("missing capability: NumPy has no BLAS whose pool can be sized")
    with threadpoolctl.threadpool_limits(limits=2, user_api="blas"):
        if libraries[0].num_threads != 2:
            pytest.skip("missing capability: NumPy's BLAS has no threads")
        yield libraries[0]


def of_its_kind(record, pool, fact):
    """What holds for NumPy's pool, and others of the same kind: SciPy has one too once another test imported it."""
    return {fact(p) for p in record.pools if p.library == pool.internal_api}


def test_pools_are_sized_and_restored(pool):
    record = binding.apply(ALL, threads=1, explicit_threads=True)
    assert pool.num_threads == 1
    assert of_its_kind(record, pool, lambda p: (p.before, p.after, p.kept_for)) == {(2, 1, "")}
    a = np.ones((100, 100))
    assert (a @ a)[0, 0] == 100
    record.restore()
    assert pool.num_threads == 2


def test_users_variable_wins_unless_explicit(pool, monkeypatch):
    variable = binding._POOL_VARIABLES[pool.internal_api][0]
    monkeypatch.setenv(variable, "2")
    threads = len(ALL) + 2  # neither the pool's size nor what apply() takes for untouched
    record = binding.apply(ALL, threads=threads)
    assert pool.num_threads == 2
    assert of_its_kind(record, pool, lambda p: p.kept_for) == {variable}
    record.restore()
    record = binding.apply(ALL, threads=threads, explicit_threads=True)
    assert pool.num_threads == threads
    record.restore()
    assert pool.num_threads == 2


def test_pools_left_alone(pool):
    record = binding.apply(ALL)
    assert record.pools == ()
    record = binding.apply(ALL, threads=len(ALL))  # what they have when nobody sized them
    assert record.pools == ()
    assert pool.num_threads == 2


@pytest.mark.parametrize(
    ("kind", "word"), [("LOCAL", "default"), ("INTERLEAVE", "interleave"), ("ONNODE", "prefer")]
)
def test_inherited_memory_policy(kind, word):
    """What another program sets is told in the words of the kernel's own file."""
    code = f"""
from hpcalloc import _native
from hpcalloc.bind.affinity import inherited_memory_policy
nodes = _native.nodemask(_native.node_ids()[:1])
code = _native.lib.numalloc_memory_policy(_native.lib.NUMALLOC_{kind}, 0, nodes)
with open("/proc/self/numa_maps") as maps:
    print(code, inherited_memory_policy(), next(line.split()[1] for line in maps if " stack" in line))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    refused, told, kernel = done.stdout.split()
    if int(refused):
        pytest.skip(f"missing capability: set_mempolicy ({name_of(int(refused))})")
    assert told == kernel
    assert told.partition(":")[0] == word


def test_an_unreadable_or_unknown_memory_policy(monkeypatch):
    monkeypatch.setattr(_native, "memory_policy", lambda: 1)
    assert binding.inherited_memory_policy() == ""
    monkeypatch.setattr(_native, "memory_policy", lambda: (2 | 1 << 15, (0, 1, 4)))
    assert binding.inherited_memory_policy() == "bind=static:0-1,4"
    monkeypatch.setattr(_native, "memory_policy", lambda: (99, ()))
    assert binding.inherited_memory_policy() == "policy 99"
