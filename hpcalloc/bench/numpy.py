# SPDX-License-Identifier: BSD-3-Clause
"""NumPy under its own data handler and under ours, in one interleaved run.

At each size the same statements run in turns, NumPy's handler and ours within a repetition and the first of them
alternating, so that a slow spell of the machine hits both. What is measured:

- ``temporaries``: ``a * b + c``, whose intermediate and result NumPy allocates;
- ``preallocated``: the same two ufuncs, each into an array of its own that was made before;
- ``in_place``: the same, the second into the first's result: what NumPy makes of ``a * b + c`` from 256 KiB up,
  where it finds that nothing else refers to the intermediate (which it looks for on the C stack, for some 2 us);
- ``empty``, ``zeros``: ``numpy.empty(n)``, ``numpy.zeros(n)``, freed again, not touched;
- ``zeros_filled``: ``numpy.zeros(n)``, then written: memory that is cleared late is paid for here;
- ``hpcalloc.empty``: ours under no handler, beside ``numpy.empty`` under NumPy's.

All operands of a handler come from that handler. Results are compared with those of the preallocated form, bit by
bit.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import _native
from .._native import _handler
from ..discover.proc import read_text
from ..exceptions import HpcallocError
from ..memory import arrays
from ..memory.numpy_allocator import numpy_allocator
from ..policy import Policy, as_policy
from . import machine

__all__ = ["HANDLERS", "compare", "default_sizes", "human", "largest_size", "parse_sizes", "runs"]

HANDLERS = ("numpy", "hpcalloc")
ITEM = 8  # bytes of a float64
ARRAYS = 6  # at most alive at a size and handler: a, b, c, t, r and the temporary
SMALLEST_RUN = 1e-3  # seconds that a timed loop lasts at least
FREQUENT = 16 * 10**6  # bytes up to which an array is measured five times as often

Work = Callable[[], object]


def largest_size() -> int:
    """Bytes of the largest array that leaves a third of the free memory alone."""
    free = min(_native.room(), 2**50)
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            free = min(free, int(line.split()[1]) * 1024)
    return max(free * 2 // 3 // (len(HANDLERS) * ARRAYS), ITEM)


def default_sizes() -> list[int]:
    """8 elements to 1 GB, as far as memory goes; in bytes."""
    wanted = [64, 1000, 10_000, 100_000, *(m * 10**6 for m in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000))]
    most = largest_size()
    return [size for size in wanted if size <= most]


def _operands(count: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(count)
    a, b, c = (rng.random(count) for _ in range(3))
    return a, b, c, np.empty(count), np.empty(count)


def _works(count: int, policy: Policy) -> dict[str, dict[str, Work]]:
    """Statement -> handler -> what to time, with the handler installed."""
    out: dict[str, dict[str, Work]] = {}
    for handler in HANDLERS:
        with _under(handler, policy):
            a, b, c, t, r = _operands(count)

        def temporaries(a: Any = a, b: Any = b, c: Any = c) -> object:
            return a * b + c

        def preallocated(a: Any = a, b: Any = b, c: Any = c, t: Any = t, r: Any = r) -> object:
            np.multiply(a, b, t)
            return np.add(t, c, r)

        def in_place(a: Any = a, b: Any = b, c: Any = c, t: Any = t) -> object:
            np.multiply(a, b, t)
            return np.add(t, c, t)

        def empty() -> object:
            return np.empty(count)

        def zeros() -> object:
            return np.zeros(count)

        def zeros_filled() -> object:
            made = np.zeros(count)
            made.fill(1.0)
            return made

        works = (temporaries, preallocated, in_place, empty, zeros, zeros_filled)
        for work in works:
            out.setdefault(work.__name__, {})[handler] = work
    out["hpcalloc.empty"] = {"numpy": out["empty"]["numpy"], "hpcalloc": lambda: arrays.empty(count)}
    return out


class _under:  # noqa: N801  # reads as a word
    """A handler for a block: ours, or NumPy's own whatever is installed around."""

    def __init__(self, handler: str, policy: Policy) -> None:
        self.allocator = numpy_allocator(policy) if handler == "hpcalloc" else None

    def __enter__(self) -> None:
        if self.allocator is not None:
            self.allocator.install()
        else:
            self.before = _handler.set_handler(None)

    def __exit__(self, *_: object) -> None:
        if self.allocator is not None:
            self.allocator.remove()
        else:
            _handler.set_handler(self.before)


def _time(work: Work, loops: int) -> float:
    """Seconds a call."""
    start = time.perf_counter()
    for _ in range(loops):
        work()
    return (time.perf_counter() - start) / loops


def _verify(works: dict[str, dict[str, Work]], policy: Policy, size: int) -> None:
    for handler in HANDLERS:
        with _under(handler, policy):
            expected = np.array(works["preallocated"][handler](), copy=True)
            for name in ("temporaries", "in_place"):
                if not np.array_equal(works[name][handler](), expected):  # type: ignore[arg-type]
                    raise HpcallocError(f"bench numpy: {name} of {size} bytes under {handler} is wrong")
            made: Any = works["temporaries"][handler]()
            if (_handler.handler_of(made) is not None) != (handler == "hpcalloc"):
                raise HpcallocError(f"bench numpy: the temporaries of {size} bytes are not {handler}'s")
            if np.asarray(works["zeros"][handler]()).any():
                raise HpcallocError(f"bench numpy: zeros of {size} bytes under {handler} are not zero")


def _samples(size: int, repeats: int) -> int:
    """Small arrays take no time, so they are measured more often."""
    return repeats * (5 if size <= FREQUENT else 1)


