# SPDX-License-Identifier: BSD-3-Clause
"""Options of the test suite."""

import gc
import os

import pytest
from launching import without_launcher

import hpcalloc
from hpcalloc import _native


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


@pytest.fixture(autouse=True, scope="module")
def _short_collections():
    """Tests that count what is left call gc.collect() often: it need not look at what was there before the file."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_launcher(monkeypatch):
    """An environment in which no launcher has started this process."""
    for name in os.environ.keys() - without_launcher(os.environ).keys():
        monkeypatch.delenv(name)


@pytest.fixture
def a_quarter_elsewhere(monkeypatch):
    """Of all memory, the kernel says a quarter to be on a node that no rank has: so it must be counted, on any machine."""

    def page_counts(address, length):
        return _native.PageCounts(4096, 4, on_node={hpcalloc.current().nodes[0]: 3, 999: 1})

    monkeypatch.setattr(_native, "page_counts", page_counts)


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
