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
