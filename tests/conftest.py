# SPDX-License-Identifier: BSD-3-Clause
"""Options of the test suite."""

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--fail-on-skip",
        action="store_true",
        help="a skipped test is a failure: everything it needs is supposed to be installed",
    )
    parser.addoption(
        "--largest-run",
        action="store_true",
        help="no other run has more MPI ranks: with --fail-on-skip, a test for more ranks is a failure",
    )


def _has_another_run(item):
    """Whether a test is for more ranks than this run has, and another run is larger."""
    marker = item.get_closest_marker("mpi")
    if (
        marker is None
        or not item.config.getoption("--with-mpi", False)
        or item.config.getoption("--largest-run")
    ):
        return False
    from mpi4py import MPI

    return marker.kwargs.get("min_size", 1) > MPI.COMM_WORLD.Get_size()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.skipped and item.config.getoption("--fail-on-skip") and not _has_another_run(item):
        report.outcome = "failed"
        report.longrepr = f"skipped under --fail-on-skip: {report.longrepr}"
