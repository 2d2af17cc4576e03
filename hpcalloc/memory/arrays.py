# SPDX-License-Identifier: BSD-3-Clause
"""NumPy's creation functions with a placement.

The arrays are plain ``numpy.ndarray`` objects that own their block. It is freed with the last reference to them
or to a view of them, by any thread, with or without an open context. They can be resized and pickled. Memory comes
from libnumalloc through a NumPy data handler (NEP 49), so its home does not depend on which thread touches it first.

Signatures are NumPy's, and `policy`. Three things differ: results are never of a subclass (``subok=True`` is
refused), `device` and `like` take only what means the same without them, and dtypes that hold references to
Python objects are refused.
"""

from __future__ import annotations

import errno
import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeVar

import numpy as np

from .. import _native
from .._native import _handler
from .._native.errors import error_for
from ..exceptions import NodeError
from ..policy import Policy, as_policy
from .handlers import handler_of, kind_nodes, make_handler, stripe_of

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "array",
    "as_dtype",
    "asarray",
    "current_policy",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "ones",
    "ones_like",
    "set_current_policy",
    "shortcut",
    "zeros",
    "zeros_like",
]

Shape = SupportsIndex | tuple[SupportsIndex, ...] | list[SupportsIndex]
Order = Literal["C", "F"] | None
OrderLike = Literal["C", "F", "A", "K"] | None
PolicyLike = Policy | str | None
Array = np.ndarray[Any, np.dtype[Any]]

_NUMPY_1 = np.__version__.startswith("1.")
_DIMS_MAX = 32 if _NUMPY_1 else 64
_ERRORS = (MemoryError, OverflowError, TypeError, ValueError)
_IF_NEEDED: Any = False if _NUMPY_1 else None  # numpy.array's copy=


# ---- policies and handlers ---------------------------------------------------------------------------


def current_policy() -> Policy:
    """Return the policy of arrays made without one: of the innermost open context, else `local`."""
    return _policy


def set_current_policy(policy: Policy) -> None:
    """Make `policy` the current one, for the whole process; contexts call this."""
    global _policy, _fast
    fast = None if policy.kind == "blocked" else handler_of(policy)
    _policy, _fast = policy, fast
    _handler.set_current(fast)


_policy = Policy("local")
_fast: object | None = handler_of(_policy)  # the current policy's handler; None: blocked, it needs the shape
_handler.set_current(_fast)


def _choose(
    call: str, policy: PolicyLike, shape: Any, dtype: Any, order: str | None, prototype: Array | None = None
) -> object:
    """Find the handler for an array; `prototype` gives what shape and dtype do not."""
    chosen = _policy if policy is None else as_policy(call, policy)
    if chosen.kind != "blocked":
        return handler_of(chosen)
    dims = prototype.shape if shape is None and prototype is not None else _index_tuple(shape)
    descr = prototype.dtype if dtype is None and prototype is not None else np.dtype(dtype)
    if prototype is not None:
        order = _like_order(prototype, order, len(dims))
        if order is None:
            raise ValueError(
                f"{call}: policy {policy} for axes that lie in memory in neither C nor F order; "
                "limit: C or F order; remedy: pass order='C'"
            )
    stripe = stripe_of(call, chosen, dims, descr.itemsize, order or "C")
    return handler_of(chosen) if stripe == 0 else make_handler(chosen, stripe)


def as_dtype(dtype: Any, prototype: Array | None = None) -> Any:
    """Return a dtype for C: an instance of a class of dtypes such as ``numpy.dtypes.Float64DType``, others unchanged."""
    if not (isinstance(dtype, type) and issubclass(dtype, np.dtype)):
        return dtype
    kind: Callable[[], Any] = dtype
    try:
        return kind()
    except TypeError:  # needs a length or a unit, which the prototype may have
        return (
            np.empty(0, dtype).dtype if prototype is None else np.empty_like(prototype, dtype, shape=0).dtype
        )


def _index_tuple(shape: Any) -> tuple[int, ...]:
    if hasattr(shape, "__index__"):
        return (operator.index(shape),)
    return tuple(operator.index(n) for n in shape)


def _like_order(prototype: Array, order: str | None, ndim: int) -> str | None:
    """Return the memory order of a like-array: "C", "F", or None for neither."""
    if order in ("C", "F"):
        return order
    if prototype.flags.c_contiguous or (order == "K" and (ndim <= 1 or ndim != prototype.ndim)):
        return "C"
    if prototype.flags.f_contiguous:
        return "F"
    return None if order == "K" else "C"


# ---- errors --------------------------------------------------------------------------------------------


