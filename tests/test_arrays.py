# SPDX-License-Identifier: BSD-3-Clause
"""Array creation: NumPy's semantics, ownership, lifetimes, policies, refusals."""

import copy
import errno
import gc
import inspect
import os
import pickle
import threading

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

import hpcalloc
from hpcalloc import _native
from hpcalloc._native import _handler
from hpcalloc.memory import arrays, handlers

MIB = 1 << 20
MAKERS = (hpcalloc.empty, hpcalloc.zeros, hpcalloc.ones)
LIKES = (hpcalloc.empty_like, hpcalloc.zeros_like, hpcalloc.ones_like)
NODE = _native.node_ids()[0]
POLICIES = [
    None,
    "local",
    "interleave",
    hpcalloc.local(strict=True),
    hpcalloc.on_node(NODE),
    hpcalloc.on_node(NODE, strict=True, populate=True),
    hpcalloc.interleave(),
    hpcalloc.interleave([NODE]),
    hpcalloc.blocked(),
    hpcalloc.blocked(0, [NODE]),
]

dtypes = st.one_of(
    hnp.scalar_dtypes(),
    hnp.array_dtypes(subtype_strategy=hnp.scalar_dtypes(), max_size=3),
    st.sampled_from(["S", "U", "S7", "U3", "V5"]),
)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)


def ours(a):
    return type(a) is np.ndarray and a.flags.owndata and a.base is None and _handler.handler_of(a) is not None


def live():
    gc.collect()
    stats = _native.stats()
    return stats["allocations"] - stats["frees"]


# ---- NumPy's semantics ------------------------------------------------------------------------------


CREATORS = [n for n in arrays.__all__ if n in hpcalloc.__all__ and n != "current_policy"]
NEWER = {"device", "ndmax"}  # parameters that the oldest supported NumPy does not have


@pytest.mark.parametrize("name", CREATORS)
def test_signature_is_numpys(name):
    mine = dict(inspect.signature(getattr(arrays, name)).parameters)
    assert mine.pop("policy").kind is inspect.Parameter.KEYWORD_ONLY
    try:
        theirs = dict(inspect.signature(getattr(np, name)).parameters)
    except ValueError:  # NumPy does not tell
        return
    if name not in ("empty", "zeros", "ones", "full", "array", "asarray"):
        theirs.pop("like", None)
    for key in NEWER - set(theirs):
        mine.pop(key, None)
    if name == "asarray" and "copy" not in theirs:  # before NumPy 2
        mine.pop("copy")
    assert list(mine) == list(theirs)
    for key, parameter in theirs.items():
        assert mine[key].kind in (parameter.kind, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if key not in ("subok", "order", "dtype"):
            assert mine[key].default == parameter.default


DTYPE_CLASSES = [getattr(np.dtypes, n) for n in dir(np.dtypes) if n.endswith("DType")]


@pytest.mark.parametrize("kind", DTYPE_CLASSES, ids=lambda kind: kind.__name__)
def test_classes_of_dtypes(kind):
    """As NumPy 2, whatever it makes of a class: parametric ones have a default or are refused."""
    asked = kind
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":  # takes most classes for object
        try:
            asked = kind()
        except TypeError:
            return
    calls = [(n, (3,)) for n in ("empty", "zeros", "ones")] + [("full", (3, 1)), ("array", ([1, 0],))]
    calls += [(f"{n}_like", (np.ones(2),)) for n in ("empty", "zeros")]
    for name, arguments in calls:
        try:
            theirs = getattr(np, name)(*arguments, dtype=asked)
        except (TypeError, ValueError) as error:
            with pytest.raises(type(error)):
                getattr(hpcalloc, name)(*arguments, dtype=kind)
            continue
        if theirs.dtype.hasobject:
            with pytest.raises(TypeError, match="references"):
                getattr(hpcalloc, name)(*arguments, dtype=kind)
            continue
        mine = getattr(hpcalloc, name)(*arguments, dtype=kind)
        assert ours(mine)
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)


