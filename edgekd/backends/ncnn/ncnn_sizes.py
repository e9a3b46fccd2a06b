"""The sizes of what an ncnn layer gives and of the weights that it reads; Python 3.8 and newer.

Pushed to devices: imports nothing of edgekd.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Callable, List  # noqa: UP035 - typing's own, for Python 3.8

import ncnn

if TYPE_CHECKING or __package__:
    from .ncnn_text import ArtifactError, Block, Layer, Shape
else:  # on the device, where the files lie side by side
    from ncnn_text import ArtifactError, Block, Layer, Shape

_MAX_WINDOW = 1 << 12

_Rule = Callable[[Layer, List[Shape], List[Block]], List[Shape]]  # noqa: UP006
"""(layer, shapes that come in, blocks of the .bin to add to) -> shapes of the results."""


def shapes_of(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    if layer.kind not in _RULES:
        known = ncnn.layer_to_index(layer.kind) >= 0
        why = "ncnn has and edgekd cannot check" if known else "ncnn does not have"
        raise ArtifactError(f"layer `{layer.name}` is of the kind {layer.kind}, which {why}")
    rule, count, keys = _RULES[layer.kind]
    if len(inputs) != count and count >= 0:
        raise layer.error(f"takes {count} inputs, has {len(inputs)}")
    if not keys.issuperset(layer.params):
        raise layer.error(f"has parameters that it may not have: {sorted(set(layer.params) - keys)}")
    return rule(layer, inputs, blocks)


def _image(layer: Layer, shape: Shape) -> Shape:
    if len(shape) != 3:
        raise layer.error(f"takes (c, h, w), has {shape}")
    return shape


def _input(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    return [tuple(layer.whole(key, 0, 1) for key in (2, 1, 0))]


def _same(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    return [inputs[0]]


def _split(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    return inputs * len(layer.tops)


def _check_activation(layer: Layer) -> None:
    needed = (0, 0, 1, 2, 0, 0, 2)[layer.whole(9, 0, 0, 6)]
    if len(layer.array(10)) < needed:
        raise layer.error(f"its activation has fewer than {needed} parameters")


def _length(layer: Layer, size: int, window: tuple[int, int, int], pads: tuple[int, int]) -> tuple[int, int]:
    """(positions of a window (kernel, step, dilation) on an axis, what is left over behind the last one)."""
    kernel, step, dilation = window
    left = size + sum(pads) - (dilation * (kernel - 1) + 1)
    if left < 0:
        raise layer.error(f"its window of {kernel} does not fit on {size}")
    return left // step + 1, left % step


def _of_window(layer: Layer, key: int, other: int, default: int, low: int = 1) -> tuple[int, int]:
    """A parameter of columns and the one of rows, which is the same where it is not given."""
    columns = layer.whole(key, default, low, _MAX_WINDOW)
    return columns, layer.whole(other, columns, low, _MAX_WINDOW)


def _pads(layer: Layer, left: int, top: int, right: int, bottom: int) -> list[tuple[int, int]]:
    """((left, right), (top, bottom)) from the numbers of their parameters."""
    before, above = _of_window(layer, left, top, 0, 0)
    after = layer.whole(right, before, 0, _MAX_WINDOW)
    return [(before, after), (above, layer.whole(bottom, above, 0, _MAX_WINDOW))]


def _convolution(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    channels, height, width = _image(layer, inputs[0])
    kernels, dilations = _of_window(layer, 1, 11, 0), _of_window(layer, 2, 12, 1)
    steps, pads = _of_window(layer, 3, 13, 1), _pads(layer, 4, 14, 15, 16)
    outputs, groups = layer.whole(0, 0, 1), layer.whole(7, 1, 1)
    if channels % groups or outputs % groups:
        raise layer.error(f"{groups} groups do not divide {channels} and {outputs} channels")
    count = outputs * (channels // groups) * kernels[0] * kernels[1]
    if layer.whole(6, 0) != count:
        raise layer.error(f"has {layer.params.get(6)} weights, what comes in needs {count}")
    _check_activation(layer)
    blocks.append(Block(count, tagged=True))
    if layer.whole(5, 0, 0, 1):
        blocks.append(Block(outputs, tagged=False))
    columns, rows = (
        _length(layer, size, (kernels[i], steps[i], dilations[i]), pads[i])[0]
        for i, size in enumerate((width, height))
    )
    return [(outputs, rows, columns)]


def _inner_product(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    outputs = layer.whole(0, 0, 1)
    if layer.whole(2, 0) != outputs * math.prod(inputs[0]):
        raise layer.error(f"has {layer.params.get(2)} weights for {inputs[0]} to {outputs}")
    _check_activation(layer)
    blocks.append(Block(outputs * math.prod(inputs[0]), tagged=True))
    if layer.whole(1, 0, 0, 1):
        blocks.append(Block(outputs, tagged=False))
    return [(outputs,)]


def _pooling(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    channels, height, width = _image(layer, inputs[0])
    layer.whole(0, 0, 0, 1)
    layer.whole(6, 0, 0, 1)
    if layer.whole(4, 0, 0, 1):
        return [(channels,)]
    if layer.whole(7, 0, 0, 1):
        columns, rows = _of_window(layer, 8, 18, 0)
        return [(channels, rows, columns)]
    kernels, steps, pads = (
        _of_window(layer, 1, 11, 0),
        _of_window(layer, 2, 12, 1),
        _pads(layer, 3, 13, 14, 15),
    )
    partial = layer.whole(5, 0, 0, 1) == 0  # a window that reaches over the end counts, too
    found = [
        _length(layer, size, (kernels[i], steps[i], 1), pads[i]) for i, size in enumerate((width, height))
    ]
    columns, rows = (count + (partial and rest > 0) for count, rest in found)
    return [(channels, rows, columns)]


def _flatten(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    return [(math.prod(inputs[0]),)]


def _binary(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    layer.whole(0, 0, 0, 5)
    if layer.whole(1, 0, 0, 1) and len(inputs) == 1:
        return [inputs[0]]
    if len(inputs) != 2 or layer.whole(1, 0, 0, 1):
        raise layer.error("takes two inputs, or one and a number")
    larger, smaller = sorted(inputs, key=math.prod, reverse=True)
    fits = (larger, larger[:1], (larger[0], 1, 1))
    if smaller not in fits:
        raise layer.error(f"{inputs[0]} and {inputs[1]} do not fit")
    return [larger]


def _concat(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    layer.whole(0, 0, 0, 0)
    if not inputs or len({shape[1:] for shape in inputs}) != 1:
        raise layer.error(f"cannot join {inputs}")
    return [(sum(shape[0] for shape in inputs), *inputs[0][1:])]


def _slice(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    layer.whole(1, 0, 0, 0)
    (first, *rest), left = inputs[0], inputs[0][0]
    sizes = layer.array(0)
    if len(sizes) != len(layer.tops):
        raise layer.error(f"has {len(sizes)} sizes for {len(layer.tops)} results")
    found: list[Shape] = []
    for number, size in enumerate(sizes):
        taken = left // (len(sizes) - number) if size == -233 else size
        if not isinstance(taken, int) or not 0 < taken <= left:
            raise layer.error(f"{sizes} does not cut {first}")
        found.append((taken, *rest))
        left -= taken
    return found


def _shuffle(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    layer.whole(1, 0, 0, 1)
    if _image(layer, inputs[0])[0] % layer.whole(0, 1, 1):
        raise layer.error("its groups do not divide the channels")
    return [inputs[0]]


def _padding(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    channels, height, width = _image(layer, inputs[0])
    top, bottom, left, right, front, behind = (
        layer.whole(key, 0, 0, _MAX_WINDOW) for key in (0, 1, 2, 3, 7, 8)
    )
    layer.whole(4, 0, 0, 0)
    layer.whole(6, 0, 0, 0)
    return [(channels + front + behind, height + top + bottom, width + left + right)]


def _mean(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    channels = _image(layer, inputs[0])[0]
    layer.whole(0, 0, 3, 3)
    layer.whole(1, 1, 0, 0)
    layer.whole(5, 0, 1, 1)
    if sorted(layer.array(3)) != [1, 2]:
        raise layer.error("only the mean of rows and columns is known")
    return [(channels, 1, 1) if layer.whole(4, 0, 0, 1) else (channels,)]


def _batch_norm(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
    if layer.whole(0, 0, 1) != inputs[0][0]:
        raise layer.error(f"is for {layer.params.get(0)} channels, {inputs[0][0]} come in")
    blocks.extend([Block(inputs[0][0], tagged=False)] * 4)
    return [inputs[0]]


_WINDOW = {0, 1, 11, 2, 12, 3, 13, 4, 14, 15, 16, 5, 6, 9, 10}
_RULES: dict[str, tuple[_Rule, int, set[int]]] = {
    # kind: rule, number of inputs (-1: the rule looks), parameters that are known
    "Input": (_input, 0, {0, 1, 2}),
    "Split": (_split, 1, set()),
    "Convolution": (_convolution, 1, _WINDOW),
    "ConvolutionDepthWise": (_convolution, 1, _WINDOW | {7}),
    "InnerProduct": (_inner_product, 1, {0, 1, 2, 9, 10}),
    "BatchNorm": (_batch_norm, 1, {0, 1}),
    "Pooling": (_pooling, 1, {0, 1, 11, 2, 12, 3, 13, 14, 15, 4, 5, 6, 7, 8, 18}),
    "Flatten": (_flatten, 1, set()),
    "BinaryOp": (_binary, -1, {0, 1, 2}),
    "Concat": (_concat, -1, {0}),
    "Slice": (_slice, 1, {0, 1}),
    "ShuffleChannel": (_shuffle, 1, {0, 1}),
    "Padding": (_padding, 1, {0, 1, 2, 3, 4, 5, 6, 7, 8}),
    "Reduction": (_mean, 1, {0, 1, 2, 3, 4, 5}),
    **{kind: (_same, 1, {0, 1}) for kind in ("Clip", "HardSigmoid", "HardSwish", "SELU")},
    **{kind: (_same, 1, {0}) for kind in ("ReLU", "ELU", "GELU", "Dropout")},
    **{kind: (_same, 1, set()) for kind in ("Sigmoid", "Swish", "TanH", "Mish")},
}
