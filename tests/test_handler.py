# SPDX-License-Identifier: BSD-3-Clause
"""NumPy's own allocations through our handler: what is covered, what is restored, lifetimes, refusals."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import multiprocessing
import pickle
import re
import shutil
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import hpcalloc
from hpcalloc import _native
from hpcalloc._native import _handler
from hpcalloc.memory import numpy_allocator as handler

MIB = 1 << 20
NODE = _native.node_ids()[0]
DEFAULT = _handler.get_handler()  # NumPy's own: nothing is installed while tests are collected
START = threading.Thread.start


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert _handler.get_handler() is DEFAULT
    assert handler._layers.get() == ()
    assert handler._for_threads == ()
    assert threading.Thread.start is START


def ours(a):
    return _handler.handler_of(a) is not None


def name():
    return (
        np._core.multiarray.get_handler_name()
        if hasattr(np, "_core")
        else np.core.multiarray.get_handler_name()
    )


def in_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    thread.join(60)
    return result[0]


# ---- what is covered ----------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [0, 1, 8, 100, 10_000, 300_000])
@pytest.mark.parametrize(
    "policy",
    [None, "local", "interleave", hpcalloc.on_node(NODE), hpcalloc.local(strict=True, populate=True)],
)
def test_all_of_numpys_arrays(policy, elements):
    with hpcalloc.numpy_allocator(policy):
        a = np.arange(elements, dtype=float)
        made = [
            a,
            a * a + a,
            a.copy(),
            np.empty(elements),
            np.zeros(elements),
            np.array([1.0] * elements),
            -a,
        ]
        made += [
            np.concatenate([a, a]),
            np.where(a > 1, a, 0),
            np.sort(a),
            a.astype("f4"),
            np.add.outer(a[:3], a[:3]),
        ]
        made += [np.empty_like(a), a[a > 2], a.reshape(-1, 1).T.copy("F"), np.full(elements, 3.0)]
        obj = np.array([{}, (), "x"], dtype=object)
    assert all(ours(x) for x in [*made, obj])
    assert [x.tolist() for x in made[:2]] == [list(range(elements)), [i * i + i for i in range(elements)]]
    assert not made[4].any()
    assert not ours(np.empty(8))
    obj[0]["itself"] = obj  # a cycle through our block
    obj[2] = made


def test_policy_is_that_of_the_blocks():
    with hpcalloc.numpy_allocator(hpcalloc.on_node(NODE, strict=True)):
        a = np.ones(3 * MIB // 8) * 2
        assert name() == f"hpcalloc on_node({NODE}, strict)"
    info = _native.block_info(a.ctypes.data)
    assert (info.node, info.strict) == (NODE, True)
    with hpcalloc.numpy_allocator("interleave"):
        b = np.ones(3 * MIB // 8) * 2
    info = _native.block_info(b.ctypes.data)
    assert (info.node == _native.NODE_MIXED) == (len(_native.node_ids()) > 1)


def test_foreign_memory_is_unaffected(tmp_path):
    data = bytes(range(64))
    (tmp_path / "f").write_bytes(data)
    with hpcalloc.numpy_allocator():
        buffer = np.frombuffer(data, np.uint8)
        mapped = np.memmap(tmp_path / "f", np.uint8, "r")
        assert not ours(buffer)
        assert not ours(mapped)
        assert ours(buffer + np.asarray(mapped))


def test_huge_pages_are_asked_for_from_2_mib():
    with hpcalloc.numpy_allocator():
        a = np.ones(2 * MIB, np.uint8)
    where = a.ctypes.data
    flags = None
    for line in Path("/proc/self/smaps").read_text(encoding="ascii").splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= where < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            flags = line.split()
    assert "hg" in flags


def test_tracemalloc_sees_them():
    tracemalloc.start()
    try:
        with hpcalloc.numpy_allocator():
            a = np.empty(5 * MIB, np.uint8)
            domain = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
            traces = tracemalloc.take_snapshot().filter_traces([domain]).traces
            assert sum(trace.size for trace in traces) >= a.nbytes
            del a
        assert not [
            t for t in tracemalloc.take_snapshot().filter_traces([domain]).traces if t.size >= 5 * MIB
        ]
    finally:
        tracemalloc.stop()


def test_memory_error_is_numpys():
    with hpcalloc.numpy_allocator():
        for make in (np.empty, np.zeros, np.ones):
            with pytest.raises(MemoryError, match="Unable to allocate"):
                make(2**58, np.uint8)
        a = np.ones(4)
        with pytest.raises(MemoryError):
            a.resize(2**55, refcheck=False)
        assert a.tolist() == [1, 1, 1, 1]


def test_resize_and_pickle():
    with hpcalloc.numpy_allocator():
        a = np.arange(10.0)
    before = _handler.handler_of(a)
    for size in (1_000_000, 0, 3, 200_000):
        a.resize(size, refcheck=False)
        assert _handler.handler_of(a) is before
    a = np.arange(200_000.0)
    with hpcalloc.numpy_allocator():
        buffers = []
        sent = pickle.dumps(a, protocol=5, buffer_callback=buffers.append)
        outside = pickle.loads(sent, buffers=buffers)
        inside = pickle.loads(pickle.dumps(a, protocol=5))
        assert outside.tolist() == inside.tolist() == a.tolist()
        assert not ours(outside)  # the sender's memory


def test_arrays_outlive_it_and_leave_nothing():
    def live():
        gc.collect()
        stats = _native.stats()
        return stats["allocations"] - stats["frees"]

    before = live()
    with hpcalloc.numpy_allocator():
        kept = [np.full(n, n) for n in (1, 100, 10_000, 1_000_000)]
    assert [a.sum() for a in kept] == [1, 10_000, 10**8, 10**12]
    assert live() >= before + 4
    del kept
    assert live() == before


# ---- what is restored ----------------------------------------------------------------------------------


def test_nesting():
    with hpcalloc.numpy_allocator("local"):
        outer = _handler.get_handler()
        with hpcalloc.numpy_allocator("interleave"):
            assert name() == "hpcalloc interleave()"
            with hpcalloc.numpy_allocator("local"):
                assert name() == "hpcalloc local()"
            assert name() == "hpcalloc interleave()"
        assert _handler.get_handler() is outer
        with pytest.raises(ZeroDivisionError), hpcalloc.numpy_allocator("interleave"):
            raise ZeroDivisionError
        assert _handler.get_handler() is outer


def test_one_object_many_times():
    allocator = hpcalloc.numpy_allocator("local")
    with allocator, allocator as inner:
        assert inner is allocator
        assert "installed" in repr(allocator)
    assert "installed" not in repr(allocator)

    @allocator
    def recursive(depth):
        return [np.empty(8), *recursive(depth - 1)] if depth else [np.empty(8)]

    assert all(ours(a) for a in recursive(5))


def test_another_packages_handler_is_restored():
    theirs = _handler.make_handler("theirs", _handler.LOCAL, 0, None, 0, 0)  # any capsule will do
    _handler.set_handler(theirs)
    try:
        with hpcalloc.numpy_allocator("interleave"):
            assert name() == "hpcalloc interleave()"
            _handler.set_handler(theirs)  # and not taken out again
        assert _handler.get_handler() is theirs
    finally:
        _handler.set_handler(DEFAULT)


def test_remove_refuses_while_another_package_is_on_top():
    theirs = _handler.make_handler("theirs", _handler.LOCAL, 0, None, 0, 0)
    allocator = hpcalloc.numpy_allocator()
    allocator.install()
    before = _handler.set_handler(theirs)
    with pytest.raises(hpcalloc.HandlerError, match="remove that one first"):
        allocator.remove()
    assert _handler.get_handler() is theirs
    _handler.set_handler(before)
    allocator.remove()


def test_removed_twice():
    allocator = hpcalloc.numpy_allocator(new_threads=True)
    with pytest.raises(hpcalloc.HandlerError, match="not installed"):
        allocator.remove()
    allocator.install()
    allocator.remove()
    with pytest.raises(hpcalloc.HandlerError, match="not installed"):
        allocator.remove()


def test_not_removed_elsewhere():
    allocator = hpcalloc.numpy_allocator()
    allocator.install()

    def elsewhere():
        with pytest.raises(hpcalloc.HandlerError, match="same thread and contextvars context"):
            allocator.remove()
        return True

    assert in_thread(elsewhere)
    allocator.remove()


def test_out_of_order():
    a, b, c = (hpcalloc.numpy_allocator(p) for p in ("local", "interleave", hpcalloc.on_node(NODE)))
    for each in (a, b, c):
        each.install()
    b.remove()
    assert name() == f"hpcalloc on_node({NODE})"
    a.remove()
    assert name() == f"hpcalloc on_node({NODE})"
    c.remove()
    assert _handler.get_handler() is DEFAULT


def test_generators():
    def generator():
        with hpcalloc.numpy_allocator("interleave"):
            yield name()
            yield name()

    with hpcalloc.numpy_allocator("local"):
        late = generator()
        assert next(late) == "hpcalloc interleave()"
        # A generator has no context of its own: what it puts in, its caller sees.
        assert name() == "hpcalloc interleave()"
    assert name() == "hpcalloc interleave()"
    late.close()
    assert _handler.get_handler() is DEFAULT


def test_generator_finished_in_another_thread():
    def generator():
        with hpcalloc.numpy_allocator("local", new_threads=True):
            yield

    def finish():
        with pytest.raises(hpcalloc.HandlerError):
            late.close()
        return True

    context = contextvars.copy_context()
    late = generator()
    context.run(next, late)
    assert in_thread(finish)
    assert handler._for_threads == ()


def test_tasks_have_their_own():
    async def task(policy, expected):
        before = name()
        with hpcalloc.numpy_allocator(policy):
            for _ in range(5):
                assert name() == expected
                await asyncio.sleep(0)
        return before

    async def main():
        with hpcalloc.numpy_allocator(hpcalloc.on_node(NODE)):
            inside = asyncio.create_task(task("local", "hpcalloc local()"))
        outside = asyncio.create_task(task("interleave", "hpcalloc interleave()"))
        threaded = await asyncio.to_thread(name)
        with hpcalloc.numpy_allocator("local"):
            assert await asyncio.to_thread(name) == "hpcalloc local()"
        assert threaded == "default_allocator"
        return await asyncio.gather(inside, outside)

    assert asyncio.run(main()) == [f"hpcalloc on_node({NODE})", "default_allocator"]


# ---- threads -------------------------------------------------------------------------------------------

inherits = getattr(sys.flags, "thread_inherit_context", 0)


def test_threads_of_the_context_only():
    with hpcalloc.numpy_allocator("local"):
        assert in_thread(name) == ("hpcalloc local()" if inherits else "default_allocator")
        assert threading.Thread.start is START


def test_new_threads():
    class Own(threading.Thread):
        def run(self):
            self.before = name()
            super().run()

    started, proceed = threading.Event(), threading.Event()
    with (
        hpcalloc.numpy_allocator("local", new_threads=True),
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        assert in_thread(name) == "hpcalloc local()"
        own = Own(target=lambda: None)
        own.start()
        own.join(60)
        assert own.before == "hpcalloc local()"
        assert "run" not in own.__dict__
        assert pool.submit(name).result(60) == "hpcalloc local()"
        assert in_thread(lambda: in_thread(name)) == "hpcalloc local()"
        with hpcalloc.numpy_allocator("interleave", new_threads=True):
            assert in_thread(name) == "hpcalloc interleave()"
        assert in_thread(name) == "hpcalloc local()"

        seen = []

        def stay():
            started.set()
            proceed.wait(60)
            seen.append((name(), np.ones(1000)))

        staying = threading.Thread(target=stay)
        staying.start()
        assert started.wait(60)
    proceed.set()
    staying.join(60)
    assert seen[0][0] == "hpcalloc local()"  # until it ends
    assert ours(seen[0][1])
    assert in_thread(name) == "default_allocator"


def test_thread_that_fails():
    raised = []
    hook, threading.excepthook = threading.excepthook, lambda args: raised.append(args.exc_type)
    try:
        with hpcalloc.numpy_allocator("local", new_threads=True):
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join(60)
            with pytest.raises(RuntimeError, match="only be started once"):
                thread.start()
            assert "run" not in thread.__dict__
    finally:
        threading.excepthook = hook
    assert raised == [ZeroDivisionError]


def test_an_instances_own_run_is_kept():
    thread, seen = threading.Thread(), []
    thread.run = mine = lambda: seen.append(name())
    with hpcalloc.numpy_allocator("local", new_threads=True):
        thread.start()
        thread.join(60)
    assert seen == ["hpcalloc local()"]
    assert thread.run is mine


def test_another_packages_wrapper_of_start():
    def wrap(start):
        return lambda thread: start(thread)

    allocator = hpcalloc.numpy_allocator("local", new_threads=True)
    try:
        for _ in range(3):
            allocator.install()
            threading.Thread.start = wrap(threading.Thread.start)
            assert in_thread(name) == "hpcalloc local()"
            allocator.remove()  # ours stays below theirs, and does nothing
            assert in_thread(name) == "default_allocator"
    finally:
        threading.Thread.start = START


def test_threads_free_each_others_arrays_under_many_handlers():
    policies = [None, "local", "interleave", hpcalloc.on_node(NODE), hpcalloc.local(populate=True)]
    boxes = [[] for _ in range(4)]
    wrong = []

    def work(me):
        rng = np.random.default_rng(me)
        for turn in range(120):
            policy = policies[(me + turn) % len(policies)]
            size = int(rng.choice([1, 7, 100, 2_000, 9_000, 200_000]))
            with hpcalloc.numpy_allocator(policy) if policy else contextlib.nullcontext():
                made = np.full(size, me, np.int64) + 0
            boxes[(me + 1) % 4].append((me, made))
            while len(boxes[me]) > 3:
                who, theirs = boxes[me].pop(0)
                if not (theirs == who).all():
                    wrong.append(who)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong
    boxes.clear()
    assert _native.lib.numalloc_verify() == 0


# ---- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "match"),
    [
        (["blocked"], {}, ValueError, "not its shape"),
        ([hpcalloc.blocked(1)], {}, ValueError, r"interleave\(\)"),
        (["nowhere"], {}, ValueError, "limit: 'local'"),
        ([3], {}, TypeError, "limit: 'local'"),
        ([hpcalloc.on_node(1023)], {}, hpcalloc.NodeError, "may use nodes"),
        ([], {"new_threads": "all"}, TypeError, "True or False"),
    ],
)
def test_bad_arguments(arguments, options, kind, match):
    with pytest.raises(kind, match=match):
        hpcalloc.numpy_allocator(*arguments, **options)


# ---- through a context ---------------------------------------------------------------------------------


def test_install_through_a_context():
    with hpcalloc.init(bind="off", policy="interleave") as ctx:
        allocator = ctx.install_numpy_allocator(new_threads=True)
        assert name().startswith("hpcalloc interleave(")
        assert in_thread(name) == name()
        again = ctx.install_numpy_allocator("local")
        assert name() == "hpcalloc local()"
        again.remove()
        with pytest.raises(hpcalloc.HandlerError):
            again.remove()
        kept = np.ones(100)
        assert name().startswith("hpcalloc interleave(")
    assert name() == "default_allocator"
    with pytest.raises(hpcalloc.HandlerError):
        allocator.remove()
    with pytest.raises(hpcalloc.ContextClosedError):
        ctx.install_numpy_allocator()
    assert kept.sum() == 100


def test_a_blocked_context_needs_another_policy():
    with hpcalloc.init(bind="off", policy="blocked") as ctx:
        with pytest.raises(ValueError, match="not its shape"):
            ctx.install_numpy_allocator()
        with pytest.raises(ValueError, match="not its shape"), hpcalloc.numpy_allocator():
            pass
        ctx.install_numpy_allocator("interleave")


def test_a_context_closed_elsewhere():
    ctx = hpcalloc.init(bind="off")
    ctx.install_numpy_allocator(new_threads=True)
    assert in_thread(lambda: ctx.close() or True)
    assert in_thread(name) == "default_allocator"
    assert name() == "hpcalloc local()"  # out of that thread's reach
    handler._take_out(handler._layers.get()[0])


# ---- processes -----------------------------------------------------------------------------------------


def _child(pipe):
    a = np.ones(300_000) + 1
    pipe.send((ours(a), a.sum(), in_thread(name)))
    pipe.close()


def test_fork():
    with hpcalloc.numpy_allocator("local", new_threads=True):
        inherited = np.arange(100_000)
        mine, theirs = multiprocessing.get_context("fork").Pipe()
        process = multiprocessing.get_context("fork").Process(target=_child, args=(theirs,))
        process.start()
        assert mine.poll(60)
        assert mine.recv() == (True, 600_000, "hpcalloc local()")
        process.join(60)
        assert process.exitcode == 0
    assert inherited.sum() == 4999950000


_FORKS_AMID_AN_ENTRY = """
#include <stdio.h>
#include <unistd.h>
#include <sys/wait.h>
#include "registry.h"
int main(void) {
    int status = 1;
    char block[1];
    size_t place = registry_window((uintptr_t)block);
    if (registry_init() != 0) return 2;
    registry_first[place].address = REGISTRY_WRITING; /* another thread, which is not in the child */
    registry_add(block, REGISTRY_MIN);
    pid_t child = fork();
    if (child == 0) _exit(registry_first[place].address != 0 || registry_remove(block) != REGISTRY_MIN);
    if (child < 0 || waitpid(child, &status, 0) != child) return 3;
    return status != 0;
}
"""


def test_a_child_has_all_places_of_the_table(tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("missing capability: a C compiler")
    source, program = tmp_path / "forks.c", tmp_path / "forks"
    source.write_text(_FORKS_AMID_AN_ENTRY)
    include = Path(__file__).parents[1] / "hpcalloc" / "_native"
    subprocess.run([compiler, f"-I{include}", "-o", program, source, "-pthread"], check=True, timeout=120)
    assert subprocess.run([program], timeout=60, check=False).returncode == 0


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_interpreter_ends_with_all_in_use():
    code = """
