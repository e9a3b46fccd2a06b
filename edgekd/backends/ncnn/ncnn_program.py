"""The two files of an ncnn network, read before ncnn sees them; Python 3.8 and newer.

Pushed to devices: imports nothing of edgekd.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .ncnn_sizes import shapes_of
    from .ncnn_text import MAX_ELEMENTS, ArtifactError, Block, Shape, counts, layers
else:  # on the device, where the files lie side by side
    from ncnn_sizes import shapes_of
    from ncnn_text import MAX_ELEMENTS, ArtifactError, Block, Shape, counts, layers

INPUT, OUTPUT = "input", "logits"
_MAGIC = "7767517"
_SEAL = "edgekd "
_MAX_TEXT_BYTES = 16 << 20
_FLOAT32_TAG = bytes(4)
"""Before the weights of a convolution; others stand for half precision or a table of 256 values."""


class Program:
    """A text that was read, and what it wants of its weights."""

    def __init__(self, text: str, about: dict[str, Any], weights: Path) -> None:
        """Raises `ArtifactError` unless every layer is known and every size fits."""
        self.text, self.about, self.weights = text, about, weights
        self.layers = layers(text)
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
            found = shapes_of(layer, [shapes[name] for name in layer.bottoms], self.blocks)
            if len(found) != len(layer.tops) or any(not 0 < math.prod(s) <= MAX_ELEMENTS for s in found):
                raise layer.error(f"has {len(layer.tops)} results, of the shapes {found}")
            for name, shape in zip(layer.tops, found):  # noqa: B905
                if name in shapes:
                    raise layer.error(f"gives {name}, which another layer gives too")
                shapes[name] = shape
            unread.update(layer.tops)
        if self.layers[0].tops != [INPUT] or len(shapes) != counts(self.text)[1]:
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
