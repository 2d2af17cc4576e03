# SPDX-License-Identifier: BSD-3-Clause
"""Check of how far ranks are from the GPUs and NICs that they were given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._text import device_text
from ..discover.devices import given, places
from ..discover.topology import format_ids
from .facts import RankFacts
from .finding import Finding
from .host import Host

__all__ = ["CHECKS", "devices_of"]


def devices_of(host: Host, rank: RankFacts) -> list[dict[str, Any]]:
    """Devices that a rank was given, with their distances; plain values."""
    some = [device for devices in given(host.facts.devices, rank.environment).values() for device in devices]
    return places(host.facts.topology, some, rank.cpus)


def far_from_device(host: Host) -> Iterator[Finding]:
    """Ranks of which no CPU is on the node of any device that they were given."""
    for rank in host.ranks:
        nodes = host.nodes(rank.cpus)
        for variable, devices in given(host.facts.devices, rank.environment).items():
            if not all(d.nodes for d in devices) or any(set(d.nodes) & set(nodes) for d in devices):
                continue
            kind = devices[0].kind
            told = places(host.facts.topology, devices[:4], rank.cpus)
            where = ", ".join(f"{device_text(d)} at node {format_ids(d['nodes'])}" for d in told) + (
                ", ..." if len(devices) > 4 else ""
            )
            start = "srun" if host.launcher == "slurm" else f"mpirun -n {rank.size}"
            yield host.finding(
                "far-from-device",
                "warning",
                f"ranks run on other nodes than their {kind.upper()}s",
                seen=[f"rank {rank.rank}: CPUs on node {format_ids(nodes)}, {variable} is {where}"],
                effect="what goes between memory and device crosses the links between nodes",
                mend=(
                    f"unset {variable}; {start} hpcalloc run --near {kind} PROGRAM",
                    *(
                        ["srun --gpu-bind=closest PROGRAM"]
                        if host.launcher == "slurm" and kind == "gpu"
                        else []
                    ),
                ),
                ranks=(rank,),
            )


CHECKS = (far_from_device,)
