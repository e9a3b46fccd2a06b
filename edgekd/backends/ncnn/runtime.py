"""Runs an ncnn network on the device: standard library, NumPy and ncnn, Python 3.8 and newer.

This file is pushed beside the agent and imported by path, so it imports nothing of edgekd; what the agent
asks of it is said in `edgekd/backends/onnx/runtime.py`.

ncnn's loader of 2026-10-20 refuses most texts that are not sound (that of July wrote outside of its memory
for too small a number of blobs), but takes a convolution whose weights do not fit what comes in, and reads
outside of them. So the text is read here first (`read`): every layer is of a kind whose sizes are known
(`_RULES`), sizes are followed from the input to the logits, and the .bin has just the bytes that the layers
read. ncnn gets the text that was read, not the file once more.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Tuple, Union  # noqa: UP035 - typing's own, for Python 3.8

import ncnn
import numpy as np
import numpy.typing as npt

INPUT, OUTPUT = "input", "logits"
_MAGIC = "7767517"
_SEAL = "edgekd "
_MAX_TEXT_BYTES = 16 << 20
_MAX_LAYERS = 1 << 16
_MAX_ELEMENTS = 1 << 28
_MAX_WINDOW = 1 << 12
_FLOAT32_TAG = bytes(4)
"""Before the weights of a convolution; others stand for half precision or a table of 256 values."""
_SHORTER = (
    *("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage"),
    *("use_int8_packed", "use_int8_storage", "use_int8_arithmetic", "use_int8_inference"),
)
"""Options of ncnn that let it compute in less than float32."""


class ArtifactError(Exception):
    """The files are not a network that may be run here."""


class FallbackError(Exception):
    """The runtime would run the network otherwise than asked."""


def versions() -> dict[str, str]:
    return {"ncnn": ncnn.__version__, "numpy": np.__version__}


def load(path: str, threads: int = 1, batch: int = 1, options: dict[str, Any] | None = None) -> Graph:
    """Open the network at `path` (.param, its .bin beside it), in float32 with `threads` threads.

    ncnn has no batch axis here, so `batch` must be 1. Raises `ArtifactError` for truncated, hostile or
    unsuitable files and for a .bin of another export, `FallbackError` for more threads than OpenMP
    may start. There are no `options`.
    """
    return Graph(path, threads, batch)


class Graph:
    """A loaded network: one float32 input of `input_shape` (`[1, C, H, W]`), its output the logits."""

    def __init__(self, path: str, threads: int, batch: int) -> None:
        self.path, self.threads = path, threads
        self.program = read(Path(path))
        if batch != 1:
            raise ArtifactError(f"the batch is fixed to 1, {batch} was asked for")
        self.input_shape = (1, *self.program.input_shape)
        self.dtype = np.dtype("float32")
        _check_threads(threads)
        self._net = _opened(self.program, threads)

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """float32 `[1, C, H, W]` to the logits `[1, classes]`."""
        image = np.ascontiguousarray(x[0], np.float32)
        extractor = self._net.create_extractor()
        # Cloned: ncnn wants each channel aligned, and a view of the array would not be.
        refused = extractor.input(INPUT, ncnn.Mat(image).clone())
        status, logits = extractor.extract(OUTPUT)
        if refused or status:
            raise ArtifactError(f"ncnn cannot run the network (code {refused or status})")
        return np.array(logits, np.float32)[None]

    def profile(self, x: npt.NDArray[Any] | None = None) -> dict[str, Any]:
        """What runs, as the network says it: the package from PyPI is built without ncnn's own timing.

        ncnn runs the layers as they are written, all on the CPU, in the types that are allowed; only float32
        is. `ops` counts them by kind, the input left out. `source` says that this is the network's word.
        """
        self.run(np.zeros(self.input_shape, self.dtype) if x is None else x)
        kinds = [layer.kind for layer in self.program.layers[1:]]
        counts = {"placement": {"CPU": len(kinds)}, "precisions": {"fp32": len(kinds)}}
        return {"ops": dict(Counter(kinds)), **counts, "unexpected": [], "source": "program"}

    def layers(self, inputs: list[npt.NDArray[Any]], warm_up: int) -> list[dict[str, Any]]:
        """Nothing: the package from PyPI is built without `NCNN_BENCHMARK`, so no layer's time is known."""
        return []


def _check_threads(threads: int) -> None:
    """What ncnn is told of threads, OpenMP may overrule without a word: by this variable, or by `dynamic`."""
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    if limit.isdigit() and int(limit) < threads:
        raise FallbackError(f"{threads} threads were asked for, OMP_THREAD_LIMIT allows {limit}")
    ncnn.set_omp_dynamic(0)