def test_ndmax():
    assert hpcalloc.array([[1, 2], [3, 4]], ndmax=0).shape == (2, 2)
    try:
        np.array([1], ndmax=1)
    except TypeError:  # before NumPy 2.4
        with pytest.raises(TypeError, match="ndmax"):
            hpcalloc.array([[1, 2], [3, 4]], ndmax=1)
        return
    with pytest.raises(TypeError, match="references"):  # its elements are lists
        hpcalloc.array([[1, 2], [3, 4]], dtype=object, ndmax=1)
    assert hpcalloc.array([1, 2], ndmax=1).tolist() == [1, 2]


def test_asarray():
    a = hpcalloc.asarray([1.0, 2.0])
    assert ours(a)
    assert hpcalloc.asarray(a) is a
    assert hpcalloc.asarray(a, float) is a
    assert hpcalloc.asarray(a, copy=True) is not a
    assert hpcalloc.asarray(a, "f4").dtype == np.float32
    assert hpcalloc.asarray([[1, 2], [3, 4]], order="F").flags.f_contiguous
    assert ours(hpcalloc.asarray(np.ones(3), device="cpu", like=np.ones(1)))
    assert ours(hpcalloc.asarray(5))
    with pytest.raises(ValueError, match=r"asarray: copy=False"):
        hpcalloc.asarray([1], copy=False)


@given(shape=shapes, dtype=dtypes, order=st.sampled_from(["C", "F"]))
@settings(max_examples=150, deadline=None)
def test_makers_as_numpy(shape, dtype, order):
    for name in ("empty", "zeros", "ones"):
        try:
            theirs = getattr(np, name)(shape, dtype, order)
        except (TypeError, ValueError) as error:  # a dtype that can't hold 1
            with pytest.raises(type(error)):
                getattr(hpcalloc, name)(shape, dtype, order)
            continue
        mine = getattr(hpcalloc, name)(shape, dtype, order)
        assert ours(mine)
        assert (mine.shape, mine.dtype, mine.strides) == (theirs.shape, theirs.dtype, theirs.strides)
        assert mine.flags.num == theirs.flags.num
        if name != "empty":
            assert mine.tobytes() == theirs.tobytes()


@given(
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    data=st.data(),
    order=st.sampled_from("CFAK"),
    dtype=st.sampled_from([None, "f4", "i8", "S3"]),
    shaped=st.sampled_from([None, (), 4, (2, 3), [0, 5], (3, 2, 2)]),
)
@settings(max_examples=200, deadline=None)
def test_likes_as_numpy(shape, data, order, dtype, shaped):
    axes = data.draw(st.permutations(range(len(shape))))
    prototype = np.arange(int(np.prod(shape)), dtype="i4").reshape(shape).transpose(axes)
    if data.draw(st.booleans()) and prototype.ndim:
        prototype = prototype[:: data.draw(st.sampled_from([-1, 2]))]
    for name in ("empty_like", "zeros_like", "ones_like"):
        theirs = getattr(np, name)(prototype, dtype, order, False, shaped)
        mine = getattr(hpcalloc, name)(prototype, dtype, order, False, shaped)
        assert ours(mine)
        assert (mine.shape, mine.dtype, mine.strides) == (theirs.shape, theirs.dtype, theirs.strides)
        if name != "empty_like":
            assert mine.tobytes("A") == theirs.tobytes("A")