def _explain(
    call: str, error: Exception, shape: Any, dtype: Any, order: Any, policy: PolicyLike
) -> Exception:
    """Return the exception to raise for an error in the creation of an array."""
    text = str(error)
    if isinstance(error, TypeError):
        if "limit:" in text or "order" in text:
            return error  # says it all already
        if "holds references" not in text:
            return TypeError(
                f"{call}: shape={shape!r}, dtype={dtype!r}: {text}; limit: an integer or a sequence of them, and a "
                "dtype of NumPy's"
            )
        return TypeError(
            f"{call}: dtype={np.dtype(dtype)} holds references to Python objects; limit: raw data only; "
            f"remedy: use numpy.{call} for it, or a dtype without object fields"
        )
    if isinstance(error, NodeError) or "limit:" in text:
        return error  # says it all already
    chosen = _policy if policy is None else as_policy(call, policy)
    where = f"{call}: shape={shape!r}, dtype={np.dtype(dtype)}, policy {chosen}"
    if isinstance(error, MemoryError):
        failure = _handler.last_failure()
        if failure is None:  # an object of Python's could not be had
            return error
        code, size = failure
        nodes = chosen.nodes
        if not nodes:
            nodes = (_native.current_node(),) if chosen.kind == "local" else _native.spread_nodes()
        if chosen.kind in _native.MEMORY_KINDS:
            nodes = kind_nodes(call, chosen)[0]
        only_nodes = code == errno.ENOMEM and chosen.strict and not _native.exceeded(size)
        return error_for(
            code,
            where,
            f"{size} bytes ({size / 2**30:.3g} GiB)",
            _native.describe_room(size, nodes),
            "name more nodes, or leave strict=True out: others serve then when these are full"
            if only_nodes
            else "",
        )
    if "order" in text:
        known = "'C', 'F', 'A' or 'K'" if call.endswith(("array", "_like")) else "'C' or 'F'"
        return ValueError(f"{call}: order={order!r}; limit: {known}")
    return ValueError(
        f"{where}: {text}; limit: at most {_DIMS_MAX} dimensions, none negative, less than 2**63 bytes in all"
    )


def _refuse(call: str, device: object, like: object, subok: object = False) -> None:
    """Raise if an argument that has no effect here has a value other than its default."""
    if device not in (None, "cpu"):
        raise ValueError(f"{call}: device={device!r}; limit: 'cpu'; remedy: omit it")
    if like is not None and type(like) is not np.ndarray:
        raise TypeError(
            f"{call}: like= a {type(like).__name__}; limit: numpy.ndarray; remedy: numpy.{call} takes others"
        )
    if subok:
        raise TypeError(
            f"{call}: subok=True; limit: plain arrays; remedy: omit it, then take a view(subclass)"
        )


# ---- arrays ---------------------------------------------------------------------------------------------
# Each tries the current policy's handler first; the rest is for other policies and for errors.

F = TypeVar("F", bound=Callable[..., Array])


def shortcut(function: F, closed: str | None = None) -> F:
    """Put the common calls of a creation function in front of it, in C: they take as long as NumPy's.

    With `closed`, it is a method, and that attribute of its object is False as long as it may be called.
    """
    short: F = _handler.shortcut(function, function.__name__, closed)
    functools.update_wrapper(short, function)
    return short


@shortcut
def empty(
    shape: Shape,
    dtype: npt.DTypeLike = float,
    order: Order = "C",
    *,
    device: str | None = None,
    like: object = None,
    policy: PolicyLike = None,
) -> Array:
    """Array of uninitialised values, as ``numpy.empty``.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : dtype-like, default float64
        Any but those that hold Python objects.
    order : {"C", "F"}
    device, like
        For NumPy's signature; only None, "cpu" and a ``numpy.ndarray`` are accepted.
    policy : Policy or str, optional
        Placement; by default `current_policy()`.

    Returns
    -------
    numpy.ndarray
        Owns its memory.

    Raises
    ------
    OutOfMemoryError
        There is not enough memory, or with a strict policy not on the nodes named.
    NodeError
        The policy names a node that this process may not use.
    ValueError
        A negative or overflowing shape, a bad order, a blocked axis that does not suit the shape.
    TypeError
        A shape that is not made of integers, a dtype that is none or holds Python objects.
    """
    if device is not None or like is not None:
        _refuse("empty", device, like)
    try:
        dtype = as_dtype(dtype)
        handler = (_fast if policy is None else None) or _choose("empty", policy, shape, dtype, order)
        return _handler.empty(handler, shape, dtype, order)
    except _ERRORS as error:
        raise _explain("empty", error, shape, dtype, order, policy) from None


