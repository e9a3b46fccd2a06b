"""What an engine holds, read from the inspector's JSON in the forms of TensorRT 10 and 11 (by hand)."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.backends.tensorrt.tensorrt_layers import precision_of, summarize
from edgekd.backends.tensorrt.tensorrt_settings import Settings

CONVOLUTION = {
    "Name": "conv1.weight + DequantizeLinear_2 + Conv_3 + Relu_4",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "q", "Dimensions": [1, 4, 8, 8], "Format/Datatype": "Int8"}],
    "Outputs": [{"Name": "y", "Format/Datatype": "Int8"}],
    "Weights": {"Type": "Int8", "Count": 288},
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
    "Metadata": "[ONNX Layer: Conv_3]\x1e[ONNX Layer: Relu_4]",
}
PRODUCT = {
    "Name": "__myl_Fc_myl0_0",
    "LayerType": "gemm",
    "Inputs": [{"Name": "x", "Format/Datatype": "Half"}],
    "Metadata": "[ONNX Layer: Gemm_59]",
}
REFORMAT = {"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "FP32"}]}
NOTHING = {"Name": "nothing", "LayerType": "NoOp"}
LAYERS = [REFORMAT, CONVOLUTION, PRODUCT, NOTHING]
TEN = {"Layers": LAYERS, "Bindings": ["input", "logits"]}
ELEVEN = {
    "Layers": LAYERS,
    "I/O Tensors": [
        {"Name": "input", "IOMode": "Input", "DataType": "Float"},
        {"Name": "logits", "IOMode": "Output", "DataType": "Float"},
    ],
}


@pytest.mark.parametrize("information", [TEN, ELEVEN])
def test_layers_are_counted_in_both_forms(information: dict[str, Any]) -> None:
    found = summarize(information, {"Conv_3": "int8", "Gemm_59": "fp16"}, Settings())
    assert found["ends"] == ["input", "logits"]
    assert found["ops"] == {"Reformat": 1, "CaskConvolution": 1, "gemm": 1}
    assert found["precisions"] == {"fp32": 1, "int8": 1, "fp16": 1}
    assert found["placement"] == {"GPU": 3}
    assert (found["unexpected"], found["untold"]) == ([], [])


def test_another_precision_than_the_files_is_unexpected() -> None:
    slow = {**CONVOLUTION, "Weights": {"Type": "Float"}, "TacticName": "sm80_xmma_fprop_f32f32_f32f32_f32"}
    found = summarize({"Layers": [slow]}, {"Conv_3": "int8"}, Settings())
    assert found["unexpected"] == ["Conv_3 is int8 in the file and runs in fp32 (CaskConvolution)"]


def test_tf32_is_unexpected_unless_it_was_asked_for() -> None:
    fast = {**CONVOLUTION, "Weights": {"Type": "Float"}, "TacticName": "sm80_xmma_fprop_tf32f32_tf32f32_f32"}
    expected = {"Conv_3": "fp32"}
    assert "runs in tf32" in summarize({"Layers": [fast]}, expected, Settings())["unexpected"][0]
    assert summarize({"Layers": [fast]}, expected, Settings(tf32=True))["unexpected"] == []


def test_what_no_layer_names_is_untold_and_not_taken_for_wrong() -> None:
    found = summarize(TEN, {"Conv_3": "int8", "Conv_33": "int8"}, Settings())
    assert (found["unexpected"], found["untold"]) == ([], ["Conv_33"])


def test_names_alone_tell_no_precision() -> None:
    found = summarize({"Layers": ["Conv_3 + Relu_4"], "Bindings": []}, {"Conv_3": "int8"}, Settings())
    assert found["precisions"] == {"?": 1}
    assert (found["unexpected"], found["untold"]) == ([], ["Conv_3"])


def test_what_runs_beside_the_dla_is_unexpected() -> None:
    dla = {"Name": "{ForeignNode[Conv_1...Relu_2]}", "LayerType": "DLA", "Metadata": "[ONNX Layer: Conv_1]"}
    information = {"Layers": [{**dla, "Inputs": [{"Format/Datatype": "Half"}]}, PRODUCT]}
    found = summarize(information, {"Conv_1": "fp16", "Gemm_59": "fp16"}, Settings(dla_core=0))
    assert found["placement"] == {"DLA": 1, "GPU": 1}
    assert found["unexpected"] == ["Gemm_59 runs on the GPU, DLA core 0 was asked for"]


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ("Row major linear FP32 format", "fp32"),
        ("Float", "fp32"),
        ("Half", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("BFloat16", "bf16"),
        ("FP8", "fp8"),
        ("Int32", "?"),
        ("", "?"),
    ],
)
def test_words_for_types_of_both_versions_are_known(words: str, precision: str) -> None:
    assert precision_of({"Inputs": [{"Format/Datatype": words}]}) == precision
    assert precision_of({"Inputs": [{"DataType": words}]}) == precision


@pytest.mark.parametrize("layer", [{}, {"Inputs": []}, {"Inputs": ["x"]}, {"Weights": 3, "Inputs": None}])
def test_a_layer_that_tells_nothing_is_no_error(layer: dict[str, Any]) -> None:
    assert precision_of(layer) == "?"
