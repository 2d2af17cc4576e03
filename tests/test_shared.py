# SPDX-License-Identifier: BSD-3-Clause
"""Shared arrays of one process, and how jobs end that have some. With ranks that go on: tests/mpi."""

import ast
import subprocess
import sys

import numpy as np
import pytest
from launching import mpirun

import hpcalloc


@pytest.fixture
def ctx():
    with hpcalloc.init() as context:
        yield context


# ---- without MPI --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_process(ctx, axis):
    a = ctx.shared_zeros((10, 20), "f4", axis, 2)
    assert a.whole.shape == a.mine.shape == (10, 20)
    assert a.mine_with_halo.shape == a.whole_with_halo.shape == ((14, 20) if axis == 0 else (10, 24))
    assert not a.whole_with_halo.any()
    a.mine[...] = 3
    a.barrier()
    a.sync()
    with a.lock(0), pytest.raises(hpcalloc.HpcallocError, match="re-entrant"), a.lock():
        pass
    assert (a.whole == 3).all()
    assert a.whole_with_halo.sum() == 600
    assert (a.rank, a.size, a.win) == (0, 1, None)
    assert a.bounds == ((0, (10, 20)[axis]),)
    assert a.placement().untouched == 0
    view = a.mine
    with a:
        pass
    assert a.closed
    with pytest.raises(hpcalloc.ContextClosedError, match="keep a view"):
        a.whole  # noqa: B018
    assert (view == 3).all()


def test_a_class_of_dtypes_is_the_dtype_that_numpy_makes_of_it(ctx):
    assert ctx.shared_empty(5, np.dtypes.Int16DType).whole.dtype == np.int16
    assert ctx.shared_zeros(5, dtype=np.dtypes.Float64DType).dtype == np.float64


def test_views_outlive_the_context():
    with hpcalloc.init() as context:
        a = context.shared_empty(1000)
    a.whole[...] = 1
    a.barrier()  # one process has nothing that the context could end
    assert a.whole.sum() == 1000
    with pytest.raises(hpcalloc.ContextClosedError):
        context.shared_empty(5)


@pytest.mark.parametrize(
    ("kwargs", "kind", "match"),
    [
        ({"shape": ()}, ValueError, "at least one axis"),
        ({"shape": (5, -1)}, ValueError, "no negative"),
        ({"shape": 2.5}, TypeError, None),
        ({"shape": 1 << 62}, ValueError, "2\\*\\*62"),
        ({"dtype": object}, TypeError, "raw data"),
        ({"dtype": "V0"}, TypeError, "raw data"),
        ({"axis": 2}, ValueError, "-2 to 1"),
        ({"axis": "0"}, TypeError, "integer"),
        ({"axis": True}, TypeError, "integer"),
        ({"halo": -1}, ValueError, "0 or more"),
        ({"halo": 1.0}, TypeError, "integer"),
        ({"split": "odd"}, ValueError, "even"),
        ({"split": [3]}, ValueError, "sum to 10"),
        ({"split": 4}, TypeError, "row counts"),
        ({"split": [10.0]}, TypeError, "row counts"),
    ],
)
def test_bad_arguments(ctx, kwargs, kind, match):
    with pytest.raises(kind, match=match):
        ctx.shared_zeros(**({"shape": (10, 20)} | kwargs))


def test_out_of_memory(ctx):
    with pytest.raises(hpcalloc.OutOfMemoryError):
        ctx.shared_zeros(1 << 50, "u1")


