# SPDX-License-Identifier: BSD-3-Clause
"""Pre-fault: take the page faults before the clock starts, by all cores, each on its own node's pages.

    python prefault.py

On a machine with several nodes the report counts pages by node.
"""

import time

import hpcalloc


def seconds(a) -> float:
    start = time.perf_counter()
    a.fill(1.0)
    return time.perf_counter() - start


with hpcalloc.init() as ctx:
    n = 8_000_000  # 64 MB
    a, b = ctx.empty(n), ctx.empty(n)
    print(f"first write, faults included: {seconds(b):.4f} s")
    print(hpcalloc.prefault(a))
    print(f"first write after prefault:   {seconds(a):.4f} s")
    print(hpcalloc.placement(a))
