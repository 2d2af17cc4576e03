# SPDX-License-Identifier: BSD-3-Clause
"""A report as one HTML page: no script, no font, no address of anything outside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..discover.topology import format_ids
from .record import metric_text, percent, size_text, title_of
from .summary import process_local_fraction

__all__ = ["page"]

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1c2430;
       background: #fff; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p.lead { font-size: 1.15rem; margin: .2rem 0; } .faint { color: #5b6675; } .bad { color: #a4161a; font-weight: 600; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid #e3e7ec; white-space: nowrap; }
th { font-weight: 600; color: #5b6675; } .l { text-align: left; }
.bar { display: inline-block; width: 9rem; height: .8rem; background: #eef1f4; vertical-align: middle; }
.bar i { display: inline-block; height: 100%; vertical-align: top; }
.local { background: #2a7f62; } .remote { background: #d1495b; } .untouched { background: #b9c2cc; }
.key i { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem; vertical-align: -.05rem; }
"""


def page(data: Mapping[str, Any]) -> str:
    """Return the page of a report's data."""
    summary = data["summary"]
    parts = [
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>hpcalloc report, {data['size']} ranks</title><style>{_STYLE}</style></head><body>",
        f"<h1>Memory of {_count(data['size'], 'rank')} on {_count(summary['hosts'], 'host')}</h1>",
        _verdict(summary),
        f"<p class='faint'>{escape(data['time'])}</p>",
        f"<h2>{escape(title_of(data))}</h2>",
        "<p class='key faint'>array pages<i class='local'></i>on the rank's nodes<i class='remote'></i>elsewhere"
        "<i class='untouched'></i>never touched</p>",
        _ranks([r for r in data["ranks"] if "error" not in r]),
    ]
    parts += [
        f"<p class='bad'>rank {r['rank']} on {escape(str(r['host']))} has no report: {escape(r['error'])}</p>"
        for r in data["ranks"]
        if "error" in r
    ]
    if summary["failed"]:
        parts.append(
            f"<p class='bad'>{_count(summary['failed'], 'rank')} without a report: {format_ids(summary['failed_ranks'])}"
            f"{', ...' if summary['failed'] > len(summary['failed_ranks']) else ''}</p>"
        )
    if summary["ranks"] > 1:
        parts += ["<h2>Over all ranks</h2>", _spread(summary["spread"])]
    parts += ["<h2>Why the ranks are where they are</h2>", _reasons(data["ranks"])]
    if summary["notes"]:
        parts += ["<h2>Notes</h2>", _list(summary["notes"])]
    return "\n".join([*parts, "</body></html>", ""])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _verdict(summary: Mapping[str, Any]) -> str:
    if summary["unknown"]:
        return f"<p class='lead bad'>placement unknown: {escape(summary['unknown'])}</p>"
    if not summary["touched"]:
        return "<p class='lead'>no array of 64 KiB or more was in use</p>"
    kind = "lead" if summary["local"] == summary["touched"] else "lead bad"
    worst = summary["worst_rank"]
    text = f"{percent(summary['local_fraction'])} of {summary['touched']} array pages local"
    if kind != "lead":
        text += f"; the worst rank is {worst} with {percent(summary['worst_fraction'])}"
    return f"<p class='{kind}'>{text}</p>"


def _row(cells: Sequence[str], left: int, tag: str = "td") -> str:
    """A table row; the first `left` cells are aligned left. Cells are HTML."""
    inside = (f"<{tag}{' class=l' if i < left else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
    return f"<tr>{''.join(inside)}</tr>"


def _ranks(records: Sequence[Mapping[str, Any]]) -> str:
    names = ["rank", "host", "CPUs", "nodes", "binding", "arrays", "pages", "by node"]
    names += ("local", "process local", "huge", "resident", "peak", "fallbacks", "remote frees")
    rows = [_row(names, 5, "th")]
    for r in records:
        a = r["arrays"]
        where = ", ".join(f"{node}: {pages}" for node, pages in a["pages_per_node"].items())
        rows.append(
            _row(
                (
                    str(r["rank"]),
                    escape(r["host"]),
                    escape(r["cpus"]),
                    format_ids(r["nodes"]),
                    escape(r["action"]),
                    f"{a['count']}, {size_text(a['nbytes'])}",
                    _bar(a),
                    "unknown" if a["unknown"] else escape(where) or "-",
                    percent(a["local_fraction"]),
                    percent(process_local_fraction(r)),
                    percent(r["memory"]["huge_fraction"]),
                    size_text(r["memory"]["resident"]),
                    size_text(r["peak_bytes"]),
                    str(r["fallbacks"]),
                    str(r["remote_frees"]),
                ),
                5,
            )
        )
    return f"<div class='wide'><table>{''.join(rows)}</table></div>"


def _bar(arrays: Mapping[str, Any]) -> str:
    total = arrays["touched"] + arrays["untouched"]
    if not total:
        return ""
    counts = {
        "local": arrays["local"],
        "remote": arrays["touched"] - arrays["local"],
        "untouched": arrays["untouched"],
    }
    inside = "".join(
        f"<i class='{name}' style='width:{100 * count / total:.2f}%'></i>"
        for name, count in counts.items()
        if count
    )
    label = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"<span class='bar' role='img' aria-label='{label}' title='{label}'>{inside}</span>"


def _spread(spread: Mapping[str, Any]) -> str:
    rows = [_row(("", "min", "rank", "median", "max", "rank"), 1, "th")]
    for name, s in spread.items():
        values = [metric_text(name, s[key]) for key in ("min", "median", "max")]
        rows.append(
            _row(
                (name.replace("_", " "), values[0], str(s["min_rank"]), *values[1:], str(s["max_rank"])),
                1,
            )
        )
    return f"<table>{''.join(rows)}</table>"


def _reasons(records: Sequence[Mapping[str, Any]]) -> str:
    groups: dict[str, list[int]] = {}
    for r in records:
        for reason in r.get("reasons", ()):
            groups.setdefault(reason, []).append(r["rank"])
    lines = [
        f"rank{'s' if len(ranks) > 1 else ''} {format_ids(ranks)}: {reason}"
        for reason, ranks in groups.items()
    ]
    return _list(lines)


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
