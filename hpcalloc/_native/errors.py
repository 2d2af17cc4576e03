# SPDX-License-Identifier: BSD-3-Clause
"""Turns errno values into exceptions: one place, one message form."""

from __future__ import annotations

import errno
import os

from ..exceptions import BindingError, HpcallocError, NodeError, OutOfMemoryError, PlacementError, message

__all__ = ["error_for", "name_of"]

_REMEDIES = {
    errno.ENODEV: "name nodes that `hpcalloc topology` lists as allowed",
    errno.EPERM: "in a container, allow mbind and move_pages (--cap-add SYS_NICE or a seccomp profile)",
    errno.ENOSYS: "use a kernel built with CONFIG_NUMA and CONFIG_MIGRATION",
}


def name_of(code: int) -> str:
    """Return ``EPERM (Operation not permitted)``."""
    return f"{errno.errorcode.get(code, f'errno {code}')} ({os.strerror(code)})"


def error_for(
    code: int,
    call: str,
    value: str,
    limit: str,
    remedy: str = "",
    *,
    kind: type[BindingError] | type[PlacementError] = PlacementError,
) -> HpcallocError:
    """Make the exception for an errno value.

    Parameters
    ----------
    code : int
        errno value.
    call, value, limit : str
        What was called, with what, and what bounds it ("node 0 has 3.1 GiB free").
    remedy : str, optional
        What to do; by default what always helps against that code, if anything does.
    kind : type, optional
        What it is when the code names neither memory nor a node: PlacementError or BindingError, with `errno`
        set.

    Returns
    -------
    HpcallocError
        OutOfMemoryError (ENOMEM), NodeError (ENODEV), otherwise `kind`.
    """
    text = message(call, f"{value}: {name_of(code)}", limit, remedy or _REMEDIES.get(code, ""))
    if code == errno.ENOMEM:
        return OutOfMemoryError(text)
    if code == errno.ENODEV:
        return NodeError(text)
    return kind(code, text)
