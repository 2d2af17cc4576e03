# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc topology``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence

import click
from rich.table import Table

from .._text import plural
from ..discover.devices import Device, machine_devices, read_source
from ..discover.kinds import kind_nodes, kinds_lines
from ..discover.topology import Topology, format_ids, ids_text
from ..plan.ranks import make_plan
from ..policy import MEMORY_KINDS
from .bench.output import new_figure, plot_option, save_figure
from .console import plain_console, print_table
from .drawing import draw, machine_lines
from .options import json_flag

__all__ = ["command", "gib", "machine_of", "source_option"]

source_option = click.option(
    "--topology",
    "source",
    metavar="FILE|STRING",
    help="An hwloc 2 XML file or a synthetic description such as 'pack:2 [numa] core:4 pu:2' instead of this machine.",
)


def machine_of(source: str | None, devices: bool = True) -> tuple[Topology, tuple[Device, ...]]:
    """The machine an option names, and its devices if they are asked for; this one without."""
    if source is not None:
        return read_source(source)
    topology = Topology.from_machine()
    return topology, machine_devices(topology) if devices else ()


def gib(count: int) -> str:
    """Bytes in GiB with one decimal."""
    return f"{count / 2**30:.1f} GiB"


@click.command()
@source_option
@click.option("-n", "ranks", type=int, help="Draw the plan for so many ranks too.")
@json_flag
@plot_option
def command(source: str | None, ranks: int | None, as_json: bool, plot_file: str | None) -> None:
    """Draw packages, NUMA nodes and cores; list nodes, kinds of memory, distances and devices."""
    topology, devices = machine_of(source)
    cpus = [share.cpus for share in make_plan(topology, ranks).ranks] if ranks is not None else []
    if plot_file is not None:
        save_figure(draw(topology, cpus, new_figure(6, 4), devices), plot_file)
    kinds = {kind: kind_nodes(topology, kind) for kind in MEMORY_KINDS}
    facts = topology.to_dict() | {
        "kinds": {
            kind: {"nodes": list(nodes), "source": source or None} for kind, (nodes, source) in kinds.items()
        }
    }
    facts["devices"] = [device.to_dict() for device in devices]
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    console = plain_console()
    counts = [
        plural(count, noun)
        for count, noun in (
            (facts["packages"], "package"),
            (len(topology.nodes), "NUMA node"),
            (len(topology.cores), "core"),
            (facts["pus"], "PU"),
        )
    ]
    console.print(f"{os.path.basename(topology.source)}: {', '.join(counts)}")
    console.print(f"allowed: CPUs {facts['allowed_cpus']}; nodes {facts['allowed_nodes']}")
    width = min(max(console.width, 40), 120) if console.is_terminal else 80
    for line in machine_lines(topology, cpus, width, devices):
        console.print(line)
    console.print("kinds of memory")
    for line in kinds_lines(topology):
        console.print(f"  {line}")
    print_table(console, _node_table(topology), wrap=True)
    console.print("distances from a node's cores (row) to a node's memory (column)")
    for line in _distance_lines(topology, width):
        console.print(line)
    if devices:
        print_table(console, _device_table(devices))
        for d in devices:
            if d.uuid:
                console.print(f"{d.name}: {d.uuid}")


def _node_table(topology: Topology) -> Table:
    cpus = {
        node.id: ids_text(node.cpus).split(",") if node.cpus else ["memory", "only"]
        for node in topology.nodes
    }
    table = Table()
    for name in ("node", "package", "cores"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("CPUs", min_width=max(len(part) + 1 for parts in cpus.values() for part in parts))
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("allowed", no_wrap=True)
    for node in topology.nodes:
        table.add_row(
            str(node.id),
            "-" if node.package < 0 else str(node.package),
            str(sum(core.node == node.id for core in topology.cores)),
            (", " if node.cpus else " ").join(cpus[node.id]),
            gib(node.memory_bytes) if node.memory_bytes else "unknown",
            "yes" if node.id in topology.allowed_nodes else "no",
        )
    return table


def _distance_lines(topology: Topology, width: int) -> Iterator[str]:
    """Yield the matrix of distances in blocks of columns that fit into the width."""
    ids = [node.id for node in topology.nodes]
    cell = 2 + max(len(str(number)) for a in ids for number in (a, *(topology.distance(a, b) for b in ids)))
    fit = (width - cell) // cell
    for at in range(0, len(ids), fit):
        columns = ids[at : at + fit]
        yield " " * cell + "".join(f"{b:>{cell}}" for b in columns)
        for a in ids:
            yield f"{a:>{cell}}" + "".join(f"{topology.distance(a, b):>{cell}}" for b in columns)


def _device_table(devices: Sequence[Device]) -> Table:
    table = Table("device", "kind", "PCI address", "nodes", "driver")
    for d in devices:
        kind = f"{d.vendor} {d.kind}" if d.kind == "gpu" else d.fabric
        table.add_row(d.name, kind, d.address, format_ids(d.nodes) or "unknown", d.driver or "-")
    return table
