"""The same trained integers with the quantizers of activations where another runtime wants them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from edgekd.quant.fake_quantization import ActivationQuantizer
from edgekd.quant.layers import QuantizedConv2d
from edgekd.quant.prepare import calibrate, finalize, prepare
from edgekd.quant.quantized_module import QuantizedModule


@torch.no_grad()
def placed_anew(module: QuantizedModule, profile: str, batches: Sequence[Tensor]) -> QuantizedModule:
    """A copy of a trained quantized network in another placement profile, finalized.

    The weights keep their learned steps, and with them their integers; the steps of activations are measured
    on `batches` (each `[B, C, H, W]`, preprocessed), because other tensors are quantized now. Raises
    `ModelError` and `DataError` as `prepare` and `calibrate` do.
    """
    settings = module.settings.model_copy(update={"profile": profile})
    placed = prepare(unquantized(module), settings, batches[0])
    calibrate(placed, batches)
    learned = {path: layer.weight_quantizer.step for path, layer, _ in module.layers()}
    for path, layer, _ in placed.layers():
        if path in learned:
            layer.weight_quantizer.step.copy_(learned[path])
    finalize(placed)
    return placed


def unquantized(module: QuantizedModule) -> fx.GraphModule:
    """A copy in float: the trained weights and biases, folded, without any quantizer."""
    taken = copy.deepcopy(module)
    for _, layer, _ in list(taken.layers()):
        plain = nn.Conv2d if isinstance(layer, QuantizedConv2d) else nn.Linear
        layer.__class__ = plain  # type: ignore[assignment]
        del layer.weight_quantizer, layer.bias_form
    for node in list(taken.graph.nodes):
        if node.op == "call_module" and isinstance(taken.get_submodule(node.target), ActivationQuantizer):
            node.replace_all_uses_with(node.args[0])
            taken.graph.erase_node(node)
    taken.delete_all_unused_submodules()
    return fx.GraphModule(taken, taken.graph).eval()
