"""Arrays of every policy on a machine with several nodes: pages are where the policy says, whoever touches them."""

# SPDX-License-Identifier: BSD-3-Clause
import os
import sys

import numpy as np

import hpcalloc
from hpcalloc._native import lib, node_ids


def touch_elsewhere(array, node):
    """Write the whole array from a CPU that is not of `node`."""
    before = os.sched_getaffinity(0)
    other = next(n for n in node_ids() if n != node)
    assert lib.numalloc_bind_thread(other) == 0
    array[...] = 1
    os.sched_setaffinity(0, before)


def main() -> int:
    """Exit 1 at the first array that is not where it belongs."""
    nodes = node_ids()
    assert len(nodes) > 1, nodes
    for node in nodes:
        for count in (10, 1000, 100_000, 1_000_000):
            for strict in (False, True):
                a = hpcalloc.empty(count, policy=hpcalloc.on_node(node, strict=strict))
                touch_elsewhere(a, node)
                where = hpcalloc.placement(a)
                assert where.local_fraction == 1.0, (node, count, strict, where)
                assert set(where.pages_per_node) == {node}, where
    a = hpcalloc.zeros((512, 1024), policy=hpcalloc.interleave())
    a += 1
    pages = hpcalloc.placement(a).pages_per_node
    assert set(pages) == set(nodes), pages
    b = hpcalloc.zeros((len(nodes) * 64, 1024), policy=hpcalloc.blocked(0))
    touch_elsewhere(b, nodes[0])
    for i, node in enumerate(nodes):
        part = b[i * 64 : (i + 1) * 64]
        assert set(hpcalloc.placement(part).pages_per_node) == {node}, (i, hpcalloc.placement(part))
    # Plain NumPy, touched elsewhere, must not pass: the check can fail.
    c = np.empty(1_000_000)
    touch_elsewhere(c, nodes[0])
    assert nodes[0] not in hpcalloc.placement(c).pages_per_node, hpcalloc.placement(c)
    return 0


if __name__ == "__main__":
    sys.exit(main())
