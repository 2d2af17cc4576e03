# SPDX-License-Identifier: BSD-3-Clause
"""Bandwidth of ranks: all take part, rank 0 has the sums, and one rank's error is everybody's."""

import os

import pytest
from click.testing import CliRunner

import hpcalloc
from hpcalloc import HpcallocError
from hpcalloc.bench import bandwidth, ranks
from hpcalloc.bench.kernels import KERNELS
from hpcalloc.cli.main import cli

MPI = pytest.importorskip("mpi4py.MPI", reason="missing capability: mpi4py")
pytestmark = pytest.mark.mpi
QUICK = bandwidth.Options(nbytes=1 << 18, small=True, iterations=2, repeats=1)


def test_every_rank_is_measured_on_every_placement():
    comm = MPI.COMM_WORLD
    before = os.sched_getaffinity(0)
    steps = []
    result = ranks.measure(comm, QUICK, steps.append)
    assert os.sched_getaffinity(0) == before
    assert len(steps) <= ranks.steps(QUICK)
    if comm.rank != 0:
        assert result == {}
        return
    assert result["good"]
    assert [rank["rank"] for rank in result["ranks"]] == list(range(comm.size))
    several = len(hpcalloc._native.node_ids()) > 1
    assert ("interleaved" in result["sums"]) is several
    for rank in result["ranks"]:
        assert "local" in rank["placements"]
        assert "unplaced" in rank["placements"]
        for place in rank["placements"].values():
            assert sum(place["pages"].values()) > 0 or place["unknown"]
            for kernel in KERNELS:
                assert place["kernels"][kernel]["gb_per_s"] > 0
                assert place["kernels"][kernel]["result_verified"]
    for sums in result["sums"].values():
        assert all(sums[kernel] > 0 for kernel in KERNELS)
    assert (bandwidth.ONE_NODE in result["remarks"]) is not several


@pytest.mark.parametrize(
    "step", ["_array_bytes", "_policies", "_make", "Arrays.poison", "Arrays.right", "_account"]
)
def test_one_ranks_error_is_raised_on_all(monkeypatch, step):
    comm = MPI.COMM_WORLD
    if comm.rank == comm.size - 1:

        def refuse(*_):
            raise HpcallocError("this rank can't")

        monkeypatch.setattr(f"hpcalloc.bench.ranks.{step}", refuse)
    with pytest.raises(HpcallocError, match="this rank can't"):
        ranks.measure(comm, QUICK)
    assert hpcalloc.current() is None


def test_ranks_measure_what_all_of_them_have(monkeypatch):
    comm = MPI.COMM_WORLD
    if comm.rank == comm.size - 1 and comm.size > 1:  # as on a host with more nodes than the others
        own = ranks._policies
        monkeypatch.setattr(ranks, "_policies", lambda context: {"far": None, **own(context)})
    result = ranks.measure(comm, QUICK)
    if comm.rank == 0:
        assert next(iter(result["sums"])) == "local"
        assert "far" not in result["sums"]


def test_a_wrong_result_of_one_rank_is_told(monkeypatch):
    comm = MPI.COMM_WORLD
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(ranks.Arrays, "right", lambda self, kernel: False)
    result = ranks.measure(comm, QUICK)
    if comm.rank == 0:
        assert not result["good"]


@pytest.mark.parametrize("arguments", [["--compare"], ["--threads", "1"]])
def test_options_for_one_process_are_refused(arguments):
    result = CliRunner().invoke(cli, ["bench", "bandwidth", "--small", "--mpi", *arguments])
    assert result.exit_code == 2
    assert "one process" in result.output
