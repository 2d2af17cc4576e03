# SPDX-License-Identifier: BSD-3-Clause
"""init and Context on several ranks.

    timeout 300 mpirun -n 2 python -m mpi4py -m pytest -x --with-mpi -m mpi tests/mpi

An error on one rank must be raised on all and hang none: each of these tests ends with a barrier.
"""

import os
import signal
import traceback

import numpy as np
import pytest
from raising import raised

import hpcalloc
from hpcalloc import _native, opening
from hpcalloc.bind import agreement
from hpcalloc.bind import rank as bind_rank
from hpcalloc.discover.devices import Device
from hpcalloc.discover.launcher import Launch

pytestmark = pytest.mark.mpi
ALL = frozenset(os.sched_getaffinity(0))


@pytest.fixture
def world():
    from mpi4py import MPI

    yield MPI.COMM_WORLD
    while hpcalloc.current() is not None:
        hpcalloc.current().close()
    assert os.sched_getaffinity(0) == ALL
    assert hpcalloc.current_policy() == hpcalloc.local()
    MPI.COMM_WORLD.Barrier()


def test_ranks_near_their_devices(world, monkeypatch):
    def made(topology, root="/"):
        node = topology.nodes[0].id
        return tuple(
            Device("gpu", "nvidia", f"gpu{i}", f"0000:{i:02x}:00.0", (node,), number=i)
            for i in range(world.size)
        )

    monkeypatch.setattr(bind_rank, "machine_devices", made)
    with hpcalloc.init(world, near="gpu") as ctx:
        (mine,) = ctx.devices
        assert os.environ["CUDA_VISIBLE_DEVICES"] == str(mine.number)
        assert sorted(world.allgather(mine.number)) == list(range(world.size))
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    # each was given one of its own by the launcher: rank 0 reads the machine, and hears it from all
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", str(world.size - 1 - world.rank))
    with hpcalloc.init(world, near="gpu") as ctx:
        assert [d.number for d in ctx.devices] == [world.size - 1 - world.rank]
    if world.size > 1:
        error = raised(lambda: hpcalloc.init(world, near="gpu" if world.rank else "nic"))
        assert isinstance(error, hpcalloc.PlanError)
        assert "near='gpu'" in str(error)


def test_ranks_and_communicators(world):
    with hpcalloc.init(world) as ctx:
        assert ctx.comm is world
        assert (ctx.rank, ctx.size) == (world.Get_rank(), world.Get_size())
        assert (ctx.local_rank, ctx.local_size) == (ctx.node_comm.Get_rank(), ctx.node_comm.Get_size())
        assert ctx.local_size <= ctx.size
        assert ctx.numa_comm.allreduce(ctx.nodes[0]) == ctx.nodes[0] * ctx.numa_comm.Get_size()
        assert set(ctx.cpus) == os.sched_getaffinity(0)
        assert all(plan == ctx.plan.to_dict() for plan in ctx.node_comm.allgather(ctx.plan.to_dict()))
        cpus = ctx.node_comm.allgather(ctx.cpus)
        if ctx.local_size <= len(ctx.topology.usable_cores) and ctx.action in ("bind", "widen"):
            assert len(set().union(*cpus)) == sum(map(len, cpus))
        if ctx.action == "bind" and ctx.local_size > len(ctx.topology.allowed_cpus):
            assert ctx.plan.ranks[ctx.local_rank].shared
    assert os.sched_getaffinity(0) == ALL


def test_without_a_communicator_nobody_waits(world):
    """The call says whether it is collective: one rank alone is refused, or stands alone with share=."""
    if world.Get_rank() == 0:
        error = raised(hpcalloc.init)
        if world.Get_size() > 1:
            assert isinstance(error, hpcalloc.PlanError)
            assert "hpcalloc.init(MPI.COMM_WORLD)" in str(error)
        else:
            assert error is None
            hpcalloc.current().close()
        with hpcalloc.init(share=(0, 2)) as ctx:
            assert (ctx.comm, ctx.size) == (None, 1)


def test_many_times(world):
    """Communicators are freed: MPI libraries have a few thousand."""
    for _ in range(50):
        hpcalloc.init(world).close()
    assert world.allreduce(1) == world.Get_size()


def test_nested(world):
    with hpcalloc.init(world) as outer, hpcalloc.init(world) as inner:
        assert inner.node_comm is outer.node_comm
        assert inner.plan is outer.plan
    first, second = hpcalloc.init(world), hpcalloc.init(world.Dup())  # congruent
    first.close()
    assert second.node_comm.allreduce(1) == second.local_size
    second.comm  # noqa: B018 - still open
    second.close()


@pytest.mark.mpi(min_size=2)
def test_sub_communicators(world):
    rank = world.Get_rank()
    part = world.Split(rank % 2, rank)
    with hpcalloc.init(part) as ctx:
        assert ctx.size == part.Get_size()
        assert ctx.rank == part.Get_rank()
        error = raised(lambda: hpcalloc.init(world))
        assert isinstance(error, hpcalloc.PlanError)
        assert "another communicator" in str(error)
    part.Free()