@given(
    source=hnp.arrays(st.sampled_from(["f8", "i2", "S4", "?"]), hnp.array_shapes(max_dims=3, max_side=4)),
    order=st.sampled_from("CFAK"),
    ndmin=st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_array_as_numpy(source, order, ndmin):
    for given_ in (source, source.T, source[::-1], source.tolist()):
        theirs = np.array(given_, order=order, ndmin=ndmin)
        mine = hpcalloc.array(given_, order=order, ndmin=ndmin)
        assert ours(mine)
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
        assert mine.strides == theirs.strides or order in "AK"
        np.testing.assert_array_equal(mine, theirs)


def test_full():
    a = hpcalloc.full((2, 3), 7)
    assert a.dtype == np.full((2, 3), 7).dtype
    assert (a == 7).all()
    assert hpcalloc.full(3, 1.5, dtype="i4").tolist() == [1, 1, 1]
    assert hpcalloc.full((2, 2), [1, 2], order="F").tolist() == [[1, 2], [1, 2]]
    assert hpcalloc.full(2, b"ab").dtype == np.dtype("S2")
    assert hpcalloc.full_like(a, 3, dtype=float).tolist() == [[3.0] * 3] * 2
    assert ours(hpcalloc.full_like([1, 2], 9))
    with pytest.raises(ValueError, match="broadcast"):
        hpcalloc.full(3, [1, 2])


def test_defaults_and_odd_sizes():
    assert hpcalloc.empty(3).dtype == np.float64
    assert hpcalloc.zeros(()).shape == ()
    assert hpcalloc.ones(()) == 1.0
    for shape in (0, (0,), (3, 0, 5), (0, 0)):
        for make in MAKERS:
            a = make(shape)
            assert ours(a)
            assert a.size == 0
            a.resize(10, refcheck=False)
            assert a.shape == (10,)
    assert hpcalloc.zeros(4, "S").itemsize == 1
    assert hpcalloc.zeros(4, "V0").itemsize == np.zeros(4, "V0").itemsize
    assert hpcalloc.zeros(3, dtype=("f8", (2,))).shape == (3, 2)
    assert hpcalloc.zeros([np.int8(2), 1]).shape == (2, 1)
    point = np.dtype([("x", "f8"), ("tag", "S3"), ("m", "i4", (2, 2))])
    a = hpcalloc.zeros(5, point)
    a["m"][2] = 4
    assert a.dtype == point
    assert a["m"].sum() == 16
    assert hpcalloc.zeros(2, "M8[ns]").dtype == np.dtype("M8[ns]")


def test_device_and_like():
    assert ours(hpcalloc.empty(3, device="cpu", like=np.empty(1)))
    assert ours(hpcalloc.zeros_like([1], device="cpu"))
    with pytest.raises(ValueError, match="device='gpu'"):
        hpcalloc.empty(3, device="gpu")
    with pytest.raises(TypeError, match="like"):
        hpcalloc.array([1], like=[])


def test_subclasses():
    class Sub(np.ndarray):
        pass

    sub = np.ones(3).view(Sub)
    assert ours(hpcalloc.empty_like(sub))
    assert ours(hpcalloc.array(sub))
    masked = np.ma.masked_array([1.0, 2.0], mask=[0, 1])
    assert ours(hpcalloc.zeros_like(masked))
    for call in (lambda: hpcalloc.empty_like(sub, subok=True), lambda: hpcalloc.array(sub, subok=True)):
        with pytest.raises(TypeError, match="subok=True.*remedy"):
            call()


def test_array_copy():
    a = hpcalloc.array([1.0, 2.0])
    assert hpcalloc.array(a) is not a
    assert hpcalloc.array(a, copy=None) is a
    assert hpcalloc.array(a, copy=False) is a
    for given_ in (a[:1], np.ones(3), [1, 2]):
        assert ours(hpcalloc.array(given_, copy=None))
        with pytest.raises(ValueError, match=r"copy=False.*remedy"):
            hpcalloc.array(given_, copy=False)
    assert hpcalloc.array(a, "f4", copy=None).dtype == np.float32
    other = hpcalloc.array(a, copy=None, policy=hpcalloc.on_node(NODE))
    assert other is not a
    assert hpcalloc.array(other, copy=None, policy=hpcalloc.on_node(NODE)) is other


def test_numpy_uses_them():
    a = hpcalloc.ones((100, 100))
    assert float((a @ a).trace()) == 10_000.0
    assert ours(a)
    assert not ours(a + a)  # a temporary of NumPy's own
    np.add(a, a, out=a)
    a.resize((50, 50), refcheck=False)
    assert a.sum() == 5000.0
    a.resize((400, 400), refcheck=False)
    assert a.sum() == 5000.0
    assert ours(a)


# ---- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (-1, ValueError),
        ((3, -2), ValueError),
        ((1 << 40, 1 << 40), ValueError),
        (1 << 62, ValueError),
        (1 << 70, ValueError),
        ((1,) * 100, ValueError),
        (1 << 58, hpcalloc.OutOfMemoryError),
        ("a", TypeError),
        (2.5, TypeError),
        ((2, "b"), TypeError),
    ],
)
def test_bad_shapes(make, shape, kind):
    before = live()
    for policy in (None, hpcalloc.interleave(), hpcalloc.blocked()):
        with pytest.raises(kind) as caught:
            make(shape, policy=policy)
        for part in (make.__name__, "shape=", "limit: ", str(shape)[:12]):
            assert part in str(caught.value)
    assert live() == before


