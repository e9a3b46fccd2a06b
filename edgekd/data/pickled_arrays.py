"""Reading the arrays in a CIFAR "python version" file, which is a pickle, without unpickling it.

The opcodes are interpreted here: dicts, lists, tuples, bytes, text and integers are built, and the fixed
pattern by which NumPy writes an array is recognized by its shape. Nothing is imported and nothing is called;
any other opcode or name is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.core.errors import DataError

_MAX_BYTES = 1 << 30
_DTYPES = {"u1": np.uint8, "i8": np.int64, "i4": np.int32}
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NAMES = {
    **{(module, "_reconstruct"): "reconstruct" for module in _MODULES},
    **{(module, "_frombuffer"): "frombuffer" for module in ("numpy.core.numeric", "numpy._core.numeric")},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}
_INTEGERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"})
_TEXTS = frozenset(
    {
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINUNICODE8", "BYTEARRAY8"),
    }
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _RefusedError(Exception):
    pass


@dataclass
class _Name:
    """A permitted global; it stands for itself and is never resolved."""

    name: str


@dataclass
class _Dtype:
    code: str


@dataclass
class _Array:
    value: np.ndarray[Any, Any] | None = None


_MARK = object()


def read_pickled_arrays(path: Path) -> dict[str, Any]:
    """The dictionary in the file: text keys to uint8/int arrays, lists of integers or of text.

    Python 2 text, which may be bytes, is given as `str` (Latin-1). Raises `DataError` for a missing or
    truncated file and for a pickle that holds anything else.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _RefusedError(f"larger than {_MAX_BYTES >> 20} MB")
        value = _Machine().run(path.read_bytes())
        if not isinstance(value, dict):
            raise _RefusedError("holds no dictionary")
        return {str(_scalar(key)): _plain(entry) for key, entry in value.items()}
    except _RefusedError as error:
        raise DataError(
            f"refused: {error}",
            where=str(path),
            fix="use the binary version of the data set (a pickle can run code, so none is ever loaded)",
        ) from error
    except Exception as error:
        # Damaged bytes make the opcode reader raise almost anything.
        raise DataError(f"not a readable data file: {error}", where=str(path)) from error


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise _RefusedError("an array without content")
        return value.value
    if isinstance(value, list):
        return [_scalar(entry) for entry in value]
    return _scalar(value)


def _scalar(value: Any) -> int | str:
    # Lists within lists are not followed: shared ones could double in size at every level.
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, int | str):
        return value
    raise _RefusedError(f"a {type(value).__name__.lstrip('_')} where arrays, lists or text belong")


class _Machine:
    """A pickle machine of which only the harmless opcodes exist."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._handlers: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self._stack.append(_MARK),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "EMPTY_TUPLE": lambda _: self._stack.append(()),
            "TUPLE": lambda _: self._stack.append(tuple(self._to_mark())),
            "TUPLE1": lambda _: self._tuple(1),
            "TUPLE2": lambda _: self._tuple(2),
            "TUPLE3": lambda _: self._tuple(3),
            "DICT": lambda _: self._stack.append(_pairs(self._to_mark())),
            "LIST": lambda _: self._stack.append(self._to_mark()),
            "APPEND": lambda _: self._append([self._stack.pop()]),
            "APPENDS": lambda _: self._append(self._to_mark()),
            "SETITEM": lambda _: self._set_items(self._tail(2)),
            "SETITEMS": lambda _: self._set_items(self._to_mark()),
            "GLOBAL": lambda argument: self._global(*argument.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._global(*self._tail(2)),
            "REDUCE": lambda _: self._stack.append(_construct(*self._tail(2))),
            "BUILD": lambda _: _fill(self._stack[-2], self._stack.pop()),
            "MEMOIZE": lambda _: self._memo.__setitem__(len(self._memo), self._stack[-1]),
        }
        for name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._handlers[name] = lambda number: self._memo.__setitem__(number, self._stack[-1])
        for name in ("GET", "BINGET", "LONG_BINGET"):
            self._handlers[name] = lambda number: self._stack.append(self._memo[number])

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name in _INTEGERS or name in _TEXTS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in self._handlers:
                self._handlers[name](argument)
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise _RefusedError(f"the opcode {name}")
        return self._stack.pop()

    def _tail(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise _RefusedError("an opcode without operands")
        tail = self._stack[-count:]
        del self._stack[-count:]
        return tail

    def _tuple(self, count: int) -> None:
        self._stack.append(tuple(self._tail(count)))

    def _to_mark(self) -> list[Any]:
        entries = []
        while (entry := self._stack.pop()) is not _MARK:
            entries.append(entry)
        return entries[::-1]

    def _append(self, entries: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise _RefusedError("appending to what is no list")
        target.extend(entries)

    def _set_items(self, entries: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise _RefusedError("setting items of what is no dictionary")
        target.update(_pairs(entries))

    def _global(self, module: str, name: str) -> None:
        if (module, name) not in _NAMES:
            raise _RefusedError(f"the name {module}.{name}")
        self._stack.append(_Name(_NAMES[module, name]))


def _pairs(entries: list[Any]) -> dict[str | bytes, Any]:
    if not all(isinstance(key, str | bytes) for key in entries[::2]):
        raise _RefusedError("a key that is no text")
    return dict(zip(entries[::2], entries[1::2], strict=True))


def _construct(function: Any, arguments: Any) -> Any:
    """What NumPy's own constructor calls stand for."""
    kind = function.name if isinstance(function, _Name) else "?"
    if kind == "reconstruct" and arguments[0] == _Name("ndarray"):
        return _Array()
    if kind == "frombuffer":
        content, dtype, shape, order = arguments
        return _Array(_array(content, dtype, shape, order))
    if kind == "dtype" and isinstance(arguments[0], str):
        return _Dtype(arguments[0])
    if kind == "encode" and isinstance(arguments[0], str):
        return arguments[0].encode("latin-1")
    raise _RefusedError("a call that is not NumPy's way to write an array")


def _fill(target: Any, state: Any) -> None:
    """Give an array the state (version, shape, dtype, is Fortran order, bytes)."""
    if isinstance(target, _Dtype) and isinstance(state, tuple):
        if len(state) < 2 or state[1] not in ("|", "<"):
            raise _RefusedError("a dtype of another byte order")
        return
    if not isinstance(target, _Array) or not isinstance(state, tuple) or len(state) != 5:
        raise _RefusedError("state for what is no array")
    _, shape, dtype, is_fortran, content = state
    raw = content.encode("latin-1") if isinstance(content, str) else content
    target.value = _array(raw, dtype, shape, "F" if is_fortran else "C")


def _array(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    if (
        not isinstance(dtype, _Dtype)
        or dtype.code not in _DTYPES
        or not isinstance(content, bytes | bytearray)
    ):
        raise _RefusedError("an array of something else than bytes or integers")
    kind = np.dtype(_DTYPES[dtype.code])
    if order not in ("C", "F") or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise _RefusedError("an array whose shape is not integers")
    if len(content) != math.prod(shape) * kind.itemsize:
        raise _RefusedError(f"an array of {math.prod(shape)} elements in {len(content)} bytes")
    return np.frombuffer(content, kind).reshape(shape, order=order)
