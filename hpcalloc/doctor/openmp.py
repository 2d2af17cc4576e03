# SPDX-License-Identifier: BSD-3-Clause
"""Checks of OpenMP's own binding against the launcher's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..bind.affinity import openmp_binding
from ..discover.topology import format_ids
from .facts import RankFacts
from .finding import Finding
from .host import Host
from .remedies import launch_lines

__all__ = ["CHECKS"]

_BINDING_VARIABLES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
_PLACE = re.compile(r"(!?)\{([^{}]*)\}(?::(\d{1,9}))?(?::(-?\d{1,9}))?(,|$)")
_COUNT = r"0*[1-9][0-9]{0,8}"
_ABSTRACT = r"(threads|cores|ll_caches|numa_domains|sockets)\s*(\(\s*[1-9][0-9]*\s*\))?"
_ONE = ("a number from 1", _COUNT)
_SWITCH = ("true or false", "true|false|1|0|yes|no|on|off")
_TAKES = {  # name -> what it takes, in words and as a pattern
    "OMP_NUM_THREADS": ("numbers from 1, separated by commas", rf"{_COUNT}(\s*,\s*{_COUNT})*"),
    "OMP_THREAD_LIMIT": _ONE,
    "OMP_MAX_ACTIVE_LEVELS": ("a number", "[0-9]{1,9}"),
    "OMP_STACKSIZE": ("a size such as 64M", r"[0-9]{1,15}\s*[bkmg]?"),
    "OMP_DYNAMIC": _SWITCH,
    "OMP_WAIT_POLICY": ("active or passive", "active|passive"),
    "OMP_PROC_BIND": (
        "true, false, or a list of primary, close, spread",
        r"true|false|((master|primary|close|spread)(\s*,\s*(?!$)|$))+",
    ),
    "OMP_PLACES": (
        "threads, cores, sockets, numa_domains, ll_caches, or a list such as {0:4},{4:4}",
        _ABSTRACT,
    ),
    "GOMP_CPU_AFFINITY": ("CPUs such as 0-3 8", "(?!)"),
    "OPENBLAS_NUM_THREADS": _ONE,
    "GOTO_NUM_THREADS": _ONE,
    "MKL_NUM_THREADS": _ONE,
    "BLIS_NUM_THREADS": _ONE,
    "NUMEXPR_NUM_THREADS": _ONE,
}
_COUNT_MAX = 4096  # of places or CPUs that one term may stand for


def values(host: Host) -> Iterator[Finding]:
    """Variables of OpenMP and BLAS that hold what no runtime can read."""
    for rank in host.ranks:
        for name, (takes, pattern) in _TAKES.items():
            text = rank.environment.get(name, "").strip()
            if not text or re.fullmatch(pattern, text, re.IGNORECASE):
                continue
            if (name == "OMP_PLACES" and _places(text)) or (name == "GOMP_CPU_AFFINITY" and _gomp(text)):
                continue
            yield host.finding(
                "openmp-value",
                "warning",
                f"{name} can't be read",
                seen=[f"rank {rank.rank}: {name}={text[:80]}; it takes {takes}"],
                effect="the runtime ignores it, and takes a default",
                mend=(f"unset {name}", f"export {name}=VALUE, with {takes}"),
                ranks=(rank,),
            )


def late(host: Host) -> Iterator[Finding]:
    """Binding by OpenMP, which befalls all that a program makes after it has loaded the runtime."""
    for rank in host.ranks:
        name = openmp_binding(rank.environment)
        if name is None:
            continue
        cores = len(host.cores(rank.cpus))
        # Nothing but the variable tells a mask that a parent's runtime left from one that the user asked for.
        narrowed = cores == 1 and rank.launch.launcher == "none" and len(host.cores(host.available)) > 1
        if cores < 2 and not narrowed:
            continue
        yield host.finding(
            "openmp-binds",
            "warning" if narrowed else "note",
            "the process has one core, as a parent's OpenMP runtime leaves it"
            if narrowed
            else "OpenMP binds the thread that loads its runtime to one place",
            seen=[f"rank {rank.rank}: {name}={rank.environment[name]}, CPUs {format_ids(rank.cpus)}"],
            effect="in Python, R and the like all threads and processes made after that (import sklearn) share this "
            "place; hpcalloc.init gives the CPUs back",
            mend=("export OMP_PROC_BIND=false, unless all threads of the program are OpenMP's",),
            ranks=(rank,),
        )


def outside(host: Host) -> Iterator[Finding]:
    """Places that the rank may not use."""
    for rank in host.ranks:
        for name, cpus in _named_cpus(rank):
            beyond = cpus - rank.cpus
            if not beyond:
                continue
            yield host.finding(
                "openmp-outside",
                "warning",
                f"{name} names CPUs outside of the rank's binding",
                seen=[
                    f"rank {rank.rank}: {name}={rank.environment[name]}, CPUs {format_ids(rank.cpus)}, "
                    f"outside: {format_ids(beyond)}"
                ],
                effect="the OpenMP runtime drops these places, or ignores all of them, or stops",
                mend=(f"unset {name}", "export OMP_PLACES=cores OMP_PROC_BIND=close"),
                ranks=(rank,),
            )


def piles_up(host: Host) -> Iterator[Finding]:
    """OpenMP binds in ranks that share CPUs, and knows nothing of the other ranks."""
    for group in host.groups:
        told = tuple(rank for rank in group if _binds(rank))
        if len(group) < 2 or not told or _disjoint(told):
            continue
        names = [name for name in _BINDING_VARIABLES if told[0].environment.get(name)]
        yield host.finding(
            "openmp-piles-up",
            "warning",
            "OpenMP binds the threads of ranks that share CPUs",
            seen=[
                f"ranks {format_ids(rank.rank for rank in group)} share CPUs {format_ids(group[0].cpus)}",
                f"rank {told[0].rank}: " + " ".join(f"{name}={told[0].environment[name]}" for name in names),
            ],
            effect="each rank counts its places from the same first core: their threads end up on the same ones",
            mend=(*launch_lines(host), f"unset {' '.join(names)}"),
            ranks=told,
        )


def _disjoint(ranks: tuple[RankFacts, ...]) -> bool:
    """Whether each rank names CPUs of its own."""
    seen: set[int] = set()
    for rank in ranks:
        cpus = frozenset().union(*(cpus for _, cpus in _named_cpus(rank)))
        if not cpus or cpus & seen:
            return False
        seen |= cpus
    return True


def _binds(rank: RankFacts) -> bool:
    """Whether OpenMP is told to bind its threads; some runtimes do for OMP_PLACES alone."""
    env = rank.environment
    places = env.get("OMP_PLACES") and env.get("OMP_PROC_BIND", "").strip().lower() != "false"
    return bool(openmp_binding(env) or places)


def _named_cpus(rank: RankFacts) -> Iterator[tuple[str, frozenset[int]]]:
    """CPUs that variables name one by one."""
    places = rank.environment.get("OMP_PLACES", "")
    if "{" in places:
        cpus = _places(places)
        if cpus is not None:
            yield "OMP_PLACES", cpus
    listed = rank.environment.get("GOMP_CPU_AFFINITY", "")
    if listed:
        cpus = _gomp(listed)
        if cpus is not None:
            yield "GOMP_CPU_AFFINITY", cpus


def _interval(text: str) -> list[int] | None:
    """Expand ``START[:COUNT[:STRIDE]]`` of OMP_PLACES."""
    try:
        numbers = [int(part) for part in text.split(":")]
    except ValueError:
        return None
    if not 1 <= len(numbers) <= 3 or (len(numbers) > 1 and not 0 < numbers[1] <= _COUNT_MAX):
        return None
    start, count, stride = (*numbers, *(1, 1)[len(numbers) - 1 :]) if len(numbers) < 3 else numbers
    return [start + i * stride for i in range(count)]


def _places(text: str) -> frozenset[int] | None:
    """Expand a list such as ``{0,1},{2:2},{0:4}:4:4``; None if it is none."""
    cpus: set[int] = set()
    rest = text.replace(" ", "")
    position = 0
    while position < len(rest):
        match = _PLACE.match(rest, position)
        if match is None:
            return None
        base: set[int] = set()
        for part in match[2].split(","):
            numbers = _interval(part)
            if numbers is None:
                return None
            base.update(numbers)
        count, stride = (
            min(int(match[3] or 1), _COUNT_MAX // max(len(base), 1) + 1),
            int(match[4] or len(base)),
        )
        if not match[1]:
            cpus.update(cpu + i * stride for i in range(count) for cpu in base)
        position = match.end()
    return frozenset(cpus)


def _gomp(text: str) -> frozenset[int] | None:
    """Expand a list such as ``0 3 1-2 4-15:2``; None if it is none."""
    cpus: set[int] = set()
    for part in text.replace(",", " ").split():
        span, _, stride = part.partition(":")
        first, _, last = span.partition("-")
        try:
            numbers = [int(word) for word in (first, last or first, stride or "1")]
        except ValueError:
            return None
        start, end, step = numbers
        if min(numbers) < 0:
            return None
        cpus.update(range(start, end + 1, max(step, 1))[:_COUNT_MAX])
    return frozenset(cpus)


CHECKS = (values, outside, piles_up, late)
