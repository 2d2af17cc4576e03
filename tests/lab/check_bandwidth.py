"""`bench bandwidth` and `bench latency` on several nodes: every cell's pages are on the node that it names.

The nodes are emulated: figures of speed are not looked at.
"""

# SPDX-License-Identifier: BSD-3-Clause
import json
import sys

from click.testing import CliRunner

from hpcalloc._native import node_ids
from hpcalloc.bench.kernels import KERNELS
from hpcalloc.cli.main import cli


def bench(*arguments):
    """Run a benchmark; its figures."""
    result = CliRunner().invoke(cli, ["bench", *arguments, "--small", "--repeats", "1", "--json", "-"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert any("nothing about speed" in remark for remark in facts["remarks"]), facts["remarks"]
    return facts


def check_cells(cells, expected):
    """All that are expected are there, right, and have their pages on the node of memory alone."""
    seen = set()
    for cell in cells:
        assert cell["result_verified"], cell
        assert cell["placed"] is True, cell
        assert set(cell["pages"]) == {str(cell["memory_node"])}, cell
        seen.add((cell["cpu_node"], cell["memory_node"]))
    assert seen == expected, (seen, expected)


def main() -> int:
    """Exit 1 at the first cell that is not where it belongs."""
    nodes = node_ids()
    assert len(nodes) > 1, nodes
    pairs = {(i, j) for i in nodes for j in nodes}
    facts = bench("bandwidth", "--iterations", "1", "--no-compare")
    for team in ("all", "one"):
        for kernel in KERNELS:
            cells = [c for c in facts["cells"] if c["team"] == team and c["kernel"] == kernel]
            assert len(cells) == len(pairs)
            check_cells(cells, pairs)
    together = [point for point in facts["scaling"] if len(point["nodes"]) == len(nodes)]
    assert together, facts["scaling"]
    for point in facts["scaling"]:
        assert point["placed"] is True, point
        assert set(point["pages"]) == set(map(str, point["nodes"])), point
    for node in nodes:
        row = [c for c in facts["cells"] if (c["team"], c["cpu_node"], c["kernel"]) == ("all", node, "triad")]
        print(f"CPUs of node {node}:", *(f"{c['pages']}" for c in row))
    facts = bench("latency", "--steps", "4096")
    check_cells(facts["points"], pairs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
