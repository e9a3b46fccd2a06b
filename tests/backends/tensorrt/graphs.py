"""Graphs that tools make, for linter and parser: ours, ONNX Runtime's, NNCF's, Model Optimizer's."""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from edgekd.backends.onnx.export import INPUT, Half, export
from edgekd.backends.profile import PROFILES
from edgekd.backends.source import Source
from edgekd.backends.tensorrt.profile import TENSORRT
from edgekd.core.registry import Entry
from edgekd.networks.resnet_cifar import resnet_cifar
from edgekd.quant.prepare import calibrate, finalize, prepare
from edgekd.quant.settings import QuantSettings
from tests.backends.tensorrt.handmade import CASES

SHAPE = (3, 12, 12)
Maker = Callable[[], onnx.ModelProto]

os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_tests")


def all_graphs() -> Iterator[tuple[str, str, Maker]]:
    """(origin, name, function that makes the graph); the tools that are not installed are left out."""
    for origin, cases in {
        "hand-made": CASES,
        "edgekd": OURS,
        "onnxruntime": ONNX_RUNTIME,
        **others(),
    }.items():
        for name, make in cases.items():
            yield origin, f"{origin}/{name}", make


def others() -> dict[str, dict[str, Maker]]:
    found: dict[str, dict[str, Maker]] = {}
    if importlib.util.find_spec("nncf") is not None:
        found["nncf"] = NNCF
    if importlib.util.find_spec("modelopt") is not None:
        found["modelopt"] = MODEL_OPTIMIZER
    return found


# ---- edgekd --------------------------------------------------------------------------------------


def network(width: float = 0.25) -> nn.Module:
    torch.manual_seed(0)
    return resnet_cifar(num_classes=4, in_channels=3, depth=8, width=width).eval()


def images(count: int = 8) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def quantized(profile: str, **settings: Any) -> nn.Module:
    if profile == TENSORRT.name and profile not in PROFILES.names():
        PROFILES.add(Entry(profile, "edgekd.backends.tensorrt.profile:TENSORRT", "TensorRT"))
    module = prepare(network(), QuantSettings(profile=profile, **settings), images())
    calibrate(module, [images()])
    finalize(module)
    return module


@functools.cache
def float_bytes(width: float = 0.25) -> bytes:
    return exported(Source(network(width), SHAPE))


def exported(source: Source) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export(source, path)
        return path.read_bytes()


def _half_around(**settings: Any) -> onnx.ModelProto:
    module = Half(quantized("tensorrt", **settings).exportable(torch.float16))  # type: ignore[operator]
    return onnx.load_from_string(exported(Source(module, SHAPE, precision="int8")))


def _ours(precision: Any, profile: str | None = None, **settings: Any) -> onnx.ModelProto:
    module = network() if profile is None else quantized(profile, **settings)
    return onnx.load_from_string(exported(Source(module, SHAPE, precision=precision)))


OURS: dict[str, Maker] = {
    "fp32": lambda: onnx.load_from_string(float_bytes()),
    "fp16": lambda: _ours("fp16"),
    "int8 for ONNX Runtime": lambda: _ours("int8", "ort_x86"),
    "int8 for TensorRT": lambda: _ours("int8", "tensorrt"),
    "int8 for TensorRT, classifier in float": lambda: _ours("int8", "tensorrt", float_modules=("linear",)),
    "int8 for TensorRT, 7 bits": lambda: _ours("int8", "tensorrt", weight_bits=7),
    "int8 for TensorRT, half around": lambda: _half_around(),
    "int8 for TensorRT, classifier in half": lambda: _half_around(float_modules=("linear",)),
}


# ---- ONNX Runtime --------------------------------------------------------------------------------


class _Reader:
    """What `quantize_static` calls a CalibrationDataReader."""

    def __init__(self) -> None:
        self._batches = iter(images().numpy())

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._batches, None)
        return None if image is None else {INPUT: image[np.newaxis]}


