# SPDX-License-Identifier: BSD-3-Clause
"""Summaries of many ranks: they say what a look at all records says."""

import json
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report import rank_record

from hpcalloc.report.record import Absent
from hpcalloc.report.report import make_report
from hpcalloc.report.summary import LIST_ALL, NAMED, WORST


def many(count, seed=1):
    chance = random.Random(seed)
    records = [
        rank_record(rank, chance.randint(0, 100), 100, fallbacks=chance.randint(0, 3))
        for rank in range(count)
    ]
    for rank in chance.sample(range(count), count // 50):
        records[rank] = Absent(rank, "gone", rank % 4, f"node{rank // 4}")
    return records


@given(count=st.integers(1, 200), seed=st.integers(0, 5), shuffle=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_whatever_the_order_it_is_what_the_records_say(count, seed, shuffle):
    records = many(count, seed)
    good = [r for r in records if not isinstance(r, Absent)]
    mixed = list(records)
    random.Random(shuffle).shuffle(mixed)
    made = make_report(mixed, count)
    summary = made.summary
    assert summary["ranks"] == count
    assert summary["failed_ranks"] == [r.rank for r in records if isinstance(r, Absent)][:NAMED]
    assert summary["fallbacks"] == sum(r.fallbacks for r in good)
    assert summary["hosts"] == len({r.host for r in records})
    spread = summary["spread"]["local_fraction"]
    fractions = [r.arrays.local_fraction for r in good]
    assert (spread["min"], spread["median"], spread["max"]) == (
        min(fractions),
        statistics.median(fractions),
        max(fractions),
    )
    assert fractions[[r.rank for r in good].index(spread["min_rank"])] == min(fractions)
    assert summary["worst_rank"] == spread["min_rank"]
    assert [r["rank"] for r in made.ranks] == list(range(count))
    assert json.loads(made.to_json()) == made.to_dict()


@pytest.mark.parametrize("count", [LIST_ALL, LIST_ALL + 1, 1000])
def test_tables_have_all_or_the_worst(count):
    records = [rank_record(rank, 100 - rank % 90) for rank in range(count)]
    made = make_report(records, count)
    listed = count if count <= LIST_ALL else WORST
    assert f"{listed} of {count} ranks" in made.to_text()
    assert "allocator" in made.ranks[0]


def test_own_statistics_are_in_small_reports_only():
    for count, expected in ((2, {"total": {}}), (LIST_ALL + 1, None)):
        records = [rank_record(rank, allocator={"total": {}}) for rank in range(count)]
        assert make_report(records, count).ranks[0]["allocator"] == expected


def test_nothing_is_known():
    made = make_report([], 3)
    assert made.summary["failed"] == 3
    assert made.summary["local_fraction"] is None
    assert "3 ranks are absent" in made.to_text()
    assert "</html>" in made.to_html()


def test_notes_and_reasons_unknown():
    records = [rank_record(rank, notes=(f"note {rank % 3}", "same")) for rank in range(9)]
    assert make_report(records, 9).summary["notes"] == ["note 0", "note 1", "note 2", "same"]
