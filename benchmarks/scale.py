#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: D102, N802 -- the names of mpi4py
"""What `init`, a report and `close` cost as the number of ranks grows: messages and bytes, counted, not timed.

    python benchmarks/scale.py [--ranks 1,64,65536] [--local 64] [--json] [--plot FILE]

One rank runs for real, with a communicator that says it has so many ranks, of which 64 share a host, and that gives the
answers which equal ranks would. All ranks make the same collective calls, so those of one are those of all. A call is
counted as its textbook algorithm: allreduce and allgather by recursive doubling, broadcast and gather by binomial trees.
What MPI itself sends to make a communicator is MPI's: such calls are counted, not their messages.
"""

import argparse
import json
import math
import sys
import types

RANKS = (1, 8, 64, 512, 4096, 32768, 65536)
PHASES = ("init", "report", "close")


class Ledger:
    """Per phase: messages and bytes that a rank sends on average, those of rank 0, and communicators that MPI makes."""

    def __init__(self):
        self.phase = "init"
        self.counts = {phase: dict.fromkeys(("messages", "bytes", "root", "made"), 0.0) for phase in PHASES}

    def note(self, size, messages=0.0, nbytes=0.0, root=0.0, made=0):
        """Note one call on a communicator of `size` ranks."""
        here = self.counts[self.phase]
        if size > 1:
            here["messages"] += messages
            here["bytes"] += nbytes
            here["root"] += root
        here["made"] += made


class Done:
    """A request that is complete."""

    def Test(self):
        return True


class Comm:
    """Rank 0 of `size` ranks that all say the same, `local` of them on a host."""

    ledger = Ledger()

    def __init__(self, size=1, local=1):
        self.size, self.local = size, local

    def _steps(self):
        return math.ceil(math.log2(self.size)) if self.size > 1 else 0

    def Get_rank(self):
        return 0

    def Get_size(self):
        return self.size

    def Is_inter(self):
        return False

    def Set_errhandler(self, _handler):
        pass

    def Free(self):
        pass

    def Dup(self):
        self.ledger.note(self.size, made=1)
        return Comm(self.size, self.local)

    def Split_type(self, _kind, _key):
        self.ledger.note(self.size, made=1)
        return Comm(self.local, self.local)

    def Split(self, _colour, _key):
        self.ledger.note(self.size, made=1)
        return Comm(self.size, self.local)

    def Iallreduce(self, mine, result, _operation):
        result[:] = mine
        self.ledger.note(self.size, self._steps(), self._steps() * mine.nbytes, self._steps() * mine.nbytes)
        return Done()

    def Iallgather(self, mine, result):
        result.reshape(self.size, -1)[:] = mine
        rest = result.nbytes - mine.nbytes
        self.ledger.note(self.size, self._steps(), rest, rest)
        return Done()

    def Iallgatherv(self, mine, target):
        return self.Iallgather(mine, target[0])

    def Ibcast(self, data, _root):
        share = (self.size - 1) / self.size  # each rank but one receives it once
        self.ledger.note(self.size, share, share * data.nbytes, self._steps() * data.nbytes)
        return Done()

    def Igather(self, mine, result):
        if result is not None:
            result.reshape(self.size, -1)[:] = mine
        carried = self._steps() / 2 * mine.nbytes  # a rank's part and those below it, on average
        self.ledger.note(self.size, (self.size - 1) / self.size, carried, (self.size - 1) * mine.nbytes)
        return Done()

    def Igatherv(self, mine, target):
        return self.Igather(mine, target[0])


def make_module(world):
    """What hpcalloc uses of mpi4py.MPI."""
    module = types.ModuleType("mpi4py.MPI")
    module.Comm = module.Intracomm = Comm
    module.COMM_WORLD, module.COMM_NULL = world, None
    module.Is_initialized, module.Is_finalized, module.Is_thread_main = (
        lambda: True,
        lambda: False,
        lambda: True,
    )
    module.THREAD_SINGLE, module.THREAD_SERIALIZED, module.THREAD_MULTIPLE = 0, 2, 3
    module.Query_thread = lambda: 3
    module.MIN = module.COMM_TYPE_SHARED = module.ERRORS_RETURN = 0
    return module


def measure(ranks, local):
    """Counts of one size, by phase."""
    import hpcalloc

    Comm.ledger = ledger = Ledger()
    world = Comm(ranks, min(ranks, local))
    sys.modules["mpi4py.MPI"] = make_module(world)
    context = hpcalloc.init(world, bind="off")
    ledger.phase = "report"
    report = context.report()
    assert len(report.records) == ranks
    ledger.phase = "close"
    context.close()
    return ledger.counts


def table(results):
    """Lines of Markdown."""
    head = "| ranks | " + " | ".join(
        f"{p}: messages | bytes" + (" | of rank 0" if p == "report" else "") for p in PHASES
    )
    lines = [f"{head} |", "|" + "--:|" * (head.count("|"))]
    for ranks, counts in results.items():
        cells = [f"{ranks:,}"]
        for phase in PHASES:
            some = counts[phase]
            cells += [f"{some['messages']:.0f}", f"{some['bytes']:,.0f}"]
            cells += [f"{some['root']:,.0f}"] if phase == "report" else []
        lines.append("| " + " | ".join(cells) + " |")
    made = ", ".join(f"{p} {results[max(results)][p]['made']:.0f}" for p in PHASES)
    return [*lines, "", f"Communicators that MPI makes: {made}."]


def plot(results, file):
    """Draw what a rank sends over the number of ranks."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "scale", "svg.fonttype": "none"}
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), constrained_layout=True)
    for phase in PHASES:
        x = [ranks for ranks in results if ranks > 1]
        left.plot(x, [results[n][phase]["messages"] for n in x], marker="o", label=phase)
        right.plot(x, [results[n][phase]["bytes"] / 1024 for n in x], marker="o", label=phase)
    for axes, name in ((left, "messages a rank"), (right, "KiB a rank")):
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("ranks, 64 on a host")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    left.legend()
    figure.savefig(file, metadata={"Date": None})


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default=",".join(map(str, RANKS)))
    parser.add_argument("--local", type=int, default=64, help="ranks on a host")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()
    results = {ranks: measure(ranks, options.local) for ranks in map(int, options.ranks.split(","))}
    if options.plot:
        plot(results, options.plot)
    print(json.dumps(results, indent=1) if options.json else "\n".join(table(results)))


if __name__ == "__main__":
    main()
