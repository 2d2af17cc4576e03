# SPDX-License-Identifier: BSD-3-Clause
"""How verbs print tables."""

from __future__ import annotations

from rich.console import Console

__all__ = ["plain_console"]


def plain_console() -> Console:
    """Standard output, where text is printed as it is: no markup, no colours by guess, no broken lines."""
    return Console(highlight=False, markup=False, soft_wrap=True)
