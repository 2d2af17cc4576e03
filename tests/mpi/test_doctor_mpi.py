# SPDX-License-Identifier: BSD-3-Clause
"""The doctor's facts over several ranks; tests/test_doctor_real.py starts the command itself."""

import os

import pytest

from hpcalloc.discover.launcher import detect_launcher
from hpcalloc.doctor import job
from hpcalloc.doctor.diagnosis import diagnose
from hpcalloc.doctor.facts import loaded_libraries
from hpcalloc.exceptions import HpcallocError

pytestmark = pytest.mark.mpi


@pytest.fixture
def world():
    from mpi4py import MPI

    yield MPI.COMM_WORLD
    MPI.COMM_WORLD.Barrier()


def test_rank_0_has_all_ranks_and_each_host_once(world):
    launch = detect_launcher(os.environ)
    hosts = job.gather(world, launch)
    if world.Get_rank() > 0:
        assert hosts == ()
        return
    ranks = [rank for host in hosts for rank in host.ranks]
    assert sorted(rank.rank for rank in ranks) == list(range(world.Get_size()))
    assert {rank.size for rank in ranks} == {rank.mpi_size for rank in ranks} == {world.Get_size()}
    assert all(rank.cpus and rank.mems and rank.limits for rank in ranks)
    assert any("libmpi" in path for path in loaded_libraries())
    checks = {finding.check for finding in diagnose(hosts)}
    assert not checks & {"two-mpis", "mpi-singletons", "mpi-unusable"}
    if world.Get_size() > len(frozenset().union(*(rank.cpus for rank in ranks))):
        assert "more-ranks-than-cores" in checks


def test_a_rank_that_fails_is_named_and_hangs_nobody(world, monkeypatch):
    last = world.Get_size() - 1
    if world.Get_rank() == last:
        monkeypatch.setattr(job, "gather_rank", lambda *a, **k: 1 / 0)
    if world.Get_rank() == 0:
        with pytest.raises(HpcallocError, match=rf"rank {last} failed:[\s\S]*ZeroDivisionError"):
            job.gather(world, detect_launcher(os.environ))
    else:
        assert job.gather(world, detect_launcher(os.environ)) == ()


@pytest.mark.parametrize("code", [0, 1])
def test_all_ranks_have_rank_0s_exit_code_after_it_has_reported(world, code):
    said = []
    launch = detect_launcher(os.environ)
    assert job.report_together(world, launch, (), lambda hosts: said.append(hosts) or code) == code
    assert len(said) == (world.Get_rank() == 0)


def test_all_ranks_fail_where_one_does(world, monkeypatch, capsys):
    if world.Get_rank() == world.Get_size() - 1:
        monkeypatch.setattr(job, "gather_rank", lambda *a, **k: 1 / 0)
    assert job.report_together(world, detect_launcher(os.environ), (), lambda hosts: 0) == job.FAILED
    assert ("ZeroDivisionError" in capsys.readouterr().err) == (world.Get_rank() == 0)
