# SPDX-License-Identifier: BSD-3-Clause
"""A report as tables to read: within the width asked for, 80 columns on a terminal that does not say."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._text import BINDINGS, count_text, device_text, percent, plural, size_text
from .._words import WORDS
from ..discover.topology import format_ids, ids_text, parse_ids
from ..exceptions import TopologyError
from .record import Absent, Machine, Record
from .summary import absent_ranks, worst

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "LEGEND",
    "MEMORY_COLUMNS",
    "cpus_text",
    "devices_text",
    "facts",
    "failures",
    "groups",
    "list_text",
    "metric_text",
    "nodes_text",
    "tables",
    "title_of",
    "verdict",
]

LEAST_WIDTH = 80  # that all columns fit into
HOSTS = 6  # that are named
ABSENT = 8  # ranks without a record whose reasons are told

# Column -> what a record has for it; _words says what it means.
MEMORY_COLUMNS: dict[str, Callable[[Record], str]] = {
    "arrays": lambda r: count_text(r.arrays.count),
    "size": lambda r: size_text(r.arrays.nbytes),
    "local": lambda r: "unknown" if r.arrays.unknown else percent(r.arrays.local_fraction),
    "huge": lambda r: percent(r.arrays.huge_fraction),
    "process local": lambda r: percent(r.process_local_fraction),
    "peak": lambda r: size_text(r.peak_bytes),
    "fallbacks": lambda r: count_text(r.fallbacks),
    "remote frees": lambda r: count_text(r.remote_frees),
}
LEGEND = {name: WORDS[name] for name in ("nodes", "devices", "binding", *MEMORY_COLUMNS)}


def metric_text(name: str, value: float) -> str:
    """Write a metric of a summary with its unit."""
    if name.endswith("_fraction"):
        return percent(value)
    return size_text(value) if name.endswith("_bytes") else count_text(value)


def list_text(ids: Iterable[int]) -> str:
    """Write ids so that a long list is broken between numbers: ``0-3, 8``."""
    return ids_text(ids).replace(",", ", ")


def cpus_text(record: Record) -> str:
    """Write the CPUs of a rank; what another program wrote there as it is."""
    try:
        return list_text(parse_ids(record.cpus))
    except TopologyError:
        return record.cpus


def nodes_text(record: Record) -> str:
    """Say how many pages of the arrays are where."""
    arrays = record.arrays
    where = [f"node {node}: {count_text(pages)}" for node, pages in sorted(arrays.pages_per_node.items())]
    where += [
        f"{what}: {count_text(count)}" for what in ("untouched", "failed") if (count := getattr(arrays, what))
    ]
    return "unknown" if arrays.unknown else ", ".join(where) or "-"


def devices_text(record: Record) -> str:
    """Say which GPUs and NICs a rank has."""
    return ", ".join(device_text(dataclasses.asdict(d)) for d in record.devices) or "-"


def title_of(listed: Sequence[Record], size: int) -> str:
    """Say which ranks a table has."""
    return f"{len(listed)} of {plural(size, 'rank')}" + (": the worst placed" if len(listed) < size else "")


def groups(texts: Mapping[int, Sequence[str]]) -> dict[str, list[int]]:
    """Return what is said, with the ranks that say it, in order of the first of these."""
    found: dict[str, list[int]] = {}
    for rank, lines in texts.items():
        for line in lines:
            found.setdefault(line, []).append(rank)
    return found


def ranks_text(ranks: Sequence[int], listed: int, size: int) -> str:
    """Name ranks; all that are listed in one word."""
    if len(ranks) == listed and size > 1:
        return "all ranks" if listed == size else "all of these ranks"
    return f"rank{'s' if len(ranks) > 1 else ''} {format_ids(ranks)}"


# ---- what the top says ----------------------------------------------------------------------------------


def facts(records: Sequence[Record], absent: Sequence[Absent], size: int, time: str) -> dict[str, str]:
    """Job, command, hosts and machine, each as one line."""
    hosts: dict[str, int] = {}
    entries: list[Record | Absent] = [*records, *absent]
    for r in entries:
        if r.host:
            hosts[r.host] = hosts.get(r.host, 0) + 1
    first = records[0] if records else None
    launcher = (
        f"{first.launcher} {first.job}".strip()
        if first is not None and first.launcher != "none"
        else "no launcher"
    )
    named = [f"{host} ({plural(count, 'rank')})" for host, count in list(hosts.items())[:HOSTS]]
    more = len(hosts) - len(named)
    lines = {
        "job": f"{launcher}, {plural(size, 'rank')} on {plural(len(hosts), 'host')}, {time}",
        "command": _alike(records, lambda r: r.command),
        "hosts": ", ".join(named) + (f" and {more} more" if more else ""),
        "machine": _alike(records, lambda r: machine_text(r.machine) if r.machine is not None else ""),
        "kernel": _alike(records, lambda r: r.kernel),
    }
    return {name: line for name, line in lines.items() if line}


def _alike(records: Sequence[Record], get: Callable[[Record], str]) -> str:
    """What most ranks have, and how many have something else."""
    counts: dict[str, int] = {}
    for r in records:
        if text := get(r):
            counts[text] = counts.get(text, 0) + 1
    if not counts:
        return ""
    text = max(counts, key=lambda t: counts[t])
    others = sum(counts.values()) - counts[text]
    return text + (f" ({plural(others, 'rank')}: others)" if others else "")


def machine_text(machine: Machine) -> str:
    """Write the sizes of a host."""
    return ", ".join(
        plural(count, noun)
        for count, noun in (
            (machine.packages, "package"),
            (machine.nodes, "NUMA node"),
            (machine.cores, "core"),
            (machine.pus, "hardware thread"),
        )
    )


def verdict(summary: Mapping[str, Any]) -> str:
    """Say in one line how well the arrays are placed."""
    if summary["unknown"]:
        return f"placement unknown: {summary['unknown']}"
    if not summary["touched"]:
        return "no array of 64 KiB or more was in use"
    text = f"{percent(summary['local_fraction'])} of {plural(summary['touched'], 'array page')} local"
    if summary["local"] < summary["touched"] and summary["ranks"] > 1:
        text += f"; the worst rank is {summary['worst_rank']} with {percent(summary['worst_fraction'])}"
    return text


# ---- tables ---------------------------------------------------------------------------------------------


def text(
    records: Sequence[Record],
    absent: Sequence[Absent],
    summary: Mapping[str, Any],
    time: str,
    width: int,
) -> str:
    """Write everything."""
    from rich.console import Console, RenderableType
    from rich.text import Text

    width = max(width, LEAST_WIDTH)
    console = Console(
        file=io.StringIO(), width=width, color_system=None, highlight=False, markup=False, emoji=False
    )
    size, listed = summary["ranks"], worst(records)
    items: list[RenderableType] = [_pairs(facts(records, absent, size, time))]
    items += [Text(""), Text(verdict(summary)), Text("")]
    if listed:
        items += tables(listed, size)
    if len(records) > 1:
        items.append(_spread_table(summary["spread"]))
    items += [Text(line) for line in failures(records, absent, size)]
    for line, ranks in groups({r.rank: r.reasons for r in listed}).items():
        items.append(Text(f"{ranks_text(ranks, len(listed), size)}: {line}"))
    items += [Text(f"note: {note}") for note in summary["notes"]]
    if listed:
        items += [Text(""), _pairs(LEGEND)]
    for item in items:
        console.print(item)
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in written.splitlines()) + "\n"


def _pairs(lines: Mapping[str, str]) -> Table:
    """Names and what they are, in two columns."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, line in lines.items():
        table.add_row(name, line)
    return table


