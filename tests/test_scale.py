# SPDX-License-Identifier: BSD-3-Clause
"""What ranks send does not grow with their number beyond its logarithm; counted on a simulated communicator."""

import json
import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks/scale.py"


def test_messages_and_bytes_of_a_rank_are_logarithmic():
    words = [sys.executable, str(SCRIPT), "--ranks", "1,128,512,2048", "--local", "8", "--json"]
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout
    counts = {int(ranks): phases for ranks, phases in json.loads(out).items()}
    assert all(not value for phase in counts[1].values() for name, value in phase.items() if name != "made")
    for phase in ("init", "report", "close"):
        for what in ("messages", "bytes"):
            small, middle, large = (counts[ranks][phase][what] for ranks in (128, 512, 2048))
            # each doubling adds as much; records differ by a few digits
            assert 0 < large - middle <= 1.1 * (middle - small) + 8, (phase, what)
        assert counts[128][phase]["made"] == counts[2048][phase]["made"] <= 4
    # the records of all ranks come to rank 0, and no more than these
    assert counts[2048]["report"]["root"] < 2048 * 1500