def _static(extra: dict[str, Any] | None = None, **settings: Any) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    kinds = {
        name: QuantType[settings.pop(name)] if name in settings else default
        for name, default in (("activation_type", QuantType.QInt8), ("weight_type", QuantType.QInt8))
    }
    form = QuantFormat[settings.pop("quant_format", "QDQ")]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(float_bytes())
        quantize_static(
            source, target, _Reader(), quant_format=form, extra_options=extra or {}, **kinds, **settings
        )
        return onnx.load(str(target))


def _dynamic() -> onnx.ModelProto:
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(float_bytes())
        quantize_dynamic(source, target)
        return onnx.load(str(target))


_SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
_FLOAT_BIAS = {**_SYMMETRIC, "QuantizeBias": False}

ONNX_RUNTIME: dict[str, Maker] = {
    "defaults of QDQ": _static,
    "unsigned activations": lambda: _static(activation_type="QUInt8"),
    "symmetric": lambda: _static(_SYMMETRIC),
    "symmetric, float bias": lambda: _static(_FLOAT_BIAS),
    "symmetric, float bias, per channel": lambda: _static(_FLOAT_BIAS, per_channel=True),
    "as for TensorRT": lambda: _static({**_FLOAT_BIAS, "AddQDQPairToWeight": True}, per_channel=True),
    "float bias, asymmetric": lambda: _static({"QuantizeBias": False}),
    "unsigned symmetric, float bias": lambda: _static(_FLOAT_BIAS, activation_type="QUInt8"),
    "unsigned weights": lambda: _static(_FLOAT_BIAS, activation_type="QUInt8", weight_type="QUInt8"),
    "int16 activations": lambda: _static(_FLOAT_BIAS, activation_type="QInt16"),
    "dedicated pairs": lambda: _static({**_FLOAT_BIAS, "DedicatedQDQPair": True}),
    "only convolutions": lambda: _static(_FLOAT_BIAS, op_types_to_quantize=["Conv"]),
    "only the classifier": lambda: _static(_FLOAT_BIAS, op_types_to_quantize=["Gemm"]),
    "operators, not Q/DQ": lambda: _static(quant_format="QOperator"),
    "dynamic": _dynamic,
}


# ---- NNCF and Model Optimizer --------------------------------------------------------------------


def _nncf(preset: str, device: str) -> onnx.ModelProto:
    import nncf

    data = nncf.Dataset([{INPUT: image[np.newaxis]} for image in images().numpy()])
    model = onnx.load_from_string(float_bytes())
    made = nncf.quantize(
        model,
        data,
        preset=nncf.QuantizationPreset(preset),
        target_device=nncf.TargetDevice(device),
        subset_size=4,
    )
    assert isinstance(made, onnx.ModelProto)
    return made


NNCF: dict[str, Maker] = {
    "performance": lambda: _nncf("performance", "ANY"),
    "mixed": lambda: _nncf("mixed", "ANY"),
    "performance for a CPU": lambda: _nncf("performance", "CPU"),
}


def _model_optimizer(mode: str, precision: str, width: float = 0.25) -> onnx.ModelProto:
    """Of few channels it leaves most in float, so a wider network is quantized, too."""
    from modelopt.onnx.quantization import quantize

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(float_bytes(width))
        quantize(
            str(source),
            quantize_mode=mode,
            calibration_data=images().numpy(),
            calibration_eps=["cpu"],
            high_precision_dtype=precision,
            output_path=str(target),
        )
        return onnx.load(str(target))


MODEL_OPTIMIZER: dict[str, Maker] = {
    "int8 and float": lambda: _model_optimizer("int8", "fp32"),
    "int8 and half": lambda: _model_optimizer("int8", "fp16"),
    "float8 and half": lambda: _model_optimizer("fp8", "fp16"),
    "int8 and float, wider": lambda: _model_optimizer("int8", "fp32", 2.0),
    "int8 and half, wider": lambda: _model_optimizer("int8", "fp16", 2.0),
    "float8 and half, wider": lambda: _model_optimizer("fp8", "fp16", 2.0),
}
