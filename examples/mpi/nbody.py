# SPDX-License-Identifier: BSD-3-Clause
"""Gravitating bodies, every pair of them: the negative control. It computes in its caches, and placement gains nothing.

    mpirun -n 2 python nbody.py [--size 4096] [--steps 5] [--no-hpcalloc | --compare]

Each rank moves its share of the bodies by leapfrog and gathers the positions of all in every step. All data are a few
hundred KB and each value that is loaded is used thousands of times, so the time is that of square roots and products,
on whatever node the memory is. A program like this one needs no allocator for NUMA; `--compare` shows it.

Checked: momentum to rounding, and energy to what leapfrog leaves. Exit 1 on all ranks if one is wrong.
"""

import argparse
import sys
import time
from contextlib import nullcontext

import numpy as np
from mpi4py import MPI

import hpcalloc
from hpcalloc.bench import solver

SOFTENING = 0.05  # length below which gravity weakens
DT = 0.002
BLOCK = 1  # bodies whose pulls are computed at once: temporaries of 32 KB stay in a cache
FLOPS_PER_PAIR = 20


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=solver.at_least(2), default=4096, help="bodies")
    parser.add_argument("--steps", type=solver.at_least(1), default=5, help="time steps")


def accelerations(mine: np.ndarray, everyone: np.ndarray, pull: np.ndarray) -> float:
    """Set `pull` (3, own) to the accelerations of bodies at `mine`; return the potential energy of own bodies.

    Positions are (3, bodies); all masses are 1 / bodies and G is 1.
    """
    mass, potential = 1.0 / everyone.shape[1], 0.0
    for start in range(0, mine.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        distance = [everyone[axis] - mine[axis, part, None] for axis in range(3)]
        inverse = 1.0 / np.sqrt(sum(d * d for d in distance) + SOFTENING**2)
        weight = mass * (inverse * inverse * inverse)
        for axis in range(3):
            pull[axis, part] = np.einsum("ij,ij->i", weight, distance[axis])
        # Each pair is met from both sides, and each body meets itself at the softening length.
        potential -= 0.5 * mass**2 * (float(inverse.sum()) - inverse.shape[0] / SOFTENING)
    return potential


def solve(chosen: argparse.Namespace, track: solver.Track) -> solver.Result:
    comm, n = MPI.COMM_WORLD, chosen.size
    if n < comm.size:
        raise SystemExit(f"nbody: --size {n} is less than the {comm.size} ranks")
    counts = [(rank + 1) * n // comm.size - rank * n // comm.size for rank in range(comm.size)]
    first, own = sum(counts[: comm.rank]), counts[comm.rank]

    # All that differs: a context has NumPy's creation functions, and serves temporaries when asked.
    with hpcalloc.init(comm) if chosen.hpcalloc else nullcontext(np) as ctx:
        if chosen.hpcalloc:
            ctx.install_numpy_allocator()
        everyone, pull = ctx.empty((3, n)), ctx.empty((3, own))
        x, v = ctx.empty((3, own)), ctx.empty((3, own))
        # A ball of bodies at random places and with random velocities, the same whatever the number of ranks.
        random = np.random.default_rng(5)
        places, speeds = random.normal(size=(3, n)), 0.3 * random.normal(size=(3, n))
        x[...] = places[:, first : first + own]
        v[...] = speeds[:, first : first + own]

        def gather_positions() -> None:
            for axis in range(3):
                comm.Allgatherv(x[axis], (everyone[axis], counts))

        def sums(potential: float) -> np.ndarray:
            """Momentum (3) and energy of all bodies."""
            return comm.allreduce(np.array([*v.sum(axis=1) / n, 0.5 * float((v * v).sum()) / n + potential]))

        gather_positions()
        before = sums(accelerations(x, everyone, pull))
        comm.Barrier()
        start = time.perf_counter()
        for _ in track(range(chosen.steps)):
            v += 0.5 * DT * pull
            x += DT * v
            gather_positions()
            potential = accelerations(x, everyone, pull)
            v += 0.5 * DT * pull
        comm.Barrier()
        seconds = time.perf_counter() - start

        after = sums(potential)
        momentum = float(np.abs(after - before)[:3].max())
        energy = abs(after[3] / before[3] - 1)
        good = bool(momentum < 1e-14 * (chosen.steps + 10) and energy < 1e-6)
        return solver.Result(
            good=good,
            seconds=seconds,
            work=1e-9 * FLOPS_PER_PAIR * n * n * chosen.steps,
            unit="GFlop/s",
            what=f"{n} bodies, {chosen.steps} steps, change of momentum {momentum:.1e}, of energy {energy:.1e}",
            report=ctx.report() if chosen.hpcalloc else None,
            more={"momentum": momentum, "energy": energy},
            lines=["compute-bound: no gain is expected from where its memory is"],
        )


if __name__ == "__main__":
    sys.exit(solver.main(__doc__, options, solve))
