"""Arrays of every policy on a machine with several nodes: pages are where the policy says, whoever touches them.

So they are when they are faulted in ahead, and when they are moved.
"""

# SPDX-License-Identifier: BSD-3-Clause
import contextlib
import ctypes
import mmap
import os
import pathlib
import sys
import threading

import numpy as np

import hpcalloc
from hpcalloc._native import lib, node_ids
from hpcalloc.discover.running import read_process
from hpcalloc.discover.topology import Topology
from hpcalloc.doctor.running import examine


def touch_elsewhere(array, node):
    """Write the whole array from a CPU that is not of `node`."""
    before = os.sched_getaffinity(0)
    other = next(n for n in node_ids() if n != node)
    assert lib.numalloc_bind_thread(other) == 0
    array[...] = 1
    os.sched_setaffinity(0, before)


def touched(nbytes, node):
    """Memory of others, touched from `node`."""
    array = np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
    before = os.sched_getaffinity(0)
    assert lib.numalloc_bind_thread(node) == 0
    array[...] = 1
    os.sched_setaffinity(0, before)
    assert set(hpcalloc.placement(array).pages_per_node) == {node}
    return array


@contextlib.contextmanager
def without_balancing():
    """Keep the kernel from moving memory that has no policy; of pages it has marked for that, Linux 6.1 tells no node."""
    switch = pathlib.Path("/proc/sys/kernel/numa_balancing")
    before = switch.read_text()
    switch.write_text("0")
    try:
        yield
    finally:
        switch.write_text(before)


def error_of(call):
    """What a call raises, None if nothing."""
    try:
        call()
    except Exception as error:
        return error
    return None


def on_cpus_of(node, work):
    """Run `work` in a thread that is bound to `node`; what it returns."""
    results = []

    def run():
        assert lib.numalloc_bind_thread(node) == 0
        results.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert results, "the thread failed"
    return results[0]


def prefaulted(nodes):
    """Pages faulted in by threads on their nodes are where the array's home is; others' where the caller is."""
    for policy in [*map(hpcalloc.on_node, nodes), hpcalloc.interleave(), hpcalloc.blocked(0)]:
        a = hpcalloc.empty((len(nodes) * 512, 1024), policy=policy)
        result = hpcalloc.prefault(a, 4)
        assert result.placement.untouched == 0, result
        assert set(result.pages_per_node) == set(policy.nodes or nodes), (policy, result)
        if policy.kind == "blocked":
            for i, node in enumerate(nodes):
                part = hpcalloc.placement(a[i * 512 : (i + 1) * 512])
                assert set(part.pages_per_node) == {node}, (i, part)
        del a
        lib.numalloc_purge()
    for node in nodes:
        memory = np.frombuffer(mmap.mmap(-1, 8 << 20), np.uint8)
        result = on_cpus_of(node, lambda memory=memory: hpcalloc.prefault(memory, 2))
        assert dict(result.pages_per_node) == {node: 2048}, (node, result)
        assert result.faulted == 2048, result


def blocked_for_threads(nodes):
    """One process, a thread per node, each with its own part, as OpenMP's static schedule deals them."""
    count = len(nodes)
    for shape, axis in (((count * 256, 1024), 0), ((16, count * 4096), 1)):
        a = hpcalloc.zeros(shape, policy=hpcalloc.blocked(axis))
        touch_elsewhere(a, nodes[0])
        parts = np.split(a, count, axis=axis)
        for node, part in zip(nodes, parts, strict=True):
            for run in [part] if axis == 0 else part:
                where = on_cpus_of(
                    node, lambda run=run: hpcalloc.placement(run, local_nodes=[lib.numalloc_current_node()])
                )
                assert where.local_fraction == 1.0, (axis, node, where)


