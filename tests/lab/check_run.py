"""Reports of unchanged programs under ``hpcalloc run`` on four nodes: 100 % local, as with the library; and a control.

check_run.py DIRECTORY     where HPCALLOC_REPORT wrote plain.json, library.json and control.json
"""

# SPDX-License-Identifier: BSD-3-Clause
import json
import pathlib
import sys


def placement(report: dict) -> list:
    """Return rank, nodes, whether both grids of 66 x 258 points are there, and how much is local, of all ranks."""
    assert report["summary"]["failed_ranks"] == [], report["summary"]
    return [
        (r["rank"], r["nodes"], r["arrays"]["touched"] >= 2 * 30, r["arrays"]["local_fraction"])
        for r in report["ranks"]
    ]


def main(directory: str) -> int:
    """Exit 1 at the first thing that is not as it should be."""
    plain, library, control = (
        json.loads(pathlib.Path(directory, f"{name}.json").read_text())
        for name in ("plain", "library", "control")
    )
    expected = [(rank, [rank], True, 1.0) for rank in range(4)]
    assert placement(plain) == expected, placement(plain)
    assert placement(library) == expected, placement(library)
    for report in (plain, library):
        for r in report["ranks"]:
            assert set(r["arrays"]["pages_per_node"]) == {str(r["rank"])}, r["arrays"]
            assert r["cpus"] == f"{2 * r['rank']}-{2 * r['rank'] + 1}", r["cpus"]
    # A process that left its node before it made its array: the check can fail. What Python made before is local.
    assert [r["arrays"]["local_fraction"] < 0.1 for r in control["ranks"]] == [True], placement(control)
    print(f"{plain['summary']['touched']} pages of unchanged ranks: 100.0 % local", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
