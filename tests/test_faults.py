# SPDX-License-Identifier: BSD-3-Clause
"""The short form of faults.py; the long one is in make test-long."""

from faults import job


def test_a_few_rounds_of_faults():
    counts, _, said = job(2, seed=1, rounds=6)
    assert counts is not None, said
    assert sum(counts.values()) == 12