import atexit, sys, threading, numpy as np, hpcalloc
class Late:
    add, b = np.add, np.empty(200_000)
    def __del__(self):  # imports fail by now
        self.add(self.add(self.b, self.b), self.b), self.add(self.b[:3], self.b[:3])
hpcalloc.numpy_allocator("interleave", new_threads=True).install()
ctx = hpcalloc.init(bind="off")
ctx.install_numpy_allocator(new_threads=True)
keep = [np.ones(n) * 2 for n in (1, 1000, 1_000_000)]
sys.modules["late"] = Late()
np.late, np.keep = Late(), keep
threading.Thread(target=lambda: keep.append(np.ones(10))).start()
stay = threading.Event()
threading.Thread(target=lambda: (np.ones(10_000), stay.wait()), daemon=True).start()
atexit.register(lambda: keep.append(np.ones(50) + 1))
print("end")
"""
    assert run(code) == (0, "end\n")


def test_subinterpreters_are_refused_or_work():
    # NumPy itself refuses a second import in a process, or says that it is not supported.
    code = """
import numpy as np, hpcalloc
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
with hpcalloc.numpy_allocator():
    a = np.ones(100_000)
    id = interpreters.create()
    try:
        outcome = interpreters.run_string(id, '''
try:
    import hpcalloc, numpy as np
    with hpcalloc.numpy_allocator():
        assert (np.ones(1000) + 1).sum() == 2000
except ImportError:
    pass
''')
    except Exception as error:
        outcome = error
    interpreters.destroy(id)
    print(outcome, a.sum(), (a + a).sum())