def _loops(work: Work) -> int:
    loops = 1
    while (seconds := _time(work, loops)) * loops < SMALLEST_RUN:
        loops = max(2 * loops, min(int(SMALLEST_RUN / max(seconds, 1e-9)), 100 * loops))
    return loops


def _row(size: int, policy: Policy, repeats: int, advance: Callable[[str], None]) -> dict[str, Any]:
    works = _works(size // ITEM, policy)
    _verify(works, policy, size)
    seconds: dict[str, dict[str, list[float]]] = {name: {h: [] for h in HANDLERS} for name in works}
    loops: dict[str, int] = {}
    for name, by_handler in works.items():
        with _under("numpy", policy):
            loops[name] = _loops(by_handler["numpy"])
    for repeat in range(_samples(size, repeats)):
        # The statements of one handler after another: those that are compared are neighbours in time.
        for handler in HANDLERS if repeat % 2 == 0 else HANDLERS[::-1]:
            for name, by_handler in works.items():
                # ours is a call of its own: no handler is needed, and none may help
                with _under("numpy" if name == "hpcalloc.empty" else handler, policy):
                    by_handler[handler]()  # caches and warm memory are those of this statement
                    seconds[name][handler].append(_time(by_handler[handler], loops[name]))
        advance(human(size))
    figures = {
        name: {h: {"ns": statistics.median(s) * 1e9, "runs_ns": [x * 1e9 for x in s]} for h, s in by.items()}
        for name, by in seconds.items()
    }
    return {
        "bytes": size // ITEM * ITEM,
        "elements": size // ITEM,
        "statements": figures,
        "ratios": _ratios(figures),
    }


def _ratios(figures: dict[str, Any]) -> dict[str, Any]:
    """What the medians say: over preallocated and in place by handler, ours over NumPy's by statement."""

    def ns(name: str, handler: str) -> float:
        return float(figures[name][handler]["ns"])

    return {
        "temporaries_over_preallocated": {h: ns("temporaries", h) / ns("preallocated", h) for h in HANDLERS},
        "temporaries_over_in_place": {h: ns("temporaries", h) / ns("in_place", h) for h in HANDLERS},
        "hpcalloc_over_numpy": {name: ns(name, "hpcalloc") / ns(name, "numpy") for name in figures},
    }


def human(size: int) -> str:
    """``64 B``, ``1.5 MB``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size} B"


def compare(
    sizes: Sequence[int] | None = None,
    *,
    repeats: int = 7,
    policy: Policy | str = "local",
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Time the statements at each size under both handlers.

    Parameters
    ----------
    sizes : sequence of int, optional
        Bytes of an array of float64; by default `default_sizes`.
    repeats : int
        Timed loops of each statement under each handler, of which the median counts; five times as many up to
        16 MB.
    policy : Policy or str
        Policy of hpcalloc's arrays.
    advance : callable
        Called with a size's name after each repetition, for a progress bar.

    Returns
    -------
    dict
        ``machine``, ``rows`` (by size: ``statements`` with nanoseconds by handler, ``ratios``) and ``summary``:
        the worst and the geometric mean of each ratio from 1 MB up.

    Raises
    ------
    HpcallocError
        A size too small or large, a count below one, or a wrong result.
    """
    chosen = list(sizes) if sizes is not None else default_sizes()
    most = largest_size()
    for size in chosen:
        if not ITEM <= size <= most:
            raise HpcallocError(
                f"bench numpy: size {size}; limit: {ITEM} to {most} bytes ({human(most)}), since "
                f"{2 * ARRAYS} such arrays live at a time; remedy: choose others"
            )
    if repeats < 1 or not chosen:
        raise HpcallocError(
            f"bench numpy: repeats {repeats}, {len(chosen)} sizes; limit: at least 1; remedy: ask for more"
        )
    placed = as_policy("bench numpy", policy)
    rows = [_row(size, placed, repeats, advance) for size in chosen]
    return {
        "machine": {
            **machine.facts(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "transparent_hugepages": read_text("/sys/kernel/mm/transparent_hugepage/enabled").strip()
            or "none",
        },
        "policy": str(placed),
        "repeats": repeats,
        "rows": rows,
        "summary": _summary(rows),
    }


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the sizes from 1 MB: worst and geometric mean of temporaries' ratios; None where there is no such size."""
    large = [row for row in rows if row["bytes"] >= 10**6]
    out: dict[str, Any] = {}
    for name in ("temporaries_over_preallocated", "temporaries_over_in_place"):
        out[name] = {}
        for handler in HANDLERS:
            values = [row["ratios"][name][handler] for row in large]
            out[name][handler] = (
                {"worst": max(values), "geometric_mean": statistics.geometric_mean(values)}
                if values
                else None
            )
    return out


def runs(sizes: Sequence[int] | None, repeats: int) -> int:
    """How often `compare` calls `advance`."""
    return sum(_samples(size, repeats) for size in (sizes if sizes is not None else default_sizes()))


def parse_sizes(text: str) -> list[int]:
    """``64,100k,1M,1G``: bytes, in powers of ten.

    Raises
    ------
    HpcallocError
        Anything else.
    """

    def each() -> Iterator[int]:
        for part in text.split(","):
            number, factor = part.strip(), 1
            for suffix, value in (("k", 10**3), ("M", 10**6), ("G", 10**9)):
                if number.endswith(suffix):
                    number, factor = number[:-1], value
            try:
                yield int(float(number) * factor)
            except (ValueError, OverflowError):
                raise HpcallocError(
                    f"bench numpy: size {part!r}; limit: bytes such as 64, 100k, 1M or 1G; remedy: separate them by commas"
                ) from None

    return list(each())
