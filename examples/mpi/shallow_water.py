# SPDX-License-Identifier: BSD-3-Clause
"""Shallow water on a doubly periodic plane by Sadourny's scheme, which conserves mass and potential enstrophy.

    mpirun -n 2 python shallow_water.py [--size 1024] [--steps 50] [--no-hpcalloc | --compare]

The program known as swim or SWM: velocities u, v and geopotential p on a staggered grid and leapfrog steps from a
stream function (R. Sadourny, J. Atmos. Sci. 32, 1975, 680-689). Each rank has a slab of rows and swaps one row of each
field with either neighbour in each step. The formulas are written as on paper, so every operation makes a temporary as
large as a field.

Checked: mass to rounding, potential enstrophy to 1e-9, and energy relative to the kinetic one to what leapfrog leaves.
Exit 1 on all ranks if one is wrong.
"""

import argparse
import math
import sys
import time
from contextlib import nullcontext

import numpy as np
from mpi4py import MPI

import hpcalloc
from hpcalloc.bench import solver

P0 = 100.0  # mean geopotential; gravity waves run at its root
COURANT = 0.3


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=solver.at_least(16), default=1024, help="points in each direction")
    parser.add_argument("--steps", type=solver.at_least(2), default=50, help="time steps")


def fill_halos(comm: MPI.Intracomm, fields: tuple) -> None:
    """Give each field the neighbours' rows beside its own, and its own columns round the back."""
    below, above = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size
    for f in fields:
        comm.Sendrecv(f[1], below, recvbuf=f[-1], source=above)
        comm.Sendrecv(f[-2], above, recvbuf=f[0], source=below)
        f[:, 0], f[:, -1] = f[:, -2], f[:, 1]


def vorticity(u: np.ndarray, v: np.ndarray, p: np.ndarray, d: float) -> tuple[np.ndarray, np.ndarray]:
    """Vorticity and p at the corners of rows and columns from 1 on."""
    zeta = ((v[1:, 1:] - v[:-1, 1:]) - (u[1:, 1:] - u[1:, :-1])) / d
    return zeta, 0.25 * (p[1:, 1:] + p[:-1, 1:] + p[1:, :-1] + p[:-1, :-1])


def tendencies(u: np.ndarray, v: np.ndarray, p: np.ndarray, d: float) -> tuple:
    """du/dt, dv/dt and dp/dt inside, from fields with halos; u is half a step to the left of p, v below it."""
    mass_u = 0.5 * (p[1:] + p[:-1]) * u[1:]  # rows from 1 on
    mass_v = 0.5 * (p[:, 1:] + p[:, :-1]) * v[:, 1:]  # columns from 1 on
    square_u, square_v = u * u, v * v
    head = p[:-1, :-1] + 0.25 * (
        (square_u[:-1, :-1] + square_u[1:, :-1]) + (square_v[:-1, :-1] + square_v[:-1, 1:])
    )
    zeta, p_corner = vorticity(u, v, p, d)
    q = zeta / p_corner  # potential vorticity
    v_at_u = 0.25 * (mass_v[1:-1, :-1] + mass_v[1:-1, 1:] + mass_v[:-2, :-1] + mass_v[:-2, 1:])
    u_at_v = 0.25 * (mass_u[:-1, 1:-1] + mass_u[1:, 1:-1] + mass_u[:-1, :-2] + mass_u[1:, :-2])
    du = 0.5 * (q[:-1, :-1] + q[:-1, 1:]) * v_at_u - (head[1:, 1:] - head[:-1, 1:]) / d
    dv = -0.5 * (q[:-1, :-1] + q[1:, :-1]) * u_at_v - (head[1:, 1:] - head[1:, :-1]) / d
    dp = -(mass_u[1:, 1:-1] - mass_u[:-1, 1:-1] + mass_v[1:-1, 1:] - mass_v[1:-1, :-1]) / d
    return du, dv, dp


