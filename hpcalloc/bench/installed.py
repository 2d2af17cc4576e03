# SPDX-License-Identifier: BSD-3-Clause
"""Where the programs and libraries of this installation are."""

from __future__ import annotations

from pathlib import Path

from .. import _native
from ..exceptions import HpcallocError

__all__ = ["installed"]


def installed(name: str) -> Path:
    """Path of a file beside the native modules.

    Raises
    ------
    HpcallocError
        There is none.
    """
    # An editable installation keeps sources and built files in two folders of one package.
    for folder in _native.__path__:
        if (path := Path(folder) / name).exists():
            return path
    raise HpcallocError(f"bench: {name} is missing in {', '.join(_native.__path__)}; reinstall hpcalloc")
