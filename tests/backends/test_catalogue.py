"""Listing backends costs none of their libraries, and every description is true."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import MissingDependencyError, UsageError

HEAVY = ("torch", "onnx", "onnxruntime", "numpy")


def test_listing_and_describing_imports_no_heavy_library() -> None:
    script = (
        "import sys\nfrom edgekd.backends.catalogue import BACKENDS\n"
        "[BACKENDS.load(entry.name) for entry in BACKENDS]\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize("name", BACKENDS.names())
def test_a_backend_is_what_its_catalogue_says(name: str) -> None:
    backend = BACKENDS.load(name)
    assert backend.name == name
    assert backend.suffix.startswith(".")
    assert backend.runtime.is_file()
    try:
        assert len(backend.baseline_graph()) > 0
    except MissingDependencyError as error:
        assert backend.extra and backend.extra in str(error)
        pytest.skip(f"needs the extra `{backend.extra}`")


def test_an_unknown_backend_lists_the_choices() -> None:
    with pytest.raises(UsageError, match=r"close names: onnx(.|\n)*choices: onnx"):
        BACKENDS.load("onxx")
