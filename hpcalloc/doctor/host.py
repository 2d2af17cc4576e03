# SPDX-License-Identifier: BSD-3-Clause
"""One host and the ranks on it: what the checks reason about, derived from the facts."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..discover.topology import Core
from .facts import HostFacts, RankFacts
from .finding import Finding, Severity

__all__ = ["Host", "threads_asked"]

_MANAGERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID", "COBALT_JOBID")


def threads_asked(rank: RankFacts) -> int | None:
    """Outermost level of OMP_NUM_THREADS; None if it is not set or no number."""
    text = rank.environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    match = re.fullmatch(r"0*([1-9][0-9]{0,8})", text)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Host:
    """A host's facts and its ranks, by local rank."""

    facts: HostFacts
    ranks: tuple[RankFacts, ...]

    @property
    def name(self) -> str:
        """Name of the host."""
        return self.facts.name

    @property
    def launcher(self) -> str:
        """What started the ranks."""
        return self.ranks[0].launch.launcher

    @property
    def complete(self) -> bool:
        """Whether all ranks of the host are known, not only this one."""
        told = self.ranks[0].launch.local_size
        return len(self.ranks) > 1 or self.ranks[0].mpi_size == 1 or told in (None, 1)

    @property
    def local_ranks(self) -> int:
        """Ranks on the host: those found, or as many as the launcher says."""
        return len(self.ranks) if self.complete else self.ranks[0].launch.local_size or 1

    @property
    def managed(self) -> bool:
        """Whether a resource manager gave out the host, perhaps in part."""
        return any(name in self.ranks[0].environment for name in _MANAGERS)

    @functools.cached_property
    def core_of(self) -> dict[int, Core]:
        """PU to core."""
        return {pu: core for core in self.facts.topology.cores for pu in core.pus}

    @functools.cached_property
    def available(self) -> frozenset[int]:
        """PUs that the job may use here: what the cgroup allows, or what Slurm says it gave if the ranks have it."""
        used = frozenset[int]().union(*(rank.cpus for rank in self.ranks))
        given = self.ranks[0].environment.get("SLURM_CPUS_ON_NODE", "")
        if given.isdigit() and len(used) >= int(given):
            return used
        return (self.facts.topology.allowed_cpus | used) & frozenset(self.core_of)

    def cores(self, cpus: frozenset[int]) -> frozenset[tuple[int, ...]]:
        """Cores that `cpus` are hardware threads of."""
        return frozenset(self.core_of[cpu].pus for cpu in cpus if cpu in self.core_of)

    def nodes(self, cpus: frozenset[int]) -> tuple[int, ...]:
        """NUMA nodes that `cpus` are on."""
        return tuple(sorted({self.core_of[cpu].node for cpu in cpus if cpu in self.core_of}))

    def is_unbound(self, rank: RankFacts) -> bool:
        """Whether a rank may run on all that the job has here."""
        return rank.cpus >= self.available

    def threads(self, rank: RankFacts) -> int:
        """Threads that a rank's BLAS or OpenMP regions start."""
        asked = threads_asked(rank)
        pools = [pool.threads for pool in rank.pools]
        return max([*pools, asked or 0]) or max(len(rank.cpus), 1)

    @functools.cached_property
    def groups(self) -> tuple[tuple[RankFacts, ...], ...]:
        """Ranks that share CPUs, directly or through others."""
        groups: list[tuple[frozenset[int], list[RankFacts]]] = []
        for rank in self.ranks:
            cpus, members = rank.cpus, [rank]
            apart = []
            for known, others in groups:
                if known & cpus:
                    cpus, members = cpus | known, [*others, *members]
                else:
                    apart.append((known, others))
            groups = [*apart, (cpus, members)]
        return tuple(tuple(members) for _, members in groups)

    def finding(
        self,
        check: str,
        severity: Severity,
        what: str,
        *,
        seen: Sequence[str],
        effect: str,
        mend: Sequence[str],
        ranks: Sequence[RankFacts] = (),
    ) -> Finding:
        """Make a finding of this host."""
        numbers = tuple(rank.rank for rank in ranks) if self.ranks[0].size > 1 else ()
        return Finding(check, severity, what, tuple(seen), effect, tuple(mend), numbers, (self.name,))