def _opened(program: Program, threads: int) -> Any:
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for name in _SHORTER:
        setattr(net.opt, name, False)
    if net.load_param_mem(program.text) != 0:
        raise ArtifactError("ncnn refuses the network: load_param failed, its reason is on standard error")
    weights = str(program.weights) if program.blocks else ncnn.DataReaderFromEmpty()
    if net.load_model(weights) != 0:
        raise ArtifactError("ncnn refuses the weights: load_model failed, its reason is on standard error")
    return net


# --- reading the files --------------------------------------------------------------------------------------

Number = Union[int, float]  # noqa: UP007 - evaluated, by Python 3.8 too
Shape = Tuple[int, ...]  # noqa: UP006
"""`(c, h, w)` or, behind a global pooling, `(w,)`."""


class Layer(NamedTuple):
    """One line of the text; parameters by number, as ncnn's documentation lists them for each kind."""

    kind: str
    name: str
    bottoms: list[str]
    tops: list[str]
    params: dict[int, Number | list[Number]]

    def whole(self, key: int, default: int, low: int = 0, high: int = _MAX_ELEMENTS) -> int:
        """A parameter that must be a whole number in `low..high`."""
        value = self.params.get(key, default)
        if not isinstance(value, int) or not low <= value <= high:
            raise self.error(f"parameter {key} is {value}, not a whole number from {low} to {high}")
        return value

    def array(self, key: int) -> list[Number]:
        value = self.params.get(key, [])
        if not isinstance(value, list):
            raise self.error(f"parameter {key} is not a list")
        return value

    def error(self, what: str) -> ArtifactError:
        return ArtifactError(f"{self.kind} `{self.name}`: {what}")


class Block(NamedTuple):
    """Float32 values that a layer reads from the .bin, behind four bytes that tell their type or not."""

    amount: int
    tagged: bool


class Program:
    """A text that was read, and what it wants of its weights."""

    def __init__(self, text: str, about: dict[str, Any], weights: Path) -> None:
        """Raises `ArtifactError` unless every layer is known and every size fits."""
        self.text, self.about, self.weights = text, about, weights
        self.layers = _layers(text)
        self.blocks: list[Block] = []
        shapes = self._follow()
        if len(shapes.get(OUTPUT, ())) != 1:
            raise ArtifactError(f"the network has no `{OUTPUT}` of one axis")
        self.input_shape = shapes[INPUT]
        self.output_shape = shapes[OUTPUT]

    def _follow(self) -> dict[str, Shape]:
        """The shape of every blob, in running order."""
        shapes: dict[str, Shape] = {}
        unread: set[str] = set()
        for number, layer in enumerate(self.layers):
            if (layer.kind == "Input") != (number == 0):
                raise layer.error("there must be one Input, and it must come first")
            if not unread.issuperset(layer.bottoms) or len(set(layer.bottoms)) < len(layer.bottoms):
                raise layer.error("reads what no layer before it gives, or what another one has read")
            unread.difference_update(layer.bottoms)
            found = _shapes_of(layer, [shapes[name] for name in layer.bottoms], self.blocks)
            if len(found) != len(layer.tops) or any(not 0 < math.prod(s) <= _MAX_ELEMENTS for s in found):
                raise layer.error(f"has {len(layer.tops)} results, of the shapes {found}")
            for name, shape in zip(layer.tops, found):  # noqa: B905
                if name in shapes:
                    raise layer.error(f"gives {name}, which another layer gives too")
                shapes[name] = shape
            unread.update(layer.tops)
        if self.layers[0].tops != [INPUT] or len(shapes) != _counts(self.text)[1]:
            raise ArtifactError(f"the input must be `{INPUT}`, and blobs as many as the second line says")
        return shapes

    @property
    def weights_bytes(self) -> int:
        return sum(4 * block.amount + 4 * block.tagged for block in self.blocks)


