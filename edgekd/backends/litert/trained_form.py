"""Our quantized graph in the words of LiteRT's converter: the same steps, the same codes less 128."""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import fx

from edgekd.backends.executorch import trained_form
from edgekd.backends.executorch.writing import constant


def rewrite(module: fx.GraphModule) -> None:
    """Replace `edgekd.qdq` and `edgekd.dq` by `quantized_decomposed` operators, in place.

    As for ExecuTorch (int8 activations, a layer whose result is not quantized stays in float), but with
    float weights that are quantized in the graph: LiteRT's converter refuses integers as constants. It finds
    the codes again, since each weight is a code times its step.
    """
    trained_form.rewrite(module)
    for node in list(module.graph.nodes):
        if node.target is torch.ops.quantized_decomposed.dequantize_per_channel.default:
            _quantize_in_graph(module, node)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def _quantize_in_graph(module: fx.GraphModule, node: fx.Node) -> None:
    codes, step, *form = node.args
    assert isinstance(codes, fx.Node) and isinstance(step, fx.Node)
    values, steps = attrgetter(str(codes.target))(module), attrgetter(str(step.target))(module)
    with module.graph.inserting_before(node):
        weight = constant(module, values.float() * steps.view([-1] + [1] * (values.ndim - 1)))
        quantized = module.graph.call_function(
            torch.ops.quantized_decomposed.quantize_per_channel.default, (weight, step, *form)
        )
    quantized.meta = dict(node.meta)
    node.replace_input_with(codes, quantized)