def test_import_is_lazy():
    code = "import hpcalloc, sys; print([m for m in ('hpcalloc.shared.array', 'hpcalloc.memory.paging', 'ctypes', 'mpi4py') if m in sys.modules])"
    without = "import numpy, sys; print([m for m in ('ctypes',) if m in sys.modules])"
    loaded, numpys = (
        subprocess.run(
            [sys.executable, "-c", c], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for c in (code, without)
    )
    assert set(ast.literal_eval(loaded)) <= set(ast.literal_eval(numpys))  # NumPy itself is imported later


# ---- how jobs end -------------------------------------------------------------------------------------------

START = """
import os, signal, sys
from mpi4py import MPI
import numpy as np
import hpcalloc
ctx = hpcalloc.init(MPI.COMM_WORLD)
a = ctx.shared_zeros((500, 500), halo=1)
view = a.whole
a.mine[...] = 1
a.barrier()
assert view.sum() == 250000
a.barrier()
"""

ENDS = {
    "falls off the end": "",
    "cycles": "a.itself = a; a.views = [view, a.mine]; del a, view",
    "finalises": "MPI.Finalize(); view[...] = 2; ctx.close(); a.free(); assert (view == 2).all()",
    "closes": "ctx.close(); view[...] = 2; MPI.Finalize(); assert (view == 2).all(); a.free()",
}


@pytest.mark.parametrize("end", ENDS)
def test_good_ends(end):
    done = mpirun(2, sys.executable, "-c", START + ENDS[end] + "\nprint('ended')", timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ended") == 2
    # Nothing said on the way: no leak, no signal, nothing of the one-sided components.
    assert not done.stderr.strip(), done.stderr


@pytest.mark.parametrize("call", ["a.barrier()", "ctx.shared_zeros(10)"])
def test_a_rank_that_dies_ends_the_job(call):
    """The launcher ends the others: MPI has no error that they could be given."""
    died = f"""
if ctx.rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
{call}
print('went on')
"""
    done = mpirun(2, sys.executable, "-c", START + died, timeout=120)
    assert done.returncode != 0
    assert "went on" not in done.stdout


def test_a_rank_that_leaves_keeps_nobody_waiting():
    """MPI_Finalize of one rank while the others go on to a collective call, and with them the rank that failed."""
    left = """
os.environ["HPCALLOC_TIMEOUT"] = "1"
if ctx.rank == 1:
    raise SystemExit(0)
ctx.shared_zeros(10)
print('went on')
"""
    done = mpirun(2, sys.executable, "-c", START + left, timeout=120)
    assert done.returncode != 0
    assert "rank 1 of 2 has left its context or ended" in done.stderr
    assert "went on" not in done.stdout


def test_an_uncaught_exception_ends_the_job():
    failing = "\nif ctx.rank == 1:\n    raise ZeroDivisionError\na.barrier()\nprint('went on')"
    done = mpirun(2, sys.executable, "-m", "mpi4py", "-c", START + failing, timeout=120)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr
    assert "went on" not in done.stdout


def test_a_rank_that_leaves_in_another_thread_is_known_at_its_end():
    """Below MPI_THREAD_SERIALIZED that thread can't tell the others; the main one does when the program ends."""
    leaving = """
import mpi4py, threading
mpi4py.rc.thread_level = "funneled"
from mpi4py import MPI
import hpcalloc
ctx = hpcalloc.init(MPI.COMM_WORLD)
if ctx.rank == 1:
    thread = threading.Thread(target=ctx.__exit__, args=(ZeroDivisionError, None, None))
    thread.start()
    thread.join()
    assert hpcalloc.current() is None
else:
    try:
        ctx.report()
    except hpcalloc.HpcallocError as error:
        print("told:", error)
    ctx.__exit__(ZeroDivisionError, None, None)
"""
    done = mpirun(2, sys.executable, "-c", leaving, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "told: Context.report: rank 1 of 2 has left" in done.stdout


def test_last_words_are_kept():
    """What is said while a window is made comes out even if the process ends inside."""
    last = """
import os
from hpcalloc.shared import window
class Win:
    def Allocate_shared(*_):
        os.write(2, b"no room for the window\\n")
        os._exit(3)
class Module:
    def __getattr__(self, name):
        return Win if name == "Win" else getattr(MPI, name)
window.mpi.library = Module
ctx.shared_zeros(10)
"""
    done = mpirun(2, sys.executable, "-c", START + last, timeout=120)
    assert done.returncode != 0
    assert "no room for the window" in done.stderr


def test_a_closed_standard_error_is_no_reason_to_fail():
    quiet = "import os; os.close(2)\n" + START + "print('ended')"
    done = mpirun(2, sys.executable, "-c", quiet, timeout=120)
    assert done.returncode == 0
    assert done.stdout.count("ended") == 2


def test_array_without_its_context_is_an_array(ctx):
    a = ctx.shared_zeros(100)
    b = np.asarray(a.whole)
    del a
    b += 1
    assert b.sum() == 100