def migrated(nodes):
    """Pages go where they are sent, of our arrays and of others', and those that can't are counted."""
    first, last = nodes[0], nodes[-1]
    for a in (
        touched(16 << 20, first),
        hpcalloc.ones(2 << 20, policy=hpcalloc.on_node(first)),
        np.ones(2 << 20),
    ):
        was = a.copy()
        hpcalloc.migrate(a, hpcalloc.on_node(first))
        result = hpcalloc.migrate(a, hpcalloc.on_node(last))
        assert (result.moved, result.unmoved, result.untouched) == (result.pages, 0, 0), result
        assert set(hpcalloc.placement(a).pages_per_node) == {last}
        assert hpcalloc.migrate(a, hpcalloc.on_node(last)).stayed == result.pages
        result = hpcalloc.migrate(a, hpcalloc.interleave())
        shares = hpcalloc.placement(a).pages_per_node
        assert result.unmoved == 0, result
        assert min(shares.get(node, 0) for node in nodes) > 0.5 * result.pages / len(nodes), shares
        result = hpcalloc.migrate(a, "blocked")
        assert result.unmoved == 0, result
        for i, node in enumerate(nodes):
            part = np.array_split(a, len(nodes))[i]
            slack = (1 << 20) // a.itemsize  # bounds are at huge pages where there are some
            inside = hpcalloc.placement(part[slack:-slack])
            assert set(inside.pages_per_node) == {node}, (i, inside)
        assert (a == was).all()
    small = touched(1 << 20, first)
    assert hpcalloc.migrate(small, "interleave").unmoved == 0
    assert dict(hpcalloc.placement(small).pages_per_node) == {node: 256 // len(nodes) for node in nodes}
    assert on_cpus_of(last, lambda: hpcalloc.migrate(small, "local")).unmoved == 0
    assert set(hpcalloc.placement(small).pages_per_node) == {last}
    pinned(first, last)


def pinned(first, last):
    """Pages in a pipe, put there without copying, can't move."""
    a = touched(1 << 20, first)
    at = hpcalloc.placement(a)
    assert at.pages == 256
    read, write = os.pipe()
    libc = ctypes.CDLL(None, use_errno=True)
    entry = (ctypes.c_size_t * 2)(a.ctypes.data + (100 << 12), 8 << 12)
    assert libc.vmsplice(write, entry, 1, 0) == 8 << 12, os.strerror(ctypes.get_errno())
    result = hpcalloc.migrate(a, hpcalloc.on_node(last))
    assert (result.moved, result.refused) == (248, {"EBUSY": 8}), result
    error = error_of(lambda: hpcalloc.migrate(a, hpcalloc.on_node(last, strict=True)))
    assert isinstance(error, hpcalloc.PlacementError), error
    assert "8 not: EBUSY" in str(error), error
    os.close(read)
    os.close(write)
    assert hpcalloc.migrate(a, hpcalloc.on_node(last)).moved == 8


def numpys_own(nodes):
    """NumPy's results and temporaries are where the handler's policy says, in new threads too, whoever writes first."""
    for node in nodes:
        other = next(n for n in nodes if n != node)
        with hpcalloc.numpy_allocator(hpcalloc.on_node(node), new_threads=True):
            # the thread runs on the other node's CPUs, so first touch would put them there
            for count in (1000, 100_000, 1_000_000):
                a = on_cpus_of(other, lambda count=count: np.ones(count) * 2 + np.arange(count))
                assert set(hpcalloc.placement(a).pages_per_node) == {node}, (
                    node,
                    count,
                    hpcalloc.placement(a),
                )
    with hpcalloc.numpy_allocator("interleave"):
        a = np.ones(1_000_000) * 2
    assert set(hpcalloc.placement(a).pages_per_node) == set(nodes), hpcalloc.placement(a)
    assert set(
        hpcalloc.placement(on_cpus_of(nodes[-1], lambda: np.ones(1_000_000)[1024:-1024])).pages_per_node
    ) == {nodes[-1]}


def seen_from_outside(nodes):
    """Look at this process as `hpcalloc ps` does: the same bytes as numa_maps has, and the remote ones are found."""
    far = nodes[-1]
    lib.numalloc_purge()  # what is free on that node would serve
    before = read_process(os.getpid()).memory
    array = hpcalloc.empty(80 << 17, policy=hpcalloc.on_node(far))
    array[...] = 1
    with on_cpus(nodes[0]):
        process = read_process(os.getpid())
        findings = examine([process], Topology.from_machine(), "here")
    assert process.memory.data[far] - before.data.get(far, 0) >= 79 << 20, (before, process.memory)
    assert {f.check for f in findings} >= {"remote-memory"}, findings
    counted = {}
    for line in pathlib.Path("/proc/self/numa_maps").read_text().splitlines():
        fields = dict(word.split("=") for word in line.split()[2:] if "=" in word)
        for name, pages in fields.items():
            if name[0] == "N":
                size = int(pages) * int(fields["kernelpagesize_kB"]) * 1024
                counted[int(name[1:])] = counted.get(int(name[1:]), 0) + size
    memory = process.memory
    for node, size in counted.items():
        told = memory.private.get(node, 0) + memory.shared.get(node, 0) + memory.files.get(node, 0)
        assert abs(told - size) <= 4 << 20, (node, told, size)  # the findings themselves take some
    assert array[0] == 1


@contextlib.contextmanager
def on_cpus(node):
    """Be on the CPUs of a node."""
    before = os.sched_getaffinity(0)
    assert lib.numalloc_bind_thread(node) == 0
    try:
        yield
    finally:
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
    inside = hpcalloc.placement(c[1024:-1024])  # the first page is touched by malloc
    assert nodes[0] not in inside.pages_per_node, inside
    numpys_own(nodes)
    seen_from_outside(nodes)
    blocked_for_threads(nodes)
    with without_balancing():
        prefaulted(nodes)
        migrated(nodes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