def invariants(comm: MPI.Intracomm, u: np.ndarray, v: np.ndarray, p: np.ndarray, d: float) -> np.ndarray:
    """Mass, potential enstrophy, energy above that of rest, kinetic energy."""
    inside = (slice(1, -1), slice(1, -1))
    p_u, p_v = 0.5 * (p[1:-1, 1:-1] + p[:-2, 1:-1]), 0.5 * (p[1:-1, 1:-1] + p[1:-1, :-2])
    kinetic = 0.5 * float((p_u * u[inside] ** 2 + p_v * v[inside] ** 2).sum())
    zeta, p_corner = (f[:-1, :-1] for f in vorticity(u, v, p, d))
    enstrophy = float((zeta**2 / p_corner).sum())
    above = p[inside] - P0
    own = np.array([above.sum(), enstrophy, kinetic + 0.5 * float((above**2).sum()), kinetic])
    return comm.allreduce(own)


def solve(chosen: argparse.Namespace, track: solver.Track) -> solver.Result:
    comm, n, d = MPI.COMM_WORLD, chosen.size, 1.0 / chosen.size
    if n < comm.size:
        raise SystemExit(f"shallow_water: --size {n} is less than the {comm.size} ranks")
    first, beyond = comm.rank * n // comm.size, (comm.rank + 1) * n // comm.size

    # All that differs: a context has NumPy's creation functions, and serves temporaries when asked.
    with hpcalloc.init(comm) if chosen.hpcalloc else nullcontext(np) as ctx:
        if chosen.hpcalloc:
            ctx.install_numpy_allocator()
        shape = (beyond - first + 2, n + 2)
        old = tuple(ctx.zeros(shape) for _ in range(3))
        new = tuple(ctx.zeros(shape) for _ in range(3))
        # psi = sin(x) sin(y) / 2 pi at the corners gives u and v; p balances them at its own points.
        x = 2 * math.pi * d * np.arange(first, beyond)[:, None]
        y = 2 * math.pi * d * np.arange(n)
        step = 2 * math.pi * d
        inside = (slice(1, -1), slice(1, -1))
        old[0][inside] = -np.sin(x) * (np.sin(y + step) - np.sin(y)) / step
        old[1][inside] = (np.sin(x + step) - np.sin(x)) * np.sin(y) / step
        old[2][inside] = P0 + 0.25 * (np.cos(2 * x + step) + np.cos(2 * y + step))
        fill_halos(comm, old)
        before = invariants(comm, *old, d)

        comm.Barrier()
        start = time.perf_counter()
        dt = COURANT * d / math.sqrt(P0)
        for f, was, change in zip(new, old, tendencies(*old, d), strict=True):
            f[inside] = was[inside] + dt * change
        fill_halos(comm, new)
        for _ in track(range(chosen.steps - 1)):
            for f, change in zip(old, tendencies(*new, d), strict=True):
                f[inside] += 2 * dt * change
            old, new = new, old
            fill_halos(comm, new)
        comm.Barrier()
        seconds = time.perf_counter() - start

        after = invariants(comm, *new, d)
        mass = abs(after[0] - before[0]) / (P0 * n * n)
        enstrophy = abs(after[1] / before[1] - 1)
        energy = abs(after[2] - before[2]) / before[3]
        bound = 3e-3 / n**2 + 1e-10  # leapfrog's, by experiment
        good = bool(mass < 1e-14 and enstrophy < 1e-9 and energy < bound)
        return solver.Result(
            good=good,
            seconds=seconds,
            work=1e-6 * n * n * chosen.steps,
            unit="Mpoints/s",
            what=f"{n} x {n} points, {chosen.steps} steps, lost of mass {mass:.1e}, potential enstrophy "
            f"{enstrophy:.1e}, energy {energy:.1e} (bound {bound:.1e})",
            report=ctx.report() if chosen.hpcalloc else None,
            more={"mass": mass, "enstrophy": enstrophy, "energy": energy},
        )


if __name__ == "__main__":
    sys.exit(solver.main(__doc__, options, solve))
