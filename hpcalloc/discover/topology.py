# SPDX-License-Identifier: BSD-3-Clause
"""Discover: packages, NUMA nodes, cores, caches and distances, as one frozen value.

Read from this machine's sysfs (`sysfs`), from an hwloc 2 XML file (`hwloc_xml`), or from a synthetic description
(`synthetic`). hwloc itself is never loaded: it clashes with MPI libraries that bring their own.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import TopologyError, message
from .parts import Access, Core, Node, format_ids, ids_text, parse_ids

__all__ = ["Access", "Core", "Node", "Topology", "format_ids", "ids_text", "parse_ids"]


@dataclass(frozen=True)
class Topology:
    """What a machine offers and which part of it this process may use.

    Attributes
    ----------
    nodes, cores : tuple
        Ascending by node id, and by node and first PU.
    allowed_cpus : frozenset of int
        PUs the cgroup allows. A narrower affinity, a launcher's say, is not part of the topology.
    allowed_nodes : frozenset of int
        Nodes the cgroup allows memory on.
    distances : tuple
        ((from, to), SLIT distance) pairs; 10 is local.
    accesses : tuple
        ((from, to), Access) pairs, of those nodes alone that the machine tells: the kernel only of the best for each `to`.
    source : str
        Where it was read from.
    cpu_quota : float or None
        CPUs' worth of time that the cgroup grants; None: any number.
    """

    nodes: tuple[Node, ...]
    cores: tuple[Core, ...]
    allowed_cpus: frozenset[int]
    allowed_nodes: frozenset[int]
    distances: tuple[tuple[tuple[int, int], int], ...] = ()
    source: str = "synthetic"
    cpu_quota: float | None = None
    accesses: tuple[tuple[tuple[int, int], Access], ...] = ()
    _distance: dict[tuple[int, int], int] = field(default_factory=dict, compare=False, repr=False, hash=False)
    _access: dict[tuple[int, int], Access] = field(
        default_factory=dict, compare=False, repr=False, hash=False
    )

    def __post_init__(self) -> None:
        if not self.nodes or not self.cores:
            raise TopologyError(
                message(
                    "Topology",
                    f"{self.source} has {len(self.nodes)} nodes and {len(self.cores)} cores",
                    "at least one of each",
                    "check the source",
                )
            )
        self._distance.update(self.distances)
        self._access.update(self.accesses)

    @property
    def packages(self) -> tuple[int, ...]:
        """Ids of the packages that have cores, ascending."""
        return tuple(sorted({core.package for core in self.cores}))

    @property
    def usable_cores(self) -> tuple[Core, ...]:
        """Cores cut to their allowed PUs; cores without one are left out."""
        cut = (
            Core(c.package, c.node, tuple(p for p in c.pus if p in self.allowed_cpus), c.caches)
            for c in self.cores
        )
        return tuple(core for core in cut if core.pus)

    def distance(self, a: int, b: int) -> int:
        """SLIT distance from node `a` to node `b`; 10 and 20 where the machine does not say."""
        return self._distance.get((a, b), 10 if a == b else 20)

    def access(self, a: int, b: int) -> Access:
        """How the CPUs of node `a` reach the memory of node `b`."""
        return self._access.get((a, b), Access())

    def best_access(self, node: int) -> Access:
        """The highest bandwidth and the lowest latency with which CPUs reach the memory of a node."""
        told = [access for (_, to), access in self.accesses if to == node]
        latencies = [access.latency for access in told if access.latency]
        return Access(max((access.bandwidth for access in told), default=0), min(latencies, default=0))

    def node_of_cpu(self) -> dict[int, int]:
        """PU to node id."""
        return {pu: core.node for core in self.cores for pu in core.pus}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        cores = Counter(core.node for core in self.cores)
        return {
            "source": self.source,
            "packages": len(self.packages),
            "nodes": [
                {
                    "id": n.id,
                    "package": n.package,
                    "memory_bytes": n.memory_bytes,
                    "cpus": format_ids(n.cpus),
                    "cores": cores[n.id],
                    "allowed": n.id in self.allowed_nodes,
                    "distances": {str(m.id): self.distance(n.id, m.id) for m in self.nodes},
                    "tier": n.tier,
                    "medium": n.medium or None,
                    "accesses": {
                        str(a): {
                            "bandwidth_mb_s": access.bandwidth or None,
                            "latency_ns": access.latency or None,
                        }
                        for (a, to), access in self.accesses
                        if to == n.id
                    },
                }
                for n in self.nodes
            ],
            "cores": len(self.cores),
            "pus": sum(len(c.pus) for c in self.cores),
            "allowed_cpus": format_ids(self.allowed_cpus),
            "allowed_nodes": format_ids(self.allowed_nodes),
        }

    @classmethod
    def from_source(cls, text: str) -> Topology:
        """An XML file if one of that name exists, a synthetic description otherwise."""
        if os.path.isfile(text):
            return cls.from_hwloc_xml(text)
        if text.endswith(".xml") or "/" in text:
            raise TopologyError(
                message(
                    "Topology",
                    f"{text!r}: {'a directory' if os.path.isdir(text) else 'no such file'}",
                    "an hwloc XML file or a synthetic description such as 'pack:2 [numa] core:4 pu:2'",
                    "check the name",
                )
            )
        return cls.from_synthetic(text)

    @classmethod
    def from_machine(cls, root: str | os.PathLike[str] = "/") -> Topology:
        """The machine whose /sys and /proc lie under `root`."""
        from .sysfs import read_machine

        return cls(**read_machine(os.fspath(root))._asdict())

    @classmethod
    def from_hwloc_xml(cls, path: str | os.PathLike[str]) -> Topology:
        """A topology that ``lstopo --of xml`` of hwloc 2 wrote."""
        from .hwloc_xml import read_xml

        return cls(**read_xml(os.fspath(path))._asdict())

    @classmethod
    def from_synthetic(cls, text: str) -> Topology:
        """A regular machine in hwloc's synthetic notation.

        Parameters
        ----------
        text : str
            Levels from the outside in, ``type:count``: pack, group, numa, l3, l2, core, pu. ``[numa]`` attaches one
            node to each object of the level before it, several in a row several nodes: the first has the CPUs.
            ``(memory=16GB)`` behind a numa sets its size. Ours alone: ``bandwidth=`` (MB/s) and ``latency=`` (ns) for
            the CPUs around it, ``tier=`` and ``medium=``, such as ``[numa(memory=16GB bandwidth=400000 medium=HBM)]``.
        """
        from .synthetic import grow

        return cls(**grow(text)._asdict())
