"""Taps for networks that declare none: trace, give every activation its own module, find the stages.

A stage is a spatial size with a point through which everything passes, behind at least two convolutions of
that size (one alone is a stem). Its tap is the last such activation, or, where there is none, the last such
value. Networks without spatial stages (transformers) get `embedding` and `logits` alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from edgekd.core.errors import ModelError
from edgekd.networks.tap import Tap, Taps, activation, declare, head, linear

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.SiLU,
    nn.GELU,
    nn.ELU,
    nn.Mish,
    nn.Hardswish,
)

_AS_MODULES: dict[Any, type[nn.Module]] = {
    F.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    F.relu6: nn.ReLU6,
    F.silu: nn.SiLU,
    F.hardswish: nn.Hardswish,
}
"""Calls that become modules, so that their two ends can be tapped."""

_FLATTENS = (torch.flatten, "flatten")


class TracedNetwork(fx.GraphModule):
    """A traced network that keeps its taps when it is copied (`fx.GraphModule` drops plain attributes)."""

    taps: Taps

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedNetwork:
        duplicate = cast(TracedNetwork, super().__deepcopy__(memo))
        declare(duplicate, self.taps)
        return duplicate


class Tracer(fx.Tracer):
    """Keeps layers whose behavior depends on the training mode whole: tracing would freeze that mode."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__name__ in ("StochasticDepth", "DropPath") or super().is_leaf_module(
            m, module_qualified_name
        )


def traced(module: nn.Module, input_shape: tuple[int, int, int]) -> TracedNetwork:
    """`module` as a graph with taps; same weights under the same names. `input_shape` is (C, H, W), H = W.

    Raises `ModelError` where the network cannot be traced or has no final linear or convolution layer.
    """
    training = module.training
    try:
        graph = Tracer().trace(module.eval())
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} cannot be traced, so it has no taps: {error}",
            fix="declare them: `self.taps = {'embedding': Tap('fc', 'input'), ...}`",
        ) from error
    network = TracedNetwork(module, graph, type(module).__name__)
    _isolate(network)
    declare(network, _find_taps(network, input_shape))
    network.train(training)
    return network


def _isolate(network: fx.GraphModule) -> None:
    """One module per call, no activation in place, activations and flattening as modules."""
    seen: set[str] = set()
    for node in list(network.graph.nodes):
        if node.op == "call_module":
            _own_module(network, node, seen)
        elif node.op in ("call_function", "call_method"):
            _as_module(network, node)
    for layer in network.modules():
        if getattr(layer, "inplace", None) is True:
            layer.inplace = False  # type: ignore[assignment]
    network.graph.lint()
    network.recompile()


def _own_module(network: fx.GraphModule, node: fx.Node, seen: set[str]) -> None:
    path = str(node.target)
    layer = network.get_submodule(path)
    if path in seen and not list(layer.parameters()) and not list(layer.buffers()):
        node.target = _add(network, f"{path}_{node.name}", copy.deepcopy(layer))
    seen.add(str(node.target))


def _as_module(network: fx.GraphModule, node: fx.Node) -> None:
    if node.target in _AS_MODULES:
        _replace(network, node, _AS_MODULES[node.target]())
    elif node.target in _FLATTENS:
        _flatten_as_module(network, node)


def _flatten_as_module(network: fx.GraphModule, node: fx.Node) -> None:
    given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
    if given.get("start_dim", 0) == 1 and given.get("end_dim", -1) == -1:
        _replace(network, node, nn.Flatten())


