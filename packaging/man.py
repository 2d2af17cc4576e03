"""Man pages of ``hpcalloc`` and its verbs, from their --help: ``man.py DIR``. Needs click-man (the group `man`)."""

# SPDX-License-Identifier: BSD-3-Clause
import pathlib
import sys

import click
from click_man.core import write_man_pages

import hpcalloc
from hpcalloc.cli.main import cli


def load(group: click.Group) -> None:
    """Have the lazy verbs where click-man looks for them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None:
            group.add_command(command, name)
            if isinstance(command, click.Group):
                load(command)


target = pathlib.Path(sys.argv[1])
target.mkdir(parents=True, exist_ok=True)
load(cli)
write_man_pages("hpcalloc", cli, version=hpcalloc.__version__, target_dir=str(target))
