# SPDX-License-Identifier: BSD-3-Clause
"""The command ``hpcalloc``: one module per verb, loaded when it is called."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of ``hpcalloc`` and ``python -m hpcalloc``."""
    from .main import cli

    cli(prog_name="hpcalloc")
