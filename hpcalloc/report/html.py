# SPDX-License-Identifier: BSD-3-Clause
"""A report as one HTML page: no script, no font, no address of anything outside it; light, dark, and for a phone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .._text import BINDINGS, count_text, percent, plural, size_text
from .._words import meaning
from ..discover.topology import format_ids
from .record import Absent, Record
from .summary import absent_ranks, worst
from .text import (
    MEMORY_COLUMNS,
    cpus_text,
    devices_text,
    facts,
    failures,
    groups,
    list_text,
    metric_text,
    nodes_text,
    ranks_text,
    title_of,
    verdict,
)

__all__ = ["page"]

CELLS = 16384  # of the strip; beyond, one is the worst of several ranks
ROWS = 4096  # of the table of all ranks

_STYLE = """
:root { color-scheme: light dark; --text: #1c2430; --faint: #5b6675; --line: #dfe4ea; --back: #fff; --box: #f5f7f9;
  --good: #2a7f62; --some: #d9902f; --bad: #c8384a; --none: #b9c2cc; --alarm: #a4161a; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e8ee; --faint: #9aa6b4; --line: #333c47; --back: #14181d;
  --box: #1c2229; --good: #45b48e; --some: #e5a853; --bad: #ef6678; --none: #4a5561; --alarm: #ff8a94; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 66rem; padding: 0 1rem; color: var(--text);
  background: var(--back); }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; overflow-wrap: anywhere; } .lead { font-size: 1.15rem; margin: .2rem 0 1rem; } .faint { color: var(--faint); }
.alarm { color: var(--alarm); font-weight: 600; } ul { margin: .3rem 0; padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .8rem 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; } li { overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .25rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--faint); vertical-align: bottom; } td { white-space: nowrap; }
.l { text-align: left; } td.fold { white-space: normal; max-width: 22rem; } td.fold:last-child { min-width: 11rem; }
.bar { display: inline-block; width: 7rem; height: .8rem; background: var(--line); vertical-align: middle; }
.bar i { display: inline-block; height: 100%; vertical-align: top; }
.good { background: var(--good); } .some { background: var(--some); } .bad { background: var(--bad); }
.none { background: var(--none); }
.absent { background: repeating-linear-gradient(45deg, var(--bad) 0 2px, var(--back) 2px 4px); }
.key { color: var(--faint); } .key i { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 .9rem;
  vertical-align: -.05rem; } .key i:first-child { margin-left: 0; }
.strip.many { columns: 19rem; } .strip div { display: flex; gap: .8rem; break-inside: avoid; }
.strip b { flex: none; width: var(--name); font-weight: 400; color: var(--faint); overflow-wrap: anywhere; }
.strip .cells { flex-wrap: wrap; gap: 2px; padding: .35rem 0; } .cells i { width: 11px; height: 11px; }
summary { cursor: pointer; color: var(--faint); }
@media (max-width: 40rem) { body { margin: 1rem auto; font-size: 14px; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; } th, td { padding: .2rem .28rem; }
  table { font-size: .86rem; }
  .cards, .cards tbody { display: block; } .cards tr { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem;
    border-bottom: 1px solid var(--line); padding: .3rem 0; }
  .cards tr:first-child { display: none; } .cards td { display: flex; justify-content: space-between; gap: .6rem; border: 0;
    padding: .1rem 0; min-width: 0 !important; max-width: none; text-align: right; overflow-wrap: anywhere; } .cards td.fold:last-child { grid-column: 1 / 3; }
  .cards td::before { content: attr(data-name); color: var(--faint); flex: none; } }
