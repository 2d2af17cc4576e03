"""The machines of the NUMA lab: what QEMU is told, and which checks of guest.sh run there."""

# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine by name. `nodes` are virtme-ng's: memory (0: none), then QEMU's options of the node."""

    name: str
    cpus: int
    nodes: tuple[str, ...]
    checks: tuple[str, ...]  # functions of guest.sh
    near: tuple[tuple[int, ...], ...] = ()  # sets of nodes at distance 12; others are at 21
    far: tuple[int, ...] = ()  # nodes at distance 40 from all others
    qemu: tuple[str, ...] = ()
    kernel: str = "debian"  # or "newer"
    append: str = ""  # to the kernel's command line
    online: int | None = None  # nodes that the kernel shows, if not all
    kinds: tuple[str, ...] = ()  # arguments of lab_kinds
    memkind: str = ""  # arguments of use_memkind: nodes of bandwidth, latency, capacity

    @property
    def memory(self) -> str:
        """All of it, in MiB."""
        units = {"M": 1, "G": 1024}
        sizes = [node.split(",")[0] for node in self.nodes]
        return f"{sum(int(size[:-1]) * units[size[-1]] for size in sizes if size != '0')}M"

    def distance(self, a: int, b: int) -> int:
        """Between two nodes."""
        if any(a in near and b in near for near in self.near):
            return 12
        return 40 if a in self.far or b in self.far else 21


def even(nodes: int, checks: tuple[str, ...] = (), name: str = "") -> Machine:
    """Nodes of 2 CPUs and 1 GiB, in packages of two."""
    return Machine(
        name=name or f"{nodes} nodes",
        cpus=2 * nodes,
        nodes=tuple(f"1G,cpus={2 * n}-{2 * n + 1}" for n in range(nodes)),
        near=tuple((n, n + 1) for n in range(0, nodes - 1, 2)),
        checks=checks,
    )


def _attributes(initiators: int, targets: dict[int, tuple[int, int]]) -> tuple[str, ...]:
    """HMAT: latency in ns and bandwidth in GB/s of each target, twice the latency from initiators that are not its own."""
    options = ["-machine hmat=on"]
    for initiator in range(initiators):
        for target, (latency, bandwidth) in targets.items():
            head = f"-numa hmat-lb,initiator={initiator},target={target},hierarchy=memory,data-type=access-"
            options += [f"{head}latency,latency={latency}", f"{head}bandwidth,bandwidth={bandwidth}G"]
    return tuple(options)


C_CHECKS = ("placement", "unplaced", "library")
ALONE = ("exhaustion",)  # what may be changed only on a machine of one's own
NONE = ("bandwidth=none", "latency=none")

_TIERS = Machine(
    name="three tiers",
    cpus=4,
    # Two packages with fast memory beside the first, and much slow memory beside the second.
    nodes=("768M,cpus=0-1,initiator=0", "768M,cpus=2-3,initiator=1", "384M,initiator=0", "1G,initiator=1"),
    qemu=_attributes(2, {0: (80, 100), 1: (80, 100), 2: (120, 400), 3: (300, 25)}),
    checks=(*C_CHECKS, "kinds", "memkind", "python_kinds"),
    kinds=(
        *("bandwidth=2:attributes", "latency=0,1:attributes", "near=bandwidth:0:2", "near=bandwidth:1:2"),
        *("near=latency:0:0", "near=latency:1:1", "weights=0:4,1:4,2:16,3:1"),
    ),
    memkind="2 0 3",
)

MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            name="2 nodes with SMT",
            cpus=8,
            nodes=("1G,cpus=0-3", "1G,cpus=4-7"),
            # QEMU shows the threads of a core to guests on Intel's processors only.
            qemu=("-smp 8,sockets=2,cores=2,threads=2", "-cpu max,vendor=GenuineIntel"),
            checks=("smt", *C_CHECKS, "hotplug", "inherited", *ALONE, "kinds", "memkind"),
            kinds=(*NONE, "capacity=0,1:size", "near=capacity:1:1"),
        ),
        even(2, (*C_CHECKS, "hotplug", "inherited", *ALONE)),
        even(4, (*C_CHECKS, "hotplug", "inherited", *ALONE, "arrays", "bandwidth", "ranks", "reports")),
        Machine(
            name="4 uneven nodes in 2 packages",
            cpus=8,
            nodes=("1G,cpus=0", "512M,cpus=1-3", "1536M,cpus=4-5", "768M,cpus=6-7"),
            near=((0, 1), (2, 3)),
            checks=(*C_CHECKS, "hotplug", "inherited", *ALONE, "kinds"),
            kinds=(*NONE, "capacity=2:size", "near=capacity:0:2", "near=capacity:2:2"),
        ),
        Machine(
            name="8 nodes of 1 CPU",
            cpus=8,
            nodes=tuple(f"512M,cpus={n}" for n in range(8)),
            near=((0, 1, 2, 3), (4, 5, 6, 7)),
            checks=(*C_CHECKS, "inherited", "kinds"),
            kinds=NONE,
        ),
        dataclasses.replace(
            _TIERS,
            name="three kinds, one tier",
            kinds=(*_TIERS.kinds, "capacity=3:size", "near=capacity:0:3", "near=capacity:1:3"),
        ),
        dataclasses.replace(
            _TIERS,
            kernel="newer",
            checks=(*_TIERS.checks, "hotplug", "inherited"),
            kinds=(*_TIERS.kinds, "capacity=3:tiers", "near=capacity:0:3", "near=capacity:1:3"),
        ),
        Machine(
            name="a node without memory, a node without CPUs",
            cpus=4,
            nodes=("1G,cpus=0-1", "0,cpus=2-3", "1G"),
            near=((1, 2),),
            checks=(*C_CHECKS, "kinds"),
            kinds=(*NONE, "capacity=0,2:size", "near=capacity:1:2"),
        ),
        Machine(
            name="NUMA off",
            cpus=4,
            nodes=("1G,cpus=0-1", "1G,cpus=2-3"),
            append="numa=off",
            online=1,
            checks=("library", "off"),
        ),
        Machine(
            name="devices on nodes",
            cpus=4,
            nodes=("1G,cpus=0-1", "1G,cpus=2-3"),
            qemu=(
                "-machine q35",
                *(
                    f"-device pxb-pcie,id=pxb{n},bus_nr={64 * (n + 1)},bus=pcie.0,numa_node={n}"
                    f" -device pcie-root-port,id=port{n},bus=pxb{n},chassis={n + 1}"
                    f" -device e1000e,bus=port{n},mac=52:54:00:00:00:1{n}"
                    for n in range(2)
                ),
            ),
            checks=("placement", "devices"),
        ),
    )
}
QUICK = ("2 nodes", "4 nodes")
