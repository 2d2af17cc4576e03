# SPDX-License-Identifier: BSD-3-Clause
"""Several programs in one start of mpirun: ``several.py JOBS`` runs the command lines of a JSON file one after the other.

Rank 0 writes ``JOBS.done``: for each the largest exit code of the ranks, and what rank 0 printed.
"""

import contextlib
import io
import json
import os
import runpy
import sys

from mpi4py import MPI


def run(words):
    """Exit code of a program on this rank, and what it printed."""
    said = io.StringIO()
    sys.argv = words
    sys.path[0] = os.path.dirname(words[0])  # as Python does
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            return end.code or 0, said.getvalue()
    return 0, said.getvalue()


def main(path):
    comm, done = MPI.COMM_WORLD, []
    with open(path) as file:
        jobs = json.load(file)
    for words in jobs:
        code, said = run(words)
        done.append((comm.allreduce(code, MPI.MAX), said))
    if comm.rank == 0:
        with open(f"{path}.done", "w") as file:
            json.dump(done, file)


if __name__ == "__main__":
    main(sys.argv[1])