"""


def page(records: Sequence[Record], absent: Sequence[Absent], summary: Mapping[str, Any], time: str) -> str:
    """Return the page of a report."""
    size, listed = summary["ranks"], worst(records)
    good = not summary["failed"] and not summary["unknown"] and summary["local"] == summary["touched"]
    parts = [
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>hpcalloc report, {plural(size, 'rank')}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Memory of {plural(size, 'rank')} on {plural(summary['hosts'], 'host')}</h1>",
        f"<p class='lead{'' if good else ' alarm'}'>{escape(verdict(summary))}</p>",
        *[f"<p class='alarm'>{escape(line)}</p>" for line in failures(records, absent, size)],
        _pairs(facts(records, absent, size, time)),
    ]
    if size > 1:
        parts += ["<h2>All ranks</h2>", _strip(records, absent, size)]
    if listed:
        parts += [f"<h2>{escape(title_of(listed, size))}</h2>", _bindings(listed)]
        parts += ["<h2>Memory of these ranks</h2>" if size > 1 else "<h2>Memory</h2>", _memory(listed)]
    if len(records) > 1:
        parts += ["<h2>Over all ranks</h2>", _spread(summary["spread"])]
    reasons = groups({r.rank: r.reasons for r in listed})
    if reasons:
        lines = [f"{ranks_text(ranks, len(listed), size)}: {reason}" for reason, ranks in reasons.items()]
        parts += ["<h2>Why the ranks are where they are</h2>", _list(lines)]
    if summary["notes"]:
        parts += ["<h2>Notes</h2>", _list(summary["notes"])]
    if len(listed) < len(records):
        shown = records[:ROWS]
        more = "" if len(shown) == len(records) else f"; the first {len(shown)}, all are in the JSON form"
        parts += [f"<details><summary>Every rank{more}</summary>", _every(shown), "</details>"]
    parts += [
        "<h2>What the words mean</h2>",
        _pairs(_legend(listed, summary["spread"] if len(records) > 1 else ())),
    ]
    return "\n".join([*parts, "</body></html>", ""])


def _legend(listed: Sequence[Record], spread: Iterable[str]) -> dict[str, str]:
    """Return what the words of the page's tables mean, also for readers who have no pointer for tooltips."""
    words = ["rank", "host", "CPUs", "nodes", *(["devices"] if any(r.devices for r in listed) else [])]
    words += ["threads", "binding", *sorted({BINDINGS.get(r.action, r.action) for r in listed})]
    words += [*MEMORY_COLUMNS, "pages", "by node", *(name.replace("_", " ") for name in spread)]
    words += ["min", "median", "max"] if spread else []
    return {word: meaning(word) for word in words if meaning(word)}


def _pairs(lines: Mapping[str, str]) -> str:
    inside = "".join(f"<dt>{escape(name)}</dt><dd>{escape(line)}</dd>" for name, line in lines.items())
    return f"<dl>{inside}</dl>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


# ---- a cell for each rank ---------------------------------------------------------------------------------


def _grade(record: Record) -> tuple[int, str, str]:
    """Order of badness, the class of a cell, and what it says."""
    local = record.arrays.local_fraction
    if local is None:
        return 0, "none", "no array pages" if not record.arrays.unknown else "placement unknown"
    if local == 1:
        return 1, "good", "100 % local"
    return (2, "some", f"{percent(local)} local") if local >= 0.9 else (3, "bad", f"{percent(local)} local")


def _strip(records: Sequence[Record], absent: Sequence[Absent], size: int) -> str:
    """One cell a rank, by host."""
    hosts: dict[str, list[tuple[int, int, str, str]]] = {}
    for r in records:
        hosts.setdefault(r.host, []).append((r.rank, *_grade(r)))
    known = {a.rank: a.host for a in absent}
    for rank in absent_ranks(records, size):
        hosts.setdefault(known.get(rank) or "host unknown", []).append((rank, 4, "absent", "no report"))
    each = -(-size // CELLS)  # ranks a cell
    lines = []
    for host, cells in hosts.items():
        cells.sort()
        shown = []
        for start in range(0, len(cells), each):
            part = cells[start : start + each]
            _, _, kind, says = max(part, key=lambda cell: cell[1])
            ranks = f"rank{'s' if len(part) > 1 else ''} {format_ids(cell[0] for cell in part)}"
            shown.append(f"<i class={kind} title='{ranks}: {says}'></i>")
        lines.append(
            f"<div><b>{escape(host)}</b><div class='cells' role='img' aria-label='{plural(len(cells), 'rank')}, "
            f"{sum(cell[1] == 1 for cell in cells)} all local'>{''.join(shown)}</div></div>"
        )
    per = f"a cell for {each} ranks" if each > 1 else "a cell for each rank"
    key = (
        f"<p class='key'>{per}; its array pages on its nodes: <i class=good></i>all<i class=some></i>90 % "
        "and more<i class=bad></i>less<i class=none></i>none or unknown<i class=absent></i>no report</p>"
    )
    many = " many" if len(hosts) > 12 else ""
    name = min(max(map(len, hosts)), 16)
    return f"{key}<div class='strip{many}' style='--name: {name}ch'>{''.join(lines)}</div>"


# ---- tables -----------------------------------------------------------------------------------------------


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int], cards: bool = False
) -> str:
    """A table; columns `left` are text that may be broken. Cells are HTML. With `cards`, a row is one on a phone."""
    classes = [" class='l fold'" if i in left else "" for i in range(len(head))]
    names = [f" data-name='{name}'" if cards else "" for name in head]
    top = "".join(
        f"<th{' class=l' if i in left else ''}{_tip(name)}>{name}</th>" for i, name in enumerate(head)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{c}{n}>{cell}</td>' for c, n, cell in zip(classes, names, cells, strict=True))}</tr>"
        for cells in rows
    )
    return f"<div class='wide'><table{' class=cards' if cards else ''}><tr>{top}</tr>{body}</table></div>"


