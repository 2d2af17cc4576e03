# SPDX-License-Identifier: BSD-3-Clause
"""Migrate: move the pages of an array that is somewhere else, of NumPy's or any other library's memory.

    python migrate.py

On a machine with one NUMA node there is nowhere to go: all pages stay.
"""

import numpy as np

import hpcalloc

with hpcalloc.init() as ctx:
    a = np.ones(2_000_000)  # where it was touched first
    print("before:", hpcalloc.placement(a))
    last = ctx.topology.nodes[-1].id
    try:
        print("moved: ", hpcalloc.migrate(a, hpcalloc.on_node(last)))
    except hpcalloc.PlacementError as error:  # a container that forbids it
        print("refused:", error)
    print("after: ", hpcalloc.placement(a))
