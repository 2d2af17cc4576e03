# SPDX-License-Identifier: BSD-3-Clause
"""The native kernels of ``native/bench/bandwidth.c``: read, write, copy, triad, and the pointer chase.

Bytes are counted as STREAM does: those that the program names, 8 for each element read or written. The line that an
ordinary store reads before it is written (write-allocate) is not counted; streaming stores do not read it.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cffi
import numpy as np
import numpy.typing as npt

from .._native.errors import name_of
from .._native.installed import installed
from ..discover.topology import format_ids
from ..exceptions import HpcallocError, message
from ..memory.arrays import empty
from ..policy import Policy

__all__ = [
    "BYTES_PER_ELEMENT",
    "COUNTING",
    "KERNELS",
    "SCALAR",
    "Arrays",
    "Chain",
    "Team",
    "can_stream",
    "hypervisor",
    "instruction_sets",
    "openmp_version",
    "pinned",
]

KERNELS = ("read", "write", "copy", "triad")  # as the enum of bandwidth.c
BYTES_PER_ELEMENT = {"read": 8, "write": 8, "copy": 16, "triad": 24}
COUNTING = (
    "bytes as STREAM counts them (read 8, write 8, copy 16, triad 24 an element); the lines that ordinary stores "
    "read before they are written (write-allocate) are not counted"
)
SCALAR = 3.0
B_PERIOD, C_PERIOD = (
    1021,
    509,
)  # contents of b and c are i % period: primes, so that no shift by a part looks right
LINE = 64  # bytes from step to step of a chain

_CDEF = """
typedef struct bench_team { int threads; int pinned; int count; const int *cpus; } bench_team;
const char *bench_simd(int i);
int bench_openmp(void);
int bench_can_stream(void);
void bench_hypervisor(char signature[13]);
int bench_run(int kernel, const char *simd, int streaming, double *a, const double *b, const double *c, size_t n,
              double s, const bench_team *team, int iterations, double *seconds, double *result);
int bench_fill(double *p, size_t n, size_t period, const bench_team *team);
size_t bench_wrong(int kernel, const double *a, size_t n, double s, size_t b_period, size_t c_period);
void *bench_map(size_t bytes, int node, int huge, int *bind_error);
void bench_unmap(void *p, size_t bytes);
void bench_chase_link(void *p, size_t bytes, uint64_t seed);
size_t bench_chase_length(const void *p, size_t bytes);
double bench_chase(const void *p, size_t steps, const void **end);
"""

_ffi = cffi.FFI()
_ffi.cdef(_CDEF)


@functools.lru_cache(maxsize=1)
def library() -> Any:
    """Load the library."""
    return _ffi.dlopen(str(installed("libbandwidth.so")))


def openmp_version() -> int:
    """OpenMP of the kernels as yyyymm; 0 if they were built without it and have one thread."""
    return int(library().bench_openmp())


def can_stream() -> bool:
    """Tell whether the kernels have streaming (non-temporal) stores on this kind of processor."""
    return bool(library().bench_can_stream())


def instruction_sets() -> tuple[str, ...]:
    """Those of the kernels that run here, the widest first."""
    names: list[str] = []
    while (name := library().bench_simd(len(names))) != _ffi.NULL:
        names.append(_ffi.string(name).decode())
    return tuple(names)


def hypervisor() -> str:
    """Signature of the hypervisor ("KVMKVMKVM", "TCGTCGTCGTCG"); "" on bare metal or if that can't be told."""
    signature = _ffi.new("char[13]")
    library().bench_hypervisor(signature)
    return str(_ffi.string(signature).decode("ascii", "replace"))


# ---- bandwidth ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Team:
    """Threads and where they run.

    Attributes
    ----------
    cpus : tuple of int
        Logical CPUs.
    threads : int
    pinned : bool
        Thread t runs on ``cpus[t]`` alone (from the start again when there are more threads); otherwise each
        thread runs on any of `cpus`.
    """

    cpus: tuple[int, ...]
    threads: int
    pinned: bool = True

    @classmethod
    def on(cls, cpus: Sequence[int]) -> Team:
        """One thread on each CPU."""
        return cls(tuple(cpus), len(cpus))


def _call(team: Team, function: Any, *arguments: Any) -> None:
    """Call `function` with `arguments`, in which the team is to come where None is; raise what it gives."""
    cpus = _ffi.new("int[]", team.cpus)
    c_team = _ffi.new("bench_team *", (team.threads, team.pinned, len(team.cpus), cpus))
    code = function(*(c_team if argument is None else argument for argument in arguments))
    if code == 0:
        return
    limit, remedy = {
        errno.ENOTSUP: (
            "1 thread: the kernels were built without OpenMP",
            "install OpenMP for the C compiler (libgomp, libomp-dev) and reinstall hpcalloc",
        ),
        errno.EAGAIN: (
            "the threads that OpenMP gives",
            "unset OMP_THREAD_LIMIT and OMP_DYNAMIC",
        ),
    }.get(code, ("CPUs that this process may use", "see `hpcalloc report`"))
    value = f"{team.threads} thread(s) on CPUs {format_ids(team.cpus)}: {name_of(code)}"
    raise HpcallocError(message("bench", value, limit, remedy))


