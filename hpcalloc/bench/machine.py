# SPDX-License-Identifier: BSD-3-Clause
"""What a table of figures must say of the machine it was measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from typing import Any

from . import kernels
from .caches import last_level_bytes

__all__ = ["facts", "remark"]


def remark() -> str:
    """What makes figures of speed doubtful on this machine; "" if nothing is known to."""
    signature = kernels.hypervisor()
    if signature.startswith("TCG"):
        return "emulated processor (QEMU): these figures show where pages are and nothing about speed"
    if signature:
        return f"virtual machine ({signature.strip()}): neighbours share its memory bandwidth"
    return ""


def _model() -> str:
    try:
        with open("/proc/cpuinfo", errors="replace") as info:
            for line in info:
                name, _, value = line.partition(":")
                if name.strip() in ("model name", "Model", "cpu model"):
                    return value.strip()
    except OSError:
        pass
    return platform.machine()


def facts(cpus: Iterable[int]) -> dict[str, Any]:
    """Describe the machine, and how the kernels were built; `cpus` are those whose caches count."""
    return {
        "processor": _model(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "last_level_cache_bytes": last_level_bytes(cpus),
        "instruction_set": kernels.instruction_sets()[0],
        "openmp": kernels.openmp_version(),
        "remark": remark(),
    }
