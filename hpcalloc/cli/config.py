# SPDX-License-Identifier: BSD-3-Clause
"""``hpcalloc config``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from .._native import VERSION
from .._native.installed import installed, share
from ..exceptions import HpcallocError, message

__all__ = ["command"]


def _flag(text: str) -> Callable[[str], str]:
    """Build flags from a folder; compilers get them from a shell that splits at blanks."""

    def flags(folder: str) -> str:
        if any(c.isspace() for c in folder):
            limit = "a folder whose name has no blanks"
            raise HpcallocError(message("config", repr(folder), limit, "use --cmake, or --include"))
        return text.format(folder)

    return flags


# option: (what stands in the help, file or folder of the installation, what is printed of its path)
_PARTS: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "cflags": ("Flags to compile with, C and C++.", "include", _flag("-I{}")),
    "libs": ("Flags to link with.", "", _flag("-L{0} -lnumalloc -Wl,-rpath,{0}")),
    "include": ("Folder of numa_alloc.h and numa_alloc.hpp.", "include", str),
    "fortran": ("The Fortran module's source, compiled with a program.", "include/numa_alloc.f90", str),
    "preload": ("Library for LD_PRELOAD.", "libnumalloc_preload.so", str),
    "cmake": ("Folder for cmake -Dnumalloc_DIR=.", "cmake/numalloc", str),
    "pkgconfig": ("Folder for PKG_CONFIG_PATH.", "pkgconfig", str),
    "share": ("Folder of examples and jobscripts.", "share", str),
}


def _options(function: Any) -> Any:
    for name, (text, _, _) in reversed(_PARTS.items()):
        function = click.option(f"--{name}", is_flag=True, help=text)(function)
    return function


@click.command()
@_options
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(as_json: bool, **asked: bool) -> None:
    """Print what C, C++ and Fortran programs need of this installation; without an option, all of it.

    \b
    cc solver.c $(hpcalloc config --cflags --libs)
    gfortran $(hpcalloc config --fortran) solver.f90 $(hpcalloc config --libs)
    cmake -B build -Dnumalloc_DIR=$(hpcalloc config --cmake)
    LD_PRELOAD=$(hpcalloc config --preload) ./program
    """  # noqa: D301

    def show(name: str) -> str:
        _, file, text = _PARTS[name]
        return text(str(share() if name == "share" else installed(file)))

    if as_json:
        click.echo(json.dumps({"version": VERSION, **{name: show(name) for name in _PARTS}}, indent=2))
    elif any(asked.values()):
        click.echo(" ".join(show(name) for name in _PARTS if asked[name]))
    else:
        for name in _PARTS:
            click.echo(f"{name:9s} {show(name)}")
