# SPDX-License-Identifier: BSD-3-Clause
"""Figures and words as people read them; the only place that formats them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["BINDINGS", "count_text", "device_text", "percent", "plain_text", "plural", "size_text"]

# What `Context.action` names, in words.
BINDINGS = {
    "bind": "pinned",
    "widen": "launcher default widened to its node",
    "honour": "launcher binding kept",
    "none": "not pinned: bind is off",
    "failed": "not pinned: refused",
}


def percent(fraction: float | None) -> str:
    """Write a fraction as ``99.9 %``, never rounded up to 100; ``-`` for None."""
    if fraction is None:
        return "-"
    return f"{int(1000 * fraction) / 10:.1f} %"


def size_text(count: float) -> str:
    """Write bytes as ``1.5 GiB``, in 10 characters at most."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        count /= 1024
        if count < 1023.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} EiB"


def count_text(count: float) -> str:
    """Write a number in 7 characters at most: ``12345``, ``1.2 M``."""
    if count < 100_000:
        return f"{count:.0f}"
    for unit in "kMGTP":
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} E"


def device_text(device: Mapping[str, Any]) -> str:
    """Write a device with how far it is from its rank: ``gpu3 (distance 10)``."""
    return f"{device['name']} ({'distance ' + str(device['distance']) if device['distance'] else 'node unknown'})"


def plural(count: int, noun: str) -> str:
    """Write ``1 rank``, ``2 ranks``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def plain_text(text: str) -> str:
    """Replace bytes that are no UTF-8, and characters that would control a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", "\ufffd", text)
