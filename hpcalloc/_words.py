# SPDX-License-Identifier: BSD-3-Clause
"""What the words in tables mean: the legend of a report, the tooltips of its page, and docs/glossary.md.

One entry for each column of a table and for each word in its cells; names are in lower case.
"""

from __future__ import annotations

from collections.abc import Mapping

from ._text import BINDINGS

__all__ = ["SECTIONS", "WORDS", "glossary", "meaning"]

# Section of docs/glossary.md -> word -> meaning, one sentence without a full stop.
SECTIONS: Mapping[str, Mapping[str, str]] = {
    "Machine": {
        "package": "processor chip in one socket",
        "node": "NUMA node: memory with the cores that reach it fastest",
        "cores": "physical cores of the node",
        "cpus": "hardware threads by the kernel's numbers: where threads may run",
        "allowed": "whether this process may use the node: its cpuset and Mems_allowed",
        "distance": "what the firmware says of a path to memory: 10 is local, 21 takes about 2.1 times as long",
        "device": "GPU or network card (NIC)",
        "kind": "vendor and sort of the device",
        "pci address": "where the device is attached: domain, bus, device, function",
        "driver": "kernel driver of the device",
        "host": "name of the machine that the rank runs on",
    },
    "Ranks": {
        "rank": "number of the process in MPI_COMM_WORLD",
        "local rank": "number of the process among the ranks of its host",
        "pid": "process id",
        "command": "program that the process runs",
        "nodes": "NUMA nodes that are home to the rank's memory: its own and, by kind or weight, those of the policy; in hpcalloc ps, nodes that its threads last ran on",
        "threads": "threads of the rank's OpenMP and BLAS pools; in hpcalloc ps, running threads of all threads",
        "memory": "where new memory of the rank goes; in hpcalloc ps, its resident bytes",
        "devices": "GPUs and NICs of the rank, with their distance from its CPUs; 10 is its own node",
        "why": "what the choice of CPUs and nodes follows from",
        "binding": "what was done about the CPUs that the launcher gave the rank",
    },
    "Memory of a rank": {
        "arrays": "live blocks of at least 64 KiB",
        "size": "bytes of these blocks",
        "local": "share of their touched pages that are on the rank's nodes",
        "huge": "share of the arrays' memory that is in huge pages",
        "process local": "share of all memory of the process, libraries included, that is on the rank's nodes",
        "peak": "largest amount of memory that the allocator had in use",
        "fallbacks": "requests that another node served because theirs was full",
        "remote frees": "blocks that were freed by another thread than the one that allocated them",
        "local fraction": "share of the arrays' touched pages that are on the rank's nodes",
        "process local fraction": "share of all memory of the process that is on the rank's nodes",
        "huge fraction": "share of the arrays' memory that is in huge pages",
        "process huge fraction": "share of all memory of the process that is in huge pages",
        "resident bytes": "memory of the process that is in use now",
        "peak bytes": "largest amount of memory that the allocator had in use",
        "pages": "array pages: on the rank's nodes, elsewhere, and not touched yet",
        "by node": "pages or share of memory on each NUMA node",
        "untouched": "pages that were never written; the kernel gives a page its node at the first write",
        "failed": "pages, or runs, for which the kernel or the program returned an error",
        "unknown": "the kernel does not tell where pages are, as in many containers",
    },
    "Binding": {
        "pinned": "the rank's threads may run on the planned CPUs only",
        "launcher default widened to its node": "the launcher bound the rank to one core without being asked for a "
        "binding; the rank now has all CPUs of its share",
        "launcher binding kept": "the user asked the launcher for this binding, so it was not changed",
        "not pinned: bind is off": "bind=False or --bind off",
        "not pinned: refused": "the kernel refused the CPUs; the notes say why",
    },
    "Comparing programs": {
        "solver": "example program",
        "plain": "median seconds with NumPy's own memory",
        "hpcalloc": "median seconds with hpcalloc",
        "ratio": "time or memory of one divided by that of the other; the title says which; below 1 the first is better",
        "rate": "work divided by time, with hpcalloc",
        "faults": "page faults of a whole run, without → with hpcalloc",
        "pages local": "share of the array pages that are on the rank's nodes",
        "verified": "whether the program found its result right",
        "variant": "placement under which the program ran",
        "ranks": "processes of the run",
        "runs": "runs that count",
        "median": "middle of the sorted values: half of them are at most this",
        "min": "smallest value; the rank that has it follows",
        "max": "largest value; the rank that has it follows",
        "verdict": "whether the variant differs from the first by more than noise",
    },
    "Benchmarks": {
        "workload": "pattern of allocations and frees",
        "allocator": "library that serves malloc and free",
        "best": "the fastest or leanest of the others; for rates, the highest of all repetitions",
        "time": "geometric mean over the workloads of time divided by that of the best other allocator",
        "worst": "largest of these ratios",
        "in": "workload of the largest ratio",
        "peak memory": "geometric mean of peak memory divided by that of the leanest other allocator",
        "array": "bytes of one array",
        "/pre": "time divided by that of the same work into arrays made before",
        "/in": "time divided by that of the same work in place",
        "ours/np": "time with hpcalloc's handler divided by that with NumPy's",
        "ours": "time with hpcalloc divided by the time in the column before",
        "np.empty": "time to make and free an array with NumPy's handler",
        "np.zeros": "time to make and free a zeroed array with NumPy's handler",
        "and fill": "time of np.zeros and writing to every element",
        "hpcalloc.empty": "its time divided by that of np.empty",
        "cpus of": "node whose cores run the kernel",
        "cpu of": "node whose core makes the loads",
        "kernel": "loop that is timed: read, write, copy or triad",
        "triad": "program that computes a = b + s * c",
        "on nodes": "nodes whose cores run the threads",
        "gb/s": "10^9 bytes that the program reads and writes, per second",
        "per thread": "rate divided by the number of threads",
        "speed-up": "rate divided by that of one thread",
        "over stream": "rate divided by that of C STREAM in the same repetition",
        "remote": "memory on another node than the threads",
        "interleaved": "pages in turn on every node",
        "unplaced": "NumPy's memory, threads anywhere in the launcher's mask",
        "working set": "bytes that the loads go around in",
        "fits": "smallest cache that holds the working set",
    },
}

WORDS: Mapping[str, str] = {word: what for section in SECTIONS.values() for word, what in section.items()}
assert set(BINDINGS.values()) <= set(WORDS)


def meaning(word: str) -> str:
    """Return what a word of a table means; "" if it is not in the glossary."""
    return WORDS.get(word.lower(), "")


def glossary() -> str:
    """Return docs/glossary.md."""
    lines = [
        "# Glossary",
        "",
        "The words that hpcalloc's tables print. The legend of a report and the tooltips of its page say the same.",
    ]
    for section, words in SECTIONS.items():
        lines += ["", f"## {section}", "", "| word | meaning |", "|---|---|"]
        lines += [f"| {word} | {what} |" for word, what in words.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":  # python -m hpcalloc._words >docs/glossary.md
    print(glossary(), end="")
