"""What one candidate costs on paper: parameters, multiply-accumulates, activations, layers, stages.

The network runs once on PyTorch's meta device, which computes shapes and allocates no weights, and every
operator it dispatches is counted; so functional code is counted like modules are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from edgekd.core.config import Config
from edgekd.core.errors import EdgekdError, ModelError
from edgekd.core.spec import NetworkSpec
from edgekd.search.space import Candidate

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Build = Callable[[NetworkSpec], "nn.Module"]

CHANNEL_BLOCK = 8
"""Channels that one AVX2 register holds; runtimes compute whole blocks (ONNX Runtime's NCHWc does)."""

_WEIGHT_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 4, "int8": 1}
"""bf16: OpenVINO computes in it and stores float32."""
_CHANNEL_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 4, "int8": 4 + 4 + 1 + 4 + 4}
"""Per output channel: the bias; for int8 also scale and zero point of the weight and of the bias."""
_OPERATOR_BYTES: dict[Precision, int] = {"fp32": 250, "fp16": 250, "bf16": 250, "int8": 800}
"""Node, names and attributes; measured on exported graphs: 200-300 (fp32), 720-970 (ONNX Runtime's Q/DQ)."""


class StageFeatures(Config):
    """The layers that work at one spatial size; maxima are over those layers."""

    size: tuple[int, int]
    num_layers: int
    macs: int
    max_channels: int
    max_activation_elements: int


class Features(Config):
    """One image's cost. Counts are of elements or operations, never of bytes, unless the name says so."""

    num_parameters: int
    """All trainable numbers of the network as it trains, batch norm included."""
    num_weights: int
    """Weights of convolutions and linear layers: what is left, with one bias a channel, after folding."""
    num_channels: int
    """Output channels of all those layers together."""
    num_layers: int
    num_operators: int
    """Layers, additions, pools and activations: about the nodes of an unfused graph after folding."""
    macs: int
    depthwise_macs: int
    blocked_macs: int
    """MACs with channels rounded up to whole blocks of `CHANNEL_BLOCK`; depthwise layers excluded."""
    activation_elements: int
    """Outputs of all layers and additions: what is written to memory when activations are fused."""
    peak_activation_elements: int
    """The largest input plus output of one operator."""
    stages: tuple[StageFeatures, ...]

    def size_bytes(self, precision: Precision) -> int:
        """An estimate of the exported graph's file: weights, one bias a channel, and the graph itself."""
        weights = self.num_weights * _WEIGHT_BYTES[precision]
        channels = self.num_channels * _CHANNEL_BYTES[precision]
        return weights + channels + self.num_operators * _OPERATOR_BYTES[precision]

    def peak_activation_bytes(self, precision: Precision) -> int:
        """A lower bound of what activations need at once."""
        return self.peak_activation_elements * _WEIGHT_BYTES[precision]


class Operator(Config):
    """One operator that the network ran. Shapes are `[1, C, H, W]` or `[1, C]`."""

    name: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    """Elements of each activation it reads."""
    weight: tuple[int, ...] = ()
    """Shape of a layer's weight, output channels first: `[O, I / groups, kh, kw]` or `[O, I]`."""

    @property
    def positions(self) -> int:
        return math.prod(self.shape[2:])

    @property
    def macs(self) -> int:
        return math.prod(self.weight) * self.positions if self.weight else 0

    @property
    def depthwise(self) -> bool:
        return len(self.weight) == 4 and self.weight[1] == 1 and self.weight[0] > 1

    @property
    def blocked_macs(self) -> int:
        if not self.weight or self.depthwise:
            return 0
        outputs, inputs, *kernel = self.weight
        return _blocked(outputs) * _blocked(inputs) * math.prod(kernel) * self.positions


