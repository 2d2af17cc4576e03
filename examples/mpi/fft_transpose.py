# SPDX-License-Identifier: BSD-3-Clause
"""Two-dimensional FFT over ranks: transforms along rows, an Alltoall that transposes, transforms along rows.

    mpirun -n 2 python fft_transpose.py [--size 2048] [--steps 5] [--no-hpcalloc | --compare]

Each rank has the same number of rows of a complex square. A step transforms it there and back again, two transposes
in all; the spectrum is left transposed in between, as spectral solvers do. Each transform and each packing of blocks
makes new arrays as large as the rank's part.

Checked: the way back gives what was there; the spectrum at some wave numbers is what the sum of the definition gives,
and up to 512 points all of it is what numpy.fft.fft2 gives. Exit 1 on all ranks if it is wrong.
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


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=solver.at_least(1), default=2048, help="points in each direction")
    parser.add_argument("--steps", type=solver.at_least(1), default=5, help="transforms there and back")


def transpose(comm: MPI.Intracomm, a: np.ndarray) -> np.ndarray:
    """Return this rank's rows of the transpose."""
    rows, columns = a.shape
    # blocks[k]: what this rank has of the columns that become rows of rank k
    blocks = np.ascontiguousarray(a.reshape(rows, comm.size, rows).transpose(1, 2, 0))
    received = np.empty_like(blocks)
    comm.Alltoall(blocks, received)
    return received.transpose(1, 0, 2).reshape(rows, columns)


def forward(comm: MPI.Intracomm, a: np.ndarray) -> np.ndarray:
    """The spectrum, transposed."""
    return np.fft.fft(transpose(comm, np.fft.fft(a, axis=1)), axis=1)


def backward(comm: MPI.Intracomm, spectrum: np.ndarray) -> np.ndarray:
    """What `forward` made this spectrum of."""
    return np.fft.ifft(transpose(comm, np.fft.ifft(spectrum, axis=1)), axis=1)


def spectrum_error(
    comm: MPI.Intracomm, signal: np.ndarray, spectrum: np.ndarray, n: int
) -> tuple[float, str]:
    """Largest difference of the spectrum from what it is by definition, on all ranks; and what was compared."""
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
    return comm.allreduce(error, MPI.MAX), against


def solve(chosen: argparse.Namespace, track: solver.Track) -> solver.Result:
    comm, n = MPI.COMM_WORLD, chosen.size
    if n % comm.size:
        raise SystemExit(f"fft_transpose: --size {n} is not a multiple of the {comm.size} ranks")
    rows = n // comm.size

    # All that differs: a context has NumPy's creation functions, and serves temporaries when asked.
    with hpcalloc.init(comm) if chosen.hpcalloc else nullcontext(np) as ctx:
        if chosen.hpcalloc:
            ctx.install_numpy_allocator()
        signal = ctx.empty((rows, n), dtype=complex)
        random = np.random.default_rng(comm.rank)
        for row in signal:
            row[...] = random.standard_normal(n) + 1j * random.standard_normal(n)

        comm.Barrier()
        start = time.perf_counter()
        a = signal
        for _ in track(range(chosen.steps)):
            spectrum = forward(comm, a)
            a = backward(comm, spectrum)
        comm.Barrier()
        seconds = time.perf_counter() - start

        # Rounding grows with the logarithm of the size; a spectrum of n * n values of order 1 is of order n.
        bound = 1e-15 * (4 + math.log2(n)) * chosen.steps
        round_trip = comm.allreduce(float(np.abs(a - signal).max()), MPI.MAX)
        error, against = spectrum_error(comm, signal, spectrum, n)
        good = round_trip < 4 * bound and error < 8 * n * bound
        return solver.Result(
            good=good,
            seconds=seconds,
            work=1e-9 * chosen.steps * 2 * 5 * n * n * 2 * max(1.0, math.log2(n)),
            unit="GFlop/s",
            what=f"{n} x {n} points, {chosen.steps} times there and back, error {round_trip:.1e}, "
            f"from {against} {error:.1e} (bound {8 * n * bound:.1e})",
            report=ctx.report() if chosen.hpcalloc else None,
            more={"error": round_trip, "spectrum_error": error},
        )


if __name__ == "__main__":
    sys.exit(solver.main(__doc__, options, solve))
