# SPDX-License-Identifier: BSD-3-Clause
"""How verbs print tables."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ..discover.terminal import console

__all__ = ["plain_console", "print_table"]


def plain_console() -> Console:
    """Standard output, where no line is broken."""
    return console(soft_wrap=True)


def print_table(console: Console, table: Table, *, wrap: bool = False) -> None:
    """Print a table in its full width, whatever the terminal's or file's: numbers that are cut say nothing.

    With `wrap`, columns that are not `no_wrap` are broken between words first.
    """
    needed = Measurement.get(console, console.options.update(width=1000), table)
    console.width = max(console.width, needed.minimum if wrap else needed.maximum)
    console.print(table)
