"""What the linter finds, rule by rule, on graphs written by hand; needs no TensorRT."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgekd.backends.tensorrt.qdq_lint import ACCEPTED, REJECTED, as_facts, lint, rejected
from tests.backends.tensorrt.handmade import CASES

pytestmark = pytest.mark.backends

CLEAN = [
    "convolution",
    "float_graph",
    "half_graph",
    "half_scales",
    "opset_13",
    "opset_10_per_tensor",
    "weights_per_tensor",
    "depthwise",
    "weights_quantized_in_the_graph",
    "transposed_convolution",
    "residual",
    "classifier_gemm",
    "classifier_matmul",
    "concatenation",
    "scales_from_constant_nodes",
    "scale_through_identity",
    "weight_through_transpose",
    "float8",
    "negative_axis",
    "scale_of_shape_one",
    "zero_point_through_identity",
    "pad_with_float_value",
    "pad_with_quantized_value",
    "uint8_input_and_cast",
    "quantizers_in_a_branch",
]

FOUND = {
    "unsigned": (ACCEPTED, "unsigned"),
    "no_zero_point": (ACCEPTED, "unsigned"),
    "activation_per_channel": (ACCEPTED, "per-channel"),
    "weight_per_input_channel": (ACCEPTED, "weight-axis"),
    "gemm_per_input_feature": (ACCEPTED, "weight-axis"),
    "weight_in_float": (ACCEPTED, "half-quantized"),
    "activation_in_float": (ACCEPTED, "half-quantized"),
    "skip_in_float": (ACCEPTED, "skip"),
    "quantizer_before_relu": (ACCEPTED, "placement"),
    "int8_bias": (ACCEPTED, "bias"),
    "infinite_scale": (ACCEPTED, "scale"),
    "different_scales_around_codes": (ACCEPTED, "pair"),
    "contributed_quantizers": (ACCEPTED, "domain"),
    "opset_23": (ACCEPTED, "opset"),
    "zero_point": (REJECTED, "zero-point"),
    "weight_zero_point_of_one_channel": (REJECTED, "zero-point"),
    "zero_point_in_a_branch": (REJECTED, "zero-point"),
    "zero_point_in_a_function": (REJECTED, "zero-point"),
    "zero_point_is_an_input": (REJECTED, "zero-point"),
    "weight_unsigned": (REJECTED, "unsigned"),
    "uint8_input": (REJECTED, "unsigned"),
    "int32_bias": (REJECTED, "bias"),
    "negative_scale": (REJECTED, "scale"),
    "nan_scale": (REJECTED, "scale"),
    "scale_is_computed": (REJECTED, "scale"),
    "scale_count_does_not_fit": (REJECTED, "scale-count"),
    "int16": (REJECTED, "code-type"),
    "float8_e5m2": (REJECTED, "type"),
    "half_scales_on_float": (REJECTED, "mixed-types"),
    "qlinear_conv": (REJECTED, "operator"),
    "dynamic_quantization": (REJECTED, "operator"),
    "padded_codes": (REJECTED, "code-constant"),
    "pad_with_int8_value": (REJECTED, "number"),
    "transposed_codes": (REJECTED, "code-constant"),
    "unknown_domain": (REJECTED, "operator"),
}


@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_found_in_a_graph_as_tensorrt_wants_it(name: str) -> None:
    assert lint(CASES[name]()) == []


@pytest.mark.parametrize("name", FOUND)
def test_the_mistake_is_found_with_its_severity(name: str) -> None:
    found = {(finding.severity, finding.rule) for finding in lint(CASES[name]())}
    assert FOUND[name] in found, sorted(found)
    if FOUND[name][0] == ACCEPTED:
        assert REJECTED not in {severity for severity, _ in found}


def test_a_finding_names_the_node_and_says_what_why_and_the_fix() -> None:
    (finding,) = lint(CASES["int32_bias"]())
    assert finding.node == "DequantizeLinear_0"
    assert "int32" in finding.what and finding.why and "QuantizeBias=False" in finding.fix
    assert str(finding).startswith("rejected: DequantizeLinear_0: ")
    assert as_facts([finding])[0]["severity"] == "rejected"


def test_what_is_rejected_comes_first_and_once() -> None:
    found = lint(CASES["unsigned_zero_point"]())
    assert found[: len(rejected(found))] == rejected(found)
    assert len(set(found)) == len(found)


def test_a_file_is_linted_as_its_model_is(tmp_path: Path) -> None:
    model = CASES["zero_point"]()
    onnx.save(model, tmp_path / "a.onnx")
    assert lint(tmp_path / "a.onnx") == lint(model)