def _blocked(channels: int) -> int:
    return -(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK


def describe(candidate: Candidate, build: Build | None = None) -> Features:
    """The features of `candidate`; `build` defaults to the catalogue of networks (torch is imported here).

    Raises `ModelError` naming the candidate when its network cannot be built or run at its resolution.
    """
    with _named(candidate):
        return _features(_meta(candidate.spec, build or _catalogued()), candidate)


def describe_all(candidates: Sequence[Candidate], build: Build | None = None) -> dict[str, Features]:
    """Candidate id -> features, in the order given; a network is built once for all its resolutions."""
    modules: dict[str, nn.Module] = {}
    found: dict[str, Features] = {}
    for candidate in candidates:
        key = candidate.spec.model_dump_json()
        with _named(candidate):
            if key not in modules:
                modules[key] = _meta(candidate.spec, build or _catalogued())
            found[candidate.id] = _features(modules[key], candidate)
    return found


@contextmanager
def _named(candidate: Candidate) -> Iterator[None]:
    """Errors name the candidate; those of edgekd's own keep their text."""
    try:
        yield
    except EdgekdError:
        raise
    except Exception as error:
        height, width = candidate.resolution
        raise ModelError(
            f"the network does not run at {height}x{width}: {error}",
            where=f"candidate `{candidate.id}`",
            fix="take this depth, width or resolution out of the space",
        ) from error


def _meta(spec: NetworkSpec, build: Build) -> nn.Module:
    import torch

    with torch.device("meta"):
        return build(spec).to("meta").eval()


def _features(module: nn.Module, candidate: Candidate) -> Features:
    import torch

    image = torch.empty(1, candidate.spec.in_channels, *candidate.resolution, device="meta")
    with torch.device("meta"), torch.no_grad():
        operators = _record(module, image)
    return _summary(operators, sum(parameter.numel() for parameter in module.parameters()))


def _catalogued() -> Build:
    from edgekd.networks.catalogue import build

    return build


_LAYERS = {"convolution": (0, 1), "addmm": (1, 2), "mm": (0, 1), "linear": (0, 1)}
"""Operator -> positions of its activation and of its weight among its arguments."""
_FOLDED = frozenset({"native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training"})
_SHAPING = frozenset({"view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice"})
_BOOKKEEPING = frozenset({"empty", "detach", "alias", "clone", "select", "squeeze", "unsqueeze"})
_FREE = _FOLDED | _SHAPING | _BOOKKEEPING
"""Operators that folding removes or that compute nothing."""


def _record(module: nn.Module, image: Any) -> list[Operator]:
    """The operators that `module` runs on `image` `[1, C, H, W]`, in order."""
    from edgekd.search.recorder import Recorder

    operators: list[Operator] = []

    def note(name: str, args: Sequence[Any], shape: tuple[int, ...]) -> None:
        if name not in _FREE:
            operators.append(_operator(name, args, shape))

    with Recorder(note):
        module(image)
    return operators


def _operator(name: str, args: Sequence[Any], shape: tuple[int, ...]) -> Operator:
    if name not in _LAYERS:
        inputs = tuple(argument.numel() for argument in args if hasattr(argument, "numel"))
        return Operator(name=name.rstrip("_"), shape=shape, inputs=inputs)
    activation, weight = (args[position] for position in _LAYERS[name])
    weight_shape = tuple(weight.shape)
    if name in ("addmm", "mm"):
        weight_shape = weight_shape[::-1]
    return Operator(name=name, shape=shape, inputs=(activation.numel(),), weight=weight_shape)


def _summary(operators: list[Operator], num_parameters: int) -> Features:
    layers = [operator for operator in operators if operator.weight]
    written = [operator for operator in operators if operator.weight or operator.name == "add"]
    return Features(
        num_parameters=num_parameters,
        num_weights=sum(math.prod(layer.weight) for layer in layers),
        num_channels=sum(layer.weight[0] for layer in layers),
        num_layers=len(layers),
        num_operators=len(operators),
        macs=sum(layer.macs for layer in layers),
        depthwise_macs=sum(layer.macs for layer in layers if layer.depthwise),
        blocked_macs=sum(layer.blocked_macs for layer in layers),
        activation_elements=sum(math.prod(operator.shape) for operator in written),
        peak_activation_elements=max(
            (math.prod(operator.shape) + sum(operator.inputs) for operator in operators), default=0
        ),
        stages=_stages(layers),
    )


def _stages(layers: list[Operator]) -> tuple[StageFeatures, ...]:
    """The convolutions grouped by output size, in order of first use."""
    groups: dict[tuple[int, int], list[Operator]] = {}
    for layer in layers:
        if len(layer.shape) == 4:
            groups.setdefault((layer.shape[2], layer.shape[3]), []).append(layer)
    return tuple(
        StageFeatures(
            size=size,
            num_layers=len(group),
            macs=sum(layer.macs for layer in group),
            max_channels=max(layer.shape[1] for layer in group),
            max_activation_elements=max(math.prod(layer.shape) for layer in group),
        )
        for size, group in groups.items()
    )
