# SPDX-License-Identifier: BSD-3-Clause
"""Shallow water on a doubly periodic plane by Sadourny's scheme, which conserves mass and potential enstrophy.

    mpirun -n 2 python shallow_water.py [--size 1024] [--steps 50] [--no-hpcalloc | --compare]

The lesson: formulas written as on paper make a temporary as large as a field in every operation, over a hundred in a step,
and nothing has to be rewritten for them to cost no page faults. The program known as swim or SWM: velocities u, v and
geopotential p on a staggered grid and leapfrog steps from a stream function (R. Sadourny, J. Atmos. Sci. 32, 1975,
680-689). Each rank has a slab of rows and swaps one row of each field with either neighbour in each step.
Checked (checks.py): mass, potential enstrophy and energy; exit 1 on all ranks if one is wrong.
"""

import math
import sys

import checks
import numpy as np
from mpi4py import MPI

from hpcalloc.bench.solver import Option, Result, Run, main

P0 = 100.0  # mean geopotential; gravity waves run at its root
COURANT = 0.3
INSIDE = (slice(1, -1), slice(1, -1))
OPTIONS = {"size": Option(1024, "points in each direction", 16), "steps": Option(50, "time steps", 2)}


def fill_halos(comm: MPI.Intracomm, fields: tuple) -> None:
    """Give each field the neighbours' rows beside its own, and its own columns round the back."""
    below, above = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size
    for f in fields:
        comm.Sendrecv(f[1], below, recvbuf=f[-1], source=above)
        comm.Sendrecv(f[-2], above, recvbuf=f[0], source=below)
        f[:, 0], f[:, -1] = f[:, -2], f[:, 1]


def tendencies(u: np.ndarray, v: np.ndarray, p: np.ndarray, d: float) -> tuple:
    """du/dt, dv/dt and dp/dt inside, from fields with halos; u is half a step to the left of p, v below it."""
    mass_u = 0.5 * (p[1:] + p[:-1]) * u[1:]  # rows from 1 on
    mass_v = 0.5 * (p[:, 1:] + p[:, :-1]) * v[:, 1:]  # columns from 1 on
    square_u, square_v = u * u, v * v
    head = p[:-1, :-1] + 0.25 * (
        (square_u[:-1, :-1] + square_u[1:, :-1]) + (square_v[:-1, :-1] + square_v[:-1, 1:])
    )
    zeta = ((v[1:, 1:] - v[:-1, 1:]) - (u[1:, 1:] - u[1:, :-1])) / d  # at corners, rows and columns from 1 on
    p_corner = 0.25 * (p[1:, 1:] + p[:-1, 1:] + p[1:, :-1] + p[:-1, :-1])
    q = zeta / p_corner  # potential vorticity
    v_at_u = 0.25 * (mass_v[1:-1, :-1] + mass_v[1:-1, 1:] + mass_v[:-2, :-1] + mass_v[:-2, 1:])
    u_at_v = 0.25 * (mass_u[:-1, 1:-1] + mass_u[1:, 1:-1] + mass_u[:-1, :-2] + mass_u[1:, :-2])
    du = 0.5 * (q[:-1, :-1] + q[:-1, 1:]) * v_at_u - (head[1:, 1:] - head[:-1, 1:]) / d
    dv = -0.5 * (q[:-1, :-1] + q[1:, :-1]) * u_at_v - (head[1:, 1:] - head[1:, :-1]) / d
    dp = -(mass_u[1:, 1:-1] - mass_u[:-1, 1:-1] + mass_v[1:-1, 1:] - mass_v[1:-1, :-1]) / d
    return du, dv, dp


def start(fields: tuple, rows: range, n: int) -> None:
    """Set u and v from the stream function sin(x) sin(y) / 2 pi at the corners; p balances them at its own points."""
    step = 2 * math.pi / n
    x, y = step * np.arange(rows.start, rows.stop)[:, None], step * np.arange(n)
    fields[0][INSIDE] = -np.sin(x) * (np.sin(y + step) - np.sin(y)) / step
    fields[1][INSIDE] = (np.sin(x + step) - np.sin(x)) * np.sin(y) / step
    fields[2][INSIDE] = P0 + 0.25 * (np.cos(2 * x + step) + np.cos(2 * y + step))


def solve(run: Run) -> Result:
    comm, n, d = run.comm, run.options.size, 1.0 / run.options.size
    if n < comm.size:
        raise SystemExit(f"shallow_water: --size {n} is less than the {comm.size} ranks")
    rows = range(comm.rank * n // comm.size, (comm.rank + 1) * n // comm.size)
    with run.memory(temporaries=True) as ctx:
        old, new = (tuple(ctx.zeros((len(rows) + 2, n + 2)) for _ in range(3)) for _ in range(2))
        start(old, rows, n)
        fill_halos(comm, old)
        before = checks.water_invariants(comm, old, P0, d)
        dt = COURANT * d / math.sqrt(P0)
        for step in run.steps(range(run.options.steps)):
            if step == 0:  # Euler's
                for f, was, change in zip(new, old, tendencies(*old, d), strict=True):
                    f[INSIDE] = was[INSIDE] + dt * change
            else:  # leapfrog
                for f, change in zip(old, tendencies(*new, d), strict=True):
                    f[INSIDE] += 2 * dt * change
                old, new = new, old
            fill_halos(comm, new)
        good, what, figures = checks.water(before, checks.water_invariants(comm, new, P0, d), n, P0)
        return run.result(
            good,
            1e-6 * n * n * run.options.steps,
            "Mpoints/s",
            f"{n} x {n} points, {run.options.steps} steps, {what}",
            more=figures,
        )


if __name__ == "__main__":
    sys.exit(main(__doc__, OPTIONS, solve))
