# SPDX-License-Identifier: BSD-3-Clause
"""Start a program, wait for its end, and leave nothing of it behind."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

__all__ = ["finish"]


def finish(
    command: Sequence[str], timeout: float, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Run a program to its end.

    Parameters
    ----------
    command : sequence of str
    timeout : float
        Seconds, after which it is ended.
    environment : mapping, optional
        This process's own by default.

    Returns
    -------
    code : int or None
        Exit code; None where the time was over.
    said : str
        Its standard output and error.
    """
    # In this process group: what ends the group (Ctrl-C, timeout) ends mpirun too.
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=timeout)
        return process.returncode, said
    except BaseException as error:
        process.terminate()  # mpirun ends its ranks
        try:
            said, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return None, said
        raise
