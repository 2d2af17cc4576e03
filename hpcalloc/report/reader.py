# SPDX-License-Identifier: BSD-3-Clause
"""Values from JSON that others wrote, checked against the one description there is of them: a dataclass.

Numbers are 0 or more and below 2**63, text is printable, nothing is nested deeper or larger than its type says. A field
with a default may be absent; what the dataclass does not name is ignored, so that a newer version may add to it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import stat
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from .._text import plain_text

__all__ = ["UnreadableError", "read", "read_file"]

FILE_MAX = 16 << 20  # bytes of a file
ITEMS_MAX = 1 << 16  # of a list or an object
TEXT_MAX = 1 << 16  # characters

T = TypeVar("T")


class UnreadableError(ValueError):
    """A value is not what its type says; the message names the field."""


def read(kind: type[T], data: object, where: str = "") -> T:
    """Make a dataclass of a JSON object.

    Raises
    ------
    UnreadableError
        A field is missing or is something else than its type.
    """
    result: T = _value(kind, data, where)
    return result


def read_file(kind: type[T], directory: int, name: str) -> T:
    """Read a dataclass from a file of an open directory; links, pipes and what is too large are refused.

    Raises
    ------
    UnreadableError
    OSError
    """
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with open(file, "rb") as stream:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("it is no regular file")
        if status.st_size > FILE_MAX:
            raise UnreadableError(f"it has {status.st_size} bytes, at most {FILE_MAX} are read")
        content = stream.read(FILE_MAX)
    try:
        # Names that are no UTF-8 are in an audit as they are on disk.
        data = json.loads(content.decode("utf-8", "surrogateescape"), parse_constant=_refuse_constant)
    except RecursionError:
        raise UnreadableError("it is nested too deeply") from None
    except ValueError as error:
        raise UnreadableError(f"it is no JSON: {error}") from None
    return read(kind, data)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


@functools.cache
def _fields(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    """Name, type and whether it may be absent, of each field."""
    hints = typing.get_type_hints(kind)
    absent = dataclasses.MISSING
    return tuple(
        (f.name, hints[f.name], f.default is not absent or f.default_factory is not absent)
        for f in dataclasses.fields(kind)
    )


def _value(kind: Any, data: object, where: str) -> Any:
    here = where or "the whole"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if data is None:
            return None
        return _value(next(a for a in arguments if a is not type(None)), data, where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise UnreadableError(f"{here} is {_shown(data)}, not an object")
        values = {}
        for name, of, optional in _fields(kind):  # type: ignore[arg-type]
            path = f"{where}.{name}" if where else name
            if name in data:
                values[name] = _value(of, data[name], path)
            elif not optional:
                raise UnreadableError(f"{path} is missing")
        return typing.cast("type", kind)(**values)
    if origin is tuple:
        if not isinstance(data, list) or len(data) > ITEMS_MAX:
            raise UnreadableError(f"{here} is {_shown(data)}, not a list of at most {ITEMS_MAX}")
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is dict:
        if not isinstance(data, dict) or len(data) > ITEMS_MAX:
            raise UnreadableError(f"{here} is {_shown(data)}, not an object of at most {ITEMS_MAX}")
        return {_key(key, here): _value(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    if kind is Mapping:  # of another program: passed on as it is
        if not isinstance(data, dict):
            raise UnreadableError(f"{here} is {_shown(data)}, not an object")
        return data
    return _scalar(kind, data, here)


def _key(key: str, here: str) -> int:
    """Read a node id."""
    if not re.fullmatch("[0-9]{1,7}", key):
        raise UnreadableError(f"{here} has {_shown(key)} for a node")
    return int(key)


def _scalar(kind: Any, data: object, here: str) -> Any:
    if kind is str and isinstance(data, str) and len(data) <= TEXT_MAX:
        return plain_text(data)
    if kind is int and type(data) is int and 0 <= data < 1 << 63:
        return data
    if (
        kind is float
        and isinstance(data, (int, float))
        and not isinstance(data, bool)
        and 0 <= data < 1 << 63
    ):
        return float(data)
    wanted = {
        str: f"text of at most {TEXT_MAX} characters",
        int: "an integer from 0 on, below 2**63",
        float: "a number from 0 on",
    }[kind]
    raise UnreadableError(f"{here} is {_shown(data)}, not {wanted}")


def _shown(data: object) -> str:
    if isinstance(data, (dict, list)):
        return {dict: "an object", list: "a list"}[type(data)] + f" of {len(data)}"
    if isinstance(data, int) and abs(data) >= 1 << 64:
        return "a number beyond 2**64"
    text = plain_text(json.dumps(data))
    return text if len(text) <= 40 else f"{text[:40]}..."
