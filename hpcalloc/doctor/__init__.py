# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong with where and how a job runs: facts are gathered, checks are pure functions of them.

gather (facts.py) -> Host (host.py) -> checks (binding, devices, openmp, system, software) -> merge (finding.py)
"""

from __future__ import annotations

from collections.abc import Iterable

from . import binding, devices, openmp, software, system
from .devices import devices_of
from .facts import HostFacts, RankFacts, gather_host, gather_rank
from .finding import Finding, is_healthy, merge
from .host import Host

__all__ = [
    "Finding",
    "Host",
    "HostFacts",
    "RankFacts",
    "devices_of",
    "diagnose",
    "gather_host",
    "gather_rank",
    "is_healthy",
]

CHECKS = (*binding.CHECKS, *devices.CHECKS, *openmp.CHECKS, *system.CHECKS, *software.CHECKS)


def diagnose(hosts: Iterable[Host]) -> tuple[Finding, ...]:
    """Check a job, given as its hosts with the known ranks. Worst first; one finding for all ranks that have it."""
    return merge(finding for host in hosts for check in CHECKS for finding in check(host))
