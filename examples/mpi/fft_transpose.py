# SPDX-License-Identifier: BSD-3-Clause
"""Two-dimensional FFT over ranks: transforms along rows, an Alltoall that transposes, transforms along rows.

    mpirun -n 2 python fft_transpose.py [--size 2048] [--steps 5] [--no-hpcalloc | --compare]

The lesson: each transform and each packing of blocks makes new arrays as large as the rank's part, and on memory that is
recycled warm they cost no page faults. Each rank has the same number of rows of a complex square. A step transforms it
there and back again, two transposes in all; the spectrum is left transposed in between, as spectral solvers do.
Checked (checks.py) against the definition and numpy.fft.fft2; exit 1 on all ranks if it is wrong.
"""

import math
import sys

import checks
import numpy as np
from mpi4py import MPI

from hpcalloc.bench.solver import Option, Result, Run, main

OPTIONS = {"size": Option(2048, "points in each direction"), "steps": Option(5, "transforms there and back")}


def transpose(comm: MPI.Intracomm, a: np.ndarray) -> np.ndarray:
    """Return this rank's rows of the transpose."""
    rows, columns = a.shape
    # blocks[k]: what this rank has of the columns that become rows of rank k
    blocks = np.ascontiguousarray(a.reshape(rows, comm.size, rows).transpose(1, 2, 0))
    received = np.empty_like(blocks)
    comm.Alltoall(blocks, received)
    return received.transpose(1, 0, 2).reshape(rows, columns)


def forward(comm: MPI.Intracomm, a: np.ndarray) -> np.ndarray:
    """Return the spectrum, transposed."""
    return np.fft.fft(transpose(comm, np.fft.fft(a, axis=1)), axis=1)


def backward(comm: MPI.Intracomm, spectrum: np.ndarray) -> np.ndarray:
    """Return what `forward` made this spectrum of."""
    return np.fft.ifft(transpose(comm, np.fft.ifft(spectrum, axis=1)), axis=1)


def solve(run: Run) -> Result:
    comm, n, steps = run.comm, run.options.size, run.options.steps
    if n % comm.size:
        raise SystemExit(f"fft_transpose: --size {n} is not a multiple of the {comm.size} ranks")
    with run.memory(temporaries=True) as ctx:
        signal = ctx.empty((n // comm.size, n), dtype=complex)
        random = np.random.default_rng(comm.rank)
        for row in signal:
            row[...] = random.standard_normal(n) + 1j * random.standard_normal(n)
        a = signal
        for _ in run.steps(range(steps)):
            spectrum = forward(comm, a)
            a = backward(comm, spectrum)
        good, what, figures = checks.fft(comm, n, steps, signal, a, spectrum)
        return run.result(
            good,
            1e-9 * steps * 2 * 5 * n * n * 2 * max(1.0, math.log2(n)),
            "GFlop/s",
            f"{n} x {n} points, {steps} times there and back, {what}",
            more=figures,
        )


if __name__ == "__main__":
    sys.exit(main(__doc__, OPTIONS, solve))
