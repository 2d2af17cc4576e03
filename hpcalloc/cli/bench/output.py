# SPDX-License-Identifier: BSD-3-Clause
"""What the benchmarks' commands share: progress bar, JSON file, plot file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...exceptions import HpcallocError

__all__ = [
    "json_option",
    "new_figure",
    "plot_option",
    "progress_bar",
    "save_figure",
    "thread_list",
    "write_json",
]

json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write all figures to a file; - is standard output, without the tables.",
)
plot_option = click.option(
    "--plot", "plot_file", type=click.Path(dir_okay=False), help="Draw them to a file (png, svg, pdf)."
)


def progress_bar(quiet: bool = False) -> Progress:
    """A bar on standard error that vanishes at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet,
    )


def write_json(result: dict[str, Any], path: str) -> None:
    """Write figures to a file, "-" for standard output.

    Raises
    ------
    HpcallocError
        The file can't be written.
    """
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
    """Write a figure in the format that the name ends in.

    Raises
    ------
    HpcallocError
        The file can't be written, or matplotlib does not know the format.
    """
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
