# SPDX-License-Identifier: BSD-3-Clause
"""The records of all ranks together, and ways to write them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from . import text
from .record import Absent, Record, record_or_absent
from .summary import LIST_ALL, summary_of

if TYPE_CHECKING:
    from ..bind.rank import RankState

__all__ = ["ENDINGS", "Report", "gather", "make_report"]

SCHEMA = 3  # of the dict; goes up when a key changes its meaning
ENDINGS = (".json", ".txt", ".html")


@dataclass(frozen=True)
class Report:
    """The records of all ranks, as a dict, and ways to write them.

    Attributes
    ----------
    size : int
        Ranks of the job.
    records : sequence of Record
        In rank order; of all ranks on rank 0, the own one elsewhere.
    absent : sequence of Absent
        Ranks that failed to make their record, or that are known by their start only.
    machine : mapping, optional
        What the verb says of the machine.
    """

    size: int
    records: Sequence[Record]
    absent: Sequence[Absent] = ()
    machine: Mapping[str, Any] | None = None
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))

    @functools.cached_property
    def data(self) -> Mapping[str, Any]:
        """``{"schema", "time", "size", "ranks": [one dict per rank], "summary": {...}}``; plain values only."""
        entries: list[Record | Absent] = [*self.records, *self.absent]
        return {
            "schema": SCHEMA,
            "time": self.time,
            "size": self.size,
            **({"machine": self.machine} if self.machine is not None else {}),
            "job": text.facts(self.records, self.absent, self.size, self.time),
            "ranks": [r.to_dict() for r in sorted(entries, key=lambda r: r.rank)],
            "summary": self.summary,
        }

    @property
    def ranks(self) -> Sequence[Mapping[str, Any]]:
        """One dict per rank, in rank order: of all on rank 0, the own one elsewhere."""
        ranks: Sequence[Mapping[str, Any]] = self.data["ranks"]
        return ranks

    @functools.cached_property
    def summary(self) -> Mapping[str, Any]:
        """Sums and extremes over all ranks."""
        return summary_of(self.records, self.absent, self.size)

    def to_dict(self) -> dict[str, Any]:
        """Return the data."""
        return dict(self.data)

    def to_json(self, indent: int | None = 2) -> str:
        """Return the data as JSON."""
        return json.dumps(self.data, indent=indent)

    def to_text(self, width: int | None = None) -> str:
        """Return tables to read, `width` columns wide but at least 80; by default as the terminal is."""
        columns = width or shutil.get_terminal_size((text.LEAST_WIDTH, 24)).columns
        return text.text(self.records, self.absent, self.summary, self.time, columns)

    def to_html(self) -> str:
        """Return a page that needs nothing else to be shown."""
        from .html import page  # not needed by most

        return page(self.records, self.absent, self.summary, self.time)

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
        makers: tuple[Callable[[], str], ...] = (
            lambda: self.to_json(indent=2 if self.size <= LIST_ALL else None),
            lambda: self.to_text(width=100),
            self.to_html,
        )
        forms = dict(zip(ENDINGS, makers, strict=True))
        form = forms.get(os.path.splitext(name)[1])
        if form is None:
            raise ValueError(f"Report.write: {name!r}; limit: a name that ends in {', '.join(forms)}")
        _write_at_once(name, form().encode("utf-8", "replace"))  # whatever the locale

    def __str__(self) -> str:
        return self.to_text()


def _write_at_once(name: str, content: bytes) -> None:
    """Write beside the file and rename: what others put at either name is not written through."""
    part = f"{name}.{secrets.token_hex(8)}.part"
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb") as file:
            file.write(content)
        os.replace(part, name)
    except OSError:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise


def make_report(entries: Iterable[Record | Absent], size: int) -> Report:
    """Make a report of the records of ranks; large ones are without libnumalloc's own statistics."""
    ordered = sorted(entries, key=lambda r: r.rank)
    records = [_without_statistics(r, size) for r in ordered if isinstance(r, Record)]
    return Report(size, records, [r for r in ordered if isinstance(r, Absent)])


def _without_statistics(record: Record, size: int) -> Record:
    """Leave libnumalloc's own statistics out of the records of many ranks: about 1 KiB each remains."""
    return record if size <= LIST_ALL or record.allocator is None else replace(record, allocator=None)


def gather(state: RankState) -> Report:
    """Make the report of a context; collective over its communicator.

    A rank that can't say something says why in its record; it does not keep the others waiting.
    """
    with state.ranks.one_call("Context.report"):
        entry = record_or_absent(state)
        if isinstance(entry, Record):
            entry = _without_statistics(entry, state.size)
        entries = state.ranks.gather("Context.report", entry)
    return make_report(entries if entries is not None else [entry], state.size)
