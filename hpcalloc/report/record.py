# SPDX-License-Identifier: BSD-3-Clause
"""What each rank got: binding, its arrays page by page, memory, fallbacks; gathered over all ranks.

Arrays means the blocks of at least 64 KiB that live when the report is made, whichever context or policy
made them: the data handler keeps a table of them. Smaller ones share pages and say little.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import _native
from .._native import _handler
from ..bind import agreement
from ..bind.affinity import inherited_memory_policy
from ..discover.topology import format_ids
from ..exceptions import message
from ..memory.placement import Placement, ProcessMemory, process_memory, range_placement
from .summary import Part, merge, part_of, process_local_fraction, reduce_in_tree

if TYPE_CHECKING:
    from ..context import Context

__all__ = ["Report", "arrays_placement", "gather", "make_report", "record_of"]

SCHEMA = 2  # of the dict; goes up when a key changes its meaning


@dataclass(frozen=True)
class Report:
    """A report as a dict, and ways to write it.

    Attributes
    ----------
    data : dict
        ``{"schema", "time", "size", "ranks": [one dict per rank], "summary": {...}}``; plain values only. Up to
        64 ranks all are listed, beyond the worst 8; the summary is of all.
    """

    data: Mapping[str, Any]

    @property
    def ranks(self) -> Sequence[Mapping[str, Any]]:
        """One dict per rank, in rank order: all or the worst on rank 0, the own one elsewhere."""
        ranks: Sequence[Mapping[str, Any]] = self.data["ranks"]
        return ranks

    @property
    def summary(self) -> Mapping[str, Any]:
        """Sums and extremes over `ranks`."""
        summary: Mapping[str, Any] = self.data["summary"]
        return summary

    def to_dict(self) -> dict[str, Any]:
        """Return the data."""
        return dict(self.data)

    def to_json(self, indent: int | None = 2) -> str:
        """Return the data as JSON."""
        return json.dumps(self.data, indent=indent)

    def to_text(self, width: int | None = None) -> str:
        """Return tables to read, `width` columns wide if all figures fit; by default as the terminal is, at least 100."""
        import io

        from rich.console import Console
        from rich.measure import Measurement

        wanted = width or max(100, Console().width)
        console = Console(file=io.StringIO(), width=wanted, highlight=False)
        for item in _tables(self.data):
            # A figure that is cut says something else: such a table is wider than wanted.
            least = Measurement.get(console, console.options.update(width=1000), item).minimum
            console.width = wanted if isinstance(item, str) else max(wanted, least)
            console.print(item)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"

    def to_html(self) -> str:
        """Return a page that needs nothing else to be shown."""
        from .html import page  # not needed by most

        return page(self.data)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a file, whose name ends in ``.json``, ``.txt`` or ``.html``; at once, no reader sees half of it.

        Raises
        ------
        ValueError
            Another ending.
        OSError
            The file can't be written.
        """
        name = os.fspath(path)
        forms = {".json": self.to_json, ".txt": lambda: self.to_text(width=120), ".html": self.to_html}
        form = forms.get(os.path.splitext(name)[1])
        if form is None:
            raise ValueError(
                message("Report.write", repr(name), ", ".join(forms), "choose one of these endings")
            )
        text = form()
        part = f"{name}.{os.getpid()}.part"
        try:
            # Whatever the locale: the text has lines and marks.
            with open(part, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(part, name)
        except OSError:
            with contextlib.suppress(OSError):
                os.remove(part)
            raise

    def __str__(self) -> str:
        return self.to_text()


# ---- collecting ---------------------------------------------------------------------------------------


def gather(context: Context) -> Report:
    """Make the report of a context; collective over its communicator: one reduction, O(log P) messages.

    A rank that can't say something says why in its record; it does not keep the others waiting.
    """
    comm = context.comm
    agreement.meet("Context.report", comm)
    part = part_of(record_of(context), context.size)
    whole = comm.reduce(part, op=merge, root=0) if comm is not None else part
    return _report(whole if whole is not None else part, context.size)


def record_of(context: Context) -> dict[str, Any]:
    """Say what this rank knows of itself; where that fails, why."""
    try:
        record = _record(context)
        part_of(record, 1)  # what the others will do with it
        return record
    except Exception as error:  # the others are in the reduction already
        return {
            "rank": context.rank,
            "local_rank": context.local_rank,
            "host": socket.gethostname(),
            "error": f"{type(error).__name__}: {error}",
        }


def make_report(records: Sequence[Mapping[str, Any]], size: int) -> Report:
    """Put the records of ranks together."""
    return _report(reduce_in_tree([part_of(record, size) for record in records]), size)


def _report(part: Part, size: int) -> Report:
    return Report(
        {
            "schema": SCHEMA,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "size": size,
            "ranks": part.kept(),
            "summary": part.to_dict(),
        }
    )


def arrays_placement(local_nodes: Sequence[int]) -> tuple[Placement, int, int]:
    """Ask for the pages of all live array blocks of at least 64 KiB, of shared arrays the pages that are this rank's.

    Returns
    -------
    Placement
        Of all of them together; `nbytes` is the sum of their sizes.
    int
        Their number.
    int
        Blocks that should be among them but could not be tracked for want of memory.
    """
    blocks, missed = _handler.live_blocks()
    shared = _shared_blocks()
    local = tuple(sorted(local_nodes))
    total = _native.PageCounts(_native.page_size())
    nbytes = count = huge = 0
    unknown = ""
    found = [(start, size, _native.block_info(start)) for start, size in blocks]
    # A block that is not known, or is another by now, was freed meanwhile.
    live = [
        (start, size, info.huge_page)
        for start, size, info in found
        if info is not None and info.start == start
    ]
    for start, size, huge_page in [*live, *((start, size, 0) for start, size in shared)]:
        count += 1
        nbytes += size
        huge = max(huge, huge_page)
        if unknown:
            continue
        here = range_placement(start, size, local)
        unknown = here.unknown
        if not unknown:
            total += _native.PageCounts(
                here.page_size, here.pages, here.untouched, here.failed, dict(here.pages_per_node)
            )
    if unknown:
        return (
            Placement(nbytes, total.page_size, 0, local_nodes=local, huge_page=huge, unknown=unknown),
            count,
            missed,
        )
    placement = Placement(
        nbytes,
        total.page_size,
        total.pages,
        total.on_node,
        total.untouched,
        total.failed,
        huge_page=huge,
        local_nodes=local,
    )
    return placement, count, missed


def _shared_blocks() -> list[tuple[int, int]]:
    """Address and length of this rank's pages of shared arrays that live."""
    mapping: Any = sys.modules.get("hpcalloc.shared.mapping")  # never imported: no shared array
    ranges = mapping.own_ranges() if mapping is not None else []
    return [(start, size) for start, size in ranges if size >= _handler.MIN_TRACKED]


def _record(context: Context) -> dict[str, Any]:
    """Say what this rank knows of itself, in plain values."""
    arrays, count, missed = arrays_placement(context.nodes)
    memory = process_memory()
    allocator = _native.stats_dict()
    total = allocator["total"]
    return {
        "rank": context.rank,
        "local_rank": context.local_rank,
        "local_size": context.local_size,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cpus": format_ids(os.sched_getaffinity(os.getpid())),
        "planned_cpus": format_ids(context.cpus),
        "nodes": list(context.nodes),
        "threads": context.threads,
        "launcher": context.launcher,
        "action": context.action,
        "reasons": list(context.reasons),
        "notes": list(context.notes),
        "pools": [
            {
                "library": pool.library,
                "before": pool.before,
                "after": pool.after,
                "kept_for": pool.kept_for or None,
            }
            for pool in context.pools
        ],
        "policy": str(context.policy),
        "memory_policy": inherited_memory_policy() or None,
        "arrays": {**arrays_dict(arrays, count, missed), "shared": len(_shared_blocks())},
        "memory": memory_dict(memory),
        "fallbacks": total["fallbacks"],
        "strict_failures": total["strict_failures"],
        "remote_frees": total["remote_frees"],
        "peak_bytes": total["peak_bytes"],
        "allocator": allocator,
        "kernel": platform.release(),
    }


def arrays_dict(arrays: Placement, count: int, missed: int) -> dict[str, Any]:
    """Return the placement of a rank's arrays as a record has it."""
    return {
        "count": count,
        "untracked": missed,
        "min_bytes": _handler.MIN_TRACKED,
        **{
            key: value
            for key, value in arrays.to_dict().items()
            if key not in ("home_nodes", "policy", "huge_page", "local_nodes")
        },
        "touched": arrays.touched_pages,
        "local": arrays.local_pages,
    }


def memory_dict(memory: ProcessMemory) -> dict[str, Any]:
    """Return the memory of a rank's process as a record has it."""
    return {
        "resident": memory.resident,
        "huge": memory.huge,
        "huge_fraction": memory.huge_fraction,
        "per_node": {str(node): size for node, size in memory.per_node.items()},
        "unknown": memory.unknown or None,
    }


# ---- writing ------------------------------------------------------------------------------------------


def percent(fraction: float | None) -> str:
    """Write a fraction as ``99.9 %``, never rounded up to 100; ``-`` for None."""
    if fraction is None:
        return "-"
    return f"{int(1000 * fraction) / 10:.1f} %"


def size_text(count: float) -> str:
    """Write bytes as ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def title_of(data: Mapping[str, Any]) -> str:
    """Say which ranks are listed."""
    listed, size = len(data["ranks"]), data["size"]
    hosts = data["summary"]["hosts"]
    on = f" on {hosts} hosts" if hosts > 1 else ""
    return f"{listed} of {size} ranks{on}" + (": the worst" if listed < size else "")


def metric_text(name: str, value: float) -> str:
    """Write a metric's value with its unit."""
    if name.endswith("_fraction"):
        return percent(value)
    return size_text(value) if name.endswith("_bytes") else f"{value:.0f}"


def _uncut(table: Any) -> Any:
    """Keep columns that are not wrapped as wide as what is in them: rich takes their longest word for enough."""
    from rich.cells import cell_len

    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    return table


def _spread_table(spread: Mapping[str, Any]) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("over all ranks", box=SIMPLE, padding=0)
    for name in ("min", "rank", "median", "max", "rank"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, s in spread.items():
        table.add_row(
            name.replace("_", " "),
            metric_text(name, s["min"]),
            str(s["min_rank"]),
            metric_text(name, s["median"]),
            metric_text(name, s["max"]),
            str(s["max_rank"]),
        )
    return _uncut(table)


def _tables(data: Mapping[str, Any]) -> list[Any]:
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    items: list[Any] = []
    table = Table(
        title=title_of(data),
        title_justify="left",
        box=SIMPLE,
        padding=0,
    )
    for name in ("rank", "host", "CPUs", "nodes", "binding", "arrays"):
        table.add_column(name, no_wrap=name not in ("CPUs", "nodes"), overflow="fold")
    table.add_column("pages by node", overflow="fold")
    for name in ("local", "process", "huge", "fallbacks", "remote", "peak"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in data["ranks"]:
        if "error" in r:
            continue
        a = r["arrays"]
        where = [f"{node}: {pages}" for node, pages in a["pages_per_node"].items()]
        where += [f"{what}: {a[what]}" for what in ("untouched", "failed") if a[what]]
        # A long list is broken between numbers.
        cpus = r["cpus"].replace(",", ", ") if len(r["cpus"]) > 16 else r["cpus"]
        table.add_row(
            str(r["rank"]),
            escape(r["host"]),
            escape(cpus),
            format_ids(r["nodes"]),
            escape(r["action"]),
            f"{a['count']}, {size_text(a['nbytes'])}",
            "unknown" if a["unknown"] else ", ".join(where) or "-",
            percent(a["local_fraction"]),
            percent(process_local_fraction(r)),
            percent(r["memory"]["huge_fraction"]),
            str(r["fallbacks"]),
            str(r["remote_frees"]),
            size_text(r["peak_bytes"]),
        )
    items.append(_uncut(table))
    summary = data["summary"]
    if summary["ranks"] > 1:
        items.append(_spread_table(summary["spread"]))
    if summary["unknown"]:
        items.append(escape(f"placement unknown: {summary['unknown']}"))
    elif summary["touched"]:
        items.append(f"{percent(summary['local_fraction'])} of {summary['touched']} array pages local")
    items += [
        escape(f"rank {r['rank']} on {r['host']} has no report: {r['error']}")
        for r in data["ranks"]
        if "error" in r
    ]
    unlisted = summary["failed"] - sum("error" in r for r in data["ranks"])
    if unlisted:
        some = format_ids(summary["failed_ranks"])
        items.append(f"{summary['failed']} ranks have no report, among them {some}")
    given = {r["rank"]: r["reasons"] for r in data["ranks"] if "error" not in r}
    common = [
        why for why in next(iter(given.values()), ()) if all(why in reasons for reasons in given.values())
    ]
    items += [escape(f"all ranks: {why}") for why in common] if len(given) > 1 else []
    for rank, reasons in given.items():
        own = [why for why in reasons if len(given) == 1 or why not in common]
        if own:
            items.append(escape(f"rank {rank}: {'; '.join(own)}"))
    items += [escape(f"note: {note}") for note in summary["notes"]]
    return items
