# SPDX-License-Identifier: BSD-3-Clause
"""A program before it starts: what the kernel will load for it, and whether a library can be preloaded into that."""

from __future__ import annotations

import functools
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Program", "look_at"]

_BITS = 64 if sys.maxsize > 2**32 else 32
_CLASS = {1: 32, 2: 64}  # EI_CLASS
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB = 1, 5
_SANITIZERS = re.compile(r"lib(asan|hwasan|lsan|msan|tsan)\.so")
_MARK = b"unknown environment variable NUMALLOC_"  # in every program that has libnumalloc in it
_PART_MAX = 1 << 20  # bytes of a table in an ELF file
_LEVELS = 5  # of scripts whose interpreter is a script


class Program(NamedTuple):
    """What a program is.

    Attributes
    ----------
    path : str
        The file that the kernel loads: of a script, its interpreter.
    obstacle : str
        Why no library can be preloaded into it; "" if one can, or that is unknown.
    silent : bool
        No library of ours can be in it: nobody will write its part of a report.
    """

    path: str
    obstacle: str = ""
    silent: bool = False


def look_at(path: str, search: str) -> Program:
    """Look at a program file, through scripts and ``env``; `search` is the PATH."""
    for _ in range(_LEVELS):
        words = _interpreter(path)
        if not words:
            break
        if os.path.basename(words[0]) == "env":
            named = (
                [w for w in words[1].split() if not w.startswith("-") and "=" not in w] if words[1:] else []
            )
            found = shutil.which(named[0], path=search) if named else None
            path = found or words[0]
        else:
            path = words[0]
    if not os.path.isfile(path):
        return Program(path)
    try:
        status = os.stat(path)
        with open(path, "rb") as file:
            elf = _Elf(file.read(4096), path)
    except OSError:
        return Program(path)
    if not elf.start.startswith(b"\x7fELF"):
        return Program(path)
    if (status.st_mode & 0o4000 and status.st_uid != os.getuid()) or (
        status.st_mode & 0o2000 and status.st_gid != os.getgid()
    ):
        return Program(
            path, f"{path} runs as another user or group, where the dynamic linker ignores it", True
        )
    if os.geteuid() != 0 and _has_capabilities(path):
        return Program(path, f"{path} has capabilities (getcap), where the dynamic linker ignores it", True)
    if elf.bits != _BITS:
        return Program(path, f"{path} is not a {_BITS}-bit program", True)
    try:
        kinds = {kind for kind, *_ in elf.segments()}
        if _PT_INTERP not in kinds:
            return Program(path, f"{path} is linked statically", not _contains(path, _MARK))
        linker, ours = elf.interpreter(), _own_linker()
        if ours and os.path.realpath(linker) != ours:
            return Program(path, f"{path} has another C library than this Python ({linker})", True)
        for name in elf.needed():
            if match := _SANITIZERS.match(name):
                return Program(path, f"{path} is built with a sanitizer, whose {match[0]} has to come first")
    except (OSError, OverflowError, struct.error, ValueError):
        return Program(path, f"{path} is no complete ELF file", True)
    return Program(path)


def _has_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:  # none, or a file system without them
        return False


@functools.cache
def _own_linker() -> str:
    """Return the dynamic linker of this Python, for which hpcalloc's libraries are built; "" if unknown."""
    try:
        with open("/proc/self/exe", "rb") as file:
            linker = _Elf(file.read(4096), "/proc/self/exe").interpreter()
    except (OSError, OverflowError, struct.error, ValueError):
        return ""
    return os.path.realpath(linker) if linker else ""


def _interpreter(path: str) -> list[str]:
    """Return the interpreter of a script and its one argument; nothing for other files. The kernel reads 256 bytes."""
    if not os.path.isfile(path):  # a FIFO would be waited for
        return []
    try:
        with open(path, "rb") as file:
            line = file.read(256).split(b"\n")[0]
    except OSError:
        return []
    return os.fsdecode(line[2:]).strip().split(None, 1) if line.startswith(b"#!") else []


class _Elf:
    """A file in the byte order of this machine; struct.error and ValueError where it ends too early."""

    def __init__(self, start: bytes, path: str) -> None:
        self.start, self.path = start, path
        self.bits = _CLASS.get(start[4], 0) if len(start) > 4 else 0

    def read(self, offset: int, size: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(min(size, _PART_MAX))

    def segments(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (type, offset, address, bytes in the file) of each segment."""
        form, head, ident = ("=IIQQQQQQ", "=QQIHHH", 32) if _BITS == 64 else ("=IIIIIIII", "=IIIHHH", 28)
        offset, _, _, _, size, count = struct.unpack_from(head, self.start, ident)
        table = self.read(offset, size * count)
        for i in range(count):
            field = struct.unpack_from(form, table, i * size)
            yield (field[0], field[2], field[3], field[5]) if _BITS == 64 else (*field[:3], field[4])

    def interpreter(self) -> str:
        """Return the dynamic linker that the program names; "" without one."""
        named = next(((o, n) for kind, o, _, n in self.segments() if kind == _PT_INTERP), None)
        return os.fsdecode(self.read(*named).split(b"\0")[0]) if named else ""

    def needed(self) -> Iterator[str]:
        """Yield the names of the libraries that the program itself asks for."""
        segments = list(self.segments())
        dynamic = next(((o, n) for kind, o, _, n in segments if kind == _PT_DYNAMIC), (0, 0))
        form = "=qQ" if _BITS == 64 else "=iI"
        data = self.read(*dynamic)
        entries = list(
            struct.iter_unpack(form, data[: len(data) // struct.calcsize(form) * struct.calcsize(form)])
        )
        table = next((value for tag, value in entries if tag == _DT_STRTAB), 0)
        base = next(
            (o + table - a for kind, o, a, n in segments if kind == _PT_LOAD and a <= table < a + n), None
        )
        for tag, value in entries if base is not None else ():
            if tag == _DT_NEEDED:
                yield self.read(base + value, 256).split(b"\0")[0].decode(errors="replace")


def _contains(path: str, word: bytes) -> bool:
    last = b""
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            if word in last + part:
                return True
            last = part[-len(word) :]
    return False
