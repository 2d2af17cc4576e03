# SPDX-License-Identifier: BSD-3-Clause
"""What a check found: how bad, seen where, what it costs, what mends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..discover.topology import format_ids

__all__ = ["SEVERITIES", "Finding", "is_healthy", "merge"]

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # worst first
_EVIDENCE_MAX = 4  # lines kept of a finding that many ranks have


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes
    ----------
    check : str
        Its name, such as "openmpi-one-core"; stable, for scripts.
    severity : {"error", "warning", "note"}
        error: results or the start of the job are in danger, or nearly all speed is lost; warning: slower than
        it need be, or about to fail; note: good to know, often only an administrator can change it.
    what : str
        The fault in one sentence, the same for all ranks that have it.
    evidence : tuple of str
        What was read, and where.
    effect : str
        What it does to the program.
    remedy : tuple of str
        Commands or lines of a job script, one of which mends it.
    ranks : tuple of int
        Ranks that have it; empty where it is the host's.
    hosts : tuple of str
    """

    check: str
    severity: Severity
    what: str
    evidence: tuple[str, ...]
    effect: str
    remedy: tuple[str, ...]
    ranks: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "check": self.check,
            "severity": self.severity,
            "what": self.what,
            "evidence": list(self.evidence),
            "effect": self.effect,
            "remedy": list(self.remedy),
            "ranks": list(self.ranks),
            "hosts": list(self.hosts),
        }

    def to_text(self) -> str:
        """Write it for people to read."""
        where = f"rank{'s' if len(self.ranks) > 1 else ''} {format_ids(self.ranks)}" if self.ranks else ""
        if self.hosts:
            many = len(self.hosts) > 3
            shown = f"{', '.join(self.hosts[:3])} and {len(self.hosts) - 3} more hosts"
            where += (" on " if where else "") + (shown if many else ", ".join(self.hosts))
        lines = [f"{self.severity} {self.check}: {self.what}" + (f" [{where}]" if where else "")]
        lines += [f"  seen:   {text}" for text in self.evidence]
        lines += [f"  effect: {self.effect}"]
        lines += [f"  {'mend:  ' if i == 0 else '    or:'} {text}" for i, text in enumerate(self.remedy)]
        return "\n".join(lines)


def merge(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Put what many ranks or hosts have into one finding each; worst first, otherwise in the order found."""
    merged: dict[tuple[Any, ...], Finding] = {}
    left_out: dict[tuple[Any, ...], int] = {}
    for finding in findings:
        key = (finding.check, finding.severity, finding.what, finding.effect, finding.remedy)
        known = merged.get(key)
        if known is None:
            merged[key] = finding
            continue
        fresh = [text for text in finding.evidence if text not in known.evidence]
        room = max(_EVIDENCE_MAX - len(known.evidence), 0)
        left_out[key] = left_out.get(key, 0) + len(fresh[room:])
        merged[key] = replace(
            known,
            evidence=(*known.evidence, *fresh[:room]),
            ranks=tuple(sorted({*known.ranks, *finding.ranks})),
            hosts=tuple(dict.fromkeys((*known.hosts, *finding.hosts))),
        )
    for key, count in left_out.items():
        if count:
            merged[key] = replace(
                merged[key], evidence=(*merged[key].evidence, f"and {count} more like these")
            )
    return tuple(sorted(merged.values(), key=lambda finding: SEVERITIES.index(finding.severity)))


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Whether there is nothing worse than a note."""
    return all(finding.severity == "note" for finding in findings)
