import contextlib
import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.data.pickled_arrays import read_pickled_arrays


class Runs:
    """Unpickling this runs a command that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def nested(levels: int) -> list[Any]:
    value: list[Any] = [1]
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_lists_and_text_are_read_at_every_protocol(tmp_path: Path, protocol: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
    content = {b"data": data, "labels": [0, 1, 2, 300], b"names": [b"a", "b"], "batch": "one"}
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_pickled_arrays(path)
    np.testing.assert_array_equal(read["data"], data)
    assert (read["labels"], read["names"], read["batch"]) == ([0, 1, 2, 300], ["a", "b"], "one")


def test_a_python_2_file_is_read(tmp_path: Path) -> None:
    """The published files are of this form: protocol 2, `str` as bytes opcodes, NumPy's old module name."""
    path = tmp_path / "batch"
    path.write_bytes(
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04"
        b"K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x01\x02\x03\xfd\xfe\xfftb"
        b"U\x06labelsq\x07]q\x08(K\x05K\x06eu."
    )
    pickletools.dis(path.read_bytes(), out=io.StringIO())
    read = read_pickled_arrays(path)
    np.testing.assert_array_equal(read["data"], [[1, 2, 3], [253, 254, 255]])
    assert read["labels"] == [5, 6]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "batch", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"data": Runs(trace)}, protocol=protocol))
    with pytest.raises(DataError, match=r"refused: the name \w+\.system"):
        read_pickled_arrays(path)
    assert not trace.exists()


def test_a_permitted_name_is_not_called_with_other_arguments(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02}(U\x01acnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\ntRu.")
    with pytest.raises(DataError, match="not NumPy's way"):
        read_pickled_arrays(path)


@pytest.mark.parametrize(
    "content",
    [
        {"a": nested(60)},
        {"a": np.array([None], object)},
        {"a": np.array([1.5])},
        {"a": {"b": 1}},
        {"a": {1, 2}},
        {("k",) * 2: 1},
        ["no", "dictionary"],
        np.arange(3),
    ],
    ids=["lists doubled 60 times", "objects", "floats", "dict", "set", "tuple key", "list", "array"],
)
def test_anything_else_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match="refused"):
        read_pickled_arrays(path)


def test_a_file_cut_short_anywhere_is_an_error(tmp_path: Path) -> None:
    whole = pickle.dumps({"data": np.arange(4, dtype=np.uint8).reshape(2, 2), "labels": [1, 2]}, protocol=2)
    path = tmp_path / "batch"
    for keep in range(len(whole)):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError):
            read_pickled_arrays(path)


def test_random_bytes_raise_nothing_else(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "batch"
    for _ in range(300):
        path.write_bytes(b"\x80\x02}" + random.bytes(40) + b".")
        with contextlib.suppress(DataError):
            assert read_pickled_arrays(path) == {}
