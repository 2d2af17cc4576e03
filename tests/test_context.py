# SPDX-License-Identifier: BSD-3-Clause
"""init and Context in one process; tests/mpi has those of several ranks."""

import copy
import errno
import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import types

import numpy as np
import pytest
from launching import without_launcher

import hpcalloc
from hpcalloc import _native
from hpcalloc._native import _handler
from hpcalloc.bind import rank as rank_setup
from hpcalloc.plan.ranks import RankPlan

ALL = frozenset(os.sched_getaffinity(0))
NODES = _native.node_ids()


@pytest.fixture(autouse=True)
def _alone(no_launcher, monkeypatch):
    """No launcher, no communicator; and everything is as before afterwards."""
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    environment = dict(os.environ)
    yield
    while hpcalloc.current() is not None:
        hpcalloc.current().close()
    assert os.sched_getaffinity(0) == ALL
    assert hpcalloc.current_policy() == hpcalloc.local()
    changed = {k for k, value in without_launcher(os.environ).items() if value != environment.get(k)}
    assert changed <= {"PYTEST_CURRENT_TEST"}


def run_python(code, **environment):
    clean = without_launcher(os.environ)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**clean, **environment},
    )


def test_import_has_no_side_effects():
    result = run_python(
        """
        import os, sys
        before = os.sched_getaffinity(0), dict(os.environ)
        import hpcalloc
        assert (os.sched_getaffinity(0), dict(os.environ)) == before
        late = {"mpi4py", "threadpoolctl", "rich", "click"}
        late |= {f"hpcalloc.{name}" for name in ("context", "discover", "memory.paging", "plan", "report", "shared")}
        assert not late & set(sys.modules), late & set(sys.modules)
        import hpcalloc.memory.placement
        assert callable(hpcalloc.placement) and callable(hpcalloc.init) and hpcalloc.Context
        assert set(hpcalloc.__all__) <= set(dir(hpcalloc))
        for name in hpcalloc.__all__:
            assert getattr(hpcalloc, name) is not None
        try:
            hpcalloc.nonsense
        except AttributeError as error:
            assert "nonsense" in str(error)
        assert not {"mpi4py", "threadpoolctl", "rich", "click"} & set(sys.modules)
        """
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# Beyond NumPy's: what the first array and `init` may import. Each takes the time of several arrays from every rank.
IMPORTED = {
    "_cffi_backend", "copy", "dataclasses", "errno", "hpcalloc", "hpcalloc._native", "hpcalloc._native._cffi",
    "hpcalloc._native._cffi.lib", "hpcalloc._native._handler", "hpcalloc._native.errors", "hpcalloc.bind",
    "hpcalloc.bind.mpi", "hpcalloc.exceptions", "hpcalloc.memory", "hpcalloc.memory.arrays", "hpcalloc.memory.handlers",
    "hpcalloc.policy", "signal", "importlib._abc", "importlib.util",
}  # fmt: skip


def test_an_array_imports_little():
    """The last two are of an editable installation."""
    result = run_python(
        """
        import sys, numpy
        before = set(sys.modules)
        import hpcalloc
        hpcalloc.zeros(3)
        print(*sorted(set(sys.modules) - before))
        """
    )
    assert set(result.stdout.split()) <= IMPORTED, (set(result.stdout.split()) - IMPORTED, result.stderr)
    assert "hpcalloc" in result.stdout


@pytest.mark.parametrize(
    ("code", "most"),
    [
        ("import hpcalloc", 50),
        ("from hpcalloc.cli.main import cli; cli(['--help'], standalone_mode=False)", 100),
        ("from hpcalloc.cli.main import cli; cli(['run', '--dry-run', 'true'], standalone_mode=False)", 150),
    ],
)
def test_numpy_is_imported_for_arrays_only(code, most):
    """It takes longer than all that the command does; so do many modules of other packages."""
    result = run_python(f"import sys; before = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)")
    modules = set(result.stdout.splitlines()[-1].split())
    assert "hpcalloc" in modules, result.stderr
    assert not {name for name in modules if name.split(".")[0] in ("numpy", "rich", "mpi4py", "ctypes")}
    assert len(modules) <= most, sorted(modules)


def test_attributes():
    with hpcalloc.init() as ctx:
        assert (ctx.rank, ctx.size, ctx.local_rank, ctx.local_size) == (0, 1, 0, 1)
        assert (ctx.comm, ctx.node_comm, ctx.numa_comm) == (None, None, None)
        assert set(ctx.cpus) == os.sched_getaffinity(0)
        assert set(ctx.nodes) <= set(NODES)
        assert ctx.threads == ctx.plan.ranks[0].threads
        assert ctx.topology is ctx.plan.topology
        assert ctx.action == ("bind" if ctx.topology.allowed_cpus <= ALL else "honour")
        assert ctx.reasons
        assert ctx.launcher == "none"
        assert not ctx.closed
        assert hpcalloc.current() is ctx
        assert "rank 0 of 1" in repr(ctx)
        if len(ctx.nodes) == 1:
            assert ctx.policy == hpcalloc.local()
    assert ctx.closed
    assert "closed" in repr(ctx)
    assert hpcalloc.current() is None


def test_placement_counts_pages_of_the_ranks_nodes(a_quarter_elsewhere):
    with hpcalloc.init() as ctx:
        where = ctx.placement(ctx.ones(100_000))
        assert where.local_nodes == ctx.nodes
        assert where.local_fraction == 0.75


def test_arrays_of_a_context():
    with hpcalloc.init() as ctx:
        made = [
            ctx.empty(5),
            ctx.zeros((2, 3), "f4", "F"),
            ctx.ones(4, dtype=int),
            ctx.full(3, 7.0),
            ctx.array([1, 2, 3]),
            ctx.empty_like(np.ones(3)),
            ctx.zeros_like([1, 2]),
            ctx.ones_like(np.ones((2, 2)), "i2"),
            ctx.full_like([1, 2], 9),
            ctx.empty(3, policy=hpcalloc.on_node(NODES[0], strict=True)),
        ]
        for a in made:
            assert a.flags.owndata
            assert _handler.handler_of(a) is not None
        assert made[1].flags.f_contiguous
        with pytest.raises(ValueError, match="shape=-1"):
            ctx.zeros(-1)
    made[2][:] = 3  # arrays outlive the context
    made[2].resize(100, refcheck=False)
    assert made[2].sum() == 12


def test_policy_of_a_context():
    for policy in (
        "interleave",
        hpcalloc.interleave(NODES[:1]),
        "blocked",
        hpcalloc.on_node(NODES[0]),
        "local",
    ):
        with hpcalloc.init(policy=policy) as ctx:
            assert hpcalloc.current_policy() == ctx.policy
            if policy not in ("local",):
                assert ctx.policy.nodes
            for a in (ctx.zeros((100, 100)), hpcalloc.zeros((100, 100)), ctx.empty_like(np.zeros((3, 3)))):
                kind = _handler.describe(_handler.handler_of(a))[0]
                assert kind == {"local": 0, "on_node": 1, "interleave": 2, "blocked": 3}[ctx.policy.kind]
    with hpcalloc.init(strict=True) as ctx:
        assert ctx.policy.strict
        assert _native.block_info(ctx.ones(100_000).ctypes.data).strict


def test_several_nodes_interleave(monkeypatch):
    share = RankPlan(0, (0, 2), (0, 1), 2, "interleave", False, "bind", ())
    topology = hpcalloc.Topology.from_source("pack:2 [numa] [numa] core:1")  # nodes 1 and 3 have no CPUs
    effective = lambda policy, share: rank_setup._effective_policy(policy, share, topology)  # noqa: E731
    assert effective(hpcalloc.local(strict=True), share) == hpcalloc.interleave([0, 2], strict=True)
    assert effective(hpcalloc.interleave(), share) == hpcalloc.interleave([0, 2])
    assert effective(hpcalloc.blocked(1), share) == hpcalloc.blocked(1, [0, 2])
    assert effective(hpcalloc.interleave([5]), share) == hpcalloc.interleave([5])
    assert effective(hpcalloc.on_node(7), share) == hpcalloc.on_node(7)
    assert effective(hpcalloc.weighted(), share) == hpcalloc.weighted([0, 1, 2, 3])
    assert effective(hpcalloc.weighted([5], [1]), share) == hpcalloc.weighted([5], [1])
    assert effective(hpcalloc.kind("latency"), share) == hpcalloc.kind("latency")


def test_use_after_close():
    ctx = hpcalloc.init()
    ctx.close()
    ctx.close()
    assert (ctx.rank, ctx.nodes) == (0, ctx.plan.ranks[0].nodes)  # facts stay
    calls = [
        lambda name=name: getattr(ctx, name)(3) for name in ("empty", "zeros", "ones", "array", "ones_like")
    ]
    calls += [lambda: ctx.full(3, 3), lambda: ctx.placement(np.ones(3)), ctx.report, ctx.__enter__]
    calls += [lambda name=name: getattr(ctx, name) for name in ("comm", "node_comm", "numa_comm")]
    for call in calls:
        with pytest.raises(
            hpcalloc.ContextClosedError, match=r"Context\..*closed.*remedy: call hpcalloc.init"
        ):
            call()
    assert hpcalloc.empty(3).size == 3


def test_nested_in_any_order():
    outer = hpcalloc.init(policy="interleave")
    inner = hpcalloc.init(policy="interleave")
    assert hpcalloc.current() is inner
    assert inner.plan is outer.plan
    outer.close()
    assert hpcalloc.current() is inner
    assert hpcalloc.current_policy() == inner.policy
    assert inner.zeros(3).sum() == 0
    assert set(inner.cpus) == os.sched_getaffinity(0)
    with pytest.raises(hpcalloc.ContextClosedError):
        outer.empty(3)
    inner.close()
    assert hpcalloc.current_policy() == hpcalloc.local()


@pytest.mark.parametrize(
    "other",
    [
        {"bind": "off"},
        {"policy": "interleave"},
        {"strict": True},
        {"threads": 1},
        {"policy": hpcalloc.on_node(0)},
    ],
)
def test_different_options_while_open(other):
    with hpcalloc.init() as ctx:
        with pytest.raises(
            hpcalloc.PlanError, match=r"init: .* while a context is open with bind='auto'.*remedy: close"
        ):
            hpcalloc.init(**other)
        assert hpcalloc.current() is ctx
        assert ctx.ones(3).sum() == 3
    hpcalloc.init(bind="off").close()


def test_exceptions_restore():
    with pytest.raises(ZeroDivisionError), hpcalloc.init():
        1 / 0  # noqa: B018
    assert os.sched_getaffinity(0) == ALL


@pytest.mark.skipif(len(ALL) < 2, reason="missing capability: two CPUs")
def test_honours_and_forces():
    one = {max(ALL)}
    os.sched_setaffinity(0, one)
    try:
        with hpcalloc.init() as ctx:
            assert os.sched_getaffinity(0) == one == set(ctx.cpus)
            assert ctx.action == "honour"
        with hpcalloc.init(bind="force") as ctx:
            assert os.sched_getaffinity(0) > one
            assert ctx.action == "bind"
        assert os.sched_getaffinity(0) == one
        with hpcalloc.init(bind="off") as ctx:
            assert os.sched_getaffinity(0) == one
            assert ctx.action == "none"
    finally:
        os.sched_setaffinity(0, ALL)


@pytest.mark.parametrize(
    ("kwargs", "kind", "match"),
    [
        ({"bind": "tight"}, hpcalloc.PlanError, "bind='tight'"),
        ({"policy": "near"}, ValueError, "policy='near'"),
        ({"policy": 3}, TypeError, "policy=3"),
        ({"policy": hpcalloc.on_node(1023)}, hpcalloc.NodeError, "node 1023"),
        ({"strict": 1}, TypeError, "strict=1"),
        ({"threads": 0}, hpcalloc.PlanError, "threads=0"),
        ({"threads": "many"}, hpcalloc.PlanError, "threads='many'"),
        ({"comm": 7}, TypeError, "comm= a int"),
    ],
)
def test_bad_arguments(kwargs, kind, match):
    with pytest.raises(kind, match=f"{match}.*limit"):
        hpcalloc.init(**kwargs)
    assert hpcalloc.current() is None
    assert os.sched_getaffinity(0) == ALL
    with pytest.raises(TypeError):
        hpcalloc.init(None, "auto")


# ---- what the kernel refuses ---------------------------------------------------------------------------


def test_pinning_not_permitted(monkeypatch):
    if len(ALL) < 2:
        pytest.skip("missing capability: two CPUs")

    def refused(tid, cpus):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    os.sched_setaffinity(0, ALL)
    monkeypatch.setattr(
        rank_setup, "make_plan", lambda *a, **k: hpcalloc.make_plan(*a, **{**k, "bind": "force"})
    )
    real_setaffinity = os.sched_setaffinity
    real_setaffinity(0, {min(ALL)})
    monkeypatch.setattr(os, "sched_setaffinity", refused)
    try:
        with hpcalloc.init() as ctx:
            assert ctx.action == "failed"
            assert any("not pinned" in note and "EPERM" in note for note in ctx.notes)
            assert any("not pinned" in note for note in ctx.report().summary["notes"])
        for kwargs in ({"bind": "force"}, {"strict": True}):
            with pytest.raises(hpcalloc.BindingError, match="EPERM"):
                hpcalloc.init(**kwargs)
    finally:
        monkeypatch.undo()
        real_setaffinity(0, ALL)


def test_placing_not_permitted(monkeypatch):
    monkeypatch.setattr(_native, "can_bind", lambda: errno.EPERM)
    monkeypatch.setattr(_native, "can_query", lambda: errno.ENOSYS)
    with hpcalloc.init() as ctx:
        assert any("mbind: EPERM" in note for note in ctx.notes)
        assert any("move_pages: ENOSYS" in note for note in ctx.notes)
    with pytest.raises(hpcalloc.BindingError, match=r"strict=True.*EPERM.*remedy: in a container"):
        hpcalloc.init(strict=True)


def test_inherited_memory_policy_is_noted(monkeypatch):
    monkeypatch.setattr(rank_setup, "inherited_memory_policy", lambda: "interleave:0-1")
    with hpcalloc.init() as ctx:
        assert any("interleave:0-1" in note for note in ctx.notes)


# ---- without a communicator under a launcher --------------------------------------------------------------


def test_local_rank_of_the_launcher(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2")
    with hpcalloc.init() as ctx:
        assert (ctx.rank, ctx.size, ctx.local_rank, ctx.local_size) == (0, 1, 1, 2)
        if not ctx.topology.allowed_cpus <= ALL:
            return  # these tests themselves are pinned
        assert len(ctx.plan.ranks) == 2
        if len(ctx.topology.usable_cores) > 1:
            assert not set(ctx.cpus) & set(ctx.plan.ranks[0].cpus)
        assert any("no communicator" in note for note in ctx.notes)


@pytest.mark.skipif(len(ALL) < 2, reason="missing capability: two CPUs")
def test_binding_of_the_launcher_is_kept_alone(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2")
    os.sched_setaffinity(0, {max(ALL)})
    try:
        with hpcalloc.init() as ctx:
            assert set(ctx.cpus) == {max(ALL)}
            assert ctx.action == "honour"
    finally:
        os.sched_setaffinity(0, ALL)


def test_mpi_down():
    pytest.importorskip("mpi4py", reason="missing capability: mpi4py")
    result = run_python(
        """
        import mpi4py
        mpi4py.rc.initialize = False
        from mpi4py import MPI
        import hpcalloc
        for state in ("not initialised", "finalised"):
            try:
                hpcalloc.init(MPI.COMM_WORLD)
            except hpcalloc.HpcallocError as error:
                assert f"MPI is {state}" in str(error) and "remedy" in str(error), error
            else:
                raise AssertionError(state)
            with hpcalloc.init() as ctx:   # serial
                assert ctx.comm is None and ctx.size == 1
            if state == "not initialised":
                MPI.Init()
                with hpcalloc.init() as ctx:
                    assert ctx.comm is None
                ctx = hpcalloc.init(MPI.COMM_WORLD)
                a = ctx.ones(100_000)
                MPI.Finalize()
                ctx.close()                # nothing to free any more
                assert a.sum() == a.size
        """
    )
    assert (result.returncode, result.stderr) == (0, "")


# ---- threads, processes, garbage ----------------------------------------------------------------------------


def test_threads_open_and_close():
    failures = []

    def work():
        try:
            for _ in range(20):
                with hpcalloc.init() as ctx:
                    assert ctx.ones(1000).sum() == 1000
                    assert hpcalloc.current() is not None
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert hpcalloc.current() is None


def test_stays_open_without_a_reference():
    hpcalloc.init()
    gc.collect()
    ctx = hpcalloc.current()
    assert ctx is not None
    assert ctx.ones(3).sum() == 3
    ctx.close()


def test_no_pickle_of_contexts():
    with hpcalloc.init() as ctx, pytest.raises(TypeError):
        pickle.dumps(ctx)


def test_interpreter_exit_with_open_context():
    result = run_python("import hpcalloc; ctx = hpcalloc.init(); a = ctx.ones(100_000); b = hpcalloc.init()")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# ---- processes that no MPI launcher started ---------------------------------------------------------------


def test_shares_are_what_ranks_would_get():
    cpus = []
    for index in range(2):
        with hpcalloc.init(share=(index, 2)) as ctx:
            assert (ctx.local_rank, ctx.local_size, ctx.comm) == (index, 2, None)
            assert os.sched_getaffinity(0) == set(ctx.cpus)
            assert ctx.cpus == hpcalloc.make_plan(ctx.topology, 2).ranks[index].cpus
            cpus.append(frozenset(ctx.cpus))
    assert len(ALL) < 2 or not cpus[0] & cpus[1]


def test_shares_stay_inside_what_the_process_was_given():
    result = run_python(
        """
        import os, hpcalloc
        first = min(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {first})
        with hpcalloc.init(share=(1, 2)) as ctx:
            assert ctx.cpus == (first,), ctx.cpus
        """,
        OMPI_COMM_WORLD_LOCAL_RANK="0",
        OMPI_COMM_WORLD_LOCAL_SIZE="1",
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("share", [(2, 2), (-1, 2), (0, 0), 3, (0, 1, 2), ("0", 2), (0.0, 2)])
def test_a_bad_share(share):
    with pytest.raises(hpcalloc.PlanError, match=r"share=.*0 <= i < n"):
        hpcalloc.init(share=share)


def test_a_share_stands_alone():
    with hpcalloc.init(share=(0, 1)), pytest.raises(hpcalloc.PlanError, match="a context is open"):
        hpcalloc.init()


def test_numba_that_counted_other_cpus_is_noted(monkeypatch):
    numba = types.SimpleNamespace(config=types.SimpleNamespace(NUMBA_NUM_THREADS=4711))
    monkeypatch.setitem(sys.modules, "numba", numba)
    with hpcalloc.init() as ctx:
        assert any("keeps 4711 threads" in note for note in ctx.notes)
        numba.config.NUMBA_NUM_THREADS = ctx.threads
    with hpcalloc.init() as ctx:
        assert not any("numba" in note for note in ctx.notes)


@pytest.mark.parametrize("send", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_context_is_not_copied(send):
    with hpcalloc.init() as ctx, pytest.raises(TypeError, match=r"Context: .*limit.*remedy"):
        send(ctx)


@pytest.mark.parametrize("threads", [1 << 17, 10**20])
def test_more_threads_than_any_machine_has(threads):
    with pytest.raises(hpcalloc.PlanError, match="threads.*limit.*65536"):
        hpcalloc.init(threads=threads)
    assert hpcalloc.current() is None


def test_creation_methods_are_short_too():
    """The methods are C in front of Python as the functions are: the same results, and refused when closed."""
    ctx = hpcalloc.init()
    for name in ("empty", "zeros", "ones"):
        method = getattr(ctx, name)
        assert method((2, 3), dtype="f4").dtype == np.float32
        assert method(shape=4, order="F").shape == (4,)
        assert getattr(hpcalloc.Context, name)(ctx, 3).shape == (3,)
    assert ctx.asarray(ctx.full(3, 2.0)).tolist() == [2.0] * 3
    with pytest.raises(TypeError):
        hpcalloc.Context.zeros()
    ctx.close()
    for name in ("zeros", "ones", "array", "asarray"):
        with pytest.raises(hpcalloc.ContextClosedError, match=name):
            getattr(ctx, name)(3)


@pytest.mark.parametrize(
    "words", [["-c", "import hpcalloc; hpcalloc.init()"], ["-m", "hpcalloc", "topology"]]
)
def test_unknown_variables_are_named_once(words):
    environ = {**os.environ, "HPCALLOC_TIMOUT": "3", "HPCALLOC_TIMEOUT": "3"}
    done = subprocess.run([sys.executable, *words], env=environ, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stderr.splitlines() if "unknown" in line]
    assert "HPCALLOC_TIMOUT is ignored" in line


def test_ranks_that_nobody_counts_are_not_pinned(monkeypatch):
    monkeypatch.setenv("PMIX_RANK", "1")
    before = os.sched_getaffinity(0)
    with hpcalloc.init() as context:
        assert context.action == "none" or context.action == "honour"
        assert any("pmix does not tell" in note for note in context.notes)
        assert os.sched_getaffinity(0) == before
