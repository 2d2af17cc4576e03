# SPDX-License-Identifier: BSD-3-Clause
"""Gravitating bodies, every pair of them: the negative control. It computes in its caches, and placement gains nothing.

    mpirun -n 2 python nbody.py [--size 4096] [--steps 5] [--no-hpcalloc | --compare]

The lesson: a program like this one needs no allocator for NUMA. All data are a few hundred KB and each value that is loaded
is used thousands of times, so the time is that of square roots and products, on whatever node the memory is. Each rank
moves its share of the bodies by leapfrog and gathers the positions of all in every step.
Checked (checks.py): momentum to rounding, and energy to what leapfrog leaves; exit 1 on all ranks if one is wrong.
"""

import sys

import checks
import numpy as np

from hpcalloc.bench.solver import Option, Result, Run, main

SOFTENING = 0.05  # length below which gravity weakens
DT = 0.002
FLOPS_PER_PAIR = 20
OPTIONS = {"size": Option(4096, "bodies", 2), "steps": Option(5, "time steps")}


def accelerations(mine: np.ndarray, everyone: np.ndarray, pull: np.ndarray) -> float:
    """Set `pull` (3, own) to the accelerations of bodies at `mine`; return the potential energy of own bodies.

    Positions are (3, bodies); all masses are 1 / bodies and G is 1. One body at a time: temporaries of 32 KB fit a cache.
    """
    mass, potential = 1.0 / everyone.shape[1], 0.0
    for body in range(mine.shape[1]):
        distance = [everyone[axis] - mine[axis, body] for axis in range(3)]
        inverse = 1.0 / np.sqrt(sum(d * d for d in distance) + SOFTENING**2)
        weight = mass * (inverse * inverse * inverse)
        for axis in range(3):
            pull[axis, body] = weight @ distance[axis]
        # Each pair is met from both sides, and each body meets itself at the softening length.
        potential -= 0.5 * mass**2 * (float(inverse.sum()) - 1 / SOFTENING)
    return potential


def solve(run: Run) -> Result:
    comm, n = run.comm, run.options.size
    if n < comm.size:
        raise SystemExit(f"nbody: --size {n} is less than the {comm.size} ranks")
    counts = [(rank + 1) * n // comm.size - rank * n // comm.size for rank in range(comm.size)]
    first, own = sum(counts[: comm.rank]), counts[comm.rank]
    with run.memory(temporaries=True) as ctx:
        # A ball of bodies at random places and with random velocities, the same whatever the number of ranks.
        random = np.random.default_rng(5)
        everyone, pull = ctx.array(random.normal(size=(3, n))), ctx.empty((3, own))
        x = ctx.array(everyone[:, first : first + own])
        v = ctx.array(0.3 * random.normal(size=(3, n))[:, first : first + own])
        before = checks.nbody_sums(comm, n, v, accelerations(x, everyone, pull))
        for _ in run.steps(range(run.options.steps)):
            v += 0.5 * DT * pull
            x += DT * v
            for axis in range(3):
                comm.Allgatherv(x[axis], (everyone[axis], counts))
            potential = accelerations(x, everyone, pull)
            v += 0.5 * DT * pull
        after = checks.nbody_sums(comm, n, v, potential)
        good, what, figures = checks.nbody(before, after, run.options.steps)
        return run.result(
            good,
            1e-9 * FLOPS_PER_PAIR * n * n * run.options.steps,
            "GFlop/s",
            f"{n} bodies, {run.options.steps} steps, {what}",
            more=figures,
            lines=["compute-bound: no gain is expected from where its memory is"],
        )


if __name__ == "__main__":
    sys.exit(main(__doc__, OPTIONS, solve))
