# SPDX-License-Identifier: BSD-3-Clause
"""All checks of a job."""

from __future__ import annotations

from collections.abc import Iterable

from . import binding, devices, openmp, software, system
from .finding import Finding, merge
from .host import Host

__all__ = ["diagnose"]

CHECKS = (*binding.CHECKS, *devices.CHECKS, *openmp.CHECKS, *system.CHECKS, *software.CHECKS)


def diagnose(hosts: Iterable[Host]) -> tuple[Finding, ...]:
    """Check a job, given as its hosts with the known ranks. Worst first; one finding for all ranks that have it."""
    return merge(finding for host in hosts for check in CHECKS for finding in check(host))
