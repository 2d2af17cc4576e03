# SPDX-License-Identifier: BSD-3-Clause
"""The bridge: the cdef against the header, errors, data handlers."""

import errno
import gc
import importlib
import importlib.metadata
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import tracemalloc

import numpy as np
import pytest

import hpcalloc
from hpcalloc import _native
from hpcalloc._native import _handler
from hpcalloc._native.errors import error_for
from hpcalloc.exceptions import BindingError, NodeError, OutOfMemoryError, PlacementError

ROOT = pathlib.Path(__file__).resolve().parent.parent
MIB = 1 << 20


def declarations(text):
    """Functions by name, struct fields and enum values, all without white space."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"static inline ([^;{}]*?)\s*\{[^}]*\}", r"\1;", text)
    attributes = r"\bNUMALLOC_(API|MALLOC|USED|SIZES?\(.*?\)|ALIGN\(.*?\))"
    text = re.sub(rf"__attribute__\(\(.*?\)\)|{attributes}", "", text)
    functions = {
        match[2]: re.sub(r"\s+", "", match[1] + match[3])
        for match in re.finditer(r"^\s*([\w ]+?[ *]+)(numalloc\w*)\s*(\([^;{}]*\));", text, flags=re.M)
    }
    structs = {
        match[1]: [
            re.sub(r"\s+", "", re.sub(r"\[.*\]", "[]", line)) for line in match[2].split(";") if line.strip()
        ]
        for match in re.finditer(r"typedef struct (\w+) \{(.*?)\} \w+;", text, flags=re.S)
    }
    enums = dict(re.findall(r"(NUMALLOC_\w+)\s*=\s*([^,}]+)", text))
    return functions, structs, {name: eval(value) for name, value in enums.items()}


def test_cdef_matches_header():
    header = declarations((ROOT / "native/include/numa_alloc.h").read_text())
    cdef = declarations((ROOT / "hpcalloc/_native/cdef.h").read_text())
    assert len(header[0]) >= 29
    for of_header, of_cdef in zip(header, cdef, strict=True):
        assert of_cdef == of_header


def test_every_declaration_is_bound():
    functions, _, enums = declarations((ROOT / "native/include/numa_alloc.h").read_text())
    for name in functions:
        assert callable(getattr(_native.lib, name))
    for name, value in enums.items():
        assert getattr(_native.lib, name) == value


def test_version_and_nodes():
    assert _native.stats_dict()["version"] == hpcalloc.__version__ == importlib.metadata.version("hpcalloc")
    nodes = _native.node_ids()
    assert nodes == tuple(sorted(nodes))
    assert len(nodes) >= 1
    for node in nodes:
        info = _native.node_info(node)
        assert info is not None
        assert info.allowed
        assert 0 < info.free_bytes <= info.total_bytes
    assert _native.node_info(1023) is None
    assert _native.current_node() in nodes or len(nodes) > 1


def test_stats_sum_and_unknown_node():
    total = _native.stats()
    assert total["allocations"] >= total["frees"]
    assert set(total) <= set(_native.stats_dict()["total"])
    with pytest.raises(NodeError, match="node 1023.*limit: nodes.*remedy"):
        _native.stats(1023)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOMEM, OutOfMemoryError),
        (errno.ENODEV, NodeError),
        (errno.EPERM, PlacementError),
        (errno.EINVAL, PlacementError),
        (12345, PlacementError),
    ],
)
def test_error_for(code, kind):
    error = error_for(code, "call", "value", "the limit")
    assert type(error) is kind
    for part in ("call", "value", "limit: the limit"):
        assert part in str(error)
    assert ("remedy" in str(error)) == (code in (errno.ENODEV, errno.EPERM))
    assert str(error_for(code, "call", "value", "the limit", "do this")).endswith("; remedy: do this")
    if isinstance(error, OSError):
        assert error.errno == code
    assert type(error_for(errno.EPERM, "c", "v", "l", kind=BindingError)) is BindingError


def test_page_counts_of_foreign_memory():
    a = np.ones(MIB // 8)
    counts = _native.page_counts(a.ctypes.data, a.nbytes)
    if isinstance(counts, int):
        pytest.skip(f"missing capability: move_pages gives errno {counts}")
    assert counts.pages >= a.nbytes // counts.page_size
    assert sum(counts.on_node.values()) + counts.untouched + counts.failed == counts.pages
    assert _native.block_info(a.ctypes.data) is None
    double = counts + counts
    assert double.pages == 2 * counts.pages
    assert double.on_node == {node: 2 * n for node, n in counts.on_node.items()}


LATE = """
import ctypes, pathlib, sys
bin = pathlib.Path(sys.argv[1])
names = [f"libtls_{2**i}.so" for i in range(12, 3, -1)] + [f"libtls_least{i}.so" for i in range(4)]
for name in names:  # they take what there is
    try:
        ctypes.CDLL(str(bin / name))
    except OSError:
        pass
