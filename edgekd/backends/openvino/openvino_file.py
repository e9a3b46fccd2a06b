"""Looks at an OpenVINO IR before OpenVINO does; pushed beside runtime.py, standard library alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from xml.parsers import expat

_MAX_XML_BYTES = 256 << 20
_MAX_DEPTH = 64
_OURS = ["net", "rt_info", "edgekd"]
"""Below which is what the exporter wrote about the pair of files."""
DIGEST = "weights_sha256"
"""Of the .bin."""
PRECISION = "inference_precision"
"""The float type that the pair is for, where that is not the device's or the target's choice."""


class ArtifactError(Exception):
    """The files are not a graph that may be run here."""


def check_file(path: Path) -> Outline:
    """Raises `ArtifactError` unless `path` is whole IR and the .bin beside it is of the same export."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path.name}")
    if path.stat().st_size > _MAX_XML_BYTES:
        raise ArtifactError("the .xml is absurdly large")
    outline = Outline(path)
    if outline.reads_weights:
        _check_weights(path.with_suffix(".bin"), outline)
    return outline


def _check_weights(weights: Path, outline: Outline) -> None:
    if not weights.is_file():
        raise ArtifactError(f"its weights are missing: {weights.name}")
    size = weights.stat().st_size
    if size < outline.weights_end:
        raise ArtifactError(f"{weights.name} is cut: {size} bytes, the graph reads {outline.weights_end}")
    expected = outline.ours.get(DIGEST)
    if expected is None:
        raise ArtifactError("does not say which weights are its own: export it with edgekd")
    digest = _sha256(weights)
    if digest != expected:
        raise ArtifactError(f"{weights.name} is damaged or of another export: its sha256 is {digest}")


def _sha256(path: Path) -> str:
    """Read in small pieces, so that the file does not count in the peak memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 16), b""):
            digest.update(piece)
    return digest.hexdigest()


class Outline:
    """What is looked at in an .xml before OpenVINO reads it: its form, and which weights it wants."""

    def __init__(self, path: Path) -> None:
        """Raises `ArtifactError` for what is no IR, is cut, nests without end or declares entities."""
        self.reads_weights = False
        self.weights_end = 0  # bytes that the .bin must have
        self.ours: dict[str, str] = {}
        """What the exporter wrote about the pair."""
        self._at: list[str] = []
        parser = expat.ParserCreate("utf-8")
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = lambda name: self._at.pop()
        try:
            with path.open("rb") as stream:
                parser.ParseFile(stream)
        except expat.ExpatError as error:
            raise ArtifactError(f"not an OpenVINO IR, or cut short: {error}") from error

    def _refuse_doctype(self, *_: Any) -> None:
        raise ArtifactError("not an OpenVINO IR: it declares a document type, as entity bombs do")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._at.append(name)
        if self._at[0] != "net":
            raise ArtifactError(f"not an OpenVINO IR: it starts with <{name[:40]}>")
        if len(self._at) > _MAX_DEPTH:
            raise ArtifactError(f"elements are nested deeper than {_MAX_DEPTH}")
        if name == "data" and "offset" in attributes:
            self._add_weights(attributes)
        if self._at[:-1] == _OURS:
            self.ours[name] = attributes.get("value", "")

    def _add_weights(self, attributes: dict[str, str]) -> None:
        try:
            offset, size = int(attributes["offset"]), int(attributes["size"])
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"a constant does not say where its weights are: {error}") from error
        if offset < 0 or size < 0:
            raise ArtifactError(f"a constant reads {size} bytes at {offset}")
        self.reads_weights = True
        self.weights_end = max(self.weights_end, offset + size)
