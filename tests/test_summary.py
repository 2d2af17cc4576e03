# SPDX-License-Identifier: BSD-3-Clause
"""Summaries of many ranks: whatever the order of merging, they say what a look at all records says."""

import json
import pickle
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcalloc.report import summary
from hpcalloc.report.record import Report, make_report
from hpcalloc.report.summary import KEEP_ALL, NAMED, WORST, Spread, merge, part_of


def record(rank, local=100, touched=100, fallbacks=0, **more):
    return {
        "rank": rank,
        "local_rank": rank % 4,
        "host": f"node{rank // 4}",
        "cpus": "0-3",
        "nodes": [rank % 2],
        "action": "bind",
        "reasons": ["the ranks came unbound"],
        "notes": [f"note {rank % 3}"],
        "arrays": {
            "count": 2,
            "nbytes": 4096 * touched,
            "pages": touched + 5,
            "touched": touched,
            "untouched": 5,
            "failed": 0,
            "local": local,
            "local_fraction": local / touched if touched else None,
            "pages_per_node": {"0": local, "1": touched - local},
            "unknown": None,
        },
        "memory": {
            "resident": 1000 + rank,
            "huge": 0,
            "huge_fraction": 0.5,
            "per_node": {"0": 300, "1": 700},
        },
        "fallbacks": fallbacks,
        "strict_failures": 0,
        "remote_frees": rank,
        "peak_bytes": 10 * rank,
        **more,
    }


def many(count, seed=1):
    chance = random.Random(seed)
    records = [record(rank, chance.randint(0, 100), 100, chance.randint(0, 3)) for rank in range(count)]
    for rank in chance.sample(range(count), count // 50):
        records[rank] = {"rank": rank, "local_rank": rank % 4, "host": f"node{rank // 4}", "error": "gone"}
    return records


@pytest.mark.parametrize("count", [1, 7, 64, 65, 300, 5000])
def test_against_all_records(count):
    records = many(count)
    made = make_report(records, count)
    said, good = made.summary, [r for r in records if "error" not in r]
    bad = [r["rank"] for r in records if "error" in r]
    assert said["ranks"] == count
    assert said["hosts"] == len({r["host"] for r in records})
    assert said["failed"] == len(bad)
    assert said["failed_ranks"] == bad[:NAMED]
    assert said["touched"] == sum(r["arrays"]["touched"] for r in good)
    assert said["local_fraction"] == sum(r["arrays"]["local"] for r in good) / said["touched"]
    assert said["remote_frees"] == sum(r["remote_frees"] for r in good)
    for name, value_of in summary.METRICS.items():
        values = {r["rank"]: value_of(r) for r in good}
        spread = said["spread"][name]
        assert spread["min"] == min(values.values()) == values[spread["min_rank"]]
        assert spread["max"] == max(values.values()) == values[spread["max_rank"]]
        exact = statistics.median(values.values())
        assert spread["median"] == (exact if count <= Spread.EXACT else pytest.approx(exact, rel=0.006))
    assert said["worst_fraction"] == min(r["arrays"]["local_fraction"] for r in good)
    if count <= KEEP_ALL:
        assert list(made.ranks) == records
    else:
        assert len(made.ranks) == WORST
        listed = {r["rank"] for r in made.ranks}
        assert set(bad[:WORST]) <= listed
        left = [r["arrays"]["local_fraction"] for r in good if r["rank"] not in listed]
        assert max((r["arrays"]["local_fraction"] for r in made.ranks if "error" not in r), default=0) <= min(
            left
        )
    assert json.loads(made.to_json()) == made.to_dict()


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 90))
def test_any_order_says_the_same(chance, count):
    records = many(count, seed=count)
    parts = [part_of(r, count) for r in records]
    while len(parts) > 1:  # any two neighbours or strangers
        a = parts.pop(chance.randrange(len(parts)))
        b = parts.pop(chance.randrange(len(parts)))
        parts.append(merge(a, b))
    whole = make_report(records, count)
    assert parts[0].to_dict() == whole.summary
    assert parts[0].kept() == whole.ranks


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e15)), min_size=1, max_size=41))
def test_sketch(values):
    values = values * 101  # an odd number: the median is one of the values
    values = values if len(values) % 2 else values[:-1]
    made = Spread(values[0], 0)
    for rank, value in enumerate(values[1:], 1):
        made.add(Spread(value, rank))
    assert (made.values is None) == (len(values) > Spread.EXACT)
    assert made.count == len(values)
    assert made.median == pytest.approx(statistics.median(values), rel=0.0051)
    assert made.low == (min(values), values.index(min(values)))
    assert made.high == (max(values), values.index(max(values)))


def test_messages_stay_small():
    """Ten thousand ranks' part is a message no larger than a few of one rank's."""
    sizes = {}
    for count in (2000, 10_000):
        whole = summary.reduce_in_tree([part_of(r, count) for r in many(count)])
        sizes[count] = len(pickle.dumps(whole))
    assert sizes[10_000] < 1.5 * sizes[2000] < 150_000


def test_text_of_many_ranks_is_short():
    made = make_report(many(10_000), 10_000)
    text = made.to_text(width=120)
    assert len(text.splitlines()) < 60
    assert "8 of 10000 ranks on 2500 hosts: the worst" in text
    assert "200 ranks have no report, among them" in text
    assert "local fraction" in text
    assert max(map(len, text.splitlines())) <= 120


def test_html():
    made = make_report(
        [record(0), record(1, 40, host="<b>&host"), {**many(60)[0], "rank": 2, "error": "<lost>"}], 3
    )
    made = Report({**made.data, "ranks": [*made.ranks[:2], {"rank": 2, "host": "h", "error": "<lost>"}]})
    page = made.to_html()
    assert page.startswith("<!DOCTYPE html>")
    assert "&lt;b&gt;&amp;host" in page
    assert "<lost>" not in page
    assert "70.0 % of 200 array pages local; the worst rank is 1 with 40.0 %" in page
    for outside in ("http", "src=", "href=", "@import", "url("):
        assert outside not in page
    from html.parser import HTMLParser

    class Balance(HTMLParser):
        depth = 0

        def handle_starttag(self, tag, attrs):
            self.depth += tag not in ("meta",)

        def handle_endtag(self, tag):
            self.depth -= 1

    balance = Balance()
    balance.feed(page.replace("<p", "<div").replace("</p>", "</div>"))
    assert balance.depth == 0


def test_write(tmp_path):
    made = make_report([record(0)], 1)
    for name, start in (("r.json", "{"), ("r.txt", ""), ("r.html", "<!DOCTYPE")):
        made.write(tmp_path / name)
        assert (tmp_path / name).read_text().startswith(start)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "r.json", "r.txt"]
    with pytest.raises(ValueError, match="limit.*remedy"):
        made.write(tmp_path / "r.pdf")
