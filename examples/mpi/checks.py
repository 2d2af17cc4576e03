# SPDX-License-Identifier: BSD-3-Clause
"""Whether the solvers are right: each is checked against something that its own arithmetic can't fake.

Each function is called by all ranks and returns on all of them whether the result is good, and words and figures about it.
"""

import math

import numpy as np
from mpi4py import MPI


def stream(comm: MPI.Intracomm, a: np.ndarray, first: int, scalar: float, chunk: int) -> tuple[bool, str]:
    """Every element of a = b + s * c; by chunks, as a second vector would be large."""
    good = True
    for start in range(0, a.size, chunk):
        index = np.arange(first + start, first + min(start + chunk, a.size))
        good = good and np.array_equal(a[start : start + chunk], index % 1000 + scalar * (index % 17))
    good = comm.allreduce(good, MPI.LAND)
    return good, "every one right" if good else "checked and at least one WRONG"


# ---- cg_poisson3d ----------------------------------------------------------------------------------------


def poisson_problem(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The solution u and the right side f at these points.

    Second differences of a cubic are exact, so u = (x - x**3) (y - y**2) (z - z**3) solves the equations of the grid too.
    """
    u_z, u_y, u_x = z - z**3, y - y**2, x - x**3
    return u_z * u_y * u_x, 6 * z * u_y * u_x + u_z * 2 * u_x + u_z * u_y * 6 * x


def poisson(
    comm: MPI.Intracomm,
    n: int,
    u: np.ndarray,
    exact: np.ndarray,
    residual: np.ndarray,
    tolerance: float,
    scale: float,
) -> tuple[bool, str, dict]:
    """The error is at most the residual over the operator's least eigenvalue; up to 20 points, scipy's solution too."""

    def norm(v: np.ndarray) -> float:
        return math.sqrt(comm.allreduce(float(np.vdot(v, v))))

    left, error, per_point = norm(residual), norm(u - exact), math.sqrt(n**3)
    least_eigenvalue = 12 * (n + 1) ** 2 * math.sin(math.pi / (n + 1) / 2) ** 2
    bound = left / least_eigenvalue + 1e-12 * per_point
    good, against = left <= (1.01 * tolerance + 1e-12) * scale and error <= bound, ""
    if n <= 20:
        parts = comm.gather(u)
        if comm.rank == 0:
            distance, against = _scipy_distance(np.concatenate(parts), n)
            good = good and distance <= bound
        good, against = comm.bcast((good, against))
    what = (
        f"residual {left / scale:.1e}, error {error / per_point:.1e} (bound {bound / per_point:.1e}{against})"
    )
    return good, what, {"error": error, "bound": bound}


def _scipy_distance(u: np.ndarray, n: int) -> tuple[float, str]:
    """How far `u` is from the solution by scipy's sparse LU factors."""
    try:
        from scipy import sparse
        from scipy.sparse.linalg import spsolve
    except ImportError:
        return 0.0, "; scipy is not installed"
    one, line = sparse.identity(n), sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n)) * (n + 1) ** 2
    matrix = sum(
        sparse.kron(sparse.kron(a, b), c)
        for a, b, c in ((line, one, one), (one, line, one), (one, one, line))
    )
    t = np.arange(1, n + 1) / (n + 1)
    direct = spsolve(matrix.tocsc(), poisson_problem(t[:, None, None], t[:, None], t)[1].ravel())
    distance = float(np.linalg.norm(direct - u.ravel()))
    return distance, f"; from scipy {distance / math.sqrt(n**3):.1e}"


# ---- fft_transpose ---------------------------------------------------------------------------------------


def fft(
    comm: MPI.Intracomm, n: int, steps: int, signal: np.ndarray, back: np.ndarray, spectrum: np.ndarray
) -> tuple[bool, str, dict]:
    """The way back gives the signal; the spectrum is what its definition gives, or numpy.fft.fft2 up to 512 points."""
    rows = n // comm.size
    first = comm.rank * rows
    error = 0.0
    for k, m in np.random.default_rng(1).integers(n, size=(8, 2)):
        down = np.exp(-2j * math.pi / n * (k * np.arange(first, first + rows) % n))
        along = np.exp(-2j * math.pi / n * (m * np.arange(n) % n))
        by_definition = comm.allreduce(complex(down @ signal @ along))
        if first <= m < first + rows:
            error = max(error, abs(spectrum[m - first, k] - by_definition))
    against = "the definition at 8 wave numbers"
    if n <= 512:
        parts = comm.gather((signal, spectrum))
        if comm.rank == 0:
            whole, whole_spectrum = (np.concatenate(each) for each in zip(*parts, strict=True))
            error = max(error, float(np.abs(np.fft.fft2(whole).T - whole_spectrum).max()))
        against = "numpy.fft.fft2"
    error = comm.allreduce(error, MPI.MAX)
    round_trip = comm.allreduce(float(np.abs(back - signal).max()), MPI.MAX)
    # Rounding grows with the logarithm of the size; a spectrum of n * n values of order 1 is of order n.
    bound = 1e-15 * (4 + math.log2(n)) * steps
    what = f"error {round_trip:.1e}, from {against} {error:.1e} (bound {8 * n * bound:.1e})"
    good = round_trip < 4 * bound and error < 8 * n * bound
    return good, what, {"error": round_trip, "spectrum_error": error}