@dataclass(frozen=True)
class Arrays:
    """The operands a, b and c: float64 of one length each; b and c keep their contents."""

    a: npt.NDArray[np.float64]
    b: npt.NDArray[np.float64]
    c: npt.NDArray[np.float64]

    @classmethod
    def make(cls, elements: int, team: Team, policy: Policy | None) -> Arrays:
        """Three arrays under a policy (None: plain NumPy's), first touched by the threads of `team`.

        Raises
        ------
        OutOfMemoryError, MemoryError, NodeError
            As of `hpcalloc.empty` and ``numpy.empty``.
        HpcallocError
            There are not as many CPUs or threads.
        """
        made = [np.empty(elements) if policy is None else empty(elements, policy=policy) for _ in range(3)]
        arrays = cls(*made)
        for array, period in ((arrays.a, 0), (arrays.b, B_PERIOD), (arrays.c, C_PERIOD)):
            _call(team, library().bench_fill, _pointer(array), elements, period, None)
        return arrays

    def poison(self, team: Team) -> None:
        """Give `a` values that no kernel gives."""
        _call(team, library().bench_fill, _pointer(self.a), self.a.size, 0, None)

    def time(
        self, kernel: str, team: Team, iterations: int, *, streaming: bool = False, simd: str = ""
    ) -> tuple[list[float], bool]:
        """Run a kernel.

        Returns
        -------
        seconds : list of float
            Of each iteration, from a barrier of the team to the next.
        right : bool
            The sums of "read" are right; True for the others, see `right`.
        """
        seconds, sums = _ffi.new("double[]", iterations), _ffi.new("double[]", iterations)
        _call(
            team,
            library().bench_run,
            KERNELS.index(kernel),
            (simd or instruction_sets()[0]).encode(),
            streaming,
            *map(_pointer, (self.a, self.b, self.c)),
            self.a.size,
            SCALAR,
            None,
            iterations,
            seconds,
            sums,
        )
        return list(seconds), kernel != "read" or set(sums) == {float(_sum_of_b(self.a.size))}

    def right(self, kernel: str) -> bool:
        """Tell whether every element of `a` is what the kernel must give; True for "read", which writes none."""
        if kernel == "read":
            return True
        wrong = library().bench_wrong(
            KERNELS.index(kernel), _pointer(self.a), self.a.size, SCALAR, B_PERIOD, C_PERIOD
        )
        return int(wrong) == 0

    def run(
        self, kernel: str, team: Team, iterations: int, *, streaming: bool = False, simd: str = ""
    ) -> tuple[list[float], bool]:
        """As `time`, with the contents of `a` checked too."""
        self.poison(team)
        seconds, right = self.time(kernel, team, iterations, streaming=streaming, simd=simd)
        return seconds, right and self.right(kernel)


def _pointer(array: npt.NDArray[np.float64]) -> Any:
    return _ffi.cast("double *", array.ctypes.data)


def _sum_of_b(elements: int) -> int:
    whole, rest = divmod(elements, B_PERIOD)
    return whole * (B_PERIOD * (B_PERIOD - 1) // 2) + rest * (rest - 1) // 2


# ---- latency ------------------------------------------------------------------------------------------


class Chain:
    """Memory for the pointer chase: a map of its own, on a node, in base or in huge pages; a context manager.

    Attributes
    ----------
    address, nbytes : int
    bind_error : int
        errno of the kernel's refusal to place it, 0 if it did.
    """

    def __init__(self, nbytes: int, node: int, huge: bool) -> None:
        """Map `nbytes`, a multiple of 2 MiB; nothing is touched yet."""
        error = _ffi.new("int *")
        self.nbytes = nbytes
        self._map = library().bench_map(nbytes, node, huge, error)
        if self._map == _ffi.NULL:
            code = _ffi.errno
            raise HpcallocError(
                message("bench", f"a map of {nbytes} bytes: {name_of(code)}", "memory", "a smaller --size")
            )
        self.bind_error = int(error[0])
        self.address = int(_ffi.cast("uintptr_t", self._map))

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        library().bench_unmap(self._map, self.nbytes)

    def link(self, nbytes: int, seed: int = 1) -> bool:
        """Link the first `nbytes` to one random cycle of lines; True if that is what they are."""
        library().bench_chase_link(self._map, nbytes, seed)
        return int(library().bench_chase_length(self._map, nbytes)) == nbytes // LINE

    def chase(self, nbytes: int, least_steps: int) -> tuple[float, bool]:
        """Follow the cycle as often as `least_steps` takes, whole times.

        Returns
        -------
        seconds : float
            Per step.
        right : bool
            It ended where it began.
        """
        lines = nbytes // LINE
        steps = -(-least_steps // lines) * lines
        end = _ffi.new("const void **")
        seconds = library().bench_chase(self._map, steps, end)
        return seconds / steps, end[0] == self._map

    def huge_bytes(self) -> int:
        """Bytes of the map that are in transparent huge pages."""
        inside, total = False, 0
        with open("/proc/self/smaps", errors="replace") as maps:
            for line in maps:
                name, _, rest = line.partition(" ")
                if "-" in name and not name.endswith(":"):
                    begin = int(name.partition("-")[0], 16)
                    inside = self.address <= begin < self.address + self.nbytes
                elif inside and name == "AnonHugePages:":
                    total += int(rest.split()[0]) * 1024
        return total


@contextmanager
def pinned(cpus: Sequence[int]) -> Iterator[None]:
    """The calling thread on some CPUs; back at the end."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        value = f"a thread on CPUs {format_ids(cpus)}: {name_of(error.errno or errno.EPERM)}"
        limit, remedy = "CPUs that this process may use", "see `hpcalloc report`"
        raise HpcallocError(message("bench", value, limit, remedy)) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
