# SPDX-License-Identifier: BSD-3-Clause
"""Files of ranks that others wrote, or that a dying rank left: one reader, one error, never a traceback."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_report import rank_record

from hpcalloc.exceptions import HpcallocError
from hpcalloc.report import files
from hpcalloc.report.files import Audit, Entry, ReportFiles, merge
from hpcalloc.report.reader import UnreadableError, read
from hpcalloc.report.record import Pool, Record
from hpcalloc.report.summary import summary_of

AUDIT = {
    "pid": 7,
    "page_size": 4096,
    "arrays": {
        "count": 1,
        "nbytes": 8192,
        "untracked": 0,
        "pages": 2,
        "untouched": 0,
        "failed": 0,
        "huge_page": 0,
        "errno": 0,
        "pages_per_node": {"0": 2},
    },
    "memory": {"resident": 8192, "huge": 0, "errno": 0, "per_node": {"0": 8192}},
    "allocator": {"total": {"fallbacks": 1}},
}
WHOLE = rank_record(0, pools=(Pool("blas", 2, 1, "OMP_NUM_THREADS"),), allocator={"total": {}})
ENTRY = {"size": 2, "written": 1.0, "stamp": "a", "record": json.loads(json.dumps(WHOLE.to_dict()))}


def paths_in(data, path=()):
    """Every place in a JSON value."""
    yield path
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inside:
        yield from paths_in(value, (*path, key))


def changed(data, path, value):
    """A copy with another value at a place; `value` ... removes it."""
    if not path:
        return value
    copy = data.copy()
    if value is ... and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(data[path[0]], path[1:], value)
    return copy


DEEP = json.loads("[" * 900 + "]" * 900)
BAD = [
    None,
    -1,
    -1.5,
    1 << 64,
    10**400,
    0.5,
    True,
    "",
    "x" * 100_000,
    "\x1b[2J\ud800",
    [],
    {},
    [None],
    {"-1": 1},
    DEEP,
    ...,
]
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
    max_leaves=8,
)


def put(directory, name, data):
    (directory / name).write_bytes(
        data if isinstance(data, bytes) else json.dumps(data).encode("utf-8", "replace")
    )


def check(directory):
    """Merging gives a report that can be written in each form, or one error of ours."""
    try:
        made = merge([str(directory)])
    except HpcallocError as error:
        message = str(error)
    else:
        return written(made)
    assert "limit: " in message
    assert len(message) < 2000
    return None


def written(made):
    """The report, when it could be written in each form."""
    text, page, data = made.to_text(), made.to_html(), made.to_json()
    assert max(map(len, text.splitlines())) <= 80
    assert not any(c < " " and c != "\n" for c in text + page)
    assert json.loads(data)["size"] == made.size
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


def test_what_is_written_is_read(tmp_path):
    for record in (WHOLE, rank_record(3)):
        plain = json.loads(json.dumps(record.to_dict()))
        assert read(Record, plain) == record
    rank = ReportFiles(str(tmp_path / "r.json"), str(tmp_path / "ranks"), 0, 1)
    rank.write("context", WHOLE)
    assert merge([rank.directory]).records == [WHOLE]


@pytest.mark.parametrize("kind", [Entry, Audit])
def test_each_field_with_each_bad_value(kind):
    """Refused with the field's name, or taken; what is taken can be written."""
    data = ENTRY if kind is Entry else AUDIT
    taken = refused = 0
    for path in paths_in(data):
        for value in BAD if path else BAD[:-1]:
            try:
                got = read(kind, changed(data, path, value))
            except UnreadableError as error:
                message = str(error)
            else:
                message = None
            if message is not None:
                assert not path or str(path[0]) in message
                refused += 1
                continue
            taken += 1
            record = files._of_audit(WHOLE, got) if kind is Audit else got.record
            if record is not None and value != "x" * 100_000:
                json.dumps(record.to_dict())
                summary_of([record], [], 1)
    assert refused > 4 * taken > 0


@pytest.mark.parametrize("value", BAD[:-1], ids=range(len(BAD) - 1))
def test_bad_values_in_files(folder, value):
    for field in ("arrays", "host", "reasons", "nodes"):
        put(folder, "rank-000000.context.json", changed(ENTRY, ("record", field), value))
        put(folder, "rank-000001.context.json", ENTRY)
        made = merge([str(folder)])
        assert made.records[-1].rank == 1
        if made.absent:
            assert f"rank-000000.context.json: record.{field}" in made.absent[0].error
    written(made)


@given(data=anything, kind=st.sampled_from(["start", "context", "7.a.audit"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_at_all(folder, data, kind):
    for name in os.listdir(folder):
        os.unlink(folder / name)
    put(folder, f"rank-000000.{kind}.json", data)
    assert check(folder) is None
    put(folder, "rank-000001.context.json", ENTRY)
    assert check(folder).size == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b"[" * 5000 + b"]" * 5000,
        b'{"size": NaN}',
        b"9" * 10_000,
        b'{"size": 1e999}',
    ],
    ids=range(9),
)
def test_what_is_no_json(tmp_path, content):
    put(tmp_path, "rank-000000.context.json", content)
    assert check(tmp_path) is None
    put(tmp_path, "rank-000001.context.json", ENTRY)
    assert "rank-000000" in check(tmp_path).absent[0].error


@pytest.mark.parametrize("size", [0, -1, 4096, (1 << 20) + 1, 999_999_999_999, None, "2", 2.0, True])
def test_sizes_of_jobs(tmp_path, size):
    put(tmp_path, "rank-000000.context.json", {**ENTRY, "size": size})
    made = check(tmp_path)
    assert (made is None) == (size != 4096)


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "rank-000000.context.json")
    os.symlink("/etc/passwd", tmp_path / "rank-000001.context.json")
    (tmp_path / "rank-000002.context.json").mkdir()
    with open(tmp_path / "rank-000003.context.json", "wb") as file:
        file.truncate(1 << 40)
    put(tmp_path, "rank-000004.context.json", {**ENTRY, "size": 5})
    made = check(tmp_path)
    assert [a.rank for a in made.absent] == [0, 1, 2, 3]
    for absent, word in zip(made.absent, ("regular", "links", "directory", "bytes"), strict=True):
        assert word in absent.error


def test_the_error_names_the_field():
    for path, value, words in (
        (("record", "arrays", "pages"), None, "record.arrays.pages is null, not an integer from 0 on"),
        (("record", "nodes", 0), -3, r"record.nodes[0] is -3, not an integer"),
        (("record", "host"), ..., "record.host is missing"),
        (("record", "memory"), [1], "record.memory is a list of 1, not an object"),
        (("record", "memory", "per_node"), {"x": 1}, 'record.memory.per_node has "x" for a node'),
    ):
        with pytest.raises(UnreadableError) as caught:
            read(Entry, changed(ENTRY, path, value))
        assert words in str(caught.value)
    assert read(Audit, {**AUDIT, "newer": 1}).pid == 7
    assert dataclasses.is_dataclass(Audit)


def test_verb(tmp_path):
    put(tmp_path, "rank-000000.context.json", changed(ENTRY, ("record", "arrays", "pages"), None))
    words = [sys.executable, "-m", "hpcalloc", "report", "--merge", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "arrays.pages is null" in done.stderr
    assert "Traceback" not in done.stderr
