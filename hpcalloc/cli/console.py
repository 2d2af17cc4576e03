# SPDX-License-Identifier: BSD-3-Clause
"""How verbs print tables."""

from __future__ import annotations

from rich.console import Console

__all__ = ["plain_console"]

WIDE = 200  # columns; more than any table needs


def plain_console() -> Console:
    """Standard output, where text stays as it is: no markup, no colours by guess, and in a file no column is cut."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:  # it has no width: rich takes it for 80 columns, and cuts numbers to fit
        console.width = max(console.width, WIDE)
    return console