try:
    import hpcalloc
except ImportError as error:
    print(error)
else:
    print("imported")
"""


def test_import_without_static_tls_names_its_cure():
    directory = ROOT / "build/native/bin"
    if not (directory / "libtls_4096.so").exists():
        pytest.skip("missing capability: the C tests, which make native builds")
    environment = {k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES", "LD_PRELOAD")}
    command = [sys.executable, "-c", LATE, str(directory)]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout
    assert "static TLS" in text
    remedy = re.search(r"remedy: .*(GLIBC_TUNABLES)=(\S+)", text)
    assert remedy is not None
    environment["GLIBC_TUNABLES"] = remedy[2].replace("4096", "16384")  # these libraries take 8 KiB
    text = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout
    assert text.strip() == "imported"


def test_too_much_names_what_is_narrow():
    limits = _native.ffi.new("numalloc_limits_t *")
    assert _native.lib.numalloc_limits(limits) == 0
    assert "no block can have more than" in _native.describe_room(limits.block + 1, (0,))
    assert _native.describe_room(1, _native.node_ids()[:1]).startswith("node ")
    with pytest.raises(OutOfMemoryError, match="limit: no block can have more than"):
        hpcalloc.zeros(2**60, dtype=np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (64 * MIB, hard))
    try:
        assert "RLIMIT_DATA" in _native.describe_room(128 * MIB, (0,))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


# ---- handlers ---------------------------------------------------------------------------------------


def make(policy=_handler.LOCAL, node=0, nodes=None, stripe=0, flags=0, name="hpcalloc test"):
    return _handler.make_handler(name, policy, node, nodes, stripe, flags)


def live():
    gc.collect()
    stats = _native.stats()
    return stats["allocations"] - stats["frees"]


def test_array_owns_its_block():
    handler = make()
    a = _handler.empty(handler, (3, 4), None, "C")
    assert a.flags.owndata
    assert a.base is None
    assert a.flags.writeable
    assert a.dtype == np.float64
    assert _handler.handler_of(a) is handler
    assert _handler.handler_of(a[1:]) is None
    assert _handler.handler_of(np.empty(3)) is None
    info = _native.block_info(a.ctypes.data)
    assert info is not None
    assert info.start == a.ctypes.data
    assert info.size >= a.nbytes
    core = importlib.import_module("numpy._core" if np.__version__ >= "2" else "numpy.core")
    assert core.multiarray.get_handler_name(a) == "hpcalloc test"


def test_context_variable_is_left_alone():
    before = _handler.get_handler()
    handler = make()
    _handler.empty(handler, 10, None, "C")
    _handler.zeros(handler, (), "S", "F")  # not the short way
    _handler.like(handler, np.zeros((2, 3, 4)).transpose(1, 0, 2), None, "K", None, True)
    with pytest.raises(MemoryError):
        _handler.empty(handler, 1 << 55, None, "C")
    with pytest.raises(ValueError, match="negative"):
        _handler.empty(handler, -1, None, "C")
    with pytest.raises(ValueError, match="order"):
        _handler.like(handler, np.zeros(3), None, "Z", None, True)
    assert _handler.get_handler() is before
    assert _handler.handler_of(np.empty(10)) is None


def test_set_handler_and_back():
    handler = make()
    before = _handler.set_handler(handler)
    try:
        assert _handler.get_handler() is handler
        temporary = np.arange(5.0) + 1
        assert _handler.handler_of(temporary) is handler
        seen = []
        thread = threading.Thread(target=lambda: seen.append(_handler.handler_of(np.empty(5))))
        thread.start()
        thread.join()
        assert seen == [None]  # a context variable: new threads start with NumPy's own
    finally:
        assert _handler.set_handler(before) is handler
    assert _handler.handler_of(np.empty(5)) is None
    _handler.set_handler(handler)
    assert _handler.set_handler(None) is handler
    assert _handler.handler_of(np.empty(5)) is None
    temporary.resize(1000, refcheck=False)  # through its own handler, though another is active
    assert _handler.handler_of(temporary) is handler
    assert temporary[4] == 5


@pytest.mark.parametrize("bad", [object(), 3, "x"])
def test_not_a_handler(bad):
    with pytest.raises(TypeError, match="handler"):
        _handler.set_handler(bad)
    with pytest.raises(TypeError, match="handler"):
        _handler.empty(bad, 3, None, "C")
    with pytest.raises(TypeError, match="handler"):
        _handler.empty(_handler.get_handler(), 3, None, "C")
    with pytest.raises(TypeError, match="ndarray"):
        _handler.handler_of(bad)


def test_describe():
    assert _handler.describe(make(_handler.ON_NODE, 3)) == (_handler.ON_NODE, 3, None, 0, 0)
    spread = make(_handler.BLOCKED, 0, [0, 64, 1023], 8192, _handler.STRICT | _handler.POPULATE)
    assert _handler.describe(spread) == (_handler.BLOCKED, 0, [0, 64, 1023], 8192, 5)
    for nodes in ([-1], [1024]):
        with pytest.raises(ValueError, match="node"):
            make(nodes=nodes)
    with pytest.raises(OverflowError):
        make(nodes=[1 << 70])
    with pytest.raises(ValueError, match="name"):
        make(name="x" * 200)


def test_handler_lives_as_long_as_its_arrays():
    a = _handler.empty(make(name="short-lived"), 100_000, None, "C")
    gc.collect()
    a.resize(200_000, refcheck=False)
    view = a[5:]
    del a
    gc.collect()
    view[:] = 1
    assert view.sum() == view.size


def test_failure_is_recorded_per_thread():
    handler = make(_handler.ON_NODE, 1023)
    assert _handler.last_failure() is None
    with pytest.raises(MemoryError):
        _handler.empty(handler, 8, None, "C")
    assert _handler.last_failure() == (errno.ENODEV, 64)
    assert _handler.last_failure() is None
    with pytest.raises(MemoryError):
        _handler.empty(handler, 8, None, "C")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(_handler.last_failure()))
    thread.start()
    thread.join()
    assert seen == [None]
    _handler.empty(make(), 8, None, "C")
    assert _handler.last_failure() is None


def test_tracemalloc_sees_the_arrays():
    domain = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    tracemalloc.start()
    try:
        handler = make()
        arrays = [_handler.empty(handler, MIB, "u1", "C"), _handler.zeros(handler, MIB, "u1", "C")]
        arrays.append(
            _handler.like(handler, np.empty((64, 64, 256), "u1").transpose(1, 0, 2), None, "K", None, True)
        )
        arrays[0].resize(2 * MIB, refcheck=False)

        def traced():
            return sum(t.size for t in tracemalloc.take_snapshot().filter_traces([domain]).traces)

        assert traced() == 4 * MIB
        arrays.clear()
        assert traced() == 0
    finally:
        tracemalloc.stop()


def test_live_blocks():
    handler = make()
    before, missed = _handler.live_blocks()
    assert missed == 0
    arrays = [_handler.empty(handler, _handler.MIN_TRACKED + i, "u1", "C") for i in range(1000)]
    small = _handler.empty(handler, _handler.MIN_TRACKED - 1, "u1", "C")
    expected = {(a.ctypes.data, a.nbytes) for a in arrays} | set(before)
    assert set(_handler.live_blocks()[0]) == expected
    assert small.ctypes.data not in {address for address, _ in _handler.live_blocks()[0]}
    rng = np.random.default_rng(1)
    rng.shuffle(arrays)
    del arrays[:500]
    arrays[0].resize(4 * MIB, refcheck=False)
    arrays[1].resize(16, refcheck=False)  # becomes too small to be tracked
    expected = {(a.ctypes.data, a.nbytes) for a in arrays if a.nbytes >= _handler.MIN_TRACKED} | set(before)
    assert set(_handler.live_blocks()[0]) == expected
    arrays.clear()
    assert set(_handler.live_blocks()[0]) == set(before)


def test_more_live_blocks_than_the_first_table_holds():
    handler = make()
    before = set(_handler.live_blocks()[0])
    arrays = [_handler.empty(handler, _handler.MIN_TRACKED + i % 7, "u1", "C") for i in range(6000)]
    for step in (1, 2, 3):
        arrays = arrays[::step]
        live, missed = _handler.live_blocks()
        assert missed == 0
        assert len(live) == len(set(live)) == len(arrays) + len(before)
        assert set(live) == {(a.ctypes.data, a.nbytes) for a in arrays} | before
    arrays.clear()
    assert set(_handler.live_blocks()[0]) == before


def test_zeros_do_not_touch_fresh_pages():
    handler = make()
    size = 64 * MIB
    for a in (
        _handler.zeros(handler, size, "u1", "C"),
        _handler.like(handler, np.empty((64, 512, 256), "f8").transpose(1, 0, 2), None, "K", None, True),
    ):
        counts = _native.page_counts(a.ctypes.data, a.nbytes)
        if isinstance(counts, int):
            pytest.skip(f"missing capability: move_pages gives errno {counts}")
        assert counts.untouched >= counts.pages // 2
        assert not a.any()
        _native.lib.numalloc_purge()


def test_zeros_of_used_memory():
    handler = make()
    for size in (1, 100, 4096, 100_000, 3 * MIB):
        a = _handler.empty(handler, size, "u1", "C")
        a[:] = 255
        del a
        assert not _handler.zeros(handler, size, "u1", "C").any()
        shuffled = np.empty((2, 3, size), "u1").transpose(1, 0, 2)
        a = _handler.empty(handler, 6 * size, "u1", "C")
        a[:] = 255
        del a
        assert not _handler.like(handler, shuffled, None, "K", None, True).any()


def test_strict_and_populate():
    for flags in (_handler.STRICT, _handler.POPULATE):
        handler = make(flags=flags)
        a = _handler.empty(handler, 8 * MIB, "u1", "C")
        info = _native.block_info(a.ctypes.data)
        assert info is not None
        assert info.strict == (flags == _handler.STRICT)
        counts = _native.page_counts(a.ctypes.data, a.nbytes)
        if not isinstance(counts, int):
            assert counts.untouched == 0
    with pytest.raises(MemoryError):
        _handler.empty(make(flags=_handler.STRICT), 1 << 44, "u1", "C")
    assert _handler.last_failure() == (errno.ENOMEM, 1 << 44)


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_interpreter_exit_with_live_arrays():
    result = run_python(
        """
        import atexit, sys, threading
        import numpy as np
        import hpcalloc.memory.arrays as arrays
        keep = [arrays.zeros(n) for n in (1, 1000, 1_000_000)]
        sys.modules["kept"] = keep           # freed late in finalisation, or never
        class Cycle:
            def __init__(self):
                self.me, self.data = self, arrays.ones(100_000)
            def __del__(self):
                self.data = None
        Cycle()
        holder = threading.local()
        holder.array = arrays.ones(50_000)
        thread = threading.Thread(target=lambda: setattr(holder, "array", arrays.ones(9)), daemon=True)
        thread.start()
        atexit.register(lambda: keep.append(arrays.ones(70_000)))
        print("done")
        """
    )
    assert result.stdout == "done\n"
    assert result.stderr == ""
    assert result.returncode == 0


def test_fork_child_allocates():
    result = run_python(
        """
        import os, threading, warnings
        import hpcalloc.memory.arrays as arrays
        warnings.simplefilter("ignore")  # Python's own, on forking with threads
        from hpcalloc._native import _handler
        stop = False
        def churn():
            while not stop:
                arrays.ones(20_000)
        thread = threading.Thread(target=churn)
        thread.start()
        kept = arrays.ones(300_000)
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                a = arrays.full(300_000, 2.0)
                ok = a.sum() == 600_000 and kept.sum() == 300_000
                os._exit(0 if ok and len(_handler.live_blocks()[0]) >= 2 else 1)
            assert os.waitpid(pid, 0)[1] == 0
        stop = True
        thread.join()
        """
    )
    assert result.stderr == ""
    assert result.returncode == 0


def test_secure_mode_from_python():
    code = """
        import sys
        import numpy as np
        import hpcalloc.memory.arrays as arrays
        from hpcalloc._native import lib, stats_dict
        kept = [arrays.full(n, n) for n in (1, 8, 100, 5000, 300_000) for _ in range(20)]
        with_temporaries = sum(float((a * 2 + 1).sum()) for a in kept)
        assert with_temporaries == sum(a.size * (2.0 * a.size + 1) for a in kept)
        del kept
        assert lib.numalloc_verify() == 0
        print(stats_dict()["options"]["secure"], stats_dict()["total"]["lost_blocks"])
        sys.stdout.flush()
        p = lib.numalloc(64)
        lib.numalloc_free(p + 16)  # an inner pointer of the thread's own page
        """
    result = run_python(code, NUMALLOC_SECURE="1")
    assert (result.returncode, result.stdout) == (-signal.SIGABRT, "True 0\n")
    assert "is not the start of a block" in result.stderr
    assert run_python(code, NUMALLOC_SECURE="0").stdout == "False 0\n"


def test_privileged_programs_read_no_options(tmp_path):
    """Options name files to write and a command to run; who starts a setuid program may do less than it."""
    build = pathlib.Path(__file__).parents[1] / "build/native/bin"
    program, told = tmp_path / "program", tmp_path / "id"
    shutil.copy(build / "stress", program)  # has the library linked in
    shutil.copy("/usr/bin/id", told)
    command = [program, "--threads", "1", "--operations", "1"]
    environment = {**os.environ, "NUMALLOC_STATS": "1"}

    def said():
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        assert " 0 errors" in done.stdout
        return done.stderr

    assert '"allocations"' in said()
    if os.geteuid() != 0:  # there is no other user to be
        return
    tmp_path.chmod(0o755)
    for file in (program, told):
        os.chown(file, 65534, -1)
        file.chmod(0o4755)
    if subprocess.run([told, "-u"], capture_output=True, text=True, check=True).stdout.strip() == "65534":
        assert said() == ""  # elsewhere (nosuid, no_new_privs) it has no more rights than we


def test_a_program_that_limits_its_address_space_goes_on() -> None:
    program = """
import resource, threading
import hpcalloc
kept = hpcalloc.ones(1000)
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
thread = threading.Thread(target=hpcalloc.ones, args=(100_000,))
thread.start()
thread.join()
import decimal  # loads a library
assert hpcalloc.ones(10_000_000).sum() == 10_000_000 and kept.sum() == 1000
try:
    hpcalloc.empty(1 << 30)
except MemoryError:
    print("ok")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr


def test_c_programs_find_header_and_library(tmp_path):
    source = tmp_path / "a.c"
    source.write_text(
        "#include <numa_alloc.h>\nint main(void) { void *p = numalloc(100); numalloc_free(p); return p == 0; }"
    )
    library, program = hpcalloc.get_library(), tmp_path / "a"
    command = ["cc", f"-I{hpcalloc.get_include()}", source, "-o", program, library]
    subprocess.run([*command, f"-Wl,-rpath,{os.path.dirname(library)}"], check=True)
    assert subprocess.run([program], check=False).returncode == 0
