# SPDX-License-Identifier: BSD-3-Clause
"""Strict: on its node, or an exception; never on another node, and never the kernel's OOM killer.

    python strict.py

Both outcomes are shown: an array that fits, and one that no machine has.
"""

import hpcalloc

with hpcalloc.init() as ctx:
    node = ctx.nodes[0]
    try:
        a = hpcalloc.ones(1_000_000, policy=hpcalloc.on_node(node, strict=True))
        print("fits:    ", hpcalloc.placement(a))
    except hpcalloc.PlacementError as error:  # a container in which the kernel does not place memory
        print("refused: ", error)
    try:  # more than the machine has
        hpcalloc.empty((1 << 20, 1 << 20), policy=hpcalloc.on_node(node, strict=True))
    except (hpcalloc.OutOfMemoryError, hpcalloc.PlacementError) as error:
        print("too much:", error)
