# SPDX-License-Identifier: BSD-3-Clause
"""What the benchmarks' commands share: options, progress bar, JSON file, plot file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from ...discover.launcher import global_rank
from ...discover.terminal import console
from ...exceptions import HpcallocError, message

__all__ = [
    "give",
    "json_option",
    "mark",
    "new_figure",
    "note_option",
    "plot_option",
    "progress_bar",
    "save_figure",
    "thread_list",
]


def _writable(context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """Refuse before a long run what could not be written after it; the file itself is not touched."""
    others = global_rank(os.environ)[0] > 0  # write nothing, and may be on a host without that directory
    if path is None or path == "-" or context.resilient_parsing or others:
        return path
    folder = os.path.dirname(os.path.abspath(path))
    problem = (
        f"no directory {folder}"
        if not os.path.isdir(folder)
        else ""
        if os.access(path if os.path.exists(path) else folder, os.W_OK)
        else "no right to write"
    )
    if problem:
        raise HpcallocError(
            message(f"{option.opts[0]} {path}", problem, "a file that can be written", "choose another")
        )
    return path


def _drawable(context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    if path is not None and not context.resilient_parsing:
        known = new_figure(1, 1).canvas.get_supported_filetypes()
        ending = os.path.splitext(path)[1][1:].lower()
        if ending and ending not in known:
            raise HpcallocError(
                message(f"{option.opts[0]} {path}", f"ends in .{ending}", ".png, .svg, .pdf", "choose one")
            )
    return _writable(context, option, path)


json_option = click.option(
    "--json",
    "json_file",
    callback=_writable,
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write all figures to a file; - is standard output, without the tables.",
)
plot_option = click.option(
    "--plot",
    "plot_file",
    callback=_drawable,
    type=click.Path(dir_okay=False),
    help="Draw them to a file (png, svg, pdf).",
)
note_option = click.option("--note", default="", help="A remark for the table, the plot and the JSON.")


@contextlib.contextmanager
def progress_bar(
    total: int, *, done: int = 0, quiet: bool = False, clock: type[ProgressColumn] = TimeRemainingColumn
) -> Iterator[Callable[[str], None]]:
    """A bar on standard error, if that is a terminal, that vanishes at the end; what it gives goes one step on, with a text."""
    here = console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        clock(),
        console=here,
        transient=True,
        disable=quiet or not here.is_terminal,  # else it leaves an empty line
    ) as progress:
        task = progress.add_task("", total=total, completed=done)
        yield lambda text: progress.update(task, advance=1, description=text)


def give(
    result: dict[str, Any],
    json_file: str | None,
    plot_file: str | None,
    draw: Callable[[dict[str, Any]], Any],
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Write figures to the files that were asked for, and print them unless JSON goes there.

    Raises
    ------
    HpcallocError
        A file can't be written, or there is no matplotlib.
    """
    if json_file is not None:
        _write_json(result, json_file)
    if plot_file is not None:
        save_figure(draw(result), plot_file)
    if json_file != "-":
        show(result)


def mark(placed: bool | None) -> str:
    """What a cell says of its pages: "" on their node, "!" not, "?" unknown."""
    return "!" if placed is False else "?" if placed is None else ""


def _write_json(result: dict[str, Any], path: str) -> None:
    text = json.dumps(result, indent=1) + "\n"
    if path == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise HpcallocError(f"--json {path}: {error}") from error


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure.

    Raises
    ------
    HpcallocError
        There is no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise HpcallocError("--plot needs matplotlib; pip install 'hpcalloc[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: str) -> None:
    """Write a figure to a file; HpcallocError where that can't be."""
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise HpcallocError(f"--plot {path}: {error}") from error


def thread_list(text: str) -> tuple[int, ...]:
    """Numbers separated by commas, ascending.

    Raises
    ------
    HpcallocError
        It is not that.
    """
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise HpcallocError(
            f"--threads {text!r}: expected numbers separated by commas, such as 1,2,4"
        ) from None
