# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc topology``."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click
from rich.table import Table

from ..discover.devices import Device, machine_devices, read_source
from ..discover.kinds import kind_nodes, kinds_lines
from ..discover.topology import Topology, format_ids
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
    console.print(
        f"{facts['source']}: {facts['packages']} package(s), {len(facts['nodes'])} NUMA node(s), "
        f"{facts['cores']} core(s), {facts['pus']} PU(s); allowed: CPUs {facts['allowed_cpus']}, "
        f"nodes {facts['allowed_nodes']}"
    )
    for line in machine_lines(topology, cpus, devices=devices):
        console.print(line)
    console.print("kinds of memory")
    for line in kinds_lines(topology):
        console.print(f"  {line}")
    table = Table(
        "node", "package", "cores", "CPUs", "memory", "allowed", *(f"to {n['id']}" for n in facts["nodes"])
    )
    for node in facts["nodes"]:
        table.add_row(
            str(node["id"]),
            "-" if node["package"] < 0 else str(node["package"]),
            str(node["cores"]),
            node["cpus"] or "(memory only)",
            gib(node["memory_bytes"]) if node["memory_bytes"] else "unknown",
            "yes" if node["allowed"] else "no",
            *(str(d) for d in node["distances"].values()),
        )
    print_table(console, table)
    if devices:
        print_table(console, _device_table(devices))


def _device_table(devices: Sequence[Device]) -> Table:
    table = Table("device", "kind", "PCI address", "nodes", "driver", "name that stays")
    for d in devices:
        kind = f"{d.vendor} {d.kind}" if d.kind == "gpu" else d.fabric
        table.add_row(
            d.name, kind, d.address, format_ids(d.nodes) or "unknown", d.driver or "-", d.uuid or "-"
        )
    return table