@shortcut
def zeros(
    shape: Shape,
    dtype: npt.DTypeLike = float,
    order: Order = "C",
    *,
    device: str | None = None,
    like: object = None,
    policy: PolicyLike = None,
) -> Array:
    """Array of zeros, as ``numpy.zeros``; parameters and errors as of `empty`.

    Fresh pages are zero and have their home already: they are not touched here, unless the policy says so.
    """
    if device is not None or like is not None:
        _refuse("zeros", device, like)
    try:
        dtype = as_dtype(dtype)
        handler = (_fast if policy is None else None) or _choose("zeros", policy, shape, dtype, order)
        return _handler.zeros(handler, shape, dtype, order)
    except _ERRORS as error:
        raise _explain("zeros", error, shape, dtype, order, policy) from None


@shortcut
def ones(
    shape: Shape,
    dtype: npt.DTypeLike = float,
    order: Order = "C",
    *,
    device: str | None = None,
    like: object = None,
    policy: PolicyLike = None,
) -> Array:
    """Array of ones, as ``numpy.ones``; parameters and errors as of `empty`."""
    _refuse("ones", device, like)
    try:
        dtype = as_dtype(dtype)
        handler = (_fast if policy is None else None) or _choose("ones", policy, shape, dtype, order)
        result = _handler.empty(handler, shape, dtype, order)
    except _ERRORS as error:
        raise _explain("ones", error, shape, dtype, order, policy) from None
    np.copyto(result, 1, casting="unsafe")
    return result


@shortcut
def full(
    shape: Shape,
    fill_value: Any,
    dtype: npt.DTypeLike | None = None,
    order: Order = "C",
    *,
    device: str | None = None,
    like: object = None,
    policy: PolicyLike = None,
) -> Array:
    """Array filled with a value, as ``numpy.full``; parameters and errors as of `empty`.

    Parameters
    ----------
    fill_value : scalar or array-like
        Broadcast to `shape`.
    dtype : dtype-like, optional
        By default that of `fill_value`.
    """
    _refuse("full", device, like)
    if dtype is None:
        fill_value = np.asarray(fill_value)
        dtype = fill_value.dtype
    try:
        dtype = as_dtype(dtype)
        handler = (_fast if policy is None else None) or _choose("full", policy, shape, dtype, order)
        result = _handler.empty(handler, shape, dtype, order)
    except _ERRORS as error:
        raise _explain("full", error, shape, dtype, order, policy) from None
    np.copyto(result, fill_value, casting="unsafe")
    return result


def _like(
    call: str,
    prototype: Any,
    dtype: Any,
    order: str | None,
    shape: Any,
    policy: PolicyLike,
    zero: bool = False,
) -> Array:
    try:
        if type(prototype) is not np.ndarray:
            prototype = np.asarray(prototype)
        dtype = as_dtype(dtype, prototype)
        handler = _fast if policy is None else None
        if handler is None:
            handler = _choose(call, policy, shape, dtype, order, prototype)
        return _handler.like(handler, prototype, dtype, order, shape, zero)
    except _ERRORS as error:
        shape = prototype.shape if shape is None else shape
        dtype = prototype.dtype if dtype is None else dtype
        raise _explain(call, error, shape, dtype, order, policy) from None


@shortcut
def empty_like(
    prototype: npt.ArrayLike,
    dtype: npt.DTypeLike | None = None,
    order: OrderLike = "K",
    subok: bool = False,
    shape: Shape | None = None,
    *,
    device: str | None = None,
    policy: PolicyLike = None,
) -> Array:
    """Uninitialised array of the shape, dtype and layout of another, as ``numpy.empty_like``.

    Parameters
    ----------
    prototype : array-like
        Gives what `dtype` and `shape` do not say, and with order "K" the order of the axes in memory.
    dtype, order, shape, policy
        As of `empty`; order also "A" (F if the prototype is F-contiguous) and "K" (as the prototype).
    subok : bool
        Only False: the result is never of a subclass.
    device
        Only None or "cpu".

    Returns
    -------
    numpy.ndarray
        Owns its memory.

    Raises
    ------
    OutOfMemoryError, NodeError, ValueError, TypeError
        As of `empty`.
    """
    if device is not None or subok:
        _refuse("empty_like", device, None, subok)
    return _like("empty_like", prototype, dtype, order, shape, policy)


@shortcut
def zeros_like(
    a: npt.ArrayLike,
    dtype: npt.DTypeLike | None = None,
    order: OrderLike = "K",
    subok: bool = False,
    shape: Shape | None = None,
    *,
    device: str | None = None,
    policy: PolicyLike = None,
) -> Array:
    """Zeros in the shape, dtype and layout of another array, untouched as of `zeros`; see `empty_like`."""
    if device is not None or subok:
        _refuse("zeros_like", device, None, subok)
    return _like("zeros_like", a, dtype, order, shape, policy, zero=True)


