# SPDX-License-Identifier: BSD-3-Clause
"""Topologies that others wrote: read, or refused in one line; never a traceback, never more memory than a machine needs."""

import re
import resource
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcalloc.discover.topology import Topology
from hpcalloc.exceptions import TopologyError

GOOD = """<?xml version="1.0" encoding="UTF-8"?>
<topology version="2.0">
<object type="Machine" os_index="0" cpuset="0x0000000f" allowed_cpuset="0x0000000f" nodeset="0x1" allowed_nodeset="0x1">
<object type="Package" os_index="0" cpuset="0x0000000f" nodeset="0x1">
<object type="NUMANode" os_index="0" cpuset="0x0000000f" nodeset="0x1" local_memory="1073741824" gp_index="7" subtype="HBM">
<info name="MemoryTier" value="0"/></object>
<object type="L3Cache" cpuset="0x0000000f" nodeset="0x1">
<object type="Core" os_index="0" cpuset="0x3" nodeset="0x1"><object type="PU" os_index="0"/><object type="PU" os_index="1"/></object>
<object type="Core" os_index="1" cpuset="0xc" nodeset="0x1"><object type="PU" os_index="2"/><object type="PU" os_index="3"/></object>
</object></object></object>
<distances2 type="NUMANode" nbobjs="1" indexing="os"><indexes length="1">0</indexes><u64values length="2">10</u64values></distances2>
<memattr name="Bandwidth" flags="5">
<memattr_value target_obj_gp_index="7" target_obj_type="NUMANode" value="1000" initiator_cpuset="0x0000000f"/>
</memattr>
</topology>
"""


def check(text, folder):
    """Read or refuse; in a second."""
    path = folder / "t.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.monotonic()
    try:
        top = Topology.from_hwloc_xml(path)
    except TopologyError as error:
        message = str(error)
    else:
        assert top.to_dict()
        return top
    finally:
        assert time.monotonic() - start < 20
    assert "limit: " in message
    assert len(message) < 1000
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("xml")


def test_the_good_one_is_read(folder):
    top = check(GOOD, folder)
    assert [core.pus for core in top.cores] == [(0, 1), (2, 3)]
    assert top.distance(0, 0) == 10
    assert top.access(0, 0).bandwidth == 1000
    assert (top.nodes[0].tier, top.nodes[0].medium) == (0, "HBM")


@pytest.mark.parametrize("depth", [500, 5000, 100_000])
def test_deep_nesting(folder, depth):
    inside = GOOD[GOOD.index('<object type="Package"') : GOOD.index("<distances2")]
    inside = inside.rstrip().removesuffix("</object>")
    head = GOOD[: GOOD.index('<object type="Package"')]
    text = head + '<object type="Group">' * depth + inside + "</object>" * (depth + 1) + "</topology>"
    top = check(text, folder)
    assert top is None or len(top.cores) == 2


VALUES = [
    "",
    "-1",
    "x",
    "1e9",
    "0x",
    "0xg",
    "9" * 12,
    "9" * 5000,
    "0x" + "f" * 9,
    ",".join(["0xffffffff"] * 40_000),
    "\u0661",
    " 1",
]


@pytest.mark.parametrize("number", range(len(re.findall('="[^"]*"', GOOD))))
def test_each_attribute(folder, number):
    place = list(re.finditer('="[^"]*"', GOOD))[number]
    for value in VALUES:
        check(f'{GOOD[: place.start()]}="{value}"{GOOD[place.end() :]}', folder)
    check(re.sub(r" \w+$", "", GOOD[: place.start()]) + GOOD[place.end() :], folder)


@pytest.mark.parametrize("text", [">0</indexes>", ">10</u64values>"])
def test_each_text(folder, text):
    for value in ("x", "-1", "9" * 5000, "1 2 3", ""):
        check(GOOD.replace(text, f">{value}{text[text.index('<') :]}"), folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        b"\xff\xfe",
        "<topology/>",
        '<topology version="2.0"><object/></topology>',
        '<topology version="2.0"><object type="Core"/></topology>',
        '<?xml version="1.0" encoding="nonsense"?><topology/>',
        '<?xml version="1.0" encoding="utf-7"?><topology/>',
        '<topology version="2.0"><object type="NUMANode" os_index="3"/></topology>',
        '<topology version="2.0"><object type="NUMANode" cpuset="0x1"/><object type="PU" os_index="0"/></topology>',
    ],
    ids=range(10),
)
def test_what_is_no_topology(folder, text):
    check(text, folder)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_that_are_missing_or_moved(folder, data):
    lines = GOOD.splitlines()[1:]
    for _ in range(data.draw(st.integers(1, 3))):
        kind, at, to = data.draw(st.tuples(st.sampled_from("drm"), *[st.integers(0, len(lines) - 1)] * 2))
        if kind == "d":
            lines[at] = re.sub(r' \w+="[^"]*"', "", lines[at], count=data.draw(st.integers(1, 3)))
        elif kind == "r":
            lines[at] = lines[to]
        else:
            lines.insert(to, lines.pop(at))
    check("\n".join(lines), folder)


SYNTHETIC = [
    "pack",
    "numa",
    "l3",
    "l2",
    "core",
    "pu",
    "group",
    "[numa]",
    "[numa(memory=1GB)]",
    "[numa(tier=3 latency=1)]",
    "x",
]


@given(
    words=st.lists(
        st.tuples(st.sampled_from(SYNTHETIC), st.sampled_from([0, 1, 2, 3, 8, 10**12])).map(
            lambda pair: pair[0] if pair[0].startswith("[") else f"{pair[0]}:{pair[1]}"
        ),
        max_size=6,
    )
)
@settings(max_examples=100, deadline=None)
def test_synthetic_descriptions(words):
    try:
        top = Topology.from_synthetic(" ".join(words))
    except TopologyError as error:
        message = str(error)
    else:
        assert top.to_dict()
        return
    assert "limit: " in message


@pytest.mark.parametrize(
    "text",
    [
        "pack:4096 core:4096 pu:4096",
        "group:1 " * 5000 + "pu:1",
        "numa:1(memory=" + "9" * 5000 + "GB) pu:1",
        "pu:" + "9" * 5000,
        "[" * 5000,
        "core:2 " + "(" * 5000,
    ],
    ids=range(6),
)
def test_synthetic_descriptions_beyond_any_machine(text):
    with pytest.raises(TopologyError, match="limit: ") as caught:
        Topology.from_synthetic(text)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("tasks", ["999999999999", "999999999", "4(x99999999999)", "1,,2", "-1", "9" * 5000])
def test_tasks_of_slurm(tasks):
    """Nothing is made for each of a number of ranks that no host has."""
    environ = {
        "SLURM_LOCALID": "0",
        "SLURM_PROCID": "0",
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_NODEID": "0",
    }
    environ |= {"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": tasks, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-m", "hpcalloc", "run", "--dry-run", "/bin/true"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environ,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (20, 20)),
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 2), done.stderr
