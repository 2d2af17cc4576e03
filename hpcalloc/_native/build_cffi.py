"""Write the C source of ``hpcalloc._native._cffi``; run by CMake as ``build_cffi.py OUT.c``."""

# SPDX-License-Identifier: BSD-3-Clause
import pathlib
import sys

import cffi


def main(out: str) -> None:
    """Write the module's source to `out`."""
    ffi = cffi.FFI()
    ffi.cdef(pathlib.Path(__file__).with_name("cdef.h").read_text())
    ffi.set_source("hpcalloc._native._cffi", '#include "numa_alloc.h"')
    ffi.emit_c_code(out)


if __name__ == "__main__":
    main(sys.argv[1])
