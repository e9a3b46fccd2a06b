"""Where quantizers stand: follows a profile's data, one quantizer per tensor, shared by its readers."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn

from edgekd.backends.profile import Profile
from edgekd.core.errors import ModelError
from edgekd.quant.fake_quantization import ActivationQuantizer
from edgekd.quant.layers import quantized
from edgekd.quant.operations import kinds_of, nonnegative_nodes, tensor_inputs
from edgekd.quant.settings import QuantSettings

FOLDER = "activation_quantizers"
"""Path under which a prepared module holds its activation quantizers."""

_CEILINGS = {"relu6": 6.0, "sigmoid": 1.0, "hardsigmoid": 1.0}


def insert(graph_module: fx.GraphModule, profile: Profile, settings: QuantSettings) -> None:
    """Put quantizers into a folded module, in place.

    Raises `ModelError` for a module path in `float_modules` that does not exist, and for a quantized layer
    that is called more than once (its bias would need one grid per call).
    """
    _check_paths(graph_module, settings)
    kinds = kinds_of(graph_module, settings.float_modules)
    tensors = tensors_to_quantize(kinds, profile)
    _quantize_weights(graph_module, kinds, profile, settings)
    nonnegative = nonnegative_nodes(kinds)
    quantizers: dict[fx.Node, str] = {}
    for node in [node for node in kinds if node in tensors]:
        if kinds[node] in profile.shared:
            quantizers[node] = quantizers[tensor_inputs(node, kinds[node])[0]]
        else:
            quantizers[node] = f"{FOLDER}.{node.name}"
            grid = profile.nonnegative if node in nonnegative else profile.signed
            ceiling = _CEILINGS.get(kinds[node])
            module = ActivationQuantizer(grid, ceiling=ceiling, learn_step=settings.learn_steps)
            graph_module.add_submodule(quantizers[node], module)
    for node, path in quantizers.items():
        _insert_behind(graph_module.graph, node, path)
    graph_module.graph.lint()
    graph_module.recompile()


def tensors_to_quantize(kinds: dict[fx.Node, str], profile: Profile) -> set[fx.Node]:
    """The nodes whose output gets a quantizer."""
    found: set[fx.Node] = set()
    for node, kind in kinds.items():
        if kind in profile.inputs:
            found.update(_inputs_to_quantize(node, kinds, profile))
        if kind in profile.outputs:
            found.add(_behind_activation(node, kinds, profile))
    for node in reversed(list(kinds)):
        if node in found and kinds[node] in profile.shared:
            found.update(tensor_inputs(node, kinds[node])[:1])
    return {node for node in found if _readers(node)}


def expected_kernels(
    graph_module: fx.GraphModule, profile: Profile, settings: QuantSettings
) -> dict[str, int]:
    """int8 kernel -> how often the runtime must run it, from the structure of a prepared module."""
    kinds = kinds_of(graph_module, settings.float_modules)
    return dict(Counter(profile.kernels[kind] for kind in kinds.values() if kind in profile.kernels))


def computing_kinds(
    graph_module: fx.GraphModule, profile: Profile, settings: QuantSettings
) -> dict[str, int]:
    """Kind -> how many operations of it have quantized inputs, from the structure of a prepared module."""
    kinds = kinds_of(graph_module, settings.float_modules)
    return dict(Counter(kind for kind in kinds.values() if kind in profile.inputs))


def _check_paths(graph_module: fx.GraphModule, settings: QuantSettings) -> None:
    paths = [name for name, _ in graph_module.named_modules()]
    for path in settings.float_modules:
        if path not in paths:
            raise ModelError(f"`float_modules` names `{path}`, which is not in the network", choices=paths)


def _inputs_to_quantize(node: fx.Node, kinds: dict[fx.Node, str], profile: Profile) -> list[fx.Node]:
    inputs = tensor_inputs(node, kinds[node])
    if profile.inputs[kinds[node]] == "all":
        return inputs
    # Of the two branches of a residual addition the one that ends in a layer with weights computes; where
    # both do, the second is the projection of the shortcut.
    computing = [value for value in inputs if kinds[value] in profile.weights and len(value.users) == 1]
    return [value for value in inputs if value not in computing[:1]]


def _behind_activation(node: fx.Node, kinds: dict[fx.Node, str], profile: Profile) -> fx.Node:
    readers = list(node.users)
    if len(readers) == 1 and kinds[readers[0]] in profile.absorbed:
        return readers[0]
    return node


def _readers(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if user.op != "output"]


def _quantize_weights(
    graph_module: fx.GraphModule, kinds: dict[fx.Node, str], profile: Profile, settings: QuantSettings
) -> None:
    layers = [(str(node.target), kind) for node, kind in kinds.items() if kind in profile.weights]
    for path, count in Counter(path for path, _ in layers).items():
        if count > 1:
            raise ModelError(
                f"`{path}` is called {count} times", fix="give each call its own layer, or keep it in float"
            )
    for path, kind in layers:
        _replace(graph_module, path, profile.weights[kind], settings)


def _replace(graph_module: fx.GraphModule, path: str, bias_form: str, settings: QuantSettings) -> None:
    layer: nn.Module = graph_module.get_submodule(path)
    quantized(layer, settings.weight_bits, bias_form, learn_step=settings.learn_steps)  # type: ignore[arg-type]


def _insert_behind(graph: fx.Graph, node: fx.Node, path: str) -> None:
    readers = _readers(node)
    with graph.inserting_after(node):
        quantizer = graph.call_module(path, (node,))
    for reader in readers:
        reader.replace_input_with(node, quantizer)