# ---- nbody -----------------------------------------------------------------------------------------------


def nbody_sums(comm: MPI.Intracomm, n: int, v: np.ndarray, potential: float) -> np.ndarray:
    """Momentum (3) and energy of all bodies."""
    return comm.allreduce(np.array([*v.sum(axis=1) / n, 0.5 * float((v * v).sum()) / n + potential]))


def nbody(before: np.ndarray, after: np.ndarray, steps: int) -> tuple[bool, str, dict]:
    """Momentum to rounding, and energy to what leapfrog leaves."""
    momentum = float(np.abs(after - before)[:3].max())
    energy = abs(after[3] / before[3] - 1)
    good = momentum < 1e-14 * (steps + 10) and energy < 1e-6
    what = f"change of momentum {momentum:.1e}, of energy {energy:.1e}"
    return good, what, {"momentum": momentum, "energy": energy}


# ---- shallow_water ---------------------------------------------------------------------------------------


def water_invariants(comm: MPI.Intracomm, fields: tuple, rest: float, d: float) -> np.ndarray:
    """Mass, potential enstrophy, energy above that of rest, kinetic energy."""
    u, v, p = fields
    inside = (slice(1, -1), slice(1, -1))
    p_u, p_v = 0.5 * (p[1:-1, 1:-1] + p[:-2, 1:-1]), 0.5 * (p[1:-1, 1:-1] + p[1:-1, :-2])
    kinetic = 0.5 * float((p_u * u[inside] ** 2 + p_v * v[inside] ** 2).sum())
    zeta = ((v[1:, 1:] - v[:-1, 1:]) - (u[1:, 1:] - u[1:, :-1])) / d
    p_corner = 0.25 * (p[1:, 1:] + p[:-1, 1:] + p[1:, :-1] + p[:-1, :-1])
    enstrophy = float((zeta**2 / p_corner)[:-1, :-1].sum())
    above = p[inside] - rest
    return comm.allreduce(
        np.array([above.sum(), enstrophy, kinetic + 0.5 * float((above**2).sum()), kinetic])
    )


def water(before: np.ndarray, after: np.ndarray, n: int, rest: float) -> tuple[bool, str, dict]:
    """Mass to rounding, potential enstrophy to 1e-9, energy relative to the kinetic one to what leapfrog leaves."""
    mass = abs(after[0] - before[0]) / (rest * n * n)
    enstrophy = abs(after[1] / before[1] - 1)
    energy = abs(after[2] - before[2]) / before[3]
    bound = 3e-3 / n**2 + 1e-10  # leapfrog's, by experiment
    what = f"lost of mass {mass:.1e}, potential enstrophy {enstrophy:.1e}, energy {energy:.1e} (bound {bound:.1e})"
    good = mass < 1e-14 and enstrophy < 1e-9 and energy < bound
    return good, what, {"mass": mass, "enstrophy": enstrophy, "energy": energy}


# ---- summa -----------------------------------------------------------------------------------------------


def product(
    comm: MPI.Intracomm, n: int, rows: range, columns: range, a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> tuple[bool, str]:
    """C x = A (B x) for a random x, which a wrong C passes with probability zero (R. Freivalds, 1977)."""

    def times(block: np.ndarray, x: np.ndarray) -> np.ndarray:
        y = np.zeros_like(x)
        y[rows.start : rows.stop] = block @ x[columns.start : columns.stop]
        return comm.allreduce(y)

    x = np.random.default_rng(7).random(n)
    expected = times(a, times(b, x))
    error = float((np.abs(times(c, x) - expected) / expected).max())
    return error < 1e-13, f"relative error {error:.1e} (bound 1.0e-13)"
