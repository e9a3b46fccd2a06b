"""The layers of an ncnn .param, read from its text; Python 3.8 and newer.

Pushed to devices: imports nothing of edgekd.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Tuple, Union  # noqa: UP035 - typing's own, for Python 3.8

_MAX_LAYERS = 1 << 16
MAX_ELEMENTS = 1 << 28


class ArtifactError(Exception):
    """The files are not a network that may be run here."""


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

    def whole(self, key: int, default: int, low: int = 0, high: int = MAX_ELEMENTS) -> int:
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


_WHOLE = re.compile(r"[+-]?\d{1,10}")
_NUMBER = re.compile(r"(?=.*[.eE])[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
"""To ncnn, too, what has neither a point nor an exponent is a whole number."""
_LONGEST_NUMBER, _LONGEST_NAME, _LARGEST_KEY = 15, 255, 31


def counts(text: str) -> tuple[int, int]:
    """(layers, blobs) as the second line says."""
    words = text.split("\n", 2)[1].split()
    if len(words) != 2 or not all(_WHOLE.fullmatch(word) for word in words):
        raise ArtifactError("the second line must be the number of layers and the number of blobs")
    return int(words[0]), int(words[1])


def layers(text: str) -> list[Layer]:
    count, lines = counts(text)[0], text.split("\n")[2:-1]
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