@pytest.mark.parametrize(
    "dtype",
    [object, "O", [("a", "f8"), ("b", "O")], np.dtype(("O", (2,)))],
    ids=["object", "O", "struct", "sub"],
)
def test_references_are_refused(dtype):
    prototype = np.zeros(3)
    for call in (
        lambda: hpcalloc.empty(3, dtype),
        lambda: hpcalloc.zeros(3, dtype, policy="interleave"),
        lambda: hpcalloc.full(3, None, dtype),
        lambda: hpcalloc.empty_like(prototype, dtype),
        lambda: hpcalloc.ones_like(np.zeros(3, "O")),
    ):
        with pytest.raises(TypeError, match=r"references to Python objects.*limit.*remedy: use numpy\."):
            call()
    with pytest.raises(TypeError, match=r"remedy: use numpy\.array"):
        hpcalloc.array([object()])
    with pytest.raises(TypeError, match="full"):
        hpcalloc.full(3, None)


@pytest.mark.parametrize("order", ["Z", "A", 3])
def test_bad_order(order):
    with pytest.raises((TypeError, ValueError), match="order"):
        hpcalloc.empty(3, order=order)
    if order != "A":
        with pytest.raises((TypeError, ValueError), match="order"):
            hpcalloc.empty_like(np.zeros(3), order=order)
        with pytest.raises((TypeError, ValueError), match="order"):
            hpcalloc.array([3], order=order)


def test_bad_dtype():
    with pytest.raises(TypeError, match=r"empty: .*nonsense.*limit"):
        hpcalloc.empty(3, "nonsense")


def test_out_of_memory_names_everything():
    with pytest.raises(hpcalloc.OutOfMemoryError) as caught:
        hpcalloc.zeros((1 << 20, 1 << 30), policy=hpcalloc.on_node(NODE))
    assert isinstance(caught.value, MemoryError)
    for part in (
        "zeros: shape=(1048576, 1073741824)",
        str(1 << 53),
        f"on_node({NODE})",
        "limit: no block can have more than",
        f"node {NODE} has",
    ):
        assert part in str(caught.value)
    assert "remedy" not in str(caught.value)  # more memory than addresses: neither nodes nor strict matter


@pytest.mark.parametrize("strict", [True, False])
def test_the_remedy_is_for_what_was_asked(monkeypatch, strict):
    monkeypatch.setattr(_native, "exceeded", lambda size: "")
    monkeypatch.setattr(arrays._handler, "last_failure", lambda: (errno.ENOMEM, 1 << 30))
    policy = hpcalloc.on_node(NODE, strict=strict)
    error = arrays._explain("zeros", MemoryError(), 5, float, None, policy)
    assert isinstance(error, hpcalloc.OutOfMemoryError)
    assert ("strict=True" in str(error)) == strict