def _word(word: str) -> str:
    """Return a word of a cell, with its meaning as a tooltip."""
    return f"<span{_tip(word)}>{escape(word)}</span>"


def _tip(word: str) -> str:
    """Return the attribute that shows what a word means."""
    return f' title="{escape(meaning(word))}"' if meaning(word) else ""


def _bindings(listed: Sequence[Record]) -> str:
    devices = any(r.devices for r in listed)
    rows = [
        (
            str(r.rank),
            escape(r.host),
            escape(cpus_text(r)),
            list_text(r.nodes),
            *([escape(devices_text(r))] if devices else []),
            str(r.threads),
            _word(BINDINGS.get(r.action, r.action)),
        )
        for r in listed
    ]
    head = ("rank", "host", "CPUs", "nodes", *(["devices"] if devices else []), "threads", "binding")
    return _table(head, rows, (1, 2, 3, 4, 6) if devices else (1, 2, 3, 5), cards=True)


def _memory(listed: Sequence[Record]) -> str:
    key = "<p class='key'><i class=good></i>on the rank's nodes<i class=bad></i>elsewhere<i class=none></i>never touched</p>"
    rows = [
        (
            str(r.rank),
            *(escape(value(r)) for value in MEMORY_COLUMNS.values()),
            _bar(r),
            escape(nodes_text(r)).replace("node ", "node&nbsp;").replace(": ", ":&nbsp;"),
        )
        for r in listed
    ]
    return key + _table(
        ("rank", *MEMORY_COLUMNS, "pages", "by node"), rows, (len(MEMORY_COLUMNS) + 2,), cards=True
    )


def _bar(record: Record) -> str:
    arrays = record.arrays
    total = arrays.touched + arrays.untouched
    if not total:
        return ""
    counts = {
        "good": (arrays.local, "local"),
        "bad": (arrays.touched - arrays.local, "remote"),
        "none": (arrays.untouched, "untouched"),
    }
    inside = "".join(
        f"<i class={kind} style='width:{100 * count / total:.2f}%'></i>"
        for kind, (count, _) in counts.items()
        if count
    )
    label = ", ".join(f"{count} {name}" for count, name in counts.values())
    return f"<span class='bar' role='img' aria-label='{label}' title='{label}'>{inside}</span>"


def _spread(spread: Mapping[str, Any]) -> str:
    rows = [
        (
            _word(name.replace("_", " ")),
            metric_text(name, s["min"]),
            str(s["min_rank"]),
            metric_text(name, s["median"]),
            metric_text(name, s["max"]),
            str(s["max_rank"]),
        )
        for name, s in spread.items()
    ]
    return _table(("", "min", "rank", "median", "max", "rank"), rows, (0,))


def _every(records: Sequence[Record]) -> str:
    rows = [
        (
            str(r.rank),
            escape(r.host),
            escape(cpus_text(r)),
            percent(r.arrays.local_fraction),
            size_text(r.arrays.nbytes),
            percent(r.arrays.huge_fraction),
            count_text(r.fallbacks),
        )
        for r in records
    ]
    return _table(("rank", "host", "CPUs", "local", "arrays", "huge", "fallbacks"), rows, (1, 2))