"""
    assert run(code) == (0, "None 100000.0 200000.0\n")


# ---- NumPy's own tests ---------------------------------------------------------------------------------

NUMPY_TESTS = "numpy._core.tests" if hasattr(np, "_core") else "numpy.core.tests"


CHOSEN = {  # of a module: those that a -k expression chooses, and how many there are at least
    # Some of these check that a new thread has NumPy's own handler.
    "test_mem_policy": ("", 9),
    "test_multiarray": ("resize or Temporar or Creation or pickl or Alloc or empty", 150),
    "test_nditer": ("alloc or buffer", 30),
    "test_array_coercion": ("", 150),
    "test_dlpack": ("", 20),
}


@pytest.mark.parametrize(("modules", "threads"), [(CHOSEN, "own"), ({"test_multithreading": ("", 5)}, "new")])
def test_numpys_own_tests(tmp_path, modules, threads):
    chosen = " or ".join(
        f"({module} and ({words}))" if words else module for module, (words, _) in modules.items()
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "numpy_handler",
        "-p",
        "no:cacheprovider",
        "-k",
        chosen,
    ]
    command += ["--pyargs", *(f"{NUMPY_TESTS}.{module}" for module in modules)]
    environment = {
        "PYTHONPATH": str(Path(__file__).parent),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",  # meson and ninja are in the virtual environment
        "NUMPY_HANDLER_THREADS": threads,
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    for module, (_, least) in modules.items():
        passed = re.search(rf"^passed of {module}: (\d+)$", done.stdout, re.M)
        assert passed, (module, done.stdout[-300:])
        assert int(passed[1]) >= least, module
