# SPDX-License-Identifier: BSD-3-Clause
"""A second mapping of shared memory, which stays when MPI unmaps the first one.

MPI unmaps a window when it is freed, and MPI itself may be finalised, while arrays that point into it are still
used. So arrays point into a second mapping of the same pages, which lives as long as the last of them.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from .._native.errors import error_for

__all__ = ["SharedMapping", "own_ranges"]

_MREMAP_MAYMOVE = 1
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

_live: weakref.WeakSet[SharedMapping] = weakref.WeakSet()


class SharedMapping:
    """A second mapping of ``[address, address + nbytes)``, which must be shared memory; unmapped with the last array.

    Attributes
    ----------
    address : int
        Of the second mapping; on a page.
    nbytes : int
    own : (int, int)
        Address and length of the pages that are this rank's, for reports.
    """

    def __init__(self, call: str, address: int, nbytes: int) -> None:
        length = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        # Old size 0: the pages get a second mapping, the first stays.
        got = _libc.mremap(address, 0, length, _MREMAP_MAYMOVE)
        if got == _FAILED:
            raise error_for(
                ctypes.get_errno(),
                call,
                f"a second mapping of {nbytes} bytes of shared memory",
                "what mremap allows, `ulimit -v` and vm.max_map_count",
                "raise these limits",
            )
        self.address: int = got
        self.nbytes = nbytes
        self.own = (got, 0)
        self._length = length
        self._munmap = _libc.munmap  # kept here: module globals may be gone when the interpreter ends
        _live.add(self)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "typestr": "|u1", "shape": (self.nbytes,), "data": (self.address, False)}

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return an array over the first bytes; it and its views keep the mapping."""
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, np.asarray(self))
        return array

    def discard(self) -> None:
        """Unmap it now; no array may have been made of it."""
        if getattr(self, "_length", 0):
            self._munmap(self.address, self._length)
            self._length, self.own = 0, (self.address, 0)

    def __del__(self) -> None:
        self.discard()


def own_ranges() -> list[tuple[int, int]]:
    """Address and length of this rank's pages in each mapping that lives."""
    return [mapping.own for mapping in list(_live) if mapping.own[1]]
