# SPDX-License-Identifier: BSD-3-Clause
"""Policies: where the pages of an array go, and where they are.

    python policies.py

On a machine with one NUMA node all lines say node 0.
"""

import hpcalloc

N = 2_000_000  # elements: 16 MB

with hpcalloc.init() as ctx:
    last = ctx.topology.nodes[-1].id
    for policy in (
        hpcalloc.local(),  # the node of the thread that asks
        hpcalloc.on_node(last),  # one node
        hpcalloc.interleave(),  # pages in turn on all nodes: for arrays that all threads read everywhere
        hpcalloc.blocked(),  # equal parts, one per node: for loops with a fixed part per thread
    ):
        a = hpcalloc.ones(N, policy=policy)
        print(f"{policy!s:50} {hpcalloc.placement(a)}")

    # For all arrays of a region of code, NumPy's own temporaries included:
    with hpcalloc.numpy_allocator(hpcalloc.on_node(last)):
        import numpy as np

        b = np.ones(N) * 2.0 + 1.0
    print(f"{'numpy_allocator':50} {hpcalloc.placement(b)}")
