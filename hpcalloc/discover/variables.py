# SPDX-License-Identifier: BSD-3-Clause
"""The environment variables of hpcalloc: which there are, and what those that users set take."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping

__all__ = ["REPORT", "report_unknown", "unknown_variables", "wrong_variables"]

REPORT = "HPCALLOC_REPORT"
_PREFIX = "HPCALLOC_"
ENDINGS = (".json", ".txt", ".html")  # of HPCALLOC_REPORT


def _is_time(text: str) -> bool:
    try:
        seconds = float(text)
    except ValueError:
        return False
    return seconds >= 0 and not math.isnan(seconds)


# What users set: (what it takes, whether a text is such).
_TAKES: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "HPCALLOC_TIMEOUT": ("seconds, 0 or more", _is_time),
    REPORT: (
        f"a name that ends in {', '.join(ENDINGS)}, in a directory that is there",
        lambda text: text.endswith(ENDINGS) and os.path.isdir(os.path.dirname(os.path.abspath(text))),
    ),
    "HPCALLOC_HOME": ("a directory", lambda text: True),
}
# Set by `hpcalloc run` for the programs below it.
_TOLD = (
    "HPCALLOC_RUN",
    "HPCALLOC_REPORT_RANKS",
    "HPCALLOC_REPORT_RANK",
    "HPCALLOC_REPORT_PYTHON",
    "HPCALLOC_REPORT_SCRIPT",
)

_reported = False


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return names that look like variables of hpcalloc and are none."""
    return tuple(sorted(n for n in environ if n.startswith(_PREFIX) and n not in _TAKES and n not in _TOLD))


def wrong_variables(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return variables with a value that can't be used, each with what it takes."""
    return tuple(
        (name, takes)
        for name, (takes, is_right) in _TAKES.items()
        if environ.get(name) and not is_right(environ[name])
    )


def report_unknown(environ: Mapping[str, str]) -> None:
    """Name unknown variables on standard error, once in a process."""
    global _reported
    if _reported:
        return
    _reported = True
    for name in unknown_variables(environ):
        known = ", ".join(_TAKES)
        sys.stderr.write(f"hpcalloc: unknown environment variable {name} is ignored; known are {known}\n")