def test_bad_policies():
    absent = next(n for n in range(1023, 0, -1) if n not in _native.node_ids())
    with pytest.raises(hpcalloc.NodeError, match=f"node {absent}.*limit.*nodes"):
        hpcalloc.empty(3, policy=hpcalloc.on_node(absent))
    with pytest.raises(hpcalloc.NodeError, match=f"node {absent}"):
        hpcalloc.zeros(3, policy=hpcalloc.interleave([NODE, absent]))
    for call in (
        lambda: hpcalloc.on_node(-1),
        lambda: hpcalloc.on_node(1024),
        lambda: hpcalloc.interleave([]),
        lambda: hpcalloc.blocked(0, [5000]),
    ):
        with pytest.raises(hpcalloc.NodeError, match="limit.*remedy: (see|omit)"):
            call()
    for call in (
        lambda: hpcalloc.on_node("0"),
        lambda: hpcalloc.on_node(True),
        lambda: hpcalloc.on_node(1.0),
        lambda: hpcalloc.interleave(0),
        lambda: hpcalloc.blocked(0.5),
        lambda: hpcalloc.empty(3, policy=0),
    ):
        with pytest.raises(TypeError, match="limit: (an integer|a sequence|.*Policy)"):
            call()
    with pytest.raises(TypeError, match=r"strict='no'.*limit: True or False$"):
        hpcalloc.local(strict="no")
    for nodes in ((), (0, 1)):
        with pytest.raises(hpcalloc.NodeError, match=r"on_node with nodes=.*limit: one id$"):
            hpcalloc.Policy("on_node", nodes)
    with pytest.raises(ValueError, match=r"policy='first'.*limit.*hpcalloc.local\(\)"):
        hpcalloc.empty(3, policy="first")
    with pytest.raises(ValueError, match="kind"):
        hpcalloc.Policy("everywhere")


# ---- policies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("size", [0, 1, 100, 5000, 3 * MIB])
def test_policies_work(policy, size):
    before = live()
    for make in MAKERS:
        a = make(size, "u1", policy=policy)
        assert ours(a)
        a[...] = 5
        assert (hpcalloc.full_like(a, 5, policy=policy) == a).all()
        a.resize(2 * size + 3, refcheck=False)
        assert (a[:size] == 5).all()
        assert not a[size:].any()
    del a
    assert live() == before


def test_policy_values():
    assert hpcalloc.interleave([2, 0, 2]) == hpcalloc.interleave((0, np.int64(2)))
    assert hash(hpcalloc.on_node(3)) == hash(hpcalloc.on_node(3))
    assert str(hpcalloc.blocked(1, [0, 1], strict=True)) == "blocked(axis=1, 0, 1, strict)"
    policy = hpcalloc.on_node(NODE, strict=True)
    hpcalloc.empty(3, policy=policy)  # keeps its handler, which can't be pickled
    for clone in (pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy)):
        assert clone == policy
        assert ours(hpcalloc.empty(3, policy=clone))
    with pytest.raises(AttributeError):
        policy.kind = "local"