# ---- errors: on all ranks, and no rank hangs ---------------------------------------------------------------


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("culprit", [0, -1])
@pytest.mark.parametrize(
    ("kwargs", "kind"),
    [
        ({"strict": "very"}, TypeError),
        ({"policy": "near"}, ValueError),
        ({"policy": hpcalloc.on_node(1023)}, hpcalloc.PlanError),
        ({"bind": "off"}, hpcalloc.PlanError),
        ({"threads": -1}, hpcalloc.PlanError),
    ],
)
def test_one_rank_is_wrong(world, culprit, kwargs, kind):
    culprit %= world.Get_size()
    mine = kwargs if world.Get_rank() == culprit else {}
    error = raised(lambda: hpcalloc.init(world, **mine))
    assert isinstance(error, kind)
    assert "limit" in str(error)
    if world.Get_rank() != culprit and kind is not hpcalloc.PlanError:
        assert f"on rank {culprit} of {world.Get_size()}" in str(error)
    assert hpcalloc.current() is None
    hpcalloc.init(world).close()  # and all is well again


def test_a_share_and_a_communicator(world):
    """Also of one rank: the others are told."""
    mine = {"share": (0, 2)} if world.Get_rank() == 0 else {}
    error = raised(lambda: hpcalloc.init(world, **mine))
    assert isinstance(error, hpcalloc.PlanError)
    assert "share= and comm=" in str(error)
    assert hpcalloc.current() is None


@pytest.mark.mpi(min_size=2)
def test_all_ranks_are_wrong(world):
    for kwargs, kind in (
        ({"policy": hpcalloc.on_node(1023)}, hpcalloc.NodeError),
        ({"bind": "loose"}, hpcalloc.PlanError),
    ):
        assert isinstance(raised(lambda kwargs=kwargs: hpcalloc.init(world, **kwargs)), kind)


@pytest.mark.mpi(min_size=2)
def test_kernel_refuses_one_rank(world, monkeypatch):
    last = world.Get_rank() == world.Get_size() - 1
    if last:
        monkeypatch.setattr(_native, "can_bind", lambda: 1)
    error = raised(lambda: hpcalloc.init(world, strict=True))
    assert isinstance(error, hpcalloc.BindingError)
    assert error.errno == 1
    assert ("on rank" in str(error)) != last
    assert os.sched_getaffinity(0) == ALL  # the others were pinned already
    if not last:
        assert hpcalloc.current() is None


@pytest.mark.mpi(min_size=2)
def test_planning_fails_for_all(world, monkeypatch):
    from hpcalloc.bind import rank as rank_setup

    def fails(*_args, **_kwargs):
        raise hpcalloc.PlanError("no plan")

    monkeypatch.setattr(rank_setup, "make_plan", fails)  # called on one rank of each host
    error = raised(lambda: hpcalloc.init(world))
    assert isinstance(error, hpcalloc.PlanError)
    assert "no plan" in str(error)


@pytest.mark.mpi(min_size=2)
def test_open_on_one_rank_only(world):
    mine = hpcalloc.init(world.Split(world.Get_rank(), 0)) if world.Get_rank() == 0 else world.Split(1, 0)
    error = raised(lambda: hpcalloc.init(world))
    assert isinstance(error, hpcalloc.PlanError)
    if world.Get_rank() == 0:
        mine.close()


@pytest.mark.mpi(min_size=2)
def test_exception_in_one_rank_hangs_none(world):
    def work():
        with hpcalloc.init(world) as ctx:
            if ctx.rank == 0:
                raise ZeroDivisionError

    assert (raised(work) is None) == (world.Get_rank() != 0)
    hpcalloc.init(world).close()


@pytest.mark.mpi(min_size=2)
def test_wrong_communicators(world):
    from mpi4py import MPI

    half = world.Split(world.Get_rank() % 2, world.Get_rank())
    inter = half.Create_intercomm(0, world, 1 - world.Get_rank() % 2)
    for comm, kind, match in (
        (MPI.COMM_NULL, ValueError, "COMM_NULL"),
        (inter, ValueError, "intercommunicator"),
        (MPI.GROUP_EMPTY, TypeError, "Group"),
        ("world", TypeError, "str"),
    ):
        with pytest.raises(kind, match=f"{match}.*limit.*remedy"):
            hpcalloc.init(comm)
    inter.Free()
    half.Free()


# ---- reports ------------------------------------------------------------------------------------------


def test_the_report_counts_pages_elsewhere(world, a_quarter_elsewhere):
    with hpcalloc.init(world) as ctx:
        kept = ctx.ones(1 << 18)
        assert ctx.placement(kept).local_fraction == 0.75
        assert ctx.report().summary["local_fraction"] == 0.75


