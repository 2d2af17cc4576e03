# SPDX-License-Identifier: BSD-3-Clause
"""Count a rank of HPCALLOC_REPORT as done; the last one merges. libnumalloc_audit starts this file when a rank ends.

It runs as ``python -I FILE``: no module is taken from the current directory or from PYTHONPATH, and hpcalloc is imported
by the last rank only. Everything it needs is in the environment that ``hpcalloc run`` made (see `files`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping

__all__ = ["arrive", "is_told", "open_private"]

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
MERGING, ARRIVED = "merging", "arrived"


def open_private(path: str, create: bool = False) -> int:
    """Open a directory that is this user's and nobody else's.

    Raises
    ------
    OSError
        It isn't, or it is a link, or it is not there.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
    directory = os.open(path, READ | os.O_DIRECTORY)
    status = os.fstat(directory)
    if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
        return directory
    os.close(directory)
    raise PermissionError(
        f"it is user {status.st_uid}'s with mode {status.st_mode & 0o7777:o}, not user {os.geteuid()}'s with 700"
    )


def arrive(directory: int, rank: int, size: int) -> bool:
    """Count a rank; True for one rank, after which all have come.

    Each rank has a byte of a file: writes to different bytes do not disturb each other on any file system, and a file
    that is opened after another host has closed it shows what that host wrote (NFS: close-to-open).
    """
    file = os.open(ARRIVED, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    os.pwrite(file, b"1", rank)
    os.close(file)
    with open(os.open(ARRIVED, READ, dir_fd=directory), "rb") as whole:
        if whole.read(size).count(b"1") < size:
            return False
    try:
        os.mkdir(MERGING, 0o700, dir_fd=directory)
    except FileExistsError:
        return False  # another one does
    return True


def is_told(environ: Mapping[str, str]) -> tuple[str, str, int, int]:
    """Return the report's name, the ranks' directory, rank and size; ValueError, KeyError where they are not told."""
    _, rank, size, _ = environ["HPCALLOC_REPORT_RANK"].split(":")
    return environ["HPCALLOC_REPORT"], environ["HPCALLOC_REPORT_RANKS"], int(rank), int(size)


def main() -> int:
    """Count the rank that the environment names."""
    try:
        target, name, rank, size = is_told(os.environ)
        directory = open_private(name)
        last = arrive(directory, rank, size)
        os.close(directory)
        if not last:
            return 0
        # After the interpreter's own directories: where hpcalloc was found by PYTHONPATH or in the user's own.
        sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
        from hpcalloc.report.files import merge_into

        merge_into(target, name)
    except Exception as error:
        sys.stderr.write(f"hpcalloc: HPCALLOC_REPORT: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