def tables(listed: Sequence[Record], size: int) -> list[Table]:
    """Return where the ranks are, what is in their memory, and on which nodes."""
    binding = _table(title_of(listed, size))
    devices = ["devices"] if any(r.devices for r in listed) else []
    for name in ("rank", "host", "CPUs", "nodes", *devices, "threads", "binding"):
        numeric = name in ("rank", "threads")
        binding.add_column(name, overflow="fold", no_wrap=numeric, justify="right" if numeric else "left")
    memory = _table("their memory")
    memory.add_column("rank", justify="right", no_wrap=True)
    for name in MEMORY_COLUMNS:
        memory.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True, vertical="bottom")
    nodes = _table("array pages by node")
    nodes.add_column("rank", justify="right", no_wrap=True)
    nodes.add_column("pages", overflow="fold")
    several = False
    for r in listed:
        words = BINDINGS.get(r.action, r.action)
        near = [devices_text(r)] if devices else []
        binding.add_row(str(r.rank), r.host, cpus_text(r), list_text(r.nodes), *near, str(r.threads), words)
        memory.add_row(str(r.rank), *(value(r) for value in MEMORY_COLUMNS.values()))
        nodes.add_row(str(r.rank), nodes_text(r))
        several = several or len(r.arrays.pages_per_node) > 1 or bool(r.arrays.untouched or r.arrays.failed)
    return [binding, memory, *([nodes] if several else [])]


def _table(title: str) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    return Table(title=title, title_justify="left", box=SIMPLE, padding=0, pad_edge=False)


def _spread_table(spread: Mapping[str, Any]) -> Table:
    table = _table("over all ranks")
    for name in ("", "min", "rank", "median", "max", "rank"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, s in spread.items():
        table.add_row(
            name.replace("_", " "),
            metric_text(name, s["min"]),
            str(s["min_rank"]),
            metric_text(name, s["median"]),
            metric_text(name, s["max"]),
            str(s["max_rank"]),
        )
    return table


def failures(records: Sequence[Record], absent: Sequence[Absent], size: int) -> list[str]:
    """Name the ranks without a record."""
    lines = [
        f"rank {a.rank}{f' on {a.host}' if a.host else ''} has no report: {a.error}" for a in absent[:ABSENT]
    ]
    told = {a.rank for a in absent[:ABSENT]}
    others = [rank for rank in absent_ranks(records, size) if rank not in told]
    if others:
        shown = format_ids(others[:1000])
        shown = shown if len(shown) <= 300 else f"{shown[:300].rpartition(',')[0]}, ..."
        which = f"rank {shown} is" if len(others) == 1 else f"{len(others)} ranks are"
        more = "" if len(others) == 1 else f": {shown}"
        lines.append(f"{which} absent (never started, or the files are elsewhere){more}")
    return lines