@shortcut
def ones_like(
    a: npt.ArrayLike,
    dtype: npt.DTypeLike | None = None,
    order: OrderLike = "K",
    subok: bool = False,
    shape: Shape | None = None,
    *,
    device: str | None = None,
    policy: PolicyLike = None,
) -> Array:
    """Ones in the shape, dtype and layout of another array; see `empty_like`."""
    if device is not None or subok:
        _refuse("ones_like", device, None, subok)
    result = _like("ones_like", a, dtype, order, shape, policy)
    np.copyto(result, 1, casting="unsafe")
    return result


@shortcut
def full_like(
    a: npt.ArrayLike,
    fill_value: Any,
    dtype: npt.DTypeLike | None = None,
    order: OrderLike = "K",
    subok: bool = False,
    shape: Shape | None = None,
    *,
    device: str | None = None,
    policy: PolicyLike = None,
) -> Array:
    """Array filled with a value in the shape, dtype and layout of another; see `empty_like`."""
    if device is not None or subok:
        _refuse("full_like", device, None, subok)
    result = _like("full_like", a, dtype, order, shape, policy)
    np.copyto(result, fill_value, casting="unsafe")
    return result


@shortcut
def array(
    object: npt.ArrayLike,  # NumPy's name
    dtype: npt.DTypeLike | None = None,
    *,
    copy: bool | None = True,
    order: OrderLike = "K",
    subok: bool = False,
    ndmin: int = 0,
    ndmax: int = 0,
    like: Any = None,
    policy: PolicyLike = None,
) -> Array:
    """Array of the given data, as ``numpy.array``.

    Parameters
    ----------
    object : array-like
        Lists are first made an ordinary array, which is then copied to its place.
    copy : bool or None
        True: always a new array. None: `object` itself when it is an array of this policy that owns its
        memory and needs no change. False: as None, but ValueError where that needs a copy.
    ndmin : int
        Axes of length 1 are put in front until the array has as many dimensions.
    ndmax : int
        Sequences that are nested deeper are elements, 0: none is. Others than 0 need NumPy 2.4.
    dtype, order, subok, like, policy
        As of `empty_like`.

    Returns
    -------
    numpy.ndarray
        Owns its memory.

    Raises
    ------
    OutOfMemoryError, NodeError, ValueError, TypeError
        As of `empty`; ValueError also for ``copy=False`` where a copy is needed.
    """
    return _array("array", object, dtype, copy, order, subok, ndmin, ndmax, None, like, policy)


@shortcut
def asarray(
    a: npt.ArrayLike,
    dtype: npt.DTypeLike | None = None,
    order: OrderLike = None,
    *,
    device: str | None = None,
    copy: bool | None = None,
    like: Any = None,
    policy: PolicyLike = None,
) -> Array:
    """Array of the given data with as few copies as `array` with ``copy=None``, as ``numpy.asarray``.

    An array that NumPy made, or of another policy, is copied to where this policy has it. Parameters and errors are
    those of `array`.
    """
    return _array("asarray", a, dtype, copy, order, False, 0, 0, device, like, policy)


def _array(
    call: str,
    object: Any,
    dtype: Any,
    copy: bool | None,
    order: OrderLike,
    subok: bool,
    ndmin: int,
    ndmax: int,
    device: str | None,
    like: Any,
    policy: PolicyLike,
) -> Array:
    _refuse(call, device, like, subok)
    if order not in ("C", "F", "A", "K", None):
        raise ValueError(f"{call}: order={order!r}; limit: 'C', 'F', 'A' or 'K'")
    asked: dict[str, Any] = {"dtype": dtype, "copy": _IF_NEEDED, "order": order, "ndmin": ndmin}
    if ndmax:
        asked["ndmax"] = ndmax  # NumPy before 2.4 has no such parameter, and says so
    source: Array = np.array(object, **asked)
    if not copy:
        chosen = current_policy() if policy is None else as_policy(call, policy)
        mine = None if chosen.kind == "blocked" else handler_of(chosen)
        unchanged = source is object
        if unchanged and mine is not None and _handler.handler_of(source) is mine:
            return source
        if copy is not None:
            raise ValueError(
                f"{call}: copy=False for a {type(object).__name__}; limit: arrays of dtype {source.dtype} "
                f"made by hpcalloc with policy {chosen}; remedy: copy=None copies where it is needed"
            )
    result = _like(call, source, None, order, None, policy)
    np.copyto(result, source)
    return result
