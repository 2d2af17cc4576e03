# SPDX-License-Identifier: BSD-3-Clause
"""Other jobs on this host: processes that a launcher or ``hpcalloc run`` has put on CPUs that this job wants as well.

Found in /proc, which shows the user's own processes only, and in a container only those inside.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from .._text import plain_text
from .launcher import parents, rank_name
from .proc import ancestors, command_of, environment_of

__all__ = ["Neighbour", "on_same_cpus", "other_jobs"]

_RUN = "HPCALLOC_RUN"


class Neighbour(NamedTuple):
    """A process of another job.

    Attributes
    ----------
    planned : bool
        ``hpcalloc run`` has started it: the CPUs are planned for it, even if these are all.
    """

    pid: int
    command: str
    cpus: frozenset[int]
    planned: bool


def other_jobs(cpus: frozenset[int], launcher_pid: int | None) -> tuple[Neighbour, ...]:
    """Return one process of each other job that may run on some of these CPUs.

    Parameters
    ----------
    cpus : frozenset of int
    launcher_pid : int or None
        The process that started the ranks of this job here.
    """
    mine = {os.getpid(), launcher_pid, *(pid for pid, _ in ancestors(os.getppid()))}
    found: dict[int, Neighbour] = {}
    try:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    except OSError:
        return ()
    for pid in pids:
        try:
            theirs = frozenset(os.sched_getaffinity(pid))
        except OSError:  # ended, or another user's
            continue
        if pid in mine or not theirs & cpus:
            continue
        try:
            environ = environment_of(pid)
        except OSError:
            continue
        name = rank_name(environ) or (_RUN if _RUN in environ else None)
        if name is None:
            continue
        job = _job(pid, name, environ[name], launched=name != _RUN)
        if job not in mine and job not in found:
            found[job] = Neighbour(pid, plain_text(" ".join(command_of(pid)))[:60], theirs, _RUN in environ)
    return tuple(found.values())


def _job(pid: int, name: str, value: str, *, launched: bool) -> int:
    """Return the process that launched a rank; if `run` started it alone, its oldest ancestor inside."""
    last = pid
    for above, environ in parents(pid):
        if environ is None or environ.get(name) != value:
            return above if launched else last
        last = above
    return last


def on_same_cpus(
    others: Iterable[Neighbour], cpus: frozenset[int], allowed: frozenset[int]
) -> tuple[Neighbour, ...]:
    """Keep those that are bound to some of these CPUs: unbound ones may go elsewhere."""
    return tuple(o for o in others if o.cpus & cpus and (o.planned or not o.cpus >= allowed))
