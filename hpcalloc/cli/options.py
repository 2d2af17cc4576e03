# SPDX-License-Identifier: BSD-3-Clause
"""Options that several verbs have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

__all__ = ["SECONDS", "bind_option", "json_flag", "near_option", "number_or", "smt_option", "threads_option"]


class _Seconds(click.FloatRange):
    """More than 0, and a number."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


SECONDS = _Seconds()


def number_or(*words: str) -> Callable[[click.Context, click.Parameter, str], int | str]:
    """Make a callback of an option that is a number or one of some words."""

    def convert(_context: click.Context, _option: click.Parameter, value: str) -> int | str:
        if value in words:
            return value
        try:
            return int(value)
        except ValueError:
            raise click.BadParameter(f"{value!r} is neither a number nor {', '.join(words)}") from None

    return convert


def bind_option(explanation: str) -> Callable[[Any], Any]:
    """``--bind`` as of `hpcalloc.init`."""
    return click.option(
        "--bind",
        type=click.Choice(["auto", "force", "off"]),
        default="auto",
        show_default=True,
        help=explanation,
    )


json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
smt_option = click.option(
    "--smt", is_flag=True, help="Use the hardware threads beyond the first of each core too."
)
threads_option = click.option(
    "--threads", default="auto", show_default=True, callback=number_or("auto"), help="Threads per rank."
)
near_option = click.option(
    "--near",
    metavar="gpu|nic|gpu,nic",
    help="Put each rank on the node of its GPU or NIC, and show it these alone.",
)
