"""What ONNX Runtime's optimizations make of a graph is compared with the graph as it is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx import runtime
from edgekd.backends.onnx.export import export
from edgekd.backends.onnx.optimization_check import TOLERANCE, answers, compared, difference
from edgekd.backends.source import Precision, Source
from edgekd.core.errors import ModelError
from edgekd.quant.prepare import calibrate, finalize, prepare
from edgekd.quant.settings import QuantSettings
from edgekd.testing.backend_contract import PREPROCESS, SIZE, inputs, network
from tests.backends.half_graph import half_graph

ONNX = BACKENDS.load("onnx")
IMAGES = np.random.default_rng(1).random((8, 3, 8, 8), np.float32) * 0.2


def half_source(precision: Precision = "fp16") -> Source:
    """What is checked is the file; of the source only its images and its precision matter."""
    return Source(nn.Identity(), (3, 8, 8), precision, calibration=lambda: iter([IMAGES]))


def test_a_graph_that_an_optimizer_breaks_is_found_and_the_optimizer_named(tmp_path: Path) -> None:
    path = half_graph(tmp_path / "half.onnx")
    as_written = answers(path, IMAGES, optimization="none")
    assert difference(answers(path, IMAGES), as_written) > 0.3, "this ONNX Runtime no longer has the defect"
    with pytest.raises(ModelError) as caught:
        compared(path, half_source())
    assert "level `basic`" in caught.value.what
    assert "`WeightBiasQuantization`" in caught.value.what
    assert "optimization: none" in str(caught.value.fix)


def test_the_same_graph_in_float32_is_not_accused(tmp_path: Path) -> None:
    facts = compared(half_graph(tmp_path / "float.onnx", np.float32), half_source("int8"))
    assert facts["largest_difference"] <= facts["tolerance"] == TOLERANCE["int8"]


def test_what_the_error_advises_helps(tmp_path: Path) -> None:
    path = half_graph(tmp_path / "half.onnx")
    as_written = answers(path, IMAGES, optimization="none")
    without = {"optimization.disable_specified_optimizers": "WeightBiasQuantization"}
    assert difference(answers(path, IMAGES, config=without), as_written) <= TOLERANCE["fp16"]


def test_a_level_that_is_none_is_refused(tmp_path: Path) -> None:
    path = half_graph(tmp_path / "half.onnx")
    with pytest.raises(runtime.FallbackError, match="none, basic, extended, all"):
        runtime.load(str(path), options={"optimization": "most"})


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_check_says_how_far_its_answers_move(precision: Precision, tmp_path: Path) -> None:
    metadata = {"preprocess": PREPROCESS.model_dump_json()}
    source = Source(network(), (3, SIZE, SIZE), precision, metadata=metadata)
    export(source, tmp_path / "a.onnx")
    told = ONNX.checked(source, tmp_path / "a.onnx")["optimized"]
    assert told["images"] == "8 random images"
    assert 0 <= told["largest_difference"] <= told["tolerance"] == TOLERANCE[precision]
    assert json.loads(json.dumps(told)) == told


def quantized(weight_bits: int) -> nn.Module:
    module = prepare(network(), QuantSettings(weight_bits=weight_bits), inputs()[:8])
    calibrate(module, torch.split(inputs(), 64))
    finalize(module)
    return module.eval()


def test_int8_is_compared_on_calibration_images(tmp_path: Path) -> None:
    def images() -> Iterator[npt.NDArray[np.float32]]:
        yield inputs().numpy()[:5]

    source = Source(quantized(7), (3, SIZE, SIZE), "int8", calibration=images)
    export(source, tmp_path / "a.onnx")
    told = ONNX.checked(source, tmp_path / "a.onnx")["optimized"]
    assert told["images"] == "5 calibration images"
    assert 0 < told["largest_difference"] <= told["tolerance"]


def test_saturation_of_this_processor_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of 8 bits overflow where there is no VNNI; the same kernels without that agree."""
    path = tmp_path / "a.onnx"
    source = Source(quantized(8), (3, SIZE, SIZE), "int8", calibration=lambda: iter([inputs().numpy()]))
    export(source, path)
    some = inputs().numpy()[:8]
    as_written = answers(path, some, optimization="none")
    here = difference(answers(path, some), as_written)
    precise = difference(answers(path, some, config={"session.x64quantprecision": "1"}), as_written)
    if here <= 2 * precise:
        pytest.skip("this processor does not saturate")
    monkeypatch.setitem(TOLERANCE, "int8", (here + precise) / 2)
    told = compared(path, source)
    assert told["saturates_here"] == pytest.approx(here, rel=0.1)
    assert told["largest_difference"] == pytest.approx(precise, rel=0.1)


def test_answers_that_are_not_finite_are_not_overlooked() -> None:
    expected = np.array([[1.0, 2.0]], np.float32)
    assert difference(np.array([[np.nan, 2.0]], np.float32), expected) == float("inf")
    assert difference(expected, expected) == 0.0
