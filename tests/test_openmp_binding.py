# SPDX-License-Identifier: BSD-3-Clause
"""OpenMP runtimes that are loaded late bind the thread that loads them: `run` does not bring that about, `init` mends it."""

import ctypes.util
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from hpcalloc.discover.topology import parse_ids

CPUS = sorted(os.sched_getaffinity(0))
LIBGOMP = "libgomp.so.1"
pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="missing capability: two CPUs")

# Prints the CPUs of the main thread, of a new thread and of a child after the runtime was loaded.
LATE = """
import ctypes, json, os, subprocess, sys, threading
ctypes.CDLL("libgomp.so.1")
{then}
got = []
thread = threading.Thread(target=lambda: got.append(sorted(os.sched_getaffinity(0))))
thread.start()
thread.join()
child = subprocess.run(
    [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"], capture_output=True, text=True
)
print(json.dumps([sorted(os.sched_getaffinity(0)), got[0], json.loads(child.stdout), {more}]))
"""


@pytest.fixture(autouse=True)
def _libgomp():
    try:
        ctypes.CDLL(LIBGOMP)
    except OSError:
        pytest.skip("missing capability: libgomp.so.1")


def python(*before, then="", more="None", **variables):
    names = ("OMP_", "GOMP_", "KMP_", "HPCALLOC_", "LD_PRELOAD", "OMPI_", "PMI", "MPI_", "SLURM_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    done = subprocess.run(
        [*before, sys.executable, "-c", LATE.format(then=then, more=more)],
        env={**environ, **variables}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


RUN = [sys.executable, "-m", "hpcalloc", "run"]


def planned():
    done = subprocess.run([*RUN, "--dry-run", "--json", "true"], capture_output=True, text=True, check=True)
    return list(parse_ids(json.loads(done.stdout)["cpus"]))


def test_run_leaves_the_cpus_to_a_late_runtime_and_all_that_comes_after():
    main, thread, child, threads = python(*RUN, more="os.environ['OMP_NUM_THREADS']")
    assert main == thread == child == planned()
    assert int(threads) >= 1


@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_PROC_BIND": "spread"},
        {"OMP_PROC_BIND": "close", "OMP_PLACES": "threads"},
        {"OMP_PROC_BIND": "true", "OMP_PLACES": f"{{{CPUS[0]}}},{{{CPUS[1]}}}"},
        {"GOMP_CPU_AFFINITY": " ".join(map(str, CPUS))},
    ],
)
def test_init_gives_back_what_the_runtime_took(variables):
    narrow, *_ = python(**variables)
    assert len(narrow) < len(CPUS)  # else there is nothing to mend
    init = "import hpcalloc; ctx = hpcalloc.init(None)"
    main, thread, child, (cpus, notes) = python(then=init, more="[sorted(ctx.cpus), ctx.notes]", **variables)
    assert main == thread == child == cpus
    assert len(main) > len(narrow)
    assert any(next(iter(variables)) in note and "OpenMP" in note for note in notes), notes


def test_init_that_shall_bind_nothing_says_it_and_leaves_it():
    init = "import hpcalloc; ctx = hpcalloc.init(None, bind='off')"
    main, *_, notes = python(then=init, more="ctx.notes", OMP_PROC_BIND="spread")
    assert len(main) < len(CPUS)
    assert any("OMP_PROC_BIND" in note for note in notes), notes


def test_a_mask_that_no_runtime_made_is_kept():
    init = f"import hpcalloc; os.sched_setaffinity(0, {{{CPUS[0]}}}); ctx = hpcalloc.init(None)"
    main, *_, notes = python(then=init, more="ctx.notes")
    assert main == CPUS[:1]
    assert not any("OpenMP" in note for note in notes), notes


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="missing capability: scikit-learn")
def test_scikit_learn_and_joblib_have_all_cpus_of_the_rank():
    words = "import os, sklearn.cluster, joblib; print(len(os.sched_getaffinity(0)), joblib.cpu_count())"
    done = subprocess.run(
        [*RUN, sys.executable, "-c", words],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [str(len(planned()))] * 2, done
