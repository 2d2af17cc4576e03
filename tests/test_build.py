# SPDX-License-Identifier: BSD-3-Clause
"""How the package is built."""

import json
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

SOURCE = pathlib.Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="missing capability: cmake")
def test_numpys_own_headers_come_before_the_interpreters(tmp_path):
    """Debian's python3-numpy puts NumPy 1.24's headers into the interpreter's folder."""
    configure = [
        "cmake", "-S", SOURCE, "-B", tmp_path, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
        f"-DPython_EXECUTABLE={sys.executable}", "-DNUMALLOC_TESTS=OFF",
    ]  # fmt: skip
    done = subprocess.run(configure, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    (handler,) = [entry["command"] for entry in commands if entry["file"].endswith("handler.c")]
    numpys, interpreters = np.get_include(), sysconfig.get_path("include")
    assert handler.index(f"-I{numpys} ") < handler.index(interpreters)
