"""Quantization of a trained network: prepare, calibrate, (train), finalize.

    quantized = prepare(network, settings, example)
    calibrate(quantized, batches)        # post-training quantization is this and `finalize`
    ...                                  # train `quantized` like any module
    finalize(quantized)                  # now torch computes what the artifact computes
    export(quantized, ...)               # edgekd.backends.onnx.export

Batch norm is folded before training, so nothing is folded, converted or re-estimated afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgekd.backends.profile import PROFILES
from edgekd.core.errors import DataError, ModelError
from edgekd.networks.tap import taps_of
from edgekd.quant.fake_quantization import ActivationQuantizer, WeightQuantizer
from edgekd.quant.folding import fold
from edgekd.quant.layers import round_bias
from edgekd.quant.observer import HistogramObserver
from edgekd.quant.placement import computing_kinds, expected_kernels, insert
from edgekd.quant.quantized_module import Notes, QuantizedModule
from edgekd.quant.settings import QuantSettings

_FOLDING_TOLERANCE = 1e-3
"""Of the largest logit. Folding in float32 stays below 1e-5; more means that the trace lost something."""


def quantized_copy(module: nn.Module, settings: QuantSettings) -> QuantizedModule:
    """A folded copy with quantizers that have not been calibrated: the structure alone.

    Raises `UsageError` for an unknown profile, `ModelError` for a network that cannot be traced or placed.
    """
    profile = PROFILES.load(settings.profile)
    graph_module, renames = fold(module)
    insert(graph_module, profile, settings)
    taps = taps_of(module)
    notes = Notes(settings, renames, renames.moved(taps), renames.lost(taps))
    return QuantizedModule.of(graph_module, notes)


def prepare(module: nn.Module, settings: QuantSettings, example: Tensor) -> QuantizedModule:
    """A folded copy of `module` with quantizers that observe. `module` is left as it is.

    example: `[B, C, H, W]`, preprocessed; the copy must agree on it with `module` in evaluation mode, else
    `ModelError` (folding would have changed the network).
    """
    _check_folding(module, example)
    prepared = quantized_copy(module, settings)
    _observe(prepared, True)
    return prepared.eval()


@torch.no_grad()
def calibrate(module: QuantizedModule, batches: Iterable[Tensor]) -> None:
    """Set every step and zero point from `batches` (each `[B, C, H, W]`, preprocessed), then quantize.

    Weights are in float while activations are observed. Raises `DataError` when there is no batch,
    `ModelError` naming the tensor that is not finite.
    """
    training = module.training
    module.eval()
    _observe(module, True)
    for batch in batches:
        _observe_batch(module, batch)
    for path, quantizer in module.quantizers():
        quantizer.set_range(*_observed_range(path, quantizer, module.settings.percentile))
    for _, layer, _ in module.layers():
        layer.weight_quantizer.fit(layer.weight)
    _observe(module, False)
    module.train(training)


@torch.no_grad()
def finalize(module: QuantizedModule) -> None:
    """Round every bias to the grid of its int8 kernel: from here on torch computes what the artifact does.

    Training may go on afterwards; biases are then float again, and `finalize` is needed again.
    """
    for path, layer, input_step in module.layers():
        if input_step is None:
            raise ModelError(f"the input of the quantized layer `{path}` has no quantizer")
        round_bias(layer, input_step)


def step_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The learned steps, which want no weight decay."""
    quantizers = (m for m in module.modules() if isinstance(m, ActivationQuantizer | WeightQuantizer))
    return [quantizer.step for quantizer in quantizers if quantizer.step.requires_grad]


def int8_operations(module: QuantizedModule) -> dict[str, int]:
    """Kind of operation -> how many of the network have quantized inputs, whatever runtime it ships to."""
    settings = module.settings
    return computing_kinds(module, PROFILES.load(settings.profile), settings)


def int8_kernels(module: QuantizedModule) -> dict[str, int]:
    """int8 kernel -> how often the profile's own runtime must run it if everything fused as the profile says.

    Empty where that runtime names its kernels itself.
    """
    settings = module.settings
    return expected_kernels(module, PROFILES.load(settings.profile), settings)


def _observe(module: QuantizedModule, observing: bool) -> None:
    for _, quantizer in module.quantizers():
        quantizer.observer = HistogramObserver() if observing else None
    for _, layer, _ in module.layers():
        layer.weight_quantizer.enabled = not observing


def _observe_batch(module: QuantizedModule, batch: Tensor) -> None:
    try:
        module(batch)
    except ValueError as error:
        raise ModelError(f"calibration: {error}", fix="check the weights and the images") from error


def _observed_range(path: str, quantizer: ActivationQuantizer, percentile: float) -> tuple[float, float]:
    assert quantizer.observer is not None
    try:
        return quantizer.observer.range(percentile)
    except ValueError as error:
        raise DataError(f"calibration of `{path}`: {error}", fix="give at least one batch") from error


@torch.no_grad()
def _check_folding(module: nn.Module, example: Tensor) -> None:
    training = module.training
    expected = module.eval()(example)
    module.train(training)
    actual = fold(module)[0](example)
    largest = float(expected.abs().max())
    if not bool(((actual - expected).abs() <= _FOLDING_TOLERANCE * max(largest, 1e-6)).all()):
        raise ModelError("folding batch norm changes what the network computes; it cannot be quantized")
