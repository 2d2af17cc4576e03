# SPDX-License-Identifier: BSD-3-Clause
"""Whether an output is a terminal, which gets colours and progress bars, or a file or pipe, which gets neither.

A launcher's rank may have a terminal that is none: Open MPI gives its ranks one and copies it to its own output. So
a rank gets neither unless FORCE_COLOR is set. NO_COLOR (no-color.org) wins over both.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from ..exceptions import HpcallocError
from .launcher import detect_launcher

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "is_looked_at", "is_of_output"]


def is_looked_at(stream: TextIO | None) -> bool:
    """Whether escape codes may be written to a stream."""
    if os.environ.get("NO_COLOR") or stream is None:
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    try:
        terminal = stream.isatty()
    except ValueError:  # closed
        return False
    if not terminal or os.environ.get("TERM") in ("dumb", "unknown"):
        return False
    return detect_launcher(os.environ).launcher == "none"


def console(*, stderr: bool = False, **options: Any) -> Console:
    """Make a console for standard output or error; text is printed as it is: no markup, no highlights by guess."""
    from rich.console import Console  # not needed by most

    looked_at = is_looked_at(sys.stderr if stderr else sys.stdout)
    return Console(
        stderr=stderr,
        force_terminal=looked_at,
        color_system="auto" if looked_at else None,
        highlight=False,
        markup=False,
        emoji=False,
        **options,
    )


def is_of_output(error: OSError) -> bool:
    """Whether an error is of writing to standard output: errors of a file have its name."""
    kinds = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EFBIG)
    return error.filename is None and error.errno in kinds and not isinstance(error, HpcallocError)
