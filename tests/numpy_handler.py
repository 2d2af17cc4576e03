# SPDX-License-Identifier: BSD-3-Clause
"""A pytest plugin (-p numpy_handler): everything in the session, NumPy's own tests say, runs under our handler."""

import os

import hpcalloc

allocator = hpcalloc.numpy_allocator("local", threads=os.environ["NUMPY_HANDLER_THREADS"])


def pytest_configure():
    allocator.install()


def pytest_unconfigure():
    allocator.remove()