def read(path: Path) -> Program:
    """The network at `path`; raises `ArtifactError` unless text and weights are whole and of one export."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path.name}")
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise ArtifactError("the .param is absurdly large")
    content = path.read_bytes()
    if content.split(b"\n", 1)[0].strip() != _MAGIC.encode():
        raise ArtifactError(f"not an ncnn .param: its first line is not {_MAGIC}")
    text, about = _unsealed(content)
    program = Program(text, about, path.with_suffix(".bin"))
    if program.blocks:
        _check_weights(program)
    return program


def _unsealed(content: bytes) -> tuple[str, dict[str, Any]]:
    """(ncnn's text, what the last line says); raises `ArtifactError` unless the line vouches for the text."""
    body, mark, seal = content.rpartition(b"\n" + _SEAL.encode())
    try:
        about = json.loads(seal.decode("ascii")) if mark and seal.endswith(b"\n") else None
        text = body.decode("ascii") + "\n"
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the .param is damaged: {error}") from error
    if not isinstance(about, dict):
        raise ArtifactError("the .param is cut, or edgekd did not write it: its last line must vouch for it")
    if hashlib.sha256(text.encode()).hexdigest() != about.get("text_sha256"):
        raise ArtifactError("the .param is damaged: its text is not the one that its last line vouches for")
    return text, about


def _check_weights(program: Program) -> None:
    path = program.weights
    if not path.is_file():
        raise ArtifactError(f"its weights are missing: {path.name}")
    size = path.stat().st_size
    if size != program.weights_bytes:
        raise ArtifactError(f"{path.name} has {size} bytes, the layers read {program.weights_bytes}")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in program.blocks:
            left = 4 * block.amount
            if block.tagged:
                tag = stream.read(4)
                digest.update(tag)
                if tag != _FLOAT32_TAG:
                    raise ArtifactError(f"{path.name} holds weights that are not float32")
            while left:  # in small pieces, so that the file does not count in the peak memory
                piece = stream.read(min(left, 1 << 16))
                if not piece:
                    raise ArtifactError(f"{path.name} is cut")
                digest.update(piece)
                left -= len(piece)
    if digest.hexdigest() != program.about.get("weights_sha256"):
        raise ArtifactError(f"{path.name} is damaged or of another export")


_WHOLE = re.compile(r"[+-]?\d{1,10}")
_NUMBER = re.compile(r"(?=.*[.eE])[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
"""To ncnn, too, what has neither a point nor an exponent is a whole number."""
_LONGEST_NUMBER, _LONGEST_NAME, _LARGEST_KEY = 15, 255, 31


def _counts(text: str) -> tuple[int, int]:
    """(layers, blobs) as the second line says."""
    words = text.split("\n", 2)[1].split()
    if len(words) != 2 or not all(_WHOLE.fullmatch(word) for word in words):
        raise ArtifactError("the second line must be the number of layers and the number of blobs")
    return int(words[0]), int(words[1])


def _layers(text: str) -> list[Layer]:
    count, lines = _counts(text)[0], text.split("\n")[2:-1]
    if count != len(lines) or not 2 <= count <= _MAX_LAYERS:
        raise ArtifactError(f"the second line says {count} layers, there are {len(lines)}")
    return [_layer(line.split()) for line in lines]


def _layer(words: list[str]) -> Layer:
    if (
        len(words) < 4
        or max(map(len, words)) > _LONGEST_NAME
        or not words[2].isdigit()
        or not words[3].isdigit()
    ):
        raise ArtifactError(f"not a layer: {' '.join(words)[:80]!r}")
    kind, name, bottoms, ends = words[0], words[1], int(words[2]), int(words[2]) + int(words[3])
    if len(words) < 4 + ends:
        raise ArtifactError(f"{kind} `{name}` has fewer blobs than it says")
    blobs, params = words[4 : 4 + ends], words[4 + ends :]
    return Layer(
        kind,
        name,
        blobs[:bottoms],
        blobs[bottoms:],
        dict(_param(word, f"{kind} `{name}`") for word in params),
    )


def _param(word: str, layer: str) -> tuple[int, Number | list[Number]]:
    """One `key=value`; a list has the key -23300 - key and its length before it."""
    key_text, _, value = word.partition("=")
    key = int(key_text) if _WHOLE.fullmatch(key_text) else -1
    if 0 <= key <= _LARGEST_KEY:
        return key, _number(value, layer)
    length, *items = value.split(",")
    if not 0 <= -23300 - key <= _LARGEST_KEY or length != str(len(items)):
        raise ArtifactError(f"{layer} has the parameter {word[:80]!r}, which is none")
    return -23300 - key, [_number(item, layer) for item in items]


def _number(word: str, layer: str) -> Number:
    if len(word) <= _LONGEST_NUMBER:
        if _WHOLE.fullmatch(word) and abs(int(word)) < 1 << 31:
            return int(word)
        if _NUMBER.fullmatch(word):
            return float(word)
    raise ArtifactError(f"{layer} has a parameter that is no number: {word[:40]!r}")


# --- sizes --------------------------------------------------------------------------------------------------

_Rule = Callable[[Layer, List[Shape], List[Block]], List[Shape]]  # noqa: UP006
"""(layer, shapes that come in, blocks of the .bin to add to) -> shapes of the results."""


def _shapes_of(layer: Layer, inputs: list[Shape], blocks: list[Block]) -> list[Shape]:
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
