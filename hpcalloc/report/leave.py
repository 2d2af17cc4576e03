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

__all__ = ["arrive", "is_arrivals", "is_told", "open_private", "take_back"]

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
MERGING, ARRIVED = "merging", "arrived"


def open_private(path: str, create: bool = False) -> int:
    """Open a directory that only this user can read and write.

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

    Ranks are in groups of about the root of their number. A rank makes a file in its group's directory, and where all of
    the group have theirs, the group's file. No file is written by two ranks: on NFS the cached pages of one host could
    undo what another wrote. Who makes a file then lists the directory: the server's word, which the host asks for anew
    after a change of its own. So the last of two that come at the same time sees both.
    """
    group, number, members, groups = _group(rank, size)
    if len(_come(directory, group, rank)) < members:
        return False
    if len(_come(directory, f"{ARRIVED}-{size}", number)) < groups:
        return False
    try:
        os.mkdir(MERGING, 0o700, dir_fd=directory)
    except FileExistsError:
        return False  # another one does
    return True


def take_back(directory: int, rank: int, size: int) -> None:
    """Undo what `arrive` noted of this rank in an earlier job."""
    group, number, _, _ = _group(rank, size)
    for inside, name in ((group, rank), (f"{ARRIVED}-{size}", number)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{inside}/{name}", dir_fd=directory)


def is_arrivals(name: str) -> bool:
    """Whether a directory in the ranks' directory is one of `arrive`."""
    word, *numbers = name.split("-")
    return word == ARRIVED and len(numbers) in (1, 2) and all(number.isdigit() for number in numbers)


def _group(rank: int, size: int) -> tuple[str, int, int, int]:
    """Return the directory of a rank's group, the group's number and members, and how many groups there are."""
    width = max(1, int(size**0.5))
    number = rank // width
    return f"{ARRIVED}-{size}-{number}", number, min(width, size - number * width), -(-size // width)


def _come(directory: int, name: str, number: int) -> list[str]:
    """Make a file for a number in a directory, and return the numbers that have one."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=directory)
    inside = os.open(name, READ | os.O_DIRECTORY, dir_fd=directory)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(str(number), flags, 0o600, dir_fd=inside))
        return os.listdir(inside)
    finally:
        os.close(inside)


def is_told(environ: Mapping[str, str]) -> tuple[str, str, int, int]:
    """Return the report's name, the ranks' directory, rank and size; ValueError, KeyError if they are not set."""
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
