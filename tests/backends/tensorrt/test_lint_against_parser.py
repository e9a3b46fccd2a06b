"""The linter rejects exactly the graphs that TensorRT-RTX's parser or builder refuses, or crashes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.tensorrt import oracle
from tests.backends.tensorrt.handmade import CASES
from tests.backends.tensorrt.oracle import Oracle

pytestmark = [
    pytest.mark.backends,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not oracle.is_there(), reason=oracle.REASON),
]

TOOLS = {
    "edgekd": "fp32; fp16; int8 for ONNX Runtime; int8 for TensorRT; int8 for TensorRT, classifier in float;"
    " int8 for TensorRT, 7 bits",
    "onnxruntime": "defaults of QDQ; unsigned activations; symmetric; symmetric, float bias;"
    " symmetric, float bias, per channel; as for TensorRT; float bias, asymmetric;"
    " unsigned symmetric, float bias;"
    " unsigned weights; int16 activations; dedicated pairs; only convolutions; only the classifier;"
    " operators, not Q/DQ; dynamic",
    "nncf": "performance; mixed; performance for a CPU",
    "modelopt": "int8 and float; int8 and half; float8 and half; int8 and float, wider; int8 and half, wider;"
    " float8 and half, wider",
}
NAMES = [(origin, name.strip()) for origin, names in TOOLS.items() for name in names.split(";")]


@pytest.fixture(scope="module")
def parser() -> Iterator[Oracle]:
    with oracle.opened() as one:
        yield one


@pytest.mark.parametrize("name", CASES)
def test_linter_and_builder_agree_on_graphs_written_by_hand(name: str, parser: Oracle) -> None:
    line = oracle.compared(parser, name, CASES[name], build=True, origin="hand-made")
    assert line["agree"], line


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("origin", "name"), NAMES)
def test_linter_and_builder_agree_on_graphs_of_tools(origin: str, name: str, parser: Oracle) -> None:
    graphs = pytest.importorskip("tests.backends.tensorrt.graphs", reason="needs torch", exc_type=ImportError)
    makers = {"edgekd": graphs.OURS, "onnxruntime": graphs.ONNX_RUNTIME, **graphs.others()}
    if origin not in makers:
        pytest.skip(f"needs {origin}")
    line = oracle.compared(parser, name, makers[origin][name], build=True, origin=origin)
    assert line["agree"], line
