# SPDX-License-Identifier: BSD-3-Clause
"""Where the files of this installation are: libraries, headers, programs, examples."""

from __future__ import annotations

from pathlib import Path

from ..exceptions import HpcallocError, message
from . import _cffi

__all__ = ["installed", "share"]


def installed(name: str) -> Path:
    """Path of a file beside the extension modules; an editable installation has it there too.

    Raises
    ------
    HpcallocError
        It is missing.
    """
    folder = Path(_cffi.__file__).parent
    if not (path := folder / name).exists():
        raise HpcallocError(message("hpcalloc", f"{name} is missing", str(folder), "reinstall hpcalloc"))
    return path


def share() -> Path:
    """Folder that has ``examples`` and ``jobscripts``: the source tree of an editable installation, else a copy."""
    source = Path(__file__).resolve().parents[2]
    return source if (source / "pyproject.toml").exists() else installed("share")
