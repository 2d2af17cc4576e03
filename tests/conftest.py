# SPDX-License-Identifier: BSD-3-Clause
"""Options of the test suite."""

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--fail-on-skip",
        action="store_true",
        help="a skipped test is a failure: everything it needs is supposed to be installed",
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    # Under mpirun a test may be for more ranks than this run has; another run has them.
    if report.skipped and item.config.getoption("--fail-on-skip") and item.get_closest_marker("mpi") is None:
        report.outcome = "failed"
        report.longrepr = f"skipped under --fail-on-skip: {report.longrepr}"
