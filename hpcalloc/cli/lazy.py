# SPDX-License-Identifier: BSD-3-Clause
"""A group whose commands' modules are imported only when they are called, so that one's imports slow no other."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group whose commands are modules of a package; the command in each is called ``command``.

    Parameters
    ----------
    package : str
        Where the modules are.
    verbs : mapping
        Name of a module to what the list says about it.
    heading : str
        Of the list.
    """

    def __init__(
        self, *args: Any, package: str, verbs: Mapping[str, str], heading: str, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._package, self._verbs, self._heading = package, verbs, heading

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The verb's command, None for an unknown one."""
        if name not in self._verbs:
            return None
        command: click.Command = importlib.import_module(f"{self._package}.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section(self._heading):
            formatter.write_dl(list(self._verbs.items()))