class TestStripe:
    """Blocked arrays on a machine of four nodes: what would be asked of the allocator."""

    @pytest.fixture(autouse=True)
    def _four_nodes(self, monkeypatch):
        monkeypatch.setattr(_native, "spread_nodes", lambda: (0, 1, 2, 3))

    def stripe(self, shape, axis, order="C", nodes=(), itemsize=8):
        policy = hpcalloc.Policy("blocked", nodes, axis)
        return handlers.stripe_of("empty", policy, shape, itemsize, order)

    def test_once(self):
        assert self.stripe((100, 100), 0) == 0
        assert self.stripe((1, 100_000), 1) == 0
        assert self.stripe((), 0) == 0
        assert self.stripe((0, 5), 0) == 0
        assert self.stripe((10_000, 10), -1, "F") == 0
        assert self.stripe((10, 10), 1, nodes=(2,)) == 0

    def test_every_row(self):
        assert self.stripe((10, 8, 4096), 1) == 8 * 4096 * 8
        assert self.stripe((10, 8, 4096), -1) == 4096 * 8
        assert self.stripe((4096, 8, 10), 0, "F") == 4096 * 8
        assert self.stripe((10, 4096), 1, nodes=(1, 3), itemsize=2) == 8192

    @pytest.mark.parametrize(
        ("shape", "axis", "match"),
        [
            ((10, 10), 2, "axis from -2 to 1"),
            ((10, 10), -3, "axis from -2 to 1"),
            ((10, 2047), 1, r"limit: a page .*axis=0\) or interleave"),
            ((10_000, 4096), 1, "makes 40000 parts; limit: 8192"),
        ],
    )
    def test_refused(self, shape, axis, match):
        with pytest.raises(ValueError, match=match):
            self.stripe(shape, axis)

    def test_layout_of_likes(self):
        prototype = np.zeros((4, 5, 6))
        for a, order, expected in (
            (prototype, "K", "C"),
            (prototype.T, "K", "F"),
            (prototype.T, "A", "F"),
            (prototype.T, "C", "C"),
            (prototype.transpose(1, 0, 2), "K", None),
            (prototype.transpose(1, 0, 2), "A", "C"),
        ):
            assert arrays._like_order(a, order, 3) == expected
        with pytest.raises(ValueError, match=r"neither C nor F order.*remedy: pass order='C'"):
            hpcalloc.empty_like(prototype.transpose(1, 0, 2), policy=hpcalloc.blocked())


def test_blocked_allocates_what_stripe_says():
    handler = arrays._choose("empty", hpcalloc.blocked(0), (100, 100), float, "C")
    assert _handler.describe(handler) == (_handler.BLOCKED, 0, None, 0, 0)
    a = hpcalloc.ones((16, 65536), policy=hpcalloc.blocked(1))
    assert a.sum() == a.size


# ---- lifetimes --------------------------------------------------------------------------------------


def test_no_leak_through_views_and_slices():
    before = live()
    for size in (10, 1000, MIB):
        a = hpcalloc.ones(size)
        views = [a[1:], a[::2], a.reshape(1, -1), a.view("i8"), memoryview(a), a.T]
        assert live() == before + 1
        del a
        assert live() == before + 1
        while views:
            views.pop()
        assert live() == before


def test_no_leak_through_pickle_and_copy():
    before = live()
    a = hpcalloc.array(np.arange(1000.0))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(a, protocol)), a)
    buffers = []
    data = pickle.dumps(a, protocol=5, buffer_callback=buffers.append)
    np.testing.assert_array_equal(pickle.loads(data, buffers=buffers), a)
    np.testing.assert_array_equal(copy.deepcopy(a), a)
    np.testing.assert_array_equal(copy.copy(a), a)
    buffers.clear()
    del a
    assert live() == before


def test_no_leak_through_cycles_and_exceptions():
    before = live()
    for _ in range(10):
        holder = [hpcalloc.ones(1000)]
        holder.append(holder)
    del holder
    with pytest.raises(ValueError, match="broadcast"):
        hpcalloc.full((3, 3), [1, 2])
    with pytest.raises((TypeError, ValueError)):
        hpcalloc.ones(3, "V0").resize(-1, refcheck=False)
    assert live() == before


def test_views_do_not_resize():
    a = hpcalloc.ones(1000)
    b = a[:10]
    with pytest.raises(ValueError, match="resize"):
        a.resize(2000)
    with pytest.raises(ValueError, match="resize"):
        b.resize(20)


# ---- the short way in C -----------------------------------------------------------------------------------


def outcome(make, arguments, keywords):
    """What a call gives, in values that can be compared."""
    try:
        a = make(*arguments, **keywords)
    except Exception as error:
        return type(error), str(error).split("GiB free")[0]
    assert type(a) is np.ndarray
    data = a.tobytes() if "empty" not in make.__name__ else b""
    return a.shape, a.dtype, a.strides, a.flags.num, ours(a), data


