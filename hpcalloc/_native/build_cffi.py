# SPDX-License-Identifier: BSD-3-Clause
"""Write the C source of ``hpcalloc._native._cffi``; run by the build as ``build_cffi.py OUT.c``."""

import sys
from pathlib import Path

import cffi


def main(output: str) -> None:
    """Write the source of the API-mode module to `output`; the build compiles and links it."""
    ffi = cffi.FFI()
    ffi.cdef(Path(__file__).with_name("cdef.h").read_text())
    ffi.set_source("hpcalloc._native._cffi", '#include "numa_alloc.h"')
    ffi.emit_c_code(output)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: build_cffi.py OUT.c")
    main(sys.argv[1])
