# SPDX-License-Identifier: BSD-3-Clause
"""libnumalloc_audit.so: check_audit.py PRELOAD AUDIT.

What is written, by whom, and that nothing is written where others could have a hand in it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PRELOAD, AUDIT = sys.argv[1:3]
# Large arrays, freed before the end; then a child that has its own.
PROGRAM = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def array(size):
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
    ctypes.memset(block, 1, size)
    return block
blocks = [array(5 << 20) for _ in range(4)]
for block in blocks:
    libc.free(block)
if os.fork() == 0:
    array(3 << 20)
else:
    os.wait()
"""


def run(
    directory: str, own: str = "{pid}:3:4:ab12", preload: str = f"{PRELOAD}:{AUDIT}", script: str = os.devnull
) -> str:
    """Run the program as a rank does; its standard error."""
    variables = {
        "HPCALLOC_REPORT_RANKS": directory,
        "HPCALLOC_REPORT_PYTHON": sys.executable,
        "HPCALLOC_REPORT_SCRIPT": script,
        "LD_PRELOAD": preload,
    }
    start = f"export HPCALLOC_REPORT_RANK={own.format(pid='$$')}; exec {sys.executable} -c '{PROGRAM}'"
    done = subprocess.run(
        ["env", *(f"{k}={v}" for k, v in variables.items()), "sh", "-c", start],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stderr


def records(directory: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(directory.glob("rank-000003.*.ab12.audit.json"))]


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        ranks = Path(temporary, "ranks")
        ranks.mkdir(mode=0o700)
        told = Path(temporary, "told")
        script = Path(temporary, "script.py")
        script.write_text(
            f"import os; open({str(told)!r}, 'a').write(os.environ.get('LD_PRELOAD', 'none') + ' ')"
        )
        error = run(str(ranks), script=str(script))
        assert not error, error
        by_bytes = sorted(records(ranks), key=lambda record: record["arrays"]["nbytes"])
        child, parent = by_bytes
        assert parent["arrays"]["nbytes"] >= 20 << 20, parent["arrays"]  # as it was before the frees
        assert 3 << 20 <= child["arrays"]["nbytes"] < 20 << 20, child["arrays"]
        assert sum(parent["arrays"]["pages_per_node"].values()) >= (20 << 20) // parent["page_size"]
        assert parent["memory"]["resident"]
        assert parent["allocator"]["total"]["allocations"]
        assert told.read_text() == "none ", "the rank's own process alone finishes, and without the preload"
        for path in ranks.iterdir():
            assert path.stat().st_mode & 0o777 == 0o600
            path.unlink()

        # Without the allocator the process is reported all the same.
        run(str(ranks), preload=AUDIT)
        assert [record["allocator"] for record in records(ranks)] == [None, None]
        for path in ranks.iterdir():
            path.unlink()

        for own in ("1:2", "x:3:4:ab12", "{pid}:3:4:zz", "{pid}:4:4:ab12", "{pid}:3:4:ab12/../x"):
            error = run(str(ranks), own=own)
            assert not error, (own, error)
        assert not list(ranks.iterdir()), "a malformed rank"
        link = Path(temporary, "link")
        link.symlink_to(ranks)
        assert "no report" in run(str(link)), "a link"
        assert "no report" in run(str(Path(temporary, "absent")))
        assert not Path(temporary, "absent").exists()
        ranks.chmod(0o750)
        assert "no report" in run(str(ranks)), "a directory that others can read"
        assert not list(ranks.iterdir())


main()