P = np.arange(6, dtype="f4").reshape(2, 3)
SHAPES = [8, (2, 3), [2, 3], (), 0, (3, 0), np.int32(3), True, -1, "x", 2**62, 2**70, None, (1,) * 70, (2.0,)]
DTYPES = [
    None,
    "f8",
    "f4",
    "?",
    "i1",
    "u2",
    float,
    int,
    bool,
    np.int8,
    np.dtype(">f8"),
    "F",
    "e",
    "S",
    "S3",
    "M8[s]",
]
DTYPES += [object, "nonsense", ("f8", (2,)), [("a", "f8")], np.dtypes.Float64DType, 3]
FILLS = [
    0,
    1,
    7,
    -1,
    300,
    2**40,
    2**70,
    1.5,
    1e300,
    float("nan"),
    True,
    1j,
    "a",
    None,
    [1, 2, 3],
    np.float32(2),
]
DATA = [
    P,
    P.T,
    P[::-1],
    P[:0],
    [1, 2],
    [[1.0], [2.0]],
    (1, 2.5),
    5,
    5.0,
    [],
    [[]],
    "text",
    ["a", "bc"],
    [object()],
]
DATA += [
    [[1], [2, 3]],
    None,
    2**70,
    True,
    np.float32(2),
    np.ones(2).view(np.recarray),
    np.array(["a"], object),
]


@pytest.mark.parametrize("name", CREATORS)
@pytest.mark.filterwarnings("ignore")
def test_short_way_and_long_way_agree(name):
    make = getattr(hpcalloc, name)
    long = make.__wrapped__
    of_shape = name in ("empty", "zeros", "ones", "full")
    first = SHAPES if of_shape else DATA
    fills = [(fill,) for fill in FILLS] if "full" in name else [()]
    key = next(iter(inspect.signature(make).parameters))
    calls = [((value, *fills[1 % len(fills)]), {}) for value in first]
    calls += [((first[1], *fill), {"dtype": dtype}) for dtype in DTYPES for fill in fills]
    calls += [((value, *fills[0], dtype), {}) for dtype in ("f8", int) for value in first]
    calls += [
        ((value, *fills[0]), {"order": order})
        for order in ("C", "F", "A", "K", None, "Z", 3)
        for value in first[:3]
    ]
    calls += [((), {key: first[1], **({"fill_value": 3} if "full" in name else {})})]
    calls += [
        ((first[1], *fills[0]), {k: v})
        for k, v in (("policy", "interleave"), ("like", P), ("like", 3), ("device", "cpu"))
    ]
    calls += [
        ((first[1], *fills[0]), {"none": 1}),
        ((), {}),
        ((first[1],) * 9, {}),
        ((first[1],), {key: first[1]}),
    ]
    calls += [((P, *fills[0]), {"subok": subok}) for subok in (False, True)]
    calls += [((P, *fills[0]), {"shape": shape}) for shape in (None, 4, (2, 3))]
    calls += [
        ((P,), {k: v}) for k, v in (("copy", None), ("copy", False), ("ndmin", 0), ("ndmin", 4), ("ndmax", 0))
    ]
    for arguments, keywords in calls:
        assert outcome(make, arguments, keywords) == outcome(long, arguments, keywords), (arguments, keywords)


def test_a_list_is_put_in_place_by_its_own_handler():
    """Arrays that NumPy makes of lists move to a block of ours; nothing of NumPy's is left or freed twice."""
    before = live()
    for size in (1, 100, 5000):
        for _ in range(50):
            a = hpcalloc.array(list(range(size)))
            a.resize(2 * size, refcheck=False)
            assert ours(a)
            assert a[:size].tolist() == list(range(size))
    del a
    assert live() == before
    with hpcalloc.numpy_allocator("interleave"):
        assert ours(hpcalloc.array([1, 2, 3]))


def test_short_way_is_a_function_to_others():
    for make in (getattr(hpcalloc, name) for name in CREATORS):
        assert pickle.loads(pickle.dumps(make)) is make
        assert copy.copy(make) is make
        assert make.__doc__
        assert make.__module__ == "hpcalloc.memory.arrays"


