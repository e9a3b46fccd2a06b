"""Folding of batch norm, and removal of what does nothing at inference, before quantization."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeGuard

import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgekd.core.errors import ModelError
from edgekd.networks.tap import Tap, Taps, taps_of

_Norm = nn.BatchNorm1d | nn.BatchNorm2d
_Fuse = Callable[[nn.Conv2d | nn.Linear, _Norm], nn.Conv2d | nn.Linear]

_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)


@dataclass
class Renames:
    """Where the taps of the original network are after folding: original point -> its new one, or None where
    its value is gone. Points that are not in `points` stayed where they were.
    """

    points: dict[Tap, Tap | None] = field(default_factory=dict)

    def move(self, moves: dict[Tap, Tap | None]) -> None:
        """Record one rewrite, after those recorded before: a point may move several times."""
        for origin, point in self.points.items():
            if point is not None:
                self.points[origin] = moves.get(point, point)
        for origin, point in moves.items():
            self.points.setdefault(origin, point)

    def find(self, tap: Tap) -> Tap | None:
        """The point that now has the value which `tap` had."""
        return self.points.get(tap, tap)

    def moved(self, taps: Taps) -> Taps:
        """The taps that are left, at their new points."""
        found = {name: self.find(tap) for name, tap in taps.items()}
        return {name: tap for name, tap in found.items() if tap is not None}

    def lost(self, taps: Taps) -> tuple[str, ...]:
        """The names of the taps whose value no longer exists."""
        return tuple(name for name, tap in taps.items() if self.find(tap) is None)


class ChannelAffine(nn.Conv2d):
    """A batch norm that no convolution precedes (pre-activation networks), as a 1x1 depthwise convolution."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, fuse: _Fuse) -> ChannelAffine:
        channels = norm.num_features
        plain = cls(channels, channels, 1, groups=channels, bias=False)
        nn.init.ones_(plain.weight)
        fused = fuse(plain.eval(), norm.eval())
        assert isinstance(fused, cls)
        return fused


def _fused(layer: nn.Conv2d | nn.Linear, norm: _Norm) -> nn.Conv2d | nn.Linear:
    if isinstance(layer, nn.Conv2d):
        return fuse_conv_bn_eval(layer, norm)
    assert isinstance(norm, nn.BatchNorm1d)
    return fuse_linear_bn_eval(layer, norm)


def _fits(norm: object, layer: nn.Conv2d | nn.Linear) -> TypeGuard[_Norm]:
    return isinstance(norm, nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d)


def _unchanged(layer: nn.Conv2d | nn.Linear, norm: _Norm) -> nn.Conv2d | nn.Linear:
    return layer


def fold(module: nn.Module) -> tuple[fx.GraphModule, Renames]:
    """A copy of `module` as it is at inference, without batch norm, Identity and Dropout.

    Batch norm goes into the convolution or linear layer before it: with s = weight / sqrt(var + eps),
    w' = w * s and b' = (b - mean) * s + bias. Elsewhere it becomes a `ChannelAffine`. ReLUs lose `inplace`,
    so that taps before them stay readable. Raises `ModelError` for a network that cannot be traced.
    """
    return _folded(module, _fused)


def lost_taps(module: nn.Module) -> tuple[str, ...]:
    """The names of the taps whose value folding takes away. Nothing is computed: `module` may lie on `meta`.

    Raises `ModelError` as `fold` does.
    """
    return _folded(module, _unchanged)[1].lost(taps_of(module))


def _folded(module: nn.Module, fuse: _Fuse) -> tuple[fx.GraphModule, Renames]:
    graph_module = _traced(copy.deepcopy(module).eval())
    renames = Renames()
    for node in list(graph_module.graph.nodes):
        if _does_nothing(node, graph_module):
            _drop(node, graph_module, renames)
    uses = Counter(node.target for node in graph_module.graph.nodes if node.op == "call_module")
    for node in list(graph_module.graph.nodes):
        if isinstance(_module(node, graph_module), nn.BatchNorm1d | nn.BatchNorm2d):
            _fold_norm(node, graph_module, renames, uses, fuse)
    for child in graph_module.modules():
        if getattr(child, "inplace", False):
            child.inplace = False  # type: ignore[assignment]
    graph_module.delete_all_unused_submodules()
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module, renames


def _traced(module: nn.Module) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(module)
    except (fx.proxy.TraceError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"`{type(module).__name__}` cannot be traced: {error}",
            fix="write `forward` without control flow or Python numbers that depend on the input",
        ) from error


def _module(node: fx.Node, graph_module: fx.GraphModule) -> nn.Module | None:
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _does_nothing(node: fx.Node, graph_module: fx.GraphModule) -> bool:
    if isinstance(_module(node, graph_module), _IDENTITIES):
        return True
    is_dropout = node.op == "call_function" and node.target in (F.dropout, F.dropout2d)
    # torchvision's stochastic_depth(input, p, mode, training) is a function that fx does not look into.
    is_dropout |= getattr(node.target, "__name__", "") == "stochastic_depth"
    training = node.kwargs.get("training", node.args[-1] if len(node.args) > 1 else True)
    return is_dropout and training is False


def _drop(node: fx.Node, graph_module: fx.GraphModule, renames: Renames) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if node.op == "call_module":
        new = Tap(str(source.target), "output") if source.op == "call_module" else None
        renames.move({Tap(str(node.target), "input"): new, Tap(str(node.target), "output"): new})
    node.replace_all_uses_with(source)
    graph_module.graph.erase_node(node)


def _fold_norm(
    node: fx.Node,
    graph_module: fx.GraphModule,
    renames: Renames,
    uses: Counter[fx.node.Target],
    fuse: _Fuse,
) -> None:
    source, norm = node.args[0], _module(node, graph_module)
    assert isinstance(source, fx.Node)
    layer = _module(source, graph_module)
    alone = len(source.users) == 1 and uses[source.target] == 1 and uses[node.target] == 1
    if alone and isinstance(layer, nn.Conv2d | nn.Linear) and _fits(norm, layer):
        _replace(graph_module, str(source.target), fuse(layer, norm))
    elif isinstance(norm, nn.BatchNorm2d):
        _replace(graph_module, str(node.target), ChannelAffine.of(norm, fuse))
        return
    else:
        raise ModelError(
            f"the batch norm `{node.target}` does not follow a layer that it can be folded into",
            fix="put it right behind a linear or convolution layer that nothing else reads",
        )
    # The folded layer's output is what the norm's output was; its own old output no longer exists.
    layer_output, norm_path = Tap(str(source.target), "output"), str(node.target)
    renames.move({layer_output: None, Tap(norm_path, "input"): None, Tap(norm_path, "output"): layer_output})
    node.replace_all_uses_with(source)
    graph_module.graph.erase_node(node)


def _replace(graph_module: fx.GraphModule, path: str, module: nn.Conv2d | nn.Linear) -> None:
    if module.bias is not None:
        # torch's fusion freezes a bias that the layer did not have before.
        module.bias.requires_grad_(module.weight.requires_grad)
    parent, _, name = path.rpartition(".")
    setattr(graph_module.get_submodule(parent), name, module)