def test_report(world):
    with hpcalloc.init(world) as ctx:
        kept = ctx.ones(1 << 18)
        report = ctx.report()
        if ctx.rank == 0:
            assert [r["rank"] for r in report.ranks] == list(range(ctx.size))
            assert report.summary["failed_ranks"] == []
            assert report.summary["pages"] >= ctx.size * kept.nbytes // 4096 or report.summary["unknown"]
            assert f"{ctx.size} of {ctx.size} rank" in report.to_text()
        else:
            assert [r["rank"] for r in report.ranks] == [ctx.rank]
        assert report.data["size"] == ctx.size


@pytest.mark.mpi(min_size=2)
def test_report_with_a_failing_rank(world, monkeypatch):
    from hpcalloc.report import record as module

    with hpcalloc.init(world) as ctx:
        if ctx.rank == ctx.size - 1:
            monkeypatch.setattr(module, "process_memory", lambda: 1 / 0)
        report = ctx.report()
        if ctx.rank == 0:
            assert report.summary["failed_ranks"] == [ctx.size - 1]
            assert "ZeroDivisionError" in report.to_text()


# ---- arrays in messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 1 << 18])
def test_arrays_as_buffers(world, size):
    with hpcalloc.init(world) as ctx:
        sent, got = ctx.full(size, float(ctx.rank)), ctx.empty(size)
        world.Allreduce(sent, got)
        assert (got == sum(range(ctx.size))).all()
        right, left = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
        world.Sendrecv(sent, right, recvbuf=got, source=left)
        assert (got == left).all()
        everything = world.allgather(sent)  # pickled
        assert [a[0] for a in everything] == list(range(ctx.size))
    np.testing.assert_array_equal(got, np.full(size, float(left)))


def test_a_forked_child_has_the_context_and_leaves_mpi_alone(world):
    def child():
        assert (ctx.comm, ctx.node_comm, ctx.numa_comm) == (None, None, None)
        assert (ctx.rank, ctx.size) == (world.Get_rank(), world.Get_size())
        with hpcalloc.init() as again:
            assert again.cpus == ctx.cpus
        assert len(ctx.report().ranks) == 1
        assert (ctx.ones(100_000) + data[0] == 2).all()
        error = raised(lambda: hpcalloc.init(world))
        assert isinstance(error, hpcalloc.HpcallocError)
        assert "a forked child" in str(error)
        ctx.close()
        with hpcalloc.init() as own:
            assert own.comm is None

    with hpcalloc.init(world) as ctx:
        data = ctx.ones(100_000)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.alarm(30)
                child()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        status = os.waitpid(pid, 0)[1]
        assert world.allgather(status) == [0] * world.Get_size()
        assert not ctx.closed
    assert (data == 1).all()


def blind(world):
    """A communicator of a library that does not know which ranks share a host."""
    from mpi4py import MPI

    class Blind(MPI.Intracomm):
        def Split_type(self, split_type, key=0, info=MPI.INFO_NULL):  # noqa: N802
            return self.Split(self.Get_rank())

    return Blind(world)


def launched(local_size):
    return lambda: Launch("slurm", None, local_size, None)


def test_where_mpi_does_not_know_its_neighbours_the_launcher_and_the_kernel_do(world, monkeypatch):
    size = world.Get_size()
    monkeypatch.setattr(opening, "this_launch", launched(size))
    with hpcalloc.init(blind(world)) as ctx:
        assert (ctx.local_rank, ctx.local_size) == (world.Get_rank(), size)
        assert len(ctx.plan.ranks) == size
        assert any("MPI does not know" in note for note in ctx.notes) == (size > 1)
        error = raised(lambda: ctx.shared_zeros(10))
        if size > 1:
            assert isinstance(error, hpcalloc.HpcallocError)
            assert "MPI_COMM_TYPE_SHARED" in str(error)
        else:
            assert error is None


def test_mpi_is_believed_where_nobody_says_otherwise(world, monkeypatch):
    monkeypatch.setattr(opening, "this_launch", launched(None))
    with hpcalloc.init(blind(world)) as ctx:
        assert (ctx.local_rank, ctx.local_size) == (0, 1)
        assert not any("MPI does not know" in note for note in ctx.notes)


@pytest.mark.parametrize("key", [lambda rank: (rank % 2) << 40, lambda rank: rank % 2])
def test_hosts_differ_by_any_bit_of_their_identity(world, monkeypatch, key):
    rank, size = world.Get_rank(), world.Get_size()
    monkeypatch.setattr(agreement, "_host_key", lambda: key(rank))
    node, missed = agreement.split_by_host(blind(world), size)
    assert node.allgather(rank) == list(range(rank % 2, size, 2))
    assert missed == (node.Get_size() > 1)
    node.Free()


def test_the_kernel_tells_its_identity(world):
    key = agreement._host_key()
    assert 0 < key < 1 << 62
    assert world.allgather(key) == [key] * world.Get_size()