def test_short_way_has_the_current_policy():
    before = arrays.current_policy()
    try:
        arrays.set_current_policy(hpcalloc.on_node(NODE, strict=True))
        assert _native.block_info(hpcalloc.empty(8).ctypes.data).strict
        arrays.set_current_policy(hpcalloc.blocked())
        assert hpcalloc.zeros((4, 100)).sum() == 0
        arrays.set_current_policy(hpcalloc.blocked(3))
        with pytest.raises(ValueError, match="axis"):
            hpcalloc.empty((4, 4))
    finally:
        arrays.set_current_policy(before)
    assert not _native.block_info(hpcalloc.empty(8).ctypes.data).strict


def test_freed_in_another_thread():
    before = live()
    for size in (10, 5000, MIB):
        box = [hpcalloc.ones(size) for _ in range(20)]
        thread = threading.Thread(target=box.clear)
        thread.start()
        thread.join()
        made = []
        thread = threading.Thread(target=lambda size=size, made=made: made.append(hpcalloc.ones(size)))
        thread.start()
        thread.join()
        assert made.pop().sum() == size  # from a thread that is gone
    assert live() == before


def test_threads_at_once():
    before = live()
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        kept = []
        for _ in range(300):
            size = int(rng.choice([3, 100, 3000, 30_000, 300_000]))
            kept.append((hpcalloc.full(size, seed, policy=POLICIES[rng.integers(len(POLICIES))]), size))
            if len(kept) > 10:
                a, size = kept.pop(int(rng.integers(len(kept))))
                if a.size != size or not (a == seed).all():
                    failures.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert live() == before


@given(
    st.lists(
        st.tuples(st.sampled_from(["new", "del", "resize", "view"]), st.integers(0, 200_000)), max_size=40
    )
)
@settings(max_examples=50, deadline=None)
def test_any_sequence_leaves_nothing(steps):
    before = live()
    kept = []
    for what, size in steps:
        if what == "new" or not kept:
            kept.append(hpcalloc.full(size, 3, "u1"))
        elif what == "del":
            kept.pop(size % len(kept))
        elif what == "view":
            kept.append(kept[size % len(kept)][: size // 2])
        else:
            a = kept[size % len(kept)]
            old = a.size
            try:
                a.resize(size)
            except ValueError:  # a view, or viewed
                continue
            a[old:] = 3
        assert all((a == 3).all() for a in kept)
    kept.clear()
    a = None
    assert live() == before


def test_memory_is_flat():
    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def churn():
        for _ in range(200):
            hpcalloc.ones(MIB // 8 * 3)
            hpcalloc.zeros((100, 100))

    churn()
    before = resident()
    for _ in range(5):
        churn()
    assert resident() < before + 32 * MIB


def test_memory_is_spread_over_nodes_with_cpus_unless_others_are_named(monkeypatch):
    cpus = {0: 4, 1: 4, 2: 0}
    monkeypatch.setattr(_native, "node_ids", lambda: tuple(cpus))
    monkeypatch.setattr(_native, "node_info", lambda n: _native.NodeInfo(n, cpus[n], True, 1 << 30, 1 << 30))
    assert _native.spread_nodes() == (0, 1)
    for policy, nodes in (
        (hpcalloc.interleave(), (0, 1)), (hpcalloc.blocked(), (0, 1)), (hpcalloc.interleave([0, 2]), (0, 2)),
    ):  # fmt: skip
        made = []
        monkeypatch.setattr(_handler, "make_handler", lambda *words, made=made: made.append(words[3]))
        handlers.make_handler.__wrapped__(policy, 0)
        assert made == [nodes]
    cpus.update({0: 0, 1: 0})
    assert _native.spread_nodes() == (0, 1, 2)


def test_full_wants_a_value():
    for call in (hpcalloc.full, hpcalloc.full_like):
        for arguments in (((3,),), ((np.ones(2)),)):
            with pytest.raises(TypeError):
                call(*arguments)
    with pytest.raises(TypeError):
        hpcalloc.full(shape=3, dtype=float)
