# SPDX-License-Identifier: BSD-3-Clause
"""What the tests over several ranks share."""

import pytest

import hpcalloc


@pytest.fixture
def ctx(world):
    """A context over the communicator that the test's own file gives."""
    with hpcalloc.init(world) as context:
        yield context
        world.Barrier()


def pytest_runtest_logreport(report):
    """End the job with the first failure: the other ranks would wait for this one."""
    from mpi4py import MPI

    if report.failed and MPI.COMM_WORLD.Get_size() > 1:
        print(f"\nrank {MPI.COMM_WORLD.Get_rank()}: {report.nodeid}\n{report.longreprtext}", flush=True)
        MPI.COMM_WORLD.Abort(1)
