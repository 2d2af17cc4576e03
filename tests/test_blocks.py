# SPDX-License-Identifier: BSD-3-Clause
"""How an array is split over ranks: arithmetic, checked against a page by page count."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcalloc.shared.layout import make_blocks

PAGE = 4096


def blocks_of(rows, row_bytes, ranks, halo=0, split="auto", page=PAGE):
    return make_blocks("test", rows, row_bytes, ranks, halo, split, page)


@given(
    rows=st.integers(0, 5000),
    row_bytes=st.one_of(st.integers(0, 20_000), st.sampled_from([8, 4096, 8192, 12288])),
    ranks=st.integers(1, 9),
    halo=st.integers(0, 4),
    split=st.sampled_from(["auto", "even", "page"]),
)
def test_every_row_and_page_is_somebodys(rows, row_bytes, ranks, halo, split):
    blocks = blocks_of(rows, row_bytes, ranks, halo, split)
    assert blocks.bounds[0][0] == 0
    assert blocks.bounds[-1][1] == rows
    assert all(a <= b for a, b in blocks.bounds)
    assert all(one[1] == two[0] for one, two in pairwise(blocks.bounds))
    sizes = [b - a for a, b in blocks.bounds]
    if split == "even":
        assert max(sizes) - min(sizes) <= 1
    if split == "auto":
        assert max(sizes) <= 1.05 * -(-rows // ranks)
    assert blocks.nbytes == (rows + 2 * halo) * row_bytes
    assert blocks.segments == tuple(sorted(blocks.segments))
    assert len(blocks.segments) == len(blocks.pages) == ranks + 1
    for rank, (start, _) in enumerate(blocks.bounds[1:], 1):
        assert blocks.segments[rank] == (halo + start) * row_bytes
    assert blocks.pages[0] == 0
    assert blocks.pages[-1] == -(-blocks.nbytes // PAGE)
    assert blocks.pages == tuple(sorted(blocks.pages))


@given(
    rows=st.integers(1, 300), row_bytes=st.integers(1, 9000), ranks=st.integers(1, 5), halo=st.integers(0, 2)
)
def test_pages_belong_to_the_rank_that_has_most_of_them(rows, row_bytes, ranks, halo):
    blocks = blocks_of(rows, row_bytes, ranks, halo, "even")
    straddling = 0
    for page in range(blocks.pages[-1]):
        inside = [
            max(0, min(end, (page + 1) * PAGE) - max(begin, page * PAGE))
            for begin, end in pairwise(blocks.segments)
        ]
        sharers = [rank for rank, count in enumerate(inside) if count]
        straddling += len(sharers) > 1
        owner = next(r for r, (a, b) in enumerate(pairwise(blocks.pages)) if a <= page < b)
        if len(sharers) <= 2:
            assert inside[owner] == max(inside), (page, inside, owner)
    assert blocks.straddling == straddling


def test_blocks_begin_on_pages_where_rows_do():
    blocks = blocks_of(1000, 8000, 2)  # one row in 64 begins a page
    assert blocks.bounds == ((0, 512), (512, 1000))
    assert blocks.straddling == 0
    blocks = blocks_of(1000, 8000, 2, halo=1)
    assert (blocks.segments[1] % PAGE, blocks.straddling) == (0, 0)
    assert blocks_of(100, 8008, 4).bounds == ((0, 25), (25, 50), (50, 75), (75, 100))  # one in 512: too few
    assert blocks_of(100, 8008, 4).straddling == 3
    assert blocks_of(2000, 8008, 4, split="page").bounds == (
        (0, 512),
        (512, 1024),
        (1024, 1536),
        (1536, 2000),
    )


def test_given_rows():
    assert blocks_of(10, 8, 3, split=[5, 0, 5]).bounds == ((0, 5), (5, 5), (5, 10))
    for split in ([5, 5], [5, 5, 1], [-1, 1, 10], [1.0, 4, 5], "odd", ()):
        with pytest.raises(ValueError, match="3 row counts that sum to 10.*remedy"):
            blocks_of(10, 8, 3, split=split)
    with pytest.raises(TypeError, match="limit"):
        blocks_of(10, 8, 3, split=5)
