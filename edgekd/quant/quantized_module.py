"""A network with quantizers in it: trains like any module, and knows how it is exported."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx, nn

from edgekd.core.errors import ModelError
from edgekd.networks.tap import Taps
from edgekd.quant.fake_quantization import ActivationQuantizer
from edgekd.quant.folding import Renames
from edgekd.quant.layers import (
    ExportedConstant,
    ExportedLayer,
    ExportedQuantizer,
    QuantizedLayer,
    bias_codes,
)
from edgekd.quant.settings import QuantSettings

_NOTES = "edgekd"


@dataclass(frozen=True)
class Notes:
    """What a quantized module knows beside its weights."""

    settings: QuantSettings
    renames: Renames
    taps: Taps
    lost_taps: tuple[str, ...] = ()


class QuantizedModule(fx.GraphModule):
    """What `prepare` returns. Its `taps` are those of the network it was made from, at their new points."""

    @classmethod
    def of(cls, graph_module: fx.GraphModule, notes: Notes) -> QuantizedModule:
        """Takes the submodules of `graph_module` over."""
        module = cls(graph_module, graph_module.graph, class_name="QuantizedModule")
        # `meta` is what copies of an fx module carry along; other attributes get lost.
        module.meta[_NOTES] = notes
        return module

    @property
    def settings(self) -> QuantSettings:
        return self._notes.settings

    @property
    def renames(self) -> Renames:
        """Where the points of the original network are now."""
        return self._notes.renames

    @property
    def taps(self) -> Taps:
        return dict(self._notes.taps)

    @property
    def lost_taps(self) -> tuple[str, ...]:
        """The taps of the original network whose value folding took away."""
        return self._notes.lost_taps

    @property
    def _notes(self) -> Notes:
        return cast(Notes, self.meta[_NOTES])

    def quantizers(self) -> Iterator[tuple[str, ActivationQuantizer]]:
        """(path, quantizer) of every activation quantizer."""
        for path, module in self.named_modules():
            if isinstance(module, ActivationQuantizer):
                yield path, module

    def layers(self) -> Iterator[tuple[str, QuantizedLayer, Tensor | None]]:
        """(path, layer, step of its input) of every layer with quantized weights; None: input in float."""
        for node in self.graph.nodes:
            module = self.get_submodule(node.target) if node.op == "call_module" else None
            if isinstance(module, QuantizedLayer):
                yield str(node.target), module, self._step_of(node.args[0])

    def exportable(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A copy that computes the same with int8 weights and Q/DQ operators.

        dtype: of everything that is not an integer, steps among it; weights keep their values as far as steps
        of that type can tell them.
        Raises `ModelError` while quantizers still observe or biases are off their grid (`finalize` first).
        """
        copied = copy.deepcopy(self)
        for path, layer, step in list(copied.layers()):
            if step is None:
                raise ModelError(f"the input of the quantized layer `{path}` has no quantizer")
            _check_bias(path, layer, step)
            _set_module(copied, path, ExportedLayer(layer, step.detach()))
        for path, quantizer in list(copied.quantizers()):
            if quantizer.observer is not None:
                raise ModelError("the quantizers are not calibrated", fix="call `calibrate`, then `finalize`")
            _set_module(copied, path, ExportedQuantizer(quantizer))
        for module in copied.modules():
            if isinstance(module, ExportedConstant | ExportedQuantizer):
                module.convert(dtype)
        return copied.to(dtype)

    def _step_of(self, source: object) -> Tensor | None:
        if not isinstance(source, fx.Node) or source.op != "call_module":
            return None
        quantizer = self.get_submodule(str(source.target))
        return quantizer.bounded_step() if isinstance(quantizer, ActivationQuantizer) else None


@torch.no_grad()
def _check_bias(path: str, layer: QuantizedLayer, input_step: Tensor) -> None:
    if layer.bias is None:
        return
    codes, step = bias_codes(layer, input_step)
    if not torch.equal(codes * step, layer.bias):
        raise ModelError(f"the bias of `{path}` is not rounded to its grid", fix="call `finalize` first")


def _set_module(parent: nn.Module, path: str, module: nn.Module) -> None:
    folder, _, name = path.rpartition(".")
    setattr(parent.get_submodule(folder), name, module)
