# SPDX-License-Identifier: BSD-3-Clause
"""A pytest plugin (-p numpy_handler): everything in the session, NumPy's own tests say, runs under our handler."""

import collections
import os

import hpcalloc

PASSED = collections.Counter()  # by module

allocator = hpcalloc.numpy_allocator("local", new_threads=os.environ["NUMPY_HANDLER_THREADS"] == "new")


def pytest_configure():
    allocator.install()


def pytest_unconfigure():
    allocator.remove()


def pytest_runtest_makereport(item, call):
    if call.when == "call" and call.excinfo is None:
        PASSED[item.module.__name__.rpartition(".")[2]] += 1


def pytest_terminal_summary(terminalreporter):
    for module, count in PASSED.items():
        terminalreporter.write_line(f"passed of {module}: {count}")