def _replace(network: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    source = node.args[0] if node.args else node.kwargs["input"]
    path = _add(network, f"traced_{node.name}", layer)
    with network.graph.inserting_before(node):
        call = network.graph.call_module(path, (source,))
    node.replace_all_uses_with(call)
    network.graph.erase_node(node)


def _add(network: fx.GraphModule, path: str, layer: nn.Module) -> str:
    network.add_submodule(path, layer)
    return path


def _find_taps(network: fx.GraphModule, input_shape: tuple[int, int, int]) -> Taps:
    shapes = _shapes(network, input_shape)
    classifier = _classifier(network, shapes)
    taps = head(classifier) | {"logits": _logits(network, classifier)}
    for number, node in enumerate(_stage_ends(network, shapes, classifier), 1):
        taps |= _stage_taps(network, f"stage{number}", node)
    return taps


def _shapes(network: fx.GraphModule, input_shape: tuple[int, int, int]) -> dict[fx.Node, tuple[int, ...]]:
    """The shape of every tensor, from a pass without arithmetic."""
    shapes: dict[fx.Node, tuple[int, ...]] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                shapes[n] = tuple(result.shape)
            return result

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        Recorder(network).run(torch.empty(1, *input_shape))
    return shapes


def _classifier(network: fx.GraphModule, shapes: dict[fx.Node, tuple[int, ...]]) -> str:
    """The last linear or 1x1 convolution layer; it must make as many values as leave the network."""
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    num_classes = shapes[output][-1] if output in shapes else None
    for node in reversed(network.graph.nodes):
        if node.op == "call_module":
            layer = network.get_submodule(str(node.target))
            if isinstance(layer, nn.Linear | nn.Conv2d) and shapes[node][1] == num_classes:
                return str(node.target)
    raise ModelError("the network has no linear or convolution layer that could be its classifier")


def _logits(network: fx.GraphModule, classifier: str) -> Tap:
    """Where the output leaves: the classifier, or what follows it (SqueezeNet pools after it)."""
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    source = output.args[0]
    if isinstance(source, fx.Node) and source.op == "call_module":
        return Tap(str(source.target), "output")
    return Tap(classifier, "output")


def _stage_ends(
    network: fx.GraphModule, shapes: dict[fx.Node, tuple[int, ...]], classifier: str
) -> Iterator[fx.Node]:
    by_size: dict[int, list[fx.Node]] = {}
    for node in _cuts(network, shapes):
        if node.target == classifier:
            break
        shape = shapes[node]
        if len(shape) == 4 and shape[2] == shape[3] > 1:
            by_size.setdefault(shape[2], []).append(node)
    for size, nodes in by_size.items():
        if _num_convolutions(network, shapes, size, nodes[-1]) >= 2:
            active = [node for node in nodes if _is_activation(network, node)]
            yield (active or nodes)[-1]


def _cuts(network: fx.GraphModule, shapes: dict[fx.Node, tuple[int, ...]]) -> Iterator[fx.Node]:
    """The values through which everything passes, and which a module makes or takes, in order."""
    alive: dict[fx.Node, int] = {}
    for node in network.graph.nodes:
        for source in node.all_input_nodes:
            if source in alive:
                alive[source] -= 1
                if alive[source] == 0:
                    del alive[source]
        if node.op != "get_attr" and node.users:
            alive[node] = len(node.users)
        if list(alive) == [node] and node.op != "placeholder" and node in shapes and _point(node):
            yield node


def _point(node: fx.Node) -> Tap | None:
    if node.op == "call_module":
        return Tap(str(node.target), "output")
    takers = [user for user in node.users if user.op == "call_module"]
    return Tap(str(takers[0].target), "input") if takers else None


def _stage_taps(network: fx.GraphModule, name: str, node: fx.Node) -> Taps:
    if _is_activation(network, node):
        return activation(name, str(node.target))
    point = _point(node)
    return linear(name, point) if point else {}


def _is_activation(network: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), ACTIVATIONS)


def _num_convolutions(
    network: fx.GraphModule, shapes: dict[fx.Node, tuple[int, ...]], size: int, last: fx.Node
) -> int:
    """Convolutions that make maps of `size`, up to the node `last`."""
    number = 0
    for node in network.graph.nodes:
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), nn.Conv2d):
            number += shapes[node][2] == size
        if node is last:
            break
    return number
